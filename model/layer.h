/* One decoder layer over all tokens of a batch: RMSNorm, q/k/v, attention, RMSNorm, SwiGLU MLP, residuals in f32 (the
 * block that Llama, Mistral, Qwen2 and Qwen3 share). RoPE and the hooks between the steps are forward.c's. */
#ifndef RB_MODEL_LAYER_H
#define RB_MODEL_LAYER_H

#include <stdbool.h>

#include "model/layer_weights.h"

/* The residual stream of all tokens, and what the layer computes for a part of them: whole sequences that go through it
 * together. */
typedef struct layer_activations {
    float *all_hidden; /* [tokens of the batch][hidden_size]: the residual stream */
    float *rows;   /* [largest part][max(hidden_size, n_q_heads * head_dim)]: normalised input of a projection, or the
                      attention's output */
    float *heads;  /* [n_q_heads + 2 n_kv_heads][n_tokens][head_dim]: q, k, v one after the other */
    float *recent; /* [2 n_kv_heads][n_tokens][head_dim]: k, v of a buffered run as projected; NULL without */
    float *mlp;    /* [tile of tokens][2 * intermediate_size]: gate, up */
    /* The current part, set by the caller. */
    int64_t n_tokens, n_sequences;
    const int64_t *sequence_start; /* [n_sequences + 1], from 0 */
    float *hidden;                 /* its rows of all_hidden */
} layer_activations;

/* For a batch of n_all tokens, of which at most n_part go through a layer together. */
rb_status layer_activations_alloc(layer_activations *activations, const model_config *config, int64_t n_all,
                                  int64_t n_part, bool is_buffered, rb_error *err);
void layer_activations_free(layer_activations *activations);
int64_t layer_activations_bytes(const model_config *config, int64_t n_all, int64_t n_part, bool is_buffered);

/* heads = projections of the normalised hidden rows, with bias and q/k norm where the model has them, before RoPE.
 * `recent` gets a copy of k and v. */
void layer_project_heads(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* rows = attention(heads), with heads after RoPE. n_recent > 0: the last n_recent keys and values are those of
 * `recent`. */
rb_status layer_attend(const model_config *config, int layer, int64_t n_recent, layer_activations *activations,
                       rb_error *err);

/* hidden += o_proj(rows). */
void layer_project_out(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* hidden += down(silu(gate) * up). */
void layer_mlp(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* What layer_attend allocates while it runs on these sequences. */
int64_t layer_attend_bytes(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                           int n_threads);

/* RMSNorm of n rows of `width`, all threads; out may be x. */
void layer_norm_rows(float *out, const float *x, const float *weight, double eps, int64_t n, int64_t width);

#endif
