/* safetensors: a memory-mapped reader that checks every rule of the format, and a writer.
 * https://github.com/huggingface/safetensors
 *
 *   8 bytes    N, the length of the header, little-endian
 *   N bytes    JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {string: string}}
 *   the rest   the data, to which the offsets refer
 *
 * Checked before any tensor is handed out: the file has at least 8 bytes; the header ends within the file and has at
 * most 100 MB; it is a JSON object that starts with '{' and has no duplicate names; dtypes are known and shapes not
 * negative; shape x dtype = bytes, without overflow; the tensors, sorted by begin, cover the data exactly, without an
 * overlap or a hole. Empty tensors (a 0 in the shape) are legal. The mapping shows the file as it is: when another
 * process cuts the file, this one ends with SIGBUS. */
#ifndef RB_MODEL_SAFETENSORS_H
#define RB_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

enum { SAFETENSORS_MAX_RANK = 8 };

typedef enum tensor_dtype {
    TENSOR_BOOL,
    TENSOR_U8,
    TENSOR_I8,
    TENSOR_F8_E4M3,
    TENSOR_F8_E5M2,
    TENSOR_U16,
    TENSOR_I16,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_U32,
    TENSOR_I32,
    TENSOR_F32,
    TENSOR_U64,
    TENSOR_I64,
    TENSOR_F64
} tensor_dtype;

const char *tensor_dtype_name(tensor_dtype dtype);             /* "BF16" */
size_t tensor_dtype_size(tensor_dtype dtype);                  /* bytes */
bool tensor_dtype_find(const char *name, tensor_dtype *dtype); /* false: not a dtype of this list */
bool tensor_dtype_is_float(tensor_dtype dtype);                /* F32, F16 or BF16: what safetensor_to_f32 reads */
/* Bytes of rank dims of dtype; false when a dim is negative or the product overflows. */
bool tensor_shape_bytes(tensor_dtype dtype, int rank, const int64_t *shape, size_t *size_bytes);

typedef struct safetensor {
    const char *name;
    tensor_dtype dtype;
    int rank;
    int64_t shape[SAFETENSORS_MAX_RANK];
    const void *data; /* inside the mapping, aligned as the file has it (unaligned is legal) */
    size_t size_bytes;
} safetensor;

typedef struct safetensors_file safetensors_file;

rb_status safetensors_open(safetensors_file **out, const char *path, rb_error *err);
void safetensors_close(safetensors_file *file);
int64_t safetensors_count(const safetensors_file *file);
const safetensor *safetensors_at(const safetensors_file *file, int64_t index); /* in file order */
/* NULL when absent; hashed or binary search. */
const safetensor *safetensors_find(const safetensors_file *file, const char *name);
const char *safetensors_metadata(const safetensors_file *file, const char *key); /* NULL when absent */
/* Where a tensor of the file starts, for readers that do not want it mapped. */
int64_t safetensors_offset(const safetensors_file *file, const safetensor *tensor);
/* Tells the kernel that these pages will not be needed soon. This keeps resident memory at one layer. */
void safetensors_release(const safetensors_file *file, const safetensor *tensor);

/* F32, F16 or BF16 elements [first, first + count) as float; the range is the caller's promise. Fails with
 * RB_EUNSUPPORTED on another dtype. */
rb_status safetensor_to_f32(const safetensor *tensor, int64_t first, int64_t count, float *out, rb_error *err);

/* Writes count floats as elements of dtype, rounded to nearest even, into out (count * tensor_dtype_size bytes, any
 * alignment). Fails with RB_ENONFINITE on a value that is not finite or does not fit, and with RB_EUNSUPPORTED on a
 * dtype other than F32, F16 and BF16. */
rb_status tensor_from_f32(tensor_dtype dtype, const float *x, int64_t count, void *out, rb_error *err);

/* Writes a file (atomic): tensors in the order given, metadata_keys/values n_metadata pairs. Header padded with spaces
 * to 8 bytes. Fails with RB_EINVAL on a name given twice or a size_bytes that is not shape x dtype. */
rb_status safetensors_write(const char *path, const safetensor *tensors, int64_t n_tensors,
                            const char *const *metadata_keys, const char *const *metadata_values, int64_t n_metadata,
                            rb_error *err);

/* Gives the data of tensor `index` when its turn to be written comes. The data is read before the next call. */
typedef rb_status (*safetensors_source)(void *user, int64_t index, const void **data, rb_error *err);
/* Writes the same file without all of its data in memory: tensors[i].data is not used. */
rb_status safetensors_write_from(const char *path, const safetensor *tensors, int64_t n_tensors,
                                 safetensors_source source, void *user, const char *const *metadata_keys,
                                 const char *const *metadata_values, int64_t n_metadata, rb_error *err);

#endif
