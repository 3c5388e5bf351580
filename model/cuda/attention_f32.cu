/* Attention in f32: see attention_tile.cuh.
 *
 * A block of 256 threads takes 64 queries by 64 keys. Thread (y, x) owns rows 4 y .. 4 y + 3; of S it owns keys 4 x ..
 * 4 x + 3, and of out dims 64 c + 4 x .. + 3. Q and K pass through shared memory in slices of 32 dims, V in slices of
 * 64, so that any head_dim takes 35 KiB. D: the dims of a value, rounded up. Q, K and P lie there transposed, so that a
 * thread reads its four rows or keys as one float4. STRIDE leaves 4 floats free: then 16 lanes that write 16 rows of
 * two chunks use 32 banks. */
#include "model/cuda/attention_tile.cuh"

enum { F32_ROWS = 64, F32_THREADS = 256, F32_SLICE = 32, F32_STRIDE = F32_ROWS + 4 };

template <int D> struct f32_sums {
    float out[4][D / 64][4];
    float largest[4], sum[4]; /* the same in the 16 threads of a row */
};

/* Copies dims 0 .. 31 of the rows from `from` on to slice[dim][row], with zeros where there is no row. A warp takes 16
 * rows by 32 bytes. */
__device__ __forceinline__ void load_slice(float (*slice)[F32_STRIDE], const float *from, int64_t stride, int n_rows,
                                           int n_dims)
{
#pragma unroll
    for (int i = 0; i < F32_ROWS * F32_SLICE / 4 / F32_THREADS; i++) {
        const int index = threadIdx.x + i * F32_THREADS, row = (index & 15) + (index >> 7) * 16,
                  dim = ((index >> 4) & 7) * 4;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (row < n_rows && dim < n_dims) x = *reinterpret_cast<const float4 *>(from + row * stride + dim);
        slice[dim][row] = x.x;
        slice[dim + 1][row] = x.y;
        slice[dim + 2][row] = x.z;
        slice[dim + 3][row] = x.w;
    }
}

/* Copies dims 0 .. 63 of the rows from `from` on to values[row][dim]. */
__device__ __forceinline__ void load_values(float (*values)[F32_ROWS], const float *from, int64_t stride, int n_rows,
                                            int n_dims)
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

/* Does what weigh_scores does, for the thread's 4 x 4 scores. The difference of scores is taken before it is scaled, so
 * that what is rounded is small where weights are large. */
template <int D> __device__ __forceinline__ void weigh_block(f32_sums<D> &sums, float (&scores)[4][4], float scale_log2)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float largest = fmaxf(fmaxf(scores[i][0], scores[i][1]), fmaxf(scores[i][2], scores[i][3]));
#pragma unroll
        for (int lanes = 1; lanes < 16; lanes *= 2)
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, lanes));
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

template <int D, bool IS_CAPPED>
__global__ void __launch_bounds__(F32_THREADS) attention_f32_kernel(const __grid_constant__ attention_cuda_input in)
{
    union operands {
        struct {
            float q[F32_SLICE][F32_STRIDE], k[F32_SLICE][F32_STRIDE];
        } slice;
        float v[F32_ROWS][F32_ROWS];
    };
    __shared__ __align__(16) operands shared;
    __shared__ __align__(16) float weights[F32_ROWS][F32_STRIDE]; /* [key][row] */
    const query_tile tile = find_tile<F32_ROWS>(in);
    const float *q = static_cast<const float *>(in.q) + tile.first_row * in.q_token_stride
                     + static_cast<int64_t>(tile.q_head) * in.head_dim;
    const int64_t head = tile.kv_head;
    const int x = threadIdx.x & 15, y = threadIdx.x >> 4;
    f32_sums<D> sums;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sums.largest[i] = -CUDART_INF_F;
        sums.sum[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < D / 64; c++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums.out[i][c][j] = 0.0f;
    }

    for (int s = 0; s < n_sources(in); s++) {
        const key_source source = source_of(in, s);
        const float *k = static_cast<const float *>(source.k) + head * in.head_dim,
                    *v = static_cast<const float *>(source.v) + head * in.value_dim;
        const int last_key = tile.last_token - source.nearest;
        int first[4], last[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            /* Rows beyond the last query repeat its bounds and are not written. */
            const int token = min(tile.first_token + y * 4 + i, tile.last_token);
            first[i] = first_visible(in, source, token);
            last[i] = token - source.nearest;
        }
        for (int tile_key = first_visible(in, source, tile.first_token) / F32_ROWS * F32_ROWS; tile_key <= last_key;
             tile_key += F32_ROWS) {
            const int n_keys = last_key + 1 - tile_key;
            float scores[4][4] = {};
            for (int dim = 0; dim < in.head_dim; dim += F32_SLICE) {
                __syncthreads(); /* everybody has read the slice, or the values, before */
                load_slice(shared.slice.q, q + dim, in.q_token_stride, tile.n_rows, in.head_dim - dim);
                load_slice(shared.slice.k, k + tile_key * in.k_token_stride + dim, in.k_token_stride, n_keys,
                           in.head_dim - dim);
                __syncthreads();
#pragma unroll 8
                for (int d = 0; d < F32_SLICE; d++)
                    add_outer(scores, *reinterpret_cast<const float4 *>(&shared.slice.q[d][y * 4]),
                              *reinterpret_cast<const float4 *>(&shared.slice.k[d][x * 4]));
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int key = tile_key + x * 4 + j;
                    if (IS_CAPPED) scores[i][j] = cap_score(in, scores[i][j]);
                    if (key < first[i] || key > last[i]) scores[i][j] = -CUDART_INF_F;
                }
            weigh_block<D>(sums, scores, score_scale<IS_CAPPED>(in));
            /* All readers of the weights of the tile before have passed the barriers above. */
#pragma unroll
            for (int j = 0; j < 4; j++)
                *reinterpret_cast<float4 *>(&weights[x * 4 + j][y * 4]) =
                    make_float4(scores[0][j], scores[1][j], scores[2][j], scores[3][j]);
#pragma unroll
            for (int c = 0; c < D / 64; c++) {
                if (c * 64 >= in.value_dim) break;
                __syncthreads(); /* everybody has read the slices, or the values before */
                load_values(shared.v, v + tile_key * in.v_token_stride + c * 64, in.v_token_stride, n_keys,
                            in.value_dim - c * 64);
                __syncthreads();
                float add[4][4];
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) add[i][j] = sums.out[i][c][j];
#pragma unroll 8
                for (int key = 0; key < F32_ROWS; key++)
                    add_outer(add, *reinterpret_cast<const float4 *>(&weights[key][y * 4]),
                              *reinterpret_cast<const float4 *>(&shared.v[key][x * 4]));
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) sums.out[i][c][j] = add[i][j];
            }
        }
    }

    float *out = static_cast<float *>(in.out) + tile.first_row * in.out_token_stride
                 + static_cast<int64_t>(tile.q_head) * in.value_dim;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = y * 4 + i;
        if (row >= tile.n_rows) continue;
#pragma unroll
        for (int c = 0; c < D / 64; c++) {
            const int dim = c * 64 + x * 4;
            const float *o = sums.out[i][c], sum = sums.sum[i];
            if (dim < in.value_dim)
                *reinterpret_cast<float4 *>(out + row * in.out_token_stride + dim) =
                    make_float4(o[0] / sum, o[1] / sum, o[2] / sum, o[3] / sum);
        }
    }
}

template <int D> static rb_status launch(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    unsigned n_blocks = 0;
    rb_status st;
    RB_TRY(st, count_blocks(&n_blocks, in, F32_ROWS, err), done);
    if (in->softcap > 0.0f) attention_f32_kernel<D, true><<<n_blocks, F32_THREADS, 0, stream>>>(*in);
    else attention_f32_kernel<D, false><<<n_blocks, F32_THREADS, 0, stream>>>(*in);
    st = rb_cuda_launched("f32 attention", err);
done:
    return st;
}

rb_status attention_f32(const attention_cuda_input *in, cudaStream_t stream, rb_error *err)
{
    if (in->value_dim <= 64) return launch<64>(in, stream, err);
    if (in->value_dim <= 128) return launch<128>(in, stream, err);
    return launch<256>(in, stream, err);
}
