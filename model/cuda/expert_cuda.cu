/* A mixture of experts on the GPU: which experts a token visits, and the way of tokens there and back. See
 * layer_cuda.h. Nothing here depends on the order in which blocks run. */
#include <math_constants.h>

#include "model/cuda/layer_cuda.cuh"

/* ---- the router ------------------------------------------------------------------------------ */

/* Scores are at least 0, so their sign bit is free: it says that a score is closed, not to be chosen. */
__device__ __forceinline__ bool is_closed(float score) { return __float_as_uint(score) >> 31; }
__device__ __forceinline__ float closed(float score) { return __uint_as_float(__float_as_uint(score) | 0x80000000u); }

typedef struct best_score {
    float score;
    int index; /* -1: none */
} best_score;

__device__ __forceinline__ best_score better(best_score a, best_score b)
{
    if (a.index < 0) return b;
    if (b.index < 0) return a;
    if (a.score != b.score) return a.score > b.score ? a : b;
    return a.index < b.index ? a : b;
}

/* Of all lanes: the largest score, ties to the lowest index; index 0 where no lane has one. The same in every lane. */
__device__ __forceinline__ best_score best_of_warp(best_score mine)
{
    for (int mask = 16; mask > 0; mask /= 2) {
        const best_score other = {__shfl_xor_sync(0xffffffffu, mine.score, mask),
                                  __shfl_xor_sync(0xffffffffu, mine.index, mask)};
        mine = better(mine, other);
    }
    /* Where scores are NaN lanes could disagree. */
    return {__shfl_sync(0xffffffffu, mine.score, 0), max(__shfl_sync(0xffffffffu, mine.index, 0), 0)};
}

/* The best open score of n. */
__device__ __forceinline__ best_score best_open(const float *scores, int n)
{
    best_score mine = {0.0f, -1};
    for (int i = threadIdx.x % 32; i < n; i += 32)
        if (!is_closed(scores[i])) mine = better(mine, {scores[i], i});
    return best_of_warp(mine);
}

/* scores = softmax(scores), by one warp; each lane writes what it alone reads. */
__device__ __forceinline__ void softmax(float *scores, int n)
{
    const int lane = threadIdx.x % 32;
    float largest = -CUDART_INF_F, sum = 0.0f;
    for (int i = lane; i < n; i += 32) largest = fmaxf(largest, scores[i]);
    for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, mask));
    for (int i = lane; i < n; i += 32) {
        scores[i] = expf(scores[i] - largest);
        sum += scores[i];
    }
    sum = warp_sum(sum);
    for (int i = lane; i < n; i += 32) scores[i] /= sum;
}

/* Closes all scores but those of the groups with the best ones. A lane looks at whole groups. */
__device__ __forceinline__ void open_groups(float *scores, const layer_cuda_router &in)
{
    const int lane = threadIdx.x % 32, size = in.n_experts / in.n_groups;
    for (int i = lane; i < in.n_experts; i += 32) scores[i] = closed(scores[i]);
    __syncwarp();
    for (int opened = 0; opened < in.n_groups_per_token; opened++) {
        best_score mine = {0.0f, -1};
        for (int group = lane; group < in.n_groups; group += 32) {
            if (!is_closed(scores[group * size])) continue; /* opened before */
            float best = 0.0f;
            for (int i = 0; i < size; i++) best = fmaxf(best, fabsf(scores[group * size + i]));
            mine = better(mine, {best, group});
        }
        const int best = best_of_warp(mine).index;
        __syncwarp(); /* everybody has looked */
        for (int i = best * size + lane; i < (best + 1) * size; i += 32) scores[i] = fabsf(scores[i]);
        __syncwarp();
    }
}

/* A warp takes a token. */
__global__ void route_kernel(const layer_cuda_router in)
{
    const int lane = threadIdx.x % 32;
    const int64_t token = static_cast<int64_t>(blockIdx.x) * HEAD_WARPS + threadIdx.x / 32;
    if (token >= in.n_tokens) return;
    float *scores = in.scores + token * in.n_experts, sum = 0.0f;
    int32_t *chosen = in.chosen + token * in.n_per_token;
    float *weights = in.weights + token * in.n_per_token;
    softmax(scores, in.n_experts);
    __syncwarp();
    if (in.n_groups > 1) open_groups(scores, in);
    for (int i = 0; i < in.n_per_token; i++) {
        const best_score best = best_open(scores, in.n_experts);
        __syncwarp(); /* everybody has looked */
        if (lane == 0) {
            scores[best.index] = closed(scores[best.index]);
            chosen[i] = best.index;
            weights[i] = best.score;
        }
        __syncwarp();
        sum += best.score;
    }
    const float factor = in.scale / (in.normalizes ? sum : 1.0f);
    for (int i = lane; i < in.n_per_token; i += 32) weights[i] *= factor;
}

rb_status expert_route(const layer_cuda_router *in, void *stream, rb_error *err)
{
    if (in->n_tokens == 0) return RB_OK;
    route_kernel<<<warp_blocks(in->n_tokens), HEAD_WARPS * 32, 0, as_stream(stream)>>>(*in);
    return rb_cuda_launched("router kernel", err);
}

/* ---- tokens of an expert --------------------------------------------------------------------- */

enum { VISIT_THREADS = 256 };

/* A block takes a row. */
template <typename T> __global__ void gather_kernel(T *out, const T *rows, const layer_cuda_visits visits)
{
    const int64_t row = blockIdx.x;
    const bool is_visit = row < visits.n;
    const int64_t token = is_visit ? visits.visits[row] / visits.n_per_token : 0;
    for (int64_t i = threadIdx.x; i < visits.width; i += VISIT_THREADS)
        out[row * visits.width + i] = is_visit ? rows[token * visits.width + i] : T(0.0f);
}

rb_status expert_gather(void *out, const void *rows, const layer_cuda_visits *visits, int64_t n_rows,
                        layer_cuda_precision precision, void *stream, rb_error *err)
{
    const unsigned blocks = static_cast<unsigned>(n_rows);
    if (n_rows == 0) return RB_OK;
    if (precision == LAYER_CUDA_BF16)
        gather_kernel<<<blocks, VISIT_THREADS, 0, as_stream(stream)>>>(
            static_cast<__nv_bfloat16 *>(out), static_cast<const __nv_bfloat16 *>(rows), *visits);
    else
        gather_kernel<<<blocks, VISIT_THREADS, 0, as_stream(stream)>>>(static_cast<float *>(out),
                                                                       static_cast<const float *>(rows), *visits);
    return rb_cuda_launched("expert kernel", err);
}

/* A token visits an expert once, so no two blocks write to one row. */
__global__ void scatter_kernel(float *hidden, const float *x, const layer_cuda_visits visits, float scale)
{
    const int32_t visit = visits.visits[blockIdx.x];
    const float factor = scale * visits.weights[visit];
    const float *from = x + blockIdx.x * visits.width;
    float *to = hidden + static_cast<int64_t>(visit / visits.n_per_token) * visits.width;
    for (int64_t i = threadIdx.x; i < visits.width; i += VISIT_THREADS) to[i] = fmaf(factor, from[i], to[i]);
}

rb_status expert_scatter(float *hidden, const float *x, const layer_cuda_visits *visits, float scale, void *stream,
                         rb_error *err)
{
    if (visits->n == 0) return RB_OK;
    scatter_kernel<<<static_cast<unsigned>(visits->n), VISIT_THREADS, 0, as_stream(stream)>>>(hidden, x, *visits,
                                                                                              scale);
    return rb_cuda_launched("expert kernel", err);
}
