/* The error idiom of core/status.h: the first message stays, contexts stack in front, sizes cannot overflow. */
#include "tests/test_support.h"

static void the_first_failure_is_the_one_told(void **state)
{
    (void)state;
    rb_error err = {0};
    assert_int_equal(rb_fail(&err, RB_EIO, "disk %d is full", 3), RB_EIO);
    assert_int_equal(rb_fail(&err, RB_EINVAL, "could not clean up"), RB_EINVAL);
    assert_string_equal(err.msg, "disk 3 is full");
    assert_int_equal(rb_fail(NULL, RB_EFORMAT, "nobody listens"), RB_EFORMAT);
}

static void contexts_go_in_front(void **state)
{
    (void)state;
    rb_error err = {0};
    rb_fail(&err, RB_ENONFINITE, "2 values are not finite");
    assert_int_equal(rb_fail_in(&err, RB_ENONFINITE, "kv_head %d", 3), RB_ENONFINITE);
    rb_fail_in(&err, RB_ENONFINITE, "layer %d", 12);
    assert_string_equal(err.msg, "layer 12: kv_head 3: 2 values are not finite");
    assert_int_equal(rb_fail_in(NULL, RB_EIO, "nobody listens"), RB_EIO);
}

static void long_messages_are_cut_and_end(void **state)
{
    (void)state;
    rb_error err = {0};
    char text[2 * sizeof err.msg];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    rb_fail(&err, RB_EIO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    rb_fail_in(&err, RB_EIO, "file");
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    assert_memory_equal(err.msg, "file: xxx", 9);
    rb_fail_in(&err, RB_EIO, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
}

static void what_a_file_says_cannot_steer_a_terminal(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"llama", "llama"},
        {"naïve 中文 😀 \\x", "naïve 中文 😀 \\x"},
        {"ll\x1b]0;pwned\a\x1b[2J", "ll\\x1b]0;pwned\\x07\\x1b[2J"},
        {"*/\n#include \"x.h\"\r\t", "*/\\n#include \"x.h\"\\x0d\\t"},
        {"c1 \xc2\x9b", "c1 \\xc2\\x9b"},
        {"turned \xe2\x80\xae round", "turned \\xe2\\x80\\xae round"},
        {"half \xe4\xb8", "half \\xe4\\xb8"},
        {"long \xc0\x80 \xff", "long \\xc0\\x80 \\xff"},
        {"surrogate \xed\xa0\x80", "surrogate \\xed\\xa0\\x80"},
        {"\x7f", "\\x7f"},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        rb_error err = {0}, context = {0};
        char few[6];
        rb_fail(&err, RB_EFORMAT, "%s", cases[i][0]);
        assert_string_equal(err.msg, cases[i][1]);
        assert_int_equal(rb_is_plain_text(cases[i][0]), strcmp(cases[i][0], cases[i][1]) == 0);
        rb_fail(&context, RB_EFORMAT, "bad");
        rb_fail_in(&context, RB_EFORMAT, "%s", cases[i][0]);
        assert_memory_equal(context.msg, cases[i][1], strlen(cases[i][1]));
        rb_escape_text(few, sizeof few, cases[i][0]);
        assert_true(strlen(few) < sizeof few);
        assert_true(rb_is_plain_text(few));
    }
}

static void exit_codes_are_the_four_documented(void **state)
{
    (void)state;
    assert_int_equal(rb_exit_code(RB_OK), 0);
    assert_int_equal(rb_exit_code(RB_EUSAGE), 2);
    assert_int_equal(rb_exit_code(RB_ECHECK), 3);
    for (rb_status st = RB_EINVAL; st <= RB_EDEVICE; st++) assert_int_equal(rb_exit_code(st), 1);
}

static void arrays_come_zeroed_and_aligned(void **state)
{
    (void)state;
    rb_error err = {0};
    for (size_t n = 0; n < 70; n++) {
        unsigned char *bytes = NULL;
        assert_ok(rb_alloc(&bytes, n, 3, "bytes", &err));
        assert_non_null(bytes);
        assert_int_equal((uintptr_t)bytes % 64, 0);
        for (size_t i = 0; i < 3 * n; i++) assert_int_equal(bytes[i], 0);
        if (n > 0) memset(bytes, 0xff, 3 * n); /* so that the next one is zeroed and not just fresh */
        free(bytes);
    }
}

static void sizes_that_overflow_are_refused_by_name(void **state)
{
    (void)state;
    rb_error err = {0};
    void *memory = NULL;
    assert_fails(rb_alloc(&memory, SIZE_MAX / 2, 3, "keys", &err), RB_ENOMEM, "keys: ");
    assert_null(memory);
    assert_fails(rb_alloc(&memory, SIZE_MAX, 1, "keys", &err), RB_ENOMEM, "overflow");
    assert_null(memory);
}

static void formatting_gives_a_fresh_string(void **state)
{
    (void)state;
    rb_error err = {0};
    char *text = NULL;
    assert_ok(rb_format(&text, &err, "layer_%03d/%s", 7, "k"));
    assert_string_equal(text, "layer_007/k");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_failure_is_the_one_told),
        cmocka_unit_test(contexts_go_in_front),
        cmocka_unit_test(long_messages_are_cut_and_end),
        cmocka_unit_test(what_a_file_says_cannot_steer_a_terminal),
        cmocka_unit_test(exit_codes_are_the_four_documented),
        cmocka_unit_test(arrays_come_zeroed_and_aligned),
        cmocka_unit_test(sizes_that_overflow_are_refused_by_name),
        cmocka_unit_test(formatting_gives_a_fresh_string),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
