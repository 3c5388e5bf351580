/* Causal MAE, attended MAE and attention KL: see profile/attention_error.h.
 *
 * One item of work is a tile of queries of one head against all keys it may see. With p the exact weights, s and s^ the
 * scaled logits,
 *      KL(p || p^) = sum_t p_t (s_t - s^_t) - lse(s) + lse(s^),
 * so the exact side (p, lse) is computed once and each candidate costs one product, one exp per pair and three sums. */
#include "profile/attention_error.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "core/threads.h"
#include "model/vector_math.h"

enum { TILE = 64 }; /* queries of an item; fixed, so that sums do not depend on threads */

typedef struct attention_job {
    const float *q, *k; /* one query head's, and its KV head's */
    const float *const *k_hat;
    int head_dim, n_candidates;
    float scale;
} attention_job;

typedef struct tile {
    int64_t sequence, first; /* tokens: start of the sequence, of the tile */
    int n;
} tile;

/* Sums over the rows of a tile, per candidate. */
typedef struct tile_sums {
    double magnitude, attended, divergence;
} tile_sums;

/* [TILE][context] each. */
typedef struct attention_scratch {
    float *logits, *weights, *other, *row;
} attention_scratch;

static void tile_product(float *out, int64_t stride, const attention_job *job, const float *k, const tile *t,
                         int n_keys)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t->n, n_keys, job->head_dim, 1.0f,
                job->q + t->first * job->head_dim, job->head_dim, k + t->sequence * job->head_dim, job->head_dim, 0.0f,
                out, (int)stride);
}

/* out = exp(scale * logits - largest), *sum theirs; returns log of the sum of exp(scale * logits). */
static double exp_row(float *out, float *sum, const float *logits, float scale, int n)
{
    scale_row(out, logits, scale, n);
    const float largest = max_row(out, n);
    *sum = exp_sum_row(out, largest, n);
    return (double)largest + log((double)*sum);
}

typedef struct row_sums {
    double magnitude, attended, weighted; /* sum |a - b|, sum p |a - b|, sum p (a - b) */
} row_sums;

RB_CPU_CLONES static row_sums compare_row(const float *a, const float *b, const float *p, int n)
{
    double magnitude = 0.0, attended = 0.0, weighted = 0.0;
#pragma omp simd reduction(+ : magnitude, attended, weighted)
    for (int i = 0; i < n; i++) {
        const double difference = (double)(a[i] - b[i]), share = (double)p[i] * difference;
        magnitude += fabs(difference);
        attended += fabs(share);
        weighted += share;
    }
    return (row_sums){magnitude, attended, weighted};
}

static void measure_tile(tile_sums *sums, const attention_job *job, const tile *t, int64_t stride,
                         attention_scratch *scratch)
{
    const int before = (int)(t->first - t->sequence), n_keys = before + t->n;
    double lse[TILE];
    tile_product(scratch->logits, stride, job, job->k, t, n_keys);
    for (int i = 0; i < t->n; i++) {
        const int n_visible = before + i + 1;
        float *weights = scratch->weights + i * stride;
        float sum;
        lse[i] = exp_row(weights, &sum, scratch->logits + i * stride, job->scale, n_visible);
        scale_row(weights, weights, 1.0f / sum, n_visible);
    }
    for (int c = 0; c < job->n_candidates; c++) {
        sums[c] = (tile_sums){0};
        tile_product(scratch->other, stride, job, job->k_hat[c], t, n_keys);
        for (int i = 0; i < t->n; i++) {
            const int n_visible = before + i + 1;
            const float *other = scratch->other + i * stride;
            float sum;
            const row_sums row =
                compare_row(scratch->logits + i * stride, other, scratch->weights + i * stride, n_visible);
            const double lse_other = exp_row(scratch->row, &sum, other, job->scale, n_visible);
            sums[c].magnitude += row.magnitude;
            sums[c].attended += row.attended;
            sums[c].divergence += (double)job->scale * row.weighted - lse[i] + lse_other;
        }
    }
}

/* ---- all tiles ------------------------------------------------------------------------------- */

static int64_t count_tiles(int64_t n_tokens, int64_t context)
{
    const int64_t n_whole = n_tokens / context, rest = n_tokens % context;
    return n_whole * ((context + TILE - 1) / TILE) + (rest + TILE - 1) / TILE;
}

static void cut_tiles(tile *tiles, int64_t n_tokens, int64_t context)
{
    int64_t n = 0;
    for (int64_t sequence = 0; sequence < n_tokens; sequence += context) {
        const int64_t end = sequence + context < n_tokens ? sequence + context : n_tokens;
        for (int64_t first = sequence; first < end; first += TILE)
            tiles[n++] =
                (tile){.sequence = sequence, .first = first, .n = (int)(end - first < TILE ? end - first : TILE)};
    }
}

double attention_count_pairs(int64_t n_tokens, int64_t context)
{
    const double n_whole = (double)(n_tokens / context), length = (double)context, rest = (double)(n_tokens % context);
    return n_whole * length * (length + 1.0) / 2.0 + rest * (rest + 1.0) / 2.0;
}

rb_status attention_errors(attention_error *out, const model_facts *model, const float *q, int n_q, const float *k,
                           const float *const *k_hat, int n_candidates, int64_t n_tokens, int64_t context,
                           rb_error *err)
{
    if (context > n_tokens) context = n_tokens;
    const int n_threads = rb_threads_count();
    const int64_t n_tiles = count_tiles(n_tokens, context), n_items = n_q * n_tiles;
    const size_t area = TILE * (size_t)context, per_thread = 3 * area + (size_t)context;
    tile *tiles = NULL;
    tile_sums *sums = NULL; /* [n_items][n_candidates] */
    float *memory = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&tiles, (size_t)n_tiles, sizeof *tiles, "attention error", err), done);
    RB_TRY(st, rb_alloc(&sums, (size_t)n_items * (size_t)n_candidates, sizeof *sums, "attention error", err), done);
    RB_TRY(st, rb_alloc(&memory, (size_t)n_threads * per_thread, sizeof *memory, "attention error", err), done);
    cut_tiles(tiles, n_tokens, context);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t item = 0; item < n_items; item++) {
        float *mine = memory + (size_t)rb_thread_index() * per_thread;
        attention_scratch scratch = {mine, mine + area, mine + 2 * area, mine + 3 * area};
        const attention_job job = {.q = q + item / n_tiles * n_tokens * model->head_dim,
                                   .k = k,
                                   .k_hat = k_hat,
                                   .head_dim = model->head_dim,
                                   .n_candidates = n_candidates,
                                   .scale = (float)model->attention_scale};
        measure_tile(sums + item * n_candidates, &job, &tiles[item % n_tiles], context, &scratch);
    }
    for (int c = 0; c < n_candidates; c++) {
        tile_sums total = {0};
        for (int64_t item = 0; item < n_items; item++) {
            total.magnitude += sums[item * n_candidates + c].magnitude;
            total.attended += sums[item * n_candidates + c].attended;
            total.divergence += sums[item * n_candidates + c].divergence;
        }
        out[c].causal_mae = total.magnitude / (n_q * attention_count_pairs(n_tokens, context));
        out[c].attended_mae = total.attended / ((double)n_q * (double)n_tokens);
        out[c].attention_kl = total.divergence / ((double)n_q * (double)n_tokens);
        if (out[c].attention_kl < 0.0) out[c].attention_kl = 0.0; /* rounding; a NaN stays one */
        if (!isfinite(out[c].causal_mae) || !isfinite(out[c].attention_kl)) {
            st = rb_fail(err, RB_ENONFINITE,
                         "the attention error is not finite: queries times keys leave the range of f32");
            goto done;
        }
    }
done:
    free(tiles);
    free(sums);
    free(memory);
    return st;
}
