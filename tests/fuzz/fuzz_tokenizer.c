/* A tokenizer.json, and after a NUL byte a text that it encodes. What the ids stand for must be within the vocabulary.
 */
#include "tests/fuzz/json_mutator.h"

#include "model/tokenizer/tokenizer.h"

FUZZ_INITIALIZE

static void encode(const tokenizer *words, const char *text, size_t length)
{
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    rb_error err = {0};
    const rb_status st = tokenizer_encode(words, text, length, &ids, &n_ids, &err);
    fuzz_check(st, &err);
    for (int64_t i = 0; st == RB_OK && i < n_ids; i++) {
        size_t n_bytes;
        FUZZ_HOLDS(ids[i] >= 0 && ids[i] < tokenizer_vocab_size(words), &err);
        (void)tokenizer_token_bytes(words, ids[i], &n_bytes);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char sample[] = "The quick <s>brown\n fox 123, it's \xc3\xa9\xe4\xb8\xad aaaaaaaaaaaaaaaaaaaaaaaab";
    const uint8_t *nul = memchr(data, 0, size);
    const size_t length = nul ? (size_t)(nul - data) : size;
    char *text = fuzz_string(data, length);
    tokenizer *words = NULL;
    rb_error err = {0};
    const rb_status st = tokenizer_open_text(&words, text, length, "fuzz", &err);
    fuzz_check(st, &err);
    if (st == RB_OK && nul) encode(words, (const char *)nul + 1, size - length - 1);
    if (st == RB_OK) encode(words, sample, sizeof sample - 1);
    tokenizer_close(words);
    free(text);
    return 0;
}
