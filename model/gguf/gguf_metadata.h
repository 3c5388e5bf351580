/* The metadata of a GGUF: typed values under names. Entries point into the mapping of their file; gguf_metadata_read
 * has checked that every value lies within it, so reading one cannot run out of bounds.
 *
 *   key     string: u64 length, then its bytes
 *   type    u32, gguf_type
 *   value   a number; a string; or an array: u32 item type, u64 count, the items one after the other */
#ifndef RB_MODEL_GGUF_METADATA_H
#define RB_MODEL_GGUF_METADATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_N_TYPES
} gguf_type;

/* What is left to read of a file. */
typedef struct gguf_cursor {
    const unsigned char *at, *end;
} gguf_cursor;

typedef struct gguf_string {
    const char *at; /* not NUL-terminated */
    size_t length;
} gguf_string;

typedef struct gguf_entry {
    char *key;
    gguf_type type, item_type; /* item_type: of an array */
    int64_t n_items;           /* of an array */
    gguf_cursor value;         /* of an array: its items */
} gguf_entry;

typedef struct gguf_metadata {
    gguf_entry *entries;
    const gguf_entry **by_key;
    int64_t n_entries;
} gguf_metadata;

/* n_entries of them from the cursor on. Fails with RB_EFORMAT on a value that the file does not hold whole, an unknown
 * type, arrays nested more than 4 deep, a key that is there twice. Half-filled metadata are freed by
 * gguf_metadata_free. */
rb_status gguf_metadata_read(gguf_metadata *metadata, gguf_cursor *from, uint64_t n_entries, rb_error *err);
void gguf_metadata_free(gguf_metadata *metadata);

/* NULL when absent. */
const gguf_entry *gguf_find(const gguf_metadata *metadata, const char *key);

/* Required values. A message names the key, what was found and what was expected; the caller puts the file before it.
 */
rb_status gguf_get_int(const gguf_metadata *metadata, const char *key, int64_t min, int64_t max, int64_t *out,
                       rb_error *err);
rb_status gguf_get_number(const gguf_metadata *metadata, const char *key, double *out, rb_error *err); /* finite */
rb_status gguf_get_string(const gguf_metadata *metadata, const char *key, gguf_string *out, rb_error *err);
/* `fallback` where the key is absent. */
rb_status gguf_get_bool(const gguf_metadata *metadata, const char *key, bool fallback, bool *out, rb_error *err);
rb_status gguf_get_array(const gguf_metadata *metadata, const char *key, gguf_type item_type, const gguf_entry **out,
                         rb_error *err);

bool gguf_string_is(gguf_string string, const char *text);
/* The next string of an array of strings; `items` starts as a copy of the entry's value. */
gguf_string gguf_next_string(gguf_cursor *items);
/* Item `index` of an array of numbers. */
double gguf_item_number(const gguf_entry *array, int64_t index);
/* A value as a message shows it: 8, true, "yarn", 32 items. */
void gguf_value_text(const gguf_entry *entry, char *text, size_t size);

/* Little readers that fail where the file ends; `what` is named. */
rb_status gguf_read_u32(gguf_cursor *from, uint32_t *out, const char *what, rb_error *err);
rb_status gguf_read_u64(gguf_cursor *from, uint64_t *out, const char *what, rb_error *err);
/* A name: at most max_bytes, no NUL byte; freed by free(). */
rb_status gguf_read_name(gguf_cursor *from, size_t max_bytes, char **out, const char *what, rb_error *err);

#endif
