/* What a token's bytes look like in a line. */
#include "tests/test_support.h"

#include "model/tokenizer/token_text.h"

static void bytes_become_one_line_of_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t length;
        const char *text;
    } cases[] = {
        {" the", 4, " the"},
        {"\n\t", 2, "\\x0a\\x09"},
        {"\xe2\x82\xac", 3, "\xe2\x82\xac"},
        {"\xe2\x82", 2, "\\xe2\\x82"}, /* two thirds of a character */
        {"\xff"
         "a",
         2,
         "\\xff"
         "a"},
        {"\\x", 2, "\\x5cx"},                   /* cannot be taken for an escape */
        {"\xe2\x80\xae", 3, "\\xe2\\x80\\xae"}, /* would turn the line around */
        {"a\0b", 3, "a\\x00b"},
        {"", 0, ""},
    };
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        char text[TOKEN_TEXT_SIZE];
        token_text_set(text, cases[c].bytes, cases[c].length);
        assert_string_equal(text, cases[c].text);
    }
}

/* Never a part of a character or of an escape. */
static void long_bytes_are_cut_between_characters(void **state)
{
    (void)state;
    char bytes[300], text[TOKEN_TEXT_SIZE];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = "\xe2\x82\xac"[i % 3];
    token_text_set(text, bytes, sizeof bytes);
    assert_int_equal(strlen(text), (TOKEN_TEXT_SIZE - 1) / 3 * 3);
    memset(bytes, '\n', sizeof bytes);
    token_text_set(text, bytes, sizeof bytes);
    assert_int_equal(strlen(text), (TOKEN_TEXT_SIZE - 1) / 4 * 4);
}

static void an_id_is_named_by_its_tokenizer(void **state)
{
    (void)state;
    rb_error err = {0};
    tokenizer *words = NULL;
    char text[TOKEN_TEXT_SIZE];
    int32_t *ids = NULL;
    int64_t n;
    assert_ok(tokenizer_open(&words, "configs/demo-llama/tokenizer.json", &err));
    assert_ok(tokenizer_encode(words, "\n", 1, &ids, &n, &err));
    assert_int_equal(n, 1);
    token_text_of(text, words, ids[0]);
    assert_string_equal(text, "\\x0a");
    token_text_of(text, words, (int32_t)tokenizer_vocab_size(words));
    assert_string_equal(text, "");
    free(ids);
    tokenizer_close(words);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_become_one_line_of_utf8),
        cmocka_unit_test(long_bytes_are_cut_between_characters),
        cmocka_unit_test(an_id_is_named_by_its_tokenizer),
    };
    return cmocka_run_group_tests_name("token_text", tests, NULL, NULL);
}
