/* See profile/output_sensitivity.h. */
#include "profile/output_sensitivity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/vector_math.h"
#include "profile/gram.h"
#include "profile/output_gradients.h"

/* ---- the result ------------------------------------------------------------------------------ */

rb_status output_sensitivity_create(output_sensitivity *out, const model_facts *model, bool with_residual,
                                    rb_error *err)
{
    const size_t n_heads = (size_t)model->n_layers * (size_t)model->n_kv_heads,
                 n_keys = n_heads * (size_t)model->head_dim * (size_t)model->head_dim,
                 n_values = n_heads * (size_t)model->value_dim * (size_t)model->value_dim;
    float **const keys[] = {&out->key_metric, &out->key_covariance},
                  **const values[] = {&out->value_metric, &out->value_moment, &out->value_moment_weighted};
    rb_status st = RB_OK;
    *out = (output_sensitivity){0};
    for (size_t i = 0; i < RB_COUNT(keys) && st == RB_OK; i++)
        st = rb_alloc(keys[i], n_keys, sizeof(float), "metrics of keys", err);
    for (size_t i = 0; i < RB_COUNT(values) && st == RB_OK; i++)
        st = rb_alloc(values[i], n_values, sizeof(float), "metrics of values", err);
    if (st == RB_OK && with_residual)
        st = rb_alloc(&out->residual_energy, (size_t)model->n_layers, sizeof(double), "residual energies", err);
    return st;
}

void output_sensitivity_free(output_sensitivity *s)
{
    free(s->key_metric);
    free(s->key_covariance);
    free(s->value_metric);
    free(s->value_moment);
    free(s->value_moment_weighted);
    free(s->residual_energy);
    *s = (output_sensitivity){0};
}

/* ---- what is looked at ----------------------------------------------------------------------- */

/* The sequences used: `n` of those of the text, the i-th of them number i * n_all / n. */
typedef struct sequence_choice {
    int64_t n, n_all, longest;
} sequence_choice;

static sequence_choice choose_sequences(const sensitivity_layer *in)
{
    const int64_t context = in->context < in->n_tokens ? in->context : in->n_tokens,
                  n_all = (in->n_tokens + context - 1) / context, most = in->n_limit / context;
    return (sequence_choice){.n = most < 1       ? 1
                                  : most < n_all ? most
                                                 : n_all,
                             .n_all = n_all,
                             .longest = context < in->n_limit ? context : in->n_limit};
}

static rb_status list_sequences(used_sequence **out, int64_t *n, int64_t *n_tokens, const sensitivity_layer *in,
                                rb_error *err)
{
    const sequence_choice choice = choose_sequences(in);
    const rb_status st = rb_alloc(out, (size_t)choice.n, sizeof **out, "sequences", err);
    *n = choice.n;
    *n_tokens = 0;
    for (int64_t i = 0; i < choice.n && st == RB_OK; i++) {
        const int64_t first = i * choice.n_all / choice.n * in->context, left = in->n_tokens - first;
        (*out)[i] = (used_sequence){first, left < choice.longest ? left : choice.longest, *n_tokens};
        *n_tokens += (*out)[i].n;
    }
    return st;
}

/* ---- all of a head --------------------------------------------------------------------------- */

/* Mean of x x^T over tokens of the text that do not stay exact, x [n_tokens][dim] less its mean where is_centered. */
static rb_status measure_moment(float *out, const float *x, int dim, bool is_centered, const sensitivity_layer *in,
                                rb_error *err)
{
    double *mean = NULL;
    float *counted = NULL;
    int64_t n = 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&mean, (size_t)dim, sizeof *mean, "moments", err), done);
    RB_TRY(st, rb_alloc(&counted, (size_t)in->n_tokens * (size_t)dim, sizeof *counted, "moments", err), done);
    for (int64_t t = 0; t < in->n_tokens; t++) {
        if (t % in->context < in->n_sink) continue;
        memcpy(counted + n++ * dim, x + t * dim, (size_t)dim * sizeof *x);
        for (int i = 0; i < dim; i++) mean[i] += (double)x[t * dim + i];
    }
    for (int64_t t = 0; t < n && is_centered; t++)
        for (int i = 0; i < dim; i++) counted[t * dim + i] -= (float)(mean[i] / (double)n);
    gram_matrix(out, counted, n, dim, 1.0 / (double)n);
done:
    free(mean);
    free(counted);
    return st;
}

/* Tokens used, and of them those that do not stay exact. */
typedef struct used_tokens {
    const used_sequence *sequences;
    int64_t n_sequences, n, n_counted;
} used_tokens;

/* What a value's error counts in every direction by the pair of query heads that carry it to the output: blocks of the
 * output metric, or of the identity. */
typedef struct head_pairs {
    const float *metric; /* [n_q * dim][n_q * dim]; NULL: the identity */
    int n_q, dim;
} head_pairs;

static double metric_at(const head_pairs *pairs, int g, int i, int other, int j)
{
    const int64_t width = pairs->n_q * pairs->dim;
    if (pairs->metric) return (double)pairs->metric[(g * pairs->dim + i) * width + other * pairs->dim + j];
    return g == other && i == j ? 1.0 : 0.0;
}

/* out = sum over pairs of their mean overlap times their block; a pair of two heads stands for both orders. */
static void mix_blocks(float *out, const head_pairs *pairs, const double *overlap)
{
    for (int i = 0; i < pairs->dim; i++)
        for (int j = 0; j <= i; j++) {
            double sum = 0.0;
            for (int g = 0, pair = 0; g < pairs->n_q; g++)
                for (int other = 0; other <= g; other++, pair++)
                    sum += overlap[pair]
                           * (metric_at(pairs, g, i, other, j) + (g != other ? metric_at(pairs, other, i, g, j) : 0.0));
            out[(int64_t)i * pairs->dim + j] = out[(int64_t)j * pairs->dim + i] = (float)sum;
        }
}

/* traces[pair]: what the overlap of a pair adds to the mean of |g_v|^2. */
static void block_traces(double *traces, const head_pairs *pairs)
{
    for (int g = 0, pair = 0; g < pairs->n_q; g++)
        for (int other = 0; other <= g; other++, pair++) {
            traces[pair] = 0.0;
            for (int i = 0; i < pairs->dim; i++)
                traces[pair] += (g != other ? 2.0 : 1.0) * metric_at(pairs, g, i, other, i);
        }
}

/* The metric of values; and the mean of w v v^T over the tokens used, w the expected |g_v|^2 of the token over the mean
 * of all. Exact tokens overlap nowhere. */
static rb_status measure_values(float *metric, float *weighted, const gradient_job *job, const head_pairs *pairs,
                                const used_tokens *used, rb_error *err)
{
    const int n_pairs = pairs->n_q * (pairs->n_q + 1) / 2;
    double *mean = NULL, *traces, total = 0.0;
    float *rows = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&mean, 2 * (size_t)n_pairs, sizeof *mean, "overlaps", err), done);
    RB_TRY(st, rb_alloc(&rows, (size_t)used->n * (size_t)pairs->dim, sizeof *rows, "moments", err), done);
    traces = mean + n_pairs;
    block_traces(traces, pairs);
    for (int64_t i = 0; i < used->n_sequences; i++)
        for (int64_t t = 0; t < used->sequences[i].n; t++) {
            const int64_t at = used->sequences[i].at + t;
            double weight = 0.0;
            for (int pair = 0; pair < n_pairs; pair++) {
                const double overlap = (double)job->overlap[at * n_pairs + pair];
                mean[pair] += overlap / (double)used->n_counted;
                weight += overlap * traces[pair];
            }
            weight = weight > 0.0 ? weight : 0.0; /* rounding */
            scale_row(rows + at * pairs->dim, job->v + (used->sequences[i].first + t) * pairs->dim, (float)sqrt(weight),
                      pairs->dim);
            total += weight;
        }
    mix_blocks(metric, pairs, mean);
    gram_matrix(weighted, rows, used->n, pairs->dim, total > 0.0 ? 1.0 / total : 0.0);
done:
    free(mean);
    free(rows);
    return st;
}

/* k: the head's, as it enters RoPE. */
static rb_status measure_head(output_sensitivity *out, const gradient_job *job, const head_pairs *pairs,
                              const used_tokens *used, int64_t head, const float *k, const sensitivity_layer *in,
                              rb_error *err)
{
    const int head_dim = job->model->head_dim, dim = job->model->value_dim, n_draws = job->n_draws;
    const int64_t key = head * head_dim * head_dim, value = head * dim * dim;
    rb_status st;
    RB_TRY(st, output_gradients(job, used->sequences, used->n_sequences, err), done);
    gram_matrix(out->key_metric + key, job->k_gradient, used->n * n_draws, head_dim,
                1.0 / ((double)used->n_counted * n_draws));
    RB_TRY(st, measure_values(out->value_metric + value, out->value_moment_weighted + value, job, pairs, used, err),
           done);
    RB_TRY(st, measure_moment(out->key_covariance + key, k, head_dim, true, in, err), done);
    st = measure_moment(out->value_moment + value, job->v, dim, false, in, err);
done:
    return st;
}

static bool are_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

static rb_status check_head(const output_sensitivity *out, const model_facts *model, int64_t head, rb_error *err)
{
    const int64_t key = (int64_t)model->head_dim * model->head_dim,
                  value = (int64_t)model->value_dim * model->value_dim;
    if (are_finite(out->key_metric + head * key, key) && are_finite(out->key_covariance + head * key, key)
        && are_finite(out->value_metric + head * value, value) && are_finite(out->value_moment + head * value, value)
        && are_finite(out->value_moment_weighted + head * value, value))
        return RB_OK;
    return rb_fail(err, RB_ENONFINITE,
                   "the metric of attention's output is not finite: queries times keys, or values, leave the range of "
                   "f32");
}

/* ---- a layer --------------------------------------------------------------------------------- */

static rb_status use_tokens(used_tokens *used, used_sequence **sequences, const sensitivity_layer *in, rb_error *err)
{
    const rb_status st = list_sequences(sequences, &used->n_sequences, &used->n, in, err);
    if (st != RB_OK) return st;
    used->sequences = *sequences;
    for (int64_t i = 0; i < used->n_sequences; i++)
        if (used->sequences[i].n > in->n_sink) used->n_counted += used->sequences[i].n - in->n_sink;
    return used->n_counted > 0
               ? RB_OK
               : rb_fail(err, RB_EINVAL, "%lld tokens for the metrics, of which all stay exact; expected more",
                         (long long)used->n);
}

rb_status output_sensitivity_measure(output_sensitivity *out, const model_facts *model, int layer,
                                     const sensitivity_layer *in, rb_error *err)
{
    const int n_q = model_q_per_kv(model), width = n_q * model->value_dim;
    gradient_job job = {.model = model,
                        .rope = in->rope,
                        .n_q = n_q,
                        .n_draws = out->n_draws,
                        .n_tokens = in->n_tokens,
                        .n_sink = in->n_sink,
                        .window = in->window,
                        .softcap = in->softcap};
    used_tokens used = {0};
    used_sequence *sequences = NULL;
    float *factor = NULL;
    rb_status st;
    RB_TRY(st, use_tokens(&used, &sequences, in, err), done);
    const size_t n_vectors = (size_t)used.n * (size_t)job.n_draws,
                 n_overlaps = (size_t)used.n * (size_t)(n_q * (n_q + 1) / 2);
    out->n_tokens = used.n;
    RB_TRY(st, rb_alloc(&job.k_gradient, n_vectors * (size_t)model->head_dim, sizeof(float), "gradients", err), done);
    RB_TRY(st, rb_alloc(&job.overlap, n_overlaps, sizeof(float), "overlaps", err), done);
    if (in->output_metric)
        RB_TRY(st, rb_alloc(&factor, (size_t)width * (size_t)width, sizeof *factor, "factor of a metric", err), done);
    for (int h = 0; h < model->n_kv_heads && st == RB_OK; h++) {
        const int64_t head = (int64_t)layer * model->n_kv_heads + h, keys = in->n_tokens * model->head_dim;
        job.q = in->q + h * n_q * keys;
        job.k = in->turned_k + h * keys;
        job.v = in->v + h * in->n_tokens * model->value_dim;
        job.factor = factor;
        job.seed = (uint64_t)out->seed + ((uint64_t)head << 32);
        const head_pairs pairs = {in->output_metric ? in->output_metric + (int64_t)h * width * width : NULL, n_q,
                                  model->value_dim};
        if (factor) st = gram_factor(factor, pairs.metric, width, err);
        if (st == RB_OK) st = measure_head(out, &job, &pairs, &used, head, in->k + h * keys, in, err);
        if (st == RB_OK) st = check_head(out, model, head, err);
        if (st != RB_OK) rb_fail_in(err, st, "layer %d kv_head %d", layer, h);
    }
done:
    free(sequences);
    free(factor);
    free(job.k_gradient);
    free(job.overlap);
    return st;
}
