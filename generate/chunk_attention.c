/* See generate/chunk_attention.h. */
#include "generate/chunk_attention.h"

#include <stdlib.h>
#include <string.h>

#include "model/attention.h"
#include "model/layer.h"

/* Keys and values of every KV head: k [n_kv_heads][n][head_dim], v [n_kv_heads][n][value_dim]. */
typedef struct head_rows {
    float *k, *v;
    int64_t n;
} head_rows;

struct chunk_attention {
    const model_config *config;
    const sequence_cache *cache;
    int64_t n_sink, n_recent, max_chunk;
    head_rows restored, recent; /* of the current layer, up to the chunk's end; recent: NULL unless n_recent > 0 */
    head_rows *exact;   /* [n_layers]: rows as in the exact area of ropebits_kv.h; empty where nothing is exact */
    int32_t *positions; /* [max_tokens]: 0, 1, 2, ... */
    int64_t *slots;     /* the same */
};

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- memory ---------------------------------------------------------------------------------- */

static rb_status alloc_rows(head_rows *rows, const model_facts *facts, int64_t n, rb_error *err)
{
    const size_t n_rows = (size_t)(facts->n_kv_heads * n);
    rows->n = n;
    const rb_status st = rb_alloc(&rows->k, n_rows, (size_t)facts->head_dim * sizeof(float), "keys of a prompt", err);
    if (st != RB_OK) return st;
    return rb_alloc(&rows->v, n_rows, (size_t)facts->value_dim * sizeof(float), "values of a prompt", err);
}

static void free_rows(head_rows *rows)
{
    free(rows->k);
    free(rows->v);
}

static rb_status number_tokens(chunk_attention *a, int64_t max_tokens, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_alloc(&a->positions, (size_t)max_tokens, sizeof *a->positions, "positions", err), done);
    RB_TRY(st, rb_alloc(&a->slots, (size_t)max_tokens, sizeof *a->slots, "slots", err), done);
    for (int64_t t = 0; t < max_tokens; t++) {
        a->positions[t] = (int32_t)t;
        a->slots[t] = t;
    }
done:
    return st;
}

rb_status chunk_attention_create(chunk_attention **out, const model_config *config, const sequence_cache *cache,
                                 int64_t max_tokens, int64_t max_chunk, rb_error *err)
{
    const model_facts *facts = &config->facts;
    chunk_attention *a = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&a, 1, sizeof *a, "attention of a prompt", err), done);
    *a = (chunk_attention){.config = config,
                           .cache = cache,
                           .n_sink = min_i64(kv_cache_n_sink(cache->kv), max_tokens),
                           .n_recent = min_i64(kv_cache_n_recent(cache->kv), max_tokens),
                           .max_chunk = max_chunk};
    RB_TRY(st, alloc_rows(&a->restored, facts, max_tokens, err), done);
    if (a->n_recent > 0) RB_TRY(st, alloc_rows(&a->recent, facts, max_tokens, err), done);
    RB_TRY(st, rb_alloc(&a->exact, (size_t)facts->n_layers, sizeof *a->exact, "exact tokens", err), done);
    for (int layer = 0; a->n_sink + a->n_recent > 0 && layer < facts->n_layers; layer++)
        RB_TRY(st, alloc_rows(&a->exact[layer], facts, a->n_sink + a->n_recent, err), done);
    RB_TRY(st, number_tokens(a, max_tokens, err), done);
    *out = a;
    a = NULL;
done:
    chunk_attention_free(a);
    return st;
}

void chunk_attention_free(chunk_attention *a)
{
    if (!a) return;
    free_rows(&a->restored);
    free_rows(&a->recent);
    for (int layer = 0; a->exact && layer < a->config->facts.n_layers; layer++) free_rows(&a->exact[layer]);
    free(a->exact);
    free(a->positions);
    free(a->slots);
    free(a);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Row to_row of every head of `to` = row from_row of `from`. */
static void copy_row(const chunk_attention *a, const head_rows *to, int64_t to_row, const head_rows *from,
                     int64_t from_row)
{
    const model_facts *facts = &a->config->facts;
    const int64_t d = facts->head_dim, v_dim = facts->value_dim;
    for (int64_t h = 0; h < facts->n_kv_heads; h++) {
        memcpy(to->k + (h * to->n + to_row) * d, from->k + (h * from->n + from_row) * d, (size_t)d * sizeof(float));
        memcpy(to->v + (h * to->n + to_row) * v_dim, from->v + (h * from->n + from_row) * v_dim,
               (size_t)v_dim * sizeof(float));
    }
}

/* The row of an exact token. */
static int64_t exact_row(const chunk_attention *a, int64_t token)
{
    return token < a->n_sink ? token : a->n_sink + (token - a->n_sink) % a->n_recent;
}

/* Sinks into `restored`, recent tokens into `recent`, from those kept and from the chunk. */
static void place_exact(const chunk_attention *a, const decode_heads *heads, const head_rows *chunk)
{
    const head_rows *kept = &a->exact[heads->layer];
    const int64_t first = heads->first_position, end = first + heads->n_tokens;
    for (int64_t t = 0; t < min_i64(a->n_sink, end); t++)
        copy_row(a, &a->restored, t, t < first ? kept : chunk, t < first ? t : t - first);
    for (int64_t t = max_i64(first - a->n_recent + 1, 0); a->n_recent > 0 && t < end; t++)
        copy_row(a, &a->recent, t, t < first ? kept : chunk, t < first ? exact_row(a, t) : t - first);
}

static void keep_exact(const chunk_attention *a, const decode_heads *heads, const head_rows *chunk)
{
    const int64_t first = heads->first_position, end = first + heads->n_tokens;
    for (int64_t t = first; t < end; t++)
        if (t < a->n_sink || t >= end - a->n_recent)
            copy_row(a, &a->exact[heads->layer], exact_row(a, t), chunk, t - first);
}

/* ---- the cache ------------------------------------------------------------------------------- */

static ropebits_kv_vectors vectors_of(float *data, int64_t n, int dim)
{
    return (ropebits_kv_vectors){.data = data, .dtype = ROPEBITS_KV_F32, .token_stride = dim, .head_stride = n * dim};
}

static rb_status append(const chunk_attention *a, const decode_heads *heads, rb_error *err)
{
    const model_facts *facts = &a->config->facts;
    const ropebits_kv_pages pages = sequence_cache_layer(a->cache, heads->layer);
    const ropebits_kv_tokens tokens = {.n = heads->n_tokens,
                                       .token = a->positions + heads->first_position,
                                       .keys = vectors_of((float *)heads->k, heads->n_tokens, facts->head_dim),
                                       .values = vectors_of((float *)heads->v, heads->n_tokens, facts->value_dim)};
    return kv_cache_append(a->cache->kv, heads->layer, &tokens, &pages, a->cache->workspace.at, NULL, err);
}

/* restored = tokens [first, end) as the pages have them, max_chunk at a time: the workspace has room for so many. */
static rb_status restore(const chunk_attention *a, int layer, int64_t first, int64_t end, rb_error *err)
{
    const model_facts *facts = &a->config->facts;
    const head_rows *to = &a->restored;
    rb_status st = RB_OK;
    for (int64_t t = first; t < end && st == RB_OK; t += a->max_chunk) {
        const ropebits_kv_vectors keys = vectors_of(to->k + t * facts->head_dim, to->n, facts->head_dim),
                                  values = vectors_of(to->v + t * facts->value_dim, to->n, facts->value_dim);
        st = kv_cache_decode(a->cache->kv, layer, min_i64(end - t, a->max_chunk), a->slots + t,
                             a->cache->pages[layer].at, a->positions + t, &keys, &values, a->cache->workspace.at, NULL,
                             err);
    }
    return st;
}

static rb_status attend(const chunk_attention *a, const decode_heads *heads, rb_error *err)
{
    const int64_t sequence_start[2] = {0, heads->first_position + heads->n_tokens};
    attention_shape shape = layer_attention_shape(a->config, sequence_start, 1, a->config->layer_slides[heads->layer]);
    shape.first_query = heads->first_position;
    if (a->n_recent == 0)
        return attention_forward(&shape, heads->q, a->restored.k, a->restored.v, heads->attended, err);
    return attention_forward_buffered(&shape, heads->q, a->restored.k, a->restored.v, a->recent.k, a->recent.v,
                                      a->n_recent, heads->attended, err);
}

rb_status chunk_attention_run(chunk_attention *a, const decode_heads *heads, rb_error *err)
{
    const int64_t end = heads->first_position + heads->n_tokens;
    const head_rows chunk = {.k = (float *)heads->turned_k, .v = (float *)heads->v, .n = heads->n_tokens};
    rb_status st;
    a->restored.n = a->recent.n = end;
    RB_TRY(st, append(a, heads, err), done);
    RB_TRY(st, restore(a, heads->layer, a->n_sink, end - a->n_recent, err), done);
    place_exact(a, heads, &chunk);
    keep_exact(a, heads, &chunk);
    st = attend(a, heads, err);
done:
    return st;
}
