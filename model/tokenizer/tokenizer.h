/* tokenizer.json: byte-level BPE with the GPT-2, Qwen2 and Llama-3 pre-tokenizers. The regular expressions of the file
 * run in PCRE2 (UTF, UCP), NFC by utf8proc. Zero merges or an unsupported component (another model, normalizer,
 * pre-tokenizer) is an error. */
#ifndef RB_MODEL_TOKENIZER_TOKENIZER_H
#define RB_MODEL_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct tokenizer tokenizer;

rb_status tokenizer_open(tokenizer **out, const char *path, rb_error *err);
/* From the text of a tokenizer.json; `name` is used in messages. */
rb_status tokenizer_open_text(tokenizer **out, const char *text, size_t length, const char *name, rb_error *err);
void tokenizer_close(tokenizer *tokenizer);

/* Ids of a UTF-8 text (may hold NUL bytes), without special tokens around it; added tokens inside the text are
 * recognised as `tokenizers` does. *ids is freed by free(). Fails on invalid UTF-8, naming the byte offset. */
rb_status tokenizer_encode(const tokenizer *tokenizer, const char *text, size_t length, int32_t **ids, int64_t *n_ids,
                           rb_error *err);

/* The bytes a token stands for; NULL for an unknown id. *length receives their number. */
const char *tokenizer_token_bytes(const tokenizer *tokenizer, int32_t id, size_t *length);
int64_t tokenizer_vocab_size(const tokenizer *tokenizer); /* highest id + 1 */

#endif
