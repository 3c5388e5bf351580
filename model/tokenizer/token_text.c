/* See token_text.h. */
#include "model/tokenizer/token_text.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

/* Bytes of the character at `bytes` when it can be shown as it is, or 0. */
static size_t printable_length(const char *bytes, size_t length)
{
    utf8proc_int32_t character;
    const utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)bytes, (utf8proc_ssize_t)length, &character);
    if (n <= 0 || character == '\\') return 0;
    switch (utf8proc_category(character)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return 0;
    default: return (size_t)n;
    }
}

void token_text_set(char text[TOKEN_TEXT_SIZE], const char *bytes, size_t length)
{
    enum { ESCAPE = 4 }; /* \xNN */
    size_t at = 0, out = 0;
    while (at < length) {
        const size_t n = printable_length(bytes + at, length - at), needed = n > 0 ? n : ESCAPE;
        if (out + needed >= TOKEN_TEXT_SIZE) break;
        if (n > 0) memcpy(text + out, bytes + at, n);
        else snprintf(text + out, ESCAPE + 1, "\\x%02x", (unsigned)(unsigned char)bytes[at]);
        at += n > 0 ? n : 1;
        out += needed;
    }
    text[out] = '\0';
}

void token_text_of(char text[TOKEN_TEXT_SIZE], const tokenizer *words, int32_t id)
{
    size_t length = 0;
    const char *bytes = tokenizer_token_bytes(words, id, &length);
    token_text_set(text, bytes ? bytes : "", length);
}
