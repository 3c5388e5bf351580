/* The bytes every id stands for: byte-level symbols turned back, added tokens as they are. */
#ifndef RB_MODEL_TOKENIZER_TOKEN_BYTES_H
#define RB_MODEL_TOKENIZER_TOKEN_BYTES_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/vocabulary.h"

typedef struct token_bytes token_bytes;

/* Fails on an id that two tokens have. */
rb_status token_bytes_open(token_bytes **out, const vocabulary *vocabulary, const added_tokens *added, rb_error *err);
void token_bytes_close(token_bytes *table);

int32_t token_bytes_n_ids(const token_bytes *table); /* highest id + 1 */

/* NULL for an id without token. */
const char *token_bytes_at(const token_bytes *table, int32_t id, size_t *length);

#endif
