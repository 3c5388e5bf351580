/* Weights of tokens from keys that go through a matrix: numbers of a trellis, or of groups, become dims, 16 tokens at a
 * time, are turned, and meet the queries. A warp keeps the numbers of several tiles, so that a fragment of the matrix
 * serves them all. */
#include "cache/cuda/attend_queries.cuh"
#include "cache/cuda/attend_softmax.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[]; /* planes, or the book, come first: places are addresses */

enum { PRODUCT_WARPS = 16 };

/* A block's tables in shared memory. */
struct product_tables {
    attend_unit *units;
    attend_group *groups;
    uint4 *turns, *centers;
    uint2 *queries;
    uint16_t *blocks; /* [n_steps][2][4] */
    float *gains;
    const uint2 *fragments; /* in shared memory, or global */
    uint8_t *staged;
};

static __host__ __device__ size_t round_16(size_t n) { return (n + 15) / 16 * 16; }

static __host__ __device__ size_t looked_up_bytes(const attend_side &keys)
{
    return keys.reader == ATTEND_TRELLIS ? static_cast<size_t>(keys.max_planes) * ATTEND_PLANE_BYTES
                                         : round_16(static_cast<size_t>(keys.max_book_words) * 4);
}

static __host__ __device__ size_t product_bytes(const attend_side &keys)
{
    const size_t lanes = static_cast<size_t>(keys.max_dim_steps) * 32;
    return looked_up_bytes(keys) + keys.max_units * sizeof(attend_unit)
           + round_16(keys.max_groups * sizeof(attend_group)) + lanes * 56 + round_16(keys.max_dim_steps * 16)
           + ATTEND_GAINS * sizeof(float);
}

template <bool SHARED_MATRIX>
__device__ __forceinline__ product_tables find_tables(const attend_args &args, const attend_head &head)
{
    const attend_side &keys = args.call.keys;
    const int n = keys.max_dim_steps * 32;
    product_tables at;
    at.units = reinterpret_cast<attend_unit *>(attend_shared + looked_up_bytes(keys));
    at.groups = reinterpret_cast<attend_group *>(at.units + keys.max_units);
    at.turns = reinterpret_cast<uint4 *>(reinterpret_cast<uint8_t *>(at.groups)
                                         + round_16(keys.max_groups * sizeof(attend_group)));
    at.centers = at.turns + n * 2;
    at.queries = reinterpret_cast<uint2 *>(at.centers + n);
    at.blocks = reinterpret_cast<uint16_t *>(at.queries + n);
    at.gains = reinterpret_cast<float *>(reinterpret_cast<uint8_t *>(at.blocks) + round_16(keys.max_dim_steps * 16));
    at.staged = reinterpret_cast<uint8_t *>(at.gains + ATTEND_GAINS);
    at.fragments = reinterpret_cast<const uint2 *>(keys.fragments + head.first_fragment);
    if (SHARED_MATRIX) {
        at.fragments = reinterpret_cast<const uint2 *>(at.staged);
        at.staged += round_16(static_cast<size_t>(keys.max_fragment_words) * 4);
    }
    return at;
}

template <bool SHARED_MATRIX>
__device__ inline void fill_tables(const product_tables &to, const attend_args &args, const attend_place &at,
                                   const attend_head &head)
{
    const attend_side &keys = args.call.keys;
    if (keys.reader == ATTEND_TRELLIS) fill_planes(head, keys.tables, reinterpret_cast<uint4 *>(attend_shared));
    else fill_shared(attend_shared, keys.books + head.first_book, head.book_words);
    fill_shared(to.units, keys.units + head.first_unit, head.n_units * static_cast<int>(sizeof(attend_unit) / 4));
    fill_shared(to.groups, keys.groups + head.first_group, head.n_groups * static_cast<int>(sizeof(attend_group) / 4));
    fill_shared(to.turns, keys.turns + head.first_turn, head.n_steps * 64 * 4);
    if (head.has_center) fill_shared(to.centers, keys.centers + head.first_center, head.n_steps * 32 * 4);
    fill_shared(to.blocks, keys.blocks + head.first_block, head.n_steps * 4);
    fill_queries(to.queries, args, at, head);
    if (threadIdx.x < ATTEND_GAINS) to.gains[threadIdx.x] = head.gains[threadIdx.x];
    if (SHARED_MATRIX)
        fill_shared(const_cast<uint2 *>(to.fragments), keys.fragments + head.first_fragment, head.n_fragment_words);
}

/* A warp's page of keys in shared memory. */
struct staged_keys {
    uint32_t codes;
    const uint8_t *norms;
    const uint2 *positions;  /* [PAGE_TILES][n_blocks] */
    int token_bits, row_bit; /* of row r of the first tile */
    int n_blocks;
};

/* ---- numbers ------------------------------------------------------------------------------------ */

/* Numbers of a group, of TILES tiles from first_tile on, as operand A. */
template <int STEPS, int TILES>
__device__ __forceinline__ void read_trellis(uint32_t (&a)[STEPS][TILES][4], const staged_keys &keys, int first_tile,
                                             const attend_unit *units, int n_steps)
{
    const int lane = threadIdx.x & 31, c = lane % 4;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        if (step >= n_steps) break;
        unit_facts unit(units + step * 4 + c);
#pragma unroll
        for (int i = 0; i < 4; i++) unit.table[i] |= lane * 4;
        const bool is_split = __shfl_sync(0xffffffffu, unit.is_split(), 0); /* the same for all lanes */
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const int bit = keys.row_bit + ((first_tile + t) * 16 + row * 8) * keys.token_bits;
                uint32_t window = read_window(keys.codes, bit + unit.bit(0)), number[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (i == 2 && is_split) window = read_window(keys.codes, bit + unit.bit(2));
                    number[i] = *reinterpret_cast<const uint16_t *>(attend_shared + unit.place(window, i));
                }
                a[step][t][row] = __byte_perm(number[0], number[1], 0x5410);
                a[step][t][2 + row] = __byte_perm(number[2], number[3], 0x5410);
            }
    }
}

template <int STEPS, int TILES, bool WIDE>
__device__ __forceinline__ void read_pairs(uint32_t (&a)[STEPS][TILES][4], const staged_keys &keys, int first_tile,
                                           const attend_unit *units, int n_steps)
{
    const int c = threadIdx.x & 3;
#pragma unroll
    for (int u = 0; u < STEPS / 2; u++) {
        if (2 * u >= n_steps) break;
        const unit_facts unit(units + u * 4 + c);
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const int bit = keys.row_bit + ((first_tile + t) * 16 + row * 8) * keys.token_bits;
                uint32_t window = WIDE ? 0 : read_window(keys.codes, bit + unit.bit(0));
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (!WIDE && k == 2 && unit.is_split()) window = read_window(keys.codes, bit + unit.bit(2));
                    a[2 * u + k / 2][t][k % 2 * 2 + row] =
                        WIDE ? read_wide_pair(unit, k, keys.codes, bit, shared_address(attend_shared))
                             : *reinterpret_cast<const uint32_t *>(attend_shared + unit.place(window, k));
                }
            }
    }
}

/* ---- scales: what a token's numbers of a group count -------------------------------------------- */

/* Norm over length, of rows r and r + 8 of each tile. */
template <int STEPS, int TILES>
__device__ __forceinline__ void find_norm_scales(float (&scales)[TILES][2], const uint32_t (&a)[STEPS][TILES][4],
                                                 const staged_keys &keys, const attend_head &head, int g,
                                                 int first_tile, const attend_group &group)
{
    const int r = (threadIdx.x & 31) / 4;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            float square = 0.0f;
#pragma unroll
            for (int u = 0; u < STEPS / 2; u++) {
                if (2 * u >= group.steps) break;
                __half2 sum = __float2half2_rn(0.0f);
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const __half2 pair = as_half2(a[2 * u + k / 2][t][k % 2 * 2 + row]);
                    sum = __hfma2(pair, pair, sum);
                }
                square += __low2float(sum) + __high2float(sum);
            }
            square += __shfl_xor_sync(0xffffffffu, square, 1);
            square += __shfl_xor_sync(0xffffffffu, square, 2);
            const int at = ((first_tile + t) * 16 + row * 8 + r) * head.n_groups + g;
            const float norm = head.norm_size == 2 ? __half2float(reinterpret_cast<const __half *>(keys.norms)[at])
                               : keys.norms[at] == 0
                                   ? 0.0f
                                   : exp2f(group.norm_exponent - (255 - keys.norms[at]) * (1.0f / 16.0f));
            scales[t][row] = square > 0.0f ? norm * rsqrtf(square) : 0.0f;
        }
}

template <int TILES>
__device__ __forceinline__ void find_gain_scales(float (&scales)[TILES][2], const staged_keys &keys,
                                                 const attend_head &head, int first_tile, const float *gains)
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const int bit = keys.row_bit + ((first_tile + t) * 16 + row * 8) * keys.token_bits + head.gain_at;
            scales[t][row] = gains[read_window(keys.codes, bit) & head.gain_mask];
        }
}

/* ---- the products ------------------------------------------------------------------------------- */

/* Operand B of a dim step for a tile: the query's two blocks, turned back by the tile's first position. */
struct query_blocks {
    uint2 query;
    const uint2 *first, *second; /* of the page's first tile */

    __device__ __forceinline__ query_blocks(const product_tables &tables, const staged_keys &keys, int step)
    {
        const int lane = threadIdx.x & 31, c = lane % 4;
        const int a = tables.blocks[step * 8 + c], b = tables.blocks[step * 8 + 4 + c];
        query = tables.queries[step * 32 + lane];
        first = keys.positions + (a == 0xffff ? 0 : a);
        second = keys.positions + (b == 0xffff ? 0 : b);
    }
    __device__ __forceinline__ uint2 turned(int tile, int n_blocks) const
    {
        const uint2 a = first[tile * n_blocks], b = second[tile * n_blocks];
        return make_uint2(turn_pair(query.x, a.x, a.y), turn_pair(query.y, b.x, b.y));
    }
};

/* Logits of a group over its scale, and those of the centre of its blocks, to `all`. */
template <int STEPS, int TILES>
__device__ __forceinline__ void multiply_group(float (&logits)[TILES][4], float (&all)[TILES][4],
                                               const uint32_t (&a)[STEPS][TILES][4], const product_tables &tables,
                                               const attend_group &group, bool has_center, const staged_keys &staged,
                                               int first_tile)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) logits[t][i] = 0.0f;
#pragma unroll 1
    for (int d = 0; d < group.dim_steps; d++) {
        const int step = group.first_dim_step + d;
        uint32_t keys[TILES][4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint2 *fragment = tables.fragments + group.first_fragment / 2 + (d * 2 + i) * group.steps * 32 + lane;
            float sums[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int k = 0; k < 4; k++) sums[t][k] = 0.0f;
#pragma unroll
            for (int s = 0; s < STEPS; s++) {
                if (s >= group.steps) break;
                const uint2 b = fragment[s * 32];
#pragma unroll
                for (int t = 0; t < TILES; t++) multiply(sums[t], a[s][t], b.x, b.y);
            }
            const uint4 turn = tables.turns[(step * 2 + i) * 32 + lane];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                keys[t][2 * i] = turn_pair(pack_halves(sums[t][0], sums[t][1]), turn.x, turn.y);
                keys[t][2 * i + 1] = turn_pair(pack_halves(sums[t][2], sums[t][3]), turn.z, turn.w);
            }
        }
        const query_blocks query(tables, staged, step);
        const uint4 center = has_center ? tables.centers[step * 32 + lane] : make_uint4(0, 0, 0, 0);
        const uint32_t of[4] = {center.x, center.y, center.z, center.w};
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const uint2 b = query.turned(first_tile + t, staged.n_blocks);
            multiply(logits[t], keys[t], b.x, b.y);
            if (has_center) multiply(all[t], of, b.x, b.y);
        }
    }
}

/* Blocks of no group: their centre. */
template <int TILES>
__device__ __forceinline__ void add_centers(float (&all)[TILES][4], const product_tables &tables, int first_step,
                                            int end_step, const staged_keys &staged, int first_tile)
{
    for (int step = first_step; step < end_step; step++) {
        const query_blocks query(tables, staged, step);
        const uint4 center = tables.centers[step * 32 + (threadIdx.x & 31)];
        const uint32_t of[4] = {center.x, center.y, center.z, center.w};
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const uint2 b = query.turned(first_tile + t, staged.n_blocks);
            multiply(all[t], of, b.x, b.y);
        }
    }
}

template <attend_reader READER, int STEPS, int TILES>
__device__ __forceinline__ void score_tiles(float (&all)[TILES][4], const staged_keys &keys, int first_tile,
                                            const product_tables &tables, const attend_head &head)
{
    int step = 0;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) all[t][i] = 0.0f;
    for (int g = 0; g < head.n_groups; g++) {
        const attend_group group = tables.groups[g];
        uint32_t a[STEPS][TILES][4];
        float scales[TILES][2], logits[TILES][4];
        if (READER == ATTEND_TRELLIS) {
            read_trellis<STEPS, TILES>(a, keys, first_tile, tables.units, group.steps);
            find_gain_scales(scales, keys, head, first_tile, tables.gains);
        } else {
            const attend_unit *units = tables.units + group.first_unit;
            if (group.is_wide) read_pairs<STEPS, TILES, true>(a, keys, first_tile, units, group.steps);
            else read_pairs<STEPS, TILES, false>(a, keys, first_tile, units, group.steps);
            find_norm_scales<STEPS, TILES>(scales, a, keys, head, g, first_tile, group);
        }
        multiply_group<STEPS, TILES>(logits, all, a, tables, group, head.has_center, keys, first_tile);
#pragma unroll
        for (int t = 0; t < TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) all[t][i] = fmaf(logits[t][i], scales[t][i / 2], all[t][i]);
        step = group.first_dim_step + group.dim_steps;
    }
    if (head.has_center) add_centers<TILES>(all, tables, step, head.n_steps, keys, first_tile);
}

template <attend_reader READER, int STEPS, int TILES, bool SHARED_MATRIX>
__global__ void __launch_bounds__(PRODUCT_WARPS * 32) product_scores_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    if (at.first_page >= at.end_page) return;
    const attend_head &head = args.call.keys.heads[at.head];
    const product_tables tables = find_tables<SHARED_MATRIX>(args, head);
    fill_tables<SHARED_MATRIX>(tables, args, at, head);
    stage_commit();
    stage_wait<0>();
    __syncthreads();

    const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, n_warps = blockDim.x / 32,
              n_bytes = head.part.code_bytes * ATTEND_PAGE, norm_bytes = head.part.norm_bytes * ATTEND_PAGE,
              n_blocks = args.call.head_dim / 2,
              norms_at = args.codes_at + args.call.keys.max_code_bytes * ATTEND_PAGE + 16;
    uint8_t *here = tables.staged + warp * args.staged_bytes;
    for (int page = at.first_page + warp; page < at.end_page; page += n_warps) {
        const uint8_t *from = find_page(args, at, page);
        stage_positions(here, args, page, n_blocks);
        stage(here + args.codes_at, from + head.part.codes_at, n_bytes);
        if (norm_bytes > 0) stage(here + norms_at, from + head.part.norms_at, norm_bytes);
        stage_commit();
        stage_wait<0>();
        const staged_keys keys = {shared_address(here + args.codes_at),  here + norms_at,
                                  reinterpret_cast<const uint2 *>(here), head.part.code_bytes * 8,
                                  lane / 4 * head.part.code_bytes * 8,   n_blocks};
        float logits[PAGE_TILES][4];
#pragma unroll
        for (int pass = 0; pass < PAGE_TILES / TILES; pass++) {
            float some[TILES][4];
            score_tiles<READER, STEPS, TILES>(some, keys, pass * TILES, tables, head);
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) logits[pass * TILES + t][i] = some[t][i];
        }
        finish_logits(logits, args, at, page);
        write_weights(logits, args, at, page);
        __syncwarp();
    }
}

/* ---- launching ---------------------------------------------------------------------------------- */

typedef void (*product_kernel)(attend_args);

template <attend_reader READER> static product_kernel choose_kernel(const attend_side &keys, bool is_shared)
{
    if (keys.max_steps <= 4)
        return is_shared ? product_scores_kernel<READER, 4, 2, true> : product_scores_kernel<READER, 4, 2, false>;
    if (keys.max_steps <= 8)
        return is_shared ? product_scores_kernel<READER, 8, 2, true> : product_scores_kernel<READER, 8, 2, false>;
    return is_shared ? product_scores_kernel<READER, 16, 1, true> : product_scores_kernel<READER, 16, 1, false>;
}

rb_status attend_scores_product(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    const attend_side &keys = args.call.keys;
    attend_args call = args;
    call.place_splits = count_splits(args, n_sequences, 1);
    call.codes_at = positions_bytes(args.call.head_dim / 2) + ATTEND_WINDOW_PAD;
    call.staged_bytes = call.codes_at + (keys.max_code_bytes + keys.max_norm_bytes) * ATTEND_PAGE + 16;
    const size_t matrix = round_16(static_cast<size_t>(keys.max_fragment_words) * 4), rest = product_bytes(keys),
                 each = static_cast<size_t>(call.staged_bytes);
    /* The matrix is in shared memory where half of the warps still fit beside it. */
    const bool is_shared = count_warps(args, rest + matrix, each, PRODUCT_WARPS) >= PRODUCT_WARPS / 2;
    const size_t tables = rest + (is_shared ? matrix : 0);
    const int warps = count_warps(args, tables, each, PRODUCT_WARPS);
    const size_t bytes = tables + each * warps;
    const product_kernel kernel = keys.reader == ATTEND_TRELLIS ? choose_kernel<ATTEND_TRELLIS>(keys, is_shared)
                                                                : choose_kernel<ATTEND_PAIRS>(keys, is_shared);
    const rb_status st = rb_cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the scores kernel", err);
    if (st != RB_OK) return st;
    kernel<<<dim3(call.place_splits, args.call.n_kv_heads * args.n_query_groups, n_sequences), warps * 32, bytes,
             stream>>>(call);
    return rb_cuda_launched("scores kernel", err);
}
