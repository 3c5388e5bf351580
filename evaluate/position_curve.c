/* See position_curve.h. */
#include "evaluate/position_curve.h"

static int bin_of(int64_t n_before)
{
    int bin = 0;
    while (n_before >> (bin + 1) > 0) bin++;
    return bin;
}

void position_curve_make(position_curve *out, const evaluate_batch *batch, const token_score *scores, int run,
                         int64_t context)
{
    *out = (position_curve){0};
    for (int64_t i = 0; i < batch->n_text_positions; i++) {
        const token_score *score = &scores[i * batch->n_runs + run];
        const int64_t n_before = batch->positions[i].target_place % context;
        const int b = bin_of(n_before);
        position_bin *bin = &out->at[b];
        bin->n++;
        bin->kl_mean += score->kl;
        bin->nll += score->nll;
        if (n_before > bin->last) bin->last = n_before;
        if (b >= out->n) out->n = b + 1;
    }
    for (int b = 0; b < out->n; b++) {
        out->at[b].first = (int64_t)1 << b;
        out->at[b].kl_mean /= (double)out->at[b].n;
        out->at[b].nll /= (double)out->at[b].n;
    }
}
