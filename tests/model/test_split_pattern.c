/* Oniguruma's patterns in PCRE2: what they find, and what is refused because the engines read it differently.
 * Expected values are those of tokenizers.pre_tokenizers.Split (Oniguruma) in the `tokenizers` library. */
#include "tests/test_support.h"

#include <stdbool.h>

#include "model/tokenizer/split_pattern.h"

static void assert_finds(const char *regex, const char *text, size_t start, size_t end)
{
    rb_error err = {0};
    split_pattern *pattern;
    split_scratch *scratch;
    size_t found_start = 0, found_end = 0;
    bool found;
    assert_ok(split_pattern_compile(&pattern, regex, "test", &err));
    assert_ok(split_scratch_new(&scratch, &err));
    assert_ok(split_pattern_next(pattern, scratch, text, strlen(text), 0, &found, &found_start, &found_end, &err));
    if (found != (start < end) || (found && (found_start != start || found_end != end)))
        fail_msg("%s in \"%s\": found %d [%zu, %zu), expected [%zu, %zu)", regex, text, found, found_start, found_end,
                 start, end);
    split_scratch_free(scratch);
    split_pattern_free(pattern);
}

static void white_space_is_that_of_oniguruma(void **state)
{
    (void)state;
    assert_finds("\\s+",
                 "a\xe1\xa0\x8e"
                 "b",
                 0, 0); /* U+180E: white space to PCRE2 alone */
    assert_finds("\\S+", "\xe1\xa0\x8e ", 0, 3);
    assert_finds("[^\\s]+", " \xe1\xa0\x8e ", 1, 4);
    assert_finds("[\\S]+", " \xe1\xa0\x8e ", 1, 4);
    assert_finds("\\s+",
                 "a\t\n\v\f\r "
                 "\xc2\x85\xc2\xa0\xe1\x9a\x80\xe2\x80\x80\xe2\x80\x8a\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaf\xe2\x81\x9f"
                 "\xe3\x80\x80z",
                 1, 35);
    assert_finds("\\s", "\xe2\x80\x8b\xef\xbb\xbf\x1c", 0, 0); /* zero-width space, BOM, file separator */
}

static void patterns_mean_what_they_mean_to_oniguruma(void **state)
{
    (void)state;
    assert_finds("(?i:'s)", "it'\xc5\xbf", 2, 5); /* long s folds to s */
    assert_finds("'(?i:[stdm]|ll|ve|re)ss\xc3\xa9", "a'LLss\xc3\xa9", 1,
                 8); /* what (?i:...) may not hold may follow it */
    assert_finds("\\p{N}{1,3}", "a\xd9\xa3\xd9\xa4\xd9\xa5\xd9\xa6", 1, 7);
    assert_finds("[^\\p{^L}]++", "1ab2", 1, 3);
    assert_finds("^b$", "a\nb\nc", 2, 3);         /* lines, always */
    assert_finds(".+", "\n\r\xe2\x80\xa8", 1, 5); /* only LF ends a line */
    assert_finds("[]a]+", "x]a]", 1, 4);
    assert_finds("[\\[\\]\\-{}]+|\\{", "x[-]{}", 1, 6);
    assert_finds("\\x{e9}", "a\xc3\xa9", 1, 3);
    assert_finds("\\d\\D",
                 "ab\xd9\xa3"
                 "c",
                 2, 5); /* any decimal digit */
}

static void patterns_that_engines_read_differently_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *regex, *message;
    } CASES[] = {
        {"\\w+", "an escape that engines read differently at \"\\w+\""},
        {"\\bx", "an escape"},
        {"\\h", "an escape"},
        {"[\\v]", "an escape"},
        {"(a)\\1", "an escape"},
        {"\\x41", "an escape"},
        {"a\\", "an escape"},
        {"\\x{4g}", "a character code"},
        {"\\p{Han}", "a property other than a general category at \"\\p{Han}\""},
        {"\\pL", "a property without braces"},
        {"\\p{L", "a property"},
        {"[a[b]]", "a set inside a set"},
        {"[a-z&&b]", "an intersection of sets"},
        {"(?i)a", "a group at \"(?i)a\""},
        {"(?m:a)", "a group"},
        {"(?<n>a)", "a group"},
        {"(*UTF)a", "a verb"},
        {"a{2}+", "a quantifier behind an interval"},
        {"a{,2}", "a brace"},
        {"a{1", "a brace"},
        {"(?i:\xc3\xa9)", "in (?i:...) what is no plain ASCII"},
        {"(?i:\\p{Lu})", "in (?i:...) what is no plain ASCII"},
        {"(?i:[^a])", "in (?i:...) what is no plain ASCII"},
        {"(?i:s(s))", "in (?i:...) what is no plain ASCII"},
        {"(?i:'re|Fi)", "in (?i:...) a string that is also the folding of one character at \"Fi)\""},
        {"(a", "PCRE2 does not take the pattern: missing closing parenthesis"},
        {"[a", "PCRE2 does not take the pattern: missing terminating ]"},
        {"\\p{Zq}", "PCRE2 does not take the pattern: unknown property"},
    };
    for (size_t i = 0; i < RB_COUNT(CASES); i++) {
        rb_error err;
        split_pattern *pattern;
        assert_fails(split_pattern_compile(&pattern, CASES[i].regex, "test", &err), RB_EUNSUPPORTED, CASES[i].message);
        assert_null(pattern);
    }
}

/* What a pattern finds in a text of ones, cut as a pre-tokenizer does it. */
static rb_status cut(const char *regex, const char *text, size_t length, rb_error *err)
{
    split_pattern *pattern = NULL;
    split_scratch *scratch = NULL;
    bool found = true;
    size_t start, end = 0;
    rb_status st;
    RB_TRY(st, split_pattern_compile(&pattern, regex, "test", err), done);
    RB_TRY(st, split_scratch_new(&scratch, err), done);
    split_scratch_begin(scratch, length);
    while (found && end < length)
        RB_TRY(st, split_pattern_next(pattern, scratch, text, length, end, &found, &start, &end, err), done);
done:
    split_scratch_free(scratch);
    split_pattern_free(pattern);
    return st;
}

/* Each would take hours: by backtracking, by looking ahead to the end from every place, within one match or in many. */
static void patterns_without_end_are_ended(void **state)
{
    static const char *const ENDLESS[] = {
        "(?=[^z]*+z)a|a", "(?=[^z]*+z)[ax]", "(?:a|aa){0,22}z|a", "a+?z|a", "(?:a|a)*[^z]*+z|a", "(a+)+$|(?=.*z)a|a",
    };
    enum { LENGTH = 1 << 20 };
    char *text = malloc(LENGTH);
    assert_non_null(text);
    (void)state;
    memset(text, 'a', LENGTH - 1);
    text[LENGTH - 1] = 'b'; /* so that $ is never found after the ones */
    for (size_t i = 0; i < RB_COUNT(ENDLESS); i++) {
        rb_error err = {0};
        const rb_status st = cut(ENDLESS[i], text, LENGTH, &err);
        if (st != RB_EUNSUPPORTED) fail_msg("%s: status %d", ENDLESS[i], (int)st);
        if (!strstr(err.msg, "take more than 219715200 steps on a text of 1048576 bytes") && !strstr(err.msg, "limit"))
            fail_msg("%s: %s", ENDLESS[i], err.msg);
    }
    free(text);
}

/* Long runs of one kind, which the patterns of models pass over once or twice. */
static void patterns_of_models_are_far_from_the_limit(void **state)
{
    static const char *const REGEXES[] = {
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
        "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    };
    static const char *const UNITS[] = {"a", " ", "\n", "1", "-", "a ", " \n", "a1-\n "};
    enum { LENGTH = 1 << 20 };
    char *text = malloc(LENGTH);
    assert_non_null(text);
    (void)state;
    for (size_t u = 0; u < RB_COUNT(UNITS); u++) {
        for (size_t i = 0; i < LENGTH; i++) text[i] = UNITS[u][i % strlen(UNITS[u])];
        for (size_t i = 0; i < RB_COUNT(REGEXES); i++) {
            rb_error err = {0};
            assert_ok(cut(REGEXES[i], text, LENGTH, &err));
        }
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_is_that_of_oniguruma),
        cmocka_unit_test(patterns_mean_what_they_mean_to_oniguruma),
        cmocka_unit_test(patterns_that_engines_read_differently_are_refused),
        cmocka_unit_test(patterns_without_end_are_ended),
        cmocka_unit_test(patterns_of_models_are_far_from_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
