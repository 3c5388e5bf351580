/* Sorting and quantiles by nearest rank, counted by hand. */
#include "tests/test_support.h"

#include "core/order.h"

static void a_quantile_is_the_smallest_value_that_enough_do_not_exceed(void **state)
{
    (void)state;
    double values[1000];
    float floats[1000];
    for (int i = 0; i < 1000; i++) { /* 0 .. 999 in another order */
        values[i] = (double)((i * 7) % 1000);
        floats[i] = (float)values[i];
    }
    rb_sort_doubles(values, 1000);
    rb_sort_floats(floats, 1000);
    for (int i = 0; i < 1000; i++) assert_true(values[i] == (double)i && floats[i] == (float)i);
    assert_true(values[rb_quantile_place(1000, 0.99)] == 989.0);
    assert_true(values[rb_quantile_place(1000, 0.999)] == 998.0);
    assert_true(values[rb_quantile_place(1000, 0.0)] == 0.0);
    assert_true(values[rb_quantile_place(1000, 1.0)] == 999.0);
    assert_int_equal(rb_quantile_place(1, 0.5), 0);
}

/* p n is no whole number: the rank is the next one up. Of 10 values, 3 in 10 do not exceed the third, 1 in 4 neither.
 */
static void a_share_between_two_ranks_takes_the_upper_one(void **state)
{
    (void)state;
    assert_int_equal(rb_quantile_place(10, 0.25), 2);
    assert_int_equal(rb_quantile_place(10, 0.3), 2);
    assert_int_equal(rb_quantile_place(10, 0.31), 3);
    assert_int_equal(rb_quantile_place(101, 0.5), 50);
    assert_int_equal(rb_quantile_place(6, 0.99), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quantile_is_the_smallest_value_that_enough_do_not_exceed),
        cmocka_unit_test(a_share_between_two_ranks_takes_the_upper_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
