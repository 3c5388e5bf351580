/* Weights of tokens from keys that need no product: pairs of block-codebook, which R_b M turns, and fp16. */
#include "cache/cuda/attend_queries.cuh"
#include "cache/cuda/attend_softmax.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[]; /* the book comes first: its places are addresses */

/* ---- keys of block-codebook --------------------------------------------------------------------- */

/* A block's tables in shared memory. */
struct scores_tables {
    attend_unit *units;
    uint4 *turns;   /* [n_steps][2][32] */
    uint4 *centers; /* [n_steps][32] */
    uint2 *queries; /* [n_steps][32] */
    float *gains;
    uint8_t *staged; /* [warps][2][args.staged_bytes] */
};

static __host__ __device__ size_t tables_bytes(const attend_side &keys, int n_steps)
{
    return (static_cast<size_t>(keys.max_book_words) * 4 + 15) / 16 * 16 + keys.max_units * sizeof(attend_unit)
           + static_cast<size_t>(n_steps) * 32 * 56 + ATTEND_GAINS * sizeof(float);
}

__device__ __forceinline__ scores_tables find_tables(const attend_side &keys, int n_steps)
{
    scores_tables at;
    at.units = reinterpret_cast<attend_unit *>(attend_shared + (keys.max_book_words * 4 + 15) / 16 * 16);
    at.turns = reinterpret_cast<uint4 *>(at.units + keys.max_units);
    at.centers = at.turns + n_steps * 64;
    at.queries = reinterpret_cast<uint2 *>(at.centers + n_steps * 32);
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
    fill_queries(to.queries, args, at, head);
    if (threadIdx.x < ATTEND_GAINS) to.gains[threadIdx.x] = head.gains[threadIdx.x];
}

/* A warp's page of keys in shared memory. */
struct staged_page {
    uint32_t codes;         /* the first code's address */
    const uint2 *positions; /* [PAGE_TILES][n_blocks] */
    int token_bits, n_blocks;
};

/* Pairs k = 2 half and one more of a unit, for rows r and r + 8 of a tile: rows of pair 0, then of pair 1. */
template <bool WIDE>
__device__ __forceinline__ void read_pairs(uint32_t (&pair)[4], const unit_facts &unit, int half,
                                           const uint32_t (&window)[2], const staged_page &staged, int bit)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int k = 2 * half + i / 2;
        pair[i] = WIDE ? read_wide_pair(unit, k, staged.codes, bit + i % 2 * 8 * staged.token_bits,
                                        shared_address(attend_shared))
                       : *reinterpret_cast<const uint32_t *>(attend_shared + unit.place(window[i % 2], k));
    }
}

template <bool WIDE>
__device__ __forceinline__ void score_page(float (&logits)[PAGE_TILES][4], const staged_page &staged,
                                           const scores_tables &tables, const attend_head &head)
{
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4, row_bit = r * staged.token_bits;
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
            const int step = 2 * u + half, block = (4 * u + c) * 4 + 2 * half;
            if (!WIDE && (half == 0 || unit.is_split()))
#pragma unroll
                for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        window[t][i] = read_window(staged.codes,
                                                   row_bit + (t * 16 + i * 8) * staged.token_bits + unit.bit(2 * half));
            const uint4 turn_0 = tables.turns[step * 64 + lane], turn_1 = tables.turns[step * 64 + 32 + lane];
            const uint2 query = tables.queries[step * 32 + lane];
            const uint2 *position = staged.positions + (block < staged.n_blocks ? block : 0);
            uint32_t center[4] = {0, 0, 0, 0};
            if (head.has_center) {
                const uint4 of = tables.centers[step * 32 + lane];
                center[0] = of.x, center[1] = of.y, center[2] = of.z, center[3] = of.w;
            }
#pragma unroll
            for (int t = 0; t < PAGE_TILES; t++) {
                uint32_t pair[4];
                read_pairs<WIDE>(pair, unit, half, window[t], staged, row_bit + t * 16 * staged.token_bits);
                const uint32_t a[4] = {turn_pair(pair[0], turn_0.x, turn_0.y), turn_pair(pair[1], turn_0.z, turn_0.w),
                                       turn_pair(pair[2], turn_1.x, turn_1.y), turn_pair(pair[3], turn_1.z, turn_1.w)};
                const uint4 back = *reinterpret_cast<const uint4 *>(position + t * staged.n_blocks);
                const uint32_t b0 = turn_pair(query.x, back.x, back.y), b1 = turn_pair(query.y, back.z, back.w);
                multiply(logits[t], a, b0, b1);
                if (head.has_center) multiply(of_center[t], center, b0, b1);
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
    if (at.first_page >= at.end_page) return;
    const attend_head &head = args.call.keys.heads[at.head];
    const scores_tables tables = find_tables(args.call.keys, args.call.keys.max_dim_steps);
    fill_tables(tables, args, at, head);
    stage_commit();
    stage_wait<0>();
    __syncthreads();

    const int warp = threadIdx.x / 32, n_warps = blockDim.x / 32, n_bytes = head.part.code_bytes * ATTEND_PAGE,
              n_blocks = args.call.head_dim / 2, first = at.first_page + warp;
    uint8_t *staged = tables.staged + warp * 2 * args.staged_bytes;
    int buffer = 0;
    for (int page = first - n_warps; page < at.end_page; page += n_warps, buffer ^= 1) {
        uint8_t *next = staged + (buffer ^ 1) * args.staged_bytes;
        if (page + n_warps < at.end_page) {
            stage_positions(next, args, page + n_warps, n_blocks);
            stage(next + args.codes_at, find_page(args, at, page + n_warps) + head.part.codes_at, n_bytes);
        }
        stage_commit();
        if (page < first) continue;
        stage_wait<1>();
        const uint8_t *here = staged + buffer * args.staged_bytes;
        const staged_page codes = {shared_address(here + args.codes_at), reinterpret_cast<const uint2 *>(here),
                                   head.part.code_bytes * 8, n_blocks};
        float logits[PAGE_TILES][4];
        score_page<WIDE>(logits, codes, tables, head);
        finish_logits(logits, args, at, page);
        write_weights(logits, args, at, page);
        __syncwarp();
    }
}

/* ---- keys in fp16 ------------------------------------------------------------------------------- */

/* A tile's rows r and r + 8: a lane has 8 dims of every run of 32. */
template <int RUNS> struct half_tile {
    uint4 low[RUNS], high[RUNS];

    __device__ __forceinline__ void load(const uint8_t *keys, int tile, int n_dims)
    {
        const int r = (threadIdx.x & 31) / 4, c = threadIdx.x & 3;
        const uint8_t *row = keys + (tile * ATTEND_TILE + r) * n_dims * 2 + c * 16;
#pragma unroll
        for (int run = 0; run < RUNS; run++) {
            low[run] = high[run] = make_uint4(0, 0, 0, 0);
            if (run * 32 + c * 8 >= n_dims) continue;
            low[run] = __ldcs(reinterpret_cast<const uint4 *>(row + run * 64));
            high[run] = __ldcs(reinterpret_cast<const uint4 *>(row + 8 * n_dims * 2 + run * 64));
        }
    }
    __device__ __forceinline__ void multiply_queries(float (&logits)[4], const __half *queries) const
    {
        const int r = (threadIdx.x & 31) / 4, c = threadIdx.x & 3;
#pragma unroll
        for (int run = 0; run < RUNS; run++) {
            const uint4 q = *reinterpret_cast<const uint4 *>(queries + (r * RUNS + run) * 32 + c * 8);
            const uint32_t a[4] = {low[run].x, high[run].x, low[run].y, high[run].y},
                           b[4] = {low[run].z, high[run].z, low[run].w, high[run].w};
            multiply(logits, a, q.x, q.y);
            multiply(logits, b, q.z, q.w);
        }
    }
};

/* The query's halves lie as the keys': two steps' columns in a run. */
template <int RUNS>
__device__ inline void fill_half_queries(__half *queries, const attend_args &args, const attend_place &at)
{
    const ropebits_kv_vectors &from = args.call.queries.queries;
    const int n_queries = count_queries(args, at), n_dims = args.call.head_dim;
    for (int i = threadIdx.x; i < ATTEND_QUERIES * RUNS * 32; i += blockDim.x) {
        const int query = i / (RUNS * 32), dim = i % (RUNS * 32),
                  q_head = at.head * args.queries_each + at.query_group * ATTEND_QUERIES + query;
        float x = 0.0f;
        if (query < n_queries && dim < n_dims)
            x = load_number(from.data, from.dtype, at.sequence * from.token_stride + q_head * from.head_stride + dim);
        queries[i] = __float2half_rn(x);
    }
}

/* Loads run a tile ahead of the products. */
template <int RUNS>
__global__ void __launch_bounds__(256, RUNS <= 4 ? 2 : 1) half_scores_kernel(const __grid_constant__ attend_args args)
{
    __shared__ __align__(16) __half queries[ATTEND_QUERIES * RUNS * 32];
    const attend_place at = find_place(args);
    if (at.first_page >= at.end_page) return;
    const attend_head &head = args.call.keys.heads[at.head];
    const int n_dims = args.call.head_dim, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    int page = at.first_page + warp;
    half_tile<RUNS> tiles[2];
    const uint8_t *keys = page < at.end_page ? find_page(args, at, page) + head.part.codes_at : nullptr;
    if (keys) tiles[0].load(keys, 0, n_dims);
    fill_half_queries<RUNS>(queries, args, at);
    __syncthreads();
    for (; page < at.end_page; page += n_warps) {
        float logits[PAGE_TILES][4] = {};
        const uint8_t *next =
            page + n_warps < at.end_page ? find_page(args, at, page + n_warps) + head.part.codes_at : nullptr;
#pragma unroll
        for (int t = 0; t < PAGE_TILES; t++) {
            if (t + 1 < PAGE_TILES) tiles[(t + 1) % 2].load(keys, t + 1, n_dims);
            else if (next) tiles[0].load(next, 0, n_dims);
            tiles[t % 2].multiply_queries(logits[t], queries);
        }
        finish_logits(logits, args, at, page);
        write_weights(logits, args, at, page);
        keys = next;
    }
}

/* ---- launching ---------------------------------------------------------------------------------- */

enum { SCORES_WARPS = 8 };

typedef void (*scores_kernel)(attend_args);

static rb_status launch_half(const attend_args &args, dim3 grid, cudaStream_t stream, rb_error *err)
{
    const int n = args.call.head_dim;
    const scores_kernel kernel = n <= 64    ? half_scores_kernel<2>
                                 : n <= 96  ? half_scores_kernel<3>
                                 : n <= 128 ? half_scores_kernel<4>
                                            : half_scores_kernel<8>;
    kernel<<<grid, SCORES_WARPS * 32, 0, stream>>>(args);
    return rb_cuda_launched("scores kernel", err);
}

rb_status attend_scores(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    const attend_side &keys = args.call.keys;
    attend_args call = args;
    call.place_splits = count_splits(args, n_sequences, 2);
    const dim3 grid(call.place_splits, args.call.n_kv_heads * args.n_query_groups, n_sequences);
    if (keys.reader == ATTEND_F16) return launch_half(call, grid, stream, err);
    call.codes_at = positions_bytes(args.call.head_dim / 2) + ATTEND_WINDOW_PAD;
    call.staged_bytes = call.codes_at + keys.max_code_bytes * ATTEND_PAGE + 16;
    const size_t tables = tables_bytes(keys, keys.max_dim_steps), each = static_cast<size_t>(call.staged_bytes) * 2;
    const int warps = count_warps(args, tables, each, SCORES_WARPS);
    const int bytes = static_cast<int>(tables + each * warps);
    const scores_kernel kernel =
        keys.reader == ATTEND_WIDE_PAIRS ? pair_scores_kernel<true> : pair_scores_kernel<false>;
    const rb_status st =
        rb_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                       "shared memory of the scores kernel", err);
    if (st != RB_OK) return st;
    kernel<<<grid, warps * 32, bytes, stream>>>(call);
    return rb_cuda_launched("scores kernel", err);
}
