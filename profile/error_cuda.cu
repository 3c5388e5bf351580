/* See profile/error_cuda.h. Products are tiles of 64 x 64 in f32, 4 x 4 of them a thread; every block writes one
 * partial sum, and partial sums are added in a fixed order, so that two runs give the same doubles. */
#include "core/cuda_check.cuh"
#include "profile/error_cuda.h"

enum {
    TILE = 64,         /* rows and columns of a tile */
    STRIDE = TILE + 4, /* floats from dim to dim of an operand: 16-byte loads, and stores that meet few banks twice */
    DEPTH = 32,        /* dims an operand holds at a time */
    THREADS = 256,
    SIDE = 4, /* rows and columns of a thread's part of the tile */
    SUMS = 3, /* numbers that attention_sums gives for a head */
    WARP = 32
};

/* An operand: [DEPTH][STRIDE], dim by dim. */
typedef float operand[DEPTH][STRIDE];

/* Rows [first, first + TILE) below `end`, dims [dim, dim + DEPTH) below head_dim, of vectors [..][head_dim]; the rest
 * 0. */
__device__ __forceinline__ void load_operand(operand &to, const float *from, int64_t first, int64_t end, int dim,
                                             int head_dim)
{
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        const int row = i / DEPTH, column = i % DEPTH;
        const bool is_there = first + row < end && dim + column < head_dim;
        to[column][row] = is_there ? from[(first + row) * head_dim + dim + column] : 0.0f;
    }
}

__device__ __forceinline__ void multiply(float (&c)[SIDE][SIDE], const operand &a, const operand &b, int row,
                                         int column)
{
#pragma unroll 8
    for (int i = 0; i < DEPTH; i++) {
        const float4 x = *reinterpret_cast<const float4 *>(&a[i][row]),
                     y = *reinterpret_cast<const float4 *>(&b[i][column]);
        const float xs[SIDE] = {x.x, x.y, x.z, x.w}, ys[SIDE] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int r = 0; r < SIDE; r++)
#pragma unroll
            for (int s = 0; s < SIDE; s++) c[r][s] = fmaf(xs[r], ys[s], c[r][s]);
    }
}

/* The sum over the block's threads, in thread 0. */
__device__ double block_sum(double value)
{
    __shared__ double values[THREADS];
    __syncthreads();
    values[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
        __syncthreads();
    }
    return values[0];
}

/* ---- offsets --------------------------------------------------------------------------------- */

/* z of 16 blocks for a tile of tokens: real parts, then imaginary parts. */
__device__ __forceinline__ void load_z(operand &z, const error_cuda_input &in, const float *q, const float *k,
                                       const float *k_hat, int64_t first, int block)
{
    enum { HALF = DEPTH / 2 };
    for (int i = threadIdx.x; i < TILE * HALF; i += THREADS) {
        const int row = i / HALF, column = i % HALF;
        float real = 0.0f, imaginary = 0.0f;
        if (first + row < in.n_tokens && block + column < in.n_blocks) {
            const int a = in.block_dims[2 * (block + column)], b = in.block_dims[2 * (block + column) + 1];
            const int64_t at = (first + row) * in.head_dim;
            const float error_a = k[at + a] - k_hat[at + a], error_b = k[at + b] - k_hat[at + b];
            real = q[at + a] * error_a + q[at + b] * error_b;
            imaginary = q[at + a] * error_b - q[at + b] * error_a;
        }
        z[column][row] = real;
        z[HALF + column][row] = imaginary;
    }
}

__device__ __forceinline__ void load_turn(operand &turn, const error_cuda_input &in, int block)
{
    enum { HALF = DEPTH / 2 };
    for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        const int part = i / TILE, offset = i % TILE, at = block + part % HALF;
        turn[part][offset] = offset < in.n_offsets && at < in.n_blocks
                                 ? in.turn[(part < HALF ? at : in.n_blocks + at) * in.n_offsets + offset]
                                 : 0.0f;
    }
}

/* blockIdx: (tile of tokens, query head, candidate). Adds over the tiles: in offset_sums. */
__global__ void __launch_bounds__(THREADS) offset_kernel(const error_cuda_input in, double *partial)
{
    __shared__ operand z, turn;
    const int q_head = blockIdx.y, kv_head = q_head / in.q_per_kv, candidate = blockIdx.z,
              row = threadIdx.x / 16 * SIDE, column = threadIdx.x % 16 * SIDE;
    const int64_t head = in.n_tokens * in.head_dim, first = static_cast<int64_t>(blockIdx.x) * TILE;
    const float *q = in.q + q_head * head, *k = in.k + kv_head * head,
                *k_hat = in.k_hat + (static_cast<int64_t>(candidate) * in.n_kv_heads + kv_head) * head;
    float c[SIDE][SIDE] = {};
    for (int block = 0; block < in.n_blocks; block += DEPTH / 2) {
        __syncthreads();
        load_z(z, in, q, k, k_hat, first, block);
        load_turn(turn, in, block);
        __syncthreads();
        multiply(c, z, turn, row, column);
    }
    float sum = 0.0f; /* offsets and tokens that are not there are exact zeros */
#pragma unroll
    for (int i = 0; i < SIDE * SIDE; i++) sum += fabsf(c[i / SIDE][i % SIDE]);
    const double total = block_sum(static_cast<double>(sum));
    if (threadIdx.x == 0)
        partial[(static_cast<int64_t>(candidate) * gridDim.y + q_head) * gridDim.x + blockIdx.x] = total;
}

/* out[i] = sum of n numbers each `stride` apart, one output a block. */
__global__ void __launch_bounds__(THREADS) add_kernel(double *out, const double *partial, int64_t n, int stride)
{
    const int column = blockIdx.y;
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += partial[(blockIdx.x * n + i) * stride + column];
    const double total = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x * stride + column] = total;
}

static int64_t n_tiles(int64_t n) { return (n + TILE - 1) / TILE; }

static rb_status offset_sums(const error_cuda_input *in, double *out, void *stream_handle, rb_error *err)
{
    const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
    const int64_t tiles = n_tiles(in->n_tokens), n_q = static_cast<int64_t>(in->n_kv_heads) * in->q_per_kv;
    double *partial = nullptr;
    rb_status st;
    RB_TRY(st,
           rb_cuda_status(
               cudaMallocAsync(&partial, static_cast<size_t>(in->n_candidates * n_q * tiles) * sizeof(double), stream),
               "partial sums", err),
           done);
    offset_kernel<<<dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(n_q),
                         static_cast<unsigned>(in->n_candidates)),
                    THREADS, 0, stream>>>(*in, partial);
    RB_TRY(st, rb_cuda_launched("offset kernel", err), done);
    add_kernel<<<dim3(static_cast<unsigned>(in->n_candidates * in->n_kv_heads), 1), THREADS, 0, stream>>>(
        out, partial, tiles * in->q_per_kv, 1);
    st = rb_cuda_launched("sum kernel", err);
done:
    if (partial) cudaFreeAsync(partial, stream);
    return st;
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Every vector of `from` turned by its position; one block of dims a thread. */
__global__ void rotate_kernel(float *to, const float *from, const error_cuda_input in, int64_t n_vectors)
{
    const int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, vector = item / in.n_blocks;
    const int block = static_cast<int>(item % in.n_blocks);
    if (vector >= n_vectors) return;
    const int a = in.block_dims[2 * block], b = in.block_dims[2 * block + 1];
    const int64_t position = vector % in.n_tokens % in.context;
    const float x = from[vector * in.head_dim + a], y = from[vector * in.head_dim + b];
    const float c = block < in.n_freqs ? in.rope_cos[position * in.n_freqs + block] : 1.0f;
    const float s = block < in.n_freqs ? in.rope_sin[position * in.n_freqs + block] : 0.0f;
    to[vector * in.head_dim + a] = x * c - y * s;
    to[vector * in.head_dim + b] = y * c + x * s;
}

/* What is kept of a row of logits s and s^ while its tiles pass: maxima, sums of exp, and the sums of exp(s - max) (s -
 * s^) and of its magnitude. */
struct row_state {
    float largest, sum, weighted, attended, largest_hat, sum_hat;
};

/* Over the 16 threads that share a row. */
__device__ __forceinline__ float row_max(float x)
{
    for (int mask = 1; mask < 16; mask *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}
__device__ __forceinline__ float row_sum(float x)
{
    for (int mask = 1; mask < 16; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}

/* One row of a tile: n_visible of this thread's logits count. */
__device__ __forceinline__ void add_row(row_state &state, const float (&s)[SIDE], const float (&s_hat)[SIDE],
                                        float scale, int n_visible)
{
    float peak = -INFINITY, peak_hat = -INFINITY;
#pragma unroll
    for (int i = 0; i < SIDE; i++)
        if (i < n_visible) {
            peak = fmaxf(peak, s[i] * scale);
            peak_hat = fmaxf(peak_hat, s_hat[i] * scale);
        }
    peak = fmaxf(state.largest, row_max(peak));
    peak_hat = fmaxf(state.largest_hat, row_max(peak_hat));
    if (peak == -INFINITY) return; /* the row sees none of this tile, nor of any before: the same in all its threads */
    const float shrink = expf(state.largest - peak), shrink_hat = expf(state.largest_hat - peak_hat);
    float sum = 0.0f, weighted = 0.0f, attended = 0.0f, sum_hat = 0.0f;
#pragma unroll
    for (int i = 0; i < SIDE; i++)
        if (i < n_visible) {
            const float weight = expf(s[i] * scale - peak), difference = (s[i] - s_hat[i]) * scale;
            sum += weight;
            weighted = fmaf(weight, difference, weighted);
            attended = fmaf(weight, fabsf(difference), attended);
            sum_hat += expf(s_hat[i] * scale - peak_hat);
        }
    state = {peak,
             state.sum * shrink + sum,
             state.weighted * shrink + weighted,
             state.attended * shrink + attended,
             peak_hat,
             state.sum_hat * shrink_hat + sum_hat};
}

/* blockIdx: (tile of queries of one sequence, query head, candidate). partial: SUMS numbers of each block, as
 * attention_sums has them. */
__global__ void __launch_bounds__(THREADS)
    attention_kernel(const error_cuda_input in, const float *q_turned, const float *k_turned, const float *k_hat_turned,
                     int64_t tiles_per_sequence, double *partial)
{
    __shared__ operand q_tile, k_tile, k_hat_tile;
    const int q_head = blockIdx.y, kv_head = q_head / in.q_per_kv, candidate = blockIdx.z,
              row = threadIdx.x / 16 * SIDE, column = threadIdx.x % 16 * SIDE;
    const int64_t head = in.n_tokens * in.head_dim, sequence = blockIdx.x / tiles_per_sequence * in.context;
    const int64_t end = min(sequence + in.context, in.n_tokens),
                  first = sequence + blockIdx.x % tiles_per_sequence * TILE;
    const float *q = q_turned + q_head * head, *k = k_turned + kv_head * head;
    const float *k_hat = k_hat_turned + (static_cast<int64_t>(candidate) * in.n_kv_heads + kv_head) * head;
    row_state states[SIDE];
    double magnitude = 0.0, divergence = 0.0, attended = 0.0;
#pragma unroll
    for (int r = 0; r < SIDE; r++) states[r] = {-INFINITY, 0.0f, 0.0f, 0.0f, -INFINITY, 0.0f};
    for (int64_t key = sequence; key < first + TILE && key < end; key += TILE) {
        float s[SIDE][SIDE] = {}, s_hat[SIDE][SIDE] = {};
        for (int dim = 0; dim < in.head_dim; dim += DEPTH) {
            __syncthreads();
            load_operand(q_tile, q, first, end, dim, in.head_dim);
            load_operand(k_tile, k, key, end, dim, in.head_dim);
            load_operand(k_hat_tile, k_hat, key, end, dim, in.head_dim);
            __syncthreads();
            multiply(s, q_tile, k_tile, row, column);
            multiply(s_hat, q_tile, k_hat_tile, row, column);
        }
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < SIDE; r++) {
            const int64_t query = first + row + r, visible = query < end ? query - (key + column) + 1 : 0;
            const int n_visible =
                static_cast<int>(max(static_cast<int64_t>(0), min(visible, static_cast<int64_t>(SIDE))));
#pragma unroll
            for (int i = 0; i < SIDE; i++)
                if (i < n_visible) sum += fabsf(s[r][i] - s_hat[r][i]);
            add_row(states[r], s[r], s_hat[r], in.scale, n_visible);
        }
        magnitude += static_cast<double>(sum);
    }
#pragma unroll
    for (int r = 0; r < SIDE; r++) {
        const double total = row_sum(states[r].sum), weighted = row_sum(states[r].weighted),
                     total_hat = row_sum(states[r].sum_hat);
        const double seen = row_sum(states[r].attended);
        if (threadIdx.x % 16 == 0 && first + row + r < end) {
            divergence +=
                weighted / total - (states[r].largest + log(total)) + (states[r].largest_hat + log(total_hat));
            attended += seen / total / static_cast<double>(in.scale);
        }
    }
    const double all_magnitude = block_sum(magnitude), all_divergence = block_sum(divergence),
                 all_attended = block_sum(attended);
    if (threadIdx.x == 0) {
        double *to = partial + SUMS * ((static_cast<int64_t>(candidate) * gridDim.y + q_head) * gridDim.x + blockIdx.x);
        to[0] = all_magnitude;
        to[1] = all_divergence;
        to[2] = all_attended;
    }
}

static int64_t n_sequences(const error_cuda_input *in) { return (in->n_tokens + in->context - 1) / in->context; }
static int64_t n_q_vectors(const error_cuda_input *in) { return in->n_tokens * in->n_kv_heads * in->q_per_kv; }
static int64_t n_k_vectors(const error_cuda_input *in) { return in->n_tokens * in->n_kv_heads; }

static size_t attention_scratch_bytes(const error_cuda_input *in)
{
    const int64_t vectors = n_q_vectors(in) + (1 + in->n_candidates) * n_k_vectors(in);
    const int64_t partials = SUMS * in->n_candidates * in->n_kv_heads * static_cast<int64_t>(in->q_per_kv)
                             * n_sequences(in) * n_tiles(in->context);
    return static_cast<size_t>(partials) * sizeof(double) + static_cast<size_t>(vectors * in->head_dim) * sizeof(float);
}

static rb_status rotate(float *to, const float *from, const error_cuda_input *in, int64_t n_vectors,
                        cudaStream_t stream, rb_error *err)
{
    rotate_kernel<<<static_cast<unsigned>((n_vectors * in->n_blocks + THREADS - 1) / THREADS), THREADS, 0, stream>>>(
        to, from, *in, n_vectors);
    return rb_cuda_launched("RoPE kernel", err);
}

static rb_status attention_sums(const error_cuda_input *in, double *out, void *scratch, void *stream_handle,
                                rb_error *err)
{
    const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
    const int64_t tiles = n_tiles(in->context), blocks = n_sequences(in) * tiles,
                  n_q = static_cast<int64_t>(in->n_kv_heads) * in->q_per_kv;
    double *partial = static_cast<double *>(scratch);
    float *q = reinterpret_cast<float *>(partial + SUMS * in->n_candidates * n_q * blocks),
          *k = q + n_q_vectors(in) * in->head_dim;
    float *k_hat = k + n_k_vectors(in) * in->head_dim;
    rb_status st;
    RB_TRY(st, rotate(q, in->q, in, n_q_vectors(in), stream, err), done);
    RB_TRY(st, rotate(k, in->k, in, n_k_vectors(in), stream, err), done);
    RB_TRY(st, rotate(k_hat, in->k_hat, in, in->n_candidates * n_k_vectors(in), stream, err), done);
    attention_kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(n_q),
                            static_cast<unsigned>(in->n_candidates)),
                       THREADS, 0, stream>>>(*in, q, k, k_hat, tiles, partial);
    RB_TRY(st, rb_cuda_launched("attention error kernel", err), done);
    add_kernel<<<dim3(static_cast<unsigned>(in->n_candidates * in->n_kv_heads), SUMS), THREADS, 0, stream>>>(
        out, partial, blocks * in->q_per_kv, SUMS);
    st = rb_cuda_launched("sum kernel", err);
done:
    return st;
}

/* ---- blocks ---------------------------------------------------------------------------------- */

/* blockIdx: (KV head, candidate). */
__global__ void __launch_bounds__(THREADS) block_errors_kernel(const error_cuda_input in, double *out, double *norms)
{
    const int64_t head = in.n_tokens * in.head_dim, at = static_cast<int64_t>(blockIdx.y) * in.n_kv_heads + blockIdx.x;
    const float *k = in.k + blockIdx.x * head, *k_hat = in.k_hat + at * head;
    double error = 0.0, whole = 0.0;
    for (int block = 0; block < in.n_blocks; block++) {
        const int a = in.block_dims[2 * block], b = in.block_dims[2 * block + 1];
        double own = 0.0;
        for (int64_t t = threadIdx.x; t < in.n_tokens; t += THREADS) {
            const double x = k[t * in.head_dim + a], y = k[t * in.head_dim + b];
            const double dx = x - static_cast<double>(k_hat[t * in.head_dim + a]),
                         dy = y - static_cast<double>(k_hat[t * in.head_dim + b]);
            own += dx * dx + dy * dy;
            whole += x * x + y * y;
        }
        const double sum = block_sum(own);
        if (threadIdx.x == 0) out[at * in.n_blocks + block] = sum / static_cast<double>(in.n_tokens);
        error += own;
    }
    const double all_error = block_sum(error), all = block_sum(whole);
    if (threadIdx.x == 0) {
        norms[2 * at] = all_error;
        norms[2 * at + 1] = all;
    }
}

static rb_status block_errors(const error_cuda_input *in, double *out, double *norms, void *stream, rb_error *err)
{
    block_errors_kernel<<<dim3(static_cast<unsigned>(in->n_kv_heads), static_cast<unsigned>(in->n_candidates)), THREADS,
                          0, static_cast<cudaStream_t>(stream)>>>(*in, out, norms);
    return rb_cuda_launched("block error kernel", err);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* One warp a token; blockIdx: (tokens, KV head, 0 for the sizes or 1 + candidate). */
__global__ void __launch_bounds__(THREADS)
    token_errors_kernel(const error_cuda_input in, const float *weights, float *out)
{
    const int64_t token = static_cast<int64_t>(blockIdx.x) * (THREADS / WARP) + threadIdx.x / WARP;
    if (token >= in.n_tokens) return; /* whole warps leave together */
    const int64_t head = in.n_tokens * in.head_dim;
    const float *k = in.k + blockIdx.y * head + token * in.head_dim, *own = weights + blockIdx.y * in.head_dim;
    const float *k_hat = blockIdx.z == 0
                             ? nullptr
                             : in.k_hat + (static_cast<int64_t>(blockIdx.z - 1) * in.n_kv_heads + blockIdx.y) * head
                                   + token * in.head_dim;
    float sum = 0.0f;
    for (int i = threadIdx.x % WARP; i < in.head_dim; i += WARP) {
        const float difference = k_hat ? k[i] - k_hat[i] : k[i];
        sum = fmaf(own[i] * difference, difference, sum);
    }
    for (int mask = WARP / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (threadIdx.x % WARP == 0)
        out[(static_cast<int64_t>(blockIdx.z) * in.n_kv_heads + blockIdx.y) * in.n_tokens + token] = sqrtf(sum);
}

static rb_status token_errors(const error_cuda_input *in, const float *weights, float *out, void *stream, rb_error *err)
{
    const int64_t tokens_a_block = THREADS / WARP;
    const dim3 grid(static_cast<unsigned>((in->n_tokens + tokens_a_block - 1) / tokens_a_block),
                    static_cast<unsigned>(in->n_kv_heads), static_cast<unsigned>(1 + in->n_candidates));
    token_errors_kernel<<<grid, THREADS, 0, static_cast<cudaStream_t>(stream)>>>(*in, weights, out);
    return rb_cuda_launched("token error kernel", err);
}

extern "C" {
extern const error_cuda_api rb_error_cuda;
const error_cuda_api rb_error_cuda = {offset_sums, attention_sums, attention_scratch_bytes, block_errors, token_errors};
}
