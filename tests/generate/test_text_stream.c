/* Characters that come in pieces, and bytes that are none. */
#include "tests/test_support.h"

#include "generate/text_stream.h"

static rb_error err;

/* The pieces of a text, and what is there after each. */
static void check(const char *const *pieces, const char *const *texts, int n, const char *at_the_end)
{
    text_stream s = {0};
    for (int i = 0; i < n; i++) {
        assert_ok(text_stream_add(&s, pieces[i], strlen(pieces[i]), &err));
        assert_string_equal(s.text, texts[i]);
        assert_int_equal(s.length, strlen(texts[i]));
    }
    assert_ok(text_stream_finish(&s, &err));
    assert_string_equal(s.text, at_the_end);
    text_stream_free(&s);
}

static void characters_come_whole(void **state)
{
    (void)state;
    static const char *const pieces[] = {"a\xe2", "\x82",
                                         ("\xac"
                                          "b\xf0\x9f"),
                                         "\x98\x80", "\xc3"},
                             *const texts[] = {"a", "a",
                                               "a\xe2\x82\xac"
                                               "b",
                                               "a\xe2\x82\xac"
                                               "b\xf0\x9f\x98\x80",
                                               "a\xe2\x82\xac"
                                               "b\xf0\x9f\x98\x80"};
    check(pieces, texts, 5,
          "a\xe2\x82\xac"
          "b\xf0\x9f\x98\x80\xef\xbf\xbd");
}

/* Every place where a character of two, three or four bytes can be cut. */
static void a_character_waits_for_its_last_byte_wherever_it_is_cut(void **state)
{
    (void)state;
    static const char *const characters[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"};
    for (size_t i = 0; i < RB_COUNT(characters); i++)
        for (size_t cut = 1; cut < strlen(characters[i]); cut++) {
            text_stream s = {0};
            assert_ok(text_stream_add(&s, characters[i], cut, &err));
            assert_string_equal(s.text, "");
            assert_ok(text_stream_add(&s, characters[i] + cut, strlen(characters[i]) - cut, &err));
            assert_string_equal(s.text, characters[i]);
            text_stream_free(&s);
        }
}

static void bytes_that_are_no_character_are_replaced(void **state)
{
    (void)state;
    /* A stray byte; a beginning that something else follows; an overlong form; a surrogate; beyond U+10FFFF. */
    static const char *const pieces[] = {"\x80"
                                         "a",
                                         "\xe2\x82"
                                         "b",
                                         "\xc0\x80", "\xed\xa0\x80", "\xf5"},
                             *const texts[] = {
#define R "\xef\xbf\xbd"
                                 R "a", R "a" R R "b", R "a" R R "b" R R, R "a" R R "b" R R R R R,
                                 R "a" R R "b" R R R R R R};
    check(pieces, texts, 5, texts[4]);
}

static void an_empty_text_is_a_text(void **state)
{
    (void)state;
    static const char *const nothing[] = {""};
    check(nothing, nothing, 1, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_come_whole),
        cmocka_unit_test(a_character_waits_for_its_last_byte_wherever_it_is_cut),
        cmocka_unit_test(bytes_that_are_no_character_are_replaced),
        cmocka_unit_test(an_empty_text_is_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
