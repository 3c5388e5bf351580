/* q . k^ straight from packed keys of family trellis: q . c + g sum_i y^_i (B_i . q). The basis moves to the queries,
 * which are few; a key is read as codes only, one key a lane, four coordinates at a time. Queries in batches of 8, or
 * of 4 where there are no more, that all lanes read at once. */
#include "kernels/cuda/trellis_device.cuh"

enum { BATCH = 8, LOGITS_WARPS = 8, LOGITS_ROWS = 32 };

struct trellis_logits_args {
    codec_image image;      /* on the device */
    const uint8_t *packed;  /* [n_heads] streams of [n][packed_bytes] u8 */
    const float *queries;   /* [n_heads][n_queries][head_dim] f32 */
    const float *projected; /* [n_heads][n_batches][n_dims][BATCH] f32: B_i . q */
    float *logits;          /* [n_heads][n_queries][n] f32 */
    int64_t n;
    int n_queries, warp_bytes;
};

/* projected[head][batch][coordinate][BATCH] = B_i . q, 0 of a coordinate without bits. One block a (batch, head), a
 * coordinate a thread. */
__global__ void project_queries_kernel(const trellis_image own,
                                       const float *queries,            /* [n_heads][n_queries][head_dim] f32 */
                                       int n_queries, float *projected) /* [n_heads][n_batches][n_dims][BATCH] f32 */
{
    extern __shared__ __align__(16) float shared_queries[]; /* [n_dims][BATCH] */
    const int batch = blockIdx.x, head_index = blockIdx.y, n = own.n_dims, i = threadIdx.x;
    for (int at = threadIdx.x; at < n * BATCH; at += blockDim.x) {
        const int query = batch * BATCH + at / n;
        shared_queries[at % n * BATCH + at / n] =
            query < n_queries ? queries[(static_cast<int64_t>(head_index) * n_queries + query) * n + at % n] : 0.0f;
    }
    __syncthreads();
    if (i >= n) return;
    const __half *basis = reinterpret_cast<const __half *>(own.basis) + static_cast<int64_t>(head_index) * n * n + i;
    float sum[BATCH] = {};
    for (int j = 0; j < n; j++) {
        const float b = __half2float(basis[j * n]);
#pragma unroll
        for (int query = 0; query < BATCH; query++) sum[query] = fmaf(b, shared_queries[j * BATCH + query], sum[query]);
    }
    float *out = projected + ((static_cast<int64_t>(head_index) * gridDim.x + batch) * n + i) * BATCH;
#pragma unroll
    for (int query = 0; query < BATCH; query++) out[query] = sum[query];
}

/* q . c of the batch's queries, a warp each. */
__device__ __forceinline__ void add_centers(float *offsets, const trellis_logits_args &args, int head_index, int batch)
{
    const int lane = threadIdx.x & 31, n = args.image.trellis.n_dims;
    const float *center = args.image.trellis.centers + head_index * n;
    for (int j = threadIdx.x / 32; j < BATCH; j += blockDim.x / 32) {
        const int query = batch * BATCH + j;
        const float *q = args.queries + (static_cast<int64_t>(head_index) * args.n_queries + query) * n;
        float sum = 0.0f;
        for (int i = lane; query < args.n_queries && i < n; i += 32) sum = fmaf(q[i], center[i], sum);
        for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane == 0) offsets[j] = sum;
    }
}

/* sum += number times what the queries have of a coordinate. */
template <int QUERIES>
__device__ __forceinline__ void add_number(float (&sum)[QUERIES], float number, const float4 *queries)
{
#pragma unroll
    for (int part = 0; part < QUERIES / 4; part++) {
        const float4 q = queries[part];
        sum[4 * part] = fmaf(number, q.x, sum[4 * part]);
        sum[4 * part + 1] = fmaf(number, q.y, sum[4 * part + 1]);
        sum[4 * part + 2] = fmaf(number, q.z, sum[4 * part + 2]);
        sum[4 * part + 3] = fmaf(number, q.w, sum[4 * part + 3]);
    }
}

/* blockIdx: (share of the keys, batch of queries, head). QUERIES of the batch are computed. */
template <int QUERIES>
__global__ void __launch_bounds__(LOGITS_WARPS * 32) trellis_logits_kernel(const trellis_logits_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float gains[TRELLIS_LEVELS], offsets[BATCH];
    __shared__ head_streams streams;
    const trellis_image &own = args.image.trellis;
    const int batch = blockIdx.y, head_index = blockIdx.z, n_dims = own.n_dims, lane = threadIdx.x & 31,
              warp = threadIdx.x / 32;
    const trellis_image_head &head = own.heads[head_index];
    float4 *queries = reinterpret_cast<float4 *>(shared); /* [n_dims][BATCH] */
    trellis_image_quad *quads = reinterpret_cast<trellis_image_quad *>(queries + n_dims * BATCH / 4);
    uint8_t *next = reinterpret_cast<uint8_t *>(quads + n_dims / TRELLIS_QUAD);
    const trellis_tables_memory tables = fill_tables(next, own);
    next += TRELLIS_TABLE_BYTES + trellis_pair_words(own.max_pair) * sizeof(uint32_t);
    uint32_t *packed = reinterpret_cast<uint32_t *>(next) + warp * (args.warp_bytes / 4);
    block_copy(queries,
               reinterpret_cast<const float4 *>(
                   args.projected + (static_cast<int64_t>(head_index) * gridDim.y + batch) * n_dims * BATCH),
               n_dims * BATCH / 4);
    block_copy(reinterpret_cast<uint4 *>(quads),
               reinterpret_cast<const uint4 *>(own.quads) + head_index * (n_dims / TRELLIS_QUAD),
               n_dims / TRELLIS_QUAD);
    if (threadIdx.x < TRELLIS_LEVELS) gains[threadIdx.x] = head.gains[threadIdx.x];
    if (warp == 0) {
        const head_streams found = find_streams(args.image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    add_centers(offsets, args, head_index, batch);
    __syncthreads();

    const int packed_bytes = args.image.heads[head_index].packed_bytes, row_bit = lane * packed_bytes * 8,
              n_quads = (head.n_coded + TRELLIS_QUAD - 1) / TRELLIS_QUAD;
    const gain_place at_gain = find_gain(head);
    const vector_run run = find_run(args.n);
    float *logits = args.logits + (static_cast<int64_t>(head_index) * args.n_queries + batch * BATCH) * args.n;
    for (int64_t first = run.from; first < run.to; first += LOGITS_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(LOGITS_ROWS), run.to - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * packed_bytes,
                  n_rows * packed_bytes);
        __syncwarp();
        float sum[QUERIES] = {};
#pragma unroll 2
        for (int i = 0; i < n_quads; i++) {
            const quad_facts facts = read_quad(quads, i);
            const uint32_t windows = read_windows(packed, row_bit + facts.bit);
            const uint2 numbers = facts.is_paired ? look_up_pairs(windows, facts, tables.pairs)
                                                  : look_up_numbers(windows, facts, tables.numbers);
            const float2 y = pair_numbers(numbers.x), z = pair_numbers(numbers.y);
            const float4 *q = queries + i * TRELLIS_QUAD * BATCH / 4;
            add_number<QUERIES>(sum, y.x, q);
            add_number<QUERIES>(sum, y.y, q + BATCH / 4);
            add_number<QUERIES>(sum, z.x, q + 2 * BATCH / 4);
            add_number<QUERIES>(sum, z.y, q + 3 * BATCH / 4);
        }
        const float gain = gains[read_level(packed, row_bit, at_gain)];
        if (lane < n_rows)
#pragma unroll
            for (int j = 0; j < QUERIES; j++)
                if (batch * BATCH + j < args.n_queries)
                    logits[j * args.n + first + lane] = fmaf(gain, sum[j], offsets[j]);
        __syncwarp();
    }
}

rb_status trellis_logits(const codec_logits_call &call, rb_error *err)
{
    const trellis_image &own = call.image.trellis;
    const unsigned n_batches = (call.n_queries + BATCH - 1) / BATCH, n_heads = call.image.n_heads;
    const size_t tables = static_cast<size_t>(own.n_dims) * BATCH * sizeof(float)
                          + own.n_dims / TRELLIS_QUAD * sizeof(trellis_image_quad) + trellis_tables_bytes(own);
    const size_t warp_bytes = round_up(static_cast<size_t>(LOGITS_ROWS) * call.image.max_packed_bytes + 16, 16);
    const launch_request want = {"trellis logits kernel",          LOGITS_WARPS, tables, warp_bytes,
                                 count_tiles(call.n, LOGITS_ROWS), n_batches,    n_heads};
    const trellis_logits_args args = {call.image,  call.packed, call.queries,   call.rotated,
                                      call.logits, call.n,      call.n_queries, static_cast<int>(warp_bytes)};
    project_queries_kernel<<<dim3(n_batches, n_heads), (own.n_dims + 31) / 32 * 32, own.n_dims * BATCH * sizeof(float),
                             call.stream>>>(own, call.queries, call.n_queries, call.rotated);
    const rb_status st = rb_cuda_launched("query projection kernel", err);
    if (st != RB_OK) return st;
    return launch(call.n_queries <= 4 ? trellis_logits_kernel<4> : trellis_logits_kernel<BATCH>, args, want, 1, nullptr,
                  call.stream, err);
}
