/* See attention_cuda.h. Both kernels walk the keys in tiles with a running maximum and sum (online softmax: Milakov and Gimelshein, arXiv 1805.02867;
 * FlashAttention-2, arXiv 2307.08691). A block takes a tile of queries of one head and visits the key tiles between the first key its first query sees
 * and its last query; since sequences lie end to end, both bounds only grow from query to query. Inside a tile each row masks by its own bounds.
 * Blocks with the last queries, which have the most keys, start first. */
#include <cuda_bf16.h>
#include <math_constants.h>

#include "core/cuda_check.cuh"
#include "model/attention_cuda.h"

/* ---- what both kernels share --------------------------------------------------------------------------------------------------- */

/* Tokens are int32 on the device; the largest tile beyond the last token must not overflow. */
static const int64_t MAX_TOKENS = INT32_MAX - 65535;
static const float LOG2_E = 1.44269504088896340736f;

struct query_tile {
    int q_head, kv_head;
    int first_row, n_rows;          /* rows of q and out; fewer than the tile's size at the end */
    int first_key, last_key;        /* of any row */
};

__device__ __forceinline__ int first_visible(const attention_cuda_input &in, int token)
{
    const int start = in.token_sequence_start[token];
    return in.sliding_window > 0 ? max(start, token - in.sliding_window + 1) : start;
}

/* Heads are neighbours, so that blocks that run together share keys in L2. */
template <int QUERIES> __device__ __forceinline__ query_tile find_tile(const attention_cuda_input &in)
{
    const int n_tiles = gridDim.x / in.n_q_heads, n_queries = static_cast<int>(in.n_queries), first_query = static_cast<int>(in.first_query);
    query_tile tile;
    tile.q_head = blockIdx.x % in.n_q_heads;
    tile.kv_head = tile.q_head / (in.n_q_heads / in.n_kv_heads);
    tile.first_row = (n_tiles - 1 - static_cast<int>(blockIdx.x / in.n_q_heads)) * QUERIES;
    tile.n_rows = min(QUERIES, n_queries - tile.first_row);
    tile.first_key = first_visible(in, first_query + tile.first_row);
    tile.last_key = first_query + tile.first_row + tile.n_rows - 1;
    return tile;
}

/* ---- bf16 ------------------------------------------------------------------------------------------------------------------------
 *
 * A warp owns 16 or 32 rows. S = Q K^T lies in its registers as the accumulators of m16n8k16, which after packing to bf16 are the left operand of
 * P V, so the weights never leave them. With 32 rows a warp reads each key and value fragment once for two products: at 16 rows shared memory
 * (128 bytes a cycle) and not the tensor cores would set the pace. head_dim 256 has room for the sums of 16 rows only.
 *
 * Shared memory: Q [QUERIES][D], then two buffers each of K [KEYS][D] and V [KEYS][D]; while a tile is multiplied the next one arrives. The 16-byte
 * chunk c of row r lies at place c ^ (r & 7) of its row, so that the 8 rows of an ldmatrix meet all banks. Dims from head_dim to D and rows beyond the
 * last are zero. */
enum { BF16_WARPS = 4, BF16_THREADS = BF16_WARPS * 32 };

template <int D> struct bf16_tile {
    static constexpr int ROW_BLOCKS = D == 256 ? 1 : 2;         /* of 16 rows, a warp's */
    static constexpr int KEYS = D == 256 ? 32 : 64;
    static constexpr int ROWS = 16 * ROW_BLOCKS;                /* a warp's */
    static constexpr int QUERIES = BF16_WARPS * ROWS;
    static constexpr int ROW_BYTES = D * 2, CHUNKS = D / 8;
    static constexpr int KEYS_BYTES = KEYS * ROW_BYTES;
    static constexpr int SHARED_BYTES = QUERIES * ROW_BYTES + 4 * KEYS_BYTES;
    static_assert(SHARED_BYTES <= 99 * 1024, "what a block of compute capability 8.6 and 8.9 can have");
    static_assert(CHUNKS <= BF16_THREADS && BF16_THREADS % CHUNKS == 0, "a thread copies the same chunk of every row it copies");
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

template <int D> __device__ __forceinline__ uint32_t chunk_at(int row, int chunk)
{
    return static_cast<uint32_t>(row * bf16_tile<D>::ROW_BYTES + ((chunk ^ (row & 7)) << 4));
}

/* N_ROWS rows from `from` on, of which n_valid exist: zero bytes are read of the others and of dims from head_dim on, and zeros written. */
template <int D, int N_ROWS>
__device__ __forceinline__ void copy_rows(uint32_t to, const __nv_bfloat16 *from, int64_t stride, int n_valid, int head_dim)
{
    constexpr int CHUNKS = bf16_tile<D>::CHUNKS, STEP = BF16_THREADS / CHUNKS;
    const int chunk = threadIdx.x % CHUNKS, first = threadIdx.x / CHUNKS;
    const int n_rows = chunk * 8 < head_dim ? n_valid : 0;
    const __nv_bfloat16 *at = from + first * stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < N_ROWS / STEP; i++) {
        const int row = first + i * STEP;
        const __nv_bfloat16 *source = row < n_rows ? at : from;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + chunk_at<D>(row, chunk)), "l"(source), "r"(row < n_rows ? 16 : 0) : "memory");
        at += STEP * stride;
    }
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

__device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 2^x to 2 ulp; tiny results are zero. */
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

/* Of the accumulators, lane l has columns 2 (l % 4) and the next of rows l / 4 and l / 4 + 8; its row r counts from 0 through the row blocks:
 * values [r / 2][..][r % 2 * 2] and the next. */
template <int D> struct bf16_warp {
    typedef bf16_tile<D> T;
    static constexpr int LANE_ROWS = 2 * T::ROW_BLOCKS;
    float out[T::ROW_BLOCKS][D / 8][4];
    float largest[LANE_ROWS], sum[LANE_ROWS];       /* unscaled score; sum of the lane's own columns */
};

/* scores = Q K^T, keys a tile at `keys`, the warp's rows of Q at `queries`. */
template <int D>
__device__ __forceinline__ void multiply_keys(float (&scores)[bf16_tile<D>::ROW_BLOCKS][bf16_tile<D>::KEYS / 8][4], uint32_t queries, uint32_t keys)
{
    typedef bf16_tile<D> T;
    const int lane = threadIdx.x & 31, key = (lane & 7) + (lane >> 4) * 8;
#pragma unroll
    for (int b = 0; b < T::ROW_BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < T::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) scores[b][n][e] = 0.0f;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        uint32_t q[T::ROW_BLOCKS][4];
#pragma unroll
        for (int b = 0; b < T::ROW_BLOCKS; b++) load_matrices(q[b], queries + chunk_at<D>(b * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < T::KEYS / 16; n++) {
            uint32_t k[4];      /* keys 0-7 by dims 0-7, 8-15; keys 8-15 likewise */
            load_matrices(k, keys + chunk_at<D>(n * 16 + key, step * 2 + ((lane >> 3) & 1)));
#pragma unroll
            for (int b = 0; b < T::ROW_BLOCKS; b++) {
                multiply(scores[b][2 * n], q[b], k[0], k[1]);
                multiply(scores[b][2 * n + 1], q[b], k[2], k[3]);
            }
        }
    }
}

/* Keys a row does not see get -infinity. The bounds are found anew each time: few tiles need them, and registers are scarce. */
template <int D>
__device__ __forceinline__ void mask_scores(float (&scores)[bf16_tile<D>::ROW_BLOCKS][bf16_tile<D>::KEYS / 8][4], const attention_cuda_input &in, int warp_first,
                                            int last_key, int tile_key)
{
    const int lane = threadIdx.x & 31, lane_key = tile_key + (lane & 3) * 2;
#pragma unroll
    for (int r = 0; r < bf16_warp<D>::LANE_ROWS; r++) {
        /* Rows beyond the last query repeat its bounds and are not written. */
        const int last = min(warp_first + (r >> 1) * 16 + (r & 1) * 8 + (lane >> 2), last_key), first = first_visible(in, last);
#pragma unroll
        for (int n = 0; n < bf16_tile<D>::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int key = lane_key + n * 8 + e;
                if (key < first || key > last) scores[r >> 1][n][(r & 1) * 2 + e] = -CUDART_INF_F;
            }
    }
}

/* Scores to weights relative to the largest score so far; what was summed relative to the largest before is brought along. A row that has seen no key
 * yet has -infinity there; its weights and sums stay 0. */
template <int D>
__device__ __forceinline__ void weigh_scores(bf16_warp<D> &warp, float (&scores)[bf16_tile<D>::ROW_BLOCKS][bf16_tile<D>::KEYS / 8][4], float scale_log2)
{
#pragma unroll
    for (int r = 0; r < bf16_warp<D>::LANE_ROWS; r++) {
        const int b = r >> 1, half = (r & 1) * 2;
        float largest = warp.largest[r];
#pragma unroll
        for (int n = 0; n < bf16_tile<D>::KEYS / 8; n++) largest = fmaxf(largest, fmaxf(scores[b][n][half], scores[b][n][half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        const float base = largest == -CUDART_INF_F ? 0.0f : largest * scale_log2;
        const float shrink = exp2_fast(fmaf(warp.largest[r], scale_log2, -base));
        warp.largest[r] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < bf16_tile<D>::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float weight = exp2_fast(fmaf(scores[b][n][half + e], scale_log2, -base));
                scores[b][n][half + e] = weight;
                sum += weight;
            }
        warp.sum[r] = fmaf(warp.sum[r], shrink, sum);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            warp.out[b][n][half] *= shrink;
            warp.out[b][n][half + 1] *= shrink;
        }
    }
}

/* out += P V, values a tile at `values`. */
template <int D>
__device__ __forceinline__ void add_values(bf16_warp<D> &warp, const float (&weights)[bf16_tile<D>::ROW_BLOCKS][bf16_tile<D>::KEYS / 8][4], uint32_t values)
{
    typedef bf16_tile<D> T;
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int step = 0; step < T::KEYS / 16; step++) {
        uint32_t p[T::ROW_BLOCKS][4];
#pragma unroll
        for (int b = 0; b < T::ROW_BLOCKS; b++) {
            const float (&left)[4] = weights[b][2 * step], (&right)[4] = weights[b][2 * step + 1];
            p[b][0] = pack(left[0], left[1]);
            p[b][1] = pack(left[2], left[3]);
            p[b][2] = pack(right[0], right[1]);
            p[b][3] = pack(right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t v[4];      /* dims 0-7 by keys 0-7, 8-15; dims 8-15 likewise */
            load_transposed(v, values + chunk_at<D>(step * 16 + (lane & 15), n * 2 + (lane >> 4)));
#pragma unroll
            for (int b = 0; b < T::ROW_BLOCKS; b++) {
                multiply(warp.out[b][2 * n], p[b], v[0], v[1]);
                multiply(warp.out[b][2 * n + 1], p[b], v[2], v[3]);
            }
        }
    }
}

/* Divided by the sum, through the warp's own rows of Q in shared memory (nobody reads them any more), to rows of out in 16-byte pieces. */
template <int D>
__device__ __forceinline__ void write_out(bf16_warp<D> &warp, char *rows, __nv_bfloat16 *out, int64_t stride, int n_rows, int head_dim)
{
    typedef bf16_tile<D> T;
    const int lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < bf16_warp<D>::LANE_ROWS; r++) {
        const int b = r >> 1, half = (r & 1) * 2, row = b * 16 + (r & 1) * 8 + (lane >> 2);
        float sum = warp.sum[r] + __shfl_xor_sync(0xffffffffu, warp.sum[r], 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inverse = 1.0f / sum;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *reinterpret_cast<uint32_t *>(rows + chunk_at<D>(row, n) + (lane & 3) * 4) = pack(warp.out[b][n][half] * inverse, warp.out[b][n][half + 1] * inverse);
    }
    __syncwarp();
    const int chunk = lane % T::CHUNKS;
    if (chunk * 8 >= head_dim) return;
#pragma unroll 4
    for (int row = lane / T::CHUNKS; row < n_rows; row += 32 / T::CHUNKS)
        *reinterpret_cast<uint4 *>(out + row * stride + chunk * 8) = *reinterpret_cast<const uint4 *>(rows + chunk_at<D>(row, chunk));
}

#endif

/* One block: one tile of queries of one head. Two blocks to a multiprocessor hide each other's barriers and softmax. */
template <int D> __global__ void __launch_bounds__(BF16_THREADS, 2) attention_bf16_kernel(const __grid_constant__ attention_cuda_input in)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    typedef bf16_tile<D> T;
    constexpr int LANE_ROWS = bf16_warp<D>::LANE_ROWS;
    extern __shared__ __align__(128) char shared[];
    const uint32_t queries = static_cast<uint32_t>(__cvta_generic_to_shared(shared)), keys = queries + T::QUERIES * T::ROW_BYTES, values = keys + 2 * T::KEYS_BYTES;
    const query_tile tile = find_tile<T::QUERIES>(in);
    const __nv_bfloat16 *q = static_cast<const __nv_bfloat16 *>(in.q) + tile.first_row * in.q_token_stride + static_cast<int64_t>(tile.q_head) * in.head_dim;
    const __nv_bfloat16 *k = static_cast<const __nv_bfloat16 *>(in.k) + static_cast<int64_t>(tile.kv_head) * in.head_dim;
    const __nv_bfloat16 *v = static_cast<const __nv_bfloat16 *>(in.v) + static_cast<int64_t>(tile.kv_head) * in.head_dim;

    /* What decides whether a tile of keys concerns the warp, and whether it masks. */
    const int warp_row = static_cast<int>(threadIdx.x / 32) * T::ROWS, n_warp_rows = min(T::ROWS, tile.n_rows - warp_row);
    const int warp_first = tile.last_key - tile.n_rows + 1 + warp_row, warp_last = min(warp_first + T::ROWS - 1, tile.last_key);
    const int earliest_first = first_visible(in, min(warp_first, tile.last_key)), latest_first = first_visible(in, warp_last);
    const float scale_log2 = in.scale * LOG2_E;

    bf16_warp<D> warp;
#pragma unroll
    for (int r = 0; r < LANE_ROWS; r++) {
        warp.largest[r] = -CUDART_INF_F;
        warp.sum[r] = 0.0f;
#pragma unroll
        for (int n = 0; n < D / 8; n++) warp.out[r >> 1][n][(r & 1) * 2] = warp.out[r >> 1][n][(r & 1) * 2 + 1] = 0.0f;
    }

    int tile_key = tile.first_key / T::KEYS * T::KEYS, buffer = 0;
    copy_rows<D, T::QUERIES>(queries, q, in.q_token_stride, tile.n_rows, in.head_dim);
    copy_rows<D, T::KEYS>(keys, k + tile_key * in.kv_token_stride, in.kv_token_stride, tile.last_key + 1 - tile_key, in.head_dim);
    copy_rows<D, T::KEYS>(values, v + tile_key * in.kv_token_stride, in.kv_token_stride, tile.last_key + 1 - tile_key, in.head_dim);
    for (; tile_key <= tile.last_key; tile_key += T::KEYS, buffer ^= T::KEYS_BYTES) {
        /* Everybody's part of this tile is here, and everybody is done with the tile before, whose buffer the next one takes. */
        wait_for_copies();
        __syncthreads();
        const int next = tile_key + T::KEYS;
        if (next <= tile.last_key) {
            copy_rows<D, T::KEYS>(keys + (buffer ^ T::KEYS_BYTES), k + next * in.kv_token_stride, in.kv_token_stride, tile.last_key + 1 - next, in.head_dim);
            copy_rows<D, T::KEYS>(values + (buffer ^ T::KEYS_BYTES), v + next * in.kv_token_stride, in.kv_token_stride, tile.last_key + 1 - next, in.head_dim);
        }
        if (n_warp_rows <= 0 || tile_key > warp_last || next <= earliest_first) continue;
        float scores[T::ROW_BLOCKS][T::KEYS / 8][4];
        multiply_keys<D>(scores, queries + warp_row * T::ROW_BYTES, keys + buffer);
        if (next - 1 > warp_first || tile_key < latest_first) mask_scores<D>(scores, in, warp_first, tile.last_key, tile_key);
        weigh_scores<D>(warp, scores, scale_log2);
        add_values<D>(warp, scores, values + buffer);
    }
    write_out<D>(warp, shared + warp_row * T::ROW_BYTES,
                 static_cast<__nv_bfloat16 *>(in.out) + (tile.first_row + warp_row) * in.out_token_stride + static_cast<int64_t>(tile.q_head) * in.head_dim,
                 in.out_token_stride, n_warp_rows, in.head_dim);
#endif
}

/* ---- f32 -------------------------------------------------------------------------------------------------------------------------
 *
 * 64 queries by 64 keys a block of 256 threads; thread (y, x) owns rows 4 y .. 4 y + 3, of S keys 4 x .. 4 x + 3, of out dims 64 c + 4 x .. + 3. Q and
 * K pass through shared memory in slices of 32 dims, V in slices of 64, so that any head_dim takes 35 KiB. Q, K and P lie there transposed: a thread
 * reads its four rows or keys as one float4. STRIDE spares 4 floats: 16 lanes that write 16 rows of two chunks then meet 32 banks. */
enum { F32_ROWS = 64, F32_THREADS = 256, F32_SLICE = 32, F32_STRIDE = F32_ROWS + 4 };

template <int D> struct f32_sums {
    float out[4][D / 64][4];
    float largest[4], sum[4];       /* the same in the 16 threads of a row */
};

/* Rows `from` on, dims 0 .. 31 of them, to slice[dim][row]; zeros where there are none. A warp takes 16 rows by 32 bytes. */
__device__ __forceinline__ void load_slice(float (*slice)[F32_STRIDE], const float *from, int64_t stride, int n_rows, int n_dims)
{
#pragma unroll
    for (int i = 0; i < F32_ROWS * F32_SLICE / 4 / F32_THREADS; i++) {
        const int index = threadIdx.x + i * F32_THREADS, row = (index & 15) + (index >> 7) * 16, dim = ((index >> 4) & 7) * 4;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < n_rows && dim < n_dims) x = *reinterpret_cast<const float4 *>(from + row * stride + dim);
        slice[dim][row] = x.x;
        slice[dim + 1][row] = x.y;
        slice[dim + 2][row] = x.z;
        slice[dim + 3][row] = x.w;
    }
}

/* Rows `from` on, dims 0 .. 63 of them, to values[row][dim]. */
__device__ __forceinline__ void load_values(float (*values)[F32_ROWS], const float *from, int64_t stride, int n_rows, int n_dims)
{
#pragma unroll
    for (int i = 0; i < F32_ROWS * F32_ROWS / 4 / F32_THREADS; i++) {
        const int index = threadIdx.x + i * F32_THREADS, row = index >> 4, dim = (index & 15) * 4;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < n_rows && dim < n_dims) x = *reinterpret_cast<const float4 *>(from + row * stride + dim);
        *reinterpret_cast<float4 *>(&values[row][dim]) = x;
    }
}

/* c[i][j] += a[i] b[j] */
__device__ __forceinline__ void add_outer(float (&c)[4][4], float4 a, float4 b)
{
    const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) c[i][j] = fmaf(left[i], right[j], c[i][j]);
}

/* As weigh_scores, for the thread's 4 x 4. The difference of scores is taken before it is scaled: what is then rounded is small where weights are not. */
template <int D> __device__ __forceinline__ void weigh_block(f32_sums<D> &sums, float (&scores)[4][4], float scale_log2)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float largest = fmaxf(fmaxf(scores[i][0], scores[i][1]), fmaxf(scores[i][2], scores[i][3]));
#pragma unroll
        for (int lanes = 1; lanes < 16; lanes *= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
        largest = fmaxf(largest, sums.largest[i]);
        const float base = largest == -CUDART_INF_F ? 0.0f : largest;
        const float shrink = exp2f((sums.largest[i] - base) * scale_log2);
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            scores[i][j] = exp2f((scores[i][j] - base) * scale_log2);
            sum += scores[i][j];
        }
#pragma unroll
        for (int lanes = 1; lanes < 16; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        sums.sum[i] = fmaf(sums.sum[i], shrink, sum);
        sums.largest[i] = largest;
#pragma unroll
        for (int c = 0; c < D / 64; c++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums.out[i][c][j] *= shrink;
    }
}

template <int D> __global__ void __launch_bounds__(F32_THREADS) attention_f32_kernel(const __grid_constant__ attention_cuda_input in)
{
    union operands {
        struct {
            float q[F32_SLICE][F32_STRIDE], k[F32_SLICE][F32_STRIDE];
        } slice;
        float v[F32_ROWS][F32_ROWS];
    };
    __shared__ __align__(16) operands shared;
    __shared__ __align__(16) float weights[F32_ROWS][F32_STRIDE];       /* [key][row] */
    const query_tile tile = find_tile<F32_ROWS>(in);
    const float *q = static_cast<const float *>(in.q) + tile.first_row * in.q_token_stride + static_cast<int64_t>(tile.q_head) * in.head_dim;
    const float *k = static_cast<const float *>(in.k) + static_cast<int64_t>(tile.kv_head) * in.head_dim;
    const float *v = static_cast<const float *>(in.v) + static_cast<int64_t>(tile.kv_head) * in.head_dim;
    const int x = threadIdx.x & 15, y = threadIdx.x >> 4, tile_token = tile.last_key - tile.n_rows + 1;
    int first[4], last[4];
    f32_sums<D> sums;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        last[i] = min(tile_token + y * 4 + i, tile.last_key);       /* rows beyond the last query repeat its bounds and are not written */
        first[i] = first_visible(in, last[i]);
        sums.largest[i] = -CUDART_INF_F;
        sums.sum[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < D / 64; c++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums.out[i][c][j] = 0.0f;
    }

    for (int tile_key = tile.first_key / F32_ROWS * F32_ROWS; tile_key <= tile.last_key; tile_key += F32_ROWS) {
        const int n_keys = tile.last_key + 1 - tile_key;
        float scores[4][4] = {};
        for (int dim = 0; dim < in.head_dim; dim += F32_SLICE) {
            __syncthreads();        /* the slice, or the values, before are read */
            load_slice(shared.slice.q, q + dim, in.q_token_stride, tile.n_rows, in.head_dim - dim);
            load_slice(shared.slice.k, k + tile_key * in.kv_token_stride + dim, in.kv_token_stride, n_keys, in.head_dim - dim);
            __syncthreads();
#pragma unroll 8
            for (int d = 0; d < F32_SLICE; d++)
                add_outer(scores, *reinterpret_cast<const float4 *>(&shared.slice.q[d][y * 4]), *reinterpret_cast<const float4 *>(&shared.slice.k[d][x * 4]));
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = tile_key + x * 4 + j;
                if (key < first[i] || key > last[i]) scores[i][j] = -CUDART_INF_F;
            }
        weigh_block<D>(sums, scores, in.scale * LOG2_E);
        /* Whoever read the weights of the tile before has since passed the barriers above. */
#pragma unroll
        for (int j = 0; j < 4; j++)
            *reinterpret_cast<float4 *>(&weights[x * 4 + j][y * 4]) = make_float4(scores[0][j], scores[1][j], scores[2][j], scores[3][j]);
#pragma unroll
        for (int c = 0; c < D / 64; c++) {
            if (c * 64 >= in.head_dim) break;
            __syncthreads();        /* the slices, or the values before, are read */
            load_values(shared.v, v + tile_key * in.kv_token_stride + c * 64, in.kv_token_stride, n_keys, in.head_dim - c * 64);
            __syncthreads();
            float add[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) add[i][j] = sums.out[i][c][j];
#pragma unroll 8
            for (int key = 0; key < F32_ROWS; key++)
                add_outer(add, *reinterpret_cast<const float4 *>(&weights[key][y * 4]), *reinterpret_cast<const float4 *>(&shared.v[key][x * 4]));
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums.out[i][c][j] = add[i][j];
        }
    }

    float *out = static_cast<float *>(in.out) + tile.first_row * in.out_token_stride + static_cast<int64_t>(tile.q_head) * in.head_dim;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = y * 4 + i;
        if (row >= tile.n_rows) continue;
#pragma unroll
        for (int c = 0; c < D / 64; c++) {
            const int dim = c * 64 + x * 4;
            const float *o = sums.out[i][c], sum = sums.sum[i];
            if (dim < in.head_dim)
                *reinterpret_cast<float4 *>(out + row * in.out_token_stride + dim) = make_float4(o[0] / sum, o[1] / sum, o[2] / sum, o[3] / sum);
        }
    }
}

/* ---- launches ---------------------------------------------------------------------------------------------------------------------- */

static bool is_misaligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % 16 != 0; }

static rb_status check_input(const attention_cuda_input *in, rb_error *err)
{
    const int64_t per_16_bytes = in->type == ATTENTION_CUDA_BF16 ? 8 : 4;
    if (in->head_dim < 16 || in->head_dim > 256 || in->head_dim % 16 != 0)
        return rb_fail(err, RB_EINVAL, "attention with head_dim %d, expected a multiple of 16 up to 256", in->head_dim);
    if (in->n_kv_heads < 1 || in->n_q_heads < 1 || in->n_q_heads % in->n_kv_heads != 0)
        return rb_fail(err, RB_EINVAL, "attention with %d query heads and %d KV heads, expected a multiple", in->n_q_heads, in->n_kv_heads);
    if (in->first_query < 0 || in->n_queries < 0 || in->first_query > MAX_TOKENS || in->n_queries > MAX_TOKENS - in->first_query)
        return rb_fail(err, RB_EINVAL, "attention of %lld queries from token %lld on, expected at most %lld tokens", static_cast<long long>(in->n_queries),
                       static_cast<long long>(in->first_query), static_cast<long long>(MAX_TOKENS));
    if (in->sliding_window < 0) return rb_fail(err, RB_EINVAL, "attention with a window of %d keys, expected 0 (none) or more", in->sliding_window);
    if (!(in->scale > 0.0f)) return rb_fail(err, RB_EINVAL, "attention with scale %g, expected above 0", static_cast<double>(in->scale));
    if (is_misaligned(in->q) || is_misaligned(in->k) || is_misaligned(in->v) || is_misaligned(in->out) || in->q_token_stride % per_16_bytes != 0 ||
        in->kv_token_stride % per_16_bytes != 0 || in->out_token_stride % per_16_bytes != 0)
        return rb_fail(err, RB_EINVAL, "attention with token strides %lld, %lld, %lld, expected 16-byte aligned vectors", static_cast<long long>(in->q_token_stride),
                       static_cast<long long>(in->kv_token_stride), static_cast<long long>(in->out_token_stride));
    return RB_OK;
}

static rb_status check_bf16(rb_error *err)
{
    int device = 0, major = 0, minor = 0;
    rb_status st;
    RB_TRY(st, rb_cuda_status(cudaGetDevice(&device), "asking for the GPU", err), done);
    RB_TRY(st, rb_cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "asking the GPU", err), done);
    RB_TRY(st, rb_cuda_status(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "asking the GPU", err), done);
    if (major < 8)
        st = rb_fail(err, RB_EUNSUPPORTED, "bf16 attention on GPU %d of compute capability %d.%d, expected at least 8.0 (f32 runs here)", device, major, minor);
done:
    return st;
}

/* One block a tile and head; the grid's x has 2^31 - 1 of them. */
static rb_status count_blocks(unsigned *n_blocks, const attention_cuda_input *in, int queries_per_block, rb_error *err)
{
    const int64_t n = (in->n_queries + queries_per_block - 1) / queries_per_block * in->n_q_heads;
    if (n > INT32_MAX) return rb_fail(err, RB_EINVAL, "attention in %lld blocks, expected at most %d: fewer queries a call", static_cast<long long>(n), INT32_MAX);
    *n_blocks = static_cast<unsigned>(n);
    return RB_OK;
}

template <int D> static rb_status launch_bf16(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    unsigned n_blocks = 0;
    rb_status st;
    RB_TRY(st, count_blocks(&n_blocks, in, bf16_tile<D>::QUERIES, err), done);
    RB_TRY(st, rb_cuda_status(cudaFuncSetAttribute(attention_bf16_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bf16_tile<D>::SHARED_BYTES),
                              "shared memory for attention", err), done);
    attention_bf16_kernel<D><<<n_blocks, BF16_THREADS, bf16_tile<D>::SHARED_BYTES, stream>>>(*in);
    st = rb_cuda_launched("bf16 attention", err);
done:
    return st;
}

template <int D> static rb_status launch_f32(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    unsigned n_blocks = 0;
    rb_status st;
    RB_TRY(st, count_blocks(&n_blocks, in, F32_ROWS, err), done);
    attention_f32_kernel<D><<<n_blocks, F32_THREADS, 0, stream>>>(*in);
    st = rb_cuda_launched("f32 attention", err);
done:
    return st;
}

static rb_status attention_forward_cuda(const attention_cuda_input *in, void *stream, rb_error *err)
{
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    const bool is_bf16 = in->type == ATTENTION_CUDA_BF16;
    rb_status st;
    RB_TRY(st, check_input(in, err), done);
    if (is_bf16) RB_TRY(st, check_bf16(err), done);
    if (in->n_queries == 0) goto done;
    if (in->head_dim <= 64)
        st = is_bf16 ? launch_bf16<64>(in, on, err) : launch_f32<64>(in, on, err);
    else if (in->head_dim <= 128)
        st = is_bf16 ? launch_bf16<128>(in, on, err) : launch_f32<128>(in, on, err);
    else
        st = is_bf16 ? launch_bf16<256>(in, on, err) : launch_f32<256>(in, on, err);
done:
    return st;
}

extern "C" {
extern const attention_cuda_api rb_attention_cuda;
const attention_cuda_api rb_attention_cuda = {attention_forward_cuda};
}
