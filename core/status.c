/* The error idiom: see core/status.h. */
#include "core/status.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- text from files ------------------------------------------------------------------------- */

int rb_take_character(const char *text, uint32_t *point)
{
    static const struct {
        unsigned char mask, is, n;
        uint32_t least;
    } forms[] = {{0x80, 0x00, 1, 0}, {0xe0, 0xc0, 2, 0x80}, {0xf0, 0xe0, 3, 0x800}, {0xf8, 0xf0, 4, 0x10000}};
    const unsigned char *at = (const unsigned char *)text;
    for (size_t i = 0; i < RB_COUNT(forms); i++) {
        if ((at[0] & forms[i].mask) != forms[i].is) continue;
        *point = at[0] & (uint32_t)(unsigned char)~forms[i].mask;
        for (int j = 1; j < forms[i].n; j++) {
            if ((at[j] & 0xc0) != 0x80) return 0; /* the end of the text, too */
            *point = *point << 6 | (at[j] & 0x3fu);
        }
        const bool is_valid = *point >= forms[i].least && *point <= 0x10ffff && !(*point >= 0xd800 && *point < 0xe000);
        return is_valid ? forms[i].n : 0;
    }
    return 0;
}

bool rb_is_shown(uint32_t point)
{
    const bool is_control = point < 0x20 || (point >= 0x7f && point < 0xa0);
    const bool turns_line = point == 0x061c || (point >= 0x200b && point <= 0x200f)
                            || (point >= 0x2028 && point <= 0x202e) || (point >= 0x2060 && point <= 0x206f)
                            || point == 0xfeff;
    return !is_control && !turns_line;
}

/* Bytes of the character that a text begins with; 0: it begins with none, or with one that is no good to show. */
static int plain_character(const char *text)
{
    uint32_t point;
    const int n = rb_take_character(text, &point);
    return n > 0 && rb_is_shown(point) ? n : 0;
}

void rb_escape_text(char *out, size_t size, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t used = 0;
    if (size == 0) return;
    while (*at) {
        char piece[8];
        const int n = plain_character((const char *)at);
        const int wrote = n > 0         ? snprintf(piece, sizeof piece, "%.*s", n, (const char *)at)
                          : *at == '\n' ? snprintf(piece, sizeof piece, "\\n")
                          : *at == '\t' ? snprintf(piece, sizeof piece, "\\t")
                                        : snprintf(piece, sizeof piece, "\\x%02x", *at);
        if (used + (size_t)wrote >= size) break;
        memcpy(out + used, piece, (size_t)wrote);
        used += (size_t)wrote;
        at += n > 0 ? n : 1;
    }
    out[used] = '\0';
}

bool rb_is_plain_text(const char *text)
{
    for (const char *at = text; *at;) {
        const int n = plain_character(at);
        if (n == 0) return false;
        at += n;
    }
    return true;
}

rb_shown_text rb_shown(const char *text)
{
    rb_shown_text shown;
    rb_escape_text(shown.text, sizeof shown.text, text);
    return shown;
}

/* ---- errors ---------------------------------------------------------------------------------- */

rb_status rb_fail(rb_error *err, rb_status st, const char *fmt, ...)
{
    if (err && err->msg[0] == '\0') {
        va_list ap;
        va_start(ap, fmt);
        char sentence[sizeof err->msg];
        vsnprintf(sentence, sizeof sentence, fmt, ap);
        va_end(ap);
        rb_escape_text(err->msg, sizeof err->msg, sentence);
    }
    return st;
}

rb_status rb_fail_in(rb_error *err, rb_status st, const char *fmt, ...)
{
    if (!err) return st;
    rb_error inner = *err;
    va_list ap;
    va_start(ap, fmt);
    char context[sizeof err->msg];
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    rb_escape_text(err->msg, sizeof err->msg, context);
    const size_t used = strlen(err->msg), room = sizeof err->msg - used;
    /* A message cut at the end of the buffer is still a message. */
    if (snprintf(err->msg + used, room, ": %s", inner.msg) < 0) err->msg[used] = '\0';
    return st;
}

int rb_exit_code(rb_status st)
{
    switch (st) {
    case RB_OK: return 0;
    case RB_EUSAGE: return 2;
    case RB_ECHECK: return 3;
    default: return 1;
    }
}

rb_status rb_alloc(void *out, size_t n, size_t elem_size, const char *what, rb_error *err)
{
    enum { ALIGNMENT = 64 };
    size_t size_bytes;
    void *memory = NULL;
    if (__builtin_mul_overflow(n, elem_size, &size_bytes) || size_bytes > SIZE_MAX - ALIGNMENT)
        return rb_fail(err, RB_ENOMEM, "%s: %zu elements of %zu bytes overflow the address space", what, n, elem_size);
    size_bytes = (size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (size_bytes == 0) size_bytes = ALIGNMENT;
    /* calloc aligns to no more than 16 bytes, so we align and clear ourselves. */
    if (posix_memalign(&memory, ALIGNMENT, size_bytes) != 0)
        return rb_fail(err, RB_ENOMEM, "%s: out of memory for %zu bytes", what, size_bytes);
    memset(memory, 0, size_bytes);
    memcpy(out, &memory, sizeof memory);
    return RB_OK;
}

rb_status rb_format(char **out, rb_error *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(out, fmt, ap);
    va_end(ap);
    if (n < 0) {
        *out = NULL;
        return rb_fail(err, RB_ENOMEM, "out of memory for a string");
    }
    return RB_OK;
}
