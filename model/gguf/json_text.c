/* See model/gguf/json_text.h. */
#include "model/gguf/json_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for `more` bytes and a NUL. */
static char *reserve(json_text *text, size_t more)
{
    enum { FIRST_ROOM = 1 << 16 };
    if (text->st != RB_OK) return NULL;
    if (more >= text->room - text->length) {
        const size_t room = text->room * 2 + more + FIRST_ROOM;
        char *at = realloc(text->at, room);
        if (!at) {
            text->st = RB_ENOMEM;
            return NULL;
        }
        text->at = at;
        text->room = room;
    }
    return text->at + text->length;
}

void json_text_put(json_text *text, const char *fmt, ...)
{
    enum { LONGEST = 1024 };
    va_list args;
    char *to = reserve(text, LONGEST);
    if (!to) return;
    va_start(args, fmt);
    text->length += (size_t)vsnprintf(to, LONGEST, fmt, args);
    va_end(args);
}

void json_text_put_string(json_text *text, const char *bytes, size_t length)
{
    enum { LONGEST_ESCAPE = 6 };
    char *const begin = reserve(text, length * LONGEST_ESCAPE + 2), *to = begin;
    if (!to) return;
    *to++ = '"';
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        if (c < 0x20) {
            to += snprintf(to, LONGEST_ESCAPE + 1, "\\u%04x", c);
        } else {
            if (c == '"' || c == '\\') *to++ = '\\';
            *to++ = (char)c;
        }
    }
    *to++ = '"';
    *to = '\0';
    text->length += (size_t)(to - begin);
}

rb_status json_text_status(const json_text *text, rb_error *err)
{
    return text->st == RB_OK ? RB_OK : rb_fail(err, text->st, "tokenizer: no memory for %zu bytes of text", text->room);
}
