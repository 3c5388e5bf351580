/* methods/rate_bound.h against closed forms, its own inverse, a search, and the partitions it bounds. */
#include "tests/test_support.h"

#include "methods/partition.h"
#include "methods/rate_bound.h"

static rb_error err;

static bool close_to(double a, double b) { return fabs(a - b) <= 1e-12 * fmax(fabs(a), fabs(b)); }

/* v = 2, 1/2, 8 */
static const double steps_q[] = {4.0, 1.0, 8.0}, steps_k[] = {1.0, 1.0, 2.0};

/* All are above the water once it stands at 1/2: log2(8 / .5) + log2(2 / .5) = 6 bits. From there V = 3 (8 * 2 /
 * 2)^(1/3) 2^(-bits / 3) = 6 * 2^(-bits / 3). */
static void water_filling_has_its_closed_form(void **state)
{
    (void)state;
    for (double bits = 6.0; bits < 40.0; bits += 0.7)
        assert_true(close_to(rate_bound_error(steps_q, steps_k, 3, bits), 6.0 * exp2(-bits / 3.0)));
    /* Two above the water, from 2 bits on (level 2): V = 2 * sqrt(8 * 2) 2^(-bits / 2) + 1/2. */
    for (double bits = 2.0; bits < 6.0; bits += 0.3)
        assert_true(close_to(rate_bound_error(steps_q, steps_k, 3, bits), 8.0 * exp2(-bits / 2.0) + 0.5));
    /* One: V = 8 * 2^-bits + 2 + 1/2. */
    for (double bits = 0.0; bits < 2.0; bits += 0.1)
        assert_true(close_to(rate_bound_error(steps_q, steps_k, 3, bits), 8.0 * exp2(-bits) + 2.5));
}

static void bits_and_error_are_inverse(void **state)
{
    (void)state;
    for (double bits = 0.1; bits < 60.0; bits += 0.37) {
        const double back = rate_bound_bits(steps_q, steps_k, 3, rate_bound_error(steps_q, steps_k, 3, bits));
        assert_true(fabs(back - bits) <= 1e-9);
    }
    assert_true(rate_bound_bits(steps_q, steps_k, 3, 10.5) == 0.0);
    assert_true(rate_bound_bits(steps_q, steps_k, 3, 11.0) == 0.0);
    assert_true(rate_bound_bits(steps_q, steps_k, 3, 0.0) == INFINITY);
}

/* No split of the bits between two blocks is better, where a block with R bits keeps v 2^-R. */
static void no_split_of_the_bits_is_better(void **state)
{
    (void)state;
    const double q[] = {3.0, 0.4}, k[] = {2.0, 1.5}, v[] = {3.0, 0.3};
    for (double bits = 0.0; bits <= 12.0; bits += 0.5) {
        const double bound = rate_bound_error(q, k, 2, bits);
        double least = INFINITY;
        for (int i = 0; i <= 4000; i++)
            least = fmin(least, v[0] * exp2(-bits * i / 4000) + v[1] * exp2(-bits * (4000 - i) / 4000));
        assert_true(bound <= least * (1.0 + 1e-12) && bound >= least * (1.0 - 1e-5));
    }
}

/* What rate_bound.h says of many heads rests on it. */
static void the_bound_is_convex_in_bits_and_so_is_its_root(void **state)
{
    (void)state;
    double error[3] = {0.0};
    for (int i = 0; i < 200; i++) {
        error[0] = error[1];
        error[1] = error[2];
        error[2] = rate_bound_error(steps_q, steps_k, 3, 0.1 * i);
        if (i < 2) continue;
        assert_true(error[0] + error[2] >= 2.0 * error[1] * (1.0 - 1e-12));
        assert_true(sqrt(error[0]) + sqrt(error[2]) >= 2.0 * sqrt(error[1]) * (1.0 - 1e-12));
    }
}

static void blocks_without_energy_need_nothing(void **state)
{
    (void)state;
    const double q[] = {0.0, 2.0, 3.0}, k[] = {5.0, 1.0, 0.0}, none[] = {0.0, 0.0, 0.0};
    assert_true(close_to(rate_bound_error(q, k, 3, 7.0), exp2(-7.0)));
    assert_true(close_to(rate_bound_bits(q, k, 3, exp2(-7.0)), 7.0));
    assert_true(rate_bound_error(none, k, 3, 0.0) == 0.0);
    assert_true(rate_bound_bits(none, k, 3, 0.0) == 0.0);
}

static void distance_is_in_bits_a_dim_and_times_of_mae(void **state)
{
    (void)state;
    const double none[] = {0.0, 0.0, 0.0};
    /* 12 bits more than the bound needs for this error are 2 a dim; all three blocks above the water, they would have
     * divided sqrt(V) by 2^(12/3/2) = 4. */
    const rate_distance d = rate_bound_distance(steps_q, steps_k, 3, 24.0, rate_bound_error(steps_q, steps_k, 3, 12.0));
    assert_true(fabs(d.bits_per_dim - 2.0) <= 1e-9 && fabs(d.mae_ratio - 4.0) <= 1e-9);
    const rate_distance nothing = rate_bound_distance(none, steps_k, 3, 0.0, 0.0);
    assert_true(nothing.bits_per_dim == 0.0 && nothing.mae_ratio == 1.0);
}

/* Even groups of an ideal codec, 4^-width without a norm, stay above at every point of the curve: their widths are
 * whole and shared. */
static void partitions_stay_above_the_bound(void **state)
{
    (void)state;
    enum { N = 12 };
    double q[N], k[N], c[PARTITION_N_WIDTHS * (N + 1)];
    const partition_options options = {.widths = 0x1ff, .norm_bits = 0};
    partition_curve curve;
    for (int i = 0; i < N; i++) {
        q[i] = exp2(-0.9 * i);
        k[i] = exp2(0.3 * (i % 5));
    }
    for (int w = 0; w < PARTITION_N_WIDTHS; w++)
        for (int m = 0; m <= N; m++) c[w * (N + 1) + m] = exp2(-2.0 * w);
    assert_ok(partition_curves_build(&curve, 1, N, q, k, NULL, &(group_distortion){N, c}, 1, &options, &err));
    for (int p = 0; p < curve.n_points; p++) {
        assert_true(curve.error[p] >= rate_bound_error(q, k, N, 8.0 * p) * (1.0 - 1e-12));
        const rate_distance d = rate_bound_distance(q, k, N, 8.0 * p, curve.error[p]);
        assert_true(d.bits_per_dim >= -1e-12 && d.mae_ratio >= 1.0 - 1e-12);
    }
    partition_curve_free(&curve);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(water_filling_has_its_closed_form),
        cmocka_unit_test(bits_and_error_are_inverse),
        cmocka_unit_test(no_split_of_the_bits_is_better),
        cmocka_unit_test(the_bound_is_convex_in_bits_and_so_is_its_root),
        cmocka_unit_test(blocks_without_energy_need_nothing),
        cmocka_unit_test(distance_is_in_bits_a_dim_and_times_of_mae),
        cmocka_unit_test(partitions_stay_above_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
