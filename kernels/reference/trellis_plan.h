/* Family trellis, the plan of a head: a vector, less its centre, is a sum of basis vectors, and the coefficients, its
 * coordinates, are coded by a bit-shift trellis (kernels/reference/trellis.h). The basis is found by calibration
 * (methods/trellis_basis.h): in it the coordinates are uncorrelated, and an error of each does harm of its own. What
 * the quantizer does with it: kernels/reference/trellis_codec.h.
 *
 * Cost: the widths of all coordinates, and of the gain, padded to a whole byte. There are no norms. */
#ifndef RB_KERNELS_REFERENCE_TRELLIS_PLAN_H
#define RB_KERNELS_REFERENCE_TRELLIS_PLAN_H

#include <stdint.h>

#include "kernels/reference/trellis.h"

enum { TRELLIS_MAX_GAIN_BITS = 4 };
enum { TRELLIS_LEAST_WEIGHT_INVERSE = 1 << 14 };
#define TRELLIS_LEAST_WEIGHT (1.0 / TRELLIS_LEAST_WEIGHT_INVERSE) /* fp16's smallest normal number */

typedef struct plan_trellis {
    int n_dims;      /* of a vector, and so coordinates: head_dim, of values value_dim */
    uint8_t *widths; /* [n_dims], owned: 0 to TRELLIS_MAX_WIDTH bits; the first is 8, and those of no bits come last */
    float *basis;    /* [n_dims][n_dims], owned, values that fp16 holds: row i is what a coordinate i of 1 adds to a
                      * vector that has the gain 1. Rows of coordinates without bits have no part in a restored vector,
                      * but in finding the coordinates of one */
    float *weights;  /* [n_dims], owned, at least TRELLIS_LEAST_WEIGHT, values that fp16 holds: what a squared error of
                      * the coordinate counts when the encoder searches. A decoder need not know */
    int gain_bits;   /* 0 to TRELLIS_MAX_GAIN_BITS: of a vector's gain, one of 2^gain_bits half octaves; 0: it is 1 */
    int gain_zero;   /* the level that is 1, 0 to 2^gain_bits - 1 */
} plan_trellis;

/* Coordinates that have bits. */
int plan_trellis_n_coded(const plan_trellis *plan);

#endif
