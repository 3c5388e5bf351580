/* See sink_evidence.h. */
#include "profile/sink_evidence.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/order.h"
#include "core/threads.h"
#include "model/vector_math.h"

enum { TILE = 64, LEAST_STRIDE = 8, MOST_QUERIES = 1024 }; /* queries of a product; of a head and query head */
static const double FP16_BITS = 16.0;

rb_status sink_evidence_create(sink_evidence *e, const model_facts *model, bool with_values, rb_error *err)
{
    rb_status st;
    *e = (sink_evidence){.n_heads = model->n_layers * model->n_kv_heads};
    const size_t n = (size_t)e->n_heads * SINK_BINS;
    RB_TRY(st, rb_alloc(&e->attention, n, sizeof *e->attention, "sinks", err), done);
    RB_TRY(st, rb_alloc(&e->key_norm, n, sizeof *e->key_norm, "sinks", err), done);
    RB_TRY(st, rb_alloc(&e->distance, n, sizeof *e->distance, "sinks", err), done);
    RB_TRY(st, rb_alloc(&e->harm, n, sizeof *e->harm, "sinks", err), done);
    if (with_values) RB_TRY(st, rb_alloc(&e->value_norm, n, sizeof *e->value_norm, "sinks", err), done);
done:
    return st;
}

void sink_evidence_free(sink_evidence *e)
{
    free(e->attention);
    free(e->key_norm);
    free(e->distance);
    free(e->value_norm);
    free(e->harm);
    *e = (sink_evidence){0};
}

rb_status sink_tokens_create(sink_tokens *tokens, int64_t n_tokens, rb_error *err)
{
    rb_status st;
    *tokens = (sink_tokens){0};
    RB_TRY(st, rb_alloc(&tokens->attention, (size_t)n_tokens, sizeof *tokens->attention, "sinks", err), done);
    RB_TRY(st, rb_alloc(&tokens->n_heads, (size_t)n_tokens, sizeof *tokens->n_heads, "sinks", err), done);
done:
    return st;
}

void sink_tokens_free(sink_tokens *tokens)
{
    free(tokens->attention);
    free(tokens->n_heads);
    *tokens = (sink_tokens){0};
}

/* ---- attention of one head ------------------------------------------------------------------- */

/* Sums over the sampled queries of all query heads of a KV head, [n_tokens] each. */
typedef struct head_sums {
    double *attention, *spread, *equal; /* of p, of p (1 - p), of equal weights */
    int64_t *n_seen_by;                 /* queries */
    int64_t n_queries;
    double *sizes;            /* [n_tokens], scratch */
    float *sorted;            /* likewise */
    float *weights, *queries; /* [TILE][context], [TILE][head_dim], likewise */
} head_sums;

static void free_sums(head_sums *sums)
{
    free(sums->attention);
    free(sums->spread);
    free(sums->equal);
    free(sums->n_seen_by);
    free(sums->sizes);
    free(sums->sorted);
    free(sums->weights);
    free(sums->queries);
}

static rb_status create_sums(head_sums *sums, const model_facts *model, const sink_layer *in, rb_error *err)
{
    const size_t n = (size_t)in->n_tokens;
    rb_status st;
    RB_TRY(st, rb_alloc(&sums->attention, n, sizeof *sums->attention, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->spread, n, sizeof *sums->spread, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->equal, n, sizeof *sums->equal, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->n_seen_by, n, sizeof *sums->n_seen_by, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->sizes, n, sizeof *sums->sizes, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->sorted, n, sizeof *sums->sorted, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->weights, TILE * (size_t)in->context, sizeof *sums->weights, "sinks", err), done);
    RB_TRY(st, rb_alloc(&sums->queries, TILE * (size_t)model->head_dim, sizeof *sums->queries, "sinks", err), done);
done:
    return st;
}

static void add_query(head_sums *sums, float *row, float scale, int64_t sequence, int n)
{
    scale_row(row, row, scale, n);
    const float sum = exp_sum_row(row, max_row(row, n), n);
    for (int t = 0; t < n; t++) {
        const double p = (double)row[t] / (double)sum;
        sums->attention[sequence + t] += p;
        sums->spread[sequence + t] += p * (1.0 - p);
        sums->equal[sequence + t] += 1.0 / n;
        sums->n_seen_by[sequence + t]++;
    }
    sums->n_queries++;
}

/* The sampled queries of one query head in one sequence, [sequence, end). */
static void add_sequence(head_sums *sums, const model_facts *model, const float *q, const float *k, int64_t sequence,
                         int64_t end, int64_t stride)
{
    const int dim = model->head_dim;
    const int64_t n_sampled = (end - sequence + stride - 1) / stride;
    for (int64_t first = 0; first < n_sampled; first += TILE) {
        const int n = (int)(n_sampled - first < TILE ? n_sampled - first : TILE);
        int64_t at[TILE];
        for (int i = 0; i < n; i++) {
            const int64_t last = sequence + (first + i + 1) * stride;
            at[i] = (last < end ? last : end) - 1;
            memcpy(sums->queries + (int64_t)i * dim, q + at[i] * dim, (size_t)dim * sizeof *q);
        }
        const int n_keys = (int)(at[n - 1] - sequence + 1);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n_keys, dim, 1.0f, sums->queries, dim,
                    k + sequence * dim, dim, 0.0f, sums->weights, n_keys);
        for (int i = 0; i < n; i++)
            add_query(sums, sums->weights + (int64_t)i * n_keys, (float)model->attention_scale, sequence,
                      (int)(at[i] - sequence + 1));
    }
}

static void add_attention(head_sums *sums, const model_facts *model, const sink_layer *in, int kv_head)
{
    const int n_q = model_q_per_kv(model);
    const int64_t head = in->n_tokens * model->head_dim, rare = in->n_tokens / MOST_QUERIES,
                  stride = rare > LEAST_STRIDE ? rare : LEAST_STRIDE;
    for (int g = 0; g < n_q; g++)
        for (int64_t sequence = 0; sequence < in->n_tokens; sequence += in->context)
            add_sequence(sums, model, in->q_turned + (kv_head * n_q + g) * head, in->k_turned + kv_head * head,
                         sequence, sequence + in->context < in->n_tokens ? sequence + in->context : in->n_tokens,
                         stride);
}

/* ---- one head -------------------------------------------------------------------------------- */

static int64_t position_of(const sink_layer *in, int64_t t) { return t % in->context; }
static int bin_of(const sink_layer *in, int64_t t)
{
    return position_of(in, t) < SINK_POSITIONS ? (int)position_of(in, t) : SINK_POSITIONS;
}

static void find_distances(double *sizes, const model_facts *model, int layer, const sink_layer *in, int kv_head)
{
    const int n_blocks = model_n_blocks(model), dim = model->head_dim;
    const double *energy = in->q_energy + kv_head * n_blocks, *mean = in->k_mean + kv_head * dim;
    double weights[RB_MAX_HEAD_DIM];
    for (int block = 0; block < n_blocks; block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        weights[dims[0]] = weights[dims[1]] = energy[block] * model_query_weight(model, layer, block);
    }
    for (int64_t t = 0; t < in->n_tokens; t++) {
        const float *k = in->k + (kv_head * in->n_tokens + t) * dim;
        double sum = 0.0;
        for (int i = 0; i < dim; i++) sum += weights[i] * ((double)k[i] - mean[i]) * ((double)k[i] - mean[i]);
        sizes[t] = sqrt(sum);
    }
}

static void find_norms(double *sizes, const float *x, int64_t n_tokens, int dim)
{
    for (int64_t t = 0; t < n_tokens; t++) {
        double sum = 0.0;
        for (int i = 0; i < dim; i++) sum += (double)x[t * dim + i] * (double)x[t * dim + i];
        sizes[t] = sqrt(sum);
    }
}

/* Sizes over their median, mean by bin. Leaves the sizes relative. */
static void put_sizes(double *bins, head_sums *sums, const sink_layer *in)
{
    int64_t count[SINK_BINS] = {0};
    for (int64_t t = 0; t < in->n_tokens; t++) sums->sorted[t] = (float)sums->sizes[t];
    rb_sort_floats(sums->sorted, in->n_tokens);
    const double median = (double)sums->sorted[in->n_tokens / 2];
    for (int64_t t = 0; t < in->n_tokens; t++) {
        sums->sizes[t] = median > 0.0 ? sums->sizes[t] / median : 0.0;
        bins[bin_of(in, t)] += sums->sizes[t];
        count[bin_of(in, t)]++;
    }
    for (int b = 0; b < SINK_BINS; b++) bins[b] = count[b] > 0 ? bins[b] / (double)count[b] : 0.0;
}

/* harm[N] of the distances in sums->sizes, which are relative: only ratios of a head's own harms count. */
static void put_harm(double *harm, const head_sums *sums, const sink_layer *in)
{
    double of_bin[SINK_BINS] = {0.0};
    for (int64_t t = 0; t < in->n_tokens; t++)
        of_bin[bin_of(in, t)] += sums->spread[t] * sums->sizes[t] * sums->sizes[t] / (double)sums->n_queries;
    for (int n = SINK_BINS - 1; n >= 0; n--) harm[n] = of_bin[n] + (n + 1 < SINK_BINS ? harm[n + 1] : 0.0);
}

/* is_sink [n_tokens]: the sizes are distances. */
static void find_sinks(bool *is_sink, const head_sums *sums, const sink_layer *in)
{
    for (int64_t t = 0; t < in->n_tokens; t++)
        is_sink[t] = sums->n_seen_by[t] >= SINK_OTHER_QUERIES && sums->sizes[t] >= SINK_OTHER_DISTANCE
                     && sums->attention[t] >= SINK_OTHER_ATTENTION * sums->equal[t];
}

/* attention [n_tokens]: out, the share of those tokens that act as sinks, 0 of the others. */
static rb_status measure_head(sink_evidence *e, double *attention, const model_facts *model, int layer,
                              const sink_layer *in, int kv_head, rb_error *err)
{
    const int64_t at = ((int64_t)layer * model->n_kv_heads + kv_head) * SINK_BINS;
    head_sums sums = {0};
    bool *is_sink = NULL;
    rb_status st;
    RB_TRY(st, create_sums(&sums, model, in, err), done);
    RB_TRY(st, rb_alloc(&is_sink, (size_t)in->n_tokens, sizeof *is_sink, "sinks", err), done);
    add_attention(&sums, model, in, kv_head);
    for (int64_t t = 0; t < in->n_tokens; t++)
        e->attention[at + bin_of(in, t)] += sums.attention[t] / (double)sums.n_queries;
    find_norms(sums.sizes, in->k + kv_head * in->n_tokens * model->head_dim, in->n_tokens, model->head_dim);
    put_sizes(e->key_norm + at, &sums, in);
    if (in->v) {
        find_norms(sums.sizes, in->v + kv_head * in->n_tokens * model->value_dim, in->n_tokens, model->value_dim);
        put_sizes(e->value_norm + at, &sums, in);
    }
    find_distances(sums.sizes, model, layer, in, kv_head);
    put_sizes(e->distance + at, &sums, in);
    put_harm(e->harm + at, &sums, in);
    find_sinks(is_sink, &sums, in);
    for (int64_t t = 0; t < in->n_tokens; t++)
        attention[t] = is_sink[t] ? sums.attention[t] / (double)sums.n_queries : 0.0;
    if (!isfinite(e->harm[at]))
        st = rb_fail(err, RB_ENONFINITE, "attention is not finite: queries times keys leave the range of f32");
done:
    free(is_sink);
    free_sums(&sums);
    return st;
}

rb_status sink_evidence_add_layer(sink_evidence *e, sink_tokens *tokens, const model_facts *model, int layer,
                                  const sink_layer *in, rb_error *err)
{
    rb_first_failure failure = {0};
    double *attention = NULL; /* [n_kv_heads][n_tokens] */
    rb_status st =
        rb_alloc(&attention, (size_t)model->n_kv_heads, (size_t)in->n_tokens * sizeof *attention, "sinks", err);
    if (st != RB_OK) return st;
    e->context = in->context;
#pragma omp parallel for schedule(dynamic)
    for (int h = 0; h < model->n_kv_heads; h++) {
        rb_error mine = {0};
        rb_note_failure(&failure, h, measure_head(e, attention + h * in->n_tokens, model, layer, in, h, &mine), &mine);
    }
    for (int h = 0; h < model->n_kv_heads; h++)
        for (int64_t t = 0; t < in->n_tokens; t++) {
            tokens->attention[t] += attention[h * in->n_tokens + t];
            tokens->n_heads[t] += attention[h * in->n_tokens + t] > 0.0;
        }
    free(attention);
    st = rb_tell_failure(&failure, err);
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "layer %d", layer);
}

/* ---- other sinks ----------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b)
{
    const int32_t x = ((const sink_token *)a)->id, y = ((const sink_token *)b)->id;
    return (x > y) - (x < y);
}

static int by_attention(const void *a, const void *b)
{
    const double x = ((const sink_token *)a)->attention, y = ((const sink_token *)b)->attention;
    return x != y ? (x < y) - (x > y) : by_id(a, b);
}

rb_status sink_evidence_find_others(sink_evidence *e, const sink_tokens *tokens, const int32_t *ids, int64_t n_tokens,
                                    int64_t n_sink, rb_error *err)
{
    sink_token *found = NULL;
    int64_t n = 0, n_ids = 0;
    other_sinks *out = &e->others;
    rb_status st = rb_alloc(&found, (size_t)n_tokens, sizeof *found, "sinks", err);
    if (st != RB_OK) return st;
    *out = (other_sinks){0};
    for (int64_t t = 0; t < n_tokens; t++) {
        if (t % e->context < n_sink || tokens->n_heads[t] == 0) continue;
        out->heads += (double)tokens->n_heads[t] / e->n_heads;
        out->attention += tokens->attention[t] / e->n_heads;
        found[n++] = (sink_token){.id = ids[t], .n = 1, .attention = tokens->attention[t] / e->n_heads};
    }
    out->n_tokens = n;
    if (n > 0) out->heads /= (double)n;
    qsort(found, (size_t)n, sizeof *found, by_id);
    for (int64_t i = 0; i < n; i++) {
        if (n_ids > 0 && found[n_ids - 1].id == found[i].id) {
            found[n_ids - 1].n++;
            found[n_ids - 1].attention += found[i].attention;
        } else {
            found[n_ids++] = found[i];
        }
    }
    qsort(found, (size_t)n_ids, sizeof *found, by_attention);
    for (; out->n_named < SINK_MAX_NAMED && out->n_named < n_ids; out->n_named++)
        out->named[out->n_named] = found[out->n_named];
    free(found);
    return st;
}

/* ---- the choice ------------------------------------------------------------------------------ */

double sink_mean(const sink_evidence *e, const double *table, int bin)
{
    double sum = 0.0;
    for (int h = 0; h < e->n_heads; h++) sum += table[h * SINK_BINS + bin];
    return sum / e->n_heads;
}

double sink_gain(const sink_evidence *e, int n)
{
    static const double least = 0x1p-40; /* of all harm: more says nothing */
    double sum = 0.0;
    for (int h = 0; h < e->n_heads; h++) {
        const double *harm = e->harm + (int64_t)h * SINK_BINS;
        if (harm[0] > 0.0) sum += 0.5 * log2(harm[0] / fmax(harm[n], least * harm[0]));
    }
    return sum / e->n_heads;
}

double sink_cost(const sink_evidence *e, int n) { return FP16_BITS * n / (double)e->context; }

int sink_choose(const sink_evidence *e)
{
    int best = 0;
    double most = 0.0;
    for (int n = 1; n <= SINK_POSITIONS; n++) {
        const double worth = sink_gain(e, n) - sink_cost(e, n);
        if (!(worth > most)) continue;
        most = worth;
        best = n;
    }
    return best;
}
