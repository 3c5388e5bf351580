/* Values of a trellis: see attend_values.cuh. */
#include "cache/cuda/attend_values.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[]; /* the tables that are looked up come first */

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
        multiply(low, a, weights[t].x, weights[t].y);
        multiply(high, b, weights[t].x, weights[t].y);
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
    stage_commit();
    find_split_max(most, reinterpret_cast<float *>(memory), args, at);
    stage_wait<0>();
    __syncthreads();

    const page_layout layout = lay_out(values);
    const int lane = threadIdx.x & 31, r = lane / 4, warp = threadIdx.x / 32, n_warps = blockDim.x / 32,
              token_bits = head.part.code_bytes * 8;
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
    write_sums<TILES>(sums, reinterpret_cast<float *>(memory), args.sum_slots, args, at,
                      head.largest_gain / ATTEND_WEIGHT,
                      [](int tile, int row) { return 4 * (tile / 2 * 8 + row % 8) + tile % 2 * 2 + row / 8; });
}

values_kernel trellis_values(int n_dims)
{
    return n_dims <= 64    ? trellis_values_kernel<4>
           : n_dims <= 128 ? trellis_values_kernel<8>
                           : trellis_values_kernel<16>;
}
