/* See token_score.h. */
#include "evaluate/token_score.h"

#include <math.h>
#include <string.h>

#include "model/vector_math.h"

/* exps = exp(logits - largest); returns log sum exp of the logits. */
static double log_sum_exp(float *exps, const float *logits, int64_t n, double *sum)
{
    const float largest = max_row(logits, n);
    memcpy(exps, logits, (size_t)n * sizeof *exps);
    *sum = (double)exp_sum_row(exps, largest, n);
    return (double)largest + log(*sum);
}

static int64_t arg_max(const float *x, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

void token_scores(token_score *out, const float *logits, int n_runs, int64_t n_vocab, int32_t target, float *scratch)
{
    float *base = scratch, *own = scratch + n_vocab;
    double base_sum, own_sum;
    const double base_log = log_sum_exp(base, logits, n_vocab, &base_sum);
    const int64_t base_best = arg_max(logits, n_vocab);

    out[0] = (token_score){
        .nll = base_log - (double)logits[target], .is_target_first = base_best == target, .is_top1_same = true};
    for (int run = 1; run < n_runs; run++) {
        const float *row = logits + run * n_vocab;
        const double own_log = log_sum_exp(own, row, n_vocab, &own_sum);
        const int64_t best = arg_max(row, n_vocab);
        double difference = 0.0;
        for (int64_t i = 0; i < n_vocab; i++) difference += (double)base[i] * ((double)logits[i] - (double)row[i]);
        out[run] = (token_score){.nll = own_log - (double)row[target],
                                 .kl = fmax(0.0, difference / base_sum - base_log + own_log),
                                 .is_target_first = best == target,
                                 .is_top1_same = best == base_best};
    }
}
