/* Values of family groups, one group with a norm a token: see attend_values.cuh. */
#include "cache/cuda/attend_values.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[]; /* the tables that are looked up come first */

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
    for (int mask = 1; mask < 32; mask *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, mask));
    return across_warps(most, scratch, 0.0f, [](float a, float b) { return fmaxf(a, b); });
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
    stage_commit();
    find_split_max(most, reinterpret_cast<float *>(memory), args, at);
    stage_wait<0>();
    __syncthreads();
    const float largest = find_largest_norm(reinterpret_cast<float *>(memory), args, at, head),
                inverse_largest = largest > 0.0f ? 1.0f / largest : 0.0f;

    const page_layout layout = lay_out(values);
    const int warp = threadIdx.x / 32, n_warps = blockDim.x / 32, token_bits = head.part.code_bytes * 8;
    uint8_t *staged = memory + warp * 2 * args.staged_bytes;
    float sums[TILES][4] = {};
    int buffer = 0;
    const int first = at.first_page + warp;
    float2 page_max = read_page_max(args, at, first);
    if (first < at.end_page) stage_page(staged, layout, args, at, head, first);
    stage_commit();
    for (int page = first; page < at.end_page; page += n_warps, buffer ^= 1) {
        float factors[2];
        if (page + n_warps < at.end_page)
            stage_page(staged + (buffer ^ 1) * args.staged_bytes, layout, args, at, head, page + n_warps);
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
            for (int i = 0; i < TILES; i++) multiply(sums[i], a[i], b0, b1);
        }
        __syncwarp();
    }
    write_sums<TILES>(sums, reinterpret_cast<float *>(memory), args.sum_slots, args, at, largest / ATTEND_WEIGHT,
                      [](int tile, int row) { return 2 * (4 * (tile / 4 * 8 + row % 8) + tile % 4) + row / 8; });
}

template <bool WIDE> static values_kernel choose(int n_dims)
{
    return n_dims <= 64    ? pair_values_kernel<4, WIDE>
           : n_dims <= 128 ? pair_values_kernel<8, WIDE>
                           : pair_values_kernel<16, WIDE>;
}

values_kernel pair_values(int n_dims, bool is_wide) { return is_wide ? choose<true>(n_dims) : choose<false>(n_dims); }
