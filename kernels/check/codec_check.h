/* Holding an implementation of the codec to the reference: what it stored and restored for one head, against
 * kernels/reference/head_codec.h.
 *
 * Where f32 cannot decide, other codes, norms and gains than the reference's are right too: each family's judge says
 * where (groups_check.c, block_codebook_check.c, trellis_check.c). Those are counted as tied. Everything else that
 * differs is wrong.
 *
 * A logit q . k^ is held to |q / s| N + |q| |c|, N = |s (k^ - c)|, with the scales s of the head's dims and its centre
 * c. */
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
    double block_codebook_tie; /* of block-codebook: distance to a point less that to the nearest, over |x| + |c| + g
                                  max |M p| of the block */
    double block_codebook_restore; /* |x^ - x^_ref| of a dim over |c| + g max |M p| of its block */
    double trellis_tie;            /* of trellis: distance of a path to the vector less that of the best, relative to
                                      what the distances are made of: trellis_check.c */
    double trellis_restore;        /* |x^ - x^_ref| of a dim over |c| + g sum |y^_i B_i| */
} codec_bounds;

/* Sums over what was checked; zero-initialise, then add head after head. */
typedef struct codec_report {
    int64_t n_vectors, n_codes, n_norms, n_values, n_logits;
    int64_t codes_tied, codes_wrong;
    int64_t searches_tied; /* groups of a vector with the codes of another stretch that is as good, vectors of
                              block-codebook with another gain that is, of
                              trellis with another path that is */
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

/* x [n][head_dim] as the implementation was given it; packed [n][packed_bytes], norms [n][n_norms] as it stored them.
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

/* ---- what a family gives: one row of functions in the table of codec_check.c ------------------ */

/* One vector as it was stored, beside what the reference makes of it. */
typedef struct codec_checked_vector {
    const float *x;                          /* [head_dim] */
    const uint8_t *codes, *codes_reference;  /* [head_dim] */
    const uint16_t *norms, *norms_reference; /* [n_norms] */
} codec_checked_vector;

typedef struct codec_judge_functions {
    rb_status (*create)(void **own, const codec_checked *on, rb_error *err); /* what it wants to know of the head */
    void (*free)(void *own);                                                 /* NULL is fine */
    int (*n_codes)(const codec_checked *on, const void *own);                /* of a vector */
    rb_status (*judge_vector)(codec_report *report, const codec_checked *on, const void *own,
                              const codec_checked_vector *vector, const codec_bounds *bounds, rb_error *err);
    double (*restore_bound)(const codec_bounds *bounds); /* of a restored dim's error over its share, */
    /* shares [head_dim] of a vector that the reference restored from codes. */
    void (*find_shares)(double *shares, const codec_checked *on, const void *own, const float *restored,
                        const uint8_t *codes);
    void (*find_scales)(double *scales, const codec_checked *on); /* [head_dim]: s */
} codec_judge_functions;

/* |s (x - c)|; scales [head_dim]: s. */
double codec_check_coded_norm(const codec_checked *on, const double *scales, const float *x);

#endif
