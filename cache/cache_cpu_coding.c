/* Encoding into pages and decoding out of them on the CPU: see cache_cpu.h. A task is the keys or the values of one KV
 * head. */
#include <stdlib.h>

#include "cache/cache_cpu.h"
#include "cache/kv_layout.h"

enum { PARTS = 2 }; /* of a head: keys, values */

typedef struct part_result {
    rb_status st;
    rb_error err;
} part_result;

/* One call: encoding where `in`, else decoding. */
typedef struct coding_job {
    const cache_cpu *cache;
    int layer;
    const cache_coding *coding;
    void *in;             /* the pages that are written */
    const void *out;      /* the pages that are read */
    part_result *results; /* [n_kv_heads][PARTS] */
} coding_job;

/* What a key's vector needs between caller and page. */
typedef enum key_turn { TURN_NONE, TURN_AS_ROPE, TURN_BACK } key_turn;

/* A plan codes keys as they enter RoPE, a cache in fp16 holds them as they leave it. */
static key_turn turn_of(const coding_job *job, bool is_value)
{
    const bool is_coded = job->cache->is_coded, is_as_stored = job->coding->keys_are_turned != is_coded;
    if (is_value || !job->coding->positions || is_as_stored) return TURN_NONE;
    return is_coded && job->in ? TURN_BACK : TURN_AS_ROPE;
}

static void turn(float *key, const coding_job *job, key_turn how, int32_t position)
{
    float cos_row[RB_MAX_BLOCKS], sin_row[RB_MAX_BLOCKS];
    if (how == TURN_NONE) return;
    cache_rope_row(cos_row, sin_row, job->cache->model, job->layer, position);
    (how == TURN_BACK ? cache_rope_turn_back : cache_rope_turn)(key, cos_row, sin_row, job->cache->model, job->layer);
}

/* The next tokens that have slots, CACHE_PAGE_TOKENS at most; returns how many, and moves *at past them. */
static int next_tokens(int64_t *tokens, int64_t *slots, const cache_coding *coding, int64_t *at)
{
    int n = 0;
    for (; *at < coding->n && n < CACHE_PAGE_TOKENS; ++*at) {
        if (coding->slots[*at] < 0) continue;
        tokens[n] = *at;
        slots[n++] = coding->slots[*at];
    }
    return n;
}

static rb_status load_tile(cache_tile *tile, const coding_job *job, int kv_head, bool is_value, const int64_t *tokens,
                           int n, rb_error *err)
{
    const cache_coding *coding = job->coding;
    const ropebits_kv_vectors *vectors = is_value ? coding->values : coding->keys;
    const key_turn how = turn_of(job, is_value);
    for (int v = 0; v < n; v++) {
        float *x = tile->x + v * tile->dims;
        cache_vector_load(x, vectors, coding->row ? coding->row[tokens[v]] : tokens[v], kv_head, tile->dims);
        const rb_status st = cache_vector_check(x, tile->dims, err);
        if (st != RB_OK) return rb_fail_in(err, st, "vector %lld", (long long)tokens[v]);
        turn(x, job, how, how == TURN_NONE ? 0 : coding->positions[tokens[v]]);
    }
    return RB_OK;
}

static void store_tile(const cache_tile *tile, const coding_job *job, int kv_head, bool is_value, const int64_t *tokens,
                       int n)
{
    const cache_coding *coding = job->coding;
    const key_turn how = turn_of(job, is_value);
    for (int v = 0; v < n; v++) {
        float *x = tile->x + v * tile->dims;
        turn(x, job, how, how == TURN_NONE ? 0 : coding->positions[tokens[v]]);
        cache_vector_store(is_value ? coding->values : coding->keys, tokens[v], kv_head, tile->dims, x);
    }
}

static rb_status code_part(const coding_job *job, int kv_head, bool is_value, rb_error *err)
{
    const cache_cpu *cache = job->cache;
    const cache_layout *layout = &cache->layouts[job->layer];
    const cache_part *part = is_value ? &layout->heads[kv_head].values : &layout->heads[kv_head].keys;
    const head_codec *codec = cache_cpu_codec(cache, job->layer, kv_head, is_value);
    int64_t tokens[CACHE_PAGE_TOKENS], slots[CACHE_PAGE_TOKENS], at = 0;
    cache_tile tile;
    rb_status st = cache_tile_alloc(&tile, is_value ? layout->value_dim : layout->head_dim, codec, err);
    for (int n; st == RB_OK && (n = next_tokens(tokens, slots, job->coding, &at)) > 0;) {
        if (job->in) {
            RB_TRY(st, load_tile(&tile, job, kv_head, is_value, tokens, n, err), done);
            st = cache_tile_pack(&tile, job->in, layout, part, codec, slots, n, err);
            if (st != RB_OK) rb_fail_in(err, st, "from vector %lld on", (long long)tokens[0]);
        } else {
            RB_TRY(st, cache_tile_unpack(&tile, job->out, layout, part, codec, slots, n, err), done);
            store_tile(&tile, job, kv_head, is_value, tokens, n);
        }
    }
done:
    cache_tile_free(&tile);
    return st;
}

static void run_part(void *context, int64_t i)
{
    const coding_job *job = context;
    const int kv_head = (int)(i / PARTS);
    const bool is_value = i % PARTS != 0;
    part_result *result = &job->results[i];
    if (!(is_value ? job->coding->values : job->coding->keys)) return; /* not wanted */
    result->st = code_part(job, kv_head, is_value, &result->err);
    if (result->st != RB_OK)
        rb_fail_in(&result->err, result->st, "layer %d kv_head %d, %s", job->layer, kv_head,
                   is_value ? "values" : "keys");
}

static rb_status run_job(coding_job *job, rb_error *err)
{
    const int64_t n = (int64_t)PARTS * job->cache->model->n_kv_heads;
    rb_status st = rb_alloc(&job->results, (size_t)n, sizeof *job->results, "parts of a cache", err);
    if (st != RB_OK) return st;
    cache_cpu_run(job->cache, run_part, job, n);
    for (int64_t i = 0; i < n && st == RB_OK; i++)
        if (job->results[i].st != RB_OK) st = rb_fail(err, job->results[i].st, "%s", job->results[i].err.msg);
    free(job->results);
    return st;
}

rb_status cache_cpu_code(const cache_cpu *cache, int layer, const cache_coding *coding, void *pages, rb_error *err)
{
    coding_job job = {.cache = cache, .layer = layer, .coding = coding, .in = pages};
    return coding->n > 0 ? run_job(&job, err) : RB_OK;
}

rb_status cache_cpu_encode(const cache_cpu *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                           const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                           void *pages, rb_error *err)
{
    const cache_coding coding = {
        .n = n, .keys = keys, .values = values, .positions = positions, .keys_are_turned = true, .slots = slots};
    return cache_cpu_code(cache, layer, &coding, pages, err);
}

rb_status cache_cpu_decode(const cache_cpu *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                           const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                           rb_error *err)
{
    const cache_coding coding = {
        .n = n, .keys = keys, .values = values, .positions = positions, .keys_are_turned = true, .slots = slots};
    coding_job job = {.cache = cache, .layer = layer, .coding = &coding, .out = pages};
    return n > 0 ? run_job(&job, err) : RB_OK;
}
