/* Strings to ids: see vocabulary.h. */
#include "model/tokenizer/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"

typedef struct vocabulary_entry {
    size_t start, length; /* in text */
    int32_t id;
} vocabulary_entry;

struct vocabulary {
    char *text;
    vocabulary_entry *entries;
    int32_t count;
    uint32_t *slots; /* entry index + 1, 0: free; at most half of them are taken */
    size_t slot_mask;
    size_t longest;
};

/* FNV-1a, 64 bits. */
static uint64_t text_hash(const char *text, size_t length)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* The slot that holds the string, or the free one where it belongs. */
static size_t find_slot(const vocabulary *v, const char *text, size_t length)
{
    size_t slot = (size_t)text_hash(text, length) & v->slot_mask;
    while (v->slots[slot] != 0) {
        const vocabulary_entry *entry = &v->entries[v->slots[slot] - 1];
        if (entry->length == length && memcmp(v->text + entry->start, text, length) == 0) break;
        slot = (slot + 1) & v->slot_mask;
    }
    return slot;
}

static rb_status vocabulary_allocate(vocabulary *v, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *item;
    size_t count = 0, text_size = 0, n_slots = 2;
    rb_status st;

    cJSON_ArrayForEach (item, object) {
        count++;
        text_size += strlen(item->string);
    }
    if (count == 0) return rb_fail(err, RB_EFORMAT, "%s: found no tokens", where);
    if (count > (size_t)VOCABULARY_MAX_ID + 1)
        return rb_fail(err, RB_EFORMAT, "%s: found %zu tokens, at most %d ids exist", where, count,
                       VOCABULARY_MAX_ID + 1);
    while (n_slots < 2 * count) n_slots *= 2;
    v->slot_mask = n_slots - 1;
    RB_TRY(st, rb_alloc(&v->text, text_size, 1, "vocabulary text", err), done);
    RB_TRY(st, rb_alloc(&v->entries, count, sizeof *v->entries, "vocabulary", err), done);
    RB_TRY(st, rb_alloc(&v->slots, n_slots, sizeof *v->slots, "vocabulary hash table", err), done);
done:
    return st;
}

static rb_status vocabulary_add(vocabulary *v, size_t start, const cJSON *item, const char *where, rb_error *err)
{
    const size_t length = strlen(item->string);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= VOCABULARY_MAX_ID)
        || item->valuedouble != (double)(int32_t)item->valuedouble)
        return rb_fail(err, RB_EFORMAT, "%s: the id of \"%.64s\" is no whole number from 0 to %d", where, item->string,
                       VOCABULARY_MAX_ID);
    const size_t slot = find_slot(v, item->string, length);
    if (v->slots[slot] != 0) return rb_fail(err, RB_EFORMAT, "%s: \"%.64s\" is there twice", where, item->string);
    memcpy(v->text + start, item->string, length);
    v->entries[v->count] = (vocabulary_entry){start, length, (int32_t)item->valuedouble};
    v->slots[slot] = (uint32_t)++v->count;
    if (length > v->longest) v->longest = length;
    return RB_OK;
}

rb_status vocabulary_open(vocabulary **out, const cJSON *object, const char *where, rb_error *err)
{
    vocabulary *v = NULL;
    const cJSON *item;
    size_t start = 0;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&v, 1, sizeof *v, "vocabulary", err), done);
    RB_TRY(st, vocabulary_allocate(v, object, where, err), done);
    cJSON_ArrayForEach (item, object) {
        RB_TRY(st, vocabulary_add(v, start, item, where, err), done);
        start += strlen(item->string);
    }
    *out = v;
    v = NULL;
done:
    vocabulary_close(v);
    return st;
}

void vocabulary_close(vocabulary *v)
{
    if (!v) return;
    free(v->text);
    free(v->entries);
    free(v->slots);
    free(v);
}

int32_t vocabulary_find(const vocabulary *v, const char *text, size_t length)
{
    const uint32_t found = v->slots[find_slot(v, text, length)];
    return found == 0 ? -1 : v->entries[found - 1].id;
}

int32_t vocabulary_count(const vocabulary *v) { return v->count; }
size_t vocabulary_longest(const vocabulary *v) { return v->longest; }

const char *vocabulary_at(const vocabulary *v, int32_t index, size_t *length, int32_t *id)
{
    const vocabulary_entry *entry = &v->entries[index];
    *length = entry->length;
    *id = entry->id;
    return v->text + entry->start;
}
