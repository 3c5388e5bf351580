/* The forward pass of a decoder on the CPU, streamed layer by layer over all tokens: memory is one layer's weights in f32 plus the
 * activations, whatever the depth. OpenMP over fixed tiles, OpenBLAS one thread a call: same bytes for any thread count.
 *
 * Per layer: RMSNorm, q/k/v projections (bias, q/k norm where the model has them), on_qkv (calibrate captures, evaluate may replace k and v),
 * RoPE, on_rotated, causal attention per sequence, o_proj, RMSNorm, SwiGLU MLP. The work of the last layer after on_qkv/on_rotated is skipped
 * unless on_logits is set. RoPE angles are rounded to f32 as transformers does: float(position) * float(inv_freq). */
#ifndef RB_MODEL_FORWARD_H
#define RB_MODEL_FORWARD_H

#include "model/token_batch.h"

/* One layer's heads, f32: q [n_q_heads][n_tokens][head_dim], k and v [n_kv_heads][n_tokens][head_dim]. */
typedef struct layer_heads {
    int layer;
    int64_t n_tokens;
    float *q, *k, *v;
} layer_heads;

/* Called from the thread that called forward_run, in layer order. A status other than RB_OK ends the run and is returned. */
typedef struct forward_hooks {
    void *user;
    rb_status (*on_qkv)(void *user, layer_heads *heads, rb_error *err);             /* entering RoPE; may change k and v in place; may be NULL */
    rb_status (*on_rotated)(void *user, const layer_heads *heads, rb_error *err);   /* q and k leaving RoPE; may be NULL */
    rb_status (*on_logits)(void *user, int64_t first_token, int64_t n, const float *logits, rb_error *err);     /* [n][vocab_size]; may be NULL */
    void (*on_layer_done)(void *user, int layer);                                   /* progress; may be NULL */
} forward_hooks;

/* Call rb_threads_init before. Sequences may be longer than max_position: RoPE is computed all the same, the caller decides whether that is sensible.
 * Activations are not checked for NaN or infinity: the hooks that keep them do.
 * Fails: RB_EINVAL on an empty batch, sequence bounds that are not ascending from 0 to n_tokens, or a token id outside the vocabulary, naming
 * its position; what checkpoint_check and the loader say; what a hook says. */
rb_status forward_run(const checkpoint *model, const token_batch *batch, const forward_hooks *hooks, rb_error *err);

/* Upper bound of the bytes forward_run allocates for this model and batch, logits included: weights of a layer, activations, scratch of
 * n_threads, OpenBLAS' packing buffers. Pages of the mapped checkpoint are the kernel's to drop and are not counted. */
int64_t forward_memory_bytes(const model_config *config, const token_batch *batch, int n_threads);

#endif
