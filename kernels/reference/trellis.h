/* The bit-shift trellis of codec family trellis: its tables and its search.
 *
 * A state is 8 bits of a stream, the earlier bit the lower one. Coordinate t adds width_t bits to the stream, the first
 * one 8, and is restored as the number that its width's table has for the last 8 bits:
 *
 *   state_0 = bits_0,   state_t = state_{t-1} >> width_t | bits_t << (8 - width_t),   y^_t = table[width_t][state_t]
 *
 * So any coordinate is decoded from 8 bits of the stream, without those before it, and its code reaches further than
 * its own bits: which numbers a coordinate may take depends on the bits of its neighbours, and the encoder searches for
 * the path of the least error. That gains 1.5 to 2.2 dB over a scalar code of 1 to 4 bits (docs/method.md). The tables
 * are for the normal law of variance 1; bench/train_trellis.c made them. Source of the idea: QTIP, arXiv 2406.11235. */
#ifndef RB_KERNELS_REFERENCE_TRELLIS_H
#define RB_KERNELS_REFERENCE_TRELLIS_H

#include <stddef.h>
#include <stdint.h>

enum {
    TRELLIS_STATE_BITS = 8,
    TRELLIS_STATES = 1 << TRELLIS_STATE_BITS,
    TRELLIS_MAX_WIDTH = 8,
    TRELLIS_LANES = 16 /* vectors that are searched side by side */
};

typedef float trellis_table[TRELLIS_STATES]; /* numbers that fp16 holds */

/* [width], widths 1 to TRELLIS_MAX_WIDTH; that of 0 is all zeroes. */
extern const trellis_table trellis_tables[TRELLIS_MAX_WIDTH + 1];
/* Mean squared error that a coordinate of so many bits leaves of a normal variable of variance 1; 1 of width 0.
 * Measured in a path of one width that starts with 8 bits. */
extern const double trellis_errors[TRELLIS_MAX_WIDTH + 1];

/* Bytes of working memory of a search of n coordinates. */
size_t trellis_search_size(int n);

/* The path of the least sum of weight_t (y_t - y^_t)^2, for TRELLIS_LANES vectors at once: y [n][TRELLIS_LANES] ->
 * states [n][TRELLIS_LANES]. widths [n] of 1 to 8, the first 8; weights [n] above 0. Of equal paths the one that ends
 * in the lowest state, and comes from the lowest. work: trellis_search_size(n) bytes, aligned as malloc does. */
void trellis_search(uint8_t *states, const double *y, const double *weights, const uint8_t *widths, int n,
                    const trellis_table *tables, void *work);

#endif
