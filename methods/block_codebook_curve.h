/* The bits of a head of family block-codebook, for every budget.
 *
 * Model (docs/method.md). Block i with B bits leaves the share c = D_i[B] / D_i[0] of its energy as error
 * (profile/block_codebook_error.h). With P_i = a_i D_i[0] / 2, a_i the block's query energy, blocks that are
 * independent and of random phase make the variance of the logit's error V = sum P_i c_i.
 *
 * Real blocks agree on a phase: M_ij, the moments of profile/logit_moment.h. A code of least squared error shrinks a
 * block by 1 - c, and that errs as coherently as the key itself, so maps are stretched by g_i as the norms of groups
 * are (methods/partition.h). With u_i = 1 - g_i (1 - c_i), which is 1 for a block without bits,
 *      V = sum_ij u_i u_j M_ij + sum_i g_i^2 (1 - c_i) c_i P_i,
 *      g_i = kappa_i / ((1 - c_i) kappa_i + c_i),      kappa_i = max(1, sum_j M_ij c_j / (P_i c_i)).
 * kappa_i is the coherence that the block's error meets, and g_i the best stretch where the others' is like its own;
 * kappa_i = 1 means no stretch.
 *
 * A head stores its gain's bits and sum B_i, padded to a whole byte. For given kappa block i costs
 *      v_i[B] = P_i kappa_i c / ((1 - c) kappa_i + c),
 * and f[i][b] = min over B of f[i-1][b - B] + v_i[B], f[0][b] = 0, is the optimum of the first i blocks within b bits,
 * whatever the curves look like. kappa follows from the bits and the bits from kappa. So curves take the kappa that
 * BLOCK_CODEBOOK_USUAL_BITS a dim would give; the bits of a point start from there and are solved again, and the best
 * by V stays. Without moments kappa is 1 and every point is the exact optimum. */
#ifndef RB_METHODS_BLOCK_CODEBOOK_CURVE_H
#define RB_METHODS_BLOCK_CODEBOOK_CURVE_H

#include <stdint.h>

#include "core/model_facts.h"
#include "kernels/reference/block_codebook_plan.h"

#define BLOCK_CODEBOOK_USUAL_BITS 2.25

/* What is known of a head's blocks; borrowed. */
typedef struct block_codebook_head {
    int n_blocks;
    const double *q_energy; /* [n_blocks] */
    const float *error;     /* [n_blocks][BLOCK_CODEBOOK_MAX_BITS + 1]: D */
    const float *moment;    /* upper triangle of M, row by row, of keys less their mean; NULL: independent blocks */
} block_codebook_head;

/* V of a head with these bits [n_blocks]; sets what its maps are stretched by, stretches [n_blocks]. */
double block_codebook_head_error(const block_codebook_head *head, const uint8_t *bits, double *stretches);

/* V by stored bytes. Point p: within p bytes. */
typedef struct block_codebook_curve {
    int n_points, gain_bits;
    double *error; /* [n_points], owned; does not rise. INFINITY where no block gets a bit */
    double *cost;  /* [n_blocks][BLOCK_CODEBOOK_MAX_BITS + 1], owned: v of the usual kappa */
} block_codebook_curve;

/* curves [n_heads] is the caller's, each then freed by block_codebook_curve_free (also after a failure, which leaves
 * all empty). In parallel over heads; same result for any number of threads. */
rb_status block_codebook_curves_build(block_codebook_curve *curves, const block_codebook_head *heads, int n_heads,
                                      int gain_bits, rb_error *err);
void block_codebook_curve_free(block_codebook_curve *curve); /* accepts an empty one */

/* bits [n_blocks] of a point with a finite error. */
rb_status block_codebook_curve_at(const block_codebook_curve *curve, const block_codebook_head *head, int point,
                                  uint8_t *bits, rb_error *err);

#endif
