/* core/json.h: what is refused and how it is said, numbers that keep every bit, getters, and the printed layout. */
#include "tests/test_support.h"

#include <float.h>
#include <stdbool.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"

static rb_status parse(cJSON **out, const char *text, rb_error *err)
{
    return rb_json_parse(out, text, strlen(text), "plan.json", err);
}

#define assert_refused(text, status, message)                       \
    do {                                                            \
        cJSON *refused = NULL;                                      \
        assert_fails(parse(&refused, text, &err), status, message); \
        assert_null(refused);                                       \
    } while (0)

/* ---- parsing --------------------------------------------------------------------------------- */

static void damaged_text_is_refused_with_its_line(void **state)
{
    (void)state;
    rb_error err = {0};
    assert_refused("", RB_EFORMAT, "plan.json: line 1: the JSON ends too early");
    assert_refused("{\n\"a\": 1,\n", RB_EFORMAT, "plan.json: line 3: the JSON ends too early");
    assert_refused("[1, 2", RB_EFORMAT, "ends too early");
    assert_refused("{\n\"a\": 1,\n\"b\": oops\n}", RB_EFORMAT, "plan.json: line 3, column 6: not valid JSON at: oops");
    assert_refused("[1,\n2,\n]", RB_EFORMAT, "line 2, column 2: a trailing comma before ']'");
    assert_refused("hello", RB_EFORMAT, "line 1, column 1: not valid JSON");
}

/* What people and other languages write: the place, what it is, and one line. */
static void what_is_not_json_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } faults[] = {
        {"{\n \"a\": true,\n}\n", "plan.json: line 2, column 11: a trailing comma before '}', expected none"},
        {"{\"a\": [1, 2,\n\n ]}", "line 1, column 12: a trailing comma before ']'"},
        {"{\n  \"a\": 1, // one\n  \"b\": 2}", "line 2, column 11: a comment"},
        {"{\n  /* one */ \"a\": 1}", "line 2, column 3: a comment"},
        {"{\n# one\n\"a\": 1}", "line 2, column 1: a comment"},
        {"{'a': 1}", "line 1, column 2: a single quote, expected a double quote"},
        {"{\"a\": None}", "line 1, column 7: None, which JSON does not have"},
        {"{\"a\": NaN}", "line 1, column 7: NaN, which JSON does not have"},
        {"{\"\u00e9\u00e9\": True}", "line 1, column 8: True, which JSON does not have"},
        {"{\"a\": 1\n\"b\": 2}", "line 2, column 1: a comma or colon is missing before this"},
        {"{\"a\": 1,, \"b\": 2}", "line 1, column 9: two commas, expected one"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
         "plan.json: expected JSON, found a Git LFS pointer"},
        {"\n<!DOCTYPE html>\n<html>", "plan.json: expected JSON, found an HTML or XML page"},
        {"{a: 1}", "line 1, column 2: not valid JSON at: a: 1}"},
        {"[1,2x]", "line 1, column 5: not valid JSON at: x]"},
        {"{\"a\": x\n\n}", "not valid JSON at: x"},
    };
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(faults); i++) {
        cJSON *json = NULL;
        assert_int_equal(rb_json_parse(&json, faults[i].text, strlen(faults[i].text), "plan.json", &err), RB_EFORMAT);
        if (!strstr(err.msg, faults[i].message)) fail_msg("\"%s\" lacks \"%s\"", err.msg, faults[i].message);
        assert_null(strchr(err.msg, '\n'));
        err.msg[0] = '\0';
    }
}

static void text_behind_the_document_is_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    assert_refused("{}\n\n{}", RB_EFORMAT, "plan.json: line 3: text behind the end of the JSON document: {}");
    assert_refused("1 2", RB_EFORMAT, "text behind");
    assert_ok(parse(&json, " \t\r\n{} \n\t\r\n", &err));
    cJSON_Delete(json);
}

static void nul_is_refused_as_a_byte_and_as_an_escape(void **state)
{
    (void)state;
    static const char with_nul[] = "{\"a\":\n\0 1}";
    rb_error err = {0};
    cJSON *json = NULL;
    assert_fails(rb_json_parse(&json, with_nul, sizeof with_nul - 1, "x", &err), RB_EFORMAT, "x: line 2: a NUL byte");
    assert_fails(rb_json_parse(&json, "{}\0", 3, "x", &err), RB_EFORMAT, "x: line 1: a NUL byte");
    assert_refused("[\"a\\u0000b\"]", RB_EUNSUPPORTED, "line 1: a string with \\u0000");
    assert_refused("[\"\\\\\\u0000\"]", RB_EUNSUPPORTED, "a string with \\u0000");
    assert_ok(parse(&json, "[\"\\\\u0000\"]", &err)); /* a backslash, then plain text */
    assert_string_equal(json->child->valuestring, "\\u0000");
    cJSON_Delete(json);
}

/* Exactly length bytes: nothing behind them is looked at, also when the text is cut where cJSON 1.7.15 reads on. */
static void only_the_given_bytes_are_read(void **state)
{
    (void)state;
    static const char text[] = "{\"1\":1,\"2\":[true,null,\"x\\u00e9\"]}";
    rb_error err = {0};
    for (size_t length = 0; length < sizeof text - 1; length++) {
        cJSON *json = NULL;
        char *exact = malloc(length ? length : 1); /* its end is a wall under AddressSanitizer */
        assert_non_null(exact);
        memcpy(exact, text, length);
        assert_fails(rb_json_parse(&json, exact, length, "cut", &err), RB_EFORMAT, "cut: line 1");
        free(exact);
    }
    cJSON *json = NULL;
    assert_ok(rb_json_parse(&json, "[1]garbage", 3, "x", &err));
    cJSON_Delete(json);
}

static void duplicate_keys_are_refused_at_any_depth(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    assert_refused("{\"a\": 1, \"a\": 2}", RB_EFORMAT, "plan.json: key \"a\" is there twice in one object");
    assert_refused("[[{\"x\": {\"b\": 1, \"c\": 2, \"b\": 3}}]]", RB_EFORMAT, "key \"b\" is there twice");
    assert_refused("{\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0,\"1\":0}", RB_EFORMAT,
                   "key \"1\" is there twice");
    assert_refused("{\"a\": 1, \"\\u0061\": 2}", RB_EFORMAT,
                   "key \"a\" is there twice"); /* the same key, written differently */
    assert_ok(parse(&json, "{\"a\": {\"a\": 1}, \"A\": [{\"a\": 1}, {\"a\": 1}]}", &err));
    cJSON_Delete(json);
}

/* As large as the vocabulary of a tokenizer.json. Comparing every pair would take minutes. */
static void an_object_of_150000_members_is_checked_at_once(void **state)
{
    (void)state;
    enum { N = 150000 };
    rb_error err = {0};
    cJSON *json = NULL;
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    assert_non_null(stream);
    for (int i = 0; i < N; i++) fprintf(stream, "%s\"token %d\": %d", i ? ", " : "{", (int)((int64_t)i * 7919 % N), i);
    fputs("}", stream);
    fclose(stream);
    const double started_s = rb_now_s();
    assert_ok(rb_json_parse(&json, text, size, "vocab", &err));
    assert_true(rb_now_s() - started_s < 5);
    assert_int_equal(cJSON_GetArraySize(json), N);
    cJSON_Delete(json);
    free(text);
}

static void nesting_past_the_limit_is_told_as_such(void **state)
{
    (void)state;
    enum { DEEP = 100000 };
    rb_error err = {0};
    char *text = malloc(DEEP + 1);
    cJSON *json = NULL;
    assert_non_null(text);
    memset(text, '[', DEEP);
    text[DEEP] = '\0';
    assert_refused(text, RB_EFORMAT, "plan.json: line 1: JSON nested deeper than 1000 levels");
    /* Brackets in strings do not count, behind an escaped quote neither. */
    memcpy(text, "[\"\\\"", 4);
    memset(text + 4, '[', 2000);
    strcpy(text + 2004, "\", x]");
    assert_refused(text, RB_EFORMAT, "not valid JSON at: x]");
    memset(text, '[', 1000);
    memset(text + 1000, ']', 1000);
    text[2000] = '\0';
    assert_ok(parse(&json, text, &err));
    cJSON_Delete(json);
    free(text);
}

static void files_are_read_up_to_their_limit(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    const char *path = scratch_path("config.json");
    assert_ok(rb_atomic_write(path, "{\"a\":\n?}", 8, &err));
    assert_fails(rb_json_read(&json, path, 0, &err), RB_EFORMAT,
                 "config.json: line 2, column 1: not valid JSON at: ?}");
    assert_fails(rb_json_read(&json, path, 7, &err), RB_EFORMAT, "config.json: larger than the 7 bytes");
    assert_fails(rb_json_read(&json, "/nonexistent.json", 0, &err), RB_EIO, "/nonexistent.json: No such file");
    assert_ok(rb_atomic_write(path, "{\"a\":1}\n", 8, &err));
    assert_ok(rb_json_read(&json, path, 8, &err));
    cJSON_Delete(json);
}

/* ---- members --------------------------------------------------------------------------------- */

static const char document[] = "{\"schema\": \"ropebits-plan\", \"version\": 1, \"name\": \"x\", \"n\": 7, \"half\": "
                               "0.5, \"big\": 1e17, \"huge\": 1e999,"
                               " \"on\": true, \"list\": [1], \"object\": {}, \"nothing\": null}";

static void getters_give_what_is_there(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    const cJSON *item;
    const char *string;
    double number;
    int64_t whole;
    bool flag = false;
    assert_ok(parse(&json, document, &err));
    assert_ok(rb_json_get_string(json, "name", "plan.json", &string, &err));
    assert_string_equal(string, "x");
    assert_ok(rb_json_get_int(json, "n", "plan.json", 7, 7, &whole, &err));
    assert_int_equal(whole, 7);
    assert_ok(rb_json_get_number(json, "half", "plan.json", 0.5, 0.5, &number, &err));
    assert_true(number == 0.5);
    assert_ok(rb_json_get_bool(json, "on", "plan.json", &flag, &err));
    assert_true(flag);
    assert_ok(rb_json_get_array(json, "list", "plan.json", &item, &err));
    assert_int_equal(cJSON_GetArraySize(item), 1);
    assert_ok(rb_json_get_object(json, "object", "plan.json", &item, &err));
    assert_true(cJSON_IsObject(item));
    assert_non_null(rb_json_find(json, "name"));
    assert_null(rb_json_find(json, "Name"));
    assert_null(rb_json_find(json, "nothing"));
    cJSON_Delete(json);
}

static void getters_name_the_place_what_they_found_and_what_they_expected(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    const cJSON *item;
    const char *string;
    double number;
    int64_t whole;
    bool flag;
    assert_ok(parse(&json, document, &err));
    assert_fails(rb_json_get_array(json, "name", "plan.json: layers[3]", &item, &err), RB_EFORMAT,
                 "plan.json: layers[3].name: found a string, expected an array");
    assert_fails(rb_json_get_object(json, "list", "plan.json", &item, &err), RB_EFORMAT,
                 "plan.json: list: found an array, expected an object");
    assert_fails(rb_json_get_string(json, "n", "plan.json", &string, &err), RB_EFORMAT,
                 "plan.json: n: found a number, expected a string");
    assert_fails(rb_json_get_number(json, "on", "plan.json", 0, 1, &number, &err), RB_EFORMAT,
                 "on: found a boolean, expected a number");
    assert_fails(rb_json_get_int(json, "object", "plan.json", 0, 1, &whole, &err), RB_EFORMAT,
                 "object: found an object, expected a whole number");
    assert_fails(rb_json_get_bool(json, "n", "plan.json", &flag, &err), RB_EFORMAT,
                 "n: found a number, expected true or false");
    assert_fails(rb_json_get_string(json, "absent", "plan.json", &string, &err), RB_EFORMAT,
                 "plan.json: absent: is missing, expected a string");
    assert_fails(rb_json_get_number(json, "nothing", "plan.json", 0, 1, &number, &err), RB_EFORMAT,
                 "plan.json: nothing: is missing, expected a number");
    assert_fails(rb_json_get_int(json->child, "n", "plan.json", 0, 1, &whole, &err), RB_EFORMAT,
                 "plan.json: found a string, expected an object");
    assert_fails(rb_json_get_int(NULL, "n", "plan.json", 0, 1, &whole, &err), RB_EFORMAT,
                 "plan.json: found nothing, expected an object");
    cJSON_Delete(json);
}

static void numbers_outside_their_range_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    double number;
    int64_t whole;
    assert_ok(parse(&json, document, &err));
    assert_fails(rb_json_get_int(json, "n", "plan.json", 1, 6, &whole, &err), RB_EINVAL,
                 "plan.json: n: is 7, expected 1 to 6");
    assert_fails(rb_json_get_int(json, "n", "plan.json", 8, 9, &whole, &err), RB_EINVAL, "is 7, expected 8 to 9");
    assert_fails(rb_json_get_int(json, "half", "plan.json", 0, 9, &whole, &err), RB_EINVAL,
                 "half: is 0.5, expected a whole number");
    assert_fails(rb_json_get_int(json, "big", "plan.json", 0, INT64_MAX, &whole, &err), RB_EINVAL,
                 "big: is 1e+17, expected a whole number of at most 2^53");
    assert_fails(rb_json_get_number(json, "half", "plan.json", 1, 8, &number, &err), RB_EINVAL,
                 "half: is 0.5, expected 1 to 8");
    assert_fails(rb_json_get_number(json, "half", "plan.json", 0, 0.25, &number, &err), RB_EINVAL,
                 "half: is 0.5, expected 0 to 0.25");
    assert_fails(rb_json_get_number(json, "huge", "plan.json", 1, INFINITY, &number, &err), RB_ENONFINITE,
                 "huge: the number is beyond the range of a double");
    cJSON_Delete(json);
}

static void a_schema_must_match_in_name_and_version(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    assert_ok(parse(&json, document, &err));
    assert_ok(rb_json_check_schema(json, "plan.json", "ropebits-plan", 1, &err));
    assert_fails(rb_json_check_schema(json, "plan.json", "ropebits-pipeline", 1, &err), RB_EFORMAT,
                 "plan.json: schema is \"ropebits-plan\", expected \"ropebits-pipeline\"");
    assert_fails(rb_json_check_schema(json, "plan.json", "ropebits-plan", 2, &err), RB_EUNSUPPORTED,
                 "plan.json: ropebits-plan version is 1, expected 2");
    assert_fails(rb_json_check_schema(cJSON_GetObjectItem(json, "object"), "plan.json", "ropebits-plan", 1, &err),
                 RB_EFORMAT, "plan.json: schema: is missing");
    cJSON_Delete(json);
}

static void unknown_members_are_named_with_the_nearest_known(void **state)
{
    (void)state;
    static const char *const known[] = {"depth", "tokens", NULL};
    rb_error err = {0};
    cJSON *json = NULL;
    assert_ok(parse(&json, "{\"tokens\": 1, \"depth\": null}", &err));
    assert_ok(rb_json_check_members(json, "a.json", known, &err));
    cJSON_Delete(json);
    assert_ok(parse(&json, "{\"tokens\": 1, \"dept\": 2}", &err));
    assert_fails(rb_json_check_members(json, "a.json", known, &err), RB_EFORMAT,
                 "a.json: has an unknown member \"dept\"; did you mean depth?");
    cJSON_Delete(json);
    assert_ok(parse(&json, "{\"Tokens\": 1, \"something\": 2}", &err));
    assert_fails(rb_json_check_members(json, "a.json", known, &err), RB_EFORMAT, "unknown member \"Tokens\"");
    cJSON_Delete(json);
}

/* ---- building and printing ------------------------------------------------------------------- */

static void a_built_document_prints_as_laid_out(void **state)
{
    (void)state;
    static const char expected[] = "{\n"
                                   "  \"schema\": \"ropebits-plan\",\n"
                                   "  \"avg_bits\": 3.5,\n"
                                   "  \"is_final\": true,\n"
                                   "  \"weights_sha256\": null,\n"
                                   "  \"logit_mae\": null,\n"
                                   "  \"bits\": [1, -2, 0.1, null],\n"
                                   "  \"empty\": [],\n"
                                   "  \"layers\": [\n"
                                   "    {\n"
                                   "      \"layer\": 0\n"
                                   "    },\n"
                                   "    {}\n"
                                   "  ]\n"
                                   "}\n";
    static const double bits[] = {1, -2, 0.1, NAN};
    rb_error err = {0};
    cJSON *json = NULL, *layers = cJSON_CreateArray(), *layer = NULL, *empty = NULL, *again = NULL;
    char *text = NULL, *reprinted = NULL;
    assert_ok(rb_json_new_object(&json, &err));
    assert_ok(rb_json_add_string(json, "schema", "ropebits-plan", &err));
    assert_ok(rb_json_add_number(json, "avg_bits", 3.5, &err));
    assert_ok(rb_json_add_bool(json, "is_final", true, &err));
    assert_ok(rb_json_add_null(json, "weights_sha256", &err));
    assert_ok(rb_json_add_number(json, "logit_mae", INFINITY, &err));
    assert_ok(rb_json_add_numbers(json, "bits", bits, RB_COUNT(bits), &err));
    assert_ok(rb_json_add_numbers(json, "empty", NULL, 0, &err));
    assert_ok(rb_json_new_object(&layer, &err));
    assert_ok(rb_json_add_number(layer, "layer", 0, &err));
    assert_ok(rb_json_new_object(&empty, &err));
    assert_ok(rb_json_append(layers, &layer, &err));
    assert_ok(rb_json_append(layers, &empty, &err));
    assert_null(layer);
    assert_ok(rb_json_add_item(json, "layers", &layers, &err));
    assert_null(layers);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "logit_mae")));
    assert_ok(rb_json_print(&text, json, &err));
    assert_string_equal(text, expected);
    assert_ok(parse(&again, text, &err));
    assert_ok(rb_json_print(&reprinted, again, &err));
    assert_string_equal(reprinted, expected);
    free(text);
    free(reprinted);
    cJSON_Delete(json);
    cJSON_Delete(again);
}

static double read_back(double value)
{
    rb_error err = {0};
    cJSON *json = cJSON_CreateNumber(value), *again = NULL;
    char *text = NULL;
    assert_ok(rb_json_print(&text, json, &err));
    assert_ok(parse(&again, text, &err));
    const double back = again->valuedouble;
    free(text);
    cJSON_Delete(json);
    cJSON_Delete(again);
    return back;
}

/* 0.42830847461246907 is one that cJSON's own printer gives back changed. */
static void printed_numbers_read_back_bit_for_bit(void **state)
{
    (void)state;
    static const double edges[] = {
        0.0,     -0.0,       0.1,  1.0 / 3, 0.42830847461246907, DBL_MAX, -DBL_MAX, DBL_MIN, DBL_TRUE_MIN, 0x1p53,
        -0x1p53, 0x1p53 + 2, 1e15, 1e300,   9007199254740991.0,  65504,   1e-7};
    uint64_t random = 1;
    for (size_t i = 0; i < RB_COUNT(edges); i++) {
        const double back = read_back(edges[i]);
        assert_memory_equal(&back, &edges[i], sizeof back);
    }
    for (int i = 0; i < 20000; i++) {
        double value;
        random = random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator: any bit pattern */
        memcpy(&value, &random, sizeof value);
        if (!isfinite(value)) continue;
        const double back = read_back(value);
        assert_memory_equal(&back, &value, sizeof back);
    }
}

static void whole_numbers_print_without_point_or_exponent(void **state)
{
    (void)state;
    static const double values[] = {0, 1e15, -9007199254740992.0, 123456789012.0};
    rb_error err = {0};
    cJSON *json = cJSON_CreateArray();
    char *text = NULL;
    for (size_t i = 0; i < RB_COUNT(values); i++) cJSON_AddItemToArray(json, cJSON_CreateNumber(values[i]));
    assert_ok(rb_json_print(&text, json, &err));
    assert_string_equal(text, "[0, 1000000000000000, -9007199254740992, 123456789012]\n");
    free(text);
    cJSON_Delete(json);
}

static void strings_survive_with_every_character(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL, *again = NULL;
    char all[256], *text = NULL;
    for (int c = 1; c < 128; c++) all[c - 1] = (char)c;
    strcpy(all + 127, "\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x8a"); /* e acute, euro, fox */
    assert_ok(rb_json_new_object(&json, &err));
    assert_ok(rb_json_add_string(json, all, all, &err));
    assert_ok(rb_json_print(&text, json, &err));
    assert_non_null(strstr(text, "\\u0001\\u0002"));
    assert_non_null(strstr(text, "\\b\\t\\n\\u000b\\f\\r"));
    assert_non_null(strstr(text, "\\\""));
    assert_ok(parse(&again, text, &err));
    assert_string_equal(again->child->string, all);
    assert_string_equal(again->child->valuestring, all);
    free(text);
    cJSON_Delete(json);
    cJSON_Delete(again);
}

/* A document can be looked at in a terminal, and is UTF-8 whatever a file is called. */
static void strings_that_steer_a_terminal_are_written_by_their_numbers(void **state)
{
    static const char *const CASES[][3] = {
        {"\x1b[2J\x7f", "\"\\u001b[2J\\u007f\"", "\x1b[2J\x7f"},
        {"c1 \xc2\x9b turned \xe2\x80\xae", "\"c1 \\u009b turned \\u202e\"", "c1 \xc2\x9b turned \xe2\x80\xae"},
        {"half \xe4\xb8 \xff", "\"half \\ufffd\\ufffd \\ufffd\"", "half \xef\xbf\xbd\xef\xbf\xbd \xef\xbf\xbd"},
        {"\xe4\xb8\xad\xf0\x9f\xa6\x8a", "\"\xe4\xb8\xad\xf0\x9f\xa6\x8a\"", "\xe4\xb8\xad\xf0\x9f\xa6\x8a"},
    };
    (void)state;
    for (size_t i = 0; i < RB_COUNT(CASES); i++) {
        rb_error err = {0};
        cJSON *json = NULL, *again = NULL;
        char *text = NULL;
        assert_ok(rb_json_new_object(&json, &err));
        assert_ok(rb_json_add_string(json, "s", CASES[i][0], &err));
        assert_ok(rb_json_print(&text, json, &err));
        assert_non_null(strstr(text, CASES[i][1]));
        assert_ok(parse(&again, text, &err));
        assert_string_equal(again->child->valuestring, CASES[i][2]);
        free(text);
        cJSON_Delete(json);
        cJSON_Delete(again);
    }
}

static void a_written_document_is_a_file_with_a_final_newline(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    char *text = NULL;
    size_t size;
    const char *path = scratch_path("summary.json");
    assert_ok(parse(&json, "{\"a\":[1,2]}", &err));
    assert_ok(rb_json_write(json, path, &err));
    assert_ok(rb_read_file(&text, &size, path, 100, &err));
    assert_string_equal(text, "{\n  \"a\": [1, 2]\n}\n");
    assert_fails(rb_json_write(json, "/nonexistent/summary.json", &err), RB_EIO, "/nonexistent");
    free(text);
    cJSON_Delete(json);
}

static void a_real_tokenizer_parses_quickly(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *json = NULL;
    SHARED_OR_SKIP(path, "tokenizers/pythia/tokenizer.json");
    const double started_s = rb_now_s();
    assert_ok(rb_json_read(&json, path, 0, &err));
    assert_true(rb_now_s() - started_s < 5);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_text_is_refused_with_its_line),
        cmocka_unit_test(what_is_not_json_is_named),
        cmocka_unit_test(text_behind_the_document_is_refused),
        cmocka_unit_test(nul_is_refused_as_a_byte_and_as_an_escape),
        cmocka_unit_test(only_the_given_bytes_are_read),
        cmocka_unit_test(duplicate_keys_are_refused_at_any_depth),
        cmocka_unit_test(an_object_of_150000_members_is_checked_at_once),
        cmocka_unit_test(nesting_past_the_limit_is_told_as_such),
        cmocka_unit_test(files_are_read_up_to_their_limit),
        cmocka_unit_test(getters_give_what_is_there),
        cmocka_unit_test(getters_name_the_place_what_they_found_and_what_they_expected),
        cmocka_unit_test(numbers_outside_their_range_are_refused),
        cmocka_unit_test(a_schema_must_match_in_name_and_version),
        cmocka_unit_test(unknown_members_are_named_with_the_nearest_known),
        cmocka_unit_test(a_built_document_prints_as_laid_out),
        cmocka_unit_test(printed_numbers_read_back_bit_for_bit),
        cmocka_unit_test(whole_numbers_print_without_point_or_exponent),
        cmocka_unit_test(strings_survive_with_every_character),
        cmocka_unit_test(strings_that_steer_a_terminal_are_written_by_their_numbers),
        cmocka_unit_test(a_written_document_is_a_file_with_a_final_newline),
        cmocka_unit_test(a_real_tokenizer_parses_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
