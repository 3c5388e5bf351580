/* Each split's sum of values, weighed, in numbers of the value codec. Operand A is numbers by tokens: lane 4 r + c has
 * numbers r and r + 8 of a tile of 16, for tokens 2 c, 2 c + 1, 2 c + 8 and 2 c + 9. Which numbers those are is each
 * reader's own: number_of tells. Operand B is weights: tokens by queries. */
#include "cache/cuda/attend_device.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[]; /* the tables that are looked up come first */

enum { VALUES_WARPS = 8, MANY_WARPS = 16 };

/* ---- weights ------------------------------------------------------------------------------------ */

/* A split without pages counts nothing. */
__device__ __forceinline__ bool is_empty_split(const attend_args &args, const attend_place &at)
{
    if (at.first_page < at.end_page) return false;
    if (threadIdx.x < ATTEND_QUERIES) {
        const int64_t to = (at.row * (args.n_splits + 1) + at.split) * ATTEND_QUERIES + threadIdx.x;
        args.split_max[to] = -INFINITY;
        args.split_sum[to] = 0.0f;
    }
    return true;
}

/* Of a split: the largest logit of each query, and the sum of weights over it. By a block. */
__device__ inline void find_split_max(float *most, float *scratch, const attend_args &args, const attend_place &at)
{
    const int64_t first = (at.row * args.max_pages + at.first_page) * ATTEND_QUERIES;
    const int n = (at.end_page - at.first_page) * ATTEND_QUERIES;
    float mine = -INFINITY, sum = 0.0f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) mine = fmaxf(mine, args.page_max[first + i]);
    scratch[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x < ATTEND_QUERIES) {
        for (int i = threadIdx.x; i < static_cast<int>(blockDim.x); i += ATTEND_QUERIES) mine = fmaxf(mine, scratch[i]);
        most[threadIdx.x] = mine;
    }
    __syncthreads();
    mine = most[threadIdx.x % ATTEND_QUERIES];
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (args.page_max[first + i] > -INFINITY)
            sum += args.page_sum[first + i] * exp2f((args.page_max[first + i] - mine) * LOG2_E);
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < ATTEND_QUERIES) {
        sum = 0.0f;
        for (int i = threadIdx.x; i < static_cast<int>(blockDim.x); i += ATTEND_QUERIES) sum += scratch[i];
        const int64_t to = (at.row * (args.n_splits + 1) + at.split) * ATTEND_QUERIES + threadIdx.x;
        args.split_max[to] = mine;
        args.split_sum[to] = sum;
    }
    __syncthreads();
}

/* Operand B of a page's tile: weights times each token's gain, and times what its page counts in the split. row_gain:
 * of tokens r and r + 8 of the tile. */
__device__ __forceinline__ uint2 weigh(const uint32_t *weights /* the page's, [64][4] words */, int tile,
                                       const float (&row_gain)[2], const float (&page)[2])
{
    const int lane = threadIdx.x & 31;
    uint32_t b[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float2 w = __half22float2(as_half2(weights[(tile * 16 + half * 8) * 4 + lane]));
        b[half] = transpose(pack_halves(w.x * (row_gain[half] * page[0]), w.y * (row_gain[half] * page[1])));
    }
    return make_uint2(b[0], b[1]);
}

/* The largest logits of a page, of queries 2 c and 2 c + 1: asked for a page ahead. */
__device__ __forceinline__ float2 read_page_max(const attend_args &args, const attend_place &at, int page)
{
    if (page >= at.end_page) return make_float2(-INFINITY, -INFINITY);
    return *reinterpret_cast<const float2 *>(args.page_max + (at.row * args.max_pages + page) * ATTEND_QUERIES
                                             + 2 * (threadIdx.x & 3));
}

/* What a page counts in the split. most: the split's, [ATTEND_QUERIES]. */
__device__ __forceinline__ void find_page_factors(float (&page)[2], const float *most, const float2 &of_page)
{
    const int c = threadIdx.x & 3;
    page[0] = of_page.x > -INFINITY ? exp2f((of_page.x - most[2 * c]) * LOG2_E) : 0.0f;
    page[1] = of_page.y > -INFINITY ? exp2f((of_page.y - most[2 * c + 1]) * LOG2_E) : 0.0f;
}

/* ---- sums --------------------------------------------------------------------------------------- */

/* The warps' sums, added up in a fixed order, to the split's. number_of(tile, row) of 16 rows, -1: none. */
template <int TILES, typename NUMBER_OF>
__device__ __forceinline__ void write_sums(const float (&sums)[TILES][4], float *scratch, const attend_args &args,
                                           const attend_place &at, float factor, NUMBER_OF number_of)
{
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const int size = TILES * 16 * ATTEND_QUERIES;
    float *out = args.sums + (at.row * args.n_splits + at.split) * args.n_numbers * ATTEND_QUERIES;
    __syncthreads();
    for (int w = 0; w < n_warps; w++) {
        if (w == warp)
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float *to = scratch + (t * 16 + r + i / 2 * 8) * ATTEND_QUERIES + 2 * c + i % 2;
                    *to = (w == 0 ? 0.0f : *to) + sums[t][i];
                }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        const int number = number_of(i / ATTEND_QUERIES / 16, i / ATTEND_QUERIES % 16);
        if (number >= 0 && number < args.n_numbers)
            out[number * ATTEND_QUERIES + i % ATTEND_QUERIES] = scratch[i] * factor;
    }
}

/* ---- a warp's pages in shared memory ------------------------------------------------------------ */

/* Codes, norms and weights of a page. */
struct page_layout {
    int norms_at, weights_at, size_bytes;
};
static __host__ __device__ page_layout lay_out(const attend_side &values, bool has_codes)
{
    const int weights = ATTEND_PAGE * ATTEND_QUERIES * 2;
    const int codes = has_codes ? ATTEND_WINDOW_PAD + values.max_code_bytes * ATTEND_PAGE + 16 : 0;
    return {codes, codes + (has_codes ? values.max_norm_bytes * ATTEND_PAGE : 0),
            codes + (has_codes ? values.max_norm_bytes * ATTEND_PAGE : 0) + weights};
}

__device__ __forceinline__ void stage_page(uint8_t *to, const page_layout &layout, const attend_args &args,
                                           const attend_place &at, const attend_head &head, int page, bool has_codes)
{
    if (has_codes) {
        const uint8_t *from = find_page(args, at, page);
        stage(to + ATTEND_WINDOW_PAD, from + head.part.codes_at, head.part.code_bytes * ATTEND_PAGE);
        if (head.part.norm_bytes > 0)
            stage(to + layout.norms_at, from + head.part.norms_at, head.part.norm_bytes * ATTEND_PAGE);
    }
    stage(to + layout.weights_at, args.weights + (at.row * args.max_pages + page) * ATTEND_PAGE * ATTEND_QUERIES,
          ATTEND_PAGE * ATTEND_QUERIES * 2);
}

/* ---- trellis ------------------------------------------------------------------------------------ */

/* Numbers of a quad of a token whose bits start at `bit`. */
template <bool SPLIT>
__device__ __forceinline__ void read_quad(uint32_t (&number)[4], const unit_facts &unit, uint32_t codes, int bit)
{
    uint32_t window = read_window(codes, bit + unit.bit(0));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (SPLIT && i == 2) window = read_window(codes, bit + unit.bit(2));
        number[i] = *reinterpret_cast<const uint16_t *>(attend_shared + unit.place(window, i));
    }
}

/* Adds a unit of a page: the quad's numbers are rows r and r + 8 of two tiles. */
template <bool SPLIT>
__device__ __forceinline__ void add_quads(float (&low)[4], float (&high)[4], const uint2 (&weights)[PAGE_TILES],
                                          uint32_t codes, int token_bits, const unit_facts &unit)
{
    const int c = threadIdx.x & 3;
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++) {
        uint32_t number[4][4]; /* token of the lane, number of the quad */
#pragma unroll
        for (int k = 0; k < 4; k++)
            read_quad<SPLIT>(number[k], unit, codes, (t * 16 + 2 * c + k % 2 + k / 2 * 8) * token_bits);
        const uint32_t a[4] = {
            __byte_perm(number[0][0], number[1][0], 0x5410), __byte_perm(number[0][1], number[1][1], 0x5410),
            __byte_perm(number[2][0], number[3][0], 0x5410), __byte_perm(number[2][1], number[3][1], 0x5410)};
        const uint32_t b[4] = {
            __byte_perm(number[0][2], number[1][2], 0x5410), __byte_perm(number[0][3], number[1][3], 0x5410),
            __byte_perm(number[2][2], number[3][2], 0x5410), __byte_perm(number[2][3], number[3][3], 0x5410)};
        multiply_add(low, a, weights[t].x, weights[t].y);
        multiply_add(high, b, weights[t].x, weights[t].y);
    }
}

/* Adds a page: quad u * 8 + r of a token is rows r and r + 8 of tiles 2 u and 2 u + 1. */
template <int TILES>
__device__ __forceinline__ void add_trellis_page(float (&sums)[TILES][4], const uint2 (&weights)[PAGE_TILES],
                                                 uint32_t codes, int token_bits, const attend_unit *units, int n_units)
{
    const int lane = threadIdx.x & 31, r = lane / 4;
#pragma unroll
    for (int u = 0; u < TILES / 2; u++) {
        if (u * 8 >= n_units) break;
        unit_facts unit(units + u * 8 + r);
#pragma unroll
        for (int i = 0; i < 4; i++) unit.table[i] |= lane * 4;
        if (unit.is_split()) /* all lanes' are */
            add_quads<true>(sums[2 * u], sums[2 * u + 1], weights, codes, token_bits, unit);
        else add_quads<false>(sums[2 * u], sums[2 * u + 1], weights, codes, token_bits, unit);
    }
}

/* Its tables leave room for one block on a multiprocessor. */
template <int TILES>
__global__ void __launch_bounds__(TILES <= 8 ? MANY_WARPS * 32 : VALUES_WARPS * 32)
    trellis_values_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    if (is_empty_split(args, at)) return;
    const attend_side &values = args.call.values;
    const attend_head &head = values.heads[at.head];
    attend_unit *units = reinterpret_cast<attend_unit *>(attend_shared + values.max_planes * ATTEND_PLANE_BYTES);
    float *gains = reinterpret_cast<float *>(units + values.max_units), *most = gains + ATTEND_GAINS;
    uint8_t *memory = reinterpret_cast<uint8_t *>(most + ATTEND_QUERIES);
    fill_planes(head, values.tables, reinterpret_cast<uint4 *>(attend_shared));
    fill_shared(units, values.units + head.first_unit, head.n_units * static_cast<int>(sizeof(attend_unit) / 4));
    if (threadIdx.x < ATTEND_GAINS) gains[threadIdx.x] = head.gains[threadIdx.x] / head.largest_gain;
    find_split_max(most, reinterpret_cast<float *>(memory), args, at);

    const page_layout layout = lay_out(values, true);
    const int lane = threadIdx.x & 31, r = lane / 4, warp = threadIdx.x / 32, n_warps = blockDim.x / 32,
              token_bits = head.part.code_bytes * 8;
    uint8_t *staged = memory + warp * 2 * args.staged_bytes;
    float sums[TILES][4] = {};
    int buffer = 0;
    const int first = at.first_page + warp;
    float2 page_max = read_page_max(args, at, first);
    if (first < at.end_page) stage_page(staged, layout, args, at, head, first, true);
    stage_commit();
    for (int page = first; page < at.end_page; page += n_warps, buffer ^= 1) {
        float factors[2];
        if (page + n_warps < at.end_page)
            stage_page(staged + (buffer ^ 1) * args.staged_bytes, layout, args, at, head, page + n_warps, true);
        stage_commit();
        find_page_factors(factors, most, page_max);
        page_max = read_page_max(args, at, page + n_warps);
        stage_wait<1>();
        const uint8_t *here = staged + buffer * args.staged_bytes;
        const uint32_t codes = shared_address(here + ATTEND_WINDOW_PAD);
        uint2 weights[PAGE_TILES];
#pragma unroll
        for (int t = 0; t < PAGE_TILES; t++) {
            float of_row[2];
#pragma unroll
            for (int i = 0; i < 2; i++)
                of_row[i] =
                    gains[read_window(codes, (t * 16 + r + 8 * i) * token_bits + head.gain_at) & head.gain_mask];
            weights[t] = weigh(reinterpret_cast<const uint32_t *>(here + layout.weights_at), t, of_row, factors);
        }
        add_trellis_page<TILES>(sums, weights, codes, token_bits, units, head.n_units);
        __syncwarp();
    }
    write_sums<TILES>(sums, reinterpret_cast<float *>(memory), args, at, head.largest_gain / ATTEND_WEIGHT,
                      [](int tile, int row) { return 4 * (tile / 2 * 8 + row % 8) + tile % 2 * 2 + row / 8; });
}

/* ---- pairs: one group with a norm a token ------------------------------------------------------- */

/* The largest norm of the split, by a block. */
__device__ inline float find_largest_norm(float *scratch, const attend_args &args, const attend_place &at,
                                          const attend_head &head)
{
    float most = 0.0f;
    for (int page = at.first_page + threadIdx.x / 32; page < at.end_page; page += blockDim.x / 32) {
        const uint32_t *norms = reinterpret_cast<const uint32_t *>(find_page(args, at, page) + head.part.norms_at);
        const float2 two = __half22float2(as_half2(norms[threadIdx.x & 31]));
        const int token = page * ATTEND_PAGE + (threadIdx.x & 31) * 2;
        if (token >= at.first_token && token < at.end_token) most = fmaxf(most, two.x);
        if (token + 1 >= at.first_token && token + 1 < at.end_token) most = fmaxf(most, two.y);
    }
    scratch[threadIdx.x] = most;
    __syncthreads();
    for (int i = 0; i < static_cast<int>(blockDim.x); i++) most = fmaxf(most, scratch[i]);
    __syncthreads();
    return most;
}

/* Numbers of a tile of 16 tokens, and the sum of their squares for the lane's four tokens. Pair k of unit u of lane r
 * is rows r and r + 8 of tile 4 u + k. */
template <int TILES, bool WIDE>
__device__ __forceinline__ void read_pair_tile(uint32_t (&a)[TILES][4], float (&squares)[4], uint32_t codes,
                                               int token_bits, int tile, const attend_unit *units, int n_units)
{
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) squares[i] = 0.0f;
#pragma unroll
    for (int u = 0; u < TILES / 4; u++) {
        if (u * 8 >= n_units) {
#pragma unroll
            for (int k = 0; k < 16; k++) a[4 * u + k / 4][k % 4] = 0;
            continue;
        }
        const unit_facts unit(units + u * 8 + r);
        uint32_t pair[4][4]; /* token, pair of the unit */
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int bit = (tile * 16 + 2 * c + k % 2 + k / 2 * 8) * token_bits;
            uint32_t window = WIDE ? 0 : read_window(codes, bit + unit.bit(0));
            __half2 square = __float2half2_rn(0.0f);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (!WIDE && i == 2 && unit.is_split()) window = read_window(codes, bit + unit.bit(2));
                pair[k][i] = WIDE ? read_wide_pair(unit, i, codes, bit, shared_address(attend_shared))
                                  : *reinterpret_cast<const uint32_t *>(attend_shared + unit.place(window, i));
                square = __hfma2(as_half2(pair[k][i]), as_half2(pair[k][i]), square);
            }
            squares[k] += __low2float(square) + __high2float(square);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            a[4 * u + i][0] = __byte_perm(pair[0][i], pair[1][i], 0x5410);
            a[4 * u + i][1] = __byte_perm(pair[0][i], pair[1][i], 0x7632);
            a[4 * u + i][2] = __byte_perm(pair[2][i], pair[3][i], 0x5410);
            a[4 * u + i][3] = __byte_perm(pair[2][i], pair[3][i], 0x7632);
        }
    }
}

/* Norm over length of the lane's four tokens. */
__device__ __forceinline__ void find_scales(float (&scales)[4], float (&squares)[4], const uint8_t *norms, int tile,
                                            float inverse_largest)
{
    const int c = threadIdx.x & 3;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        for (int mask = 4; mask < 32; mask *= 2) squares[k] += __shfl_xor_sync(0xffffffffu, squares[k], mask);
        const float norm = __half2float(reinterpret_cast<const __half *>(norms)[tile * 16 + 2 * c + k % 2 + k / 2 * 8]);
        /* Slots that nothing was written to may hold any bits. */
        scales[k] = squares[k] > 0.0f && norm <= 65504.0f ? norm * inverse_largest * rsqrtf(squares[k]) : 0.0f;
    }
}

template <int TILES, bool WIDE>
__global__ void __launch_bounds__(VALUES_WARPS * 32) pair_values_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    if (is_empty_split(args, at)) return;
    const attend_side &values = args.call.values;
    const attend_head &head = values.heads[at.head];
    attend_unit *units = reinterpret_cast<attend_unit *>(attend_shared + (values.max_book_words * 4 + 15) / 16 * 16);
    float *most = reinterpret_cast<float *>(units + values.max_units);
    uint8_t *memory = reinterpret_cast<uint8_t *>(most + ATTEND_QUERIES);
    fill_shared(attend_shared, values.books + head.first_book, head.book_words);
    fill_shared(units, values.units + head.first_unit, head.n_units * static_cast<int>(sizeof(attend_unit) / 4));
    find_split_max(most, reinterpret_cast<float *>(memory), args, at);
    const float largest = find_largest_norm(reinterpret_cast<float *>(memory), args, at, head),
                inverse_largest = largest > 0.0f ? 1.0f / largest : 0.0f;

    const page_layout layout = lay_out(values, true);
    const int warp = threadIdx.x / 32, n_warps = blockDim.x / 32, token_bits = head.part.code_bytes * 8;
    uint8_t *staged = memory + warp * 2 * args.staged_bytes;
    float sums[TILES][4] = {};
    int buffer = 0;
    const int first = at.first_page + warp;
    float2 page_max = read_page_max(args, at, first);
    if (first < at.end_page) stage_page(staged, layout, args, at, head, first, true);
    stage_commit();
    for (int page = first; page < at.end_page; page += n_warps, buffer ^= 1) {
        float factors[2];
        if (page + n_warps < at.end_page)
            stage_page(staged + (buffer ^ 1) * args.staged_bytes, layout, args, at, head, page + n_warps, true);
        stage_commit();
        find_page_factors(factors, most, page_max);
        page_max = read_page_max(args, at, page + n_warps);
        stage_wait<1>();
        const uint8_t *here = staged + buffer * args.staged_bytes;
#pragma unroll 1
        for (int t = 0; t < PAGE_TILES; t++) {
            const float ones[2] = {1.0f, 1.0f};
            uint32_t a[TILES][4];
            float squares[4], scales[4];
            read_pair_tile<TILES, WIDE>(a, squares, shared_address(here + ATTEND_WINDOW_PAD), token_bits, t, units,
                                        head.n_units);
            find_scales(scales, squares, here + layout.norms_at, t, inverse_largest);
            const uint2 plain = weigh(reinterpret_cast<const uint32_t *>(here + layout.weights_at), t, ones, factors);
            const float2 low = __half22float2(as_half2(plain.x)), high = __half22float2(as_half2(plain.y));
            const uint32_t b0 = pack_halves(low.x * scales[0], low.y * scales[1]),
                           b1 = pack_halves(high.x * scales[2], high.y * scales[3]);
#pragma unroll
            for (int i = 0; i < TILES; i++) multiply_add(sums[i], a[i], b0, b1);
        }
        __syncwarp();
    }
    write_sums<TILES>(sums, reinterpret_cast<float *>(memory), args, at, largest / ATTEND_WEIGHT,
                      [](int tile, int row) { return 2 * (4 * (tile / 4 * 8 + row % 8) + tile % 4) + row / 8; });
}

/* ---- fp16 --------------------------------------------------------------------------------------- */

/* A lane loads runs r + 8 h of 8 dims, of its four tokens: runs of even and odd h are rows r and r + 8 of tiles
 * h / 2 * 8 to h / 2 * 8 + 7. */
template <int TILES>
__global__ void __launch_bounds__(VALUES_WARPS * 32) half_values_kernel(const __grid_constant__ attend_args args)
{
    const attend_place at = find_place(args);
    if (is_empty_split(args, at)) return;
    const attend_side &values = args.call.values;
    const attend_head &head = values.heads[at.head];
    float *most = reinterpret_cast<float *>(attend_shared);
    uint8_t *memory = reinterpret_cast<uint8_t *>(most + ATTEND_QUERIES);
    find_split_max(most, reinterpret_cast<float *>(memory), args, at);
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32, n_warps = blockDim.x / 32,
              n_dims = values.n_dims;
    float sums[TILES][4] = {};
    for (int page = at.first_page + warp; page < at.end_page; page += n_warps) {
        const uint8_t *from = find_page(args, at, page) + head.part.codes_at;
        const uint32_t *weights = reinterpret_cast<const uint32_t *>(
            args.weights + (at.row * args.max_pages + page) * ATTEND_PAGE * ATTEND_QUERIES);
        float factors[2];
        find_page_factors(factors, most, read_page_max(args, at, page));
#pragma unroll 1
        for (int t = 0; t < PAGE_TILES; t++) {
            const float ones[2] = {1.0f, 1.0f};
            const int token = page * ATTEND_PAGE + t * 16;
            if (token >= at.end_token) break;
            const uint2 b = weigh(weights, t, ones, factors);
#pragma unroll
            for (int pass = 0; pass < TILES / 8; pass++) {
                uint32_t words[2][4][4]; /* run, token, word */
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const int dim = (r + 8 * (2 * pass + h)) * 8, row = t * 16 + 2 * c + k % 2 + k / 2 * 8;
                        uint4 load = make_uint4(0, 0, 0, 0);
                        const int here = page * ATTEND_PAGE + row;
                        if (dim < n_dims && here >= at.first_token && here < at.end_token)
                            load = __ldg(reinterpret_cast<const uint4 *>(from + (row * n_dims + dim) * 2));
                        words[h][k][0] = load.x, words[h][k][1] = load.y, words[h][k][2] = load.z,
                        words[h][k][3] = load.w;
                    }
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    const int select = j % 2 ? 0x7632 : 0x5410, w = j / 2;
                    const uint32_t a[4] = {__byte_perm(words[0][0][w], words[0][1][w], select),
                                           __byte_perm(words[1][0][w], words[1][1][w], select),
                                           __byte_perm(words[0][2][w], words[0][3][w], select),
                                           __byte_perm(words[1][2][w], words[1][3][w], select)};
                    multiply_add(sums[pass * 8 + j], a, b.x, b.y);
                }
            }
        }
    }
    write_sums<TILES>(sums, reinterpret_cast<float *>(memory), args, at, 1.0f / ATTEND_WEIGHT,
                      [](int tile, int row) { return (row % 8 + 8 * (tile / 8 * 2 + row / 8)) * 8 + tile % 8; });
}

/* ---- launching ---------------------------------------------------------------------------------- */

typedef void (*values_kernel)(attend_args);

static values_kernel choose_kernel(const attend_side &values)
{
    const int n_dims = values.n_dims;
    switch (values.reader) {
    case ATTEND_F16: return n_dims <= 128 ? half_values_kernel<8> : half_values_kernel<16>;
    case ATTEND_TRELLIS:
        return n_dims <= 64    ? trellis_values_kernel<4>
               : n_dims <= 128 ? trellis_values_kernel<8>
                               : trellis_values_kernel<16>;
    case ATTEND_PAIRS:
        return n_dims <= 64    ? pair_values_kernel<4, false>
               : n_dims <= 128 ? pair_values_kernel<8, false>
                               : pair_values_kernel<16, false>;
    case ATTEND_WIDE_PAIRS:
        return n_dims <= 64    ? pair_values_kernel<4, true>
               : n_dims <= 128 ? pair_values_kernel<8, true>
                               : pair_values_kernel<16, true>;
    }
    return nullptr;
}

/* Bytes of shared memory with so many warps. */
static size_t count_bytes(const attend_args &args, int warps)
{
    const attend_side &values = args.call.values;
    const bool is_packed = values.reader != ATTEND_F16;
    const size_t numbers = values.n_dims <= 64 && is_packed ? 64
                           : values.n_dims <= 128           ? 128
                                                            : 256,
                 sums = numbers * ATTEND_QUERIES * sizeof(float),
                 most = static_cast<size_t>(warps) * 32 * sizeof(float),
                 pages = static_cast<size_t>(args.staged_bytes) * 2 * warps;
    size_t bytes = larger_size(larger_size(pages, sums), most) + ATTEND_QUERIES * sizeof(float);
    if (is_packed) bytes += static_cast<size_t>(values.max_units) * sizeof(attend_unit);
    if (values.reader == ATTEND_TRELLIS)
        return bytes + static_cast<size_t>(values.max_planes) * ATTEND_PLANE_BYTES + ATTEND_GAINS * sizeof(float);
    return bytes + (is_packed ? (static_cast<size_t>(values.max_book_words) * 4 + 15) / 16 * 16 : 0);
}

int attend_values_resident(const attend_side &values) { return values.reader == ATTEND_TRELLIS ? 1 : 2; }

rb_status attend_values(const attend_args &args, int n_sequences, cudaStream_t stream, rb_error *err)
{
    const attend_side &values = args.call.values;
    attend_args call = args;
    call.place_splits = args.n_splits;
    call.staged_bytes = values.reader != ATTEND_F16 ? lay_out(values, true).size_bytes : 0;
    int warps = values.reader == ATTEND_TRELLIS && values.n_dims <= 128 ? MANY_WARPS : VALUES_WARPS;
    while (warps > 1 && count_bytes(call, warps) > static_cast<size_t>(args.shared_bytes)) warps--;
    const size_t bytes = count_bytes(call, warps);
    const values_kernel kernel = choose_kernel(values);
    const rb_status st = rb_cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of the values kernel", err);
    if (st != RB_OK) return st;
    kernel<<<dim3(args.n_splits, args.call.n_kv_heads * args.n_query_groups, n_sequences), warps * 32, bytes, stream>>>(
        call);
    return rb_cuda_launched("values kernel", err);
}
