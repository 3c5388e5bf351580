/* One decoder layer over all tokens of a batch: RMSNorm, q/k/v, attention, RMSNorm, SwiGLU MLP, residuals in f32 (the block that Llama,
 * Mistral, Qwen2 and Qwen3 share). RoPE and the hooks between the steps are forward.c's. */
#ifndef RB_MODEL_LAYER_H
#define RB_MODEL_LAYER_H

#include "model/layer_weights.h"

/* Everything that is as long as the batch, and the MLP scratch, which is not. */
typedef struct layer_activations {
    int64_t n_tokens, n_sequences;
    const int64_t *sequence_start;  /* [n_sequences + 1], the batch's */
    float *hidden;                  /* [n_tokens][hidden_size]: the residual stream */
    float *rows;                    /* [n_tokens][max(hidden_size, n_q_heads * head_dim)]: normalised input of a projection, or the attention's output */
    float *heads;                   /* [n_q_heads + 2 n_kv_heads][n_tokens][head_dim]: q, k, v one after the other */
    float *mlp;                     /* [tile of tokens][2 * intermediate_size]: gate, up */
} layer_activations;

rb_status layer_activations_alloc(layer_activations *activations, const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                                  rb_error *err);
void layer_activations_free(layer_activations *activations);
int64_t layer_activations_bytes(const model_config *config, int64_t n_tokens);

/* heads = projections of the normalised hidden rows, with bias and q/k norm where the model has them; before RoPE. */
void layer_project_heads(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* hidden += o_proj(attention(heads)), heads after RoPE. */
rb_status layer_attend(const model_config *config, const layer_weights *weights, int layer, layer_activations *activations, rb_error *err);

/* hidden += down(silu(gate) * up). */
void layer_mlp(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* What layer_attend allocates while it runs. */
int64_t layer_attend_bytes(const model_config *config, const int64_t *sequence_start, int64_t n_sequences, int n_threads);

/* RMSNorm of n rows of `width`, all threads; out may be x. */
void layer_norm_rows(float *out, const float *x, const float *weight, double eps, int64_t n, int64_t width);

#endif
