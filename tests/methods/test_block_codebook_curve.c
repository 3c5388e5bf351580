/* The best bits of block-codebook against all choices tried, and against a budget that is never overspent. */
#include "tests/test_support.h"

#include "kernels/reference/numpy_random.h"
#include "methods/block_codebook_curve.h"

enum { N_BLOCKS = 3, N_HEADS = 5, N_BITS = BLOCK_CODEBOOK_MAX_BITS + 1, GAIN_BITS = 3 };

static rb_error err;
static double q_energy[N_HEADS * N_BLOCKS];
static float block_codebook_error[N_HEADS * N_BLOCKS * N_BITS];

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
            block_codebook_error[i * N_BITS + bits] = (float)error;
            error *= 1.0 / (1.0 + fabs(u[bits]));
        }
    }
}

static double error_of(int head, const int *bits)
{
    double sum = 0.0;
    for (int i = 0; i < N_BLOCKS; i++)
        sum += 0.5 * q_energy[head * N_BLOCKS + i]
               * (double)block_codebook_error[(head * N_BLOCKS + i) * N_BITS + bits[i]];
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
                if (a <= block_codebook_most_bits(0, GAIN_BITS) && a + b + c <= most)
                    least = fmin(least, error_of(head, bits));
            }
    return least;
}

static void fill_heads(block_codebook_head *heads, const float *moments)
{
    make_curves();
    for (int h = 0; h < N_HEADS; h++)
        heads[h] =
            (block_codebook_head){N_BLOCKS, q_energy + h * N_BLOCKS, block_codebook_error + h * N_BLOCKS * N_BITS,
                                  moments ? moments + h * N_BLOCKS * (N_BLOCKS + 1) / 2 : NULL};
}

static void every_point_of_independent_blocks_is_the_optimum(void **state)
{
    (void)state;
    block_codebook_head heads[N_HEADS];
    block_codebook_curve curves[N_HEADS];
    fill_heads(heads, NULL);
    assert_ok(block_codebook_curves_build(curves, heads, N_HEADS, GAIN_BITS, &err));
    for (int h = 0; h < N_HEADS; h++) {
        assert_int_equal(curves[h].n_points, N_BLOCKS * BLOCK_CODEBOOK_MAX_BITS / 8 + 1);
        assert_true(isinf(curves[h].error[0]));
        for (int p = 1; p < curves[h].n_points; p++) {
            uint8_t bits[N_BLOCKS];
            double stretches[N_BLOCKS];
            int own[N_BLOCKS], sum = GAIN_BITS;
            assert_ok(block_codebook_curve_at(&curves[h], &heads[h], p, bits, &err));
            for (int i = 0; i < N_BLOCKS; i++) sum += own[i] = bits[i];
            const double expected = least_error(h, 8 * p - GAIN_BITS);
            assert_true(sum <= 8 * p);
            assert_true(fabs(curves[h].error[p] - expected) <= 1e-6 * expected);
            assert_true(fabs(error_of(h, own) - expected) <= 1e-6 * expected);
            assert_true(fabs(block_codebook_head_error(&heads[h], bits, stretches) - expected) <= 1e-6 * expected);
            for (int i = 0; i < N_BLOCKS; i++) assert_true(fabs(stretches[i] - 1.0) < 1e-12);
        }
        block_codebook_curve_free(&curves[h]);
    }
}

/* Moments of independent blocks say nothing new. Where blocks agree, an error adds up, restored blocks are stretched,
 * and the bits found are no worse than those of independent ones. */
static void moments_add_what_blocks_agree_on(void **state)
{
    (void)state;
    float moments[2][N_HEADS * N_BLOCKS * (N_BLOCKS + 1) / 2];
    block_codebook_head single[N_HEADS], diagonal[N_HEADS], coherent[N_HEADS];
    block_codebook_curve curves[3][N_HEADS];
    fill_heads(single, NULL);
    for (int kind = 0; kind < 2; kind++)
        for (int h = 0, at = 0; h < N_HEADS; h++)
            for (int i = 0; i < N_BLOCKS; i++)
                for (int j = i; j < N_BLOCKS; j++, at++) {
                    const double a =
                        0.5 * q_energy[h * N_BLOCKS + i] * (double)block_codebook_error[(h * N_BLOCKS + i) * N_BITS];
                    const double b =
                        0.5 * q_energy[h * N_BLOCKS + j] * (double)block_codebook_error[(h * N_BLOCKS + j) * N_BITS];
                    moments[kind][at] = (float)(i == j ? a : kind == 0 ? 0.0 : 0.7 * sqrt(a * b));
                }
    fill_heads(diagonal, moments[0]);
    fill_heads(coherent, moments[1]);
    assert_ok(block_codebook_curves_build(curves[0], single, N_HEADS, GAIN_BITS, &err));
    assert_ok(block_codebook_curves_build(curves[1], diagonal, N_HEADS, GAIN_BITS, &err));
    assert_ok(block_codebook_curves_build(curves[2], coherent, N_HEADS, GAIN_BITS, &err));
    for (int h = 0; h < N_HEADS; h++)
        for (int p = 1; p < curves[0][h].n_points; p++) {
            uint8_t bits[3][N_BLOCKS];
            double stretches[N_BLOCKS];
            assert_ok(block_codebook_curve_at(&curves[0][h], &single[h], p, bits[0], &err));
            assert_ok(block_codebook_curve_at(&curves[1][h], &diagonal[h], p, bits[1], &err));
            assert_ok(block_codebook_curve_at(&curves[2][h], &coherent[h], p, bits[2], &err));
            assert_memory_equal(bits[0], bits[1], N_BLOCKS);
            assert_true(fabs(curves[0][h].error[p] / curves[1][h].error[p] - 1.0) < 1e-5);
            assert_true(curves[2][h].error[p] > curves[1][h].error[p]);
            const double independent = block_codebook_head_error(&coherent[h], bits[0], stretches),
                         own = block_codebook_head_error(&coherent[h], bits[2], stretches);
            assert_true(own <= independent * 1.2);
            for (int i = 0; i < N_BLOCKS; i++) assert_true(bits[2][i] == 0 ? stretches[i] == 1.0 : stretches[i] > 1.0);
        }
    for (int kind = 0; kind < 3; kind++)
        for (int h = 0; h < N_HEADS; h++) block_codebook_curve_free(&curves[kind][h]);
}

/* V by hand: two blocks, sizes 2 and 1, shares 0.25 and 1, M_01 = 0.6. kappa_0 = (2 * 0.25 + 0.6) / (2 * 0.25) = 2.2.
 */
static void the_error_is_the_formulas(void **state)
{
    (void)state;
    static const double energy[2] = {1.0, 2.0};
    static const uint8_t bits[2] = {2, 0};
    static const float moment[3] = {2.0f, 0.6f, 1.0f};
    float error[2 * N_BITS] = {0};
    double stretches[2];
    error[0] = 4.0f;
    error[2] = 1.0f;
    error[N_BITS] = 1.0f;
    const block_codebook_head head = {2, energy, error, moment};
    const double kappa = 2.2, g = kappa / (0.75 * kappa + 0.25), u = 1.0 - g * 0.75;
    const double expected = u * u * 2.0 + 2.0 * u * 0.6 + 1.0 + g * g * 0.75 * 0.25 * 2.0;
    assert_true(fabs(block_codebook_head_error(&head, bits, stretches) - expected) < 1e-6);
    assert_true(fabs(stretches[0] - g) < 1e-6 && stretches[1] == 1.0);
}

/* A gain that fills the first byte leaves nothing for codes. */
static void no_bits_is_no_plan(void **state)
{
    (void)state;
    block_codebook_head heads[N_HEADS];
    block_codebook_curve curve;
    fill_heads(heads, NULL);
    assert_ok(block_codebook_curves_build(&curve, heads, 1, 8, &err));
    assert_true(isinf(curve.error[0]) && isinf(curve.error[1]) && isfinite(curve.error[2]));
    block_codebook_curve_free(&curve);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_point_of_independent_blocks_is_the_optimum),
        cmocka_unit_test(moments_add_what_blocks_agree_on),
        cmocka_unit_test(the_error_is_the_formulas),
        cmocka_unit_test(no_bits_is_no_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
