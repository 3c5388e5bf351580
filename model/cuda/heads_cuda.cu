/* Queries, keys and values on the GPU, from a projection to what attention reads: see layer_cuda.h. A warp takes one
 * head of one token. Every kernel here moves each byte once. */
#include "model/cuda/layer_cuda.cuh"

/* ---- heads ----------------------------------------------------------------------------------- */

template <typename C>
__device__ __forceinline__ void capture_row(void *capture, int64_t stride, int head, int64_t token, int n_dims,
                                            const float *row)
{
    if (!capture) return;
    C *to = static_cast<C *>(capture) + (head * stride + token) * n_dims;
    for (int dim = threadIdx.x % 32; dim < n_dims; dim += 32) put(to + dim, row[dim]);
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

/* out = the row. */
template <typename T> __device__ __forceinline__ void copy_row(T *out, const float *row, int n_dims)
{
    for (int dim = threadIdx.x % 32; dim < n_dims; dim += 32) put(out + dim, row[dim]);
}

template <typename T> __device__ __forceinline__ void clear_row(T *out, int first, int pitch)
{
    for (int dim = first + threadIdx.x % 32; dim < pitch; dim += 32) put(out + dim, 0.0f);
}

/* What the warp works on: a head of a token's q, k or v. */
struct head_row {
    float *in;
    const float *bias, *norm;
    void *out;
    void *capture;
    int head, n_dims, plain_dims, pitch; /* the first plain_dims are neither turned nor captured */
};

__device__ __forceinline__ head_row find_row(const layer_cuda_heads &in, int64_t token, int slot, size_t size)
{
    const bool is_q = slot < in.n_q_heads, is_v = slot >= in.n_q_heads + in.n_kv_heads;
    head_row row;
    row.head = is_q ? slot : is_v ? slot - in.n_q_heads - in.n_kv_heads : slot - in.n_q_heads;
    row.n_dims = is_q ? in.query_dim : is_v ? in.value_dim : in.head_dim;
    row.plain_dims = is_q ? in.query_dim - in.head_dim : 0;
    row.pitch = is_q ? in.q_pitch : is_v ? in.v_pitch : in.k_pitch;
    float *of_token = is_q   ? in.q_in + token * in.q_in_stride
                      : is_v ? in.v_in + token * in.v_in_stride
                             : in.k_in + token * in.k_in_stride;
    row.in = of_token + row.head * row.n_dims;
    row.bias = is_q ? in.q_bias : is_v ? in.v_bias : in.k_bias;
    row.norm = is_q ? in.q_norm : is_v ? in.v_norm : in.k_norm;
    row.capture = is_q ? in.capture_q : is_v ? in.capture_v : in.capture_k;
    char *out = static_cast<char *>(is_q ? in.q : is_v ? in.v : in.k);
    row.out = out + (token * (is_q ? in.n_q_heads : in.n_kv_heads) + row.head) * row.pitch * size;
    return row;
}

/* Slots of a token: first q heads, then k, then v. */
template <typename T, typename C> __global__ void heads_kernel(const layer_cuda_heads in)
{
    const int lane = threadIdx.x % 32, n_heads = in.n_q_heads + 2 * in.n_kv_heads;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, token = item / n_heads;
    if (token >= in.n_tokens) return;
    const int slot = static_cast<int>(item % n_heads);
    const head_row row = find_row(in, token, slot, sizeof(T));
    const int d = row.n_dims;

    float squares = 0.0f;
    for (int dim = lane; dim < d; dim += 32) {
        const float x = row.in[dim] + (row.bias ? row.bias[row.head * d + dim] : 0.0f);
        row.in[dim] = x;
        squares = fmaf(x, x, squares);
    }
    if (row.norm) {
        const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + in.eps);
        for (int dim = lane; dim < d; dim += 32) row.in[dim] = row.norm[dim] * (row.in[dim] * scale);
    }
    __syncwarp();
    const int plain = row.plain_dims;
    capture_row<C>(row.capture, in.capture_stride, row.head, token, d - plain, row.in + plain);

    T *out = static_cast<T *>(row.out);
    clear_row(out, d, row.pitch);
    if (slot >= in.n_q_heads + in.n_kv_heads) {
        copy_row(out, row.in, d);
        return;
    }
    copy_row(out, row.in, plain);
    const int64_t angles = static_cast<int64_t>(in.position[token]) * in.n_freqs;
    turn_row(out + plain, row.in + plain, in.rope_cos + angles, in.rope_sin + angles, in.n_freqs, in.is_interleaved,
             in.head_dim);
}

/* ---- statistics ------------------------------------------------------------------------------ */

enum { STATISTICS_TOKENS = 64 }; /* tokens of a partial sum; fixed, so that sums depend on nothing else */

static int64_t n_partials(int64_t n_tokens) { return (n_tokens + STATISTICS_TOKENS - 1) / STATISTICS_TOKENS; }
static int64_t statistics_width(const layer_cuda_heads *in)
{
    return static_cast<int64_t>(in->n_q_heads + 2 * in->n_kv_heads) * in->head_dim;
}

/* partial[part][column]: sums of squares of q and k, then sums of values of k. A thread takes one column. */
__global__ void partial_sums_kernel(const layer_cuda_heads in, int64_t width)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x,
                  first = static_cast<int64_t>(blockIdx.y) * STATISTICS_TOKENS;
    if (column >= width) return;
    const int64_t n_q = static_cast<int64_t>(in.n_q_heads) * in.head_dim,
                  n_k = static_cast<int64_t>(in.n_kv_heads) * in.head_dim;
    const bool is_q = column < n_q, is_sum = column >= n_q + n_k;
    const int64_t q_column = column / in.head_dim * in.query_dim + in.query_dim - in.head_dim + column % in.head_dim,
                  k_column = is_sum ? column - n_q - n_k : column - n_q;
    const float *from = is_q ? in.q_in + q_column : in.k_in + k_column;
    const int64_t stride = is_q ? in.q_in_stride : in.k_in_stride;
    double sum = 0.0;
    for (int64_t t = first; t < first + STATISTICS_TOKENS && t < in.n_tokens; t++) {
        const double x = from[t * stride];
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

size_t heads_scratch(const layer_cuda_heads *in)
{
    return static_cast<size_t>(n_partials(in->n_tokens) * statistics_width(in));
}

static rb_status add_statistics(const layer_cuda_heads *in, cudaStream_t stream, rb_error *err)
{
    enum { THREADS = 128 };
    const int64_t width = statistics_width(in), parts = n_partials(in->n_tokens);
    const unsigned blocks = static_cast<unsigned>((width + THREADS - 1) / THREADS);
    partial_sums_kernel<<<dim3(blocks, static_cast<unsigned>(parts)), THREADS, 0, stream>>>(*in, width);
    const rb_status st = rb_cuda_launched("statistics kernel", err);
    if (st != RB_OK) return st;
    add_partials_kernel<<<blocks, THREADS, 0, stream>>>(*in, width, parts);
    return rb_cuda_launched("statistics kernel", err);
}

/* ---- launches -------------------------------------------------------------------------------- */

/* Bias and norm of all heads together. What is left for the kernel of single heads has neither. */
static rb_status norm_wide(layer_cuda_heads *in, void *stream, rb_error *err)
{
    const layer_cuda_norm q = {false, in->q_norm, nullptr, in->eps}, k = {false, in->k_norm, nullptr, in->eps};
    rb_status st;
    RB_TRY(st,
           norm_in_place(in->q_in, in->q_in_stride, in->q_bias, &q, in->n_tokens,
                         static_cast<int64_t>(in->n_q_heads) * in->query_dim, stream, err),
           done);
    RB_TRY(st,
           norm_in_place(in->k_in, in->k_in_stride, in->k_bias, &k, in->n_tokens,
                         static_cast<int64_t>(in->n_kv_heads) * in->head_dim, stream, err),
           done);
    in->q_bias = in->k_bias = in->q_norm = in->k_norm = nullptr;
done:
    return st;
}

template <typename T> static void launch_heads(const layer_cuda_heads *in, cudaStream_t stream)
{
    const unsigned blocks = warp_blocks(in->n_tokens * (in->n_q_heads + 2 * in->n_kv_heads));
    if (in->capture_is_f32) heads_kernel<T, float><<<blocks, HEAD_WARPS * 32, 0, stream>>>(*in);
    else heads_kernel<T, __half><<<blocks, HEAD_WARPS * 32, 0, stream>>>(*in);
}

rb_status heads_run(const layer_cuda_heads *given, void *stream, rb_error *err)
{
    layer_cuda_heads in = *given;
    rb_status st = RB_OK;
    if (in.n_tokens == 0) return RB_OK;
    if (in.is_norm_wide) RB_TRY(st, norm_wide(&in, stream, err), done);
    if (in.precision == LAYER_CUDA_BF16) launch_heads<__nv_bfloat16>(&in, as_stream(stream));
    else launch_heads<float>(&in, as_stream(stream));
    RB_TRY(st, rb_cuda_launched("heads kernel", err), done);
    if (in.q_squares) st = add_statistics(&in, as_stream(stream), err);
done:
    return st;
}

/* ---- keys and values that come back ---------------------------------------------------------- */

/* First k heads, then v. */
template <typename T> __global__ void turn_kernel(const layer_cuda_turn in)
{
    const int n_heads = 2 * in.n_kv_heads;
    const int64_t item = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32, token = item / n_heads;
    if (token >= in.n_tokens) return;
    const int slot = static_cast<int>(item % n_heads), head = slot % in.n_kv_heads;
    const bool is_v = slot >= in.n_kv_heads;
    const int d = is_v ? in.value_dim : in.head_dim, pitch = is_v ? in.v_pitch : in.k_pitch;
    const float *row = (is_v ? in.v_in : in.k_in) + (head * in.in_stride + token) * d;
    T *out = static_cast<T *>(is_v ? in.v : in.k) + (token * in.n_kv_heads + head) * pitch;
    clear_row(out, d, pitch);
    if (is_v) {
        copy_row(out, row, d);
        return;
    }
    const int64_t angles = static_cast<int64_t>(in.position[token]) * in.n_freqs;
    turn_row(out, row, in.rope_cos + angles, in.rope_sin + angles, in.n_freqs, in.is_interleaved, d);
}

rb_status heads_turn(const layer_cuda_turn *in, void *stream, rb_error *err)
{
    const unsigned blocks = warp_blocks(2 * in->n_tokens * in->n_kv_heads);
    if (in->n_tokens == 0) return RB_OK;
    if (in->precision == LAYER_CUDA_BF16)
        turn_kernel<__nv_bfloat16><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    else turn_kernel<float><<<blocks, HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    return rb_cuda_launched("RoPE kernel", err);
}
