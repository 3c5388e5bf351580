/* Where the dims of a head of family groups go, and their scales and centres: the arrays by dim and by column of
 * kernels/cuda/groups_image.h. */
#ifndef RB_KERNELS_CUDA_GROUPS_COLUMNS_H
#define RB_KERNELS_CUDA_GROUPS_COLUMNS_H

#include "kernels/cuda/codec_image.h"

/* A head while it is added to an image: its plan, and its parts of the image's arrays. */
typedef struct groups_head_build {
    const plan_head *from;
    const plan_groups *plan; /* its groups */
    codec_image_head *streams;
    groups_image_head *head;
    groups_image_group *groups;               /* [plan->n] */
    uint16_t *column, *position;              /* [head_dim] */
    uint32_t *pairs;                          /* [head_dim / 2] */
    float *shifts, *inverse_scales, *centers; /* [max_columns] */
} groups_head_build;

/* Fills column, position, shifts, inverse_scales, centers, and in head order and largest_center. Needs the groups,
 * their rotations in the image, and their exponents. */
void groups_columns_fill(const groups_head_build *h, const groups_image *image, const model_facts *model);

/* Scales of the dims of group g, in its order; 1 where the plan has none. */
void groups_scales_of(double *scales, const plan_groups *plan, int g, const model_facts *model);

#endif
