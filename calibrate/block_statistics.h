/* Energies and means of the queries and keys of one layer, accumulated in double.
 *
 *   q_energy[h][i] = mean over tokens and the G query heads of KV head h of |q_i|^2
 *   k_energy[h][i] = mean over tokens of |k_i|^2
 *   k_mean[h][dim] = mean over tokens
 * with i a RoPE block. RoPE keeps a block's norm, so energies do not depend on position. */
#ifndef RB_CALIBRATE_BLOCK_STATISTICS_H
#define RB_CALIBRATE_BLOCK_STATISTICS_H

#include "core/model_facts.h"

typedef struct block_statistics {
    int n_kv_heads, n_blocks, head_dim;
    double *q_energy; /* [n_kv_heads][n_blocks] */
    double *k_energy; /* [n_kv_heads][n_blocks] */
    double *k_mean;   /* [n_kv_heads][head_dim] */
} block_statistics;

rb_status block_statistics_create(block_statistics *out, const model_facts *facts, rb_error *err);
void block_statistics_free(block_statistics *statistics);

/* q [n_q_heads][n_tokens][head_dim], k [n_kv_heads][n_tokens][head_dim], f32. Heads run in parallel; the order of a sum
 * does not depend on the number of threads. Fails with RB_ENONFINITE: "layer 12 kv_head 3: 2 non-finite keys, first at
 * token 407". */
rb_status block_statistics_compute(block_statistics *out, const model_facts *facts, int layer, const float *q,
                                   const float *k, int64_t n_tokens, rb_error *err);

/* The same from sums over n_tokens that were taken elsewhere, in double: the sums of squares q_squares
 * [n_q_heads][head_dim] and k_squares [n_kv_heads][head_dim], and the sums of values k_sums [n_kv_heads][head_dim].
 * Fails with RB_ENONFINITE and names the first head whose sum is not finite. */
rb_status block_statistics_from_sums(block_statistics *out, const model_facts *facts, int layer,
                                     const double *q_squares, const double *k_squares, const double *k_sums,
                                     int64_t n_tokens, rb_error *err);

#endif
