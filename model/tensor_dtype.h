/* Element types of tensors: those of safetensors, and the block types of GGUF.
 *
 * A block type stores elements in blocks of 32 or 256 that share scales. Blocks run along the last dim of a tensor, so
 * every row is a whole number of blocks (model/gguf/gguf_dequantize.h draws them). */
#ifndef RB_MODEL_TENSOR_DTYPE_H
#define RB_MODEL_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

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
    TENSOR_F64,
    /* block types, in GGUF only */
    TENSOR_Q4_0,
    TENSOR_Q4_1,
    TENSOR_Q5_0,
    TENSOR_Q5_1,
    TENSOR_Q8_0,
    TENSOR_Q4_K,
    TENSOR_Q5_K,
    TENSOR_Q6_K,
    TENSOR_N_DTYPES
} tensor_dtype;

/* Elements and bytes of a block; one element for the types of safetensors. */
typedef struct tensor_block {
    int64_t n_elements;
    size_t size_bytes;
} tensor_block;

const char *tensor_dtype_name(tensor_dtype dtype); /* "BF16" */
tensor_block tensor_dtype_block(tensor_dtype dtype);
bool tensor_dtype_is_block(tensor_dtype dtype);
size_t tensor_dtype_size(tensor_dtype dtype);                  /* bytes of an element; not for block types */
bool tensor_dtype_find(const char *name, tensor_dtype *dtype); /* false: not a dtype of safetensors */
/* F32, F16, BF16 or a block type: what safetensor_to_f32 reads. */
bool tensor_dtype_is_float(tensor_dtype dtype);
/* Bytes of rank dims of dtype; false when a dim is negative, the last one is not a whole number of blocks, or the
 * product overflows. */
bool tensor_shape_bytes(tensor_dtype dtype, int rank, const int64_t *shape, size_t *size_bytes);

/* Writes count floats as elements of dtype, rounded to nearest even, into out (count * tensor_dtype_size bytes, any
 * alignment). Fails with RB_ENONFINITE on a value that is not finite or does not fit, and with RB_EUNSUPPORTED on a
 * dtype other than F32, F16 and BF16. */
rb_status tensor_from_f32(tensor_dtype dtype, const float *x, int64_t count, void *out, rb_error *err);

#endif
