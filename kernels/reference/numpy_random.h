/* numpy.random.default_rng(seed).standard_normal() bit for bit: SeedSequence -> PCG64 (XSL RR 128/64) -> ziggurat of
 * 256 layers. A plan names a rotation by (kind, seed, dims); this is what makes the name enough (docs/method.md).
 * The ziggurat's tables are computed, not copied, with the rounding numpy's have, and tested against numpy's draws. The
 * rare slow paths (1 draw in 100) ask the C library for exp and log1p, as numpy does. Sources: O'Neill, PCG
 * (HMC-CS-2014-0905); Doornik, ZIGNOR (2005) and Marsaglia & Tsang (2000) for the ziggurat; numpy's documentation of
 * SeedSequence. */
#ifndef RB_KERNELS_REFERENCE_NUMPY_RANDOM_H
#define RB_KERNELS_REFERENCE_NUMPY_RANDOM_H

#include <stddef.h>
#include <stdint.h>

typedef struct numpy_rng {
    unsigned __int128 state, increment;
} numpy_rng;

void numpy_rng_seed(numpy_rng *rng, uint64_t seed);
uint64_t numpy_rng_next(numpy_rng *rng); /* raw 64 bits */
double numpy_rng_double(numpy_rng *rng); /* [0, 1), 53 bits */
void numpy_rng_standard_normal(numpy_rng *rng, double *out, size_t n);

#endif
