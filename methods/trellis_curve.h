/* Bits of the heads of family trellis: what every byte of a head saves, and the heads at a number of bytes.
 *
 * Coordinate i of a head with w bits does the harm harm[i] trellis_errors[w] (trellis_basis.h). The first has 8 bits,
 * which the trellis starts from. Every further bit goes where it saves most; as a bit saves less than the one before
 * it, that is the optimum for every number of bits. */
#ifndef RB_METHODS_TRELLIS_CURVE_H
#define RB_METHODS_TRELLIS_CURVE_H

#include "kernels/reference/plan_head.h"
#include "methods/global_budget.h"

/* Gains of keys and values: half octaves, and the level that is 1. Norms of keys vary by little; values of tokens that
 * attention looks at for their own sake are small. */
enum {
    TRELLIS_KEY_GAIN_BITS = 3,
    TRELLIS_KEY_GAIN_ZERO = 2,
    TRELLIS_VALUE_GAIN_BITS = 4,
    TRELLIS_VALUE_GAIN_ZERO = 10
};

typedef struct trellis_head {
    int n, gain_bits, gain_zero;
    double *basis; /* [n][n], owned */
    double *harm;  /* [n], owned: falling */
    double *error; /* [n_points], owned: the harm that a vector of so many bytes is left with */
    int n_points;
} trellis_head;

/* metric, moment [n][n]. Fails as trellis_basis_find. */
rb_status trellis_head_create(trellis_head *out, const float *metric, const float *moment, int n, int gain_bits,
                              int gain_zero, rb_error *err);
void trellis_head_free(trellis_head *head); /* accepts one of zeroes */

/* The least bytes that a head of n dims stores. */
int trellis_least_bytes(int gain_bits);
/* An empty head becomes the one of so many bytes; its centre stays. */
rb_status trellis_head_make(plan_head *out, const trellis_head *head, int bytes, rb_error *err);

#endif
