/* Weights of tokens from keys that need no product: pairs of block-codebook, which R_b M turns, and fp16. */
#include "cache/cuda/attend_exact.cuh"
#include "cache/cuda/attend_queries.cuh"
#include "cache/cuda/attend_softmax.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[]; /* the book comes first: its places are addresses */

/* ---- keys of block-codebook --------------------------------------------------------------------- */

/* A block's tables in shared memory. */
struct scores_tables {
    attend_unit *units;
    uint4 *turns;    /* [n_steps][2][32] */
    uint4 *centers;  /* [n_steps][32] */
    float4 *queries; /* [n_steps][32]: query lane / 4, blocks i = 0, 1 of lane % 4 */
    float *gains;
    uint8_t *staged; /* [warps][2][args.staged_bytes] */
};

static __host__ __device__ size_t tables_bytes(const attend_side &keys, int n_steps)
{
    return (static_cast<size_t>(keys.max_book_words) * 4 + 15) / 16 * 16 + keys.max_units * sizeof(attend_unit)
           + static_cast<size_t>(n_steps) * 32 * 16 * 4 + ATTEND_GAINS * sizeof(float);
}

__device__ __forceinline__ scores_tables find_tables(const attend_side &keys, int n_steps)
{
    scores_tables at;
    at.units = reinterpret_cast<attend_unit *>(attend_shared + (keys.max_book_words * 4 + 15) / 16 * 16);
    at.turns = reinterpret_cast<uint4 *>(at.units + keys.max_units);
    at.centers = at.turns + n_steps * 64;
    at.queries = reinterpret_cast<float4 *>(at.centers + n_steps * 32);
    at.gains = reinterpret_cast<float *>(at.queries + n_steps * 32);
    at.staged = reinterpret_cast<uint8_t *>(at.gains + ATTEND_GAINS);
    return at;
}

__device__ inline void fill_tables(const scores_tables &to, const attend_args &args, const attend_place &at,
                                   const attend_head &head)
{
    const attend_side &keys = args.call.keys;
    fill_shared(attend_shared, keys.books + head.first_book, head.book_words);
    fill_shared(to.units, keys.units + head.first_unit, head.n_units * static_cast<int>(sizeof(attend_unit) / 4));
    fill_shared(to.turns, keys.turns + head.first_turn, head.n_steps * 64 * 4);
    if (head.has_center) fill_shared(to.centers, keys.centers + head.first_center, head.n_steps * 32 * 4);
    fill_queries(reinterpret_cast<float *>(to.queries), args, at, head);
    if (threadIdx.x < ATTEND_GAINS) to.gains[threadIdx.x] = head.gains[threadIdx.x];
}

/* A warp's page of keys in shared memory. */
struct staged_page {
    uint32_t codes; /* the first code's address */
    int token_bits;
};

template <bool WIDE>
__device__ __forceinline__ void score_page(float (&logits)[PAGE_TILES][4], const staged_page &staged,
                                           const scores_tables &tables, const attend_head &head, const float *positions)
{
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4, row_bit = r * staged.token_bits;
    const int n_blocks = head.n_steps * 8, each = head.n_steps * 2;
    float of_center[PAGE_TILES][4];
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) logits[t][i] = of_center[t][i] = 0.0f;

    for (int u = 0; 2 * u < head.n_steps; u++) {
        const unit_facts unit(tables.units + u * 4 + c);
        uint32_t window[PAGE_TILES][2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int step = 2 * u + half;
            if (step >= head.n_steps) break;
            if (!WIDE && (half == 0 || unit.is_split()))
#pragma unroll
                for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        window[t][i] = read_window(staged.codes,
                                                   row_bit + (t * 16 + i * 8) * staged.token_bits + unit.bit(2 * half));
            const uint4 turn_0 = tables.turns[(step * 2) * 32 + lane],
                        turn_1 = tables.turns[(step * 2 + 1) * 32 + lane];
            const float4 query = tables.queries[step * 32 + lane];
            uint4 center;
            if (head.has_center) center = tables.centers[step * 32 + lane];
#pragma unroll
            for (int t = 0; t < PAGE_TILES; t++) {
                uint32_t pair[4]; /* row r, pair 0; row r + 8, pair 0; then pair 1 */
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int k = 2 * half + i / 2;
                    if (WIDE)
                        pair[i] =
                            read_wide_pair(unit, k, staged.codes, row_bit + (t * 16 + i % 2 * 8) * staged.token_bits,
                                           shared_address(attend_shared));
                    else pair[i] = *reinterpret_cast<const uint32_t *>(attend_shared + unit.place(window[t][i % 2], k));
                }
                const uint32_t a[4] = {turn_pair(pair[0], turn_0.x, turn_0.y), turn_pair(pair[1], turn_0.z, turn_0.w),
                                       turn_pair(pair[2], turn_1.x, turn_1.y), turn_pair(pair[3], turn_1.z, turn_1.w)};
                const float4 turn = *reinterpret_cast<const float4 *>(
                    positions + (static_cast<int64_t>(t) * n_blocks + c * each + 2 * step) * 2);
                const uint2 b = turn_query(query, turn);
                multiply_add(logits[t], a, b.x, b.y);
                if (head.has_center) {
                    const uint32_t of[4] = {center.x, center.y, center.z, center.w};
                    multiply_add(of_center[t], of, b.x, b.y);
                }
            }
        }
    }
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int bit = row_bit + (t * 16 + i * 8) * staged.token_bits + head.gain_at;
            const float gain = tables.gains[read_window(staged.codes, bit) & head.gain_mask];
            logits[t][2 * i] = fmaf(logits[t][2 * i], gain, of_center[t][2 * i]);
            logits[t][2 * i + 1] = fmaf(logits[t][2 * i + 1], gain, of_center[t][2 * i + 1]);
        }
}

template <bool WIDE>
__global__ void __launch_bounds__(256, 2) pair_scores_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    if (at.split == args.place_splits) return attend_exact_tokens(args, at, reinterpret_cast<float *>(attend_shared));
    if (at.first_page >= at.end_page) return;
    const attend_head &head = args.call.keys.heads[at.head];
    const scores_tables tables = find_tables(args.call.keys, head.n_steps);
    fill_tables(tables, args, at, head);
    __syncthreads();

    const int warp = threadIdx.x / 32, n_warps = blockDim.x / 32, n_bytes = head.part.code_bytes * ATTEND_PAGE;
    uint8_t *staged = tables.staged + warp * 2 * args.staged_bytes;
    int buffer = 0;
    const int first = at.first_page + warp;
    if (first < at.end_page)
        stage(staged + ATTEND_WINDOW_PAD, find_page(args, at, first) + head.part.codes_at, n_bytes);
    stage_commit();
    for (int page = first; page < at.end_page; page += n_warps, buffer ^= 1) {
        if (page + n_warps < at.end_page)
            stage(staged + (buffer ^ 1) * args.staged_bytes + ATTEND_WINDOW_PAD,
                  find_page(args, at, page + n_warps) + head.part.codes_at, n_bytes);
        stage_commit();
        stage_wait<1>();
        const staged_page codes = {shared_address(staged + buffer * args.staged_bytes + ATTEND_WINDOW_PAD),
                                   head.part.code_bytes * 8};
        float logits[PAGE_TILES][4];
        score_page<WIDE>(logits, codes, tables, head,
                         args.call.positions + static_cast<int64_t>(page) * PAGE_TILES * head.n_steps * 16);
        mask_logits(logits, args, at, page * ATTEND_PAGE);
        write_weights(logits, args, at, page);
        __syncwarp();
    }
}

/* ---- keys in fp16 ------------------------------------------------------------------------------- */

/* Lane c of a row loads 8 dims of 32 at once: two steps' columns. The query's halves lie alike. */
__global__ void __launch_bounds__(256, 2) half_scores_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    if (at.split == args.place_splits) return attend_exact_tokens(args, at, reinterpret_cast<float *>(attend_shared));
    if (at.first_page >= at.end_page) return;
    const attend_head &head = args.call.keys.heads[at.head];
    const int n_dims = args.call.head_dim, n_runs = (n_dims + 31) / 32;
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    __half *queries = reinterpret_cast<__half *>(attend_shared); /* [8][n_runs * 32] */
    const ropebits_kv_vectors &from = args.call.queries.queries;
    const int n_queries = count_queries(args, at);
    for (int i = threadIdx.x; i < ATTEND_QUERIES * n_runs * 32; i += blockDim.x) {
        const int query = i / (n_runs * 32), dim = i % (n_runs * 32),
                  q_head = at.head * args.queries_each + at.query_group * ATTEND_QUERIES + query;
        float x = 0.0f;
        if (query < n_queries && dim < n_dims)
            x = load_number(from.data, from.dtype, at.sequence * from.token_stride + q_head * from.head_stride + dim);
        queries[i] = __float2half_rn(x);
    }
    __syncthreads();
    for (int page = at.first_page + warp; page < at.end_page; page += n_warps) {
        const uint8_t *keys = find_page(args, at, page) + head.part.codes_at;
        float logits[PAGE_TILES][4];
#pragma unroll
        for (int t = 0; t < PAGE_TILES; t++) {
#pragma unroll
            for (int i = 0; i < 4; i++) logits[t][i] = 0.0f;
            const uint8_t *row = keys + (t * ATTEND_TILE + r) * n_dims * 2 + c * 16;
#pragma unroll 4
            for (int run = 0; run < n_runs; run++) {
                uint4 low = make_uint4(0, 0, 0, 0), high = low;
                if (run * 32 + c * 8 < n_dims) {
                    low = __ldg(reinterpret_cast<const uint4 *>(row + run * 64));
                    high = __ldg(reinterpret_cast<const uint4 *>(row + 8 * n_dims * 2 + run * 64));
                }
                const uint4 q = *reinterpret_cast<const uint4 *>(queries + (r * n_runs + run) * 32 + c * 8);
                const uint32_t a[4] = {low.x, high.x, low.y, high.y}, b[4] = {low.z, high.z, low.w, high.w};
                multiply_add(logits[t], a, q.x, q.y);
                multiply_add(logits[t], b, q.z, q.w);
            }
        }
        mask_logits(logits, args, at, page * ATTEND_PAGE);
        write_weights(logits, args, at, page);
    }
}

/* ---- launching ---------------------------------------------------------------------------------- */

enum { SCORES_WARPS = 8 };

rb_status attend_scores(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    const attend_side &keys = args.call.keys;
    attend_args call = args;
    call.place_splits = count_splits(args, n_sequences, 2);
    const dim3 grid(call.place_splits + args.has_exact, args.call.n_kv_heads * args.n_query_groups, n_sequences);
    const int n_steps = args.call.head_dim / ATTEND_STEP;
    if (keys.reader == ATTEND_F16) {
        const size_t bytes = larger_size(ATTEND_QUERIES * ((args.call.head_dim + 31) / 32 * 32) * sizeof(__half),
                                         args.has_exact ? exact_bytes(args.call) : 0);
        half_scores_kernel<<<grid, SCORES_WARPS * 32, bytes, stream>>>(call);
        return rb_cuda_launched("scores kernel", err);
    }
    call.staged_bytes = ATTEND_WINDOW_PAD + keys.max_code_bytes * ATTEND_PAGE + 16;
    const size_t bytes =
        larger_size(tables_bytes(keys, n_steps) + static_cast<size_t>(call.staged_bytes) * 2 * SCORES_WARPS,
                    args.has_exact ? exact_bytes(args.call) : 0);
    const auto kernel = keys.reader == ATTEND_WIDE_PAIRS ? pair_scores_kernel<true> : pair_scores_kernel<false>;
    const rb_status st = rb_cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the scores kernel", err);
    if (st != RB_OK) return st;
    kernel<<<grid, SCORES_WARPS * 32, bytes, stream>>>(call);
    return rb_cuda_launched("scores kernel", err);
}
