/* A token's bytes for people, as one line can show them. */
#ifndef RB_MODEL_TOKENIZER_TOKEN_TEXT_H
#define RB_MODEL_TOKENIZER_TOKEN_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "model/tokenizer/tokenizer.h"

enum { TOKEN_TEXT_SIZE = 64 };

/* What is not printable UTF-8 (half a character, a line end, a backslash) becomes \xNN. The text is cut to what `text`
 * holds. */
void token_text_set(char text[TOKEN_TEXT_SIZE], const char *bytes, size_t length);
/* The same for an id; "" for one that the tokenizer does not know. */
void token_text_of(char text[TOKEN_TEXT_SIZE], const tokenizer *words, int32_t id);

#endif
