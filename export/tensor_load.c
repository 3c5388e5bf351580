/* See export/tensor_load.h. */
#include "export/tensor_load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/npy_header.h"
#include "calibrate/npz_file.h"
#include "core/atomic_file.h"

#define RAW_ENDING ".f32"
static const size_t MAX_BYTES = (size_t)1 << 32; /* of a .npy and of a raw file */

/* ---- .npy and raw: the whole file, from which the data is moved to the front ----------------- */

static rb_status parse_npy(safetensor *out, char *bytes, size_t size_bytes, const char *path, rb_error *err)
{
    const unsigned char *start = (const unsigned char *)bytes;
    const size_t n_length = size_bytes >= NPY_START_BYTES ? npy_length_bytes(start) : 0;
    const size_t length = n_length ? npy_header_length(start) : 0, header_at = NPY_PREFIX_BYTES + n_length;
    char *header = NULL;
    rb_status st;
    if (n_length == 0 || length > NPY_MAX_HEADER_BYTES || header_at + length > size_bytes)
        return rb_fail(err, RB_EFORMAT, "%s: it ends within its header, or is no .npy of version 1.0 to 3.0", path);
    RB_TRY(st, rb_format(&header, err, "%.*s", (int)length, bytes + header_at), done);
    RB_TRY(st, npy_header_parse(out, header, path, err), done);
    if (!tensor_shape_bytes(out->dtype, out->rank, out->shape, &out->size_bytes)
        || size_bytes - header_at - length != out->size_bytes) {
        st = rb_fail(err, RB_EFORMAT, "%s: %zu bytes of data, expected those of the shape in its header", path,
                     size_bytes - header_at - length);
        goto done;
    }
    memmove(bytes, bytes + header_at + length, out->size_bytes);
done:
    free(header);
    return st;
}

static rb_status load_bytes(safetensor *out, const char *path, bool is_raw, rb_error *err)
{
    char *bytes = NULL;
    size_t size_bytes;
    rb_status st;
    RB_TRY(st, rb_read_file(&bytes, &size_bytes, path, MAX_BYTES, err), done);
    if (!is_raw) {
        RB_TRY(st, parse_npy(out, bytes, size_bytes, path, err), done);
    } else if (size_bytes % sizeof(float) != 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: %zu bytes, expected f32 numbers of 4 bytes each", path, size_bytes);
        goto done;
    } else {
        *out = (safetensor){
            .dtype = TENSOR_F32, .rank = 1, .shape = {(int64_t)(size_bytes / sizeof(float))}, .size_bytes = size_bytes};
    }
    out->data = bytes;
    bytes = NULL;
done:
    free(bytes);
    return st;
}

/* ---- .npz and .safetensors ------------------------------------------------------------------- */

static rb_status fail_name(const char *path, const char *name, int64_t n, const char *first, rb_error *err)
{
    if (n == 0) return rb_fail(err, RB_EFORMAT, "%s: no arrays in it", path);
    if (!name)
        return rb_fail(err, RB_EFORMAT, "%s: %lld arrays in it, the first is \"%s\": expected one, or its name", path,
                       (long long)n, first);
    return rb_fail(err, RB_EFORMAT, "%s: no array \"%s\" among its %lld, the first is \"%s\"", path, name, (long long)n,
                   first);
}

static rb_status load_npz(safetensor *out, const char *path, const char *name, rb_error *err)
{
    npz_file *file = NULL;
    void *data = NULL;
    rb_status st;
    RB_TRY(st, npz_open(&file, path, err), done);
    const int64_t n = npz_count(file);
    int64_t at = name ? 0 : n == 1 ? 0 : n;
    while (name && at < n && strcmp(npz_at(file, at)->name, name) != 0) at++;
    if (at >= n) {
        st = fail_name(path, name, n, n > 0 ? npz_at(file, 0)->name : "", err);
        goto done;
    }
    RB_TRY(st, npz_load(file, at, &data, err), done);
    *out = *npz_at(file, at);
    out->data = data;
done:
    npz_close(file);
    return st;
}

static rb_status load_safetensors(safetensor *out, const char *path, const char *name, rb_error *err)
{
    safetensors_file *file = NULL;
    const safetensor *found;
    void *data = NULL;
    rb_status st;
    RB_TRY(st, safetensors_open(&file, path, err), done);
    const int64_t n = safetensors_count(file);
    found = name ? safetensors_find(file, name) : n == 1 ? safetensors_at(file, 0) : NULL;
    if (!found) {
        st = fail_name(path, name, n, n > 0 ? safetensors_at(file, 0)->name : "", err);
        goto done;
    }
    RB_TRY(st, rb_alloc(&data, found->size_bytes, 1, "vectors", err), done);
    memcpy(data, found->data, found->size_bytes);
    RB_TRY(st, safetensors_check_whole(file, err), done);
    *out = *found;
    out->data = data;
    data = NULL;
done:
    free(data);
    safetensors_close(file);
    return st;
}

/* ---- all ------------------------------------------------------------------------------------- */

static bool ends_in(const char *path, const char *ending)
{
    const size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

rb_status tensor_load(safetensor *out, const char *path, const char *name, rb_error *err)
{
    char start[NPY_PREFIX_BYTES + 1] = {0};
    const bool is_raw = ends_in(path, RAW_ENDING);
    rb_status st;
    *out = (safetensor){0};
    FILE *in = fopen(path, "rb");
    if (!in) return rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
    const size_t n = fread(start, 1, sizeof start, in);
    fclose(in);
    if (is_raw || memcmp(start, NPY_MAGIC, strlen(NPY_MAGIC)) == 0) st = load_bytes(out, path, is_raw, err);
    else if (start[0] == 'P' && start[1] == 'K') st = load_npz(out, path, name, err);
    else if (n == sizeof start && start[NPY_PREFIX_BYTES] == '{') st = load_safetensors(out, path, name, err);
    else
        st = rb_fail(err, RB_EFORMAT, "%s: none of .npy, .npz, .safetensors, .f32 and a capture of ropebits calibrate",
                     path);
    out->name = name;
    return st;
}

static rb_status check_shape(int64_t *n, const safetensor *tensor, int dims, const char *path, rb_error *err)
{
    const int64_t last = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 0;
    const bool is_number = tensor_dtype_is_float(tensor->dtype) || tensor->dtype == TENSOR_F64;
    if (!is_number)
        return rb_fail(err, RB_EINVAL, "%s: its numbers are %s, expected F64, F32, F16 or BF16", path,
                       tensor_dtype_name(tensor->dtype));
    if (tensor->size_bytes == 0 || last % dims != 0 || (last != dims && tensor->rank > 1))
        return rb_fail(err, RB_EINVAL, "%s: its last dim is %lld, expected vectors of %d", path, (long long)last, dims);
    *n = (int64_t)(tensor->size_bytes / tensor_dtype_size(tensor->dtype)) / dims;
    return RB_OK;
}

rb_status tensor_vectors(float **out, int64_t *n, const safetensor *tensor, int dims, const char *path, rb_error *err)
{
    float *x = NULL;
    rb_status st;
    RB_TRY(st, check_shape(n, tensor, dims, path, err), done);
    RB_TRY(st, rb_alloc(&x, (size_t)*n, (size_t)dims * sizeof *x, "vectors", err), done);
    if (tensor->dtype != TENSOR_F64) RB_TRY(st, safetensor_to_f32(tensor, 0, *n * dims, x, err), done);
    for (int64_t i = 0; i < *n * dims && tensor->dtype == TENSOR_F64; i++) {
        double value;
        memcpy(&value, (const char *)tensor->data + i * (int64_t)sizeof value, sizeof value);
        x[i] = (float)value;
    }
    *out = x;
    x = NULL;
done:
    free(x);
    return st;
}
