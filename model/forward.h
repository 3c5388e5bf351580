/* The forward pass of a decoder on the CPU, streamed layer by layer over all tokens: memory is one layer's weights in
 * f32 plus the activations, whatever the depth. OpenMP over fixed tiles, OpenBLAS one thread a call: same bytes for any
 * thread count.
 *
 * Per layer: RMSNorm, q/k/v projections (bias, q/k norm where the model has them), on_qkv (calibrate captures, evaluate
 * replaces k and v), RoPE, on_rotated, causal attention per sequence, on_attended, o_proj, RMSNorm, SwiGLU MLP. The
 * work of the last layer after on_qkv/on_rotated is skipped unless on_logits is set. RoPE angles are rounded to f32 as
 * transformers does: float(position) * float(inv_freq).
 *
 * Many tokens go through a layer part by part (forward_hooks.part_start): only the residual stream is held for all of
 * them. */
#ifndef RB_MODEL_FORWARD_H
#define RB_MODEL_FORWARD_H

#include "model/token_batch.h"

/* One layer's heads on a part of the batch, f32: q [n_q_heads][n_tokens][head_dim], k and v
 * [n_kv_heads][n_tokens][head_dim]. */
typedef struct layer_heads {
    int layer;
    int part;                      /* 0 where there are no parts */
    int64_t first_token, n_tokens; /* of the batch */
    float *q, *k, *v;
    const float *exact_k; /* with n_recent: k as on_qkv found it, turned with the rest; else k */
} layer_heads;

/* What a caller wants of a pass. Functions are called from the thread that called forward_run, in layer order, parts in
 * order, and may be NULL. A status other than RB_OK ends the run and is returned. */
typedef struct forward_hooks {
    void *user;
    rb_status (*on_qkv)(void *user, layer_heads *heads, rb_error *err); /* entering RoPE; may change k and v in place */
    rb_status (*on_rotated)(void *user, const layer_heads *heads, rb_error *err); /* q and k leaving RoPE */
    /* attended [n_tokens][n_q_heads * head_dim]: what o_proj takes; heads as on_rotated had them. */
    rb_status (*on_attended)(void *user, const layer_heads *heads, const float *attended, rb_error *err);
    /* logits [n][vocab_size] of logit_tokens[first] on, or of token `first` on. */
    rb_status (*on_logits)(void *user, int64_t first, int64_t n, const float *logits, rb_error *err);
    void (*on_layer_done)(void *user, int layer); /* progress */

    /* Whole sequences that go through a layer together: first sequence of each part, [n_parts + 1], ascending from 0 to
     * n_sequences. NULL: all. */
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

/* Call rb_threads_init before. Sequences may be longer than max_position: RoPE is computed all the same, the caller
 * decides whether that is sensible. Activations are not checked for NaN or infinity: the hooks that keep them do.
 * Fails: RB_EINVAL on an empty batch, sequence bounds that are not ascending from 0 to n_tokens, or a token id outside
 * the vocabulary, naming its position; what checkpoint_check and the loader say; what a hook says. */
rb_status forward_run(const checkpoint *model, const token_batch *batch, const forward_hooks *hooks, rb_error *err);

/* Upper bound of the bytes forward_run allocates for this model, batch and hooks (NULL: plain), logits included:
 * weights of a layer, activations, scratch of n_threads, OpenBLAS' packing buffers. Pages of the mapped checkpoint are
 * the kernel's to drop and are not counted. */
int64_t forward_memory_bytes(const model_config *config, const token_batch *batch, const forward_hooks *hooks,
                             int n_threads);

#endif
