/* Codebooks as the kernels of family groups look codes and centroids up: the tables of kernels/cuda/groups_image.h. */
#ifndef RB_KERNELS_CUDA_GROUPS_TABLES_H
#define RB_KERNELS_CUDA_GROUPS_TABLES_H

#include "kernels/cuda/groups_image.h"
#include "kernels/reference/codebook.h"

/* What the tables of a codebook take at most: floats of `books`, and words of `halves`. */
size_t groups_tables_book_room(int width);
size_t groups_tables_halves_room(int width);

/* Appends the tables of a codebook to the image, which has room, and sets their places in `at`, counted from the
 * beginning of the image's tables. */
void groups_tables_add(groups_image *image, groups_image_group *at, const codebook *book);

#endif
