/* Causal attention of one layer, tile by tile (no T x T matrix): softmax(scale * q k^T) v with grouped query heads, or
 * softmax(cap * tanh(scale * q k^T / cap)) v. */
#ifndef RB_MODEL_ATTENTION_H
#define RB_MODEL_ATTENTION_H

#include <stdint.h>

#include "core/status.h"

typedef struct attention_shape {
    int n_q_heads, n_kv_heads;
    int head_dim, value_dim;       /* of a query or key; of a value */
    int64_t n_tokens;              /* rows of k, v */
    int64_t first_query;           /* rows of q and out are those of tokens first_query to n_tokens - 1 */
    const int64_t *sequence_start; /* [n_sequences + 1]; a query sees keys of its own sequence, itself and earlier */
    int64_t n_sequences;
    int sliding_window; /* 0: none; otherwise the last `sliding_window` keys, itself included */
    float scale;
    float softcap; /* cap; 0: none */
} attention_shape;

/* q [n_q_heads][n_tokens - first_query][head_dim], k [n_kv_heads][n_tokens][head_dim], after RoPE, v
 * [n_kv_heads][n_tokens][value_dim]; out [n_tokens - first_query][n_q_heads * value_dim]. Same bytes for any thread
 * count. Fails with RB_ENOMEM only. */
rb_status attention_forward(const attention_shape *shape, const float *q, const float *k, const float *v, float *out,
                            rb_error *err);

/* The same with a cache that keeps the last tokens as they are. A query meets the keys and values of its last n_recent
 * > 0 tokens, its own included, in recent_k and recent_v (laid out as k and v), and earlier ones in k and v. */
rb_status attention_forward_buffered(const attention_shape *shape, const float *q, const float *k, const float *v,
                                     const float *recent_k, const float *recent_v, int64_t n_recent, float *out,
                                     rb_error *err);

/* Bytes that attention_forward allocates: the list of tiles and the scratch of n_threads, which depends on neither
 * context nor window. */
int64_t attention_scratch_bytes(const attention_shape *shape, int n_threads);

#endif
