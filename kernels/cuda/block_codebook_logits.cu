/* q . k^ straight from packed keys of family block-codebook: q . c + g sum_i (M_i^T q_i) . p_i. The maps move to the
 * queries, which are few; a key is read as codes only, one key a lane, and points come from the universal codebooks.
 * Queries in batches of 8, or of 4 where there are no more, that all lanes read at once. */
#include "kernels/cuda/block_codebook_device.cuh"
#include "kernels/cuda/codec_bits.cuh"

enum { BATCH = 8, LOGITS_WARPS = 8, LOGITS_ROWS = 32 };

struct block_codebook_logits_args {
    codec_image image;     /* on the device */
    const uint8_t *packed; /* [n_heads] streams of [n][packed_bytes] u8 */
    const float *queries;  /* [n_heads][n_queries][head_dim] f32 */
    const float *mapped;   /* [n_heads][n_batches][n_blocks][2][BATCH] f32 */
    float *logits;         /* [n_heads][n_queries][n] f32 */
    int64_t n;
    int n_queries, warp_bytes;
};

/* mapped[head][batch][2 block + i][BATCH] = M^T q. One block a (batch, head), a RoPE block a thread. */
__global__ void map_queries_kernel(const block_codebook_image own,
                                   const float *queries,         /* [n_heads][n_queries][head_dim] f32 */
                                   int n_queries, float *mapped) /* [n_heads][n_batches][n_blocks][2][BATCH] f32 */
{
    const int batch = blockIdx.x, head_index = blockIdx.y, head_dim = 2 * own.n_blocks;
    for (int i = threadIdx.x; i < own.n_blocks; i += blockDim.x) {
        const block_codebook_image_block &block = own.blocks[head_index * own.n_blocks + i];
        float *out = mapped + ((static_cast<int64_t>(head_index) * gridDim.x + batch) * head_dim + 2 * i) * BATCH;
        for (int j = 0; j < BATCH; j++) {
            const int query = batch * BATCH + j;
            const float *q =
                queries + (static_cast<int64_t>(head_index) * n_queries + min(query, n_queries - 1)) * head_dim;
            const float x = q[block.dims & 0xffff], y = q[block.dims >> 16];
            out[j] = query < n_queries ? fmaf(block.map[0], x, block.map[1] * y) : 0.0f;
            out[BATCH + j] = query < n_queries ? block.map[2] * y : 0.0f;
        }
    }
}

/* q . c of the batch's queries, a warp each. */
__device__ __forceinline__ void add_centers(float *offsets, const block_codebook_logits_args &args, int head_index,
                                            int batch)
{
    const block_codebook_image &own = args.image.block_codebook;
    const int lane = threadIdx.x & 31, n_blocks = own.n_blocks;
    for (int j = threadIdx.x / 32; j < BATCH; j += blockDim.x / 32) {
        const int query = batch * BATCH + j;
        const float *q = args.queries + (static_cast<int64_t>(head_index) * args.n_queries + query) * 2 * n_blocks;
        float sum = 0.0f;
        for (int i = lane; query < args.n_queries && i < n_blocks; i += 32) {
            const block_codebook_image_block &block = own.blocks[head_index * n_blocks + i];
            sum = fmaf(q[block.dims & 0xffff], block.center[0], fmaf(q[block.dims >> 16], block.center[1], sum));
        }
        for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
        if (lane == 0) offsets[j] = sum;
    }
}

/* The two levels of a code. */
__device__ __forceinline__ float2 find_levels(const uint32_t *book, const block_codebook_image &own, int bits,
                                              int first_bits, uint32_t code)
{
    return book_levels(book[block_codebook_first_level(own, first_bits) + (code & ((1u << first_bits) - 1u))],
                       book[block_codebook_first_level(own, bits - first_bits) + (code >> first_bits)]);
}

/* blockIdx: (share of the keys, batch of queries, head). QUERIES of the batch are computed. HAS_LEVELS: some block has
 * levels; without them a block is one look-up, with nothing to ask. */
template <int QUERIES, bool HAS_LEVELS>
__global__ void __launch_bounds__(LOGITS_WARPS * 32) block_codebook_logits_kernel(const block_codebook_logits_args args)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ float gains[BLOCK_CODEBOOK_MAX_GAINS], offsets[BATCH];
    __shared__ head_streams streams;
    const block_codebook_image &own = args.image.block_codebook;
    const int batch = blockIdx.y, n_blocks = own.n_blocks, head_index = blockIdx.z, lane = threadIdx.x & 31,
              warp = threadIdx.x / 32;
    const block_codebook_image_head &head = own.heads[head_index];
    float4 *queries = reinterpret_cast<float4 *>(shared); /* [2 n_blocks][BATCH] */
    uint32_t *facts = reinterpret_cast<uint32_t *>(
        queries
        + 2 * n_blocks * BATCH
              / 4); /* [n_blocks]: bits | bits of the first level << 8 | first point in the book << 16 */
    uint32_t *book = facts + n_blocks;
    uint32_t *packed = book + block_codebook_book_words(own) + warp * (args.warp_bytes / 4);
    block_copy(queries,
               reinterpret_cast<const float4 *>(
                   args.mapped + (static_cast<int64_t>(head_index) * gridDim.y + batch) * 2 * n_blocks * BATCH),
               2 * n_blocks * BATCH / 4);
    for (int i = threadIdx.x; i < n_blocks; i += blockDim.x) {
        const block_codebook_image_block &block = own.blocks[head_index * n_blocks + i];
        const int first = block.first_bits > 0 ? 0 : block_codebook_book_first(block.bits);
        facts[i] = static_cast<uint32_t>(block.bits | block.first_bits << 8 | first << 16);
    }
    copy_book(book, own);
    if (threadIdx.x < BLOCK_CODEBOOK_MAX_GAINS) gains[threadIdx.x] = head.gains[threadIdx.x];
    if (warp == 0) {
        const head_streams found = find_streams(args.image.heads, head_index, args.n);
        if (lane == 0) streams = found;
    }
    add_centers(offsets, args, head_index, batch);
    __syncthreads();

    const int packed_bytes = args.image.heads[head_index].packed_bytes, gain_bits = head.gain_bits;
    const vector_run run = find_run(args.n);
    float *logits = args.logits + (static_cast<int64_t>(head_index) * args.n_queries + batch * BATCH) * args.n;
    for (int64_t first = run.from; first < run.to; first += LOGITS_ROWS) {
        const int n_rows = static_cast<int>(min(static_cast<int64_t>(LOGITS_ROWS), run.to - first));
        warp_copy(reinterpret_cast<uint8_t *>(packed), args.packed + streams.packed + first * packed_bytes,
                  n_rows * packed_bytes);
        __syncwarp();
        bit_reader reader = start_reading(packed, lane * packed_bytes);
        const float gain = gains[read_bits(reader, gain_bits)];
        float sum[QUERIES] = {};
        for (int i = 0; i < n_blocks; i++) {
            const int bits = facts[i] & 0xff, first_bits = facts[i] >> 8 & 0xff, at = facts[i] >> 16;
            if (bits == 0) continue;
            const uint32_t code = read_bits(reader, bits);
            const float2 p = HAS_LEVELS && first_bits > 0 ? find_levels(book, own, bits, first_bits, code)
                                                          : book_point(book[at + code]);
            const float4 *q = queries + i * 2 * BATCH / 4;
#pragma unroll
            for (int part = 0; part < QUERIES / 4; part++) {
                const float4 x = q[part], y = q[BATCH / 4 + part];
                sum[4 * part] = fmaf(p.x, x.x, fmaf(p.y, y.x, sum[4 * part]));
                sum[4 * part + 1] = fmaf(p.x, x.y, fmaf(p.y, y.y, sum[4 * part + 1]));
                sum[4 * part + 2] = fmaf(p.x, x.z, fmaf(p.y, y.z, sum[4 * part + 2]));
                sum[4 * part + 3] = fmaf(p.x, x.w, fmaf(p.y, y.w, sum[4 * part + 3]));
            }
        }
        if (lane < n_rows)
#pragma unroll
            for (int j = 0; j < QUERIES; j++)
                if (batch * BATCH + j < args.n_queries)
                    logits[j * args.n + first + lane] = fmaf(gain, sum[j], offsets[j]);
        __syncwarp();
    }
}

rb_status block_codebook_logits(const codec_logits_call &call, rb_error *err)
{
    const block_codebook_image &own = call.image.block_codebook;
    const unsigned n_batches = (call.n_queries + BATCH - 1) / BATCH, n_heads = call.image.n_heads;
    const size_t tables = static_cast<size_t>(own.n_blocks) * (2 * BATCH * sizeof(float) + sizeof(uint32_t))
                          + block_codebook_book_bytes(own);
    const size_t warp_bytes = round_up(static_cast<size_t>(LOGITS_ROWS) * call.image.max_packed_bytes + 16, 128);
    const launch_request want = {"block-codebook logits kernel",   LOGITS_WARPS, tables, warp_bytes,
                                 count_tiles(call.n, LOGITS_ROWS), n_batches,    n_heads};
    const block_codebook_logits_args args = {call.image,  call.packed, call.queries,   call.rotated,
                                             call.logits, call.n,      call.n_queries, static_cast<int>(warp_bytes)};
    map_queries_kernel<<<dim3(n_batches, n_heads), 128, 0, call.stream>>>(own, call.queries, call.n_queries,
                                                                          call.rotated);
    const rb_status st = rb_cuda_launched("query map kernel", err);
    if (st != RB_OK) return st;
    const auto kernel = own.n_levels > 0      ? call.n_queries <= 4 ? block_codebook_logits_kernel<4, true>
                                                                    : block_codebook_logits_kernel<BATCH, true>
                             : call.n_queries <= 4 ? block_codebook_logits_kernel<4, false>
                                              : block_codebook_logits_kernel<BATCH, false>;
    return launch(kernel, args, want, 1, nullptr, call.stream, err);
}
