/* The next token out of logits: the most likely one, or a draw. */
#ifndef RB_GENERATE_SAMPLER_H
#define RB_GENERATE_SAMPLER_H

#include <stdint.h>

#include "core/status.h"
#include "kernels/reference/numpy_random.h"

/* A draw is from softmax(logits / temperature), of which the top_k most likely tokens are left (0: all), and of these
 * as many of the most likely as together have a probability of top_p at least (1: all). */
typedef struct sampler_options {
    double temperature; /* 0: the most likely token */
    int64_t top_k;
    double top_p;
    uint64_t seed;
} sampler_options;

typedef struct sampled_token {
    float value;
    int32_t id;
} sampled_token;

typedef struct sampler {
    sampler_options options;
    int32_t n;
    numpy_rng random;
    sampled_token *order; /* [n], owned */
} sampler;

/* For logits [n]. The same seed gives the same draws. */
rb_status sampler_create(sampler *out, const sampler_options *options, int32_t n, rb_error *err);
void sampler_free(sampler *sampler);

/* Of equal logits the lower id comes first. Fails with RB_ENONFINITE on a NaN, or where no logit is finite. */
rb_status sampler_next(sampler *sampler, const float *logits, int32_t *id, rb_error *err);

#endif
