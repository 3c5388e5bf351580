/* The best bits of block-codebook against all choices tried, and against a budget that is never overspent. */
#include "tests/test_support.h"

#include "allocate/plane_curve.h"
#include "kernels/numpy_random.h"

enum { N_BLOCKS = 3, N_HEADS = 5, N_BITS = PLANE_MAX_BITS + 1, GAIN_BITS = 3 };

static rb_error err;
static double q_energy[N_HEADS * N_BLOCKS];
static float plane_error[N_HEADS * N_BLOCKS * N_BITS];

/* Falling curves that are not convex: some bits bring little, the next one much. */
static void make_curves(void)
{
    numpy_rng rng;
    double u[N_BITS];
    numpy_rng_seed(&rng, 11);
    for (int i = 0; i < N_HEADS * N_BLOCKS; i++) {
        numpy_rng_standard_normal(&rng, u, N_BITS);
        q_energy[i] = exp(u[0]);
        double error = exp(u[1]) * 4.0;
        for (int bits = 0; bits < N_BITS; bits++) {
            plane_error[i * N_BITS + bits] = (float)error;
            error *= 1.0 / (1.0 + fabs(u[bits]));
        }
    }
}

static double error_of(int head, const int *bits)
{
    double sum = 0.0;
    for (int i = 0; i < N_BLOCKS; i++) sum += 0.5 * q_energy[head * N_BLOCKS + i] * (double)plane_error[(head * N_BLOCKS + i) * N_BITS + bits[i]];
    return sum;
}

/* The least error of a head within so many bits of codes. */
static double least_error(int head, int most)
{
    double least = INFINITY;
    for (int a = 0; a < N_BITS; a++)
        for (int b = 0; b < N_BITS; b++)
            for (int c = 0; c < N_BITS; c++) {
                const int bits[N_BLOCKS] = {a, b, c};
                if (a + b + c <= most) least = fmin(least, error_of(head, bits));
            }
    return least;
}

static void every_point_is_the_optimum(void **state)
{
    (void)state;
    plane_curve curves[N_HEADS];
    make_curves();
    assert_ok(plane_curves_build(curves, N_HEADS, N_BLOCKS, q_energy, plane_error, GAIN_BITS, &err));
    for (int h = 0; h < N_HEADS; h++) {
        assert_int_equal(curves[h].n_points, (GAIN_BITS + N_BLOCKS * PLANE_MAX_BITS + 7) / 8 + 1);
        assert_true(isinf(curves[h].error[0]));
        for (int p = 1; p < curves[h].n_points; p++) {
            uint8_t bits[N_BLOCKS];
            int own[N_BLOCKS], sum = GAIN_BITS;
            plane_curve_at(&curves[h], p, bits);
            for (int i = 0; i < N_BLOCKS; i++) sum += own[i] = bits[i];
            const double expected = least_error(h, 8 * p - GAIN_BITS);
            assert_true(sum <= 8 * p);
            assert_true(fabs(curves[h].error[p] - expected) <= 1e-12 * expected);
            assert_true(fabs(error_of(h, own) - expected) <= 1e-12 * expected);
        }
        plane_curve_free(&curves[h]);
    }
}

/* A gain that fills the first byte leaves nothing for codes. */
static void no_bits_is_no_plan(void **state)
{
    (void)state;
    plane_curve curve;
    make_curves();
    assert_ok(plane_curves_build(&curve, 1, N_BLOCKS, q_energy, plane_error, 8, &err));
    assert_true(isinf(curve.error[0]) && isinf(curve.error[1]) && isfinite(curve.error[2]));
    plane_curve_free(&curve);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_point_is_the_optimum), cmocka_unit_test(no_bits_is_no_plan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
