/* The logit error to expect of a plan, any plan: what a profile's statistics and the measured error of its codec say,
 * no keys needed.
 *
 * Energies are those of what the plan codes: a head's own scales s and centre m make
 *   k_energy   s^2 (k_energy - 2 m . mean + |m|^2)
 *   q_energy   q_energy / s^2, times what RoPE multiplies a logit's variance by (model_query_weight)
 * What they make of the variance V of a logit's error is each family's own: groups_error.h, block_codebook_curve.h. For
 * an error near normal the head's MAE is sqrt(2 V / pi). */
#ifndef RB_METHODS_PLAN_ERROR_H
#define RB_METHODS_PLAN_ERROR_H

#include "methods/allocator.h"

/* Measured errors of the codecs of family groups that plans use, [PLAN_MAX_WIDTH + 1][n_blocks + 1] each. Start with
 * {.n_blocks = n}. */
typedef struct codec_errors {
    int n_blocks;
    double *c[CODEBOOK_N_KINDS][ENCODER_N_KINDS][NORM_N_KINDS]; /* NULL: not measured yet; owned */
} codec_errors;

/* Measures what this plan uses and is not there yet. Fails as codec_distortion_measure. */
rb_status codec_errors_measure(codec_errors *errors, const bit_plan *plan, rb_error *err);
void codec_errors_free(codec_errors *errors);

/* What a head codes. */
typedef struct coded_head {
    const model_facts *model; /* borrowed */
    int n_blocks;
    double q_energy[RB_MAX_BLOCKS], k_energy[RB_MAX_BLOCKS];
    /* Borrowed. Moments are of keys centred if the plan centres them; NULL: blocks are taken for independent. Heads of
     * block-codebook need its errors, [n_blocks][BLOCK_CODEBOOK_MAX_BITS + 1]. */
    const float *moment, *block_codebook_error;
} coded_head;

/* Head h (layer * n_kv_heads + kv_head) of the statistics. A centre that is not the mean key of the statistics changes
 * the energies, but not the moments. */
void coded_head_of(coded_head *out, const plan_head *head, const model_facts *model, const head_statistics *statistics,
                   int h);

/* V of the head; `errors` has what the plan uses. */
double plan_head_error(const coded_head *coded, const plan_head *head, const codec_errors *errors);
double logit_mae_of_variance(double variance); /* sqrt(2 V / pi) */

/* Means over layers of means over heads. */
typedef struct plan_prediction {
    double logit_mae;
    double bound_logit_mae;  /* of the rate-distortion bound (methods/rate_bound.h), each head at the bits it stores */
    double bits_above_bound; /* bits per dim more than the bound asks for the same variance */
} plan_prediction;

/* The statistics are those of the plan's model. Measures what `errors` lacks. Fails as codec_errors_measure. */
rb_status plan_predict(plan_prediction *out, const bit_plan *plan, const head_statistics *statistics,
                       codec_errors *errors, rb_error *err);

/* by_layer [n_layers]: the logit MAE of every layer, the mean over its heads. Fails likewise. */
rb_status plan_predict_layers(double *by_layer, const bit_plan *plan, const head_statistics *statistics,
                              codec_errors *errors, rb_error *err);

/* ---- what a family gives: one row of functions in the table of plan_error.c ------------------ */

typedef struct head_error_functions {
    /* Measures what the head needs and is not in `errors` yet. NULL: nothing. */
    rb_status (*measure)(codec_errors *errors, const plan_head *head, rb_error *err);
    double (*variance)(const coded_head *coded, const plan_head *head, const codec_errors *errors); /* V */
} head_error_functions;

#endif
