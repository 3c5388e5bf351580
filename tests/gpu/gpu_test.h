/* What the tests of the CUDA side share. Each case calls GPU_OR_SKIP first: without a GPU it is skipped. */
#ifndef RB_TESTS_GPU_GPU_TEST_H
#define RB_TESTS_GPU_GPU_TEST_H

#include "core/cuda_device.h"
#include "kernels/reference/numpy_random.h"
#include "tests/test_support.h"

#define GPU_OR_SKIP()                                   \
    do {                                                \
        rb_error gpu_err = {0};                         \
        if (rb_cuda_open(0, &gpu_err) != RB_OK) skip(); \
    } while (0)

/* n standard normals as floats; freed by free(). */
static inline float *normal_floats(uint64_t seed, int64_t n)
{
    double *drawn = malloc((size_t)n * sizeof *drawn);
    float *out = malloc((size_t)n * sizeof *out);
    numpy_rng rng;
    if (!drawn || !out) abort();
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, drawn, (size_t)n);
    for (int64_t i = 0; i < n; i++) out[i] = (float)drawn[i];
    free(drawn);
    return out;
}

#endif
