/* Element types of tensors: names, sizes, and the conversion of the float ones to f32 and back.
 *
 * Data is little-endian and may sit at any byte offset of the mapping, so elements are loaded by memcpy; the compiler
 * turns the loops into unaligned vector loads. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"
#include "model/gguf/gguf_dequantize.h"
#include "model/safetensors.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "safetensors and GGUF data are little-endian and are used as they lie in the file");

static const struct {
    const char *name;
    tensor_block block;
} DTYPES[TENSOR_N_DTYPES] = {
    [TENSOR_BOOL] = {"BOOL", {1, 1}},       [TENSOR_U8] = {"U8", {1, 1}},
    [TENSOR_I8] = {"I8", {1, 1}},           [TENSOR_F8_E4M3] = {"F8_E4M3", {1, 1}},
    [TENSOR_F8_E5M2] = {"F8_E5M2", {1, 1}}, [TENSOR_U16] = {"U16", {1, 2}},
    [TENSOR_I16] = {"I16", {1, 2}},         [TENSOR_F16] = {"F16", {1, 2}},
    [TENSOR_BF16] = {"BF16", {1, 2}},       [TENSOR_U32] = {"U32", {1, 4}},
    [TENSOR_I32] = {"I32", {1, 4}},         [TENSOR_F32] = {"F32", {1, 4}},
    [TENSOR_U64] = {"U64", {1, 8}},         [TENSOR_I64] = {"I64", {1, 8}},
    [TENSOR_F64] = {"F64", {1, 8}},         [TENSOR_Q4_0] = {"Q4_0", {32, 18}},
    [TENSOR_Q4_1] = {"Q4_1", {32, 20}},     [TENSOR_Q5_0] = {"Q5_0", {32, 22}},
    [TENSOR_Q5_1] = {"Q5_1", {32, 24}},     [TENSOR_Q8_0] = {"Q8_0", {32, 34}},
    [TENSOR_Q4_K] = {"Q4_K", {256, 144}},   [TENSOR_Q5_K] = {"Q5_K", {256, 176}},
    [TENSOR_Q6_K] = {"Q6_K", {256, 210}},
};

const char *tensor_dtype_name(tensor_dtype dtype) { return DTYPES[dtype].name; }

tensor_block tensor_dtype_block(tensor_dtype dtype) { return DTYPES[dtype].block; }

bool tensor_dtype_is_block(tensor_dtype dtype) { return DTYPES[dtype].block.n_elements > 1; }

size_t tensor_dtype_size(tensor_dtype dtype)
{
    assert(!tensor_dtype_is_block(dtype));
    return DTYPES[dtype].block.size_bytes;
}

bool tensor_dtype_find(const char *name, tensor_dtype *dtype)
{
    for (size_t i = 0; i < RB_COUNT(DTYPES); i++) {
        if (tensor_dtype_is_block((tensor_dtype)i) || strcmp(DTYPES[i].name, name) != 0) continue;
        *dtype = (tensor_dtype)i;
        return true;
    }
    return false;
}

/* What tensor_from_f32 writes. */
static bool is_plain_float(tensor_dtype dtype)
{
    return dtype == TENSOR_F32 || dtype == TENSOR_F16 || dtype == TENSOR_BF16;
}

bool tensor_dtype_is_float(tensor_dtype dtype) { return is_plain_float(dtype) || tensor_dtype_is_block(dtype); }

bool tensor_shape_bytes(tensor_dtype dtype, int rank, const int64_t *shape, size_t *size_bytes)
{
    const tensor_block block = tensor_dtype_block(dtype);
    size_t product = block.size_bytes;
    for (int i = 0; i < rank; i++) {
        const int64_t n = i + 1 < rank ? shape[i] : shape[i] / block.n_elements;
        if (shape[i] < 0 || __builtin_mul_overflow(product, (size_t)n, &product)) return false;
    }
    *size_bytes = product;
    return block.n_elements == 1 || (rank > 0 && shape[rank - 1] % block.n_elements == 0);
}

RB_CPU_CLONES static void bf16_to_f32(const unsigned char *restrict data, int64_t count, float *restrict out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + i * 2, sizeof bits);
        out[i] = rb_bf16_to_f32(bits);
    }
}

RB_CPU_CLONES static void f16_to_f32(const unsigned char *restrict data, int64_t count, float *restrict out)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, data + i * 2, sizeof bits);
        out[i] = rb_f16_to_f32(bits);
    }
}

rb_status safetensor_to_f32(const safetensor *tensor, int64_t first, int64_t count, float *out, rb_error *err)
{
    if (!tensor_dtype_is_float(tensor->dtype))
        return rb_fail(err, RB_EUNSUPPORTED, "tensor \"%s\" is %s, expected F32, F16 or BF16", tensor->name,
                       tensor_dtype_name(tensor->dtype));
    const tensor_block block = tensor_dtype_block(tensor->dtype);
    const int64_t n_blocks = count / block.n_elements, first_block = first / block.n_elements;
    assert(first >= 0 && count >= 0 && first % block.n_elements == 0 && count % block.n_elements == 0);
    assert((size_t)(first_block + n_blocks) <= tensor->size_bytes / block.size_bytes);
    if (count == 0) return RB_OK;

    const unsigned char *data = (const unsigned char *)tensor->data + (size_t)first_block * block.size_bytes;
    if (tensor->dtype == TENSOR_F32) memcpy(out, data, (size_t)count * sizeof *out);
    else if (tensor->dtype == TENSOR_F16) f16_to_f32(data, count, out);
    else if (tensor->dtype == TENSOR_BF16) bf16_to_f32(data, count, out);
    else gguf_dequantize(tensor->dtype, data, n_blocks, out);
    return RB_OK;
}

rb_status tensor_from_f32(tensor_dtype dtype, const float *x, int64_t count, void *out, rb_error *err)
{
    const float largest = dtype == TENSOR_F16 ? 0x1.ffcp15f : dtype == TENSOR_BF16 ? 0x1.fep127f : FLT_MAX;
    unsigned char *bytes = out;
    if (!is_plain_float(dtype))
        return rb_fail(err, RB_EUNSUPPORTED, "dtype is %s, expected F32, F16 or BF16", tensor_dtype_name(dtype));
    for (int64_t i = 0; i < count; i++) {
        const uint16_t half = dtype == TENSOR_F16 ? rb_f32_to_f16(x[i]) : rb_f32_to_bf16(x[i]);
        const float rounded = dtype == TENSOR_F32   ? x[i]
                              : dtype == TENSOR_F16 ? rb_f16_to_f32(half)
                                                    : rb_bf16_to_f32(half);
        if (!isfinite(rounded))
            return rb_fail(err, RB_ENONFINITE, "%g does not fit %s, expected %g at most", (double)x[i],
                           tensor_dtype_name(dtype), (double)largest);
        if (dtype == TENSOR_F32) memcpy(bytes + i * 4, &rounded, sizeof rounded);
        else memcpy(bytes + i * 2, &half, sizeof half);
    }
    return RB_OK;
}
