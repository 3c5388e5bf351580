/* Element types of safetensors: names, sizes, and the conversion of the float ones to f32 and back.
 *
 * Data is little-endian and may sit at any byte offset of the mapping, so elements are loaded by memcpy; the compiler
 * turns the loops into unaligned vector loads. */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"
#include "model/safetensors.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "safetensors data is little-endian and is used as it lies in the file");

static const struct {
    const char *name;
    size_t size_bytes;
} DTYPES[] = {
    [TENSOR_BOOL] = {"BOOL", 1},       [TENSOR_U8] = {"U8", 1},           [TENSOR_I8] = {"I8", 1},
    [TENSOR_F8_E4M3] = {"F8_E4M3", 1}, [TENSOR_F8_E5M2] = {"F8_E5M2", 1}, [TENSOR_U16] = {"U16", 2},
    [TENSOR_I16] = {"I16", 2},         [TENSOR_F16] = {"F16", 2},         [TENSOR_BF16] = {"BF16", 2},
    [TENSOR_U32] = {"U32", 4},         [TENSOR_I32] = {"I32", 4},         [TENSOR_F32] = {"F32", 4},
    [TENSOR_U64] = {"U64", 8},         [TENSOR_I64] = {"I64", 8},         [TENSOR_F64] = {"F64", 8},
};

const char *tensor_dtype_name(tensor_dtype dtype) { return DTYPES[dtype].name; }

size_t tensor_dtype_size(tensor_dtype dtype) { return DTYPES[dtype].size_bytes; }

bool tensor_dtype_find(const char *name, tensor_dtype *dtype)
{
    for (size_t i = 0; i < RB_COUNT(DTYPES); i++) {
        if (strcmp(DTYPES[i].name, name) != 0) continue;
        *dtype = (tensor_dtype)i;
        return true;
    }
    return false;
}

bool tensor_dtype_is_float(tensor_dtype dtype)
{
    return dtype == TENSOR_F32 || dtype == TENSOR_F16 || dtype == TENSOR_BF16;
}

bool tensor_shape_bytes(tensor_dtype dtype, int rank, const int64_t *shape, size_t *size_bytes)
{
    size_t product = tensor_dtype_size(dtype);
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(product, (size_t)shape[i], &product)) return false;
    *size_bytes = product;
    return true;
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
    const size_t elem_size = tensor_dtype_size(tensor->dtype);
    assert(first >= 0 && count >= 0 && (size_t)first + (size_t)count <= tensor->size_bytes / elem_size);
    if (count == 0) return RB_OK;

    const unsigned char *data = (const unsigned char *)tensor->data + (size_t)first * elem_size;
    if (tensor->dtype == TENSOR_F32) memcpy(out, data, (size_t)count * sizeof *out);
    else if (tensor->dtype == TENSOR_F16) f16_to_f32(data, count, out);
    else bf16_to_f32(data, count, out);
    return RB_OK;
}

rb_status tensor_from_f32(tensor_dtype dtype, const float *x, int64_t count, void *out, rb_error *err)
{
    const float largest = dtype == TENSOR_F16 ? 0x1.ffcp15f : dtype == TENSOR_BF16 ? 0x1.fep127f : FLT_MAX;
    unsigned char *bytes = out;
    if (!tensor_dtype_is_float(dtype))
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
