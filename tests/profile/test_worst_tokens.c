/* profile/worst_tokens.h: who is kept, in which order. */
#include "tests/test_support.h"

#include "profile/worst_tokens.h"

static rb_error err;

static void the_worst_are_kept_in_order_over_all_heads(void **state)
{
    (void)state;
    static const float first[] = {1, 5, 2, 5, 3}, second[] = {4, 5, 0, 6, 1}, errors[] = {10, 11, 12, 13, 14},
                       sizes[] = {20, 21, 22, 23, 24};
    static const struct {
        int layer, kv_head;
        int64_t position;
        double excess;
    } expected[] = {{1, 0, 3, 6}, {0, 1, 1, 5}, {0, 1, 3, 5}, {1, 0, 1, 5}, {1, 0, 0, 4}, {0, 1, 4, 3}};
    for (int capacity = 0; capacity <= 6; capacity++) {
        worst_tokens worst;
        assert_ok(worst_tokens_create(&worst, capacity, &err));
        worst_tokens_add(&worst, 0, 1, first, errors, sizes, 5);
        worst_tokens_add(&worst, 1, 0, second, errors, sizes, 5);
        assert_int_equal(worst.n, capacity);
        for (int i = 0; i < capacity; i++) {
            assert_int_equal(worst.at[i].layer, expected[i].layer);
            assert_int_equal(worst.at[i].kv_head, expected[i].kv_head);
            assert_int_equal(worst.at[i].position, expected[i].position);
            assert_true(worst.at[i].excess == expected[i].excess);
            assert_true(worst.at[i].error == 10.0 + (double)expected[i].position
                        && worst.at[i].size == 20.0 + (double)expected[i].position);
        }
        worst_tokens_free(&worst);
    }
}

static void fewer_tokens_than_asked_for_are_all_there(void **state)
{
    (void)state;
    const float excess[] = {1, 2}, ones[] = {1, 1};
    worst_tokens worst;
    assert_ok(worst_tokens_create(&worst, 10, &err));
    worst_tokens_add(&worst, 0, 0, excess, ones, ones, 2);
    assert_int_equal(worst.n, 2);
    assert_int_equal(worst.at[0].position, 1);
    worst_tokens_free(&worst);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_worst_are_kept_in_order_over_all_heads),
        cmocka_unit_test(fewer_tokens_than_asked_for_are_all_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
