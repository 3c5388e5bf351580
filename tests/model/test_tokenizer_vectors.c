/* Small tokenizers, one for each component and setting, against the ids that the `tokenizers` library gives. The
 * fixture has two vocabularies with merges ("plain" characters, byte-level "bytes"), and cases of them. */
#include "tests/model/toy_tokenizer.h"

#include "core/json.h"

#define VECTORS "tests/fixtures/tokenizer-vectors.json"

static void add_copy(cJSON *object, const char *key, const cJSON *value)
{
    assert_true(cJSON_AddItemToObject(object, key, value ? cJSON_Duplicate(value, true) : cJSON_CreateNull()));
}

/* The tokenizer.json of a case. */
static tokenizer *open_case(const cJSON *fixture, const cJSON *test)
{
    static const char *const MEMBERS[] = {"normalizer", "pre_tokenizer"};
    const char *name = rb_json_find(test, "name")->valuestring, *of = rb_json_find(test, "vocab")->valuestring;
    cJSON *document = cJSON_CreateObject(), *model = cJSON_Duplicate(rb_json_find(test, "settings"), true);
    tokenizer *t = NULL;
    rb_error err = {0};
    char *text;
    add_copy(model, "vocab", rb_json_find(rb_json_find(fixture, "vocabularies"), of));
    add_copy(model, "merges", rb_json_find(rb_json_find(fixture, "merges"), of));
    assert_true(cJSON_AddItemToObject(document, "model", model));
    for (size_t i = 0; i < RB_COUNT(MEMBERS); i++) add_copy(document, MEMBERS[i], rb_json_find(test, MEMBERS[i]));
    if (rb_json_find(test, "added_tokens")) add_copy(document, "added_tokens", rb_json_find(test, "added_tokens"));
    assert_ok(rb_json_print(&text, document, &err));
    if (tokenizer_open_text(&t, text, strlen(text), name, &err) != RB_OK) fail_msg("%s", err.msg);
    free(text);
    cJSON_Delete(document);
    return t;
}

static void check_case(const cJSON *fixture, const cJSON *test)
{
    const cJSON *item;
    tokenizer *t = open_case(fixture, test);
    cJSON_ArrayForEach (item, rb_json_find(test, "texts")) {
        const char *text = rb_json_find(item, "text")->valuestring;
        const cJSON *expected = rb_json_find(item, "ids"), *id = expected->child;
        rb_error err = {0};
        int32_t *ids;
        int64_t n;
        assert_ok(tokenizer_encode(t, text, strlen(text), &ids, &n, &err));
        for (int64_t i = 0; i < n && id; i++, id = id->next)
            if (ids[i] != id->valueint)
                fail_msg("%s: \"%s\": token %lld is %d, expected %d", rb_json_find(test, "name")->valuestring, text,
                         (long long)i, ids[i], id->valueint);
        if (n != cJSON_GetArraySize(expected))
            fail_msg("%s: \"%s\": %lld tokens, expected %d", rb_json_find(test, "name")->valuestring, text,
                     (long long)n, cJSON_GetArraySize(expected));
        free(ids);
    }
    tokenizer_close(t);
}

static void every_component_gives_the_ids_of_the_tokenizers_library(void **state)
{
    (void)state;
    rb_error err = {0};
    cJSON *fixture;
    const cJSON *test;
    assert_ok(rb_json_read(&fixture, VECTORS, 0, &err));
    assert_true(cJSON_GetArraySize(rb_json_find(fixture, "cases")) > 40);
    cJSON_ArrayForEach (test, rb_json_find(fixture, "cases")) check_case(fixture, test);
    cJSON_Delete(fixture);
}

/* ---- token bytes ----------------------------------------------------------------------------- */

static void assert_bytes(const tokenizer *t, const char *token, const char *bytes)
{
    size_t length = 0;
    const char *found = tokenizer_token_bytes(t, tokenizer_find(t, token), &length);
    assert_non_null(found);
    assert_int_equal(length, strlen(bytes));
    assert_memory_equal(found, bytes, length);
}

static void space_signs_and_byte_tokens_stand_for_their_bytes(void **state)
{
    (void)state;
    static const char LLAMA[] =
        "{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"},"
        "\"added_tokens\":[" ADDED(
            4, "<0x0B>", false, false, false,
            false) "],"
                   "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<0x0A>\":0,\"\\u2581\":1,\"a\":2,"
                   "\"\\u2581a\":3},\"merges\":[[\"\\u2581\",\"a\"]]}}";
    rb_error err = {0};
    tokenizer *t;
    assert_ok(tokenizer_open_text(&t, LLAMA, sizeof LLAMA - 1, "llama", &err));
    assert_bytes(t, "<0x0A>", "\n");
    assert_bytes(t, "\xe2\x96\x81", " ");
    assert_bytes(t,
                 "\xe2\x96\x81"
                 "a",
                 " a");
    assert_bytes(t, "<0x0B>", "<0x0B>"); /* an added token is what it says */
    assert_int_equal(tokenizer_find(t, "no such token"), -1);
    tokenizer_close(t);
}

/* ---- beginning of text ----------------------------------------------------------------------- */

#define TEMPLATE(single)                                                                               \
    "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[],\"special_tokens\":{"        \
    "\"<s>\":{\"id\":\"<s>\",\"ids\":[2],\"tokens\":[\"<s>\"]},\"<g>\":{\"id\":\"<g>\",\"ids\":[7,5]," \
    "\"tokens\":[\"<g>\",\"<h>\"]}}}"
#define SPECIAL(id) "{\"SpecialToken\":{\"id\":\"" id "\",\"type_id\":0}}"
#define TEXT        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"

static void assert_bos(const char *post_processor, int n, int32_t first, int32_t second)
{
    tokenizer *t = toy_open((toy){.post_processor = post_processor});
    const bos_tokens *bos = tokenizer_bos(t);
    assert_int_equal(bos->n, n);
    if (n > 0) assert_int_equal(bos->ids[0], first);
    if (n > 1) assert_int_equal(bos->ids[1], second);
    tokenizer_close(t);
}

static void the_post_processor_says_what_goes_in_front(void **state)
{
    (void)state;
    static const char LEVEL[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false}";
    char *sequence;
    rb_error err = {0};
    assert_bos("null", 0, 0, 0);
    assert_bos(LEVEL, 0, 0, 0);
    assert_bos(TEMPLATE(SPECIAL("<s>") "," TEXT), 1, 2, 0);
    assert_bos(TEMPLATE(SPECIAL("<g>") "," TEXT "," SPECIAL("<s>")), 2, 7, 5);
    assert_bos(TEMPLATE(TEXT "," SPECIAL("<s>")), 0, 0, 0); /* an end of text is none */
    assert_bos("{\"type\":\"RobertaProcessing\",\"sep\":[\"b\",1],\"cls\":[\"a\",0]}", 1, 0, 0);
    assert_ok(rb_format(&sequence, &err, "{\"type\":\"Sequence\",\"processors\":[%s,%s]}", LEVEL,
                        TEMPLATE(SPECIAL("<s>") "," TEXT)));
    assert_bos(sequence, 1, 2, 0);
    free(sequence);
}

static void a_template_without_the_ids_of_its_token_is_refused(void **state)
{
    (void)state;
    rb_error err;
    tokenizer *t;
    const toy file = {.post_processor = TEMPLATE(SPECIAL("<t>") "," TEXT)};
    assert_fails(tokenizer_open(&t, toy_file(&file), &err), RB_EFORMAT,
                 "post_processor: special_tokens has no \"<t>\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_component_gives_the_ids_of_the_tokenizers_library),
        cmocka_unit_test(space_signs_and_byte_tokens_stand_for_their_bytes),
        cmocka_unit_test(the_post_processor_says_what_goes_in_front),
        cmocka_unit_test(a_template_without_the_ids_of_its_token_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
