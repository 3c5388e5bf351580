/* Codebooks of points in the plane for the normal law of unit variance in both coordinates: the universal ones of
 * family block-codebook (kernels/reference/block_codebook_codec.h). A RoPE block is a complex number, so one code can
 * stand for both of its dims: B bits a block are B / 2 a dim.
 *
 * Made by Lloyd's iteration (conditional means) on a fixed low-discrepancy sample, from points whose density is that of
 * a good quantizer, the law's square root (Gersho 1979); up to 5 bits the best of several starts. Coordinates are
 * rounded to fp16, so that every holder of a table has the same. In no order: a code is an index. */
#ifndef RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_H
#define RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_H

#include <stdint.h>

#include "core/status.h"

enum { BLOCK_CODEBOOK_MAX_BITS = 10, BLOCK_CODEBOOK_MAX_POINTS = 1 << BLOCK_CODEBOOK_MAX_BITS };

typedef struct block_codebook {
    int bits, size; /* size = 1 << bits; 0 bits: the one point 0 */
    float x[BLOCK_CODEBOOK_MAX_POINTS], y[BLOCK_CODEBOOK_MAX_POINTS];
    double distortion; /* mean squared error a coordinate of the sample, for which a coordinate's variance is 1 */
} block_codebook;

/* bits 0 to BLOCK_CODEBOOK_MAX_BITS. */
rb_status block_codebook_build(block_codebook *out, int bits, rb_error *err);

/* The points that lie nearest to n given ones: nearest [n] their index, distance [n] squared; of equal ones the lowest
 * index. book_x, book_y [size]. */
void block_codebook_nearest(int32_t *nearest, float *distance, const float *x, const float *y, int n,
                            const float *book_x, const float *book_y, int size);

#endif
