/* Encoding, decoding and attention over packed pages on the CPU: the definition that kernels are held to. Codes are
 * those of kernels/reference/head_codec.h; RoPE turns as the model's own pass does (model/rope_turn.h); scores, softmax
 * and sums are in double. Arguments and results as in kv_cache.h. */
#ifndef RB_CACHE_CACHE_CPU_H
#define RB_CACHE_CACHE_CPU_H

#include "cache/kv_cache.h"
#include "kernels/reference/head_codec.h"

typedef struct cache_cpu {
    const model_facts *model;    /* the kv_cache's */
    const cache_layout *layouts; /* [n_layers], likewise */
    int64_t n_sink, n_recent;
    bool is_coded; /* by a plan; else keys are fp16, as they leave RoPE */
    kv_cache_runner runner;
    codec_tables *tables;
    head_codec **keys, **values; /* [n_layers][n_kv_heads], owned; NULL: fp16 */
} cache_cpu;

rb_status cache_cpu_create(cache_cpu **out, const model_facts *model, const bit_plan *plan, const cache_layout *layouts,
                           rb_error *err);
void cache_cpu_free(cache_cpu *cache); /* NULL is fine */

rb_status cache_cpu_encode(const cache_cpu *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                           const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                           void *pages, rb_error *err);
rb_status cache_cpu_decode(const cache_cpu *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                           const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                           rb_error *err);
rb_status cache_cpu_append(const cache_cpu *cache, int layer, const ropebits_kv_tokens *tokens,
                           const ropebits_kv_pages *pages, rb_error *err);
rb_status cache_cpu_attend(const cache_cpu *cache, int layer, const ropebits_kv_queries *queries,
                           const ropebits_kv_pages *pages, rb_error *err);

/* ---- what its files share -------------------------------------------------------------------- */

static inline const head_codec *cache_cpu_codec(const cache_cpu *cache, int layer, int kv_head, bool is_value)
{
    return (is_value ? cache->values : cache->keys)[(int64_t)layer * cache->model->n_kv_heads + kv_head];
}

void cache_cpu_run(const cache_cpu *cache, void (*task)(void *context, int64_t i), void *context, int64_t n);

/* Vectors on their way into slots: token i is vector row[i] of both, or i where row is NULL. */
typedef struct cache_coding {
    int64_t n;
    const ropebits_kv_vectors *keys, *values;
    const int64_t *row;
    const int32_t *positions; /* [n]; NULL: keys are stored as they are given */
    bool keys_are_turned;
    const int64_t *slots; /* [n]; below 0: skipped */
} cache_coding;
rb_status cache_cpu_code(const cache_cpu *cache, int layer, const cache_coding *coding, void *pages, rb_error *err);

/* A tile of one head's keys or values, CACHE_PAGE_TOKENS vectors at most. */
typedef struct cache_tile {
    int dims;
    float *x;        /* [CACHE_PAGE_TOKENS][dims] */
    uint8_t *codes;  /* [CACHE_PAGE_TOKENS][dims] */
    uint16_t *norms; /* [CACHE_PAGE_TOKENS][n_norms] */
} cache_tile;
rb_status cache_tile_alloc(cache_tile *tile, int dims, const head_codec *codec, rb_error *err);
void cache_tile_free(cache_tile *tile);
/* tile->x of n vectors into slots, and back. codec NULL: fp16. */
rb_status cache_tile_pack(cache_tile *tile, void *pages, const cache_layout *layout, const cache_part *part,
                          const head_codec *codec, const int64_t *slots, int n, rb_error *err);
rb_status cache_tile_unpack(cache_tile *tile, const void *pages, const cache_layout *layout, const cache_part *part,
                            const head_codec *codec, const int64_t *slots, int n, rb_error *err);

/* The keys, or the values, of a sequence's exact area as vectors: vector i is row i. */
ropebits_kv_vectors cache_exact_rows(const cache_cpu *cache, const ropebits_kv_pages *pages, int64_t sequence,
                                     bool is_value);
/* The row of an exact token. */
static inline int64_t cache_exact_row(const cache_cpu *cache, int64_t token)
{
    return token < cache->n_sink ? token : cache->n_sink + (token - cache->n_sink) % cache->n_recent;
}
static inline int64_t cache_slot(const ropebits_kv_pages *pages, int64_t sequence, int64_t token)
{
    return (int64_t)pages->block_table[sequence * pages->block_stride + token / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS
           + token % CACHE_PAGE_TOKENS;
}

/* cos and sin of a position in a layer, [rotary_dim / 2] each. */
void cache_rope_row(float *cos_row, float *sin_row, const model_facts *model, int layer, int64_t position);
/* Turns a key as RoPE does, and exactly back. */
void cache_rope_turn(float *key, const float *cos_row, const float *sin_row, const model_facts *model, int layer);
void cache_rope_turn_back(float *key, const float *cos_row, const float *sin_row, const model_facts *model, int layer);

/* x [dims] of (vector i, head), whatever the dtype. */
void cache_vector_load(float *x, const ropebits_kv_vectors *vectors, int64_t i, int head, int dims);
void cache_vector_store(const ropebits_kv_vectors *vectors, int64_t i, int head, int dims, const float *x);
/* Fails with RB_ENONFINITE, naming the dim, on a number that is not finite or rounds to more than fp16's 65504. */
rb_status cache_vector_check(const float *x, int dims, rb_error *err);

#endif
