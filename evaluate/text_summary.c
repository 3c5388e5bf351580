/* See text_summary.h. */
#include "evaluate/text_summary.h"

#include <math.h>
#include <stdlib.h>

#include "core/order.h"

rb_status text_summary_make(text_summary *out, const evaluate_batch *batch, const token_score *scores, int run,
                            rb_error *err)
{
    const int64_t n = batch->n_text_positions;
    double *kl = NULL, nll = 0.0, kl_sum = 0.0, same = 0.0;
    *out = (text_summary){.n = n,
                          .nll = NAN,
                          .perplexity = NAN,
                          .kl_mean = NAN,
                          .kl_p99 = NAN,
                          .kl_p999 = NAN,
                          .kl_max = NAN,
                          .top1_agreement = NAN};
    if (n == 0) return RB_OK;
    const rb_status st = rb_alloc(&kl, (size_t)n, sizeof *kl, "divergences", err);
    if (st != RB_OK) return st;
    for (int64_t i = 0; i < n; i++) {
        const token_score *score = &scores[i * batch->n_runs + run];
        nll += score->nll;
        kl_sum += kl[i] = score->kl;
        same += score->is_top1_same;
    }
    out->nll = nll / (double)n;
    out->perplexity = exp(out->nll);
    out->kl_mean = kl_sum / (double)n;
    rb_sort_doubles(kl, n);
    out->kl_p99 = kl[rb_quantile_place(n, 0.99)];
    out->kl_p999 = kl[rb_quantile_place(n, 0.999)];
    out->kl_max = kl[n - 1];
    out->top1_agreement = same / (double)n;
    free(kl);
    return RB_OK;
}
