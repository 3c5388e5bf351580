/* See core/hdf5/hdf5_elements.h. HDF5 converts between f16 and f32 bit by bit; core/half.h in a plain loop runs at the
 * speed of memory. */
#include "core/hdf5/hdf5_elements.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "elements are copied between memory and the little-endian file as they are");

static const float F16_MAX = 65504;

/* ---- element types --------------------------------------------------------------------------- */

size_t rb_h5_file_bytes(rb_h5_type type)
{
    static const size_t bytes[] = {
        [RB_H5_F16] = 2, [RB_H5_F32] = 4, [RB_H5_F64] = 8, [RB_H5_I32] = 4, [RB_H5_U8] = 1, [RB_H5_F16_BITS] = 2};
    return bytes[type];
}

size_t rb_h5_memory_bytes(rb_h5_type type) { return type == RB_H5_F16 ? sizeof(float) : rb_h5_file_bytes(type); }

/* IEEE binary16 as h5py describes it: sign 15, exponent 10..14 with bias 15, mantissa 0..9. */
static hid_t make_f16_type(void)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0
        && (H5Tset_fields(type, 15, 10, 5, 0, 10) < 0 || H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, 15) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

hid_t rb_h5_make_type(rb_h5_type type)
{
    switch (type) {
    case RB_H5_F16:
    case RB_H5_F16_BITS: return make_f16_type();
    case RB_H5_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case RB_H5_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case RB_H5_I32: return H5Tcopy(H5T_STD_I32LE);
    case RB_H5_U8: return H5Tcopy(H5T_STD_U8LE);
    }
    return -1;
}

const char *rb_h5_type_name(rb_h5_type type)
{
    static const char *const names[] = {[RB_H5_F16] = "f16", [RB_H5_F32] = "f32", [RB_H5_F64] = "f64",
                                        [RB_H5_I32] = "i32", [RB_H5_U8] = "u8",   [RB_H5_F16_BITS] = "f16"};
    return names[type];
}

RB_CPU_CLONES static void f16_from_floats(uint16_t *restrict out, const float *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = rb_f32_to_f16(x[i]);
}

RB_CPU_CLONES static void floats_from_f16(float *restrict out, const uint16_t *restrict x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) out[i] = rb_f16_to_f32(x[i]);
}

void rb_h5_to_file(rb_h5_type type, void *stored, const void *memory, int64_t n)
{
    if (type == RB_H5_F16) f16_from_floats(stored, memory, n);
    else memcpy(stored, memory, (size_t)n * rb_h5_file_bytes(type));
}

void rb_h5_from_file(rb_h5_type type, void *memory, const void *stored, int64_t n)
{
    if (type == RB_H5_F16) floats_from_f16(memory, stored, n);
    else memcpy(memory, stored, (size_t)n * rb_h5_file_bytes(type));
}

/* ---- values that do not fit ------------------------------------------------------------------ */

RB_CPU_CLONES static bool floats_fit(const float *x, int64_t n, float limit)
{
    int n_bad = 0;
    for (int64_t i = 0; i < n; i++) n_bad |= !(fabsf(x[i]) <= limit);
    return n_bad == 0;
}

RB_CPU_CLONES static bool doubles_fit(const double *x, int64_t n)
{
    int n_bad = 0;
    for (int64_t i = 0; i < n; i++) n_bad |= !isfinite(x[i]);
    return n_bad == 0;
}

RB_CPU_CLONES static bool halves_fit(const uint16_t *x, int64_t n)
{
    int n_bad = 0;
    for (int64_t i = 0; i < n; i++) n_bad |= (x[i] & 0x7c00) == 0x7c00;
    return n_bad == 0;
}

bool rb_h5_fits(rb_h5_type type, const void *memory, int64_t n)
{
    switch (type) {
    case RB_H5_F16: return floats_fit(memory, n, F16_MAX);
    case RB_H5_F32: return floats_fit(memory, n, FLT_MAX);
    case RB_H5_F64: return doubles_fit(memory, n);
    case RB_H5_F16_BITS: return halves_fit(memory, n);
    default: return true;
    }
}

int64_t rb_h5_first_unfit(rb_h5_type type, const void *data, int64_t n)
{
    enum { STRETCH = 1 << 14 };
    const char *at = data;
    const int64_t size = (int64_t)rb_h5_memory_bytes(type);
    int64_t first = 0;
    while (first < n && rb_h5_fits(type, at + first * size, n - first < STRETCH ? n - first : STRETCH))
        first += STRETCH;
    while (first < n && rb_h5_fits(type, at + first * size, 1)) first++;
    return first < n ? first : -1;
}

double rb_h5_value(rb_h5_type type, const void *data, int64_t index)
{
    if (type == RB_H5_F64) return ((const double *)data)[index];
    if (type == RB_H5_F16_BITS) return (double)rb_f16_to_f32(((const uint16_t *)data)[index]);
    return (double)((const float *)data)[index];
}

rb_h5_unfit rb_h5_describe_unfit(rb_h5_type type, const void *data, int64_t index)
{
    const double value = rb_h5_value(type, data, index);
    rb_h5_unfit unfit;
    if (isfinite(value))
        snprintf(unfit.text, sizeof unfit.text, "value %g at index %lld does not fit f16, whose largest is %g", value,
                 (long long)index, (double)F16_MAX);
    else snprintf(unfit.text, sizeof unfit.text, "value %g at index %lld is not finite", value, (long long)index);
    return unfit;
}

/* ---- shapes ---------------------------------------------------------------------------------- */

void rb_h5_format_shape(char *text, size_t size, int rank, const int64_t *dims)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < rank && used < size; i++) {
        const int n = snprintf(text + used, size - used, i ? " x %lld" : "%lld", (long long)dims[i]);
        if (n < 0) return;
        used += (size_t)n;
    }
}

bool rb_h5_count_elements(rb_h5_type type, int rank, const int64_t *dims, int64_t *n)
{
    int64_t n_bytes = (int64_t)rb_h5_memory_bytes(type);
    for (int i = 0; i < rank; i++)
        if (dims[i] <= 0 || __builtin_mul_overflow(n_bytes, dims[i], &n_bytes)) return false;
    *n = n_bytes / (int64_t)rb_h5_memory_bytes(type);
    return true;
}
