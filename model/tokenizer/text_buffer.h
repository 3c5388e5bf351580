/* Bytes that grow. */
#ifndef RB_MODEL_TOKENIZER_TEXT_BUFFER_H
#define RB_MODEL_TOKENIZER_TEXT_BUFFER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/status.h"

typedef struct text_buffer {
    char *at; /* freed by free() */
    size_t length, capacity;
} text_buffer;

/* Room for `more` further bytes. */
static inline rb_status text_buffer_reserve(text_buffer *buffer, size_t more, rb_error *err)
{
    if (buffer->at && more <= buffer->capacity - buffer->length) return RB_OK;
    if (more > SIZE_MAX / 4 || buffer->length > SIZE_MAX / 4)
        return rb_fail(err, RB_ENOMEM, "text: %zu and %zu bytes are too many", buffer->length, more);
    const size_t capacity = (buffer->length + more) * 3 / 2 + 64;
    char *at = realloc(buffer->at, capacity);
    if (!at) return rb_fail(err, RB_ENOMEM, "text: out of memory for %zu bytes", capacity);
    buffer->at = at;
    buffer->capacity = capacity;
    return RB_OK;
}

static inline rb_status text_buffer_add(text_buffer *buffer, const char *text, size_t length, rb_error *err)
{
    const rb_status st = text_buffer_reserve(buffer, length, err);
    if (st != RB_OK || length == 0) return st;
    memcpy(buffer->at + buffer->length, text, length);
    buffer->length += length;
    return RB_OK;
}

#endif
