/* The part of kernels/check/codec_check.h that judges heads of family block-codebook.
 *
 * A block's code is right if it is the reference's, or if at the stored gain its point is no farther than the nearest
 * but for block_codebook_tie (S is |x| + |c| + g max |M p| of the block: x - c, g M p and their difference each err by
 * a share of that). A gain other than the reference's is right if it is one of the three next to the level that the
 * vector's size points to, but for what block_codebook_tie makes of that level, and if the root of its least weighed
 * error is no more than the least but for block_codebook_tie times the root of sum w S^2: a sum of squares, each of a
 * distance that errs by block_codebook_tie S. Both are counted, as codes_tied and searches_tied; a wrong gain is one
 * wrong code. */
#ifndef RB_KERNELS_CHECK_BLOCK_CODEBOOK_CHECK_H
#define RB_KERNELS_CHECK_BLOCK_CODEBOOK_CHECK_H

#include "kernels/check/codec_check.h"

typedef struct block_codebook_judge block_codebook_judge;
/* on->codec is of the family, and outlives the judge. */
rb_status block_codebook_judge_create(block_codebook_judge **out, const codec_checked *on, rb_error *err);
void block_codebook_judge_free(block_codebook_judge *judge);
int block_codebook_judge_n_codes(const block_codebook_judge *judge); /* of a vector: blocks with bits, and the gain */

/* Codes [head_dim] of one vector x [head_dim], beside the reference's. */
void block_codebook_judge_codes(codec_report *report, const block_codebook_judge *judge, const float *x,
                                const uint8_t *codes, const uint8_t *reference, const codec_bounds *bounds);
/* scales [head_dim]: what a restored dim's error is a share of: |c| + g max |M p| of its block. */
void block_codebook_judge_scales(double *scales, const block_codebook_judge *judge, const uint8_t *codes);

#endif
