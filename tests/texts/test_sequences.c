/* Sequences with beginning-of-text tokens, by hand; and where a model keeps those tokens. */
#include "tests/test_support.h"

#include <sys/stat.h>

#include "core/atomic_file.h"
#include "model/model_tokenizer.h"
#include "texts/sequences.h"

/* ---- laying out ------------------------------------------------------------------------------ */

static void assert_layout(bos_mode mode, int n_bos, int64_t n_tokens, const char *expected)
{
    static const char TEXT[] = "abcdefghijklmnop";
    const text_bos bos = {.mode = mode, .tokens = {.n = n_bos, .ids = {'B', 'C'}}};
    int32_t text[sizeof TEXT], ids[32];
    char found[33];
    for (size_t i = 0; i < sizeof TEXT; i++) text[i] = TEXT[i];
    sequences_fill(ids, n_tokens, 4, &bos, text);
    for (int64_t i = 0; i < n_tokens; i++) found[i] = (char)ids[i];
    found[n_tokens] = '\0';
    assert_string_equal(found, expected);
    /* Both counts agree with what was laid out. */
    int64_t n_own = 0;
    for (int64_t i = 0; i < n_tokens; i++) n_own += expected[i] >= 'a';
    assert_int_equal(sequences_text_tokens(&bos, n_tokens, 4), n_own);
    if (n_tokens > 0 && expected[n_tokens - 1] >= 'a') assert_int_equal(sequences_tokens_of(&bos, n_own, 4), n_tokens);
}

static void beginnings_stand_in_front_of_every_sequence_of_the_text_or_of_none(void **state)
{
    (void)state;
    assert_layout(BOS_SEQUENCE, 1, 11, "BabcBdefBgh");
    assert_layout(BOS_TEXT, 1, 11, "Babcdefghij");
    assert_layout(BOS_NONE, 0, 11, "abcdefghijk");
    assert_layout(BOS_SEQUENCE, 2, 11, "BCabBCcdBCe");
    assert_layout(BOS_SEQUENCE, 2, 9, "BCabBCcdB"); /* a last sequence that only begins */
    assert_layout(BOS_SEQUENCE, 1, 4, "Babc");
    assert_layout(BOS_SEQUENCE, 1, 0, "");
}

/* ---- which tokens ---------------------------------------------------------------------------- */

#define VOCAB "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<s>\":3},\"merges\":[\"a b\"]}"
#define TEMPLATE                                                                                                       \
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"g\",\"type_id\":0}}," \
    "{\"SpecialToken\":{\"id\":\"s\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":" \
    "{\"g\":{\"id\":\"g\",\"ids\":[1],\"tokens\":[\"g\"]},\"s\":{\"id\":\"s\",\"ids\":[3],\"tokens\":[\"s\"]}}},"

/* A model folder with these files; NULL: not there. */
static const char *model_folder(const char *tokenizer_json, const char *tokenizer_config, const char *config)
{
    static const char *const NAMES[] = {"tokenizer.json", "tokenizer_config.json", "config.json"};
    static char folder[1024];
    const char *const texts[] = {tokenizer_json, tokenizer_config, config};
    rb_error err = {0};
    snprintf(folder, sizeof folder, "%s", scratch_path("model"));
    mkdir(folder, 0777);
    for (size_t i = 0; i < RB_COUNT(NAMES); i++) {
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", folder, NAMES[i]);
        remove(path);
        if (texts[i]) assert_ok(rb_atomic_write(path, texts[i], strlen(texts[i]), &err));
    }
    return folder;
}

static rb_status choose(text_bos *out, bos_choice choice, bool is_ids, const char *folder, rb_error *err)
{
    tokenizer *tok = NULL;
    rb_status st = RB_OK;
    if (tokenizer_is_there(folder)) RB_TRY(st, tokenizer_open_model(&tok, folder, err), done);
    st = sequences_choose_bos(out, choice, is_ids, folder, tok, 8, 4, err);
done:
    tokenizer_close(tok);
    return st;
}

static void assert_chosen(bos_choice choice, bool is_ids, const char *folder, bos_mode mode, int n, int32_t last)
{
    rb_error err = {0};
    text_bos bos;
    assert_ok(choose(&bos, choice, is_ids, folder, &err));
    assert_int_equal(bos.mode, mode);
    assert_int_equal(bos.tokens.n, n);
    if (n > 0) assert_int_equal(bos.tokens.ids[n - 1], last);
}

static void the_post_processor_decides_where_nothing_is_asked_for(void **state)
{
    (void)state;
    const char *folder = model_folder("{" TEMPLATE VOCAB "}", NULL, "{\"bos_token_id\":2}");
    assert_chosen(BOS_CHOICE_AUTO, false, folder, BOS_SEQUENCE, 2, 3);
    assert_chosen(BOS_CHOICE_AUTO, true, folder, BOS_NONE, 0, 0); /* ids are as they are */
    assert_chosen(BOS_CHOICE_SEQUENCE, true, folder, BOS_SEQUENCE, 2, 3);
    assert_chosen(BOS_CHOICE_TEXT, false, folder, BOS_TEXT, 2, 3);
    assert_chosen(BOS_CHOICE_NONE, false, folder, BOS_NONE, 0, 0);
}

static void tokenizer_config_adds_a_token_where_the_post_processor_does_not(void **state)
{
    (void)state;
    const char *folder = model_folder("{" VOCAB "}", "{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"}}",
                                      "{\"bos_token_id\":2}");
    assert_chosen(BOS_CHOICE_AUTO, false, folder, BOS_SEQUENCE, 1, 3);
    folder = model_folder("{" VOCAB "}", "{\"bos_token\":\"<s>\"}", "{\"bos_token_id\":2}");
    assert_chosen(BOS_CHOICE_AUTO, false, folder, BOS_NONE, 0, 0);
    assert_chosen(BOS_CHOICE_SEQUENCE, false, folder, BOS_SEQUENCE, 1, 3);
    folder = model_folder("{" VOCAB "}", "{\"add_bos_token\":true,\"bos_token\":\"<t>\"}", "{\"bos_token_id\":2}");
    assert_chosen(BOS_CHOICE_AUTO, false, folder, BOS_NONE, 0, 0); /* a token that is not in the vocabulary */
    assert_chosen(BOS_CHOICE_TEXT, false, folder, BOS_TEXT, 1, 2); /* of config.json */
}

static void ids_begin_as_config_says_where_there_is_no_tokenizer(void **state)
{
    (void)state;
    assert_chosen(BOS_CHOICE_SEQUENCE, true, model_folder(NULL, NULL, "{\"bos_token_id\":2}"), BOS_SEQUENCE, 1, 2);
}

static void a_beginning_that_the_model_does_not_have_is_refused(void **state)
{
    (void)state;
    rb_error err;
    text_bos bos;
    const char *folder = model_folder("{" VOCAB "}", NULL, "{\"bos_token_id\":null}");
    assert_fails(choose(&bos, BOS_CHOICE_SEQUENCE, false, folder, &err), RB_EINVAL,
                 "model names no beginning-of-text token");
    folder = model_folder("{" VOCAB "}", NULL, "{\"bos_token_id\":4}");
    assert_fails(choose(&bos, BOS_CHOICE_TEXT, false, folder, &err), RB_EINVAL, "below the model's vocabulary of 4");
    folder = model_folder("{" TEMPLATE VOCAB "}", NULL, NULL);
    assert_fails(sequences_choose_bos(&bos, BOS_CHOICE_SEQUENCE, true, folder, NULL, 8, 4, &err), RB_EINVAL,
                 "names no");
    tokenizer *tok;
    memset(&err, 0, sizeof err);
    assert_ok(tokenizer_open_model(&tok, folder, &err));
    assert_fails(sequences_choose_bos(&bos, BOS_CHOICE_AUTO, false, folder, tok, 2, 4, &err), RB_EINVAL,
                 "--context is 2, expected more than the 2");
    tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beginnings_stand_in_front_of_every_sequence_of_the_text_or_of_none),
        cmocka_unit_test(the_post_processor_decides_where_nothing_is_asked_for),
        cmocka_unit_test(tokenizer_config_adds_a_token_where_the_post_processor_does_not),
        cmocka_unit_test(ids_begin_as_config_says_where_there_is_no_tokenizer),
        cmocka_unit_test(a_beginning_that_the_model_does_not_have_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
