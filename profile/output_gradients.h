/* What moves with every key and value of a KV head in its layer's attention output: gradients by keys of random
 * directions, the backward pass of profile/output_sensitivity.h, whose letters are used here, and how much query heads
 * attend alike. */
#ifndef RB_PROFILE_OUTPUT_GRADIENTS_H
#define RB_PROFILE_OUTPUT_GRADIENTS_H

#include "core/model_facts.h"
#include "model/rope_apply.h"

/* A used sequence: its tokens in the text, and the first of them among the tokens used. */
typedef struct used_sequence {
    int64_t first, n, at;
} used_sequence;

typedef struct gradient_job {
    const model_facts *model;
    const float *q, *k, *v; /* of the KV head, all tokens of the text: q [n_q][n_tokens][head_dim] and k leave RoPE */
    const rope_table *rope; /* of the layer */
    const float *factor;    /* [n_q * value_dim][n_q * value_dim]: a = factor z, z ~ N(0, I); NULL: a = z */
    int n_q, n_draws;
    int64_t n_tokens; /* of the text */
    int64_t n_sink;   /* first tokens of a sequence that stay exact: their gradients are 0 */
    int64_t window;   /* keys a query sees, itself included; 0: all */
    double softcap;   /* logits become cap * tanh(x / cap); 0: stay */
    uint64_t seed;
    float *k_gradient; /* out [tokens used][n_draws][head_dim], of the key as it enters RoPE */
    float *overlap;    /* out [tokens used][n_q (n_q + 1) / 2]: sum_t p_g[t][s] p_g'[t][s], g' <= g, pair by pair; 0 too
                          of tokens that stay exact */
} gradient_job;

/* Gradients and overlaps of n sequences, in order. Any number of threads gives the same floats. */
rb_status output_gradients(const gradient_job *job, const used_sequence *sequences, int64_t n, rb_error *err);

#endif
