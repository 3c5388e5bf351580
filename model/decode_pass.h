/* Decoding on the CPU: tokens of one sequence go through all layers, a chunk at a time or one by one. The weights stay
 * in memory in f32, and attention is the caller's, who keeps the keys and values of earlier tokens in a cache.
 *
 *   per layer   norm, q, k and v -> RoPE of q and k -> attend (the caller's) -> o_proj, norm, MLP or experts
 *
 * Experts are read from the checkpoint when a token visits them. The GPU's counterpart is cuda/decode_cuda.h. */
#ifndef RB_MODEL_DECODE_PASS_H
#define RB_MODEL_DECODE_PASS_H

#include "model/checkpoint.h"

/* The heads of a layer for n_tokens tokens in a row, the first at first_position; f32. */
typedef struct decode_heads {
    int layer;
    int64_t first_position, n_tokens;
    const float *q;        /* [n_q_heads][n_tokens][head_dim], leaving RoPE */
    const float *k;        /* [n_kv_heads][n_tokens][head_dim], entering RoPE */
    const float *turned_k; /* the same, leaving it */
    const float *v;        /* [n_kv_heads][n_tokens][value_dim] */
    float *attended;       /* out [n_tokens][n_q_heads * value_dim]: what o_proj takes */
} decode_heads;

typedef struct decode_hooks {
    void *user;
    /* Keeps k and v, and attends. A status other than RB_OK ends the run and is returned. */
    rb_status (*attend)(void *user, const decode_heads *heads, rb_error *err);
} decode_hooks;

typedef struct decode_pass decode_pass;

/* Loads the weights. Chunks have at most max_chunk tokens, positions are below n_positions, for which
 * checkpoint_set_longest was called. model outlives the pass. Call rb_threads_init before. Fails as checkpoint_check
 * does, and with RB_EUNSUPPORTED for a latent cache (MLA). */
rb_status decode_pass_open(decode_pass **out, const checkpoint *model, int64_t max_chunk, int64_t n_positions,
                           rb_error *err);
void decode_pass_close(decode_pass *pass);

/* Runs tokens [n], 1 to max_chunk. logits [vocab_size]: of what follows the last of them; NULL: not wanted. Fails with
 * RB_EINVAL on a token outside the vocabulary, and with what the hook returns. */
rb_status decode_pass_run(decode_pass *pass, const int32_t *tokens, int64_t n, int64_t first_position,
                          const decode_hooks *hooks, float *logits, rb_error *err);

#endif
