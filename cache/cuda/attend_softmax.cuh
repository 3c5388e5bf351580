/* From a page's logits to its weights: what both kernels of scores end with. */
#ifndef RB_CACHE_CUDA_ATTEND_SOFTMAX_CUH
#define RB_CACHE_CUDA_ATTEND_SOFTMAX_CUH

#include "cache/cuda/attend_device.cuh"

/* Over the rows of a warp's products, that is lanes of one c. */
__device__ __forceinline__ float max_of_rows(float value)
{
    for (int mask = 4; mask < 32; mask *= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, mask));
    return value;
}
__device__ __forceinline__ float sum_of_rows(float value)
{
    for (int mask = 4; mask < 32; mask *= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
    return value;
}

/* Scaled and capped; minus infinity for tokens that the queries do not see. logits as the product leaves them: tile t,
 * rows lane / 4 and 8 more, queries 2 (lane % 4) and one more. */
__device__ __forceinline__ void finish_logits(float (&logits)[PAGE_TILES][4], const attend_args &args,
                                              const attend_place &at, int page)
{
    const float scale = static_cast<float>(args.call.scale), cap = static_cast<float>(args.call.queries.softcap);
    const int first = page * ATTEND_PAGE + (threadIdx.x & 31) / 4;
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) logits[t][i] *= scale;
    if (cap > 0.0f)
#pragma unroll
        for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++) logits[t][i] = cap * tanhf(logits[t][i] / cap);
    if (page * ATTEND_PAGE >= at.first_token && (page + 1) * ATTEND_PAGE <= at.end_token) return;
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int token = first + t * ATTEND_TILE + i / 2 * 8;
            if (token < at.first_token || token >= at.end_token) logits[t][i] = -INFINITY;
        }
}

/* Writes a page's weights, their largest logits and sums. */
__device__ __forceinline__ void write_weights(const float (&logits)[PAGE_TILES][4], const attend_args &args,
                                              const attend_place &at, int page)
{
    const int lane = threadIdx.x & 31, r = lane / 4, c = lane % 4;
    const int64_t page_row = at.row * args.max_pages + page;
    uint32_t *out = reinterpret_cast<uint32_t *>(args.weights + page_row * ATTEND_PAGE * ATTEND_QUERIES);
    float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f}, from[2];
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) most[i % 2] = fmaxf(most[i % 2], logits[t][i]);
#pragma unroll
    for (int q = 0; q < 2; q++) {
        most[q] = max_of_rows(most[q]);
        from[q] = most[q] == -INFINITY ? 0.0f : most[q] * LOG2_E;
    }
#pragma unroll
    for (int t = 0; t < PAGE_TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t word = pack_halves(ATTEND_WEIGHT * exp2f(fmaf(logits[t][2 * half], LOG2_E, -from[0])),
                                              ATTEND_WEIGHT * exp2f(fmaf(logits[t][2 * half + 1], LOG2_E, -from[1])));
            const float2 stored = __half22float2(as_half2(word));
            sum[0] += stored.x;
            sum[1] += stored.y;
            out[(t * ATTEND_TILE + r + 8 * half) * (ATTEND_QUERIES / 2) + c] = word;
        }
#pragma unroll
    for (int q = 0; q < 2; q++) {
        sum[q] = sum_of_rows(sum[q]) * (1.0f / ATTEND_WEIGHT);
        if (r == 0) {
            args.page_max[page_row * ATTEND_QUERIES + 2 * c + q] = most[q];
            args.page_sum[page_row * ATTEND_QUERIES + 2 * c + q] = sum[q];
        }
    }
}

#endif
