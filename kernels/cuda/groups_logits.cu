/* q . k^ straight from packed keys, and the table of the codec's functions: see kernels/cuda/codec_cuda.h.
 *
 * q . k^ = q . c + sum over groups of norm / |y^| * (R q / s) . y^: the rotation moves to the queries, which are few,
 * and a key is read as codes only. One key a lane, queries in batches of 8 that all lanes read at once. */
#include "kernels/cuda/block_codebook_device.cuh"
#include "kernels/cuda/codec_unpack.cuh"

rb_status codec_encode(const codec_device_image *image, const codec_vectors *x, int64_t n, uint8_t *packed, void *norms,
                       uint64_t *first_bad, void *stream, rb_error *err);
rb_status codec_decode(const codec_device_image *image, const uint8_t *packed, const void *norms, int64_t n,
                       const codec_vectors *x_hat, void *stream, rb_error *err);

enum {
    BATCH = 8,        /* queries a key meets at once */
    LOGITS_WARPS = 8, /* of a block */
    WARP_ROWS = 32    /* keys a warp takes at a time, one a lane */
};

struct logits_args {
    codec_device_image image;
    const uint8_t *packed, *norms;
    const float *queries, *rotated;
    float *logits;
    int64_t n;
    int n_queries, n_batches, warp_bytes;
};

/* rotated[head][batch][position][BATCH] = R q / s in coding order. One block a (batch, head), one position a thread. */
__global__ void rotate_queries_kernel(const codec_device_image image, const float *queries, int n_queries,
                                      float *rotated)
{
    extern __shared__ float shared_queries[]; /* [BATCH][head_dim], in coding order */
    const int head_dim = image.head_dim, batch = blockIdx.x, head_index = blockIdx.y;
    const codec_image_head head = image.heads[head_index];
    if (head.n_groups == 0) return;
    for (int i = threadIdx.x; i < BATCH * head_dim; i += blockDim.x) {
        const int query = batch * BATCH + i / head_dim, dim = i % head_dim;
        const float inverse_scale =
            image.inverse_scales[head_index * image.max_columns + image.column[head_index * head_dim + dim]];
        const float value =
            query < n_queries
                ? queries[(static_cast<int64_t>(head_index) * n_queries + query) * head_dim + dim] * inverse_scale
                : 0.0f;
        shared_queries[i / head_dim * head_dim + image.position[head_index * head_dim + dim]] = value;
    }
    __syncthreads();
    const int position = threadIdx.x;
    if (position >= head.n_coded) return;
    int g = head.first_group;
    while (position >= image.groups[g].first + image.groups[g].dims) g++;
    const codec_image_group group = image.groups[g];
    const float *row = image.rotations + group.rotation + (position - group.first) * group.dims;
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
    const codec_device_image &image = args.image;
    const int lane = threadIdx.x & 31, head_dim = image.head_dim;
    for (int i = threadIdx.x / 32; i < BATCH; i += blockDim.x / 32) {
        const int query = batch * BATCH + i;
        float sum = 0.0f;
        for (int dim = lane; query < args.n_queries && dim < head_dim; dim += 32)
            sum = fmaf(args.queries[(static_cast<int64_t>(head_index) * args.n_queries + query) * head_dim + dim],
                       image.centers[head_index * image.max_columns + image.column[head_index * head_dim + dim]], sum);
        for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane == 0) offsets[i] = sum;
    }
}

/* blockIdx: (share of the keys, batch of queries, head). IS_GENERAL the published form: norms may be bytes, and there
 * may be centres and dims of no group. */
template <bool IS_GENERAL> __global__ void __launch_bounds__(LOGITS_WARPS * 32) logits_kernel(logits_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ head_streams streams;
    __shared__ float offsets[BATCH];
    __shared__ int norm_exponents[CODEC_IMAGE_MAX_GROUPS];
    const codec_device_image &image = args.image;
    const int batch = blockIdx.y, head_index = blockIdx.z, head_dim = image.head_dim;
    const codec_image_head head = image.heads[head_index];
    if (head.n_groups == 0) return;
    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;

    uint8_t *next = shared;
    float4 *queries = reinterpret_cast<float4 *>(next); /* [head_dim][BATCH] */
    next += head_dim * BATCH * 4;
    float *books = reinterpret_cast<float *>(next);
    next += (image.max_books * 4 + 15) / 16 * 16;
    uint32_t *pairs = reinterpret_cast<uint32_t *>(next);
    next += head_dim * 2;
    const float4 *from = reinterpret_cast<const float4 *>(
        args.rotated + (static_cast<int64_t>(head_index) * args.n_batches + batch) * head_dim * BATCH);
    block_copy(queries, from, head_dim * BATCH / 4);
    block_copy(books, image.books + head.first_book, head.n_books);
    block_copy(pairs, image.pairs + head_index * (head_dim / 2), head_dim / 2);
    if (warp == 0) {
        const head_streams found = find_streams(image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    next += static_cast<int64_t>(warp) * args.warp_bytes;
    if (IS_GENERAL && threadIdx.x < BATCH) offsets[threadIdx.x] = 0.0f;
    for (int g = threadIdx.x; IS_GENERAL && g < head.n_groups; g += blockDim.x)
        norm_exponents[g] = image.groups[head.first_group + g].norm_exponent;
    uint8_t *norms = next;
    const int n_pairs = (IS_GENERAL ? head.n_coded : head_dim) / 2,
              row_norm_bytes = head.n_groups * (IS_GENERAL ? head.norm_bytes : 2);
    next += WARP_ROWS * 2 * image.max_groups;
    uint32_t *packed = reinterpret_cast<uint32_t *>(next);
    __syncthreads();
    if (IS_GENERAL && head.has_center) {
        add_centers(offsets, args, head_index, batch);
        __syncthreads();
    }

    for (int64_t first = (static_cast<int64_t>(blockIdx.x) * n_warps + warp) * WARP_ROWS; first < args.n;
         first += static_cast<int64_t>(gridDim.x) * n_warps * WARP_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(WARP_ROWS), args.n - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * head.packed_bytes,
                  n_rows * head.packed_bytes);
        warp_copy(norms, args.norms + streams.norms + first * row_norm_bytes, n_rows * row_norm_bytes);
        __syncwarp();
        bit_reader reader = start_reading(packed, lane * head.packed_bytes);
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
                const float norm = IS_GENERAL && head.norm_bytes == 1
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

static rb_status codec_logits(const codec_device_image *image, const uint8_t *packed, const void *norms, int64_t n,
                              const float *queries, int n_queries, float *rotated, float *logits, void *stream_handle,
                              rb_error *err)
{
    const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
    const int n_batches = (n_queries + BATCH - 1) / BATCH;
    const size_t tables = static_cast<size_t>(image->head_dim) * (BATCH * 4 + 2)
                          + round_up(static_cast<size_t>(image->max_books) * 4, 16);
    const size_t warp_bytes = round_up(static_cast<size_t>(WARP_ROWS) * 2 * image->max_groups
                                           + static_cast<size_t>(WARP_ROWS) * image->max_packed_bytes + 16,
                                       128);
    logits_args args = {*image,    packed,    static_cast<const uint8_t *>(norms), queries, rotated, logits, n,
                        n_queries, n_batches, static_cast<int>(warp_bytes)};
    void (*const kernel)(logits_args) = image->is_published ? logits_kernel<false> : logits_kernel<true>;
    codec_device_limits limits;
    int resident = 0;
    rb_status st;
    if (n == 0 || n_queries == 0) return RB_OK;
    if (image->block_codebook.n_block_codebook > 0) {
        st = block_codebook_logits(image, packed, n, queries, n_queries, rotated, logits, stream, err);
        if (st != RB_OK || image->n_grouped == 0) return st;
    }
    rotate_queries_kernel<<<dim3(static_cast<unsigned>(n_batches), static_cast<unsigned>(image->n_heads)),
                            (image->head_dim + 31) / 32 * 32, BATCH * image->head_dim * 4, stream>>>(
        *image, queries, n_queries, rotated);
    st = rb_cuda_launched("query rotation kernel", err);
    if (st == RB_OK) st = find_limits(&limits, err);
    if (st != RB_OK) return st;
    const int warps = warps_that_fit(tables, warp_bytes, limits.shared_bytes - 1024, LOGITS_WARPS);
    if (warps == 0)
        return rb_fail(err, RB_EUNSUPPORTED, "the logits kernel needs %zu bytes of shared memory, the GPU has %d",
                       tables + warp_bytes, limits.shared_bytes);
    const size_t bytes = tables + warps * warp_bytes;
    st = rb_cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), "logits",
        err);
    if (st == RB_OK)
        st = rb_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, warps * 32, bytes),
                            "logits", err);
    if (st != RB_OK) return st;
    const int64_t needed = (n + warps * WARP_ROWS - 1) / (warps * WARP_ROWS);
    int64_t blocks = (static_cast<int64_t>(resident) * limits.n_multiprocessors)
                     / (static_cast<int64_t>(image->n_heads) * n_batches);
    if (blocks > needed) blocks = needed;
    if (blocks < 1) blocks = 1;
    kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(n_batches),
                  static_cast<unsigned>(image->n_heads)),
             warps * 32, bytes, stream>>>(args);
    return rb_cuda_launched("logits kernel", err);
}

extern "C" {
extern const codec_cuda_api rb_codec_cuda;
const codec_cuda_api rb_codec_cuda = {codec_encode, codec_decode, codec_logits};
}
