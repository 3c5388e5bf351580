/* The tensors of several .safetensors and .npz files, found by name. */
#ifndef RB_CALIBRATE_IMPORT_TENSORS_H
#define RB_CALIBRATE_IMPORT_TENSORS_H

#include "core/options.h"
#include "model/safetensors.h"

typedef struct import_tensors import_tensors;

/* Opens them all; the first bytes of a file say which kind it is. The paths must outlive the result. Fails with
 * RB_EFORMAT on a file of neither kind, and on a name that two files have. */
rb_status import_tensors_open(import_tensors **out, const rb_string_list *paths, rb_error *err);
void import_tensors_close(import_tensors *tensors); /* NULL is fine */

/* A tensor, and where it is. */
typedef struct import_tensor {
    const safetensor *tensor; /* name, dtype and shape; its data only through the functions below */
    const char *path;         /* of its file */
    int file;
    int64_t index; /* in the file */
} import_tensor;

/* False when no file has the name. */
bool import_tensors_find(const import_tensors *tensors, const char *name, import_tensor *out);
/* Marks it as read, for import_tensors_unread. */
void import_tensors_mark(import_tensors *tensors, const import_tensor *found);
/* Number of tensors that were not marked, and the name of the first. */
int64_t import_tensors_unread(const import_tensors *tensors, const char **first);
/* Metadata of a .safetensors file; the first file that has the key. NULL when absent. */
const char *import_tensors_metadata(const import_tensors *tensors, const char *key);

/* Elements of a tensor. floats: F32, F16 or BF16, the tokens [first, first + count) of [n_heads][n_tokens][head_dim]
 * into [n_heads][count][head_dim]. numbers: all elements of F64, F32, F16 or BF16. ids: all elements of I32 or I64,
 * from 0 to 2^31 - 1. Another dtype fails with RB_EUNSUPPORTED, an id out of range with RB_EINVAL; file and tensor are
 * named. */
rb_status import_tensor_floats(const import_tensors *tensors, const import_tensor *from, int64_t first, int64_t count,
                               float *out, rb_error *err);
rb_status import_tensor_numbers(const import_tensors *tensors, const import_tensor *from, double *out, rb_error *err);
rb_status import_tensor_ids(const import_tensors *tensors, const import_tensor *from, int32_t *out, rb_error *err);

#endif
