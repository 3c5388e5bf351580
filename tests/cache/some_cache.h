/* A cache with a pool of pages in no order, and keys and values to put into it. Include after tests/test_support.h. */
#ifndef RB_TESTS_CACHE_SOME_CACHE_H
#define RB_TESTS_CACHE_SOME_CACHE_H

#include "cache/kv_cache.h"
#include "core/half.h"
#include "model/rope_turn.h"
#include "tests/plan/some_plan.h"

enum { SOME_PAGES = 4, SOME_TOKENS = SOME_PAGES * CACHE_PAGE_TOKENS, SOME_GUARD = 0xa5 };

/* Sequences of SOME_TOKENS tokens, of one layer. */
typedef struct some_cache {
    model_facts model;
    bit_plan *plan; /* owned; NULL: fp16 */
    kv_cache *cache;
    int layer, n_sequences;
    uint8_t *pool, *exact;
    size_t pool_bytes;
    int32_t *block_table; /* [n_sequences][SOME_PAGES] */
    float *keys, *values; /* [n_sequences][SOME_TOKENS][n_kv_heads][head_dim], keys as they enter RoPE */
    ropebits_kv_pages pages;
} some_cache;

/* In [-1, 1), of a bell's shape. */
static inline float some_number(uint32_t *state)
{
    float sum = 0.0f;
    for (int i = 0; i < 4; i++) {
        *state = *state * 1664525u + 1013904223u;
        sum += (float)(*state >> 8) / 0x1p24f;
    }
    return 0.5f * sum - 1.0f;
}

static inline float *some_numbers(size_t n, uint32_t seed)
{
    rb_error err = {0};
    float *out = NULL;
    assert_ok(rb_alloc(&out, n, sizeof *out, "numbers", &err));
    for (size_t i = 0; i < n; i++) out[i] = some_number(&seed);
    return out;
}

static inline int some_n_heads(const some_cache *c) { return c->model.n_kv_heads; }

/* The vectors from token t of a sequence on, as the library takes them. */
static inline ropebits_kv_vectors some_vectors(const some_cache *c, float *of, int sequence, int64_t t)
{
    const int64_t row = (int64_t)some_n_heads(c) * c->model.head_dim;
    return (ropebits_kv_vectors){.data = of + ((int64_t)sequence * SOME_TOKENS + t) * row,
                                 .dtype = ROPEBITS_KV_F32,
                                 .token_stride = row,
                                 .head_stride = c->model.head_dim};
}

static inline void some_cache_free(some_cache *c)
{
    kv_cache_free(c->cache);
    bit_plan_free(c->plan);
    free(c->pool);
    free(c->exact);
    free(c->block_table);
    free(c->keys);
    free(c->values);
}

/* Takes the plan; NULL: fp16. */
static inline some_cache some_cache_create(const model_facts *model, bit_plan *plan, int layer, int n_sequences)
{
    rb_error err = {0};
    some_cache c = {.model = *model, .plan = plan, .layer = layer, .n_sequences = n_sequences};
    const int n_pages = n_sequences * SOME_PAGES;
    const size_t n = (size_t)n_sequences * SOME_TOKENS * (size_t)(model->n_kv_heads * model->head_dim);
    assert_ok(kv_cache_create(&c.cache, model, plan, false, &err));
    c.pool_bytes = (size_t)n_pages * (size_t)kv_cache_layout(c.cache, layer)->page_bytes;
    assert_ok(rb_alloc(&c.pool, c.pool_bytes, 1, "pool", &err));
    memset(c.pool, SOME_GUARD, c.pool_bytes);
    assert_ok(rb_alloc(&c.block_table, (size_t)n_pages, sizeof *c.block_table, "block table", &err));
    for (int p = 0; p < n_pages; p++) c.block_table[p] = (p * 7 + 3) % n_pages; /* 7 divides none of the sizes */
    const size_t exact_bytes = kv_cache_exact_bytes(c.cache);
    assert_ok(rb_alloc(&c.exact, (size_t)n_sequences * exact_bytes, 1, "exact areas", &err));
    memset(c.exact, SOME_GUARD, (size_t)n_sequences * exact_bytes);
    c.keys = some_numbers(n, 17);
    c.values = some_numbers(n, 91);
    c.pages = (ropebits_kv_pages){.pages = c.pool,
                                  .block_table = c.block_table,
                                  .block_stride = SOME_PAGES,
                                  .exact = exact_bytes > 0 ? c.exact : NULL,
                                  .exact_stride_bytes = (int64_t)exact_bytes};
    return c;
}

static inline int64_t some_slot(const some_cache *c, int sequence, int64_t t)
{
    return (int64_t)c->block_table[sequence * SOME_PAGES + t / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS
           + t % CACHE_PAGE_TOKENS;
}

/* Appends tokens [begin, end) of a sequence; keys as they enter RoPE. */
static inline rb_status some_append(some_cache *c, int sequence, int64_t begin, int64_t end, rb_error *err)
{
    int32_t token[SOME_TOKENS], of[SOME_TOKENS];
    for (int64_t t = begin; t < end; t++) {
        token[t - begin] = (int32_t)t;
        of[t - begin] = sequence;
    }
    const ropebits_kv_tokens tokens = {.n = end - begin,
                                       .sequence = of,
                                       .token = token,
                                       .keys = some_vectors(c, c->keys, sequence, begin),
                                       .values = some_vectors(c, c->values, sequence, begin)};
    return kv_cache_append(c->cache, c->layer, &tokens, &c->pages, NULL, NULL, err);
}

/* x as RoPE leaves it at a position. */
static inline void some_turn(const some_cache *c, float *x, int64_t position)
{
    float cos_row[RB_MAX_BLOCKS], sin_row[RB_MAX_BLOCKS];
    const rope_facts *rope = model_rope(&c->model, c->layer);
    rope_row_fill(cos_row, sin_row, rope, c->model.rotary_dim / 2, position);
    rope_turn(x, cos_row, sin_row, c->model.rotary_dim / 2, rope->pairing);
}

static inline float through_fp16(float x) { return rb_f16_to_f32(rb_f32_to_f16(x)); }

/* ---- plans of every kind, by number ---------------------------------------------------------- */

enum { SOME_FP16, SOME_GROUPS, SOME_GENERAL, SOME_BLOCK_CODEBOOK, SOME_LEVELS, SOME_TRELLIS, SOME_N_KINDS };

static inline bit_plan *some_plan_of_kind(int kind, const model_facts *model)
{
    switch (kind) {
    case SOME_GROUPS: return some_plan(model, CODEBOOK_BLOCK_GTQ);
    case SOME_GENERAL: return some_general_plan(model);
    case SOME_BLOCK_CODEBOOK: return some_plan_of_block_codebook(model);
    case SOME_LEVELS: return some_plan_of_levels(model);
    case SOME_TRELLIS: return some_plan_of_trellis(model);
    default: return NULL;
    }
}

#endif
