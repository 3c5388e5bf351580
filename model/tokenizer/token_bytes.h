/* The bytes every id stands for: byte-level symbols, tokens of one byte ("<0x0A>") and the sign for a space turned
 * back, added tokens as they are. */
#ifndef RB_MODEL_TOKENIZER_TOKEN_BYTES_H
#define RB_MODEL_TOKENIZER_TOKEN_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/vocabulary.h"

typedef struct token_bytes token_bytes;

/* How the vocabulary spells bytes. */
typedef struct token_spelling {
    bool is_byte_level;
    bool has_byte_tokens;   /* "<0x00>" .. "<0xFF>" */
    const char *space_sign; /* borrowed; NULL: none */
} token_spelling;

/* Fails on an id that two tokens have. */
rb_status token_bytes_open(token_bytes **out, const vocabulary *vocabulary, const added_tokens *added,
                           const token_spelling *spelling, rb_error *err);
void token_bytes_close(token_bytes *table);

int32_t token_bytes_n_ids(const token_bytes *table); /* highest id + 1 */

/* NULL for an id without token. */
const char *token_bytes_at(const token_bytes *table, int32_t id, size_t *length);

#endif
