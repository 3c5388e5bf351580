/* Calibration ids: shares of several texts, needle documents in place of plain sequences, and a test text that stays
 * what it is. */
#include "tests/test_support.h"

#include "calibrate/calibration_text.h"
#include "core/atomic_file.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/texts/folder_tokens.h"
#include "texts/sequences.h"

#define DEMO    "configs/demo-llama"
#define TEXT    "configs/demo-text/calibration.txt"
#define HELDOUT "configs/demo-text/heldout.txt"
enum { CONTEXT = 256, VOCABULARY = 4096, N_TEST = 300 };

static calibrate_options demo_options(int64_t n_tokens)
{
    return (calibrate_options){.model = DEMO,
                               .n_tokens = n_tokens,
                               .test_text = HELDOUT,
                               .needle_share = 0.25,
                               .needle_template = "secret-number",
                               .texts = {.n = 1, .at = {TEXT}}};
}

static calibration_text load(const calibrate_options *options)
{
    rb_error err = {0};
    calibration_text text;
    assert_ok(calibration_text_load(&text, options, N_TEST, CONTEXT, VOCABULARY, &err));
    assert_int_equal(text.tokens.n, options->n_tokens + N_TEST);
    return text;
}

static void assert_starts_with(const int32_t *ids, int64_t n, const char *path)
{
    rb_error err = {0};
    token_list expected;
    assert_ok(folder_tokens(&expected, path, DEMO, n, &err));
    assert_memory_equal(ids, expected.ids, (size_t)n * sizeof *ids);
    token_list_free(&expected);
}

/* ---- shares ---------------------------------------------------------------------------------- */

static void assert_shares(const double *weights, int n_texts, int64_t n_sequences, const int64_t *expected)
{
    int64_t shares[4];
    calibration_shares(shares, weights, n_texts, n_sequences);
    for (int i = 0; i < n_texts; i++)
        if (shares[i] != expected[i])
            fail_msg("text %d gets %lld sequences, expected %lld", i, (long long)shares[i], (long long)expected[i]);
}

static void shares_follow_the_weights_by_largest_remainders(void **state)
{
    (void)state;
    assert_shares((const double[]){1, 1}, 2, 8, (const int64_t[]){4, 4});
    assert_shares((const double[]){1, 3}, 2, 8, (const int64_t[]){2, 6});
    assert_shares((const double[]){1, 1, 1}, 3, 8,
                  (const int64_t[]){3, 3, 2}); /* 2.67 each: two go to the first of equals */
    assert_shares((const double[]){5, 2, 1}, 3, 9, (const int64_t[]){6, 2, 1}); /* 5.625, 2.25, 1.125 */
    assert_shares((const double[]){0.5}, 1, 3, (const int64_t[]){3});
}

static void every_text_gets_a_sequence(void **state)
{
    (void)state;
    assert_shares((const double[]){1000, 1, 1}, 3, 4, (const int64_t[]){2, 1, 1});
    assert_shares((const double[]){1000, 1, 1}, 3, 3, (const int64_t[]){1, 1, 1});
    assert_shares(
        (const double[]){50, 50, 1, 1}, 4, 5,
        (const int64_t[]){2, 1, 1, 1}); /* 2.45, 2.45, 0.05, 0.05: the second pays for what the small ones got */
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void one_text_is_its_first_tokens(void **state)
{
    (void)state;
    const calibrate_options options = demo_options(700);
    calibration_text text = load(&options);
    assert_starts_with(text.tokens.ids, 700, TEXT);
    assert_starts_with(text.tokens.ids + 700, N_TEST, HELDOUT);
    assert_int_equal(text.n_parts, 1);
    assert_int_equal(text.parts[0].n_tokens, 700);
    assert_int_equal(text.n_needles, 0);
    calibration_text_free(&text);
}

static void the_tokens_behind_the_calibration_tokens_are_the_test_text_where_none_is_given(void **state)
{
    (void)state;
    calibrate_options options = demo_options(700);
    options.test_text = NULL;
    calibration_text text = load(&options);
    assert_starts_with(text.tokens.ids, 700 + N_TEST, TEXT);
    assert_int_equal(text.parts[0].n_tokens, 700);
    calibration_text_free(&text);
}

/* The second half of the lines of the heldout text, under a name with a comma and a colon. */
static const char *second_half_of_heldout(void)
{
    rb_error err = {0};
    char *bytes;
    size_t size;
    const char *path = scratch_path("second, half:2");
    assert_ok(rb_read_file(&bytes, &size, HELDOUT, 1 << 20, &err));
    const char *half = strchr(bytes + size / 2, '\n') + 1;
    assert_ok(rb_atomic_write(path, half, size - (size_t)(half - bytes), &err));
    free(bytes);
    return path;
}

static void several_texts_give_whole_sequences_but_for_the_last(void **state)
{
    (void)state;
    calibrate_options options = demo_options(1100); /* 5 sequences, the last of 76 */
    char weighted[512];
    const char *second = second_half_of_heldout();
    snprintf(weighted, sizeof weighted, "%s:1.5", second);
    options.texts = (rb_string_list){.n = 2, .at = {TEXT, weighted}};
    calibration_text text = load(&options);
    assert_int_equal(text.n_parts, 2);
    assert_string_equal(text.parts[1].path, second);
    assert_true(text.parts[1].weight == 1.5);
    assert_int_equal(text.parts[0].n_tokens, 2 * CONTEXT);
    assert_int_equal(text.parts[1].n_tokens, 2 * CONTEXT + 76);
    assert_starts_with(text.tokens.ids, 2 * CONTEXT, TEXT);
    assert_starts_with(text.tokens.ids + 2 * CONTEXT, 2 * CONTEXT + 76, second);
    assert_starts_with(text.tokens.ids + 1100, N_TEST, HELDOUT);
    calibration_text_free(&text);
}

static void texts_that_cannot_be_had_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    calibration_text text;
    calibrate_options options = demo_options(500);
    options.texts = (rb_string_list){.n = 3, .at = {TEXT, TEXT, TEXT}};
    assert_fails(calibration_text_load(&text, &options, N_TEST, CONTEXT, VOCABULARY, &err), RB_EINVAL,
                 "500 calibration tokens are 2 sequences of 256, expected at least one for each of the 3 texts");
    calibration_text_free(&text);
    options.texts = (rb_string_list){.n = 2, .at = {TEXT, "absent:2"}};
    assert_fails(calibration_text_load(&text, &options, N_TEST, CONTEXT, VOCABULARY, &err), RB_EIO, "absent");
    calibration_text_free(&text);
    options.texts = (rb_string_list){.n = 2, .at = {TEXT, "absent:-2"}};
    assert_fails(calibration_text_load(&text, &options, N_TEST, CONTEXT, VOCABULARY, &err), RB_EUSAGE,
                 "the weight is -2");
    calibration_text_free(&text);
    options.texts = (rb_string_list){.n = 2, .at = {HELDOUT, TEXT}};
    assert_fails(calibration_text_load(&text, &options, N_TEST, CONTEXT, VOCABULARY, &err), RB_EINVAL,
                 "test text repeats the calibration text");
    calibration_text_free(&text);
}

static int count_in_sequence(const tokenizer *tok, const int32_t *ids, const char *phrase)
{
    char text[16 * CONTEXT];
    size_t n = 0;
    int count = 0;
    for (int t = 0; t < CONTEXT; t++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(tok, ids[t], &length);
        assert_true(n + length < sizeof text);
        memcpy(text + n, bytes, length);
        n += length;
    }
    text[n] = '\0';
    for (const char *at = text; (at = strstr(at, phrase)); at++) count++;
    return count;
}

/* ---- beginning of text ----------------------------------------------------------------------- */

enum { BOS = 0 }; /* the demo model's bos_token_id; no text has it */

/* ids [n] are `expected` from token `from` on, with the token in front of every sequence, of the first, or of none. */
static void assert_begins(const int32_t *ids, int64_t n, const token_list *expected, int64_t from, bos_mode mode)
{
    for (int64_t t = 0; t < n; t++) {
        const bool is_bos = mode == BOS_SEQUENCE ? t % CONTEXT == 0 : mode == BOS_TEXT && t == 0;
        if (ids[t] != (is_bos ? BOS : expected->ids[from]))
            fail_msg("token %lld is %d, expected %d", (long long)t, ids[t], is_bos ? BOS : expected->ids[from]);
        from += !is_bos;
    }
}

static void every_sequence_or_text_begins_where_that_is_asked_for(void **state)
{
    (void)state;
    static const struct {
        bos_choice choice;
        bos_mode mode;
        int64_t n_plain; /* the calibration text's own tokens of 700: 3 sequences */
    } CASES[] = {
        {BOS_CHOICE_SEQUENCE, BOS_SEQUENCE, 697}, {BOS_CHOICE_TEXT, BOS_TEXT, 699}, {BOS_CHOICE_AUTO, BOS_NONE, 700}};
    rb_error err = {0};
    token_list expected;
    assert_ok(folder_tokens(&expected, TEXT, DEMO, 1500, &err));
    for (size_t i = 0; i < RB_COUNT(CASES); i++) {
        calibrate_options options = demo_options(700);
        options.bos = CASES[i].choice;
        options.test_text = NULL; /* what follows the calibration tokens */
        calibration_text text = load(&options);
        assert_int_equal(text.bos[CAPTURE_CALIBRATION].mode, CASES[i].mode);
        assert_int_equal(text.bos[CAPTURE_TEST].mode, CASES[i].mode);
        assert_begins(text.tokens.ids, 700, &expected, 0, CASES[i].mode);
        assert_begins(text.tokens.ids + 700, N_TEST, &expected, CASES[i].n_plain, CASES[i].mode);
        calibration_text_free(&text);
    }
    token_list_free(&expected);
}

static void ids_of_a_file_begin_only_where_that_is_asked_for(void **state)
{
    (void)state;
    enum { N = 1100 };
    rb_error err = {0};
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = 1 + i;
    const token_list expected = {ids, N};
    const char *path = scratch_path("bos-ids.bin");
    assert_ok(rb_atomic_write(path, ids, sizeof ids, &err));
    calibrate_options options = {.model = DEMO, .n_tokens = 700, .tokens = path};
    calibration_text text = load(&options);
    assert_int_equal(text.bos[CAPTURE_CALIBRATION].mode, BOS_NONE);
    assert_begins(text.tokens.ids, 700, &expected, 0, BOS_NONE);
    calibration_text_free(&text);
    options.bos = BOS_CHOICE_SEQUENCE;
    text = load(&options);
    assert_int_equal(text.bos[CAPTURE_CALIBRATION].mode, BOS_SEQUENCE);
    assert_begins(text.tokens.ids, 700, &expected, 0, BOS_SEQUENCE);
    assert_begins(text.tokens.ids + 700, N_TEST, &expected, 697, BOS_SEQUENCE);
    calibration_text_free(&text);
}

/* Tokens in front of sequences cut a repeated text into runs that are shorter than those that are looked for, at other
 * places in the two texts where one begins later. */
static void an_overlap_is_found_between_the_beginnings(void **state)
{
    (void)state;
    rb_error err = {0};
    calibration_text text;
    calibrate_options options = demo_options(500);
    char *all;
    size_t length;
    const char *later = scratch_path("later.txt");
    assert_ok(rb_read_file(&all, &length, TEXT, 1 << 20, &err));
    const char *from = strchr(all + 200, ' ');
    assert_ok(rb_atomic_write(later, from, length - (size_t)(from - all), &err));
    free(all);
    options.test_text = later;
    options.bos = BOS_CHOICE_SEQUENCE;
    assert_fails(calibration_text_load(&text, &options, N_TEST, 100, VOCABULARY, &err), RB_EINVAL,
                 "test text repeats the calibration text");
    calibration_text_free(&text);
}

static void needle_documents_begin_as_their_sequences_do(void **state)
{
    (void)state;
    rb_error err = {0};
    calibrate_options options = demo_options(4 * CONTEXT);
    options.bos = BOS_CHOICE_SEQUENCE;
    options.with_needles = true;
    options.needle_share = 1;
    calibration_text text = load(&options);
    tokenizer *tok;
    assert_ok(tokenizer_open(&tok, DEMO "/tokenizer.json", &err));
    assert_int_equal(text.n_needles, 4);
    for (int sequence = 0; sequence < 4; sequence++) {
        assert_int_equal(text.tokens.ids[sequence * CONTEXT], BOS);
        assert_true(count_in_sequence(tok, text.tokens.ids + sequence * CONTEXT, "\nQuestion: What") >= 1);
        for (int t = 1; t < CONTEXT; t++) assert_int_not_equal(text.tokens.ids[sequence * CONTEXT + t], BOS);
    }
    tokenizer_close(tok);
    calibration_text_free(&text);
}

/* ---- needles --------------------------------------------------------------------------------- */

static void a_share_of_the_sequences_becomes_needle_documents_and_the_rest_stays(void **state)
{
    (void)state;
    enum { N_SEQUENCES = 12 };
    rb_error err = {0};
    calibrate_options options = demo_options(N_SEQUENCES * CONTEXT);
    calibration_text plain = load(&options);
    options.with_needles = true;
    options.needle_share = 0.5;
    calibration_text needles = load(&options), again = load(&options);
    tokenizer *tok;
    int n_documents = 0, n_statements[N_SEQUENCES / 2];
    assert_ok(tokenizer_open(&tok, DEMO "/tokenizer.json", &err));
    for (int sequence = 0; sequence < N_SEQUENCES; sequence++) {
        const int32_t *before = plain.tokens.ids + sequence * CONTEXT, *now = needles.tokens.ids + sequence * CONTEXT;
        const int n = count_in_sequence(tok, now, "The secret number of the");
        if (n == 0) {
            assert_memory_equal(now, before, CONTEXT * sizeof *now);
            continue;
        }
        assert_true(count_in_sequence(tok, now, "\nQuestion: What") >= 1);
        n_statements[n_documents++] = n;
    }
    /* multikey, multivalue, multiquery, distractor, multi, single */
    assert_int_equal(n_documents, N_SEQUENCES / 2);
    for (int i = 0; i < n_documents; i++) assert_int_equal(n_statements[i], ((const int[]){4, 2, 4, 4, 4, 1})[i]);
    assert_int_equal(needles.n_needles, n_documents);
    assert_memory_equal(needles.tokens.ids + options.n_tokens, plain.tokens.ids + options.n_tokens,
                        N_TEST * sizeof *plain.tokens.ids);
    assert_memory_equal(needles.tokens.ids, again.tokens.ids, (size_t)needles.tokens.n * sizeof *needles.tokens.ids);
    tokenizer_close(tok);
    calibration_text_free(&plain);
    calibration_text_free(&needles);
    calibration_text_free(&again);
}

static int64_t needles_of(int64_t n_tokens, double share)
{
    calibrate_options options = demo_options(n_tokens);
    options.with_needles = true;
    options.needle_share = share;
    calibration_text text = load(&options);
    const int64_t n = text.n_needles;
    calibration_text_free(&text);
    return n;
}

static void one_sequence_at_least_and_whole_ones_where_there_are_any(void **state)
{
    (void)state;
    assert_int_equal(needles_of(8 * CONTEXT, 0.25), 2);
    assert_int_equal(needles_of(8 * CONTEXT, 0.0), 1);
    assert_int_equal(needles_of(2 * CONTEXT + 10, 1.0), 2); /* 10 tokens hold no needles */
    assert_int_equal(needles_of(CONTEXT - 10, 0.25), 1);    /* no whole one: the only one */
}

static void the_overlap_is_sought_in_the_texts_and_not_only_between_needles(void **state)
{
    (void)state;
    rb_error err = {0};
    calibration_text text;
    calibrate_options options = demo_options(CONTEXT);
    options.with_needles = true;
    options.texts.at[0] = HELDOUT;
    assert_fails(calibration_text_load(&text, &options, N_TEST, CONTEXT, VOCABULARY, &err), RB_EINVAL,
                 "calibration token 0");
    calibration_text_free(&text);
}

static void sequences_too_short_for_needles_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    calibration_text text;
    calibrate_options options = demo_options(256);
    options.with_needles = true;
    assert_fails(calibration_text_load(&text, &options, N_TEST, 64, VOCABULARY, &err), RB_EINVAL,
                 "--with-needles: a context of 64 tokens is too small for task multikey");
    calibration_text_free(&text);
    options.needle_template = "absent";
    assert_fails(calibration_text_load(&text, &options, N_TEST, CONTEXT, VOCABULARY, &err), RB_EINVAL,
                 "needle template is 'absent'");
    calibration_text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_follow_the_weights_by_largest_remainders),
        cmocka_unit_test(every_text_gets_a_sequence),
        cmocka_unit_test(one_text_is_its_first_tokens),
        cmocka_unit_test(the_tokens_behind_the_calibration_tokens_are_the_test_text_where_none_is_given),
        cmocka_unit_test(several_texts_give_whole_sequences_but_for_the_last),
        cmocka_unit_test(texts_that_cannot_be_had_are_refused),
        cmocka_unit_test(every_sequence_or_text_begins_where_that_is_asked_for),
        cmocka_unit_test(ids_of_a_file_begin_only_where_that_is_asked_for),
        cmocka_unit_test(an_overlap_is_found_between_the_beginnings),
        cmocka_unit_test(needle_documents_begin_as_their_sequences_do),
        cmocka_unit_test(a_share_of_the_sequences_becomes_needle_documents_and_the_rest_stays),
        cmocka_unit_test(one_sequence_at_least_and_whole_ones_where_there_are_any),
        cmocka_unit_test(the_overlap_is_sought_in_the_texts_and_not_only_between_needles),
        cmocka_unit_test(sequences_too_short_for_needles_are_refused),
    };
    return cmocka_run_group_tests_name("calibration_text", tests, NULL, NULL);
}
