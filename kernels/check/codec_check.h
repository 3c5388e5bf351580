/* Holding an implementation of the codec to the reference: what it stored and restored for one head, against
 * kernels/reference/head_codec.h.
 *
 * Codes may differ from the reference's only where the exact coordinate lies within `code_tie` of a boundary between
 * the two, norms by one unit where the exact norm lies within `norm_tie` of the middle; both are counted. Everything
 * else that differs is wrong.
 *
 * A search (ENCODER_SEARCH) may also end at another stretch: its codes must be those of one of the stretches, but for
 * ties, and in angle as close as the best stretch's, ties decided for the one and against the other, but for
 * `cosine_tie`. Its norm is held to |x| cos of the codes that it found.
 *
 * x -> (x - c) s is exact in the reference; an implementation in f32 errs by a share of |s x| + |s c|, not of what is
 * left of them. So bounds that are shares of a norm are shares of that: code_tie, norm_tie and cosine_tie grow by (|s
 * x| + |s c|) / |s (x - c)| of the group, 1 without a transform; a restored dim is held to N / s, N = |s (x^ - c)|, and
 * a logit to |q / s| N + |q| |c|.
 *
 * Heads of family block-codebook: kernels/check/block_codebook_check.h. Their codes are those of blocks, and the gain;
 * a restored dim is held to |c| + g max |M p| of its block, a logit as above. */
#ifndef RB_KERNELS_CHECK_CODEC_CHECK_H
#define RB_KERNELS_CHECK_CODEC_CHECK_H

#include "kernels/reference/head_codec.h"

typedef struct codec_bounds {
    double code_tie;           /* distance of a unit vector's coordinate to a boundary */
    double norm_tie;           /* relative distance of a norm to the middle of two that can be stored */
    double cosine_tie;         /* relative, of a search: between the cosines of two stretches; its norms are |x| cos, so
                                  norm_tie grows by it */
    double restore;            /* largest |x^ - x^_ref| of a coordinate over the norm of x^_ref (N / s) */
    double rounding;           /* plus this times |x^_ref|, the output type's, */
    double rounding_least;     /* or this, where it is more: half a subnormal of the type */
    double logits;             /* |q . k^ - reference| over |q| |k^_ref| (|q / s| N + |q| |c|) */
    double block_codebook_tie; /* of block-codebook: distance to a point beyond that to the nearest, over |x| + |c| + g
                                  max |M p| of the block */
    double block_codebook_restore; /* |x^ - x^_ref| of a dim over |c| + g max |M p| of its block */
} codec_bounds;

/* Sums over what was checked; zero-initialise, then add head after head. */
typedef struct codec_report {
    int64_t n_vectors, n_codes, n_norms, n_values, n_logits;
    int64_t codes_tied, codes_wrong;
    int64_t searches_tied; /* groups of a vector with the codes of another stretch that is as good, vectors of
                              block-codebook with another gain that is */
    int64_t norms_tied, norms_wrong;
    int64_t bytes_wrong; /* of packed vectors: not what pack_codes makes of their own codes */
    int64_t values_wrong, logits_wrong;
    double worst_tie;    /* largest distance of a tied code's coordinate to its boundary */
    double worst_cosine; /* most that a search's cosine was below the best, or a gain's error above, relative; both in
                            units of the bounds as they grew */
    double worst_value, worst_logit; /* largest error in the units of the bounds */
} codec_report;

bool codec_report_is_good(const codec_report *report);
void codec_report_add(codec_report *sum, const codec_report *report); /* counts add up, of the worst the larger stays */

/* One head of a plan with what the check needs. */
typedef struct codec_checked {
    const plan_head *head;
    const model_facts *model;
    codec_tables *tables;
    const head_codec *codec; /* of head */
} codec_checked;

/* x [n][head_dim] as the implementation was given it; packed [n][packed_bytes], norms [n][n_groups] as it stored them.
 * codes [n][head_dim] receives its codes. Fails with RB_ENONFINITE where the reference refuses x. */
rb_status codec_check_encoded(codec_report *report, const codec_checked *on, const float *x, int64_t n,
                              const uint8_t *packed, const uint16_t *norms, const codec_bounds *bounds, uint8_t *codes,
                              rb_error *err);
/* x_hat [n][head_dim] as it restored them from codes and norms; reference [n][head_dim] receives what the reference
 * makes of them. */
rb_status codec_check_restored(codec_report *report, const codec_checked *on, const uint8_t *codes,
                               const uint16_t *norms, int64_t n, const float *x_hat, const codec_bounds *bounds,
                               float *reference, rb_error *err);
/* logits [n_queries][n] of queries [n_queries][head_dim] and the keys that the reference restored. */
void codec_check_logits(codec_report *report, const codec_checked *on, const float *queries, int n_queries,
                        const float *reference, int64_t n, const float *logits, const codec_bounds *bounds);

#endif
