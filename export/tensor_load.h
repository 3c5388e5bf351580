/* One array out of a file of any kind that numpy or torch write: .npy, .npz, .safetensors, told apart by their first
 * bytes, and raw f32 numbers in a file whose name ends in .f32. */
#ifndef RB_EXPORT_TENSOR_LOAD_H
#define RB_EXPORT_TENSOR_LOAD_H

#include "model/safetensors.h"

/* name: of the array, NULL: the only one of the file. out->data is freed by free(); out->name is `name` or, without
 * one, NULL. A raw file has rank 1. Fails with RB_EFORMAT, naming what the file has, where the array is not there. */
rb_status tensor_load(safetensor *out, const char *path, const char *name, rb_error *err);

/* Its numbers as [n][dims] f32, freed by free(): F64, F32, F16 or BF16, of rank 1 (one vector; of a raw file as many as
 * there are) or more, the last dim `dims`. Fails with RB_EINVAL on another shape or dtype; `path` starts the message.
 */
rb_status tensor_vectors(float **out, int64_t *n, const safetensor *tensor, int dims, const char *path, rb_error *err);

#endif
