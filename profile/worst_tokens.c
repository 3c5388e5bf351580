/* See profile/worst_tokens.h. */
#include "profile/worst_tokens.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

rb_status worst_tokens_create(worst_tokens *out, int capacity, rb_error *err)
{
    *out = (worst_tokens){.capacity = capacity};
    return rb_alloc(&out->at, (size_t)capacity, sizeof *out->at, "worst tokens", err);
}

void worst_tokens_free(worst_tokens *tokens)
{
    free(tokens->at);
    *tokens = (worst_tokens){0};
}

void worst_tokens_add(worst_tokens *tokens, int layer, int kv_head, const float *excess, const float *errors, const float *sizes, int64_t n_tokens)
{
    for (int64_t t = 0; t < n_tokens && tokens->capacity > 0; t++) {
        const double own = (double)excess[t];
        if (tokens->n == tokens->capacity && own <= tokens->at[tokens->n - 1].excess) continue;
        int place = tokens->n < tokens->capacity ? tokens->n++ : tokens->n - 1;
        for (; place > 0 && tokens->at[place - 1].excess < own; place--) tokens->at[place] = tokens->at[place - 1];
        tokens->at[place] = (worst_token){.layer = layer, .kv_head = kv_head, .position = t, .error = (double)errors[t], .size = (double)sizes[t], .excess = own};
    }
}

/* Bytes of the character at `bytes` when it can be shown as it is, else 0. */
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

void worst_token_set_text(char text[WORST_TEXT_SIZE], const char *bytes, size_t length)
{
    enum { ESCAPE = 4 };    /* \xNN */
    size_t at = 0, out = 0;
    while (at < length) {
        const size_t n = printable_length(bytes + at, length - at), needed = n > 0 ? n : ESCAPE;
        if (out + needed >= WORST_TEXT_SIZE) break;
        if (n > 0)
            memcpy(text + out, bytes + at, n);
        else
            snprintf(text + out, ESCAPE + 1, "\\x%02x", (unsigned)(unsigned char)bytes[at]);
        at += n > 0 ? n : 1;
        out += needed;
    }
    text[out] = '\0';
}
