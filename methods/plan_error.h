/* The logit error to expect of a plan, any plan: what a profile's statistics and the measured error of its codec say,
 * no keys needed.
 *
 * Energies are those of what the plan codes: a head's own scales s and centre m make k_energy s^2 (k_energy - 2 m .
 * mean + |m|^2) and q_energy q_energy / s^2. A group of m blocks adds to the variance V of a logit's error, with G =
 * (sum a)(sum b) / (2 m), kappa its coherence in these statistics (methods/partition.h) and c the measured relative
 * error of its width and size, search encoder   G ((1 - g cos)^2 kappa + g^2 c),  cos^2 = 1 - c,  g = cos kappa' /
 * (cos^2 kappa' + c), kappa' the coherence that the plan says; G kappa c / ((1 - c) kappa + c) where it says kappa;
 *   nearest encoder  G (c + (kappa - 1) c^2 / 4): it keeps the norm, so it shortens keys along themselves by 1 - cos =
 * c / 2, and that part errs as coherently as keys do. A head of block-codebook has the V of
 * methods/block_codebook_curve.h at its bits, for the statistics' own maps. Blocks in no group add the moment of their
 * own. For an error near normal the head's MAE is sqrt(2 V / pi). */
#ifndef RB_METHODS_PLAN_ERROR_H
#define RB_METHODS_PLAN_ERROR_H

#include "kernels/reference/codec_distortion.h"
#include "methods/allocator.h"

/* Measured errors of the codecs that plans use, [PLAN_MAX_WIDTH + 1][n_blocks + 1] each. Start with {.n_blocks = n}. */
typedef struct codec_errors {
    int n_blocks;
    double *c[CODEBOOK_N_KINDS][ENCODER_N_KINDS][NORM_N_KINDS]; /* NULL: not measured yet; owned */
} codec_errors;

/* Measures what this plan uses and is not there yet. Fails as codec_distortion_measure. */
rb_status codec_errors_measure(codec_errors *errors, const bit_plan *plan, rb_error *err);
void codec_errors_free(codec_errors *errors);

/* What a head codes. moment: of keys centred if the plan centres them; NULL: blocks are taken for independent. */
typedef struct coded_head {
    int n_blocks;
    double q_energy[RB_MAX_BLOCKS], k_energy[RB_MAX_BLOCKS];
    const float *moment,
        *block_codebook_error; /* borrowed from the statistics; block_codebook_error [n_blocks][BLOCK_CODEBOOK_MAX_BITS
                                  + 1], needed by heads of block-codebook */
} coded_head;

/* Of head h (layer * n_kv_heads + kv_head) of the statistics. A centre that is not the mean key of the statistics
 * changes the energies, but not the moments. */
void coded_head_of(coded_head *out, const plan_head *head, const model_facts *model, const head_statistics *statistics,
                   int h);

typedef struct group_error {
    double c, coherence, variance; /* variance: what it adds to V */
} group_error;

/* Of one group of the head, were its width this one; width 0: its blocks are lost. `errors` has what the plan uses. */
group_error group_error_at(const coded_head *coded, const plan_head *head, const plan_group *group, int width,
                           const codec_errors *errors);
/* What blocks in no group add. */
double lost_block_error(const coded_head *coded, const plan_head *head);
/* V of the head. */
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

#endif
