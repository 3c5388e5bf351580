/* See token_score_cuda.h. A block takes one position. It goes once over the unquantized run's logits, then twice over
 * those of each other run. Exponentials are in f32; sums are in double, in an order that depends only on the
 * vocabulary. */
#include <math_constants.h>

#include "core/cuda_check.cuh"
#include "evaluate/token_score_cuda.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

/* The largest logit and the lowest id that has it. */
struct best_token {
    float logit;
    int id;
};

__device__ __forceinline__ best_token better(best_token a, best_token b)
{
    return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
}

/* The best token of all threads, given to all threads. */
__device__ __forceinline__ best_token block_best(best_token mine, best_token *shared)
{
    for (int lanes = 16; lanes > 0; lanes /= 2)
        mine = better(mine,
                      {__shfl_xor_sync(0xffffffffu, mine.logit, lanes), __shfl_xor_sync(0xffffffffu, mine.id, lanes)});
    __syncthreads(); /* everybody has read what was there */
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
    __syncthreads();
    best_token best = shared[0];
    for (int w = 1; w < WARPS; w++) best = better(best, shared[w]);
    return best;
}

__device__ __forceinline__ double block_sum(double mine, double *shared)
{
    for (int lanes = 16; lanes > 0; lanes /= 2) mine += __shfl_xor_sync(0xffffffffu, mine, lanes);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = mine;
    __syncthreads();
    double sum = 0.0;
    for (int w = 0; w < WARPS; w++) sum += shared[w];
    return sum;
}

__device__ __forceinline__ best_token find_best(const float *logits, int n_vocab, best_token *shared)
{
    best_token best = {-CUDART_INF_F, INT32_MAX};
    for (int i = threadIdx.x; i < n_vocab; i += THREADS) best = better(best, {logits[i], i});
    return block_best(best, shared);
}

__global__ void __launch_bounds__(THREADS)
    token_scores_kernel(token_score *__restrict__ out,       // [n_positions][n_runs]
                        const float *__restrict__ logits,    // [n_positions][n_runs][n_vocab]
                        const int32_t *__restrict__ targets, // [n_positions]
                        int n_runs, int n_vocab)
{
    __shared__ best_token bests[WARPS];
    __shared__ double sums[WARPS];
    const float *base = logits + static_cast<int64_t>(blockIdx.x) * n_runs * n_vocab;
    const int target = targets[blockIdx.x];
    const best_token base_best = find_best(base, n_vocab, bests);
    double base_sum = 0.0;
    for (int i = threadIdx.x; i < n_vocab; i += THREADS)
        base_sum += static_cast<double>(expf(base[i] - base_best.logit));
    base_sum = block_sum(base_sum, sums);
    const double base_log = static_cast<double>(base_best.logit) + log(base_sum);

    for (int run = 0; run < n_runs; run++) {
        const float *row = base + static_cast<int64_t>(run) * n_vocab;
        const best_token best = run == 0 ? base_best : find_best(row, n_vocab, bests);
        double own_sum = 0.0, difference = 0.0;
        for (int i = threadIdx.x; i < n_vocab && run > 0; i += THREADS) {
            own_sum += static_cast<double>(expf(row[i] - best.logit));
            difference += static_cast<double>(expf(base[i] - base_best.logit))
                          * (static_cast<double>(base[i]) - static_cast<double>(row[i]));
        }
        own_sum = run == 0 ? base_sum : block_sum(own_sum, sums);
        difference = run == 0 ? 0.0 : block_sum(difference, sums);
        if (threadIdx.x != 0) continue;
        const double own_log = static_cast<double>(best.logit) + log(own_sum),
                     kl = difference / base_sum - base_log + own_log;
        token_score *to = out + static_cast<int64_t>(blockIdx.x) * n_runs + run;
        to->nll = own_log - static_cast<double>(row[target]);
        to->kl = run == 0 || kl < 0.0 ? 0.0 : kl;
        to->is_target_first = best.id == target;
        to->is_top1_same = best.id == base_best.id;
    }
}

static rb_status scores(token_score *out, const float *logits, int n_runs, int64_t n_vocab, int64_t n_positions,
                        const int32_t *targets, void *stream, rb_error *err)
{
    if (n_positions == 0) return RB_OK;
    token_scores_kernel<<<static_cast<unsigned>(n_positions), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
        out, logits, targets, n_runs, static_cast<int>(n_vocab));
    return rb_cuda_launched("token scores", err);
}

extern "C" {
extern const token_score_cuda_api rb_token_score_cuda;
const token_score_cuda_api rb_token_score_cuda = {scores};
}
