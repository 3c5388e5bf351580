/* UTF-8 and character classes by utf8proc: those of added tokens, as Rust's regex crate has them (\s and \w), and those
 * of pre-tokenizers. */
#ifndef RB_MODEL_TOKENIZER_UNICODE_TEXT_H
#define RB_MODEL_TOKENIZER_UNICODE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the longest prefix that is valid UTF-8: `length` when all of it is, else the offset of the first bad
 * sequence. */
size_t utf8_valid_prefix(const char *text, size_t length);

/* The first and the last character of a valid, non-empty text; *size receives its bytes. */
int32_t utf8_first(const char *text, size_t length, size_t *size);
int32_t utf8_last(const char *text, size_t length, size_t *size);

/* The property White_Space. */
bool unicode_is_space(int32_t character);

/* \w of Unicode TR 18: Alphabetic, Mark, Decimal_Number, Connector_Punctuation, Join_Control. */
bool unicode_is_word(int32_t character);

/* General categories Nd, Nl and No, as Rust's char::is_numeric. */
bool unicode_is_numeric(int32_t character);

/* General categories P*, and all of ASCII's punctuation and symbols. */
bool unicode_is_punctuation(int32_t character);

#endif
