/* Output errors of values: see profile/value_error.h.
 *
 * The values and their errors at all widths stand side by side, [n_tokens][9 * value_dim], so that a tile of queries is
 * two products: its logits, and its weights times all of them. */
#include "profile/value_error.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "model/vector_math.h"

enum {
    TILE = 64,
    N_PARTS = PLAN_MAX_WIDTH + 1
}; /* queries of an item, fixed, so that sums do not depend on threads; v, then its errors */

/* Queries of one sequence, each the last of a stretch of VALUE_ERROR_STRIDE tokens or of the sequence. */
typedef struct query_tile {
    int64_t sequence, end; /* tokens of the sequence: its first, the one after its last */
    int first, n;          /* stretches */
} query_tile;

typedef struct value_job {
    const value_vectors *in;
    const float *parts; /* [n_tokens][N_PARTS][value_dim] */
    int head_dim, value_dim;
    float scale;
} value_job;

static int64_t query_at(const query_tile *t, int stretch)
{
    const int64_t end = t->sequence + (int64_t)(stretch + 1) * VALUE_ERROR_STRIDE;
    return (end < t->end ? end : t->end) - 1;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* values: model_value_facts, here and below. */
static rb_status fill_part(float *parts, int width, const model_facts *values, int kv_head, const value_vectors *in,
                           codec_tables *tables, rb_error *err)
{
    const int64_t dim = values->head_dim;
    plan_head head = {0};
    head_codec *codec = NULL;
    float *restored = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&restored, (size_t)(in->n_tokens * dim), sizeof *restored, "restored values", err), done);
    RB_TRY(st, plan_head_set_values(&head, width, model_n_blocks(values), kv_head, CODEBOOK_BLOCK_GTQ, err), done);
    RB_TRY(st, head_codec_create(&codec, &head, values, tables, err), done);
    RB_TRY(st, head_codec_round_trip(codec, in->v, in->n_tokens, restored, err), done);
    for (int64_t t = 0; t < in->n_tokens; t++) {
        const bool is_exact = t % in->context < in->n_sink;
        for (int64_t i = 0; i < dim; i++)
            parts[(t * N_PARTS + width) * dim + i] = is_exact ? 0.0f : in->v[t * dim + i] - restored[t * dim + i];
    }
done:
    head_codec_free(codec);
    plan_head_clear(&head);
    free(restored);
    return st;
}

static rb_status fill_parts(float *parts, const model_facts *values, int kv_head, const value_vectors *in,
                            codec_tables *tables, rb_error *err)
{
    const int64_t dim = values->head_dim;
    rb_first_failure failure = {0};
    for (int64_t t = 0; t < in->n_tokens; t++)
        memcpy(parts + t * N_PARTS * dim, in->v + t * dim, (size_t)dim * sizeof *parts);
#pragma omp parallel for schedule(dynamic)
    for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) {
        rb_error mine = {0};
        rb_note_failure(&failure, width, fill_part(parts, width, values, kv_head, in, tables, &mine), &mine);
    }
    return rb_tell_failure(&failure, err);
}

/* ---- a tile ---------------------------------------------------------------------------------- */

/* Softmax of the first n of a row, 0 after them up to n_keys. */
static void weigh_row(float *row, float scale, int n, int n_keys)
{
    scale_row(row, row, scale, n);
    const float sum = exp_sum_row(row, max_row(row, n), n);
    scale_row(row, row, 1.0f / sum, n);
    memset(row + n, 0, (size_t)(n_keys - n) * sizeof *row);
}

static double squared(const float *x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

/* sums [N_PARTS] of squared outputs; queries [TILE][head_dim], weights [TILE][context], outputs
 * [TILE][N_PARTS][value_dim] are scratch. */
static void measure_tile(double *sums, const value_job *job, int q_head, const query_tile *t, float *queries,
                         float *weights, float *outputs)
{
    const int dim = job->head_dim, value_dim = job->value_dim, columns = N_PARTS * value_dim,
              n_keys = (int)(query_at(t, t->first + t->n - 1) - t->sequence + 1);
    const float *q = job->in->q + q_head * job->in->n_tokens * dim;
    for (int i = 0; i < t->n; i++)
        memcpy(queries + i * dim, q + query_at(t, t->first + i) * dim, (size_t)dim * sizeof *queries);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t->n, n_keys, dim, 1.0f, queries, dim,
                job->in->k + t->sequence * dim, dim, 0.0f, weights, n_keys);
    for (int i = 0; i < t->n; i++)
        weigh_row(weights + (int64_t)i * n_keys, job->scale, (int)(query_at(t, t->first + i) - t->sequence + 1),
                  n_keys);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, t->n, columns, n_keys, 1.0f, weights, n_keys,
                job->parts + t->sequence * columns, columns, 0.0f, outputs, columns);
    for (int part = 0; part < N_PARTS; part++) {
        sums[part] = 0.0;
        for (int i = 0; i < t->n; i++) sums[part] += squared(outputs + i * columns + part * value_dim, value_dim);
    }
}

/* ---- all tiles ------------------------------------------------------------------------------- */

static int64_t stretches_of(int64_t n_tokens) { return (n_tokens + VALUE_ERROR_STRIDE - 1) / VALUE_ERROR_STRIDE; }

/* tiles NULL: counts them. Adds up the queries. */
static int64_t cut_tiles(query_tile *tiles, int64_t *n_queries, int64_t n_tokens, int64_t context)
{
    int64_t n = 0;
    *n_queries = 0;
    for (int64_t sequence = 0; sequence < n_tokens; sequence += context) {
        const int64_t end = sequence + context < n_tokens ? sequence + context : n_tokens,
                      n_stretches = stretches_of(end - sequence);
        *n_queries += n_stretches;
        for (int64_t first = 0; first < n_stretches; first += TILE, n++)
            if (tiles)
                tiles[n] = (query_tile){sequence, end, (int)first,
                                        (int)(n_stretches - first < TILE ? n_stretches - first : TILE)};
    }
    return n;
}

rb_status value_errors(double *error, double *energy, const model_facts *model, int kv_head, const value_vectors *in,
                       codec_tables *tables, rb_error *err)
{
    const int64_t context = in->context < in->n_tokens ? in->context : in->n_tokens;
    const int n_threads = rb_threads_count();
    int64_t n_queries;
    const int64_t n_tiles = cut_tiles(NULL, &n_queries, in->n_tokens, context), n_items = in->n_q * n_tiles;
    const model_facts values = model_value_facts(model);
    const size_t dim = (size_t)model->head_dim, value_dim = (size_t)model->value_dim,
                 per_thread = TILE * (dim + (size_t)context + N_PARTS * value_dim);
    double total[N_PARTS] = {0.0}, *sums = NULL; /* [n_items][N_PARTS] */
    float *parts = NULL, *memory = NULL;
    query_tile *tiles = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&tiles, (size_t)n_tiles, sizeof *tiles, "output errors", err), done);
    RB_TRY(st, rb_alloc(&sums, (size_t)n_items * N_PARTS, sizeof *sums, "output errors", err), done);
    RB_TRY(st, rb_alloc(&parts, (size_t)in->n_tokens * N_PARTS, value_dim * sizeof *parts, "errors of values", err),
           done);
    RB_TRY(st, rb_alloc(&memory, (size_t)n_threads * per_thread, sizeof *memory, "output errors", err), done);
    cut_tiles(tiles, &n_queries, in->n_tokens, context);
    RB_TRY(st, fill_parts(parts, &values, kv_head, in, tables, err), done);
    const value_job job = {in, parts, model->head_dim, model->value_dim, (float)model->attention_scale};
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t item = 0; item < n_items; item++) {
        float *queries = memory + (size_t)rb_thread_index() * per_thread, *outputs = queries + TILE * dim,
              *weights = outputs + TILE * N_PARTS * value_dim;
        measure_tile(sums + item * N_PARTS, &job, (int)(item / n_tiles), &tiles[item % n_tiles], queries, weights,
                     outputs);
    }
    for (int64_t item = 0; item < n_items; item++)
        for (int part = 0; part < N_PARTS; part++) total[part] += sums[item * N_PARTS + part];
    for (int part = 0; part < N_PARTS; part++) {
        const double mean = total[part] / ((double)in->n_q * (double)n_queries);
        if (!isfinite(mean)) {
            st =
                rb_fail(err, RB_ENONFINITE,
                        "the output of attention is not finite: queries times keys, or values, leave the range of f32");
            goto done;
        }
        if (part == 0) *energy = mean;
        else error[part - 1] = mean;
    }
done:
    free(tiles);
    free(sums);
    free(parts);
    free(memory);
    return st;
}
