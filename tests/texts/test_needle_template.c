/* Needle templates: the built-in ones, files, and what is refused. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "texts/needle_template.h"

static const char good[] = "{\"schema\": \"ropebits-needles\", \"version\": 1, \"statement\": \"[{key}={value}]\", "
                           "\"ask\": {\"question\": \"{key}?\", \"answer\": \" {value}.\"}, "
                           "\"ask_values\": {\"question\": \"all {key}?\", \"answer\": \" {values}.\"}, "
                           "\"ask_keys\": {\"question\": \"{keys}?\", \"answer\": \" {values}.\"}, "
                           "\"key_separator\": \"+\", \"value_separator\": \"; \", \"colours\": [\"red\", \"blue\"], "
                           "\"things\": [\"fox\"], \"value_digits\": 4}";

/* The good template with one piece replaced. */
static const char *file_with(const char *piece, const char *replacement)
{
    rb_error err = {0};
    static char text[1 << 16];
    const char *at = strstr(good, piece), *path = scratch_path("needles.json");
    assert_non_null(at);
    const int length = snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, replacement, at + strlen(piece));
    assert_ok(rb_atomic_write(path, text, (size_t)length, &err));
    return path;
}

static void assert_refused(const char *piece, const char *replacement, rb_status status, const char *message)
{
    rb_error err = {0};
    needle_template needles;
    assert_fails(needle_template_open(&needles, file_with(piece, replacement), &err), status, message);
    assert_null(needles.document);
}

/* The words that the small models were trained on. */
static void the_secret_number_template_is_the_studys(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_template needles;
    assert_ok(needle_template_open(&needles, "secret-number", &err));
    assert_string_equal(needles.opening, "");
    assert_string_equal(needles.statement, "\nThe secret number of the {key} is {value}.\n");
    assert_string_equal(needles.ask.question, "\nQuestion: What is the secret number of the {key}?\nAnswer:");
    assert_string_equal(needles.ask.answer, " {value}.");
    assert_int_equal(needles.value_digits, 5);
    needle_template_free(&needles);
    needle_template_free(&needles);
}

static void its_keys_are_those_the_shared_models_know(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "models/keys.json");
    rb_error err = {0};
    needle_template needles;
    char *keys = NULL;
    size_t size;
    assert_ok(needle_template_open(&needles, NEEDLE_TEMPLATE_DEFAULT, &err));
    assert_ok(rb_read_file(&keys, &size, path, 1 << 20, &err));
    int n_known = 0;
    for (const char *at = strchr(keys, '"'); at; at = strchr(strchr(at + 1, '"') + 1, '"')) n_known++;
    assert_int_equal(needles.colours.n * needles.things.n, n_known);
    for (int colour = 0; colour < needles.colours.n; colour++)
        for (int thing = 0; thing < needles.things.n; thing++) {
            char key[64];
            snprintf(key, sizeof key, "\"%s %s\"", needles.colours.at[colour], needles.things.at[thing]);
            if (!strstr(keys, key)) fail_msg("keys.json has no %s", key);
        }
    free(keys);
    needle_template_free(&needles);
}

static void the_plain_template_is_compiled_in_too_and_equals_its_file(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_template built_in, file;
    assert_ok(needle_template_open(&built_in, "plain", &err));
    assert_ok(needle_template_open(&file, "configs/needles/plain.json", &err));
    assert_string_equal(built_in.opening, file.opening);
    assert_string_equal(built_in.ask_keys.question, file.ask_keys.question);
    assert_int_equal(built_in.things.n, file.things.n);
    needle_template_free(&built_in);
    needle_template_free(&file);
}

static void a_file_gives_its_words(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_template needles;
    assert_ok(
        needle_template_open(&needles, file_with("\"version\": 1,", "\"version\": 1, \"opening\": \"<s>\","), &err));
    assert_string_equal(needles.opening, "<s>");
    assert_string_equal(needles.ask_values.question, "all {key}?");
    assert_string_equal(needles.key_separator, "+");
    assert_int_equal(needles.colours.n, 2);
    assert_string_equal(needles.colours.at[1], "blue");
    assert_int_equal(needles.value_digits, 4);
    needle_template_free(&needles);
}

static void placeholders_must_be_there_once_and_no_others(void **state)
{
    (void)state;
    assert_refused("[{key}={value}]", "[{key}]", RB_EFORMAT, "statement: has no {value}, expected it once");
    assert_refused("[{key}={value}]", "[{key}={value}={key}]", RB_EFORMAT, "statement: has {key} more than once");
    assert_refused("\"{key}?\"", "\"{key} {value}?\"", RB_EFORMAT,
                   "ask: question: has \"{value}\", expected no placeholder but {key}");
    assert_refused("all {key}?", "all {kee} {key}?", RB_EFORMAT, "ask_values: question: has \"{kee}\"");
    assert_refused("\"{keys}?\"", "\"{key}?\"", RB_EFORMAT, "ask_keys: question: has no {keys}");
    assert_refused("[{key}={value}]", "[{key}={value}}]", RB_EFORMAT, "statement: has \"}\"");
    assert_refused("[{key}={value}]", "[{key}={value}{]", RB_EFORMAT, "statement: has \"{]\"");
}

static void missing_unknown_and_wrong_members_are_named(void **state)
{
    (void)state;
    rb_error err = {0};
    needle_template needles;
    assert_refused("\"things\"", "\"thing\"", RB_EFORMAT, "unknown member \"thing\"; did you mean things?");
    assert_refused("\"question\": \"{key}?\"", "\"quest\": \"{key}?\"", RB_EFORMAT,
                   "ask: has an unknown member \"quest\"");
    assert_refused(", \"value_digits\": 4", "", RB_EFORMAT, "value_digits: is missing");
    assert_refused("\"value_digits\": 4", "\"value_digits\": 2", RB_EINVAL, "value_digits: is 2, expected 3 to 15");
    assert_refused("[\"fox\"]", "[]", RB_EFORMAT, "things is an empty list");
    assert_refused("[\"fox\"]", "[\"fox\", \"\"]", RB_EFORMAT, "things[1] is no word");
    assert_refused("\"red\", \"blue\"", "\"red\", \"blue\", \"red\"", RB_EFORMAT, "colours has \"red\" twice");
    assert_refused("\"; \"", "\"\"", RB_EFORMAT, "value_separator is empty");
    char many[4 * 10001 + 8] = "[";
    for (int i = 0; i < 10001; i++) strcpy(many + 1 + 4 * i, "\"a\",");
    strcpy(many + 4 * 10001, "]");
    assert_refused("[\"fox\"]", many, RB_EFORMAT, "things has 10001 words, expected at most 10000");
    assert_refused("ropebits-needles", "ropebits-plan", RB_EFORMAT,
                   "schema is \"ropebits-plan\", expected \"ropebits-needles\"");
    assert_fails(needle_template_open(&needles, "secret", &err), RB_EINVAL,
                 "needle template is 'secret', expected a file or one of completion, plain, secret-number");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_secret_number_template_is_the_studys),
        cmocka_unit_test(its_keys_are_those_the_shared_models_know),
        cmocka_unit_test(the_plain_template_is_compiled_in_too_and_equals_its_file),
        cmocka_unit_test(a_file_gives_its_words),
        cmocka_unit_test(placeholders_must_be_there_once_and_no_others),
        cmocka_unit_test(missing_unknown_and_wrong_members_are_named),
    };
    return cmocka_run_group_tests_name("needle_template", tests, NULL, NULL);
}
