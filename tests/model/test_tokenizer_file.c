/* Every way a tokenizer.json is refused: what is not supported, what contradicts itself, what is damaged. */
#include "tests/model/toy_tokenizer.h"

#include "core/atomic_file.h"

#define DEMO "configs/demo-llama/tokenizer.json"

typedef struct refusal {
    toy toy;
    rb_status status;
    const char *message;
} refusal;

static void assert_refused(const refusal *cases, size_t n_cases)
{
    for (size_t i = 0; i < n_cases; i++) {
        rb_error err;
        tokenizer *t;
        const char *path = toy_file(&cases[i].toy);
        assert_fails(tokenizer_open(&t, path, &err), cases[i].status, cases[i].message);
        assert_null(t);
    }
}

static void unsupported_components_are_named(void **state)
{
    (void)state;
    static const refusal CASES[] = {
        {{.version = "\"2.0\""}, RB_EUNSUPPORTED, "version: found \"2.0\""},
        {{.normalizer = "{\"type\":\"StripAccents\"}"}, RB_EUNSUPPORTED, "normalizer: found StripAccents, supported"},
        {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Nmt\"}]}"},
         RB_EUNSUPPORTED,
         "normalizer.normalizers[1]: found Nmt"},
        {{.normalizer = "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"a\"}"},
         RB_EUNSUPPORTED,
         "normalizer.pattern: found an empty String"},
        {{.pre_tokenizer = "{\"type\":\"UnicodeScripts\"}"}, RB_EUNSUPPORTED, "pre_tokenizer: found UnicodeScripts"},
        {{.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[" TOY_WHOLE ",{\"type\":\"FixedLength\"}]}"},
         RB_EUNSUPPORTED,
         "pre_tokenizer.pretokenizers[1]: found FixedLength"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Dropped\","
                           "\"invert\":false}"},
         RB_EUNSUPPORTED,
         "pre_tokenizer.behavior: found Dropped"},
        {{.pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"Glob\":\"a\"},\"behavior\":\"Isolated\","
                           "\"invert\":false}"},
         RB_EUNSUPPORTED,
         "pattern: found Glob, supported are Regex and String"},
        {{.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}"},
         RB_EUNSUPPORTED,
         "prepend_scheme: found last"},
        {{.post_processor = "{\"type\":\"Custom\"}"}, RB_EUNSUPPORTED, "post_processor: found Custom"},
        {{.pre_tokenizer = TOY_SPLIT("(a")}, RB_EUNSUPPORTED, "pretokenizers[0]: PCRE2 does not take the pattern"},
        {{.settings = "\"continuing_subword_prefix\":\"##\","}, RB_EUNSUPPORTED, "model.continuing_subword_prefix"},
        {{.settings = "\"end_of_word_suffix\":\"</w>\","}, RB_EUNSUPPORTED, "model.end_of_word_suffix"},
        {{.settings = "\"dropout\":0.1,"}, RB_EUNSUPPORTED, "model.dropout: found 0.1"},
    };
    assert_refused(CASES, RB_COUNT(CASES));
}

static void neutral_settings_are_accepted(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){
        .settings = "\"dropout\":0.0,\"unk_token\":null,\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\","
                    "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":null,"});
    EXPECT(t, "abc", 7);
    tokenizer_close(t);
}

static void another_model_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    tokenizer *t;
    const char *path = scratch_path("unigram.json");
    static const char TEXT[] = "{\"version\":\"1.0\",\"added_tokens\":[],\"pre_tokenizer\":" TOY_GPT2
                               ",\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}";
    assert_ok(rb_atomic_write(path, TEXT, sizeof TEXT - 1, &err));
    assert_fails(tokenizer_open(&t, path, &err), RB_EUNSUPPORTED, "model.type: found Unigram, supported is BPE");
}

/* A model without type is BPE by its members; a Unigram model has a list in place of the object. */
static void a_model_without_type_is_known_by_its_members(void **state)
{
    (void)state;
    static const char BPE[] =
        "{\"pre_tokenizer\":" TOY_GPT2 ",\"model\":{\"vocab\":" TOY_VOCAB ",\"merges\":[\"a b\",\"ab c\"]}}";
    static const char UNIGRAM[] = "{\"model\":{\"unk_id\":0,\"vocab\":[[\"a\",-1.5]]}}";
    rb_error err = {0};
    tokenizer *t;
    assert_ok(tokenizer_open_text(&t, BPE, sizeof BPE - 1, "no-type", &err));
    EXPECT(t, "abcb", 7, 1);
    tokenizer_close(t);
    assert_fails(tokenizer_open_text(&t, UNIGRAM, sizeof UNIGRAM - 1, "no-type", &err), RB_EUNSUPPORTED,
                 "no-type: model: found no type and no vocab with merges");
}

static void truncation_and_padding_change_no_ids(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){.truncation = "{\"direction\":\"Right\",\"max_length\":2,\"stride\":0}",
                                  .padding = "{\"strategy\":{\"Fixed\":8},\"pad_id\":0}"});
    EXPECT(t, "cccab", 2, 2, 2, 5);
    tokenizer_close(t);
}

static void added_tokens_are_short(void **state)
{
    enum { LONGEST = 512 };
    char content[LONGEST + 2], added[LONGEST + 200];
    rb_error err = {0};
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        tokenizer *t = NULL;
        memset(content, 'a', sizeof content);
        content[LONGEST + extra] = '\0';
        snprintf(added, sizeof added,
                 "[{\"id\":9,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                 "\"normalized\":false}]",
                 content);
        const char *path = toy_file(&(toy){.added = added});
        if (extra == 0) assert_ok(tokenizer_open(&t, path, &err));
        else
            assert_fails(tokenizer_open(&t, path, &err), RB_EUNSUPPORTED,
                         "added_tokens[0].content: found 513 bytes, supported are 512");
        tokenizer_close(t);
    }
}

static void contradictions_are_named(void **state)
{
    (void)state;
    static const refusal CASES[] = {
        {{.vocab = "{}"}, RB_EFORMAT, "model.vocab: found no tokens"},
        {{.vocab = "{\"a\":0,\"b\":1}", .merges = "[\"a b\"]"},
         RB_EFORMAT,
         "model.merges[0]: \"ab\" is not in the vocabulary"},
        {{.vocab = "{\"a\":0,\"b\":1,\"ab\":1}", .merges = "[\"a b\"]"}, RB_EFORMAT, "two tokens have id 1"},
        {{.vocab = "{\"a\":0.5}"}, RB_EFORMAT, "the id of \"a\" is no whole number"},
        {{.vocab = "{\"a\":-1}"}, RB_EFORMAT, "the id of \"a\" is no whole number"},
        {{.vocab = "{\"a\":16777216}"}, RB_EFORMAT, "from 0 to 16777215"},
        {{.vocab = "{\"a\":\"0\"}"}, RB_EFORMAT, "the id of \"a\""},
        {{.vocab = "[1]"}, RB_EFORMAT, "vocab"},
        {{.merges = "[]"}, RB_EFORMAT, "model.merges: found none"},
        {{.merges = "{}"}, RB_EFORMAT, "merges"},
        {{.merges = "[\"a q\"]"}, RB_EFORMAT, "model.merges[0]: \"q\" is not in the vocabulary"},
        {{.merges = "[\"a b\",\"q a\"]"}, RB_EFORMAT, "model.merges[1]: \"q\" is not in the vocabulary"},
        {{.merges = "[\"ab\"]"}, RB_EFORMAT, "expected two tokens with one space between"},
        {{.merges = "[\"a b c\"]"}, RB_EFORMAT, "expected two tokens with one space between"},
        {{.merges = "[[\"a\"]]"}, RB_EFORMAT, "an array of two strings"},
        {{.merges = "[[\"a\",\"b\",\"c\"]]"}, RB_EFORMAT, "an array of two strings"},
        {{.merges = "[[\"a\",1]]"}, RB_EFORMAT, "an array of two strings"},
        {{.merges = "[7]"}, RB_EFORMAT, "a string or an array of two strings"},
        {{.added = "[" ADDED(12, "<x>", false, false, false, false) "]"},
         RB_EFORMAT,
         "\"<x>\" has id 12, expected the next one"},
        {{.added = "[" ADDED(9, "ab", false, false, false, false) "]"},
         RB_EFORMAT,
         "\"ab\" has id 9, but in model.vocab 5"},
        {{.added =
              "[" ADDED(9, "<x>", false, false, false, false) "," ADDED(10, "<x>", false, false, false, false) "]"},
         RB_EFORMAT,
         "\"<x>\" is the content of added_tokens[0]"},
        {{.normalizer = "{\"type\":\"NFC\"}",
          .added = "[" ADDED(9, "e\\u0301", false, false, false, true) "," ADDED(10, "\\u00e9", false, false, false,
                                                                                 true) "]"},
         RB_EFORMAT,
         "is the normalised content of added_tokens[0]"},
        {{.vocab = "{\"a\":0,\"b\":1,\"ab\":3}",
          .merges = "[\"a b\"]",
          .added = "[" ADDED(3, "<x>", false, false, false, false) "]"},
         RB_EFORMAT,
         "\"<x>\" has id 3, which another token has"},
        {{.added = "[" ADDED(9, "", false, false, false, false) "]"}, RB_EFORMAT, "content: found an empty string"},
        {{.added = "[" ADDED(9, "\xff", false, false, false, false) "]"}, RB_EFORMAT, "invalid UTF-8"},
        {{.added = "[{\"id\":9,\"content\":\"<x>\"}]"}, RB_EFORMAT, "added_tokens[0]"},
        {{.added = "[3]"}, RB_EFORMAT, "added_tokens[0]"},
        {{.added = "null"}, RB_EFORMAT, "added_tokens"},
        {{.normalizer = "\"NFC\""}, RB_EFORMAT, "normalizer"},
        {{.normalizer = "{\"type\":7}"}, RB_EFORMAT, "normalizer"},
        {{.pre_tokenizer = "[]"}, RB_EFORMAT, "pre_tokenizer"},
        {{.pre_tokenizer = "{\"type\":\"ByteLevel\"}"}, RB_EFORMAT, "add_prefix_space"},
        {{.settings = "\"ignore_merges\":1,"}, RB_EFORMAT, "ignore_merges"},
        {{.version = "1.0"}, RB_EFORMAT, "version"},
    };
    assert_refused(CASES, RB_COUNT(CASES));
}

/* Cut anywhere, the demo file is an error, and nothing leaks (the sanitizer build watches). */
static void a_truncated_file_is_an_error(void **state)
{
    (void)state;
    rb_error err = {0};
    char *text;
    size_t length;
    tokenizer *t;
    const char *path = scratch_path("truncated.json");
    assert_ok(rb_read_file(&text, &length, DEMO, 1 << 24, &err));
    while (length > 0 && text[length - 1] != '}') length--;
    for (size_t cut = 0; cut < length; cut += length / 23 + 1) {
        assert_ok(rb_atomic_write(path, text, cut, &err));
        assert_fails(tokenizer_open(&t, path, &err), RB_EFORMAT, "truncated.json");
    }
    assert_ok(rb_atomic_write(path, text, length - 1, &err));
    assert_fails(tokenizer_open(&t, path, &err), RB_EFORMAT, "truncated.json");
    free(text);
}

static void a_missing_file_is_an_error_that_names_it(void **state)
{
    (void)state;
    rb_error err;
    tokenizer *t;
    assert_fails(tokenizer_open(&t, "/nonexistent/tokenizer.json", &err), RB_EIO, "/nonexistent/tokenizer.json");
    assert_null(t);
    tokenizer_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unsupported_components_are_named),
        cmocka_unit_test(neutral_settings_are_accepted),
        cmocka_unit_test(another_model_is_named),
        cmocka_unit_test(a_model_without_type_is_known_by_its_members),
        cmocka_unit_test(truncation_and_padding_change_no_ids),
        cmocka_unit_test(added_tokens_are_short),
        cmocka_unit_test(contradictions_are_named),
        cmocka_unit_test(a_truncated_file_is_an_error),
        cmocka_unit_test(a_missing_file_is_an_error_that_names_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
