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
 * overlap or a hole. Empty tensors (a 0 in the shape) are legal. A file that another process cuts ends this one with a
 * sentence (core/mapped_file.h). */
#ifndef RB_MODEL_SAFETENSORS_H
#define RB_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tensor_dtype.h"

enum { SAFETENSORS_MAX_RANK = 8 };

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
/* Fails when the file is shorter by now: what was read last may be zeros. */
rb_status safetensors_check_whole(const safetensors_file *file, rb_error *err);
/* Where a tensor of the file starts, for readers that do not want it mapped. */
int64_t safetensors_offset(const safetensors_file *file, const safetensor *tensor);
/* Tells the kernel that these pages will not be needed soon. This keeps resident memory at one layer. */
void safetensors_release(const safetensors_file *file, const safetensor *tensor);

/* The same for a stretch of any mapping. */
void tensor_release_pages(const void *data, size_t size_bytes);

/* Elements [first, first + count) as float: F32, F16, BF16, or a block type, of which the range must be whole blocks.
 * The range is the caller's promise. Fails with RB_EUNSUPPORTED on another dtype. */
rb_status safetensor_to_f32(const safetensor *tensor, int64_t first, int64_t count, float *out, rb_error *err);

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
