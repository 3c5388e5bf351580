/* Tokens' bytes as text: whole UTF-8 characters only, as soon as they are whole. A byte that no character begins with
 * or goes on with becomes U+FFFD. */
#ifndef RB_GENERATE_TEXT_STREAM_H
#define RB_GENERATE_TEXT_STREAM_H

#include <stddef.h>

#include "core/status.h"

typedef struct text_stream {
    char *text; /* all of it so far, valid UTF-8 with a NUL at the end; owned. It may hold other NULs */
    size_t length, room;
    char pending[4]; /* the beginning of a character */
    size_t n_pending;
} text_stream;

/* Zero-initialise. What is whole goes to the end of `text`. Fails with RB_ENOMEM. */
rb_status text_stream_add(text_stream *stream, const char *bytes, size_t n, rb_error *err);
/* No bytes follow: the beginning of a character that is left becomes U+FFFD. */
rb_status text_stream_finish(text_stream *stream, rb_error *err);
void text_stream_free(text_stream *stream);

#endif
