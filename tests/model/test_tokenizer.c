/* Token ids against the `tokenizers` library (vectors.json, and a few of its texts copied here), and against hand
 * counts on toy tokenizers. */
#include "tests/model/toy_tokenizer.h"

#include <time.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "model/tokenizer/unicode_text.h"

#define DEMO "configs/demo-llama/tokenizer.json"

/* ---- helpers --------------------------------------------------------------------------------- */

/* The bytes of all tokens, one after the other, are the text. */
static void assert_spells(const tokenizer *t, const char *text, size_t length)
{
    rb_error err = {0};
    int32_t *ids;
    int64_t n_ids;
    size_t at = 0;
    assert_ok(tokenizer_encode(t, text, length, &ids, &n_ids, &err));
    for (int64_t i = 0; i < n_ids; i++) {
        size_t size = 0;
        const char *bytes = tokenizer_token_bytes(t, ids[i], &size);
        assert_non_null(bytes);
        assert_true(size <= length - at);
        assert_memory_equal(bytes, text + at, size);
        at += size;
    }
    assert_int_equal(at, length);
    free(ids);
}

static int32_t *read_ids(const cJSON *array, int64_t *n)
{
    rb_error err = {0};
    int32_t *ids;
    const cJSON *item;
    *n = 0;
    assert_ok(rb_alloc(&ids, (size_t)cJSON_GetArraySize(array), sizeof *ids, "expected ids", &err));
    cJSON_ArrayForEach (item, array) ids[(*n)++] = item->valueint;
    return ids;
}

/* ---- the library's ids ----------------------------------------------------------------------- */

static void demo_tokenizer_gives_the_ids_of_the_tokenizers_library(void **state)
{
    (void)state;
    tokenizer *t = open_ok(DEMO);
    EXPECT(t, "Hello world", 1315, 300, 79, 1661);
    EXPECT(t, "  two  spaces\tand\ttabs \n\n\nnewlines\r\nCRLF \r lone", 221, 798, 221, 775, 1560, 198, 380, 198, 84,
           360, 83, 221, 828, 199, 3377, 3257, 202, 199, 35, 2867, 38, 221, 202, 305, 604);
    EXPECT(t, "I'm you're WE'LL they'D it's  'tis", 41, 2473, 356, 1930, 422, 37, 7, 3368, 541, 7, 36, 341, 447, 221,
           601, 84, 271);
    EXPECT(t, "<|endoftext|>text<|im_start|>user<|im_end|>", 0, 84, 825, 28, 92, 320, 63, 319, 471, 92, 30, 302, 264,
           28, 92, 320, 63, 712, 92, 30);
    EXPECT(t, "\xf0\x9d\x95\xb3\xf0\x9d\x96\x8a\xf0\x9d\x96\x91\xf0\x9d\x96\x91\xf0\x9d\x96\x94 \xf0\x90\x8d\x88", 173,
           252, 244, 112, 173, 252, 245, 233, 173, 252, 245, 240, 173, 252, 245, 240, 173, 252, 245, 243, 221, 173, 239,
           236, 231);
    assert_ids(t, "", 0, NULL, 0);
    assert_int_equal(tokenizer_vocab_size(t), 4096);
    tokenizer_close(t);
}

/* core/json.h refuses the escape of U+0000, which one text has: U+E000, which no text has, stands in for it. */
static cJSON *read_vectors(const char *path)
{
    rb_error err = {0};
    cJSON *document;
    char *json, *at;
    size_t length;
    assert_ok(rb_read_file(&json, &length, path, 1 << 24, &err));
    assert_null(strstr(json, "\\ue000"));
    assert_null(strstr(json, "\xee\x80\x80"));
    for (at = strstr(json, "\\u0000"); at; at = strstr(at, "\\u0000")) memcpy(at, "\\ue000", 6);
    assert_ok(rb_json_parse(&document, json, length, path, &err));
    free(json);
    return document;
}

static size_t restore_nul(char *text)
{
    char *out = text;
    for (const char *at = text; *at;) {
        const bool is_nul = strncmp(at, "\xee\x80\x80", 3) == 0;
        *out++ = is_nul ? '\0' : *at;
        at += is_nul ? 3 : 1;
    }
    return (size_t)(out - text);
}

static void compare_with_vectors(const char *name, const char *path)
{
    SHARED_OR_SKIP(vectors, "tokenizers/vectors.json");
    cJSON *document = read_vectors(vectors);
    const cJSON *item;
    tokenizer *t = open_ok(path);
    int n_texts = 0;
    cJSON_ArrayForEach (item, rb_json_find(document, name)) {
        char *text = rb_json_find(item, "text")->valuestring;
        const size_t length = restore_nul(text);
        int64_t n;
        int32_t *ids = read_ids(rb_json_find(item, "ids"), &n);
        assert_ids(t, text, length, ids, n);
        free(ids);
        n_texts++;
    }
    assert_int_equal(n_texts, 21);
    cJSON_Delete(document);
    tokenizer_close(t);
}

static void every_vector_of_demo_llama_is_met(void **state)
{
    (void)state;
    compare_with_vectors("demo-llama", DEMO);
}

static void every_vector_of_small_llama3_is_met(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "models/small-llama3/tokenizer.json");
    compare_with_vectors("small-llama3", path);
}

static void every_vector_of_small_qwen2_is_met(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "models/small-qwen2/tokenizer.json");
    compare_with_vectors("small-qwen2", path);
}

static void every_vector_of_pythia_is_met(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "tokenizers/pythia/tokenizer.json");
    compare_with_vectors("pythia", path);
}

static void every_vector_of_phi3_is_met(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "tokenizers/phi3-mini/tokenizer.json");
    compare_with_vectors("phi3-mini", path);
}

/* The first 2048 ids of a text; 40000 bytes of it hold more than that, and a cut UTF-8 character at their end is left
 * off. */
static void compare_first_ids(const tokenizer *t, const char *text_path, const cJSON *expected)
{
    rb_error err = {0};
    char *text;
    size_t length;
    int32_t *ids;
    int64_t n_ids, n;
    int32_t *reference = read_ids(expected, &n);
    assert_ok(rb_read_file(&text, &length, text_path, 1 << 24, &err));
    length = length < 40000 ? length : 40000;
    while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) length--;
    assert_ok(tokenizer_encode(t, text, length, &ids, &n_ids, &err));
    assert_int_equal(n, 2048);
    assert_true(n_ids >= n);
    assert_memory_equal(ids, reference, (size_t)n * sizeof *ids);
    free(ids);
    free(text);
    free(reference);
}

static void reference_runs_used_these_ids(void **state)
{
    (void)state;
    SHARED_OR_SKIP(calibration, "text/wt2_valid.txt");
    SHARED_OR_SKIP(test, "text/wt2_test.txt");
    static const char *const NAMES[] = {"demo-llama", "small-llama3", "small-qwen2"};
    for (size_t i = 0; i < RB_COUNT(NAMES); i++) {
        rb_error err = {0};
        char name[64];
        cJSON *reference;
        snprintf(name, sizeof name, "models/%s/tokenizer.json", NAMES[i]);
        SHARED_OR_SKIP(path, name);
        snprintf(name, sizeof name, "reference/%s.json", NAMES[i]);
        SHARED_OR_SKIP(reference_path, name);
        tokenizer *t = open_ok(path);
        assert_ok(rb_json_read(&reference, reference_path, 0, &err));
        compare_first_ids(t, calibration, rb_json_find(reference, "calibration_ids"));
        compare_first_ids(t, test, rb_json_find(reference, "test_ids"));
        cJSON_Delete(reference);
        tokenizer_close(t);
    }
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void every_byte_of_a_text_is_in_its_tokens(void **state)
{
    (void)state;
    static const char NUL[] = "\0\x01\x7f\xef\xbb\xbf"
                              "BOM \0\0 end\0";
    static const char MIXED[] = "\xc3\xa9t\xc3\xa9 \xe2\x80\x8b\xe3\x80\x80 \xf4\x8f\xbf\xbf <|endoftext|> x\t\t y  \n";
    tokenizer *t = open_ok(DEMO);
    assert_spells(t, NUL, sizeof NUL - 1);
    assert_spells(t, MIXED, sizeof MIXED - 1);
    tokenizer_close(t);
}

/* Every character up to U+3000 and every 257th above: all bytes that valid UTF-8 can hold. */
static void every_character_is_in_its_tokens(void **state)
{
    (void)state;
    tokenizer *t = open_ok(DEMO);
    char *text = malloc(0x110000 / 16 * 4);
    size_t n = 0;
    for (uint32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 257) {
        if (c >= 0xd800 && c < 0xe000) continue;
        if (c < 0x80) {
            text[n++] = (char)c;
        } else if (c < 0x800) {
            text[n++] = (char)(0xc0 | c >> 6);
            text[n++] = (char)(0x80 | (c & 0x3f));
        } else {
            if (c < 0x10000) text[n++] = (char)(0xe0 | c >> 12);
            else {
                text[n++] = (char)(0xf0 | c >> 18);
                text[n++] = (char)(0x80 | (c >> 12 & 0x3f));
            }
            text[n++] = (char)(0x80 | (c >> 6 & 0x3f));
            text[n++] = (char)(0x80 | (c & 0x3f));
        }
    }
    assert_spells(t, text, n);
    free(text);
    tokenizer_close(t);
}

static void token_bytes_turn_symbols_back_and_unknown_ids_have_none(void **state)
{
    (void)state;
    size_t length;
    tokenizer *t = toy_open(
        (toy){.added = "[{\"id\":9,\"content\":\"\\u0120 \",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                       "\"normalized\":false,\"special\":false}]"});
    assert_memory_equal(tokenizer_token_bytes(t, 3, &length), " ", 1);
    assert_int_equal(length, 1);
    assert_memory_equal(tokenizer_token_bytes(t, 7, &length), "abc", 3);
    assert_int_equal(length, 3);
    assert_memory_equal(tokenizer_token_bytes(t, 9, &length), "\xc4\xa0 ",
                        3); /* an added token stands for its content */
    assert_int_equal(length, 3);
    assert_null(tokenizer_token_bytes(t, 10, &length));
    assert_null(tokenizer_token_bytes(t, -1, &length));
    assert_int_equal(tokenizer_vocab_size(t), 10);
    tokenizer_close(t);
}

static void invalid_utf8_is_named_by_its_offset(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t length;
        const char *message;
    } CASES[] = {
        {"ab\xff", 3, "invalid UTF-8 at byte offset 2 (byte 0xff)"},
        {"\xc3", 1, "byte offset 0"},                     /* cut short */
        {"a\xc0\x80", 3, "byte offset 1"},                /* overlong NUL */
        {"ab\xed\xa0\x80", 5, "byte offset 2"},           /* a surrogate */
        {"\xc3\xa9\xf4\x90\x80\x80", 6, "byte offset 2"}, /* beyond U+10FFFF */
        {"abc\x80", 4, "byte offset 3"},                  /* a continuation byte alone */
    };
    tokenizer *t = open_ok(DEMO);
    for (size_t i = 0; i < RB_COUNT(CASES); i++) {
        rb_error err;
        int32_t *ids;
        int64_t n_ids;
        assert_fails(tokenizer_encode(t, CASES[i].text, CASES[i].length, &ids, &n_ids, &err), RB_EFORMAT,
                     CASES[i].message);
        assert_null(ids);
    }
    tokenizer_close(t);
}

/* ---- merging --------------------------------------------------------------------------------- */

static void lowest_rank_merges_first_and_the_leftmost_of_equals(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){0});
    EXPECT(t, "abc", 7); /* ab, then ab+c */
    EXPECT(t, "aaa", 8, 0);
    EXPECT(t, "aaaa", 8, 8);
    EXPECT(t, "aab", 0, 5); /* "a b" has rank 0, "a a" rank 3 */
    EXPECT(t, "bcabc", 6, 7);
    tokenizer_close(t);
    t = toy_open((toy){.merges = "[[\"b\",\"c\"],[\"a\",\"b\"],[\"ab\",\"c\"]]"});
    EXPECT(t, "abc", 0, 6); /* bc takes the b; no merge joins a and bc */
    EXPECT(t, "abab", 5, 5);
    tokenizer_close(t);
}

static void ignore_merges_takes_a_whole_piece_from_the_vocabulary(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){.settings = "\"ignore_merges\":true,", .merges = "[\"b c\"]"});
    EXPECT(t, "abc", 7);
    EXPECT(t, "abcc", 0, 6, 2);
    tokenizer_close(t);
    t = toy_open((toy){.settings = "\"ignore_merges\":false,", .merges = "[\"b c\"]"});
    EXPECT(t, "abc", 0, 6);
    tokenizer_close(t);
}

static void a_character_without_token_is_left_out(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){0});
    EXPECT(t, "a?b", 5); /* the pair meets */
    EXPECT(t, "?c", 2);
    assert_ids(t, "?", 1, NULL, 0);
    tokenizer_close(t);
    t = toy_open((toy){.settings = "\"unk_token\":\"<unk>\","});
    rb_error err;
    int32_t *ids;
    int64_t n_ids;
    assert_fails(tokenizer_encode(t, "ab?", 3, &ids, &n_ids, &err), RB_EFORMAT,
                 "no token for U+003F, which the text holds, and model.unk_token \"<unk>\" is not in it");
    assert_null(ids);
    tokenizer_close(t);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* 2^17 letters in one piece: a quadratic encoder would need minutes. */
static void a_long_piece_takes_no_quadratic_time(void **state)
{
    (void)state;
    enum { N = 1 << 17 };
    rb_error err = {0};
    int32_t *ids;
    int64_t n_ids;
    char *text = malloc(N);
    tokenizer *t = toy_open((toy){0});
    memset(text, 'a', N);
    const double start = seconds();
    assert_ok(tokenizer_encode(t, text, N, &ids, &n_ids, &err));
    assert_true(seconds() - start < 5);
    assert_int_equal(n_ids, N / 2);
    for (int64_t i = 0; i < n_ids; i++) assert_int_equal(ids[i], 8);
    free(ids);
    free(text);
    tokenizer_close(t);
}

/* ---- pre-tokenizers -------------------------------------------------------------------------- */

static void byte_level_without_regex_merges_across_words(void **state)
{
    (void)state;
    static const char *const VOCAB = "{\"a\":0,\"b\":1,\"\\u0120\":2,\"a\\u0120\":3}";
    tokenizer *t = toy_open((toy){.vocab = VOCAB, .merges = "[\"a \\u0120\"]", .pre_tokenizer = TOY_WHOLE});
    EXPECT(t, "a b", 3, 1);
    tokenizer_close(t);
    t = toy_open((toy){.vocab = VOCAB, .merges = "[\"a \\u0120\"]", .pre_tokenizer = TOY_GPT2});
    EXPECT(t, "a b", 0, 2, 1); /* "a", " b" */
    tokenizer_close(t);
}

static void prefix_space_goes_ahead_of_every_stretch_that_has_none(void **state)
{
    (void)state;
    tokenizer *t = toy_open(
        (toy){.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true}",
              .added = "[{\"id\":9,\"content\":\"<x>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                       "\"normalized\":false,\"special\":true}]"});
    EXPECT(t, "a", 3, 0);
    EXPECT(t, " a", 3, 0);
    EXPECT(t, "\na", 3, 4, 0);
    EXPECT(t, "<x>a<x> b", 9, 3, 0, 9, 3, 1);
    assert_ids(t, "", 0, NULL, 0);
    tokenizer_close(t);
}

static void unmatched_text_and_matches_are_pieces_alike(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){.pre_tokenizer = TOY_SPLIT("b")});
    EXPECT(t, "abcaa", 0, 1, 2, 8); /* a|b|caa: c, aa */
    tokenizer_close(t);
    t = toy_open((toy){.pre_tokenizer = TOY_SPLIT("(?=b)")}); /* an empty match cuts */
    EXPECT(t, "abcab", 0, 6, 0, 1);                           /* a|bca|b */
    tokenizer_close(t);
}

static void each_split_sees_only_the_pieces_of_the_one_before(void **state)
{
    (void)state;
#define STEP(regex) \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"Isolated\",\"invert\":false},"
    tokenizer *t = toy_open(
        (toy){.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[" STEP("a+") STEP("a(?=b)") TOY_WHOLE "]}"});
    EXPECT(t, "aab", 8, 1); /* aa|b; the look-ahead finds no b behind aa */
    tokenizer_close(t);
#undef STEP
}

static void nfc_composes_before_splitting(void **state)
{
    (void)state;
    static const char *const VOCAB =
        "{\"a\":0,\"\\u00c3\":1,\"\\u00a9\":2,\"\\u00c3\\u00a9\":3,\"e\":4,\"\\u00cc\":5,\"\\u0123\":6}";
    tokenizer *t =
        toy_open((toy){.vocab = VOCAB, .merges = "[\"\\u00c3 \\u00a9\"]", .normalizer = "{\"type\":\"NFC\"}"});
    EXPECT(t, "ae\xcc\x81", 0, 3); /* e + combining acute: U+00E9, bytes c3 a9 */
    EXPECT(t, "a\xc3\xa9", 0, 3);
    tokenizer_close(t);
    t = toy_open((toy){.vocab = VOCAB,
                       .merges = "[\"\\u00c3 \\u00a9\"]",
                       .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"});
    EXPECT(t, "e\xcc\x81", 3);
    tokenizer_close(t);
    t = toy_open((toy){.vocab = VOCAB, .merges = "[\"\\u00c3 \\u00a9\"]"});
    EXPECT(t, "e\xcc\x81", 4, 5, 6);
    tokenizer_close(t);
}

/* A group repeated 100 000 times overflows the stack of PCRE2's JIT; the interpreter, which keeps its own on the heap,
 * takes over. */
static void a_long_match_outgrows_the_jit_stack(void **state)
{
    (void)state;
    enum { N = 50000 };
    char *text = malloc(2 * N + 1);
    int32_t *expected = malloc(N * sizeof *expected);
    for (int i = 0; i < N; i++) {
        memcpy(text + 2 * i, "ab", 2);
        expected[i] = i + 1 < N ? 5 : 7;
    }
    text[2 * N] = 'c';
    tokenizer *t = toy_open((toy){.pre_tokenizer = TOY_SPLIT("(a|b)*c")});
    assert_ids(t, text, 2 * N + 1, expected, N);
    free(expected);
    free(text);
    tokenizer_close(t);
}

static void a_pattern_that_backtracks_without_end_is_an_error(void **state)
{
    (void)state;
    rb_error err;
    int32_t *ids;
    int64_t n_ids;
    tokenizer *t = toy_open((toy){.pre_tokenizer = TOY_SPLIT("((a+)+)+[bd]")});
    assert_fails(tokenizer_encode(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 41, &ids, &n_ids, &err),
                 RB_EUNSUPPORTED, "take more than 10008200 steps on a text of 41 bytes");
    assert_null(ids);
    tokenizer_close(t);
}

/* A pattern of 300 bytes in place of each byte, three times over, would make 27 MB of every byte. */
static void a_text_that_grows_without_end_is_an_error(void **state)
{
    enum { GROWTH = 300 };
    char content[GROWTH + 1], step[2 * GROWTH], steps[8 * GROWTH];
    rb_error err;
    int32_t *ids;
    int64_t n_ids;
    (void)state;
    memset(content, 'a', GROWTH);
    content[GROWTH] = '\0';
    snprintf(step, sizeof step, "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"%s\"}", content);
    snprintf(steps, sizeof steps, "{\"type\":\"Sequence\",\"normalizers\":[%s,%s,%s]}", step, step, step);
    tokenizer *t = toy_open((toy){.normalizer = steps});
    assert_fails(tokenizer_encode(t, "aaaa", 4, &ids, &n_ids, &err), RB_EUNSUPPORTED, "take more than 10000800 steps");
    assert_null(ids);
    tokenizer_close(t);
}

/* ---- added tokens: what the library gives for the same file ---------------------------------- */

static void the_leftmost_and_longest_added_token_wins(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){
        .added =
            "[" ADDED(9, "<", false, false, false, false) "," ADDED(10, "<<a", false, false, false, false) "," ADDED(
                11, "<a", false, false, false, false) "," ADDED(5, "ab", false, false, false, false) "]"});
    EXPECT(t, "<<a", 10);
    EXPECT(t, "<a<", 11, 9);
    EXPECT(t, "<<b<<", 9, 9, 1, 9, 9);
    EXPECT(t, "aabc", 0, 5, 2); /* found in the text ahead of any merge, so no "abc" */
    tokenizer_close(t);
}

static void a_single_word_token_has_no_word_beside_it(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){.added = "[" ADDED(5, "ab", true, false, false, false) "]", .merges = "[\"a a\"]"});
    EXPECT(t, "ab", 5);
    EXPECT(t, " ab ", 3, 5, 3);
    EXPECT(t, "abc", 0, 1, 2);
    EXPECT(t, "cab", 2, 0, 1);
    EXPECT(t, "abab\nab", 0, 1, 0, 1, 4, 5);
    tokenizer_close(t);
}

static void word_characters_are_letters_marks_digits_connectors_and_joiners(void **state)
{
    (void)state;
    static const int32_t WORD[] = {'_',    '0',    'z',    0xe9,   0x301,  0x903,   0x488,  0x663,
                                   0x2167, 0x203f, 0x200c, 0x200d, 0x24d0, 0x1f130, 0x6f22, 0xd55c};
    static const int32_t OTHER[] = {0,      ' ',    '-',    '.',     0xa0,   0xbd,   0xb2,
                                    0x180e, 0x200b, 0x24ea, 0x1f600, 0x20ac, 0xe000, 0x10ffff};
    for (size_t i = 0; i < RB_COUNT(WORD); i++) assert_true(unicode_is_word(WORD[i]));
    for (size_t i = 0; i < RB_COUNT(OTHER); i++) assert_false(unicode_is_word(OTHER[i]));
}

static void stripping_tokens_swallow_white_space(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){
        .added = "[" ADDED(9, "<l>", false, true, false, false) "," ADDED(10, "<r>", false, false, true, false) "]"});
    EXPECT(t, "a \n <l> b", 0, 9, 3, 1);
    EXPECT(t, "a <r> \xe3\x80\x80\n b", 0, 3, 10, 1);
    EXPECT(t, "<r>  <l>", 10, 9);
    EXPECT(t, "  <l>", 9);
    EXPECT(t, "<r>  ", 10);
    tokenizer_close(t);
    /* A token of white space is looked for inside what another has swallowed; nothing is left of it where it strips as
     * well. */
    t = toy_open((toy){
        .added = "[" ADDED(9, "<r>", false, false, true, false) "," ADDED(10, "\\n", false, true, true, false) "]"});
    EXPECT(t, "<r>\n\na", 9, 0);
    EXPECT(t, "b\n\na", 1, 10, 0);
    tokenizer_close(t);
    t = toy_open((toy){
        .added = "[" ADDED(9, "<r>", false, false, true, false) "," ADDED(10, "  ", false, false, false, false) "]"});
    EXPECT(t, "<r>   a", 9, 10, 3, 0);
    tokenizer_close(t);
}

static void normalized_tokens_are_found_in_normalised_text(void **state)
{
    (void)state;
    tokenizer *t = toy_open((toy){.normalizer = "{\"type\":\"NFC\"}",
                                  .added = "[" ADDED(9, "e\\u0301", false, false, false,
                                                     true) "," ADDED(10, "n\\u0303", false, false, false, false) "]"});
    EXPECT(t, "ae\xcc\x81", 0, 9);
    EXPECT(t, "a\xc3\xa9", 0, 9);
    EXPECT(t, "an\xcc\x83", 0, 10);        /* as it is */
    assert_ids(t, "\xc3\xb1", 2, NULL, 0); /* composed, it is another text, of which no byte has a token */
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(demo_tokenizer_gives_the_ids_of_the_tokenizers_library),
        cmocka_unit_test(every_vector_of_demo_llama_is_met),
        cmocka_unit_test(every_vector_of_small_llama3_is_met),
        cmocka_unit_test(every_vector_of_small_qwen2_is_met),
        cmocka_unit_test(every_vector_of_pythia_is_met),
        cmocka_unit_test(every_vector_of_phi3_is_met),
        cmocka_unit_test(reference_runs_used_these_ids),
        cmocka_unit_test(every_byte_of_a_text_is_in_its_tokens),
        cmocka_unit_test(every_character_is_in_its_tokens),
        cmocka_unit_test(token_bytes_turn_symbols_back_and_unknown_ids_have_none),
        cmocka_unit_test(invalid_utf8_is_named_by_its_offset),
        cmocka_unit_test(lowest_rank_merges_first_and_the_leftmost_of_equals),
        cmocka_unit_test(ignore_merges_takes_a_whole_piece_from_the_vocabulary),
        cmocka_unit_test(a_character_without_token_is_left_out),
        cmocka_unit_test(a_long_piece_takes_no_quadratic_time),
        cmocka_unit_test(byte_level_without_regex_merges_across_words),
        cmocka_unit_test(prefix_space_goes_ahead_of_every_stretch_that_has_none),
        cmocka_unit_test(unmatched_text_and_matches_are_pieces_alike),
        cmocka_unit_test(each_split_sees_only_the_pieces_of_the_one_before),
        cmocka_unit_test(nfc_composes_before_splitting),
        cmocka_unit_test(a_long_match_outgrows_the_jit_stack),
        cmocka_unit_test(a_pattern_that_backtracks_without_end_is_an_error),
        cmocka_unit_test(a_text_that_grows_without_end_is_an_error),
        cmocka_unit_test(the_leftmost_and_longest_added_token_wins),
        cmocka_unit_test(a_single_word_token_has_no_word_beside_it),
        cmocka_unit_test(word_characters_are_letters_marks_digits_connectors_and_joiners),
        cmocka_unit_test(stripping_tokens_swallow_white_space),
        cmocka_unit_test(normalized_tokens_are_found_in_normalised_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
