/* Floats for the model tests: repeatable random ones, uniform in [-1, 1) from a 64-bit linear congruential generator
 * (Knuth's MMIX constants), and a comparison that a NaN fails. Include after tests/test_support.h. */
#ifndef RB_TESTS_MODEL_FLOAT_TEST_H
#define RB_TESTS_MODEL_FLOAT_TEST_H

#include "tests/test_support.h"

static inline float random_float(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*state >> 32) * 0x1p-31f;
}

/* n of them, freed by free(); aborts without memory. */
static inline float *random_floats(size_t n, uint64_t seed)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    if (!x) abort();
    for (size_t i = 0; i < n; i++) x[i] = random_float(&seed);
    return x;
}

/* |found - expected| <= tolerance, in double. */
#define assert_close(found, expected, tolerance)                                                                    \
    do {                                                                                                            \
        const double assert_found = (found), assert_expected = (expected), assert_tolerance = (tolerance);          \
        if (!(fabs(assert_found - assert_expected) <= assert_tolerance))                                            \
            fail_msg("%s is %.9g, expected %.9g +- %.3g", #found, assert_found, assert_expected, assert_tolerance); \
    } while (0)

#endif
