/* tokenizer.json: byte pair encoding with the pre-tokenizers and normalisers of the models that are supported
 * (docs/tokenizer.md). Ids are those of the `tokenizers` library. Zero merges or an unsupported component (another
 * model, normaliser, pre-tokenizer) is an error. */
#ifndef RB_MODEL_TOKENIZER_TOKENIZER_H
#define RB_MODEL_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/post_processor.h"

typedef struct tokenizer tokenizer;

rb_status tokenizer_open(tokenizer **out, const char *path, rb_error *err);
/* From the text of a tokenizer.json; `name` starts messages. */
rb_status tokenizer_open_text(tokenizer **out, const char *text, size_t length, const char *name, rb_error *err);
void tokenizer_close(tokenizer *tokenizer);

/* Ids of a UTF-8 text (may hold NUL bytes), without special tokens around it; added tokens inside the text are
 * recognised as `tokenizers` does. A character that has no token where the file names no token for unknown ones is left
 * out, as by the library; one warning says how many. *ids is freed by free(). Fails on invalid UTF-8, naming the byte
 * offset. */
rb_status tokenizer_encode(const tokenizer *tokenizer, const char *text, size_t length, int32_t **ids, int64_t *n_ids,
                           rb_error *err);

/* The bytes a token stands for; NULL for an unknown id. *length receives their number. */
const char *tokenizer_token_bytes(const tokenizer *tokenizer, int32_t id, size_t *length);
int64_t tokenizer_vocab_size(const tokenizer *tokenizer); /* highest id + 1 */

/* The id of a token by its string, in the vocabulary or among the added tokens; -1: none. */
int32_t tokenizer_find(const tokenizer *tokenizer, const char *token);

/* What the file's post-processor puts in front of a text. */
const bos_tokens *tokenizer_bos(const tokenizer *tokenizer);

#endif
