/* Decode attention over a packed cache on the CPU, the definition: see cache_cpu.h.
 *
 *   out = sum_t w_t v_t,  w = softmax(s),  s_t = cap(scale * q . k_t),  log_sum_exp = log sum_t exp(s_t)
 *
 * over the tokens of the window, k_t and v_t the exact ones or what the codes restore, as f32. Everything after them is
 * in double. A task is one KV head: it decodes a page once for all its query heads, and takes softmax page by page,
 * rescaling what it has when a larger score comes. Pages go in stretches, so that the heads share the cos and sin of
 * their positions. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cache_cpu.h"
#include "core/threads.h"

enum { STRETCH_PAGES = 16, STRETCH_TOKENS = STRETCH_PAGES * CACHE_PAGE_TOKENS, TILE = CACHE_PAGE_TOKENS };

/* What a KV head has of one sequence's attention. */
typedef struct head_state {
    cache_tile keys, values;
    double *q;                   /* [q_per_kv][head_dim] */
    double *turned;              /* [head_dim][TILE]: the keys of a tile, dim by dim */
    double *largest, *sum, *out; /* [q_per_kv], [q_per_kv], [q_per_kv][value_dim] */
    rb_status st;
    rb_error err;
} head_state;

typedef struct attend_job {
    const cache_cpu *cache;
    int layer;
    const ropebits_kv_queries *queries;
    const ropebits_kv_pages *pages;
    double scale;
    int64_t sequence;
    int64_t first, first_packed, end_packed, length; /* tokens: the first that is seen, of the coded ones, past them */
    int64_t stretch;                                 /* the first token of the stretch at hand */
    float *cos, *sin;                                /* [STRETCH_TOKENS][rotary_dim / 2] */
    head_state *heads;                               /* [n_kv_heads] */
} attend_job;

/* ---- memory ---------------------------------------------------------------------------------- */

static void free_job(attend_job *job)
{
    for (int h = 0; job->heads && h < job->cache->model->n_kv_heads; h++) {
        head_state *head = &job->heads[h];
        cache_tile_free(&head->keys);
        cache_tile_free(&head->values);
        free(head->q);
        free(head->turned);
        free(head->largest);
        free(head->sum);
        free(head->out);
    }
    free(job->heads);
    free(job->cos);
    free(job->sin);
}

static rb_status alloc_head(head_state *head, const attend_job *job, int kv_head, rb_error *err)
{
    const model_facts *model = job->cache->model;
    const size_t n_q = (size_t)model_q_per_kv(model), head_dim = (size_t)model->head_dim;
    const char *what = "attention";
    rb_status st;
    RB_TRY(st,
           cache_tile_alloc(&head->keys, model->head_dim, cache_cpu_codec(job->cache, job->layer, kv_head, false), err),
           done);
    RB_TRY(
        st,
        cache_tile_alloc(&head->values, model->value_dim, cache_cpu_codec(job->cache, job->layer, kv_head, true), err),
        done);
    RB_TRY(st, rb_alloc(&head->q, n_q * head_dim, sizeof *head->q, what, err), done);
    RB_TRY(st, rb_alloc(&head->turned, head_dim * TILE, sizeof *head->turned, what, err), done);
    RB_TRY(st, rb_alloc(&head->largest, n_q, sizeof *head->largest, what, err), done);
    RB_TRY(st, rb_alloc(&head->sum, n_q, sizeof *head->sum, what, err), done);
    RB_TRY(st, rb_alloc(&head->out, n_q * (size_t)model->value_dim, sizeof *head->out, what, err), done);
done:
    return st;
}

static rb_status alloc_job(attend_job *job, rb_error *err)
{
    const model_facts *model = job->cache->model;
    const size_t n_turning = STRETCH_TOKENS * (size_t)(model->rotary_dim / 2);
    rb_status st;
    RB_TRY(st, rb_alloc(&job->cos, n_turning, sizeof *job->cos, "attention", err), done);
    RB_TRY(st, rb_alloc(&job->sin, n_turning, sizeof *job->sin, "attention", err), done);
    RB_TRY(st, rb_alloc(&job->heads, (size_t)model->n_kv_heads, sizeof *job->heads, "attention", err), done);
    for (int h = 0; h < model->n_kv_heads; h++) RB_TRY(st, alloc_head(&job->heads[h], job, h, err), done);
done:
    return st;
}

/* ---- a tile of tokens ------------------------------------------------------------------------ */

/* scores [TILE] <- q . k of each, dim after dim. */
RB_CPU_CLONES static void dot_products(double *scores, const double *q, const double *turned, int head_dim)
{
    memset(scores, 0, TILE * sizeof *scores);
    for (int d = 0; d < head_dim; d++)
#pragma omp simd
        for (int j = 0; j < TILE; j++) scores[j] += q[d] * turned[d * TILE + j];
}

RB_CPU_CLONES static void add_values(double *out, const double *weights, const float *values, int n, int value_dim)
{
    for (int j = 0; j < n; j++)
#pragma omp simd
        for (int d = 0; d < value_dim; d++) out[d] += weights[j] * (double)values[j * value_dim + d];
}

/* One query head over n tokens. */
static void attend_tile(head_state *head, const attend_job *job, int q_head, int n)
{
    const int head_dim = head->keys.dims, value_dim = head->values.dims;
    const double softcap = job->queries->softcap;
    double scores[TILE], *out = head->out + q_head * value_dim, largest = head->largest[q_head];
    dot_products(scores, head->q + q_head * head_dim, head->turned, head_dim);
    for (int j = 0; j < n; j++) {
        scores[j] *= job->scale;
        if (softcap > 0.0) scores[j] = softcap * tanh(scores[j] / softcap);
        largest = fmax(largest, scores[j]);
    }
    const double rescale = exp(head->largest[q_head] - largest); /* 0 for the first tile */
    head->sum[q_head] *= rescale;
    for (int d = 0; d < value_dim; d++) out[d] *= rescale;
    for (int j = 0; j < n; j++) {
        scores[j] = exp(scores[j] - largest);
        head->sum[q_head] += scores[j];
    }
    head->largest[q_head] = largest;
    add_values(out, scores, head->values.x, n, value_dim);
}

/* All query heads of a KV head over the n tokens in its tiles. */
static void attend_tiles(head_state *head, const attend_job *job, int n)
{
    const int head_dim = head->keys.dims;
    memset(head->turned, 0, (size_t)head_dim * TILE * sizeof *head->turned);
    for (int j = 0; j < n; j++)
        for (int d = 0; d < head_dim; d++) head->turned[d * TILE + j] = (double)head->keys.x[j * head_dim + d];
    for (int q = 0; q < model_q_per_kv(job->cache->model); q++) attend_tile(head, job, q, n);
}

/* ---- tasks, each of a KV head ---------------------------------------------------------------- */

static void load_query(head_state *head, const attend_job *job, int kv_head)
{
    const model_facts *model = job->cache->model;
    float x[RB_MAX_HEAD_DIM];
    for (int i = 0; i < model_q_per_kv(model); i++) {
        cache_vector_load(x, &job->queries->queries, job->sequence, kv_head * model_q_per_kv(model) + i,
                          model->head_dim);
        for (int d = 0; d < model->head_dim; d++) head->q[i * model->head_dim + d] = (double)x[d];
        head->largest[i] = -INFINITY;
        head->sum[i] = 0.0;
    }
    memset(head->out, 0, (size_t)model_q_per_kv(model) * (size_t)model->value_dim * sizeof *head->out);
}

/* The exact tokens [begin, end). */
static void attend_exact(head_state *head, const attend_job *job, int kv_head, int64_t begin, int64_t end)
{
    const cache_cpu *cache = job->cache;
    const ropebits_kv_vectors keys = cache_exact_rows(cache, job->pages, job->sequence, false),
                              values = cache_exact_rows(cache, job->pages, job->sequence, true);
    for (int64_t t = begin; t < end; t += TILE) {
        const int n = (int)(end - t < TILE ? end - t : TILE);
        for (int j = 0; j < n; j++) {
            const int64_t row = cache_exact_row(cache, t + j);
            cache_vector_load(head->keys.x + j * head->keys.dims, &keys, row, kv_head, head->keys.dims);
            cache_vector_load(head->values.x + j * head->values.dims, &values, row, kv_head, head->values.dims);
        }
        attend_tiles(head, job, n);
    }
}

static void begin_head(void *context, int64_t h)
{
    attend_job *job = context;
    head_state *head = &job->heads[h];
    load_query(head, job, (int)h);
    attend_exact(head, job, (int)h, job->first, job->first_packed);
    attend_exact(head, job, (int)h, job->end_packed, job->length);
}

static void fill_page_turning(void *context, int64_t page)
{
    attend_job *job = context;
    const int n_freqs = job->cache->model->rotary_dim / 2;
    for (int64_t j = page * TILE; j < (page + 1) * TILE; j++)
        cache_rope_row(job->cos + j * n_freqs, job->sin + j * n_freqs, job->cache->model, job->layer, job->stretch + j);
}

/* The coded tokens [begin, end) of one page. */
static rb_status attend_page(head_state *head, const attend_job *job, int kv_head, int64_t begin, int64_t end,
                             rb_error *err)
{
    const cache_cpu *cache = job->cache;
    const cache_layout *layout = &cache->layouts[job->layer];
    const int n_freqs = cache->model->rotary_dim / 2, n = (int)(end - begin);
    int64_t slots[TILE];
    rb_status st;
    for (int j = 0; j < n; j++) slots[j] = cache_slot(job->pages, job->sequence, begin + j);
    RB_TRY(st,
           cache_tile_unpack(&head->keys, job->pages->pages, layout, &layout->heads[kv_head].keys,
                             cache_cpu_codec(cache, job->layer, kv_head, false), slots, n, err),
           done);
    RB_TRY(st,
           cache_tile_unpack(&head->values, job->pages->pages, layout, &layout->heads[kv_head].values,
                             cache_cpu_codec(cache, job->layer, kv_head, true), slots, n, err),
           done);
    for (int j = 0; cache->is_coded && j < n; j++) {
        const int64_t at = (begin + j - job->stretch) * n_freqs;
        cache_rope_turn(head->keys.x + j * head->keys.dims, job->cos + at, job->sin + at, cache->model, job->layer);
    }
    attend_tiles(head, job, n);
done:
    return st;
}

static void attend_stretch(void *context, int64_t h)
{
    attend_job *job = context;
    head_state *head = &job->heads[h];
    const int64_t stretch_end = job->stretch + STRETCH_TOKENS,
                  end = job->end_packed < stretch_end ? job->end_packed : stretch_end;
    int64_t t = job->first_packed > job->stretch ? job->first_packed : job->stretch;
    while (t < end && head->st == RB_OK) {
        const int64_t page_end = (t / TILE + 1) * TILE, until = page_end < end ? page_end : end;
        head->st = attend_page(head, job, (int)h, t, until, &head->err);
        t = until;
    }
}

/* ---- a sequence ------------------------------------------------------------------------------ */

static void store_output(const attend_job *job)
{
    const model_facts *model = job->cache->model;
    const int n_q = model_q_per_kv(model), value_dim = model->value_dim;
    float x[RB_MAX_HEAD_DIM];
    for (int q_head = 0; q_head < model->n_q_heads; q_head++) {
        const head_state *head = &job->heads[q_head / n_q];
        const int i = q_head % n_q;
        const double sum = head->sum[i], to_mean = sum > 0.0 ? 1.0 / sum : 0.0;
        for (int d = 0; d < value_dim; d++) x[d] = (float)(head->out[i * value_dim + d] * to_mean);
        cache_vector_store(&job->queries->out, job->sequence, q_head, value_dim, x);
        if (job->queries->log_sum_exp)
            job->queries->log_sum_exp[job->sequence * model->n_q_heads + q_head] =
                sum > 0.0 ? (float)(head->largest[i] + log(sum)) : -INFINITY;
    }
}

static int64_t within(int64_t x, int64_t least, int64_t most) { return x < least ? least : x > most ? most : x; }

/* Which tokens are seen, and which of them are coded. */
static rb_status set_range(attend_job *job, rb_error *err)
{
    const cache_cpu *cache = job->cache;
    const ropebits_kv_queries *queries = job->queries;
    job->length = queries->length[job->sequence];
    if (job->length < 0 || job->length > queries->max_length)
        return rb_fail(err, RB_EINVAL, "sequence %lld has length %lld, expected 0 to max_length %d",
                       (long long)job->sequence, (long long)job->length, (int)queries->max_length);
    job->first = queries->window > 0 ? within(job->length - queries->window, 0, job->length) : 0;
    job->first_packed = within(cache->n_sink, job->first, job->length);
    job->end_packed = within(job->length - cache->n_recent, job->first_packed, job->length);
    return RB_OK;
}

static rb_status attend_sequence(attend_job *job, rb_error *err)
{
    const int n_heads = job->cache->model->n_kv_heads;
    rb_status st = set_range(job, err);
    if (st != RB_OK) return st;
    cache_cpu_run(job->cache, begin_head, job, n_heads);
    for (job->stretch = job->first_packed / STRETCH_TOKENS * STRETCH_TOKENS; job->stretch < job->end_packed;
         job->stretch += STRETCH_TOKENS) {
        if (job->cache->is_coded) cache_cpu_run(job->cache, fill_page_turning, job, STRETCH_PAGES);
        cache_cpu_run(job->cache, attend_stretch, job, n_heads);
    }
    for (int h = 0; h < n_heads; h++)
        if (job->heads[h].st != RB_OK)
            return rb_fail(err, job->heads[h].st, "layer %d kv_head %d: %s", job->layer, h, job->heads[h].err.msg);
    store_output(job);
    return RB_OK;
}

rb_status cache_cpu_attend(const cache_cpu *cache, int layer, const ropebits_kv_queries *queries,
                           const ropebits_kv_pages *pages, rb_error *err)
{
    attend_job job = {.cache = cache,
                      .layer = layer,
                      .queries = queries,
                      .pages = pages,
                      .scale = queries->scale != 0.0 ? queries->scale : cache->model->attention_scale};
    rb_status st = alloc_job(&job, err);
    for (job.sequence = 0; job.sequence < queries->n_sequences && st == RB_OK; job.sequence++)
        st = attend_sequence(&job, err);
    free_job(&job);
    return st;
}
