/* See model/cuda/layer_cuda.h. A warp or a block takes one row, or one head of one token. Every kernel here moves each
 * byte once. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda_check.cuh"
#include "model/cuda/layer_cuda.h"
#include "model/cuda/matmul_cuda.cuh"

static cudaStream_t as_stream(void *stream) { return static_cast<cudaStream_t>(stream); }

__device__ __forceinline__ void put(__nv_bfloat16 *to, float x) { *to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(float *to, float x) { *to = x; }
__device__ __forceinline__ void put(__half *to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ float get(const __nv_bfloat16 *from) { return __bfloat162float(*from); }
__device__ __forceinline__ float get(const float *from) { return *from; }
__device__ __forceinline__ float get(const __half *from) { return __half2float(*from); }

__device__ __forceinline__ float warp_sum(float x)
{
    for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

/* ---- RMSNorm --------------------------------------------------------------------------------- */

enum { NORM_THREADS = 256 };

/* One block a row. A thread sums at most a few dozen squares in f32, then warps add these sums. */
template <typename T>
__global__ void rms_norm_kernel(T *out, const float *x, const int64_t *rows, const float *weight, float eps,
                                int64_t width)
{
    __shared__ float sums[NORM_THREADS / 32];
    const float *row = x + (rows ? rows[blockIdx.x] : blockIdx.x) * width;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) sum = fmaf(row[i], row[i], sum);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    float total = 0.0f;
    for (int i = 0; i < NORM_THREADS / 32; i++) total += sums[i];
    const float scale = 1.0f / sqrtf(total / static_cast<float>(width) + eps);
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS)
        put(out + blockIdx.x * width + i, weight[i] * (row[i] * scale));
}

static rb_status rms_norm(void *out, const float *x, const int64_t *rows, const float *weight, float eps, int64_t n,
                          int64_t width, layer_cuda_precision precision, void *stream, rb_error *err)
{
    if (precision == LAYER_CUDA_BF16)
        rms_norm_kernel<<<static_cast<unsigned>(n), NORM_THREADS, 0, as_stream(stream)>>>(
            static_cast<__nv_bfloat16 *>(out), x, rows, weight, eps, width);
    else
        rms_norm_kernel<<<static_cast<unsigned>(n), NORM_THREADS, 0, as_stream(stream)>>>(static_cast<float *>(out), x,
                                                                                          rows, weight, eps, width);
    return rb_cuda_launched("RMSNorm kernel", err);
}

/* ---- heads ----------------------------------------------------------------------------------- */

enum { HEAD_WARPS = 8 };

static unsigned warp_blocks(int64_t items) { return static_cast<unsigned>((items + HEAD_WARPS - 1) / HEAD_WARPS); }

template <typename C>
__device__ __forceinline__ void capture_row(void *capture, int64_t stride, int head, int64_t token, int head_dim,
                                            const float *row)
{
    if (!capture) return;
    C *to = static_cast<C *>(capture) + (head * stride + token) * head_dim;
    for (int dim = threadIdx.x % 32; dim < head_dim; dim += 32) put(to + dim, row[dim]);
}

/* out = the row turned to its token's position, by one warp. cosines and sines are those of the position, [n_freqs]. */
template <typename T>
__device__ __forceinline__ void turn_row(T *out, const float *row, const float *cosines, const float *sines,
                                         int n_freqs, bool is_interleaved, int head_dim)
{
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < n_freqs; i += 32) {
        const int first = is_interleaved ? 2 * i : i, second = is_interleaved ? 2 * i + 1 : i + n_freqs;
        const float a = row[first], b = row[second], c = cosines[i], s = sines[i];
        put(out + first, a * c - b * s);
        put(out + second, b * c + a * s);
    }
    for (int dim = 2 * n_freqs + lane; dim < head_dim; dim += 32) put(out + dim, row[dim]);
}

/* A warp takes one head of one token: first q heads, then k, then v. */
template <typename T, typename C> __global__ void heads_kernel(const layer_cuda_heads in)
{
    const int lane = threadIdx.x % 32, d = in.head_dim, n_heads = in.n_q_heads + 2 * in.n_kv_heads;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, token = item / n_heads;
    if (token >= in.n_tokens) return;
    const int slot = static_cast<int>(item % n_heads);
    const bool is_q = slot < in.n_q_heads, is_v = slot >= in.n_q_heads + in.n_kv_heads;
    const int head = is_q ? slot : is_v ? slot - in.n_q_heads - in.n_kv_heads : slot - in.n_q_heads;
    float *row = in.projected + item * d;
    const float *norm = is_q ? in.q_norm : is_v ? nullptr : in.k_norm;

    float squares = 0.0f;
    for (int dim = lane; dim < d; dim += 32) {
        const float x = row[dim] + (in.bias ? in.bias[slot * d + dim] : 0.0f);
        row[dim] = x;
        squares = fmaf(x, x, squares);
    }
    if (norm) {
        const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + in.eps);
        for (int dim = lane; dim < d; dim += 32) row[dim] = norm[dim] * (row[dim] * scale);
    }
    __syncwarp();
    capture_row<C>(is_q ? in.capture_q : is_v ? in.capture_v : in.capture_k, in.capture_stride, head, token, d, row);

    T *out = static_cast<T *>(is_q   ? in.q
                              : is_v ? in.v
                                     : in.k)
             + (token * (is_q ? in.n_q_heads : in.n_kv_heads) + head) * d;
    if (is_v) {
        for (int dim = lane; dim < d; dim += 32) put(out + dim, row[dim]);
        return;
    }
    const int64_t angles = static_cast<int64_t>(in.position[token]) * in.n_freqs;
    turn_row(out, row, in.rope_cos + angles, in.rope_sin + angles, in.n_freqs, in.is_interleaved, d);
}

/* ---- statistics ------------------------------------------------------------------------------ */

enum { STATISTICS_TOKENS = 64 }; /* tokens of a partial sum; fixed, so that sums depend on nothing else */

static int64_t n_partials(int64_t n_tokens) { return (n_tokens + STATISTICS_TOKENS - 1) / STATISTICS_TOKENS; }
static int64_t statistics_width(const layer_cuda_heads *in)
{
    return static_cast<int64_t>(in->n_q_heads + 2 * in->n_kv_heads) * in->head_dim;
}

/* partial[part][column]: sums of squares of q and k, and in the place of v sums of values of k. A thread takes one
 * column of `projected`. */
__global__ void partial_sums_kernel(const layer_cuda_heads in, int64_t width)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x,
                  first = static_cast<int64_t>(blockIdx.y) * STATISTICS_TOKENS;
    if (column >= width) return;
    const int64_t n_squares = static_cast<int64_t>(in.n_q_heads + in.n_kv_heads) * in.head_dim,
                  n_k = static_cast<int64_t>(in.n_kv_heads) * in.head_dim;
    const bool is_sum = column >= n_squares;
    const float *from = in.projected + (is_sum ? column - n_k : column);
    double sum = 0.0;
    for (int64_t t = first; t < first + STATISTICS_TOKENS && t < in.n_tokens; t++) {
        const double x = from[t * width];
        sum += is_sum ? x : x * x;
    }
    in.scratch[blockIdx.y * width + column] = sum;
}

__global__ void add_partials_kernel(const layer_cuda_heads in, int64_t width, int64_t parts)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (column >= width) return;
    const int64_t n_q = static_cast<int64_t>(in.n_q_heads) * in.head_dim,
                  n_k = static_cast<int64_t>(in.n_kv_heads) * in.head_dim;
    double sum = 0.0;
    for (int64_t part = 0; part < parts; part++) sum += in.scratch[part * width + column];
    if (column < n_q) in.q_squares[column] += sum;
    else if (column < n_q + n_k) in.k_squares[column - n_q] += sum;
    else in.k_sums[column - n_q - n_k] += sum;
}

static size_t heads_scratch(const layer_cuda_heads *in)
{
    return static_cast<size_t>(n_partials(in->n_tokens) * statistics_width(in));
}

template <typename T> static void launch_heads(const layer_cuda_heads *in, cudaStream_t stream)
{
    const unsigned blocks = warp_blocks(in->n_tokens * (in->n_q_heads + 2 * in->n_kv_heads));
    if (in->capture_is_f32) heads_kernel<T, float><<<blocks, HEAD_WARPS * 32, 0, stream>>>(*in);
    else heads_kernel<T, __half><<<blocks, HEAD_WARPS * 32, 0, stream>>>(*in);
}

static rb_status heads(const layer_cuda_heads *in, void *stream, rb_error *err)
{
    enum { THREADS = 128 };
    const int64_t width = statistics_width(in), parts = n_partials(in->n_tokens);
    const unsigned blocks = static_cast<unsigned>((width + THREADS - 1) / THREADS);
    if (in->precision == LAYER_CUDA_BF16) launch_heads<__nv_bfloat16>(in, as_stream(stream));
    else launch_heads<float>(in, as_stream(stream));
    rb_status st = rb_cuda_launched("heads kernel", err);
    if (st != RB_OK || !in->q_squares) return st;
    partial_sums_kernel<<<dim3(blocks, static_cast<unsigned>(parts)), THREADS, 0, as_stream(stream)>>>(*in, width);
    st = rb_cuda_launched("statistics kernel", err);
    if (st != RB_OK) return st;
    add_partials_kernel<<<blocks, THREADS, 0, as_stream(stream)>>>(*in, width, parts);
    return rb_cuda_launched("statistics kernel", err);
}

/* ---- heads as others see them ---------------------------------------------------------------- */

/* A warp takes one head of one token: first k heads, then v. */
template <typename T> __global__ void turn_kernel(const layer_cuda_turn in)
{
    const int d = in.head_dim, n_heads = 2 * in.n_kv_heads;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, token = item / n_heads;
    if (token >= in.n_tokens) return;
    const int slot = static_cast<int>(item % n_heads), head = slot % in.n_kv_heads;
    const bool is_v = slot >= in.n_kv_heads;
    const float *row = (is_v ? in.v_in : in.k_in) + (head * in.n_tokens + token) * d;
    T *out = static_cast<T *>(is_v ? in.v : in.k) + (token * in.n_kv_heads + head) * d;
    if (is_v) {
        for (int dim = threadIdx.x % 32; dim < d; dim += 32) put(out + dim, row[dim]);
        return;
    }
    const int64_t angles = static_cast<int64_t>(in.position[token]) * in.n_freqs;
    turn_row(out, row, in.rope_cos + angles, in.rope_sin + angles, in.n_freqs, in.is_interleaved, d);
}

static rb_status turn(const layer_cuda_turn *in, void *stream, rb_error *err)
{
    const unsigned blocks = warp_blocks(2 * in->n_tokens * in->n_kv_heads);
    if (in->precision == LAYER_CUDA_BF16)
        turn_kernel<__nv_bfloat16><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    else turn_kernel<float><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    return rb_cuda_launched("RoPE kernel", err);
}

/* A warp takes one head of one token, and neighbouring warps take tokens of one head, so that writes are contiguous, to
 * host memory too. */
template <typename T>
__global__ void part_heads_kernel(float *out, const T *rows, int n_heads, int64_t n, int64_t head_dim)
{
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32;
    if (item >= n * n_heads) return;
    const T *row = rows + (item % n * n_heads + item / n) * head_dim;
    for (int64_t dim = threadIdx.x % 32; dim < head_dim; dim += 32) out[item * head_dim + dim] = get(row + dim);
}

static rb_status part_heads(float *out, const void *rows, int n_heads, int64_t n, int64_t head_dim,
                            layer_cuda_precision precision, void *stream, rb_error *err)
{
    const unsigned blocks = warp_blocks(n * n_heads);
    if (precision == LAYER_CUDA_BF16)
        part_heads_kernel<<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(
            out, static_cast<const __nv_bfloat16 *>(rows), n_heads, n, head_dim);
    else
        part_heads_kernel<<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(out, static_cast<const float *>(rows),
                                                                             n_heads, n, head_dim);
    return rb_cuda_launched("heads kernel", err);
}

/* ---- MLP ------------------------------------------------------------------------------------- */

template <typename T> __global__ void swiglu_kernel(T *out, const T *gate_up, const float *bias, int64_t width)
{
    const T *gate = gate_up + 2 * blockIdx.y * width, *up = gate + width;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= width) return;
    const float g = get(gate + i) + (bias ? bias[i] : 0.0f), u = get(up + i) + (bias ? bias[width + i] : 0.0f);
    put(out + blockIdx.y * width + i, g / (1.0f + expf(-g)) * u);
}

enum { ROW_BLOCK = 256 };
static const int64_t MAX_GRID_ROWS = 65535;

static dim3 row_grid(int64_t n, int64_t width)
{
    return dim3(static_cast<unsigned>((width + ROW_BLOCK - 1) / ROW_BLOCK), static_cast<unsigned>(n));
}

static rb_status swiglu(void *out, const void *gate_up, const float *bias, int64_t n, int64_t width,
                        layer_cuda_precision precision, void *stream, rb_error *err)
{
    const size_t size = precision == LAYER_CUDA_BF16 ? 2 : 4;
    for (int64_t first = 0; first < n; first += MAX_GRID_ROWS) {
        const int64_t rows = n - first < MAX_GRID_ROWS ? n - first : MAX_GRID_ROWS;
        void *to = static_cast<char *>(out) + first * width * size;
        const void *from = static_cast<const char *>(gate_up) + 2 * first * width * size;
        if (precision == LAYER_CUDA_BF16)
            swiglu_kernel<<<row_grid(rows, width), ROW_BLOCK, 0, as_stream(stream)>>>(
                static_cast<__nv_bfloat16 *>(to), static_cast<const __nv_bfloat16 *>(from), bias, width);
        else
            swiglu_kernel<<<row_grid(rows, width), ROW_BLOCK, 0, as_stream(stream)>>>(
                static_cast<float *>(to), static_cast<const float *>(from), bias, width);
    }
    return rb_cuda_launched("SwiGLU kernel", err);
}

__global__ void add_bias_kernel(float *x, const float *bias, int64_t n, int64_t width)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n * width) x[i] += bias[i % width];
}

static rb_status add_bias(float *x, const float *bias, int64_t n, int64_t width, void *stream, rb_error *err)
{
    add_bias_kernel<<<static_cast<unsigned>((n * width + ROW_BLOCK - 1) / ROW_BLOCK), ROW_BLOCK, 0,
                      as_stream(stream)>>>(x, bias, n, width);
    return rb_cuda_launched("bias kernel", err);
}

/* ---- weights --------------------------------------------------------------------------------- */

template <typename T, typename F> __global__ void convert_kernel(T *out, const F *from, int64_t n)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) put(out + i, get(from + i));
}

template <typename T>
static void launch_convert(T *out, const void *from, layer_cuda_weight type, int64_t n, cudaStream_t stream)
{
    const unsigned blocks = static_cast<unsigned>((n + ROW_BLOCK - 1) / ROW_BLOCK);
    if (type == LAYER_CUDA_WEIGHT_F16)
        convert_kernel<<<blocks, ROW_BLOCK, 0, stream>>>(out, static_cast<const __half *>(from), n);
    if (type == LAYER_CUDA_WEIGHT_BF16)
        convert_kernel<<<blocks, ROW_BLOCK, 0, stream>>>(out, static_cast<const __nv_bfloat16 *>(from), n);
    if (type == LAYER_CUDA_WEIGHT_F32)
        convert_kernel<<<blocks, ROW_BLOCK, 0, stream>>>(out, static_cast<const float *>(from), n);
}

static rb_status convert(void *out, const void *from, layer_cuda_weight type, int64_t n, layer_cuda_precision precision,
                         void *stream, rb_error *err)
{
    if (n == 0) return RB_OK;
    if (precision == LAYER_CUDA_BF16)
        launch_convert(static_cast<__nv_bfloat16 *>(out), from, type, n, as_stream(stream));
    else launch_convert(static_cast<float *>(out), from, type, n, as_stream(stream));
    return rb_cuda_launched("conversion kernel", err);
}

extern "C" {
extern const layer_cuda_api rb_layer_cuda;
const layer_cuda_api rb_layer_cuda = {rms_norm, heads,   heads_scratch, turn,         part_heads, swiglu,
                                      add_bias, convert, matmul_open,   matmul_close, matmul_run};
}
