/* What the error does to attention itself: over real causal pairs, not over made-up offsets.
 *
 *   causal_mae    mean over query heads and pairs (s, t <= s) of one sequence of |q_s . (k_t - k^_t)| after RoPE,
 *                 without 1/sqrt(d)
 *   attended_mae  mean over query heads and queries of sum_t p_st |q_s . (k_t - k^_t)|, p = softmax over t <= s of
 *                 scale * q_s . k_t: the error where attention looks
 *   attention_kl  mean over query heads and queries of KL(p || p^), in nats
 *
 * Tiled, so no T x T matrix is held. */
#ifndef RB_PROFILE_ATTENTION_ERROR_H
#define RB_PROFILE_ATTENTION_ERROR_H

#include "core/model_facts.h"

typedef struct attention_error {
    double causal_mae, attended_mae, attention_kl;
} attention_error;

/* Errors of several candidates k_hat for one KV head; the exact logits are computed once for all.
 * q [n_q][n_tokens][head_dim], k [n_tokens][head_dim], k_hat[c] [n_tokens][head_dim], as they leave RoPE; sequences of
 * `context` tokens, the last may be shorter. out [n_candidates]. Query tiles run in parallel; the result does not
 * depend on the number of threads. n_tokens > 0. Fails with RB_ENONFINITE when a logit leaves the range of f32. */
rb_status attention_errors(attention_error *out, const model_facts *model, const float *q, int n_q, const float *k,
                           const float *const *k_hat, int n_candidates, int64_t n_tokens, int64_t context,
                           rb_error *err);

/* Pairs (s, t <= s) of all sequences. */
double attention_count_pairs(int64_t n_tokens, int64_t context);

#endif
