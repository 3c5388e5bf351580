/* A growing list of token ids. */
#ifndef RB_MODEL_TOKENIZER_ID_LIST_H
#define RB_MODEL_TOKENIZER_ID_LIST_H

#include <stdint.h>
#include <stdlib.h>

#include "core/status.h"

typedef struct id_list {
    int32_t *at; /* freed by free() */
    size_t n, capacity;
} id_list;

/* Room for `capacity` ids in all; at is never NULL afterwards. */
static inline rb_status id_list_reserve(id_list *list, size_t capacity, rb_error *err)
{
    if (list->at && capacity <= list->capacity) return RB_OK;
    if (capacity == 0) capacity = 1;
    int32_t *at = capacity <= SIZE_MAX / sizeof *at ? realloc(list->at, capacity * sizeof *at) : NULL;
    if (!at) return rb_fail(err, RB_ENOMEM, "token ids: out of memory for %zu", capacity);
    list->at = at;
    list->capacity = capacity;
    return RB_OK;
}

static inline rb_status id_list_push(id_list *list, int32_t id, rb_error *err)
{
    if (list->n == list->capacity) {
        const rb_status st = id_list_reserve(list, list->capacity + list->capacity / 2 + 16, err);
        if (st != RB_OK) return st;
    }
    list->at[list->n++] = id;
    return RB_OK;
}

#endif
