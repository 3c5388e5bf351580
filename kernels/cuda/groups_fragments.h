/* Rotations as the lanes of a warp hold them: the fragments of kernels/cuda/groups_image.h. */
#ifndef RB_KERNELS_CUDA_GROUPS_FRAGMENTS_H
#define RB_KERNELS_CUDA_GROUPS_FRAGMENTS_H

#include <stdbool.h>

#include "kernels/cuda/groups_image.h"

enum { GROUPS_FRAGMENT_STEP = 16, GROUPS_FRAGMENT_TILE = 8 }; /* columns of a product that go in, and come out */

static inline uint32_t groups_pack_halves(uint16_t low, uint16_t high) { return (uint32_t)low | (uint32_t)high << 16; }

/* Appends a group's fragments of one direction to the image, which has room, and returns the first. Needs the group's
 * shape and rotation in the image; scales [dims] as the fragment is to have them, 1 at most; NULL: 1. */
int groups_fragments_add(groups_image *image, const groups_image_group *group, const double *scales, bool is_encode);

#endif
