/* Attention on the tensor cores: see attention_tile.cuh.
 *
 * A warp owns 16 or 32 rows. S = Q K^T lies in its registers as the accumulators of m16n8k16, which after packing to
 * bf16 are the left operand of P V, so the weights never leave them. With 32 rows a warp reads each fragment of keys
 * and values once for two products. With 16 rows shared memory (128 bytes a cycle) would limit the speed, and not the
 * tensor cores. Heads of 256 dims have room for 16 rows only.
 *
 * D is the dims of a query or key, V those of a value, both rounded up, V <= D.
 *
 * Shared memory: Q [QUERIES][D], then two buffers each of K [KEYS][D] and V [KEYS][V]; while a tile is multiplied the
 * next one arrives. The 16-byte chunk c of row r lies at place c ^ (r & 7) of its row, so that the 8 rows of an
 * ldmatrix meet all banks. Dims beyond a head's and rows beyond the last are zero. */
#include <cuda_bf16.h>

#include "model/cuda/attention_tile.cuh"

enum { BF16_WARPS = 4, BF16_THREADS = BF16_WARPS * 32 };

template <int D, int V> struct bf16_tile {
    static constexpr int ROW_BLOCKS = D == 256 ? 1 : 2; /* of 16 rows, a warp's */
    static constexpr int KEYS = D == 256 ? 32 : 64;
    static constexpr int ROWS = 16 * ROW_BLOCKS; /* a warp's */
    static constexpr int QUERIES = BF16_WARPS * ROWS;
    static constexpr int ROW_BYTES = D * 2, KEYS_BYTES = KEYS * ROW_BYTES, VALUES_BYTES = KEYS * V * 2;
    static constexpr int SHARED_BYTES = QUERIES * ROW_BYTES + 2 * KEYS_BYTES + 2 * VALUES_BYTES;
    static_assert(SHARED_BYTES <= 99 * 1024, "what a block of compute capability 8.6 and 8.9 can have");
    static_assert(V <= D, "rows of out pass through the place of Q");
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

/* In rows of W dims. */
template <int W> __device__ __forceinline__ uint32_t chunk_at(int row, int chunk)
{
    return static_cast<uint32_t>(row * W * 2 + ((chunk ^ (row & 7)) << 4));
}

/* Copies N_ROWS rows from `from` on, of which n_valid exist, into rows of W dims. For the others, and for dims from
 * n_dims on, nothing is read and zeros are written. */
template <int W, int N_ROWS>
__device__ __forceinline__ void copy_rows(uint32_t to, const __nv_bfloat16 *from, int64_t stride, int n_valid,
                                          int n_dims)
{
    constexpr int CHUNKS = W / 8, STEP = BF16_THREADS / CHUNKS;
    static_assert(BF16_THREADS % CHUNKS == 0, "a thread copies the same chunk of every row it copies");
    const int chunk = threadIdx.x % CHUNKS, first = threadIdx.x / CHUNKS;
    const int n_rows = chunk * 8 < n_dims ? n_valid : 0;
    const __nv_bfloat16 *at = from + first * stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < N_ROWS / STEP; i++) {
        const int row = first + i * STEP;
        const __nv_bfloat16 *source = row < n_rows ? at : from;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + chunk_at<W>(row, chunk)), "l"(source),
                     "r"(row < n_rows ? 16 : 0)
                     : "memory");
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
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
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

/* What a warp's lane keeps. In the accumulators lane l has columns 2 (l % 4) and the next one of rows l / 4 and l / 4 +
 * 8. Its rows r are counted from 0 through the row blocks: row r is in values [r / 2][..][r % 2 * 2] and the next
 * one. */
template <int D, int V> struct bf16_warp {
    typedef bf16_tile<D, V> T;
    static constexpr int LANE_ROWS = 2 * T::ROW_BLOCKS;
    float out[T::ROW_BLOCKS][V / 8][4];
    float largest[LANE_ROWS], sum[LANE_ROWS]; /* unscaled score; sum of the lane's own columns */
};

template <int D, int V> using bf16_scores = float[bf16_tile<D, V>::ROW_BLOCKS][bf16_tile<D, V>::KEYS / 8][4];

/* scores = Q K^T, keys a tile at `keys`, the warp's rows of Q at `queries`. */
template <int D, int V>
__device__ __forceinline__ void multiply_keys(bf16_scores<D, V> &scores, uint32_t queries, uint32_t keys)
{
    typedef bf16_tile<D, V> T;
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
        for (int b = 0; b < T::ROW_BLOCKS; b++)
            load_matrices(q[b], queries + chunk_at<D>(b * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < T::KEYS / 16; n++) {
            uint32_t k[4]; /* keys 0-7 by dims 0-7, 8-15; keys 8-15 likewise */
            load_matrices(k, keys + chunk_at<D>(n * 16 + key, step * 2 + ((lane >> 3) & 1)));
#pragma unroll
            for (int b = 0; b < T::ROW_BLOCKS; b++) {
                multiply(scores[b][2 * n], q[b], k[0], k[1]);
                multiply(scores[b][2 * n + 1], q[b], k[2], k[3]);
            }
        }
    }
}

template <int D, int V>
__device__ __forceinline__ void cap_scores(bf16_scores<D, V> &scores, const attention_cuda_input &in)
{
#pragma unroll
    for (int b = 0; b < bf16_tile<D, V>::ROW_BLOCKS; b++)
#pragma unroll
        for (int n = 0; n < bf16_tile<D, V>::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) scores[b][n][e] = cap_score(in, scores[b][n][e]);
}

/* Keys that a row does not see get -infinity. The bounds are computed again each time, because few tiles need them and
 * registers are scarce. */
template <int D, int V>
__device__ __forceinline__ void mask_scores(bf16_scores<D, V> &scores, const attention_cuda_input &in,
                                            const key_source &source, int warp_first, int last_token, int tile_key)
{
    const int lane = threadIdx.x & 31, lane_key = tile_key + (lane & 3) * 2;
#pragma unroll
    for (int r = 0; r < bf16_warp<D, V>::LANE_ROWS; r++) {
        /* Rows beyond the last query repeat its bounds and are not written. */
        const int token = min(warp_first + (r >> 1) * 16 + (r & 1) * 8 + (lane >> 2), last_token);
        const int first = first_visible(in, source, token), last = token - source.nearest;
#pragma unroll
        for (int n = 0; n < bf16_tile<D, V>::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int key = lane_key + n * 8 + e;
                if (key < first || key > last) scores[r >> 1][n][(r & 1) * 2 + e] = -CUDART_INF_F;
            }
    }
}

/* Turns scores into weights relative to the largest score so far, and scales what was summed relative to the previous
 * one. A row that has seen no key yet has -infinity there; its weights and sums stay 0. */
template <int D, int V>
__device__ __forceinline__ void weigh_scores(bf16_warp<D, V> &warp, bf16_scores<D, V> &scores, float scale_log2)
{
#pragma unroll
    for (int r = 0; r < bf16_warp<D, V>::LANE_ROWS; r++) {
        const int b = r >> 1, half = (r & 1) * 2;
        float largest = warp.largest[r];
#pragma unroll
        for (int n = 0; n < bf16_tile<D, V>::KEYS / 8; n++)
            largest = fmaxf(largest, fmaxf(scores[b][n][half], scores[b][n][half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        const float base = largest == -CUDART_INF_F ? 0.0f : largest * scale_log2;
        /* Exactly 1 where the largest score stays, so that a tile without visible keys changes nothing. */
        const float shrink = warp.largest[r] == largest ? 1.0f : exp2_fast(fmaf(warp.largest[r], scale_log2, -base));
        warp.largest[r] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < bf16_tile<D, V>::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float weight = exp2_fast(fmaf(scores[b][n][half + e], scale_log2, -base));
                scores[b][n][half + e] = weight;
                sum += weight;
            }
        warp.sum[r] = fmaf(warp.sum[r], shrink, sum);
#pragma unroll
        for (int n = 0; n < V / 8; n++) {
            warp.out[b][n][half] *= shrink;
            warp.out[b][n][half + 1] *= shrink;
        }
    }
}

/* out += P V, values a tile at `values`. */
template <int D, int V>
__device__ __forceinline__ void add_values(bf16_warp<D, V> &warp, const bf16_scores<D, V> &weights, uint32_t values)
{
    typedef bf16_tile<D, V> T;
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int step = 0; step < T::KEYS / 16; step++) {
        uint32_t p[T::ROW_BLOCKS][4];
#pragma unroll
        for (int b = 0; b < T::ROW_BLOCKS; b++) {
            const float(&left)[4] = weights[b][2 * step], (&right)[4] = weights[b][2 * step + 1];
            p[b][0] = pack(left[0], left[1]);
            p[b][1] = pack(left[2], left[3]);
            p[b][2] = pack(right[0], right[1]);
            p[b][3] = pack(right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < V / 16; n++) {
            uint32_t v[4]; /* dims 0-7 by keys 0-7, 8-15; dims 8-15 likewise */
            load_transposed(v, values + chunk_at<V>(step * 16 + (lane & 15), n * 2 + (lane >> 4)));
#pragma unroll
            for (int b = 0; b < T::ROW_BLOCKS; b++) {
                multiply(warp.out[b][2 * n], p[b], v[0], v[1]);
                multiply(warp.out[b][2 * n + 1], p[b], v[2], v[3]);
            }
        }
    }
}

/* Divides by the sum and writes rows of out in 16-byte pieces, by way of the warp's own rows of Q in shared memory,
 * which nobody reads any more. */
template <int D, int V>
__device__ __forceinline__ void write_out(bf16_warp<D, V> &warp, char *rows, __nv_bfloat16 *out, int64_t stride,
                                          int n_rows, int n_dims)
{
    constexpr int CHUNKS = V / 8;
    const int lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < bf16_warp<D, V>::LANE_ROWS; r++) {
        const int b = r >> 1, half = (r & 1) * 2, row = b * 16 + (r & 1) * 8 + (lane >> 2);
        float sum = warp.sum[r] + __shfl_xor_sync(0xffffffffu, warp.sum[r], 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inverse = 1.0f / sum;
#pragma unroll
        for (int n = 0; n < V / 8; n++)
            *reinterpret_cast<uint32_t *>(rows + chunk_at<V>(row, n) + (lane & 3) * 4) =
                pack(warp.out[b][n][half] * inverse, warp.out[b][n][half + 1] * inverse);
    }
    __syncwarp();
    const int chunk = lane % CHUNKS;
    if (chunk * 8 >= n_dims) return;
#pragma unroll 4
    for (int row = lane / CHUNKS; row < n_rows; row += 32 / CHUNKS)
        *reinterpret_cast<uint4 *>(out + row * stride + chunk * 8) =
            *reinterpret_cast<const uint4 *>(rows + chunk_at<V>(row, chunk));
}

#endif

/* A block takes one tile of queries of one head. Two blocks on a multiprocessor hide each other's barriers and
 * softmax. */
template <int D, int V, bool IS_CAPPED>
__global__ void __launch_bounds__(BF16_THREADS, 2)
    attention_bf16_kernel(const __grid_constant__ attention_cuda_input in)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    typedef bf16_tile<D, V> T;
    constexpr int LANE_ROWS = bf16_warp<D, V>::LANE_ROWS;
    extern __shared__ __align__(128) char shared[];
    const uint32_t queries = static_cast<uint32_t>(__cvta_generic_to_shared(shared)),
                   keys = queries + T::QUERIES * T::ROW_BYTES, values = keys + 2 * T::KEYS_BYTES;
    const query_tile tile = find_tile<T::QUERIES>(in);
    const __nv_bfloat16 *q = static_cast<const __nv_bfloat16 *>(in.q) + tile.first_row * in.q_token_stride
                             + static_cast<int64_t>(tile.q_head) * in.head_dim;
    const int64_t head = tile.kv_head;
    const int warp_row = static_cast<int>(threadIdx.x / 32) * T::ROWS,
              n_warp_rows = min(T::ROWS, tile.n_rows - warp_row);
    const int warp_first = tile.first_token + warp_row, warp_last = min(warp_first + T::ROWS - 1, tile.last_token);
    const float scale_log2 = score_scale<IS_CAPPED>(in);

    bf16_warp<D, V> warp;
#pragma unroll
    for (int r = 0; r < LANE_ROWS; r++) {
        warp.largest[r] = -CUDART_INF_F;
        warp.sum[r] = 0.0f;
#pragma unroll
        for (int n = 0; n < V / 8; n++) warp.out[r >> 1][n][(r & 1) * 2] = warp.out[r >> 1][n][(r & 1) * 2 + 1] = 0.0f;
    }

    copy_rows<D, T::QUERIES>(queries, q, in.q_token_stride, tile.n_rows, in.head_dim);
    for (int s = 0; s < n_sources(in); s++) {
        const key_source source = source_of(in, s);
        const __nv_bfloat16 *k = static_cast<const __nv_bfloat16 *>(source.k) + head * in.head_dim,
                            *v = static_cast<const __nv_bfloat16 *>(source.v) + head * in.value_dim;
        const int last_key = tile.last_token - source.nearest;
        int tile_key = first_visible(in, source, tile.first_token) / T::KEYS * T::KEYS, buffer = 0;
        if (tile_key > last_key) continue;
        /* These bounds decide whether a tile of keys concerns the warp, and whether it must be masked. */
        const int earliest_first = first_visible(in, source, min(warp_first, tile.last_token)),
                  latest_first = first_visible(in, source, warp_last);
        if (s > 0) __syncthreads(); /* everybody is done with the buffers */
        copy_rows<D, T::KEYS>(keys, k + tile_key * in.k_token_stride, in.k_token_stride, last_key + 1 - tile_key,
                              in.head_dim);
        copy_rows<V, T::KEYS>(values, v + tile_key * in.v_token_stride, in.v_token_stride, last_key + 1 - tile_key,
                              in.value_dim);
        for (; tile_key <= last_key; tile_key += T::KEYS, buffer ^= 1) {
            /* After the barrier all parts of this tile are here, and all warps are done with the tile before, whose
             * buffer the next one takes. */
            wait_for_copies();
            __syncthreads();
            const int next = tile_key + T::KEYS;
            if (next <= last_key) {
                copy_rows<D, T::KEYS>(keys + (buffer ^ 1) * T::KEYS_BYTES, k + next * in.k_token_stride,
                                      in.k_token_stride, last_key + 1 - next, in.head_dim);
                copy_rows<V, T::KEYS>(values + (buffer ^ 1) * T::VALUES_BYTES, v + next * in.v_token_stride,
                                      in.v_token_stride, last_key + 1 - next, in.value_dim);
            }
            if (n_warp_rows <= 0 || tile_key > warp_last - source.nearest || next <= earliest_first) continue;
            bf16_scores<D, V> scores;
            multiply_keys<D, V>(scores, queries + warp_row * T::ROW_BYTES, keys + buffer * T::KEYS_BYTES);
            if (IS_CAPPED) cap_scores<D, V>(scores, in);
            if (next - 1 > warp_first - source.nearest || tile_key < latest_first)
                mask_scores<D, V>(scores, in, source, warp_first, tile.last_token, tile_key);
            weigh_scores<D, V>(warp, scores, scale_log2);
            add_values<D, V>(warp, scores, values + buffer * T::VALUES_BYTES);
        }
    }
    write_out<D, V>(warp, shared + warp_row * T::ROW_BYTES,
                    static_cast<__nv_bfloat16 *>(in.out) + (tile.first_row + warp_row) * in.out_token_stride
                        + static_cast<int64_t>(tile.q_head) * in.value_dim,
                    in.out_token_stride, n_warp_rows, in.value_dim);
#endif
}

template <int D, int V, bool IS_CAPPED>
static rb_status launch_kernel(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    typedef bf16_tile<D, V> T;
    unsigned n_blocks = 0;
    rb_status st;
    RB_TRY(st, count_blocks(&n_blocks, in, T::QUERIES, err), done);
    RB_TRY(st,
           rb_cuda_status(cudaFuncSetAttribute(attention_bf16_kernel<D, V, IS_CAPPED>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, T::SHARED_BYTES),
                          "shared memory for attention", err),
           done);
    attention_bf16_kernel<D, V, IS_CAPPED><<<n_blocks, BF16_THREADS, T::SHARED_BYTES, stream>>>(*in);
    st = rb_cuda_launched("bf16 attention", err);
done:
    return st;
}

template <int D, int V> static rb_status launch(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    return in->softcap > 0.0f ? launch_kernel<D, V, true>(in, stream, err)
                              : launch_kernel<D, V, false>(in, stream, err);
}

rb_status attention_bf16(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    const int largest = in->head_dim > in->value_dim ? in->head_dim : in->value_dim;
    if (largest <= 64) return launch<64, 64>(in, stream, err);
    if (largest <= 128) return launch<128, 128>(in, stream, err);
    if (in->value_dim <= 128) return launch<256, 128>(in, stream, err);
    return launch<256, 256>(in, stream, err);
}
