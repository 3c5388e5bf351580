/* What quantized values do to the output of attention, at every width of their codec. For one KV head
 *
 *   energy    = mean over its query heads and queries s of |sum_t p_st v_t|^2
 *   error[w]  = the same of |sum_t p_st (v_t - v^_t)|^2, v^ by the value codec of w + 1 bits (bit_plan_value_head)
 *
 * p = softmax over t <= s of scale * q_s . k_t, the exact weights: a value's error counts as much as it is looked at,
 * and what the softmax averages away does not count. In a model with a latent cache (MLA) a logit has a part without
 * RoPE too, which no capture holds: there p is of the part that RoPE turns. Of every VALUE_ERROR_STRIDE queries of a
 * sequence the last is looked at. */
#ifndef RB_PROFILE_VALUE_ERROR_H
#define RB_PROFILE_VALUE_ERROR_H

#include "kernels/reference/head_codec.h"

enum { VALUE_ERROR_STRIDE = 8 };

/* Vectors of one KV head: q [n_q][n_tokens][head_dim] and k [n_tokens][head_dim] as they leave RoPE, v
 * [n_tokens][value_dim]; sequences of `context` tokens, the last may be shorter. */
typedef struct value_vectors {
    const float *q, *k, *v;
    int n_q;
    int64_t n_tokens, context;
    int64_t n_sink; /* the first values of every sequence, which are exact: they have no error */
} value_vectors;

/* error [PLAN_MAX_WIDTH]. kv_head names the codec's rotation; `tables` are shared. Widths and query tiles run in
 * parallel; the result does not depend on the number of threads. n_tokens > 0. Memory: (PLAN_MAX_WIDTH + 1) * n_tokens
 * * value_dim floats, and two tiles of 64 queries per thread. Fails with RB_ENONFINITE on values the codec cannot hold
 * and on logits beyond f32. */
rb_status value_errors(double *error, double *energy, const model_facts *model, int kv_head, const value_vectors *in,
                       codec_tables *tables, rb_error *err);

#endif
