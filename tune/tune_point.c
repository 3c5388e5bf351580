/* See tune_point.h. */
#include "tune/tune_point.h"

#include <math.h>
#include <stdio.h>

static const double most_excess = 8.0;

double tune_total_bits(const model_facts *model, double bytes_per_token)
{
    return 8.0 * bytes_per_token
           / ((double)model->n_layers * model->n_kv_heads * 0.5 * (model->head_dim + model->value_dim));
}

double tune_perplexity_increase(const tune_point *point, const tune_baseline *unquantized)
{
    return 100.0 * (point->perplexity / unquantized->perplexity - 1.0);
}

/* What is not finite misses its limit. */
static double log_ratio(double measured, double limit)
{
    if (!isfinite(measured)) return most_excess;
    if (measured <= 0.0) return -most_excess;
    return fmax(-most_excess, fmin(most_excess, log(measured / limit)));
}

double tune_excess(const tune_point *point, const tune_limits *limits, const tune_baseline *unquantized)
{
    const int64_t n_lost = unquantized->n_right - point->n_right;
    double excess = -most_excess;
    if (!isnan(limits->kl)) excess = fmax(excess, log_ratio(point->kl, limits->kl));
    if (!isnan(limits->perplexity_increase))
        excess = fmax(excess, log_ratio(tune_perplexity_increase(point, unquantized), limits->perplexity_increase));
    if (limits->max_needles_lost != TUNE_NO_LIMIT)
        excess =
            fmax(excess, log_ratio(n_lost < 0 ? 1.0 : 1.0 + (double)n_lost, 1.0 + (double)limits->max_needles_lost));
    return excess;
}

void tune_limits_describe(char *out, size_t size, const tune_limits *limits)
{
    char kl[48] = "", perplexity[64] = "", needles[64] = "";
    if (!isnan(limits->kl)) snprintf(kl, sizeof kl, "KL at most %g", limits->kl);
    if (!isnan(limits->perplexity_increase))
        snprintf(perplexity, sizeof perplexity, "perplexity at most %g %% up", limits->perplexity_increase);
    if (limits->max_needles_lost != TUNE_NO_LIMIT)
        snprintf(needles, sizeof needles, "%lld needles lost at most", (long long)limits->max_needles_lost);
    snprintf(out, size, "%s%s%s%s%s", kl, kl[0] && perplexity[0] ? ", " : "", perplexity,
             (kl[0] || perplexity[0]) && needles[0] ? ", " : "", needles);
}
