/* Tails: see profile/tail_error.h. */
#include "profile/tail_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/order.h"
#include "core/threads.h"

/* What a ratio divides by is never less than this share of a root mean square. */
static const double negligible = 1e-6;

/* ---- per token ------------------------------------------------------------------------------- */

RB_CPU_CLONES static float weighted_norm(const float *weights, const float *x, const float *y, int n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        const float difference = y ? x[i] - y[i] : x[i];
        sum += weights[i] * difference * difference;
    }
    return sqrtf(sum);
}

void token_weights(float *weights, const model_facts *model, int layer, const double *q_energy)
{
    for (int block = 0; block < model_n_blocks(model); block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        weights[dims[0]] = weights[dims[1]] = (float)(q_energy[block] * model_query_weight(model, layer, block) / 2.0);
    }
}

void token_errors(float *out, const float *weights, int head_dim, const float *k, const float *k_hat, int64_t n_tokens)
{
    for (int64_t t = 0; t < n_tokens; t++)
        out[t] = weighted_norm(weights, k + t * head_dim, k_hat ? k_hat + t * head_dim : NULL, head_dim);
}

/* ---- tails ----------------------------------------------------------------------------------- */

static double root_mean_square(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum / (double)n);
}

/* x / typical, 0 where nothing is typical because all is 0. */
static double ratio(double x, double typical) { return typical > 0.0 ? x / typical : 0.0; }

rb_status tail_measure(tail_error *out, float *excess, const float *errors, const float *sizes, int64_t n_tokens,
                       rb_error *err)
{
    const double error_rms = root_mean_square(errors, n_tokens),
                 least_size = negligible * root_mean_square(sizes, n_tokens);
    const size_t n = (size_t)n_tokens;
    float *relative = NULL, *sorted = NULL;
    int64_t n_outside = 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&relative, n, sizeof *relative, "token errors", err), done);
    RB_TRY(st, rb_alloc(&sorted, n, sizeof *sorted, "token errors", err), done);
    for (int64_t t = 0; t < n_tokens; t++) {
        if (!isfinite(errors[t]) || !isfinite(sizes[t])) {
            st = rb_fail(err, RB_ENONFINITE, "token %lld: error %g of a key of size %g, expected finite numbers",
                         (long long)t, (double)errors[t], (double)sizes[t]);
            goto done;
        }
        relative[t] = (float)ratio((double)errors[t], fmax((double)sizes[t], least_size));
    }
    memcpy(sorted, errors, n * sizeof *sorted);
    rb_sort_floats(sorted, n_tokens);
    const double typical_error = fmax((double)sorted[rb_quantile_place(n_tokens, 0.5)], negligible * error_rms);
    const double error_ratio = ratio((double)sorted[rb_quantile_place(n_tokens, 0.999)], typical_error);
    memcpy(sorted, relative, n * sizeof *sorted);
    rb_sort_floats(sorted, n_tokens);
    out->median = (double)sorted[rb_quantile_place(n_tokens, 0.5)];
    out->p99 = (double)sorted[rb_quantile_place(n_tokens, 0.99)];
    out->p999 = (double)sorted[rb_quantile_place(n_tokens, 0.999)];
    out->largest = (double)sorted[n_tokens - 1];
    const double typical_relative = fmax(out->median, negligible * root_mean_square(relative, n_tokens));
    for (int64_t t = 0; t < n_tokens; t++) {
        excess[t] = (float)fmin(ratio((double)errors[t], typical_error), ratio((double)relative[t], typical_relative));
        n_outside += (double)excess[t] > TAIL_LIMIT;
    }
    out->ratio = fmin(error_ratio, ratio(out->p999, typical_relative));
    out->outside = (double)n_outside / (double)n_tokens;
done:
    free(relative);
    free(sorted);
    return st;
}
