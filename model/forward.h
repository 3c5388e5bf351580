/* The forward pass of a decoder on the CPU, streamed layer by layer over all tokens. It takes memory for one layer's
 * weights in f32 and the activations, whatever the depth. OpenMP works on fixed tiles and OpenBLAS with one thread a
 * call, so every thread count gives the same bytes.
 *
 * Per layer: norm, q/k/v projections (bias, q/k norm where the model has them), on_qkv (calibrate captures, evaluate
 * replaces k and v), RoPE, on_rotated, causal attention per sequence, on_attended, o_proj, norm, MLP or experts. The
 * work of the last layer after on_qkv/on_rotated is skipped unless on_logits or on_residual is set. RoPE angles are
 * rounded to f32 as transformers does: float(position) * float(inv_freq).
 *
 * Many tokens go through a layer part by part (forward_hooks.part_start). Then only the residual stream is held for all
 * of them. */
#ifndef RB_MODEL_FORWARD_H
#define RB_MODEL_FORWARD_H

#include "model/token_batch.h"

/* One layer's heads on a part of the batch, f32: q [n_q_heads][n_tokens][head_dim], k [n_kv_heads][n_tokens][head_dim],
 * v [n_kv_heads][n_tokens][value_dim]: what the cache holds. With a latent cache v is the latent, k the shared key. */
typedef struct layer_heads {
    int layer;
    int part;                      /* 0 where there are no parts */
    int64_t first_token, n_tokens; /* of the batch */
    float *q, *k, *v;
    const float *exact_k; /* with n_recent: k as on_qkv found it, turned like k; otherwise k */
} layer_heads;

/* What a caller wants from a pass. The functions may be NULL. They are called in the thread that called forward_run, in
 * the order of layers and parts. A status other than RB_OK ends the run and is returned. */
typedef struct forward_hooks {
    void *user;
    rb_status (*on_qkv)(void *user, layer_heads *heads, rb_error *err); /* entering RoPE; may change k and v in place */
    rb_status (*on_rotated)(void *user, const layer_heads *heads, rb_error *err); /* q and k leaving RoPE */
    /* attended [n_tokens][n_q_heads * attended_dim]: what o_proj takes; heads as on_rotated had them. */
    rb_status (*on_attended)(void *user, const layer_heads *heads, const float *attended, rb_error *err);
    /* energy [n_tokens]: of every token |x|^2 of the residual stream x that the first norm after the attention reads,
     * times the mean square of what o_proj gives where that goes through a norm before it is added. */
    rb_status (*on_residual)(void *user, const layer_heads *heads, const double *energy, rb_error *err);
    /* logits [n][vocab_size] of logit_tokens[first] on, or of token `first` on. */
    rb_status (*on_logits)(void *user, int64_t first, int64_t n, const float *logits, rb_error *err);
    /* After each layer: the residual stream of all tokens, [n_tokens][hidden_size]; NULL after the last layer, where
     * nothing needs it. It is all that the next layer takes from those before it. */
    rb_status (*on_stream)(void *user, int layer, const float *stream, rb_error *err);
    void (*on_layer_done)(void *user, int layer); /* progress */

    /* The pass begins at this layer. Above 0, fill_stream gives what on_stream had after the layer before it: rows
     * [n][hidden_size] of tokens [first, first + n). */
    int first_layer;
    rb_status (*fill_stream)(void *user, int64_t first, int64_t n, float *rows, rb_error *err);
    /* Parts are whole sequences that go through a layer together: the first sequence of each part, [n_parts + 1],
     * ascending from 0 to n_sequences. NULL: one part of all. */
    const int64_t *part_start;
    int n_parts;
    /* A query meets the last n_recent keys and values, its own included, as they were before on_qkv changed them, and
     * earlier ones as changed. */
    int64_t n_recent;
    /* Tokens whose logits are wanted, [n_logit_tokens], any order; NULL: all. A call of on_logits gets whole groups of
     * logit_group (0: 1) of them. */
    const int64_t *logit_tokens;
    int64_t n_logit_tokens, logit_group;
} forward_hooks;

/* Call rb_threads_init before. Sequences may be longer than max_position: RoPE is computed all the same, and the caller
 * decides whether that is sensible. Activations are not checked for NaN or infinity; hooks that keep them do that.
 * Fails with RB_EINVAL on an empty batch, sequence bounds that are not ascending from 0 to n_tokens, or a token id
 * outside the vocabulary, whose position is named; with what checkpoint_check and the loader say; with what a hook
 * returns. */
rb_status forward_run(const checkpoint *model, const token_batch *batch, const forward_hooks *hooks, rb_error *err);

/* Upper bound of the bytes forward_run allocates for this model, batch and hooks (NULL: plain), logits included:
 * weights of a layer, activations, scratch of n_threads, OpenBLAS' packing buffers. Pages of the mapped checkpoint are
 * not counted, since the kernel may drop them. */
int64_t forward_memory_bytes(const model_config *config, const token_batch *batch, const forward_hooks *hooks,
                             int n_threads);

#endif
