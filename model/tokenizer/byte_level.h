/* The byte-level alphabet of GPT-2: every byte is written as one printable character, so that a vocabulary of strings
 * can hold any bytes.
 *
 *   bytes 21-7e, a1-ac, ae-ff     themselves
 *   bytes 00-20                   U+0100-U+0120      (the space is U+0120, "G with dot")
 *   bytes 7f-a0                   U+0121-U+0142
 *   byte  ad                      U+0143
 *
 * Source: bytes_to_unicode in https://github.com/openai/gpt-2/blob/master/src/encoder.py, which numbers the unprintable
 * bytes in order. */
#ifndef RB_MODEL_TOKENIZER_BYTE_LEVEL_H
#define RB_MODEL_TOKENIZER_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>

enum { BYTE_LEVEL_MAX_SIZE = 2 }; /* UTF-8 bytes of the widest symbol */

/* The symbol of a byte in UTF-8; returns its size. */
size_t byte_level_symbol(unsigned char byte, char out[BYTE_LEVEL_MAX_SIZE]);

/* Bytes in symbols: out has room for BYTE_LEVEL_MAX_SIZE * length; returns the size written. */
size_t byte_level_encode(const char *bytes, size_t length, char *out);

/* Symbols back to bytes, at most `length` of them; returns false where the text has a character outside the alphabet.
 */
bool byte_level_decode(const char *text, size_t length, char *out, size_t *out_length);

#endif
