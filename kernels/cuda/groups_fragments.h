/* Rotations as the lanes of a warp hold them: the fragments of kernels/cuda/codec_image.h. */
#ifndef RB_KERNELS_CUDA_GROUPS_FRAGMENTS_H
#define RB_KERNELS_CUDA_GROUPS_FRAGMENTS_H

#include <stdbool.h>

#include "kernels/cuda/codec_image.h"

enum { CODEC_FRAGMENT_STEP = 16, CODEC_FRAGMENT_TILE = 8 }; /* columns of a product that go in, and come out */

static inline uint32_t codec_pack_halves(uint16_t low, uint16_t high) { return (uint32_t)low | (uint32_t)high << 16; }

/* Appends a group's fragments of one direction to the image, which has room, and returns the first. Needs the group's
 * shape and rotation in the image; scales [dims] as the fragment is to have them, 1 at most; NULL: 1. */
int codec_fragments_add(codec_image *image, const codec_image_group *group, const double *scales, bool is_encode);

#endif
