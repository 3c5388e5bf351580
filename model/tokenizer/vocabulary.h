/* The strings of model.vocab and their ids: a hash table with open addressing over one block of text.
 * Strings are kept as the file has them (byte-level symbols, not bytes). */
#ifndef RB_MODEL_TOKENIZER_VOCABULARY_H
#define RB_MODEL_TOKENIZER_VOCABULARY_H

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum { VOCABULARY_MAX_ID = (1 << 24) - 1 };

typedef struct vocabulary vocabulary;

/* From {"token": id, ...}. Fails on a repeated string, on an id outside [0, VOCABULARY_MAX_ID], on an empty object.
 * Repeated ids are found where ids get their bytes (token_bytes.h). `where` starts messages. */
rb_status vocabulary_open(vocabulary **out, const cJSON *object, const char *where, rb_error *err);
void vocabulary_close(vocabulary *vocabulary);

/* The id of a string, -1 when absent. */
int32_t vocabulary_find(const vocabulary *vocabulary, const char *text, size_t length);

int32_t vocabulary_count(const vocabulary *vocabulary);
size_t vocabulary_longest(const vocabulary *vocabulary); /* bytes of the longest string */

/* The index'th string in file order, not NUL-terminated; *id receives its id. */
const char *vocabulary_at(const vocabulary *vocabulary, int32_t index, size_t *length, int32_t *id);

#endif
