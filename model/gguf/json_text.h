/* JSON printed piece by piece: a vocabulary of 262144 tokens as a document of cJSON would be built only to be printed
 * and parsed again. */
#ifndef RB_MODEL_GGUF_JSON_TEXT_H
#define RB_MODEL_GGUF_JSON_TEXT_H

#include <stddef.h>

#include "core/status.h"

/* Grows as it is written to. After a failure, which is kept, writing does nothing; `at` is freed by free(). */
typedef struct json_text {
    char *at; /* NUL-terminated once something was written */
    size_t length, room;
    rb_status st;
} json_text;

void json_text_put(json_text *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A string in quotes, escaped; the bytes are UTF-8. */
void json_text_put_string(json_text *text, const char *bytes, size_t length);
/* RB_ENOMEM when some of it could not be kept. */
rb_status json_text_status(const json_text *text, rb_error *err);

#endif
