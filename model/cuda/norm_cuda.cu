/* Norms of rows on the GPU: see layer_cuda.h. One block a row. A thread sums at most a few dozen values in f32, then
 * warps add these sums. */
#include "model/cuda/layer_cuda.cuh"

enum { NORM_THREADS = 256 };

/* The sum over the block, the same in every thread. `sums` may be used again after the next barrier. */
__device__ __forceinline__ float block_sum(float x, float *sums)
{
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < NORM_THREADS / 32; i++) total += sums[i];
    return total;
}

/* What a row is multiplied by after `mean` was taken from it. */
typedef struct row_scale {
    float mean, scale;
} row_scale;

/* The row is x + bias; bias NULL for none. */
__device__ __forceinline__ float at(const float *x, const float *bias, int64_t i)
{
    return bias ? x[i] + bias[i] : x[i];
}

__device__ __forceinline__ row_scale measure(const float *x, const float *bias, bool is_layer_norm, float eps,
                                             int64_t width)
{
    __shared__ float sums[2][NORM_THREADS / 32];
    float mean = 0.0f, squares = 0.0f;
    if (is_layer_norm) {
        float sum = 0.0f;
        for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) sum += at(x, bias, i);
        mean = block_sum(sum, sums[0]) / static_cast<float>(width);
    }
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) {
        const float centred = at(x, bias, i) - mean;
        squares = fmaf(centred, centred, squares);
    }
    return {mean, 1.0f / sqrtf(block_sum(squares, sums[1]) / static_cast<float>(width) + eps)};
}

__device__ __forceinline__ float normed(const layer_cuda_norm &norm, const row_scale &row, float x, int64_t i)
{
    const float y = norm.weight[i] * ((x - row.mean) * row.scale);
    return norm.bias ? y + norm.bias[i] : y;
}

template <typename T>
__global__ void norm_kernel(T *out, const float *x, const int64_t *rows, const layer_cuda_norm norm, int64_t width)
{
    may_begin_next();
    const float *from = x + (rows ? rows[blockIdx.x] : blockIdx.x) * width;
    T *to = out + blockIdx.x * width;
    if (!norm.weight) {
        for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) put(to + i, from[i]);
        return;
    }
    const row_scale row = measure(from, nullptr, norm.is_layer_norm, norm.eps, width);
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) put(to + i, normed(norm, row, from[i], i));
}

rb_status norm_rows(void *out, const float *x, const int64_t *rows, const layer_cuda_norm *norm, int64_t n,
                    int64_t width, layer_cuda_precision precision, void *stream, rb_error *err)
{
    const unsigned blocks = static_cast<unsigned>(n);
    if (n == 0) return RB_OK;
    if (precision == LAYER_CUDA_BF16)
        norm_kernel<<<blocks, NORM_THREADS, 0, as_stream(stream)>>>(static_cast<__nv_bfloat16 *>(out), x, rows, *norm,
                                                                    width);
    else norm_kernel<<<blocks, NORM_THREADS, 0, as_stream(stream)>>>(static_cast<float *>(out), x, rows, *norm, width);
    return rb_cuda_launched("norm kernel", err);
}

__global__ void norm_in_place_kernel(float *x, int64_t stride, const float *bias, const layer_cuda_norm norm,
                                     int64_t width)
{
    float *of_row = x + blockIdx.x * stride;
    const row_scale row = measure(of_row, bias, norm.is_layer_norm, norm.eps, width);
    /* A thread writes only what it alone has read. */
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) of_row[i] = normed(norm, row, at(of_row, bias, i), i);
}

rb_status norm_in_place(float *x, int64_t stride, const float *bias, const layer_cuda_norm *norm, int64_t n,
                        int64_t width, void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    norm_in_place_kernel<<<static_cast<unsigned>(n), NORM_THREADS, 0, as_stream(stream)>>>(x, stride, bias, *norm,
                                                                                           width);
    return rb_cuda_launched("norm kernel", err);
}

__global__ void add_normed_kernel(float *hidden, const float *x, const float *bias, const layer_cuda_norm norm,
                                  float scale, int64_t width)
{
    const float *from = x + blockIdx.x * width;
    float *to = hidden + blockIdx.x * width;
    if (!norm.weight) {
        for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) to[i] = fmaf(scale, at(from, bias, i), to[i]);
        return;
    }
    const row_scale row = measure(from, bias, norm.is_layer_norm, norm.eps, width);
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS)
        to[i] = fmaf(scale, normed(norm, row, at(from, bias, i), i), to[i]);
}

rb_status norm_add(float *hidden, const float *x, const float *bias, const layer_cuda_norm *norm, float scale,
                   int64_t n, int64_t width, void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    add_normed_kernel<<<static_cast<unsigned>(n), NORM_THREADS, 0, as_stream(stream)>>>(hidden, x, bias, *norm, scale,
                                                                                        width);
    return rb_cuda_launched("norm kernel", err);
}

__global__ void row_squares_kernel(double *squares, const float *x, bool multiplies, double factor, int64_t width)
{
    __shared__ float sums[NORM_THREADS / 32];
    const float *row = x + blockIdx.x * width;
    float square = 0.0f;
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) square = fmaf(row[i], row[i], square);
    const double sum = factor * static_cast<double>(block_sum(square, sums));
    if (threadIdx.x == 0) squares[blockIdx.x] = multiplies ? squares[blockIdx.x] * sum : sum;
}

rb_status norm_row_squares(double *squares, const float *x, bool multiplies, double factor, int64_t n, int64_t width,
                           void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    row_squares_kernel<<<static_cast<unsigned>(n), NORM_THREADS, 0, as_stream(stream)>>>(squares, x, multiplies, factor,
                                                                                         width);
    return rb_cuda_launched("norm kernel", err);
}

__global__ void add_bias_kernel(float *x, const float *bias, int64_t n, int64_t width)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n * width) x[i] += bias[i % width];
}

rb_status norm_add_bias(float *x, const float *bias, int64_t n, int64_t width, void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    add_bias_kernel<<<static_cast<unsigned>((n * width + ROW_BLOCK - 1) / ROW_BLOCK), ROW_BLOCK, 0,
                      as_stream(stream)>>>(x, bias, n, width);
    return rb_cuda_launched("bias kernel", err);
}
