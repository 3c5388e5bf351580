/* What a width costs in a group of a given size: E|x - x^|^2 / E|x|^2, measured through the codec (head_codec.h) on
 * random vectors of normal coordinates. The published allocator takes 4^-width for it; true numbers differ with the
 * size of a group, its codebook, its encoder and its norm (docs/method.md). */
#ifndef RB_KERNELS_REFERENCE_CODEC_DISTORTION_H
#define RB_KERNELS_REFERENCE_CODEC_DISTORTION_H

#include "kernels/reference/plan_head.h"

typedef struct codec_kind {
    codebook_kind codebook;
    plan_encoder encoder;
    norm_kind norm;
} codec_kind;

/* c [PLAN_MAX_WIDTH + 1][max_blocks + 1]: by width and number of blocks; width 0 is 1, size 0 is 0. Sizes up to 4 and
 * some larger ones are measured, those between interpolated over 1 / size. Deterministic, half a second on one core for
 * 64 blocks. max_blocks 1 to RB_MAX_BLOCKS. */
rb_status codec_distortion_measure(double *c, int max_blocks, const codec_kind *kind, rb_error *err);

#endif
