/* core/weighted_path.h: what is a weight, and what belongs to the name. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/weighted_path.h"

static void assert_is(const char *text, const char *path, double weight)
{
    rb_error err = {0};
    weighted_path found;
    assert_ok(rb_weighted_path(&found, text, &err));
    assert_string_equal(found.path, path);
    assert_true(found.weight == weight);
    free(found.path);
}

static void a_number_behind_the_last_colon_is_a_weight(void **state)
{
    (void)state;
    assert_is("absent.txt", "absent.txt", 1.0);
    assert_is("absent.txt:2", "absent.txt", 2.0);
    assert_is("a,b:c:0.25", "a,b:c", 0.25);
}

static void anything_else_belongs_to_the_name(void **state)
{
    (void)state;
    assert_is("absent:", "absent:", 1.0);
    assert_is("absent:2x", "absent:2x", 1.0);
    assert_is("absent:nan", "absent:nan", 1.0);
    assert_is("absent:inf", "absent:inf", 1.0);
    assert_is(":2", ":2", 1.0);
}

static void a_file_that_is_there_by_the_whole_name_has_no_weight(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *path = scratch_path("part:2");
    char with_weight[512];
    assert_ok(rb_atomic_write(path, "x", 1, &err));
    snprintf(with_weight, sizeof with_weight, "%s:3", path);
    assert_is(path, path, 1.0);
    assert_is(with_weight, path, 3.0);
}

static void a_weight_must_be_above_zero(void **state)
{
    (void)state;
    rb_error err = {0};
    weighted_path found;
    assert_fails(rb_weighted_path(&found, "absent:0", &err), RB_EUSAGE,
                 "absent:0: the weight is 0, expected a number above 0");
    assert_fails(rb_weighted_path(&found, "absent:-1", &err), RB_EUSAGE, "the weight is -1");
    assert_null(found.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_number_behind_the_last_colon_is_a_weight),
        cmocka_unit_test(anything_else_belongs_to_the_name),
        cmocka_unit_test(a_file_that_is_there_by_the_whole_name_has_no_weight),
        cmocka_unit_test(a_weight_must_be_above_zero),
    };
    return cmocka_run_group_tests_name("weighted_path", tests, NULL, NULL);
}
