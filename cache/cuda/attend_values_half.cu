/* Values in fp16: see attend_values.cuh. */
#include "cache/cuda/attend_values.cuh"

extern __shared__ __align__(128) uint8_t attend_shared[];

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
    stage_commit();
    find_split_max(most, reinterpret_cast<float *>(memory), args, at);
    stage_wait<0>();
    __syncthreads();
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
                    multiply(sums[pass * 8 + j], a, b.x, b.y);
                }
            }
        }
    }
    write_sums<TILES>(sums, reinterpret_cast<float *>(memory), args.sum_slots, args, at, 1.0f / ATTEND_WEIGHT,
                      [](int tile, int row) { return (row % 8 + 8 * (tile / 8 * 2 + row / 8)) * 8 + tile % 8; });
}

values_kernel half_values(int n_dims) { return n_dims <= 128 ? half_values_kernel<8> : half_values_kernel<16>; }
