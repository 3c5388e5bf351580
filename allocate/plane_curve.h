/* The best bits of a head of family block-codebook, exactly, for every budget at once.
 *
 * Model (docs/method.md). Block i with B bits leaves a mean squared error D_i[B] (profile/plane_error.h). Errors of blocks are independent and of random phase, so the variance of the
 * logit's error is V = sum a_i D_i[B_i] / 2, a_i the block's query energy, as in allocate/partition.h. A head stores its gain's bits and sum B_i, padded to a whole byte, so
 *      f[i][b] = min over B of f[i-1][b - B] + a_i D_i[B] / 2,      f[0][b] = 0
 * is the optimum of the first i blocks within b bits, whatever the curves D look like. */
#ifndef RB_ALLOCATE_PLANE_CURVE_H
#define RB_ALLOCATE_PLANE_CURVE_H

#include <stdint.h>

#include "core/model_facts.h"
#include "kernels/plane_codebook.h"

/* Least V of a head for every budget. Point p: within p stored bytes. */
typedef struct plane_curve {
    int n_blocks, n_points, gain_bits;
    double *error;          /* [n_points], owned; V, does not rise. INFINITY where no block gets a bit */
    uint8_t *choices;       /* [n_blocks][n_blocks * PLANE_MAX_BITS + 1], owned: the bits of a block at each b */
} plane_curve;

/* curves [n_heads] is the caller's, each then freed by plane_curve_free (also after a failure, which leaves all empty). q_energy [n_heads][n_blocks], plane_error
 * [n_heads][n_blocks][PLANE_MAX_BITS + 1], finite and >= 0. In parallel over heads; same result for any number of threads. */
rb_status plane_curves_build(plane_curve *curves, int n_heads, int n_blocks, const double *q_energy, const float *plane_error, int gain_bits, rb_error *err);
void plane_curve_free(plane_curve *curve);      /* accepts an empty one */

/* bits [n_blocks] of a point with a finite error. */
void plane_curve_at(const plane_curve *curve, int point, uint8_t *bits);

#endif
