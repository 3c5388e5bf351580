/* Row operations against the same formulas in double. */
#include "tests/test_support.h"

#include <float.h>

#include "model/vector_math.h"
#include "tests/model/float_test.h"

static const int64_t sizes[] = {1, 2, 15, 16, 17, 31, 33, 96, 129, 1000};

/* A dense walk over the arguments softmax gives: relative error against libm in double. */
static void exp_is_accurate_over_its_whole_range(void **state)
{
    (void)state;
    double worst = 0.0;
    for (double x = 0.0; x > -86.9; x -= 0.00137) {
        float value = (float)x;
        const double expected = exp((double)value);
        exp_sum_row(&value, 0.0f, 1);
        worst = fmax(worst, fabs(value - expected) / expected);
    }
    assert_true(worst < 2e-7);
    assert_true(worst > 0.0); /* the walk did compare something */
}

static void exp_of_far_scores_is_zero_and_of_the_largest_is_one(void **state)
{
    (void)state;
    float x[] = {5.0f, 5.0f - 200.0f, -INFINITY};
    assert_true(exp_sum_row(x, 5.0f, 3) == 1.0f);
    assert_true(x[0] == 1.0f && x[1] == 0.0f && x[2] == 0.0f);
}

static void exp_keeps_nan(void **state)
{
    (void)state;
    float x[20] = {0};
    x[7] = NAN;
    assert_true(isnan(exp_sum_row(x, 0.0f, 20)));
    assert_true(isnan(x[7]) && x[6] == 1.0f);
}

static void exp_sum_adds_what_it_writes(void **state)
{
    (void)state;
    for (size_t s = 0; s < RB_COUNT(sizes); s++) {
        float *x = random_floats((size_t)sizes[s] + 1, s);
        const float guard = x[sizes[s]];
        const float sum = exp_sum_row(x, 1.0f, sizes[s]);
        double expected = 0.0;
        for (int64_t i = 0; i < sizes[s]; i++) expected += x[i];
        assert_close(sum, expected, expected * FLT_EPSILON * 64); /* 1000 terms over at least 4 lanes */
        assert_true(x[sizes[s]] == guard);
        free(x);
    }
}

static void max_finds_the_largest_wherever_it_is(void **state)
{
    (void)state;
    for (size_t s = 0; s < RB_COUNT(sizes); s++) {
        float *x = random_floats((size_t)sizes[s], s);
        for (int64_t at = 0; at < sizes[s]; at++) {
            const float kept = x[at];
            x[at] = 2.0f;
            assert_true(max_row(x, sizes[s]) == 2.0f);
            x[at] = kept;
        }
        free(x);
    }
}

static void rms_norm_divides_by_the_root_mean_square(void **state)
{
    (void)state;
    for (size_t s = 0; s < RB_COUNT(sizes); s++) {
        const int64_t n = sizes[s];
        float *x = random_floats((size_t)n, s), *weight = random_floats((size_t)n, s + 50),
              *out = random_floats((size_t)n, 0);
        double mean_square = 0.0;
        for (int64_t i = 0; i < n; i++) mean_square += (double)x[i] * x[i] / (double)n;

        rms_norm_row(out, x, weight, 1e-5f, n);
        for (int64_t i = 0; i < n; i++) assert_close(out[i], weight[i] * x[i] / sqrt(mean_square + 1e-5), 4e-6);
        rms_norm_row(x, x, weight, 1e-5f, n);
        assert_memory_equal(x, out, (size_t)n * sizeof *x); /* in place: the same */
        free(x);
        free(weight);
        free(out);
    }
}

static void swiglu_gates_up_by_silu(void **state)
{
    (void)state;
    const float gates[] = {0.0f,  1.0f,  -1.0f, 20.0f, -20.0f, 90.0f, -90.0f, 1000.0f, -1000.0f,
                           0.25f, -3.5f, 7.0f,  8.0f,  9.0f,   10.0f, 11.0f,  12.0f};
    float gate[RB_COUNT(gates)], up[RB_COUNT(gates)];
    for (size_t i = 0; i < RB_COUNT(gates); i++) {
        gate[i] = gates[i];
        up[i] = 0.5f + (float)i;
    }
    swiglu_row(gate, up, RB_COUNT(gates));
    for (size_t i = 0; i < RB_COUNT(gates); i++) {
        const double expected = gates[i] / (1.0 + exp(-(double)gates[i])) * up[i];
        assert_close(gate[i], expected, 4e-7 * fabs(expected) + 1e-30);
    }
}

static void scale_multiplies_every_value(void **state)
{
    (void)state;
    float *x = random_floats(33, 3), out[34] = {0};
    scale_row(out, x, 0.25f, 33);
    for (int i = 0; i < 33; i++) assert_true(out[i] == 0.25f * x[i]);
    assert_true(out[33] == 0.0f);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_accurate_over_its_whole_range),
        cmocka_unit_test(exp_of_far_scores_is_zero_and_of_the_largest_is_one),
        cmocka_unit_test(exp_keeps_nan),
        cmocka_unit_test(exp_sum_adds_what_it_writes),
        cmocka_unit_test(max_finds_the_largest_wherever_it_is),
        cmocka_unit_test(rms_norm_divides_by_the_root_mean_square),
        cmocka_unit_test(swiglu_gates_up_by_silu),
        cmocka_unit_test(scale_multiplies_every_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
