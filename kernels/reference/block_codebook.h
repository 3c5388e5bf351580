/* Codebooks of points in the plane for the normal law of unit variance in both coordinates: the universal ones of
 * family block-codebook (kernels/reference/block_codebook_codec.h). A RoPE block is a complex number, so one code can
 * stand for both of its dims: B bits a block are B / 2 a dim.
 *
 * Made by Lloyd's iteration (conditional means) on a fixed low-discrepancy sample, from points whose density is that of
 * a good quantizer, the law's square root (Gersho 1979); up to 5 bits the best of several starts. Coordinates are
 * rounded to fp16, so that every holder of a table has the same. In no order: a code is an index.
 *
 * A block of more than BLOCK_CODEBOOK_MAX_POINT_BITS bits has a level for each of its two coordinates instead, of a
 * scalar codebook for the same law: tables stay small, and a search is two short ones. Levels leave about 1.3 times
 * the error of as many points; that they can be shared out unevenly makes up for a part of it. */
#ifndef RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_H
#define RB_KERNELS_REFERENCE_BLOCK_CODEBOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

enum {
    BLOCK_CODEBOOK_MAX_POINT_BITS = 10, /* of a code that is a point */
    BLOCK_CODEBOOK_MAX_POINTS = 1 << BLOCK_CODEBOOK_MAX_POINT_BITS,
    BLOCK_CODEBOOK_MAX_LEVEL_BITS = 8, /* of a coordinate's level */
    BLOCK_CODEBOOK_MAX_LEVELS = 1 << BLOCK_CODEBOOK_MAX_LEVEL_BITS,
    BLOCK_CODEBOOK_MAX_BITS = 2 * BLOCK_CODEBOOK_MAX_LEVEL_BITS, /* of a block */
    BLOCK_CODEBOOK_MAP_SIZE = 3
};

typedef struct block_codebook {
    int bits, size; /* size = 1 << bits; 0 bits: the one point 0 */
    float x[BLOCK_CODEBOOK_MAX_POINTS], y[BLOCK_CODEBOOK_MAX_POINTS];
    double distortion; /* mean squared error a coordinate of the sample, for which a coordinate's variance is 1 */
} block_codebook;

/* bits 0 to BLOCK_CODEBOOK_MAX_POINT_BITS. */
rb_status block_codebook_build(block_codebook *out, int bits, rb_error *err);

/* The points that lie nearest to n given ones: nearest [n] their index, distance [n] squared; of equal ones the lowest
 * index. book_x, book_y [size]. */
void block_codebook_nearest(int32_t *nearest, float *distance, const float *x, const float *y, int n,
                            const float *book_x, const float *book_y, int size);

/* The scalar codebook for the normal law of unit variance: Lloyd-Max from levels whose density is that of a good
 * quantizer, the cube root of the law. Levels are ascending, antisymmetric, and rounded to fp16. */
typedef struct block_levels {
    int bits, size; /* size = 1 << bits */
    float level[BLOCK_CODEBOOK_MAX_LEVELS];
} block_levels;

/* bits 1 to BLOCK_CODEBOOK_MAX_LEVEL_BITS. */
rb_status block_levels_build(block_levels *out, int bits, rb_error *err);

/* The level nearest to x, the lowest of equals. */
int block_levels_nearest(const block_levels *levels, double x);

/* Whether a block of so many bits has levels. */
static inline bool block_codebook_has_levels(int bits) { return bits > BLOCK_CODEBOOK_MAX_POINT_BITS; }

/* The bits of the first coordinate's level, of a block that has levels: those b that leave the least
 * map[0]^2 4^-b + map[2]^2 4^-(bits - b), the fewest of equals. */
int block_codebook_first_bits(const float *map, int bits);

#endif
