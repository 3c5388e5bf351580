/* Measured error of widths and group sizes: known values, what must hold between them. */
#include "tests/test_support.h"

#include <omp.h>

#include "kernels/reference/codec_distortion.h"

enum { MAX_BLOCKS = 64, ROW = MAX_BLOCKS + 1 };

static rb_error err;
static double nearest[9 * ROW], search[9 * ROW], log8[9 * ROW];

static int measure_all(void **state)
{
    (void)state;
    assert_ok(codec_distortion_measure(nearest, MAX_BLOCKS, &(codec_kind){CODEBOOK_SPHERE, ENCODER_NEAREST, NORM_FP16},
                                       &err));
    assert_ok(
        codec_distortion_measure(search, MAX_BLOCKS, &(codec_kind){CODEBOOK_SPHERE, ENCODER_SEARCH, NORM_FP16}, &err));
    assert_ok(
        codec_distortion_measure(log8, MAX_BLOCKS, &(codec_kind){CODEBOOK_SPHERE, ENCODER_SEARCH, NORM_LOG8}, &err));
    return 0;
}

/* Lloyd-Max distortion D of a normal variable, width 1 to 4 (Max, 1960); norm correction makes it 2 - 2 sqrt(1 - D) in
 * many dims, a little less in 128. */
static void large_groups_have_the_error_of_a_normal_law(void **state)
{
    (void)state;
    static const double lloyd_max[] = {0, 0.3634, 0.1175, 0.03454, 0.009497};
    for (int width = 1; width <= 4; width++) {
        const double expected = 2.0 - 2.0 * sqrt(1.0 - lloyd_max[width]), found = nearest[width * ROW + MAX_BLOCKS];
        assert_true(found < 1.1 * expected && found > 0.95 * expected);
    }
}

static void more_bits_and_smaller_groups_err_less(void **state)
{
    (void)state;
    for (int width = 1; width <= 8; width++)
        for (int size = 1; size <= MAX_BLOCKS; size++) {
            if (width > 1 && width <= 6)
                assert_true(search[width * ROW + size] < 0.5 * search[(width - 1) * ROW + size]);
            if (size > 1 && width <= 6)
                assert_true(search[width * ROW + size] > 0.985 * search[width * ROW + size - 1]);
        }
}

static void searching_and_norms_of_8_bits_change_what_they_should(void **state)
{
    (void)state;
    for (int size = 4; size <= MAX_BLOCKS; size *= 2)
        for (int width = 2; width <= 4; width++) {
            const int at = width * ROW + size;
            assert_true(search[at] < nearest[at] && search[at] > 0.4 * nearest[at]);
            /* A step of 2^(1/16), rounded: (2^(1/16) - 1)^2 / 12 of the norm squared. */
            const double rounding = pow(exp2(1.0 / NORM_LOG8_STEPS) - 1.0, 2.0) / 12.0;
            assert_true(log8[at] - search[at] > 0.5 * rounding && log8[at] - search[at] < 1.5 * rounding);
        }
}

static void rows_of_no_bits_lose_everything(void **state)
{
    (void)state;
    for (int size = 1; size <= MAX_BLOCKS; size++) assert_true(search[size] == 1.0);
    for (int width = 0; width <= 8; width++) assert_true(search[width * ROW] == 0.0);
}

static void any_number_of_threads_gives_the_same(void **state)
{
    (void)state;
    static double again[9 * ROW];
    const int n = omp_get_max_threads();
    omp_set_num_threads(n == 1 ? 3 : 1);
    assert_ok(
        codec_distortion_measure(again, MAX_BLOCKS, &(codec_kind){CODEBOOK_SPHERE, ENCODER_SEARCH, NORM_LOG8}, &err));
    omp_set_num_threads(n);
    assert_memory_equal(again, log8, sizeof again);
}

/* Sizes that are no power of two, one alone. */
static void any_largest_size_will_do(void **state)
{
    (void)state;
    static double c[9 * 49];
    assert_ok(codec_distortion_measure(c, 48, &(codec_kind){CODEBOOK_SPHERE, ENCODER_SEARCH, NORM_FP16}, &err));
    for (int size = 1; size <= 48; size++) assert_true(fabs(c[3 * 49 + size] / search[3 * ROW + size] - 1.0) < 0.03);
    assert_ok(codec_distortion_measure(c, 1, &(codec_kind){CODEBOOK_BLOCK_GTQ, ENCODER_NEAREST, NORM_FP16}, &err));
    for (int width = 1; width <= 8; width++) assert_true(c[width * 2 + 1] > 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_groups_have_the_error_of_a_normal_law),
        cmocka_unit_test(more_bits_and_smaller_groups_err_less),
        cmocka_unit_test(searching_and_norms_of_8_bits_change_what_they_should),
        cmocka_unit_test(rows_of_no_bits_lose_everything),
        cmocka_unit_test(any_number_of_threads_gives_the_same),
        cmocka_unit_test(any_largest_size_will_do),
    };
    return cmocka_run_group_tests(tests, measure_all, NULL);
}
