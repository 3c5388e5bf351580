/* What an error of a key or a value does to the output of its layer's attention: the metric that a transform of a head
 * needs, and the moments of what it transforms.
 *
 * The output of a layer's attention is W_o o, o_g[t] = sum_s p_g[t][s] v[s], p_g[t] = softmax_s(scale * q_g[t] . k[s])
 * after RoPE, with the model's window and softcap. To first order an error d of key s moves it by J d, and the mean
 * over s of |J d|^2 is d^T M d: M is the Gauss-Newton metric of the layer's output. It is estimated by a backward pass
 * through this layer's attention only, from random output directions u[t] ~ N(0, I). With a_g[t] = W_o,g^T u[t]:
 *
 *     g_v[s]     = sum_g,t p_g[t][s] a_g[t]
 *     dS_g[t][s] = scale * p_g[t][s] (a_g[t] . v[s] - a_g[t] . o_g[t])
 *     g_k[s]     = R_s^T sum_g,t dS_g[t][s] q_g[t]        of the key as it enters RoPE; R_s^T turns back
 *     metric     = mean over tokens s and draws of u of g g^T
 *
 * Only the covariance of a matters: C = W_o^T W_o of the query heads that share the KV head, which a capture holds
 * (output_metric). Where it has none, C is the identity. Of values the mean over draws needs none:
 *
 *     E g_v[s] g_v[s]^T = sum_g,g' C_gg' sum_t p_g[t][s] p_g'[t][s]
 *
 * Tokens that stay exact take part in attention and in no mean. */
#ifndef RB_PROFILE_OUTPUT_SENSITIVITY_H
#define RB_PROFILE_OUTPUT_SENSITIVITY_H

#include "core/model_facts.h"
#include "model/rope_apply.h"

enum { SENSITIVITY_TOKENS = 8192, SENSITIVITY_DRAWS = 4, SENSITIVITY_MAX_DRAWS = 64, SENSITIVITY_SEED = 1 };

/* Matrices are symmetric, row by row. */
typedef struct output_sensitivity {
    float *key_metric;            /* [n_layers][n_kv_heads][head_dim][head_dim], owned; NULL: nothing here is known */
    float *key_covariance;        /* the same shape: of keys as they enter RoPE, about their mean */
    float *value_metric;          /* [n_layers][n_kv_heads][value_dim][value_dim], owned */
    float *value_moment;          /* mean of v v^T, not centred */
    float *value_moment_weighted; /* the same, each token with the weight E |g_v|^2 over the mean weight */
    double *residual_energy; /* [n_layers], owned; NULL: the capture has none. Metrics of layers compare by metric /
                                residual_energy (calibrate/capture_file.h) */
    int64_t n_tokens;        /* that the metrics and weights are of; the other moments are of all */
    int n_draws;
    int64_t seed;
    bool has_output_metric; /* false: C is the identity */
} output_sensitivity;

/* Room for it; all zero. Freed with output_sensitivity_free, also after a failure. */
rb_status output_sensitivity_create(output_sensitivity *out, const model_facts *model, bool with_residual,
                                    rb_error *err);
void output_sensitivity_free(output_sensitivity *sensitivity);

/* A layer's calibration text. q [n_q_heads], turned_k [n_kv_heads] leave RoPE, k [n_kv_heads] enters it, each
 * [n_tokens][head_dim]; v [n_kv_heads][n_tokens][value_dim]. */
typedef struct sensitivity_layer {
    const float *q, *turned_k, *k, *v;
    const float *output_metric; /* [n_kv_heads][n][n], n = model_q_per_kv * value_dim; NULL: the identity */
    const rope_table *rope;     /* of this layer */
    int64_t n_tokens, context;
    int64_t n_sink;  /* first tokens of a sequence that stay exact; some token is left */
    int64_t window;  /* keys a query sees, itself included; 0: all */
    double softcap;  /* logits become cap * tanh(x / cap); 0: stay */
    int64_t n_limit; /* tokens at most for the metrics: whole sequences spread over the text, or the start of one */
} sensitivity_layer;

/* Fills the layer's matrices; out->n_draws and out->seed say how, out->n_tokens becomes the tokens used. Any number of
 * threads gives the same floats. Memory: of one KV head the gradients by keys of all draws and tokens used, and the a
 * of as many sequences as fit 256 MiB, at least one. Fails with RB_ENONFINITE, naming layer and head. */
rb_status output_sensitivity_measure(output_sensitivity *out, const model_facts *model, int layer,
                                     const sensitivity_layer *in, rb_error *err);

#endif
