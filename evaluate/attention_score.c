/* See attention_score.h. */
#include "evaluate/attention_score.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "model/vector_math.h"

static float dot(const float *a, const float *b, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One text sequence: `first` is where run 0's copy begins among the part's tokens, the others follow, n tokens each. */
typedef struct score_item {
    int64_t first, n;
} score_item;

/* Logits of one query over keys [from, t], as the run's attention has them. */
static void query_logits(float *out, const evaluate_request *r, const layer_heads *heads, const model_facts *model, int q_head, int64_t first, int64_t from, int64_t t)
{
    const int64_t d = model->head_dim, kv_head = q_head / model_q_per_kv(model);
    const float *q = heads->q + (q_head * heads->n_tokens + first + t) * d;
    for (int64_t s = from; s <= t; s++) {
        const float *k = t - s < r->n_recent ? heads->exact_k : heads->k;
        out[s - from] = (float)model->attention_scale * dot(q, k + (kv_head * heads->n_tokens + first + s) * d, d);
    }
}

/* What a thread needs for one query. */
typedef struct query_rows {
    double *weights;        /* [context]: of the unquantized run, not divided by their sum */
    float *exact, *own;     /* [context]: logits */
} query_rows;

/* KL of all runs for one query. */
static void query_kl(double *kl, const evaluate_request *r, const evaluate_batch *b, const layer_heads *heads, const score_item *item, int q_head, int64_t t,
                     int64_t window, const query_rows *rows)
{
    const model_facts *model = &checkpoint_config(r->model)->facts;
    const int64_t from = window > 0 && t - window + 1 > 0 ? t - window + 1 : 0, n = t - from + 1;
    float *exact = rows->exact, *own = rows->own;
    query_logits(exact, r, heads, model, q_head, item->first, from, t);
    const float exact_max = max_row(exact, n);
    double exact_sum = 0.0;
    for (int64_t s = 0; s < n; s++) exact_sum += rows->weights[s] = exp((double)(exact[s] - exact_max));
    for (int run = 1; run < b->n_runs; run++) {
        query_logits(own, r, heads, model, q_head, item->first + run * item->n, from, t);
        const float own_max = max_row(own, n);
        double own_sum = 0.0, difference = 0.0;
        for (int64_t s = 0; s < n; s++) {
            own_sum += exp((double)(own[s] - own_max));
            difference += rows->weights[s] * ((double)(exact[s] - exact_max) - (double)(own[s] - own_max));
        }
        kl[run] = fmax(0.0, difference / exact_sum - log(exact_sum) + log(own_sum));
    }
}

rb_status attention_scores_add(double *sums, int64_t *n_queries, const evaluate_request *r, const evaluate_batch *b, const layer_heads *heads, int64_t window,
                               rb_error *err)
{
    const int n_q_heads = checkpoint_config(r->model)->facts.n_q_heads, n_runs = b->n_runs;
    double *kl = NULL;
    double *weights = NULL;
    float *logits = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&kl, (size_t)(r->context / r->attention_stride + 1), (size_t)(n_q_heads * n_runs) * sizeof *kl, "attention scores", err), done);
    RB_TRY(st, rb_alloc(&weights, (size_t)omp_get_max_threads(), (size_t)r->context * sizeof *weights, "attention rows", err), done);
    RB_TRY(st, rb_alloc(&logits, (size_t)omp_get_max_threads() * 2, (size_t)r->context * sizeof *logits, "attention rows", err), done);
    for (int64_t s = b->part_start[heads->part]; s < b->part_start[heads->part + 1] && s / n_runs < b->n_text_sequences; s += n_runs) {
        const score_item item = {.first = b->sequence_start[s] - heads->first_token, .n = b->sequence_start[s + 1] - b->sequence_start[s]};
        const int64_t n_sampled = item.n / r->attention_stride;     /* queries stride - 1, 2 stride - 1, ... */
#pragma omp parallel for schedule(dynamic)
        for (int64_t i = n_sampled * n_q_heads - 1; i >= 0; i--) {
            float *own = logits + omp_get_thread_num() * 2 * r->context;
            const query_rows rows = {.weights = weights + omp_get_thread_num() * r->context, .exact = own + r->context, .own = own};
            query_kl(kl + i * n_runs, r, b, heads, &item, (int)(i % n_q_heads), (i / n_q_heads + 1) * r->attention_stride - 1, window, &rows);
        }
        for (int64_t i = 0; i < n_sampled * n_q_heads; i++)
            for (int run = 1; run < n_runs; run++) sums[run] += kl[i * n_runs + run];
        *n_queries += n_sampled * n_q_heads;
    }
done:
    free(kl);
    free(weights);
    free(logits);
    return st;
}
