/* Toy tokenizers: a tokenizer.json written from a few parts, and the ids it must give. */
#ifndef RB_TESTS_TOY_TOKENIZER_H
#define RB_TESTS_TOY_TOKENIZER_H

#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "model/tokenizer/tokenizer.h"

static inline tokenizer *open_ok(const char *path)
{
    rb_error err = {0};
    tokenizer *t = NULL;
    assert_ok(tokenizer_open(&t, path, &err));
    return t;
}

static inline void assert_ids(const tokenizer *t, const char *text, size_t length, const int32_t *expected,
                              int64_t n_expected)
{
    rb_error err = {0};
    int32_t *ids;
    int64_t n_ids;
    assert_ok(tokenizer_encode(t, text, length, &ids, &n_ids, &err));
    assert_non_null(ids);
    for (int64_t i = 0; i < n_ids && i < n_expected; i++)
        if (ids[i] != expected[i])
            fail_msg("\"%.60s\": token %lld is %d, expected %d", text, (long long)i, ids[i], expected[i]);
    if (n_ids != n_expected)
        fail_msg("\"%.60s\": %lld tokens, expected %lld", text, (long long)n_ids, (long long)n_expected);
    free(ids);
}

#define EXPECT(t, text, ...)                                                        \
    do {                                                                            \
        const int32_t expected_ids[] = {__VA_ARGS__};                               \
        assert_ids(t, text, sizeof text - 1, expected_ids, RB_COUNT(expected_ids)); \
    } while (0)

/* A tokenizer.json over the letters a b c, space (G with dot) and newline (C with dot). NULL members take the defaults.
 */
typedef struct toy {
    const char *version, *truncation, *padding, *added, *normalizer, *pre_tokenizer, *settings, *vocab, *merges,
        *post_processor;
} toy;

#define TOY_VOCAB "{\"a\":0,\"b\":1,\"c\":2,\"\\u0120\":3,\"\\u010a\":4,\"ab\":5,\"bc\":6,\"abc\":7,\"aa\":8}"
#define TOY_GPT2  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define TOY_WHOLE "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define TOY_SPLIT(regex)                                                                            \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}," TOY_WHOLE "]}"

static inline const char *or_default(const char *value, const char *fallback) { return value ? value : fallback; }

static inline const char *toy_file(const toy *file)
{
    rb_error err = {0};
    const char *path = scratch_path("tokenizer.json");
    char *text;
    assert_ok(rb_format(
        &text, &err,
        "{\"version\":%s,\"truncation\":%s,\"padding\":%s,\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,"
        "\"post_processor\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":%s,\"merges\":%s}}",
        or_default(file->version, "\"1.0\""), or_default(file->truncation, "null"), or_default(file->padding, "null"),
        or_default(file->added, "[]"), or_default(file->normalizer, "null"), or_default(file->pre_tokenizer, TOY_WHOLE),
        or_default(file->post_processor, "null"), or_default(file->settings, ""), or_default(file->vocab, TOY_VOCAB),
        or_default(file->merges, "[\"a b\",\"b c\",\"ab c\",\"a a\"]")));
    assert_ok(rb_atomic_write(path, text, strlen(text), &err));
    free(text);
    return path;
}

static inline tokenizer *toy_open(const toy file) { return open_ok(toy_file(&file)); }

#define ADDED(id, content, single_word, lstrip, rstrip, normalized)                                    \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":" #single_word ",\"lstrip\":" #lstrip \
    ",\"rstrip\":" #rstrip ",\"normalized\":" #normalized ",\"special\":false}"

#endif
