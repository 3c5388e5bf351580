/* What the kernels of values share. Each sums a split's values, weighed, in numbers of the value codec. Operand A is
 * numbers by tokens: lane 4 r + c has numbers r and r + 8 of a tile of 16, for tokens 2 c, 2 c + 1, 2 c + 8 and 2 c
 * + 9. Which numbers those are is each kernel's own. Operand B is weights: tokens by queries. */
#ifndef RB_CACHE_CUDA_ATTEND_VALUES_CUH
#define RB_CACHE_CUDA_ATTEND_VALUES_CUH

#include "cache/cuda/attend_device.cuh"

enum { VALUES_WARPS = 8, MANY_WARPS = 16 };

typedef void (*values_kernel)(attend_args);

/* The kernel for values of so many dims. */
values_kernel half_values(int n_dims);
values_kernel pair_values(int n_dims, bool is_wide);
values_kernel trellis_values(int n_dims);

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

/* Of a split: the largest logit of each query into most, and the sum of weights over it. By a block. Its loads come
 * first: they are the longest wait. */
__device__ inline void find_split_max(float *most, float *scratch, const attend_args &args, const attend_place &at)
{
    enum { HELD = 4 };
    const int64_t first = (at.row * args.max_pages + at.first_page) * ATTEND_QUERIES;
    const int n = (at.end_page - at.first_page) * ATTEND_QUERIES;
    const auto larger = [](float a, float b) { return fmaxf(a, b); };
    const auto add = [](float a, float b) { return a + b; };
    float page_max[HELD], page_sum[HELD], mine = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        const int i = threadIdx.x + k * blockDim.x;
        page_max[k] = i < n ? args.page_max[first + i] : -INFINITY;
        page_sum[k] = i < n ? args.page_sum[first + i] : 0.0f;
        mine = fmaxf(mine, page_max[k]);
    }
    for (int i = threadIdx.x + HELD * blockDim.x; i < n; i += blockDim.x) mine = fmaxf(mine, args.page_max[first + i]);
    mine = across_warps(across_lanes(mine, larger), scratch, -INFINITY, larger);
#pragma unroll
    for (int k = 0; k < HELD; k++)
        if (page_max[k] > -INFINITY) sum += page_sum[k] * exp2f((page_max[k] - mine) * LOG2_E);
    for (int i = threadIdx.x + HELD * blockDim.x; i < n; i += blockDim.x)
        if (args.page_max[first + i] > -INFINITY)
            sum += args.page_sum[first + i] * exp2f((args.page_max[first + i] - mine) * LOG2_E);
    sum = across_warps(across_lanes(sum, add), scratch, 0.0f, add);
    if (threadIdx.x < ATTEND_QUERIES) {
        const int64_t to = (at.row * (args.n_splits + 1) + at.split) * ATTEND_QUERIES + threadIdx.x;
        most[threadIdx.x] = mine;
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

/* The warps' sums, added up in a fixed order, to the split's; as many warps at once as the scratch of n_slots has room
 * for. number_of(tile, row) of 16 rows, -1: none. */
template <int TILES, typename NUMBER_OF>
__device__ __forceinline__ void write_sums(const float (&sums)[TILES][4], float *scratch, int n_slots,
                                           const attend_args &args, const attend_place &at, float factor,
                                           NUMBER_OF number_of)
{
    enum { SIZE = TILES * 16 * ATTEND_QUERIES };
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    float *out = args.sums + (at.row * args.n_splits + at.split) * args.n_numbers * ATTEND_QUERIES;
    for (int first = 0; first < n_warps; first += n_slots) {
        const int n = min(n_slots, n_warps - first);
        __syncthreads();
        if (warp >= first && warp < first + n)
#pragma unroll
            for (int t = 0; t < TILES; t++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    *reinterpret_cast<float2 *>(scratch + (warp - first) * SIZE
                                                + (t * 16 + r + half * 8) * ATTEND_QUERIES + 2 * c) =
                        make_float2(sums[t][2 * half], sums[t][2 * half + 1]);
        __syncthreads();
        for (int i = threadIdx.x; i < SIZE; i += blockDim.x) {
            const int number = number_of(i / ATTEND_QUERIES / 16, i / ATTEND_QUERIES % 16);
            if (number < 0 || number >= args.n_numbers) continue;
            float *to = out + number * ATTEND_QUERIES + i % ATTEND_QUERIES, sum = first == 0 ? 0.0f : *to;
            for (int w = 0; w < n; w++) sum += scratch[w * SIZE + i] * factor;
            *to = sum;
        }
    }
}

/* ---- a warp's pages in shared memory ------------------------------------------------------------ */

/* Codes, norms and weights of a page. */
struct page_layout {
    int norms_at, weights_at, size_bytes;
};
inline __host__ __device__ page_layout lay_out(const attend_side &values)
{
    const int codes = ATTEND_WINDOW_PAD + values.max_code_bytes * ATTEND_PAGE + 16,
              norms = values.max_norm_bytes * ATTEND_PAGE, weights = ATTEND_PAGE * ATTEND_QUERIES * 2;
    return {codes, codes + norms, codes + norms + weights};
}

__device__ __forceinline__ void stage_page(uint8_t *to, const page_layout &layout, const attend_args &args,
                                           const attend_place &at, const attend_head &head, int page)
{
    const uint8_t *from = find_page(args, at, page);
    stage(to + ATTEND_WINDOW_PAD, from + head.part.codes_at, head.part.code_bytes * ATTEND_PAGE);
    if (head.part.norm_bytes > 0)
        stage(to + layout.norms_at, from + head.part.norms_at, head.part.norm_bytes * ATTEND_PAGE);
    stage(to + layout.weights_at, args.weights + (at.row * args.max_pages + page) * ATTEND_PAGE * ATTEND_QUERIES,
          ATTEND_PAGE * ATTEND_QUERIES * 2);
}

#endif
