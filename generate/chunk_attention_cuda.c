/* See generate/chunk_attention_cuda.h.
 *
 * Rows are [token][KV head][dim]. Those that a chunk's queries meet as they are:
 *
 *   recent   the last tokens before the chunk (kept layer by layer, in `tails`), then the chunk's
 *   sinks    in `restored`, at their places (kept layer by layer, in `sinks`) */
#include "generate/chunk_attention_cuda.h"

#include <stdlib.h>

#include "core/cuda_device.h"
#include "generate/device_attention.h"
#include "model/cuda/attention_cuda.h"

/* Attention reads keys in tiles that begin at multiples of up to 64 tokens, and masks those that a query does not see.
 * So `recent` has rows in front that are read and do not count. */
enum { ROWS_IN_FRONT = 64 };

/* Rows of tokens on the device. */
typedef struct device_rows {
    rb_cuda_array k, v;
} device_rows;

struct chunk_attention_cuda {
    const model_config *config;
    const sequence_cache *cache;
    const attention_cuda_api *attention;
    layer_cuda_precision precision;
    int64_t n_sink, n_recent, max_chunk;
    int64_t k_bytes, v_bytes;               /* of a token's row */
    device_rows restored;                   /* [max_tokens], of the current layer */
    device_rows recent;                     /* [ROWS_IN_FRONT + n_recent + max_chunk]; none unless n_recent > 0 */
    device_rows *tails;                     /* [n_layers]: [n_recent] */
    device_rows *sinks;                     /* [n_layers]: [n_sink] */
    rb_cuda_array positions, slots, starts; /* [max_tokens]: 0, 1, 2, ... twice; zeroes */
};

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- memory ---------------------------------------------------------------------------------- */

static rb_status alloc_rows(const chunk_attention_cuda *a, device_rows *rows, int64_t n, rb_error *err)
{
    if (n == 0) return RB_OK;
    const rb_status st = rb_cuda_array_alloc(&rows->k, (size_t)(n * a->k_bytes), "keys of a prompt", err);
    return st == RB_OK ? rb_cuda_array_alloc(&rows->v, (size_t)(n * a->v_bytes), "values of a prompt", err) : st;
}

/* What is there must be numbers. */
static rb_status clear_front(const chunk_attention_cuda *a, rb_error *err)
{
    if (a->n_recent == 0) return RB_OK;
    const rb_status st = rb_cuda()->fill(a->recent.k.at, 0, (size_t)(ROWS_IN_FRONT * a->k_bytes), NULL, err);
    return st == RB_OK ? rb_cuda()->fill(a->recent.v.at, 0, (size_t)(ROWS_IN_FRONT * a->v_bytes), NULL, err) : st;
}

static void free_rows(device_rows *rows)
{
    rb_cuda_array_free(&rows->k);
    rb_cuda_array_free(&rows->v);
}

static rb_status number_tokens(chunk_attention_cuda *a, int64_t n, rb_error *err)
{
    int32_t *positions = NULL;
    int64_t *slots = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&positions, (size_t)n, sizeof *positions, "positions", err), done);
    RB_TRY(st, rb_alloc(&slots, (size_t)n, sizeof *slots, "slots", err), done);
    for (int64_t t = 0; t < n; t++) {
        positions[t] = (int32_t)t;
        slots[t] = t;
    }
    RB_TRY(st, rb_cuda_array_alloc(&a->positions, (size_t)n * sizeof *positions, "positions", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&a->slots, (size_t)n * sizeof *slots, "slots", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&a->starts, (size_t)n * sizeof *positions, "positions", err), done);
    RB_TRY(st, rb_cuda()->fill(a->starts.at, 0, a->starts.size_bytes, NULL, err), done);
    RB_TRY(st, cache_memory_write(a->positions.at, positions, a->positions.size_bytes, true, err), done);
    st = cache_memory_write(a->slots.at, slots, a->slots.size_bytes, true, err);
done:
    free(positions);
    free(slots);
    return st;
}

rb_status chunk_attention_cuda_create(chunk_attention_cuda **out, const model_config *config,
                                      layer_cuda_precision precision, const sequence_cache *cache, int64_t max_tokens,
                                      int64_t max_chunk, rb_error *err)
{
    const model_facts *facts = &config->facts;
    const int64_t element = precision == LAYER_CUDA_BF16 ? 2 : 4;
    const size_t n_layers = (size_t)facts->n_layers;
    const void *table = NULL;
    chunk_attention_cuda *a = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_cuda_table(&table, "rb_attention_cuda", err), done);
    RB_TRY(st, rb_alloc(&a, 1, sizeof *a, "attention of a prompt", err), done);
    *a = (chunk_attention_cuda){.config = config,
                                .cache = cache,
                                .attention = table,
                                .precision = precision,
                                .n_sink = min_i64(kv_cache_n_sink(cache->kv), max_tokens),
                                .n_recent = min_i64(kv_cache_n_recent(cache->kv), max_tokens),
                                .max_chunk = max_chunk,
                                .k_bytes = (int64_t)facts->n_kv_heads * facts->head_dim * element,
                                .v_bytes = (int64_t)facts->n_kv_heads * facts->value_dim * element};
    RB_TRY(st, rb_alloc(&a->tails, n_layers, sizeof *a->tails, "exact tokens", err), done);
    RB_TRY(st, rb_alloc(&a->sinks, n_layers, sizeof *a->sinks, "exact tokens", err), done);
    RB_TRY(st, alloc_rows(a, &a->restored, max_tokens, err), done);
    RB_TRY(st, alloc_rows(a, &a->recent, a->n_recent > 0 ? ROWS_IN_FRONT + a->n_recent + max_chunk : 0, err), done);
    RB_TRY(st, clear_front(a, err), done);
    for (int layer = 0; layer < facts->n_layers; layer++) {
        RB_TRY(st, alloc_rows(a, &a->tails[layer], a->n_recent, err), done);
        RB_TRY(st, alloc_rows(a, &a->sinks[layer], a->n_sink, err), done);
    }
    RB_TRY(st, number_tokens(a, max_tokens, err), done);
    *out = a;
    a = NULL;
done:
    chunk_attention_cuda_free(a);
    return st;
}

void chunk_attention_cuda_free(chunk_attention_cuda *a)
{
    if (!a) return;
    free_rows(&a->restored);
    free_rows(&a->recent);
    for (int layer = 0; layer < a->config->facts.n_layers; layer++) {
        if (a->tails) free_rows(&a->tails[layer]);
        if (a->sinks) free_rows(&a->sinks[layer]);
    }
    free(a->tails);
    free(a->sinks);
    rb_cuda_array_free(&a->positions);
    rb_cuda_array_free(&a->slots);
    rb_cuda_array_free(&a->starts);
    free(a);
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* n rows of k and v, from row `from` of one pair of arrays to row `to` of another. */
static rb_status copy_rows(const chunk_attention_cuda *a, const device_rows *to, int64_t to_row, const void *k,
                           const void *v, int64_t from_row, int64_t n, void *stream, rb_error *err)
{
    if (n <= 0) return RB_OK;
    const rb_status st =
        rb_cuda()->copy((char *)to->k.at + to_row * a->k_bytes, (const char *)k + from_row * a->k_bytes,
                        (size_t)(n * a->k_bytes), stream, err);
    if (st != RB_OK) return st;
    return rb_cuda()->copy((char *)to->v.at + to_row * a->v_bytes, (const char *)v + from_row * a->v_bytes,
                           (size_t)(n * a->v_bytes), stream, err);
}

/* Keeps the sinks among the chunk's tokens, and puts all so far at their places. */
static rb_status place_sinks(const chunk_attention_cuda *a, const device_decode_heads *heads, int64_t first,
                             rb_error *err)
{
    const device_rows *kept = &a->sinks[heads->layer];
    const int64_t end = min_i64(first + heads->n, a->n_sink);
    const rb_status st = copy_rows(a, kept, first, heads->turned_k, heads->rows_v, 0, end - first, heads->stream, err);
    return st == RB_OK ? copy_rows(a, &a->restored, 0, kept->k.at, kept->v.at, 0, end, heads->stream, err) : st;
}

/* recent = the tail and the chunk; their last tokens are the next tail. */
static rb_status place_recent(const chunk_attention_cuda *a, const device_decode_heads *heads, int64_t first,
                              rb_error *err)
{
    const device_rows *tail = &a->tails[heads->layer], *recent = &a->recent;
    const int64_t n_tail = min_i64(a->n_recent, first), n = n_tail + heads->n, n_next = min_i64(a->n_recent, n);
    rb_status st = RB_OK;
    if (a->n_recent == 0) return RB_OK;
    RB_TRY(st, copy_rows(a, recent, ROWS_IN_FRONT, tail->k.at, tail->v.at, 0, n_tail, heads->stream, err), done);
    RB_TRY(
        st,
        copy_rows(a, recent, ROWS_IN_FRONT + n_tail, heads->turned_k, heads->rows_v, 0, heads->n, heads->stream, err),
        done);
    st = copy_rows(a, tail, 0, recent->k.at, recent->v.at, ROWS_IN_FRONT + n - n_next, n_next, heads->stream, err);
done:
    return st;
}

/* ---- attention ------------------------------------------------------------------------------- */

static ropebits_kv_vectors restored_from(const chunk_attention_cuda *a, const rb_cuda_array *rows, int64_t row_bytes,
                                         int64_t token, int dim)
{
    return (ropebits_kv_vectors){.data = (char *)rows->at + token * row_bytes,
                                 .dtype = a->precision == LAYER_CUDA_BF16 ? ROPEBITS_KV_BF16 : ROPEBITS_KV_F32,
                                 .token_stride = (int64_t)a->config->facts.n_kv_heads * dim,
                                 .head_stride = dim};
}

/* restored = tokens [first, end) as the pages have them, max_chunk at a time: the workspace has room for so many. */
static rb_status restore(const chunk_attention_cuda *a, const device_decode_heads *heads, int64_t first, int64_t end,
                         rb_error *err)
{
    const model_facts *facts = &a->config->facts;
    rb_status st = RB_OK;
    for (int64_t t = first; t < end && st == RB_OK; t += a->max_chunk) {
        const ropebits_kv_vectors k = restored_from(a, &a->restored.k, a->k_bytes, t, facts->head_dim),
                                  v = restored_from(a, &a->restored.v, a->v_bytes, t, facts->value_dim);
        st = kv_cache_decode(a->cache->kv, heads->layer, min_i64(end - t, a->max_chunk),
                             (const int64_t *)a->slots.at + t, a->cache->pages[heads->layer].at,
                             (const int32_t *)a->positions.at + t, &k, &v, a->cache->workspace.at, heads->stream, err);
    }
    return st;
}

/* Where token 0 would be in `recent`, whose first row after those in front is of token `first`: attention counts from
 * token 0 on, and reads no token before `first` but those in front. */
static const void *place_of_token_0(const rb_cuda_array *recent, int64_t first, int64_t row_bytes)
{
    return (const void *)((uintptr_t)recent->at + (uintptr_t)((ROWS_IN_FRONT - first) * row_bytes));
}

static rb_status attend(const chunk_attention_cuda *a, const device_decode_heads *heads, int64_t first, rb_error *err)
{
    const model_config *c = a->config;
    const model_facts *facts = &c->facts;
    const int64_t tail = first - min_i64(a->n_recent, first);
    const bool has_recent = a->n_recent > 0;
    const attention_cuda_input in = {.type = a->precision == LAYER_CUDA_BF16 ? ATTENTION_CUDA_BF16 : ATTENTION_CUDA_F32,
                                     .n_q_heads = facts->n_q_heads,
                                     .n_kv_heads = facts->n_kv_heads,
                                     .head_dim = facts->head_dim,
                                     .value_dim = facts->value_dim,
                                     .q = heads->q,
                                     .q_token_stride = (int64_t)facts->n_q_heads * facts->head_dim,
                                     .k = a->restored.k.at,
                                     .v = a->restored.v.at,
                                     .k_token_stride = (int64_t)facts->n_kv_heads * facts->head_dim,
                                     .v_token_stride = (int64_t)facts->n_kv_heads * facts->value_dim,
                                     .recent_k = has_recent ? place_of_token_0(&a->recent.k, tail, a->k_bytes) : NULL,
                                     .recent_v = has_recent ? place_of_token_0(&a->recent.v, tail, a->v_bytes) : NULL,
                                     .n_recent = (int)a->n_recent,
                                     .out = heads->attended,
                                     .out_token_stride = (int64_t)facts->n_q_heads * facts->value_dim,
                                     .first_query = first,
                                     .n_queries = heads->n,
                                     .token_sequence_start = a->starts.at,
                                     .sliding_window = c->layer_slides[heads->layer] ? c->sliding_window : 0,
                                     .scale = (float)facts->attention_scale,
                                     .softcap = (float)c->attention_softcap};
    return a->attention->forward(&in, heads->stream, err);
}

rb_status chunk_attention_cuda_run(chunk_attention_cuda *a, const device_decode_heads *heads, int64_t first,
                                   rb_error *err)
{
    rb_status st;
    RB_TRY(st, device_attention_append(a->cache, heads, err), done);
    RB_TRY(st, restore(a, heads, a->n_sink, first + heads->n - a->n_recent, err), done);
    RB_TRY(st, place_sinks(a, heads, first, err), done);
    RB_TRY(st, place_recent(a, heads, first, err), done);
    st = attend(a, heads, first, err);
done:
    return st;
}
