/* See attention_score.h. */
#include "evaluate/attention_score.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "core/threads.h"
#include "model/vector_math.h"

rb_status attention_scores_create(attention_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                                  rb_error *err)
{
    const size_t n_layers = (size_t)checkpoint_config(request->model)->facts.n_layers, n_runs = (size_t)batch->n_runs;
    rb_status st;
    *out = (attention_scores){.request = request, .batch = batch};
    RB_TRY(st, rb_alloc(&out->kl, n_layers, n_runs * sizeof *out->kl, "attention scores", err), done);
    RB_TRY(st, rb_alloc(&out->overlap, n_layers, n_runs * sizeof *out->overlap, "attention scores", err), done);
    RB_TRY(st, rb_alloc(&out->n_queries, n_layers, sizeof *out->n_queries, "attention scores", err), done);
    RB_TRY(st, rb_alloc(&out->n_overlap_queries, n_layers, sizeof *out->n_overlap_queries, "attention scores", err),
           done);
done:
    return st;
}

void attention_scores_free(attention_scores *scores)
{
    free(scores->kl);
    free(scores->overlap);
    free(scores->n_queries);
    free(scores->n_overlap_queries);
    *scores = (attention_scores){0};
}

/* ---- one query ------------------------------------------------------------------------------- */

static inline float dot(const float *a, const float *b, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One text sequence. The copy of run 0 begins at token `first` of the part; the copies of the other runs follow, n
 * tokens each. */
typedef struct score_item {
    int64_t first, n;
} score_item;

/* A query and the n keys that it sees, from key `from` on. */
typedef struct sampled_query {
    int q_head;
    int64_t t, from, n;
} sampled_query;

static int64_t count_sampled(int64_t n_tokens, int64_t stride)
{
    if (n_tokens < 2) return 0;
    return n_tokens < stride ? 1 : n_tokens / stride;
}

/* Item i of the array [sampled query][query head]. */
static sampled_query query_at(int64_t i, int n_q_heads, const score_item *item, int64_t stride, int64_t window)
{
    const int64_t wanted = (i / n_q_heads + 1) * stride - 1, t = wanted < item->n ? wanted : item->n - 1;
    const int64_t from = window > 0 && t - window + 1 > 0 ? t - window + 1 : 0;
    return (sampled_query){.q_head = (int)(i % n_q_heads), .t = t, .from = from, .n = t - from + 1};
}

/* Logits over the keys, as in the run's attention. first: first token of the run's copy. */
RB_CPU_CLONES static void query_logits(float *out, const evaluate_request *r, const layer_heads *heads,
                                       const model_facts *model, const sampled_query *query, int64_t first)
{
    const int64_t d = model->head_dim, kv_head = query->q_head / model_q_per_kv(model);
    const float *q = heads->q + (query->q_head * heads->n_tokens + first + query->t) * d;
    for (int64_t s = query->from; s <= query->t; s++) {
        const float *k = query->t - s < evaluate_request_n_recent(r) ? heads->exact_k : heads->k;
        out[s - query->from] =
            (float)model->attention_scale * dot(q, k + (kv_head * heads->n_tokens + first + s) * d, d);
    }
    const float cap = (float)checkpoint_config(r->model)->attention_softcap;
    for (int64_t i = 0; cap > 0 && i < query->n; i++) out[i] = cap * tanhf(out[i] / cap);
}

/* The keys with the ATTENTION_TOP_K largest of n >= ATTENTION_TOP_K logits; among equal ones the earlier key. */
static void top_keys(int64_t keys[ATTENTION_TOP_K], const float *logits, int64_t n)
{
    float least = -INFINITY; /* the least logit that is kept, once there are enough */
    int n_kept = 0;
    for (int64_t s = 0; s < n; s++) {
        if (n_kept == ATTENTION_TOP_K && logits[s] <= least) continue;
        int place = n_kept < ATTENTION_TOP_K ? n_kept++ : n_kept - 1;
        for (; place > 0 && logits[keys[place - 1]] < logits[s]; place--) keys[place] = keys[place - 1];
        keys[place] = s;
        least = logits[keys[n_kept - 1]];
    }
}

static double share_of_keys(const int64_t own[ATTENTION_TOP_K], const int64_t exact[ATTENTION_TOP_K])
{
    int n = 0;
    for (int i = 0; i < ATTENTION_TOP_K; i++)
        for (int j = 0; j < ATTENTION_TOP_K; j++) n += own[i] == exact[j];
    return (double)n / ATTENTION_TOP_K;
}

typedef struct query_score {
    double kl, overlap;
} query_score;

/* What a thread needs for one query. */
typedef struct query_rows {
    double *weights;    /* [context]: weights of the unquantized run, not divided by their sum */
    float *exact, *own; /* [context]: logits */
} query_rows;

/* Scores of all runs. */
static void score_query(query_score *out, const attention_scores *scores, const layer_heads *heads,
                        const score_item *item, const sampled_query *query, const query_rows *rows)
{
    const evaluate_request *r = scores->request;
    const model_facts *model = &checkpoint_config(r->model)->facts;
    const int64_t n = query->n;
    const bool has_overlap = n > ATTENTION_TOP_K;
    float *exact = rows->exact, *own = rows->own;
    int64_t exact_keys[ATTENTION_TOP_K], own_keys[ATTENTION_TOP_K];
    query_logits(exact, r, heads, model, query, item->first);
    if (has_overlap) top_keys(exact_keys, exact, n);
    const float exact_max = max_row(exact, n);
    double exact_sum = 0.0;
    for (int64_t s = 0; s < n; s++) exact_sum += rows->weights[s] = exp((double)(exact[s] - exact_max));
    out[0] = (query_score){.kl = 0.0, .overlap = 1.0};
    for (int run = 1; run < scores->batch->n_runs; run++) {
        query_logits(own, r, heads, model, query, item->first + run * item->n);
        const float own_max = max_row(own, n);
        double own_sum = 0.0, difference = 0.0;
        for (int64_t s = 0; s < n; s++) {
            own_sum += exp((double)(own[s] - own_max));
            difference += rows->weights[s] * ((double)(exact[s] - exact_max) - (double)(own[s] - own_max));
        }
        out[run].kl = fmax(0.0, difference / exact_sum - log(exact_sum) + log(own_sum));
        if (has_overlap) {
            top_keys(own_keys, own, n);
            out[run].overlap = share_of_keys(own_keys, exact_keys);
        }
    }
}

/* ---- a part ---------------------------------------------------------------------------------- */

/* Called in the order of the queries, whichever thread scored them. */
static void add_query(attention_scores *scores, int layer, const query_score *query, int64_t n_keys)
{
    const int n_runs = scores->batch->n_runs;
    const bool has_overlap = n_keys > ATTENTION_TOP_K;
    for (int run = 0; run < n_runs; run++) {
        scores->kl[layer * n_runs + run] += query[run].kl;
        if (has_overlap) scores->overlap[layer * n_runs + run] += query[run].overlap;
    }
    scores->n_queries[layer]++;
    scores->n_overlap_queries[layer] += has_overlap;
}

rb_status attention_scores_add(attention_scores *scores, const layer_heads *heads, rb_error *err)
{
    const evaluate_request *r = scores->request;
    const evaluate_batch *b = scores->batch;
    const model_config *config = checkpoint_config(r->model);
    const int n_q_heads = config->facts.n_q_heads, n_runs = b->n_runs;
    const int64_t window = config->layer_slides[heads->layer] ? config->sliding_window : 0,
                  stride = r->attention_stride;
    query_score *queries = NULL;
    double *weights = NULL;
    float *logits = NULL;
    rb_status st;
    RB_TRY(st,
           rb_alloc(&queries, (size_t)(r->context / stride + 1), (size_t)(n_q_heads * n_runs) * sizeof *queries,
                    "attention scores", err),
           done);
    RB_TRY(
        st,
        rb_alloc(&weights, (size_t)omp_get_max_threads(), (size_t)r->context * sizeof *weights, "attention rows", err),
        done);
    RB_TRY(st,
           rb_alloc(&logits, (size_t)omp_get_max_threads() * 2, (size_t)r->context * sizeof *logits, "attention rows",
                    err),
           done);
    for (int64_t s = b->part_start[heads->part]; s < evaluate_batch_text_end(b, heads->part); s += n_runs) {
        const score_item item = {.first = b->sequence_start[s] - heads->first_token,
                                 .n = b->sequence_start[s + 1] - b->sequence_start[s]};
        const int64_t n_queries = count_sampled(item.n, stride) * n_q_heads;
#pragma omp parallel for schedule(dynamic)
        for (int64_t i = n_queries - 1; i >= 0; i--) {
            float *own = logits + omp_get_thread_num() * 2 * r->context;
            const query_rows rows = {
                .weights = weights + omp_get_thread_num() * r->context, .exact = own + r->context, .own = own};
            const sampled_query query = query_at(i, n_q_heads, &item, stride, window);
            score_query(queries + i * n_runs, scores, heads, &item, &query, &rows);
        }
        for (int64_t i = 0; i < n_queries; i++)
            add_query(scores, heads->layer, queries + i * n_runs, query_at(i, n_q_heads, &item, stride, window).n);
    }
done:
    free(queries);
    free(weights);
    free(logits);
    return st;
}
