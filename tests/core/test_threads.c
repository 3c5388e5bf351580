/* A parallel loop tells the failure that is first in order. */
#include "tests/test_support.h"

#include "core/threads.h"

static void the_failure_of_the_lowest_index_is_told(void **state)
{
    (void)state;
    rb_error err = {0};
    rb_first_failure failure = {0};
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 99; i >= 0; i--) {
        rb_error mine = {0};
        const rb_status st = i % 10 == 3 ? rb_fail(&mine, i == 13 ? RB_EIO : RB_EINVAL, "number %d", i) : RB_OK;
        rb_note_failure(&failure, i, st, &mine);
    }
    assert_int_equal(rb_tell_failure(&failure, &err), RB_EINVAL);
    assert_string_equal(err.msg, "number 3");
    assert_int_equal(failure.index, 3);
}

static void index_zero_counts_and_nothing_is_ok(void **state)
{
    (void)state;
    rb_error err = {0};
    const rb_error late = {"late"}, early = {"early"};
    rb_first_failure failure = {0};
    rb_note_failure(&failure, 0, RB_OK, &early);
    assert_int_equal(rb_tell_failure(&failure, &err), RB_OK);
    rb_note_failure(&failure, 7, RB_EIO, &late);
    rb_note_failure(&failure, 0, RB_ENOMEM, &early);
    rb_note_failure(&failure, 5, RB_EIO, &late);
    assert_int_equal(rb_tell_failure(&failure, &err), RB_ENOMEM);
    assert_string_equal(err.msg, "early");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_failure_of_the_lowest_index_is_told),
        cmocka_unit_test(index_zero_counts_and_nothing_is_ok),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
