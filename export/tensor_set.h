/* Tensors under construction: what the exporters of safetensors files share. */
#ifndef RB_EXPORT_TENSOR_SET_H
#define RB_EXPORT_TENSOR_SET_H

#include "model/safetensors.h"

typedef struct tensor_set {
    safetensor *at; /* [capacity], names and data owned */
    int64_t n, capacity;
} tensor_set;

/* Zeroed, for up to `capacity` tensors. */
rb_status tensor_set_create(tensor_set *set, int64_t capacity, rb_error *err);
void tensor_set_free(tensor_set *set);
/* Takes `name`, freed also on failure; *data_out, any object pointer, gets the zeroed data to fill. rank is 1 ([rows])
 * or 2. */
rb_status tensor_set_add(tensor_set *set, char *name, tensor_dtype dtype, int rank, int64_t rows, int64_t columns,
                         void *data_out, rb_error *err);

#endif
