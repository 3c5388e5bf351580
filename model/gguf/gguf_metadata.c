/* See model/gguf/gguf_metadata.h. */
#include "model/gguf/gguf_metadata.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 4, MAX_KEY_BYTES = 65535, MIN_ENTRY_BYTES = 8 + 4 + 1 };

static const struct {
    const char *name;
    size_t size_bytes; /* 0: its length is in the file */
} TYPES[GGUF_N_TYPES] = {
    [GGUF_U8] = {"u8", 1},          [GGUF_I8] = {"i8", 1},   [GGUF_U16] = {"u16", 2}, [GGUF_I16] = {"i16", 2},
    [GGUF_U32] = {"u32", 4},        [GGUF_I32] = {"i32", 4}, [GGUF_F32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},
    [GGUF_U64] = {"u64", 8},        [GGUF_I64] = {"i64", 8}, [GGUF_F64] = {"f64", 8}, [GGUF_STRING] = {"a string", 0},
    [GGUF_ARRAY] = {"an array", 0},
};

/* ---- little readers -------------------------------------------------------------------------- */

static size_t bytes_left(const gguf_cursor *from) { return (size_t)(from->end - from->at); }

static rb_status fail_at_end(const char *what, rb_error *err)
{
    return rb_fail(err, RB_EFORMAT, "the file ends within %s: it is truncated or damaged", what);
}

static rb_status read_bytes(gguf_cursor *from, void *out, size_t n_bytes, const char *what, rb_error *err)
{
    if (bytes_left(from) < n_bytes) return fail_at_end(what, err);
    memcpy(out, from->at, n_bytes);
    from->at += n_bytes;
    return RB_OK;
}

rb_status gguf_read_u32(gguf_cursor *from, uint32_t *out, const char *what, rb_error *err)
{
    return read_bytes(from, out, sizeof *out, what, err);
}

rb_status gguf_read_u64(gguf_cursor *from, uint64_t *out, const char *what, rb_error *err)
{
    return read_bytes(from, out, sizeof *out, what, err);
}

static rb_status read_string(gguf_cursor *from, gguf_string *out, const char *what, rb_error *err)
{
    uint64_t length;
    const rb_status st = gguf_read_u64(from, &length, what, err);
    if (st != RB_OK) return st;
    if (length > bytes_left(from)) return fail_at_end(what, err);
    *out = (gguf_string){(const char *)from->at, (size_t)length};
    from->at += length;
    return RB_OK;
}

rb_status gguf_read_name(gguf_cursor *from, size_t max_bytes, char **out, const char *what, rb_error *err)
{
    gguf_string name = {"", 0};
    rb_status st;
    RB_TRY(st, read_string(from, &name, what, err), done);
    if (name.length > max_bytes)
        return rb_fail(err, RB_EFORMAT, "%s: a name of %zu bytes, expected at most %zu", what, name.length, max_bytes);
    if (memchr(name.at, '\0', name.length)) return rb_fail(err, RB_EFORMAT, "%s: a NUL byte in its name", what);
    RB_TRY(st, rb_alloc(out, name.length + 1, 1, "name", err), done);
    memcpy(*out, name.at, name.length);
done:
    return st;
}

/* ---- entries --------------------------------------------------------------------------------- */

static rb_status check_type(uint32_t type, const char *what, rb_error *err)
{
    if (type < GGUF_N_TYPES) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s: value type %" PRIu32 ", expected 0 to %d", what, type, GGUF_N_TYPES - 1);
}

static rb_status skip_array(gguf_cursor *from, int depth, const char *what, rb_error *err);

/* n values of one type, one after the other. */
static rb_status skip_values(gguf_cursor *from, gguf_type type, uint64_t n, int depth, const char *what, rb_error *err)
{
    const size_t size_bytes = TYPES[type].size_bytes;
    rb_status st = RB_OK;
    if (size_bytes > 0) {
        if (n > bytes_left(from) / size_bytes) return fail_at_end(what, err);
        from->at += n * size_bytes;
        return RB_OK;
    }
    for (uint64_t i = 0; i < n && st == RB_OK; i++) {
        gguf_string ignored;
        st = type == GGUF_STRING ? read_string(from, &ignored, what, err) : skip_array(from, depth + 1, what, err);
    }
    return st;
}

static rb_status read_array_head(gguf_cursor *from, uint32_t *item_type, uint64_t *n, const char *what, rb_error *err)
{
    rb_status st;
    RB_TRY(st, gguf_read_u32(from, item_type, what, err), done);
    RB_TRY(st, check_type(*item_type, what, err), done);
    RB_TRY(st, gguf_read_u64(from, n, what, err), done);
    if (*n > bytes_left(from)) st = fail_at_end(what, err); /* an item has at least a byte */
done:
    return st;
}

static rb_status skip_array(gguf_cursor *from, int depth, const char *what, rb_error *err)
{
    uint32_t item_type;
    uint64_t n;
    if (depth >= MAX_DEPTH) return rb_fail(err, RB_EFORMAT, "%s: arrays nested more than %d deep", what, MAX_DEPTH);
    const rb_status st = read_array_head(from, &item_type, &n, what, err);
    return st == RB_OK ? skip_values(from, (gguf_type)item_type, n, depth, what, err) : st;
}

static rb_status check_bools(const gguf_entry *entry, const char *what, rb_error *err)
{
    if (entry->type != GGUF_BOOL && !(entry->type == GGUF_ARRAY && entry->item_type == GGUF_BOOL)) return RB_OK;
    for (const unsigned char *at = entry->value.at; at < entry->value.end; at++)
        if (*at > 1) return rb_fail(err, RB_EFORMAT, "%s: a bool of %d, expected 0 or 1", what, *at);
    return RB_OK;
}

static rb_status read_entry(gguf_entry *entry, gguf_cursor *from, const char *ordinal, rb_error *err)
{
    enum { WHAT_BYTES = 160 };
    char what[WHAT_BYTES];
    uint32_t type, item_type = 0;
    uint64_t n = 1;
    rb_status st;

    RB_TRY(st, gguf_read_name(from, MAX_KEY_BYTES, &entry->key, ordinal, err), done);
    snprintf(what, sizeof what, "metadata \"%.128s\"", entry->key);
    RB_TRY(st, gguf_read_u32(from, &type, what, err), done);
    RB_TRY(st, check_type(type, what, err), done);
    if (type == GGUF_ARRAY) RB_TRY(st, read_array_head(from, &item_type, &n, what, err), done);
    entry->type = (gguf_type)type;
    entry->item_type = (gguf_type)item_type;
    entry->n_items = (int64_t)n;
    entry->value.at = from->at;
    RB_TRY(st, skip_values(from, type == GGUF_ARRAY ? entry->item_type : entry->type, n, 0, what, err), done);
    entry->value.end = from->at;
    st = check_bools(entry, what, err);
done:
    return st;
}

static int compare_keys(const void *a, const void *b)
{
    const gguf_entry *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

static rb_status sort_keys(gguf_metadata *metadata, rb_error *err)
{
    const int64_t n = metadata->n_entries;
    for (int64_t i = 0; i < n; i++) metadata->by_key[i] = &metadata->entries[i];
    qsort(metadata->by_key, (size_t)n, sizeof *metadata->by_key, compare_keys);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(metadata->by_key[i - 1]->key, metadata->by_key[i]->key) == 0)
            return rb_fail(err, RB_EFORMAT, "metadata \"%.128s\" is there twice", metadata->by_key[i]->key);
    return RB_OK;
}

rb_status gguf_metadata_read(gguf_metadata *metadata, gguf_cursor *from, uint64_t n_entries, rb_error *err)
{
    rb_status st;
    if (n_entries > bytes_left(from) / MIN_ENTRY_BYTES)
        return rb_fail(err, RB_EFORMAT,
                       "%" PRIu64 " metadata entries, more than the file can hold: it is truncated or damaged",
                       n_entries);
    RB_TRY(st, rb_alloc(&metadata->entries, (size_t)n_entries, sizeof *metadata->entries, "metadata", err), done);
    RB_TRY(st, rb_alloc(&metadata->by_key, (size_t)n_entries, sizeof *metadata->by_key, "metadata", err), done);
    for (uint64_t i = 0; i < n_entries; i++) {
        char ordinal[80];
        snprintf(ordinal, sizeof ordinal, "metadata entry %" PRIu64 " of %" PRIu64, i + 1, n_entries);
        RB_TRY(st, read_entry(&metadata->entries[metadata->n_entries++], from, ordinal, err), done);
    }
    st = sort_keys(metadata, err);
done:
    return st;
}

void gguf_metadata_free(gguf_metadata *metadata)
{
    for (int64_t i = 0; i < metadata->n_entries; i++) free(metadata->entries[i].key);
    free(metadata->entries);
    free(metadata->by_key);
    *metadata = (gguf_metadata){0};
}

/* ---- values ---------------------------------------------------------------------------------- */

const gguf_entry *gguf_find(const gguf_metadata *metadata, const char *key)
{
    const gguf_entry wanted = {.key = (char *)key}, *ref = &wanted;
    const gguf_entry *const *found =
        bsearch(&ref, metadata->by_key, (size_t)metadata->n_entries, sizeof *metadata->by_key, compare_keys);
    return found ? *found : NULL;
}

#define READ_AS(type)                     \
    {                                     \
        type value;                       \
        memcpy(&value, at, sizeof value); \
        return (double)value;             \
    }

/* Whole numbers come out exact up to 2^53, further than any that is read here. */
static double number_at(const unsigned char *at, gguf_type type)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL: return *at;
    case GGUF_I8: return (int8_t)*at;
    case GGUF_U16: READ_AS(uint16_t)
    case GGUF_I16: READ_AS(int16_t)
    case GGUF_U32: READ_AS(uint32_t)
    case GGUF_I32: READ_AS(int32_t)
    case GGUF_F32: READ_AS(float)
    case GGUF_U64: READ_AS(uint64_t)
    case GGUF_I64: READ_AS(int64_t)
    case GGUF_F64: READ_AS(double)
    default: return NAN;
    }
}

double gguf_item_number(const gguf_entry *array, int64_t index)
{
    return number_at(array->value.at + (size_t)index * TYPES[array->item_type].size_bytes, array->item_type);
}

gguf_string gguf_next_string(gguf_cursor *items)
{
    gguf_string string = {"", 0};
    read_string(items, &string, "a string", NULL);
    return string;
}

bool gguf_string_is(gguf_string string, const char *text)
{
    return string.length == strlen(text) && memcmp(string.at, text, string.length) == 0;
}

void gguf_value_text(const gguf_entry *entry, char *text, size_t size)
{
    enum { LONGEST = 64 };
    gguf_cursor value = entry->value;
    if (entry->type == GGUF_ARRAY) {
        snprintf(text, size, "%" PRId64 " items", entry->n_items);
    } else if (entry->type == GGUF_BOOL) {
        snprintf(text, size, "%s", *value.at ? "true" : "false");
    } else if (entry->type == GGUF_STRING) {
        const gguf_string string = gguf_next_string(&value);
        snprintf(text, size, "\"%.*s\"", (int)(string.length < LONGEST ? string.length : LONGEST), string.at);
    } else {
        snprintf(text, size, "%.9g", number_at(value.at, entry->type));
    }
}

static rb_status find_required(const gguf_metadata *metadata, const char *key, const gguf_entry **out, rb_error *err)
{
    *out = gguf_find(metadata, key);
    return *out ? RB_OK : rb_fail(err, RB_EFORMAT, "no metadata \"%s\"", key);
}

static rb_status fail_value(const gguf_entry *entry, const char *expected, rb_error *err)
{
    char value[96];
    gguf_value_text(entry, value, sizeof value);
    return rb_fail(err, RB_EFORMAT, "metadata \"%.128s\" is %s, expected %s", entry->key, value, expected);
}

rb_status gguf_get_number(const gguf_metadata *metadata, const char *key, double *out, rb_error *err)
{
    const gguf_entry *entry;
    const rb_status st = find_required(metadata, key, &entry, err);
    if (st != RB_OK) return st;
    *out = entry->type == GGUF_BOOL ? (double)NAN : number_at(entry->value.at, entry->type);
    return isfinite(*out) ? RB_OK : fail_value(entry, "a number", err);
}

rb_status gguf_get_int(const gguf_metadata *metadata, const char *key, int64_t min, int64_t max, int64_t *out,
                       rb_error *err)
{
    double number;
    const rb_status st = gguf_get_number(metadata, key, &number, err);
    if (st != RB_OK) return st;
    if (!(number >= (double)min && number <= (double)max && floor(number) == number)) {
        char expected[80];
        snprintf(expected, sizeof expected, "a whole number from %" PRId64 " to %" PRId64, min, max);
        return fail_value(gguf_find(metadata, key), expected, err);
    }
    *out = (int64_t)number;
    return RB_OK;
}

rb_status gguf_get_string(const gguf_metadata *metadata, const char *key, gguf_string *out, rb_error *err)
{
    const gguf_entry *entry;
    const rb_status st = find_required(metadata, key, &entry, err);
    if (st != RB_OK) return st;
    if (entry->type != GGUF_STRING) return fail_value(entry, "a string", err);
    gguf_cursor value = entry->value;
    *out = gguf_next_string(&value);
    return RB_OK;
}

rb_status gguf_get_bool(const gguf_metadata *metadata, const char *key, bool fallback, bool *out, rb_error *err)
{
    const gguf_entry *entry = gguf_find(metadata, key);
    *out = fallback;
    if (!entry) return RB_OK;
    if (entry->type != GGUF_BOOL) return fail_value(entry, "true or false", err);
    *out = *entry->value.at != 0;
    return RB_OK;
}

rb_status gguf_get_array(const gguf_metadata *metadata, const char *key, gguf_type item_type, const gguf_entry **out,
                         rb_error *err)
{
    const rb_status st = find_required(metadata, key, out, err);
    if (st != RB_OK) return st;
    if ((*out)->type == GGUF_ARRAY && (*out)->item_type == item_type) return RB_OK;
    char expected[64];
    snprintf(expected, sizeof expected, "an array of type %s", TYPES[item_type].name);
    return fail_value(*out, expected, err);
}
