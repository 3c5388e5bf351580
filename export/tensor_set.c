/* See export/tensor_set.h. */
#include "export/tensor_set.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

rb_status tensor_set_create(tensor_set *set, int64_t capacity, rb_error *err)
{
    *set = (tensor_set){.capacity = capacity};
    return rb_alloc(&set->at, (size_t)capacity, sizeof *set->at, "tensors", err);
}

void tensor_set_free(tensor_set *set)
{
    for (int64_t i = 0; i < set->n; i++) {
        free((char *)set->at[i].name);
        free((void *)set->at[i].data);
    }
    free(set->at);
}

rb_status tensor_set_add(tensor_set *set, char *name, tensor_dtype dtype, int rank, int64_t rows, int64_t columns,
                         void *data_out, rb_error *err)
{
    const size_t n = (size_t)(rank == 2 ? rows * columns : rows);
    void *data = NULL;
    assert(set->n < set->capacity);
    rb_status st = rb_alloc(&data, n, tensor_dtype_size(dtype), name, err);
    if (st != RB_OK) {
        free(name);
        return st;
    }
    set->at[set->n++] = (safetensor){.name = name,
                                     .dtype = dtype,
                                     .rank = rank,
                                     .shape = {rows, columns},
                                     .data = data,
                                     .size_bytes = n * tensor_dtype_size(dtype)};
    memcpy(data_out, &data, sizeof data);
    return RB_OK;
}
