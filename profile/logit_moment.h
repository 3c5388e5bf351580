/* Second moments of what each RoPE block adds to a logit, for one head:
 *      z_i = g_i^2 Re(conj(q_i) k_i exp(j D w_i)),     M[i][j] = mean over tokens, query heads and offsets D of z_i
 * z_j. with g_i what RoPE multiplies the block by, 1 in most models. Independent blocks of random phase would have M =
 * diag(q_energy_i k_energy_i / 2). Real ones do not: blocks that hardly turn keep the phase that queries and keys agree
 * on, and add up. What a quantizer drops or shrinks errs by that much (methods/partition.h, docs/method.md).
 *
 * Offsets cover [-1024, 1024], as the logit MAE's do; tokens and offsets are sampled evenly. */
#ifndef RB_PROFILE_LOGIT_MOMENT_H
#define RB_PROFILE_LOGIT_MOMENT_H

#include <stdint.h>

#include "core/model_facts.h"

/* Values of a symmetric matrix [n_blocks][n_blocks] that are kept: i <= j, row by row. */
static inline int64_t logit_moment_size(int n_blocks) { return (int64_t)n_blocks * (n_blocks + 1) / 2; }

/* moment [logit_moment_size]. q [query heads of the KV head][n_tokens][head_dim], k [n_tokens][head_dim], entering
 * RoPE; mean [head_dim] is taken off k; NULL: nothing. n_tokens > 0. Not parallel inside. */
rb_status logit_moment_measure(float *moment, const model_facts *model, int layer, const float *q, const float *k,
                               const double *mean, int64_t n_tokens, rb_error *err);

#endif
