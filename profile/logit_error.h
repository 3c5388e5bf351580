/* Logit MAE by a matrix product.
 *
 * At offset D the logit's error is error(D) = q . R_D e = sum_i g_i^2 Re(z_i exp(j D w_i)), with z_i = conj(q_i) e_i,
 * e = k - k^, and g_i what RoPE multiplies block i by (1 in most models). For a tile of tokens that is a product of
 * [tokens x 2n] and [2n x 50]. */
#ifndef RB_PROFILE_LOGIT_ERROR_H
#define RB_PROFILE_LOGIT_ERROR_H

#include "core/model_facts.h"

enum { LOGIT_ERROR_N_OFFSETS = 50, LOGIT_ERROR_MAX_OFFSET = 1024 };

/* g_i^2 times cos and -sin of D w_i, shared by all heads of the layers with this RoPE; and the dims of every block. */
typedef struct offset_table offset_table;
/* rope: model->rope or model->local_rope. */
rb_status offset_table_create(offset_table **out, const model_facts *model, const rope_facts *rope, rb_error *err);
void offset_table_free(offset_table *table);
/* [2 * n_blocks][LOGIT_ERROR_N_OFFSETS]: cos of every block, then -sin, times g_i^2. */
const float *offset_table_turn(const offset_table *table);

/* out[c] = mean over query heads, tokens and offsets of |q . R_D (k - k_hat[c])|. q [n_q][n_tokens][head_dim]: the
 * query heads of one KV head; k and k_hat[c] [n_tokens][head_dim], as they enter RoPE. Query heads and candidates run
 * in parallel; the result does not depend on the number of threads. n_tokens > 0. Fails with RB_ENONFINITE when an
 * error leaves the range of f32. */
rb_status logit_mae(double *out, const offset_table *table, const float *q, int n_q, const float *k,
                    const float *const *k_hat, int n_candidates, int64_t n_tokens, rb_error *err);

#endif
