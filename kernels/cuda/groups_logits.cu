/* q . k^ straight from packed keys of family groups: see kernels/cuda/codec_cuda.h.
 *
 * q . k^ = q . c + sum over groups of norm / |y^| * (R q / s) . y^: the rotation moves to the queries, which are few,
 * and a key is read as codes only. One key a lane, queries in batches of 8 that all lanes read at once. */
#include "kernels/cuda/codec_bits.cuh"
#include "kernels/cuda/codec_kernels.cuh"
#include "kernels/cuda/codec_launch.cuh"

enum {
    BATCH = 8,        /* queries a key meets at once */
    LOGITS_WARPS = 8, /* of a block */
    WARP_ROWS = 32    /* keys a warp takes at a time, one a lane */
};

struct logits_args {
    codec_image image;     /* on the device */
    const uint8_t *packed; /* [n_heads] streams of [n][packed_bytes] u8 */
    const uint8_t *norms;  /* [n_heads] streams of [n][n_groups] fp16 or u8 */
    const float *queries;  /* [n_heads][n_queries][head_dim] f32 */
    const float *rotated;  /* [n_heads][n_batches][head_dim][BATCH] f32 */
    float *logits;         /* [n_heads][n_queries][n] f32 */
    int64_t n;
    int n_queries, n_batches, warp_bytes;
};

/* ---- queries --------------------------------------------------------------------------------- */

/* rotated[head][batch][position][BATCH] = R q / s in coding order. One block a (batch, head), one position a thread. */
__global__ void rotate_queries_kernel(const codec_image image,
                                      const float *queries,          /* [n_heads][n_queries][head_dim] f32 */
                                      int n_queries, float *rotated) /* [n_heads][n_batches][head_dim][BATCH] f32 */
{
    extern __shared__ float shared_queries[]; /* [BATCH][head_dim], in coding order */
    const groups_image &own = image.groups;
    const int head_dim = image.head_dim, batch = blockIdx.x, head_index = blockIdx.y;
    const groups_image_head head = own.heads[head_index];
    for (int i = threadIdx.x; i < BATCH * head_dim; i += blockDim.x) {
        const int query = batch * BATCH + i / head_dim, dim = i % head_dim;
        const float inverse_scale =
            own.inverse_scales[head_index * own.max_columns + own.column[head_index * head_dim + dim]];
        const float value =
            query < n_queries
                ? queries[(static_cast<int64_t>(head_index) * n_queries + query) * head_dim + dim] * inverse_scale
                : 0.0f;
        shared_queries[i / head_dim * head_dim + own.position[head_index * head_dim + dim]] = value;
    }
    __syncthreads();
    const int position = threadIdx.x;
    if (position >= head.n_coded) return;
    int g = head.first_group;
    while (position >= own.at[g].first + own.at[g].dims) g++;
    const groups_image_group group = own.at[g];
    const float *row = own.rotations + group.rotation + (position - group.first) * group.dims;
    float sum[BATCH] = {};
    for (int j = 0; j < group.dims; j++) {
        const float r = row[j];
#pragma unroll
        for (int i = 0; i < BATCH; i++) sum[i] = fmaf(r, shared_queries[i * head_dim + group.first + j], sum[i]);
    }
    float *out = rotated + ((static_cast<int64_t>(head_index) * gridDim.x + batch) * head_dim + position) * BATCH;
#pragma unroll
    for (int i = 0; i < BATCH; i++) out[i] = sum[i];
}

/* q . c of the batch's queries, a warp each. */
__device__ __forceinline__ void add_centers(float *offsets, const logits_args &args, int head_index, int batch)
{
    const groups_image &own = args.image.groups;
    const int lane = threadIdx.x & 31, head_dim = args.image.head_dim;
    for (int i = threadIdx.x / 32; i < BATCH; i += blockDim.x / 32) {
        const int query = batch * BATCH + i;
        float sum = 0.0f;
        for (int dim = lane; query < args.n_queries && dim < head_dim; dim += 32)
            sum = fmaf(args.queries[(static_cast<int64_t>(head_index) * args.n_queries + query) * head_dim + dim],
                       own.centers[head_index * own.max_columns + own.column[head_index * head_dim + dim]], sum);
        for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane == 0) offsets[i] = sum;
    }
}

/* ---- keys ------------------------------------------------------------------------------------ */

/* A pair of coding positions as the image describes it (groups_image.h, `pairs`). */
struct pair_facts {
    int width, group, centroids;
    bool is_last;
};

__device__ __forceinline__ pair_facts read_pair(uint32_t word)
{
    return {static_cast<int>(word & 0xff), static_cast<int>(word >> 8 & 0x7f), static_cast<int>(word >> 16),
            (word & 0x8000u) != 0};
}

/* The centroids of the next two codes. */
__device__ __forceinline__ float2 read_centroids(bit_reader &reader, const pair_facts &pair, const float *books)
{
    const uint32_t codes = read_bits(reader, 2 * pair.width);
    const float *centroids = books + pair.centroids;
    return make_float2(centroids[codes & ((1u << pair.width) - 1)], centroids[codes >> pair.width]);
}

/* blockIdx: (share of the keys, batch of queries, head). IS_GENERAL: not the published form. Then norms may be bytes,
 * and there may be centres and dims of no group. */
template <bool IS_GENERAL> __global__ void __launch_bounds__(LOGITS_WARPS * 32) logits_kernel(logits_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ float offsets[BATCH]; /* q . c */
    __shared__ int norm_exponents[GROUPS_MAX_GROUPS];
    const codec_image &image = args.image;
    const groups_image &own = image.groups;
    const int batch = blockIdx.y, head_index = blockIdx.z, head_dim = image.head_dim;
    const groups_image_head head = own.heads[head_index];
    const codec_image_head stream = image.heads[head_index];
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;

    uint8_t *next = shared;
    float4 *queries = reinterpret_cast<float4 *>(next); /* [head_dim][BATCH] */
    next += head_dim * BATCH * 4;
    float *books = reinterpret_cast<float *>(next);
    next += (own.max_books * 4 + 15) / 16 * 16;
    uint32_t *pairs = reinterpret_cast<uint32_t *>(next);
    next += head_dim * 2;
    const float4 *from = reinterpret_cast<const float4 *>(
        args.rotated + (static_cast<int64_t>(head_index) * args.n_batches + batch) * head_dim * BATCH);
    block_copy(queries, from, head_dim * BATCH / 4);
    block_copy(books, own.books + head.first_book, head.n_books);
    block_copy(pairs, own.pairs + head_index * (head_dim / 2), head_dim / 2);
    if (warp == 0) {
        const head_streams found = find_streams(image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    next += static_cast<int64_t>(warp) * args.warp_bytes;
    if (IS_GENERAL && threadIdx.x < BATCH) offsets[threadIdx.x] = 0.0f;
    for (int g = threadIdx.x; IS_GENERAL && g < head.n_groups; g += blockDim.x)
        norm_exponents[g] = own.at[head.first_group + g].norm_exponent;
    uint8_t *norms = next;
    const int n_pairs = (IS_GENERAL ? head.n_coded : head_dim) / 2,
              row_norm_bytes = head.n_groups * (IS_GENERAL ? stream.norm_bytes : 2);
    next += WARP_ROWS * 2 * image.max_norms;
    uint32_t *packed = reinterpret_cast<uint32_t *>(next);
    __syncthreads();
    if (IS_GENERAL && head.has_center) {
        add_centers(offsets, args, head_index, batch);
        __syncthreads();
    }

    for (int64_t first = (static_cast<int64_t>(blockIdx.x) * n_warps + warp) * WARP_ROWS; first < args.n;
         first += static_cast<int64_t>(gridDim.x) * n_warps * WARP_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * stream.packed_bytes,
                  n_rows * stream.packed_bytes);
        warp_copy(norms, args.norms + streams.norms + first * row_norm_bytes, n_rows * row_norm_bytes);
        __syncwarp();
        bit_reader reader = start_reading(packed, lane * stream.packed_bytes);
        float total[BATCH], sum[BATCH] = {}, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < BATCH; i++) total[i] = IS_GENERAL ? offsets[i] : 0.0f;
        for (int p = 0; p < n_pairs; p++) {
            const pair_facts pair = read_pair(pairs[p]);
            const float2 y = read_centroids(reader, pair, books);
            squares = fmaf(y.x, y.x, fmaf(y.y, y.y, squares));
            const float4 *q = queries + p * 2 * BATCH / 4;
            const float4 a = q[0], b = q[1], c = q[2], d = q[3];
            sum[0] = fmaf(y.x, a.x, fmaf(y.y, c.x, sum[0]));
            sum[1] = fmaf(y.x, a.y, fmaf(y.y, c.y, sum[1]));
            sum[2] = fmaf(y.x, a.z, fmaf(y.y, c.z, sum[2]));
            sum[3] = fmaf(y.x, a.w, fmaf(y.y, c.w, sum[3]));
            sum[4] = fmaf(y.x, b.x, fmaf(y.y, d.x, sum[4]));
            sum[5] = fmaf(y.x, b.y, fmaf(y.y, d.y, sum[5]));
            sum[6] = fmaf(y.x, b.z, fmaf(y.y, d.z, sum[6]));
            sum[7] = fmaf(y.x, b.w, fmaf(y.y, d.w, sum[7]));
            if (pair.is_last) {
                const int at = lane * head.n_groups + pair.group;
                const float norm = IS_GENERAL && stream.norm_bytes == 1
                                       ? norm_of_byte(norms[at], norm_exponents[pair.group])
                                       : __half2float(__ushort_as_half(reinterpret_cast<const uint16_t *>(norms)[at]));
                const float factor = squares > 0.0f ? norm * rsqrtf(squares) : 0.0f;
#pragma unroll
                for (int i = 0; i < BATCH; i++) {
                    total[i] = fmaf(factor, sum[i], total[i]);
                    sum[i] = 0.0f;
                }
                squares = 0.0f;
            }
        }
        if (lane < n_rows)
#pragma unroll
            for (int i = 0; i < BATCH; i++)
                if (batch * BATCH + i < args.n_queries)
                    args.logits[(static_cast<int64_t>(head_index) * args.n_queries + batch * BATCH + i) * args.n + first
                                + lane] = total[i];
        __syncwarp();
    }
}

static rb_status rotate_queries(const codec_logits_call &call, unsigned n_batches, rb_error *err)
{
    const int head_dim = call.image.head_dim;
    rotate_queries_kernel<<<dim3(n_batches, static_cast<unsigned>(call.image.n_heads)), (head_dim + 31) / 32 * 32,
                            BATCH * head_dim * 4, call.stream>>>(call.image, call.queries, call.n_queries,
                                                                 call.rotated);
    return rb_cuda_launched("query rotation kernel", err);
}

rb_status groups_logits(const codec_logits_call &call, rb_error *err)
{
    const codec_image &image = call.image;
    const int n_batches = (call.n_queries + BATCH - 1) / BATCH;
    const size_t tables = static_cast<size_t>(image.head_dim) * (BATCH * 4 + 2)
                          + round_up(static_cast<size_t>(image.groups.max_books) * 4, 16);
    const size_t warp_bytes = round_up(static_cast<size_t>(WARP_ROWS) * 2 * image.max_norms
                                           + static_cast<size_t>(WARP_ROWS) * image.max_packed_bytes + 16,
                                       128);
    const launch_request want = {"logits kernel",
                                 LOGITS_WARPS,
                                 tables,
                                 warp_bytes,
                                 count_tiles(call.n, WARP_ROWS),
                                 static_cast<unsigned>(n_batches),
                                 static_cast<unsigned>(image.n_heads)};
    const logits_args args = {image,       call.packed, call.norms,     call.queries, call.rotated,
                              call.logits, call.n,      call.n_queries, n_batches,    static_cast<int>(warp_bytes)};
    const rb_status st = rotate_queries(call, static_cast<unsigned>(n_batches), err);
    if (st != RB_OK) return st;
    return launch(image.groups.is_published ? logits_kernel<false> : logits_kernel<true>, args, want, 1, nullptr,
                  call.stream, err);
}
