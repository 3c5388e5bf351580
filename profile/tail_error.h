/* Tails of the error: what a mean over ordinary text does not see. A codec can win on every mean and lose the rare
 * tokens that retrieval lives on.
 *
 * A key's error and size are taken in the unit of a logit, so that what no query looks at does not count, and what
 * many look at does:
 *      error_t^2 = sum_i q_energy_i |k_ti - k^_ti|^2 / 2
 *      size_t^2  = sum_i q_energy_i |k_ti|^2 / 2
 * over RoPE blocks i, with q_energy as calibration measured it (and weighed where RoPE multiplies it). error_t^2 is the
 * mean square of q . R_D (k - k^) over queries and offsets, were blocks independent. The relative error of a token is
 * error_t / size_t.
 *
 * The tail ratio of a head is the smaller of two: the 99.9 % quantile of the error to its median, and the same of the
 * relative error. A codec that stores a norm makes large errors on large keys, but their relative error is the same.
 * One that does not sees small keys with a large relative error, which do no more harm than others. Neither is a
 * failure. A codec with a fixed range has both tails at once. The excess of a token is the same for one token: the
 * smaller of its error to the median error and its relative error to the median relative error. */
#ifndef RB_PROFILE_TAIL_ERROR_H
#define RB_PROFILE_TAIL_ERROR_H

#include "core/model_facts.h"

/* A head whose tail ratio is above is out of proportion, a token whose excess is above is outside the codec's range.
 * Why 2.75: docs/profile.md. */
#define TAIL_LIMIT 2.75

typedef struct tail_error {
    double median, p99, p999, largest; /* relative error, over tokens */
    double ratio;                      /* the tail ratio of the head */
    double outside;                    /* share of tokens whose excess is above TAIL_LIMIT */
} tail_error;

/* weights [head_dim]: half the q_energy [n_blocks] of each dim's block, times model_query_weight. */
void token_weights(float *weights, const model_facts *model, int layer, const double *q_energy);
/* out [n_tokens]: error of every token, or its size where k_hat is NULL; k and k_hat [n_tokens][head_dim]. */
void token_errors(float *out, const float *weights, int head_dim, const float *k, const float *k_hat, int64_t n_tokens);

/* From errors and sizes [n_tokens]; excess [n_tokens] receives every token's. A quantile is the value of nearest rank:
 * p of the tokens have it or less. A size or a median below 1e-6 of the head's root mean square counts as that much.
 * n_tokens > 0; not parallel inside. Fails with RB_ENONFINITE, naming the first token whose error or size is not
 * finite. */
rb_status tail_measure(tail_error *out, float *excess, const float *errors, const float *sizes, int64_t n_tokens,
                       rb_error *err);

#endif
