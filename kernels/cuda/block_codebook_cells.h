/* The cells that find a block's nearest point (kernels/cuda/block_codebook_search.h), as an image has them
 * (kernels/cuda/block_codebook_image.h). */
#ifndef RB_KERNELS_CUDA_BLOCK_CODEBOOK_CELLS_H
#define RB_KERNELS_CUDA_BLOCK_CODEBOOK_CELLS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/reference/block_codebook_plan.h"

/* tanh(BLOCK_CODEBOOK_GRID_SCALE u) follows erf(u / 2), the distribution of a universal codebook's points, whose
 * density is the square root of the normal law's. */
#define BLOCK_CODEBOOK_GRID_SCALE 0.6

/* How a block's two dims are cut into cells. z of gain 1 goes to u = to_book z: there points are those of the universal
 * codebook, turned, and distances are measured by `square`. */
typedef struct block_codebook_grid {
    double turn[2];   /* cos, sin: of the axis along which the map stretches most */
    double square[2]; /* what it stretches by along the axes, squared */
    double to_book[4];
    int n_cells[2]; /* columns, rows; 0: there are none */
} block_codebook_grid;

/* A block of fewer than BLOCK_CODEBOOK_GRID_MIN_BITS has no cells, nor has one that has levels, nor one whose map
 * is singular or nearly so. */
block_codebook_grid block_codebook_grid_of(const plan_block_codebook *plan, int block);
/* 32-bit words of its cells, without long lists. */
size_t block_cells_words(const plan_block_codebook *plan, int block);

/* The cells of a block, then lists that have no room in theirs. */
typedef struct block_cells {
    uint32_t *words;
    size_t n, room;
} block_cells;

/* cells starts empty; words are freed by free(), also after a failure. RB_EUNSUPPORTED: more words than a cell can say.
 */
rb_status block_cells_build(block_cells *cells, const plan_block_codebook *plan, int block, const block_codebook *book,
                            rb_error *err);

#endif
