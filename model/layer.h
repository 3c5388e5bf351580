/* One decoder layer over the tokens of a part: norm, q/k/v, attention, norm, MLP, residuals in f32. What a family lacks
 * (a norm, a bias, a gate) is a weight that is NULL. RoPE and the hooks between the steps are forward.c's; latents are
 * layer_latent.c's, experts layer_experts.c's. */
#ifndef RB_MODEL_LAYER_H
#define RB_MODEL_LAYER_H

#include <stdbool.h>

#include "model/attention.h"
#include "model/layer_weights.h"

/* Tokens that go through an MLP together. Gate and up of the whole batch would be the largest buffer of all. */
enum { MLP_TILE_TOKENS = 512 };

/* Queries, keys and values of every head as attention takes them, where the cache is latent. */
typedef struct latent_heads {
    float *q; /* [n_q_heads][n_tokens][query_dim] */
    float *k; /* the same */
    float *v; /* [n_q_heads][n_tokens][attended_dim] */
    float *recent_k, *recent_v;
    float *down; /* [n_tokens][kv_rank + head_dim, or q_rank]: what a projection to a latent gives */
    float *up;   /* [n_q_heads][n_tokens][query_dim - head_dim + attended_dim]: what kv_b_proj gives */
} latent_heads;

/* The residual stream of all tokens, and what the layer computes for a part of them: whole sequences that go through it
 * together. */
typedef struct layer_activations {
    float *all_hidden; /* [tokens of the batch][hidden_size]: the residual stream */
    float *rows;       /* [largest part][max(hidden_size, n_q_heads * attended_dim)]: normalised input of a projection,
                          or the attention's output */
    float *heads;      /* q [n_q_heads][n_tokens][head_dim], k [n_kv_heads][n_tokens][head_dim], v
                          [n_kv_heads][n_tokens][value_dim], one after the other */
    float *recent;     /* k and v of a buffered run as projected, as in heads; NULL without */
    float *mlp;        /* [tile of tokens][2 * intermediate_size]: gate, up */
    float *out;        /* [largest part][hidden_size]: a product that is not added at once; NULL where all are */
    latent_heads latent; /* NULL where the cache is not latent */
    double *energy; /* [largest part]: layer_measure_residual; NULL where it is not wanted, allocated by the caller */
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

/* The attention of a layer over these sequences, all of whose tokens are queries; slides: with the window. */
attention_shape layer_attention_shape(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                                      bool slides);

/* rows = attention(heads), with heads after RoPE. n_recent > 0: the last n_recent keys and values are those of
 * `recent`. */
rb_status layer_attend(const model_config *config, const layer_weights *weights, int layer, int64_t n_recent,
                       layer_activations *activations, rb_error *err);

/* hidden += o_proj(rows), or where attention and MLP read the same input, out = o_proj(rows), which layer_mlp adds. */
void layer_project_out(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* Where activations->energy is wanted: energy = |hidden|^2 of every token, times the mean square of what o_proj gave
 * where that went through a norm. Comes after layer_project_out, or where attention and MLP read the same input after
 * layer_mlp. */
void layer_measure_residual(const model_config *config, layer_activations *activations);

/* hidden += MLP(norm(hidden)), for a layer without experts. */
void layer_mlp(const model_config *config, const layer_weights *weights, layer_activations *activations);

/* hidden += experts(norm(hidden)) of all tokens of the batch, after attention of all parts. Each expert that a token
 * visits is loaded once. */
rb_status layer_experts_run(const model_config *config, layer_weights *weights, const checkpoint *model, int layer,
                            float *all_hidden, int64_t n_all, rb_error *err);
/* What layer_experts_run allocates. */
int64_t layer_experts_bytes(const model_config *config, int64_t n_all);

/* What layer_attend allocates while it runs on these sequences. */
int64_t layer_attend_bytes(const model_config *config, const int64_t *sequence_start, int64_t n_sequences,
                           int n_threads);

/* ---- shared by the files of a layer ---------------------------------------------------------- */

/* The family's norm of n rows of `width`, all threads; out may be x; bias NULL but for LayerNorm. */
void layer_norm_rows(float *out, const float *x, const float *weight, const float *bias, double eps, int64_t n,
                     int64_t width);
/* gate[row] = activation(gate) * up of n rows of [gate, up], each of `width`; without a gate activation(row). */
void layer_activate_rows(const model_config *config, float *rows, int64_t n, int64_t width);
/* Floats of gate and up together for each of `width` that they have. */
int64_t layer_gate_up_width(const model_config *config, int64_t width);

/* The latent side of layer_project_heads and layer_attend. */
void layer_project_latents(const model_config *config, const layer_weights *weights, const float *normed,
                           layer_activations *activations);
/* k and v of every head out of latents and shared keys: k [1][n][head_dim] after RoPE, latent [1][n][kv_rank]. */
void layer_expand_latents(const model_config *config, const layer_weights *weights, const float *k, const float *latent,
                          layer_activations *activations, float *out_k, float *out_v);
/* Puts the turned parts of the queries back into whole queries. */
void layer_join_queries(const model_config *config, layer_activations *activations);

#endif
