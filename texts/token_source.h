/* Where token ids come from: a text through the model's tokenizer, or a file of ids. */
#ifndef RB_TEXTS_TOKEN_SOURCE_H
#define RB_TEXTS_TOKEN_SOURCE_H

#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/tokenizer.h"

typedef struct token_list {
    int32_t *ids; /* owned */
    int64_t n;
} token_list;

void token_list_free(token_list *list);

/* Ids of the text file `path`: at least n_wanted of them, unless the text is shorter. Only as much of the text is
 * tokenized as that takes; the ids are the first ones of the whole text. */
rb_status tokens_from_text(token_list *out, const char *path, const tokenizer *tok, int64_t n_wanted, rb_error *err);

/* Ids from a JSON list, from lines of one id each, or from little-endian int32 binary without a header. The content
 * says which of them it is; what else it may be (int64, .npy, gzip, ...) is refused by name. */
rb_status tokens_from_file(token_list *out, const char *path, rb_error *err);

/* Fails with RB_EINVAL and names the first id outside [0, vocab_size). */
rb_status tokens_check(const int32_t *ids, int64_t n, int64_t vocab_size, const char *path, rb_error *err);

/* Tokens per sequence: `wanted`, or, where that is 0, the smaller one of TOKENS_CONTEXT and the model's maximum. Fails
 * with RB_EINVAL when --context asks for more than max_position. */
enum { TOKENS_CONTEXT = 2048 };
rb_status tokens_resolve_context(int64_t *context, int64_t wanted, int64_t max_position, rb_error *err);

/* Calibration and test text must not overlap. Fails with RB_EINVAL when TOKENS_OVERLAP tokens in a row of `test` stand
 * in `calibration` too, and names both places. Shorter runs are phrases that any two texts may share. */
enum { TOKENS_OVERLAP = 128 };
rb_status tokens_check_disjoint(const int32_t *calibration, int64_t n_calibration, const int32_t *test, int64_t n_test,
                                rb_error *err);

#endif
