/* The error idiom: see core/status.h. */
#include "core/status.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A message is one line whatever it quotes: names of files and tensors may hold line breaks and escape sequences. */
static void make_one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f) *text = '?';
}

rb_status rb_fail(rb_error *err, rb_status st, const char *fmt, ...)
{
    if (err && err->msg[0] == '\0') {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->msg, sizeof err->msg, fmt, ap);
        va_end(ap);
        make_one_line(err->msg);
    }
    return st;
}

rb_status rb_fail_in(rb_error *err, rb_status st, const char *fmt, ...)
{
    if (!err) return st;
    rb_error inner = *err;
    va_list ap;
    va_start(ap, fmt);
    int used = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (used >= 0 && (size_t)used < sizeof err->msg) {
        /* A message cut at the end of the buffer is still a message. */
        const size_t room = sizeof err->msg - (size_t)used;
        if (snprintf(err->msg + used, room, ": %s", inner.msg) < 0) err->msg[used] = '\0';
    }
    make_one_line(err->msg);
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
