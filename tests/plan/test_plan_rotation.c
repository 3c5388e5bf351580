/* ropebits_plan_rotation: the rotations of the definition, as floats. */
#include "tests/test_support.h"

#include "kernels/reference/rotation.h"
#include "plan/library/ropebits_plan.h"

static void it_gives_the_rotations_of_the_definition(void **state)
{
    (void)state;
    static const int dims[] = {1, 2, 6, 64, 80};
    static double want[80 * 80];
    static float got[80 * 80 + 1];
    for (size_t i = 0; i < RB_COUNT(dims); i++)
        for (int kind = ROPEBITS_ROTATION_HAAR; kind <= ROPEBITS_ROTATION_HADAMARD; kind++) {
            rb_error err = {0};
            char error[8] = "before";
            const int n = dims[i] * dims[i];
            got[n] = 7.0f;
            assert_ok(rotation_build(want, &(rotation_spec){(rotation_kind)kind, 1003, dims[i]}, &err));
            assert_int_equal(ropebits_plan_rotation((uint8_t)kind, 1003, (uint32_t)dims[i], got, error, sizeof error),
                             0);
            assert_string_equal(error, "");
            for (int j = 0; j < n; j++) assert_true(got[j] == (float)want[j]);
            assert_true(got[n] == 7.0f);
        }
}

static void what_is_no_rotation_is_refused(void **state)
{
    (void)state;
    char error[200], cut[9];
    float one;
    assert_int_equal(ropebits_plan_rotation(ROPEBITS_ROTATION_HAAR, 1, 0, &one, error, sizeof error), -1);
    assert_string_equal(error, "rotation of 0 dims, expected 1 to 4096");
    assert_int_equal(ropebits_plan_rotation(ROPEBITS_ROTATION_HAAR, 1, UINT32_MAX, &one, cut, sizeof cut), -1);
    assert_string_equal(cut, "rotation");
    assert_int_equal(ropebits_plan_rotation(2, 1, 1, &one, error, sizeof error), -1);
    assert_string_equal(error, "rotation kind is 2, expected 0 to 1");
    assert_int_equal(ropebits_plan_rotation(2, 1, 1, &one, NULL, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_gives_the_rotations_of_the_definition),
        cmocka_unit_test(what_is_no_rotation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
