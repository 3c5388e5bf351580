/* Family block-codebook: what a head does with its bits (`ropebits explain`). */
#ifndef RB_ALLOCATE_PLAN_EXPLAIN_BLOCK_CODEBOOK_H
#define RB_ALLOCATE_PLAN_EXPLAIN_BLOCK_CODEBOOK_H

#include "allocate/plan_explain.h"

typedef struct explained_code {
    int bits;          /* the block's code has, both dims together */
    double code_share; /* its part of the bits of all codes */
    /* The law that the block's map makes of a normal one: standard deviations along its principal axes, the larger
     * first, and the angle of that axis to the block's first dim, in degrees above -90 to 90. */
    double axes[2], angle;
    double weight;             /* what its error counts for when the gain is chosen */
    double q_energy, k_energy; /* the profile's */
    double center_share;       /* part of k_energy that the centre takes off; 0 without one */
    /* Change of the head's V (methods/block_codebook_curve.h), as a share of it, were the block's code a bit longer or
     * shorter and the others as they are; 0 where it cannot be. Negative: less error. */
    double more, less;
} explained_code;

typedef struct explained_block_codebook {
    int n_blocks, gain_bits;
    double bits; /* stored, gain and padding included */
    double least_gain, most_gain;
    double logit_mae; /* to expect: methods/plan_error.h */
    explained_code blocks[RB_MAX_BLOCKS];
} explained_block_codebook;

/* Head h of the plan, which is of block-codebook. The statistics are those of its model, with block_codebook_error. */
void plan_explain_block_codebook(explained_block_codebook *out, const bit_plan *plan, int h,
                                 const head_statistics *statistics);

rb_status explained_block_codebook_to_json(cJSON **out, const explained_block_codebook *explained, rb_error *err);

#endif
