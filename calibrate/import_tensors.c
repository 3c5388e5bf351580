/* Tensors of several files: see calibrate/import_tensors.h. */
#include "calibrate/import_tensors.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/npz_file.h"

/* One of both is open. */
typedef struct import_file {
    const char *path;
    safetensors_file *safetensors;
    npz_file *npz;
    bool *is_read; /* [count] */
} import_file;

struct import_tensors {
    int n_files;
    import_file *files;
};

static int64_t count_of(const import_file *file)
{
    return file->npz ? npz_count(file->npz) : safetensors_count(file->safetensors);
}

static const safetensor *tensor_of(const import_file *file, int64_t index)
{
    return file->npz ? npz_at(file->npz, index) : safetensors_at(file->safetensors, index);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* A zip begins with "PK"; a safetensors file has 8 bytes of length and then a '{'. */
static rb_status is_zip(bool *out, const char *path, rb_error *err)
{
    unsigned char start[9];
    FILE *in = fopen(path, "rb");
    if (!in) return rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
    const size_t n = fread(start, 1, sizeof start, in);
    fclose(in);
    *out = n >= 2 && start[0] == 'P' && start[1] == 'K';
    if (*out || (n == sizeof start && start[8] == '{')) return RB_OK;
    return rb_fail(err, RB_EFORMAT, "%s: neither a .safetensors nor an .npz file", path);
}

static rb_status open_file(import_file *file, const char *path, rb_error *err)
{
    bool zip;
    rb_status st;
    file->path = path;
    RB_TRY(st, is_zip(&zip, path, err), done);
    RB_TRY(st, zip ? npz_open(&file->npz, path, err) : safetensors_open(&file->safetensors, path, err), done);
    RB_TRY(st, rb_alloc(&file->is_read, (size_t)count_of(file), sizeof *file->is_read, "tensor marks", err), done);
done:
    return st;
}

static int compare_names(const void *a, const void *b)
{
    const import_tensor *x = a, *y = b;
    const int order = strcmp(x->tensor->name, y->tensor->name);
    return order != 0 ? order : x->file - y->file;
}

static rb_status check_names(const import_tensors *tensors, rb_error *err)
{
    import_tensor *all = NULL;
    int64_t n = 0, at = 0;
    for (int i = 0; i < tensors->n_files; i++) n += count_of(&tensors->files[i]);
    rb_status st = rb_alloc(&all, (size_t)n, sizeof *all, "tensor names", err);
    if (st != RB_OK) return st;
    for (int i = 0; i < tensors->n_files; i++)
        for (int64_t t = 0; t < count_of(&tensors->files[i]); t++)
            all[at++] = (import_tensor){tensor_of(&tensors->files[i], t), tensors->files[i].path, i, t};
    qsort(all, (size_t)n, sizeof *all, compare_names);
    for (int64_t i = 1; i < n && st == RB_OK; i++)
        if (strcmp(all[i - 1].tensor->name, all[i].tensor->name) == 0)
            st = rb_fail(err, RB_EFORMAT, "tensor \"%s\" is in %s and in %s, expected in one of them",
                         all[i].tensor->name, all[i - 1].path, all[i].path);
    free(all);
    return st;
}

rb_status import_tensors_open(import_tensors **out, const rb_string_list *paths, rb_error *err)
{
    import_tensors *tensors = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&tensors, 1, sizeof *tensors, "tensors", err), done);
    RB_TRY(st, rb_alloc(&tensors->files, (size_t)paths->n, sizeof *tensors->files, "tensor files", err), done);
    for (; tensors->n_files < paths->n; tensors->n_files++)
        RB_TRY(st, open_file(&tensors->files[tensors->n_files], paths->at[tensors->n_files], err), done);
    RB_TRY(st, check_names(tensors, err), done);
    *out = tensors;
    tensors = NULL;
done:
    import_tensors_close(tensors);
    return st;
}

void import_tensors_close(import_tensors *tensors)
{
    if (!tensors) return;
    for (int i = 0; i < tensors->n_files; i++) {
        safetensors_close(tensors->files[i].safetensors);
        npz_close(tensors->files[i].npz);
        free(tensors->files[i].is_read);
    }
    free(tensors->files);
    free(tensors);
}

/* ---- names ----------------------------------------------------------------------------------- */

static int64_t index_in(const import_file *file, const char *name)
{
    if (!file->npz) {
        const safetensor *found = safetensors_find(file->safetensors, name);
        return found ? found - safetensors_at(file->safetensors, 0) : -1;
    }
    for (int64_t i = 0; i < npz_count(file->npz); i++)
        if (strcmp(npz_at(file->npz, i)->name, name) == 0) return i;
    return -1;
}

bool import_tensors_find(const import_tensors *tensors, const char *name, import_tensor *out)
{
    for (int i = 0; i < tensors->n_files; i++) {
        const int64_t index = index_in(&tensors->files[i], name);
        if (index < 0) continue;
        *out = (import_tensor){tensor_of(&tensors->files[i], index), tensors->files[i].path, i, index};
        return true;
    }
    return false;
}

void import_tensors_mark(import_tensors *tensors, const import_tensor *found)
{
    tensors->files[found->file].is_read[found->index] = true;
}

int64_t import_tensors_unread(const import_tensors *tensors, const char **first)
{
    int64_t n = 0;
    *first = NULL;
    for (int i = 0; i < tensors->n_files; i++) {
        const import_file *file = &tensors->files[i];
        for (int64_t t = 0; t < count_of(file); t++)
            if (!file->is_read[t] && n++ == 0) *first = tensor_of(file, t)->name;
    }
    return n;
}

const char *import_tensors_metadata(const import_tensors *tensors, const char *key)
{
    for (int i = 0; i < tensors->n_files; i++) {
        if (!tensors->files[i].safetensors) continue;
        const char *value = safetensors_metadata(tensors->files[i].safetensors, key);
        if (value) return value;
    }
    return NULL;
}

/* ---- elements -------------------------------------------------------------------------------- */

/* The tensor with its data; owned is what the caller frees. */
static rb_status load(safetensor *out, void **owned, const import_tensors *tensors, const import_tensor *from,
                      rb_error *err)
{
    const import_file *file = &tensors->files[from->file];
    *out = *from->tensor;
    *owned = NULL;
    if (!file->npz) return RB_OK;
    const rb_status st = npz_load(file->npz, from->index, owned, err);
    out->data = *owned;
    return st;
}

/* Pages of a mapped file are read once. */
static void unload(const import_tensors *tensors, const import_tensor *from, void *owned)
{
    const import_file *file = &tensors->files[from->file];
    if (file->safetensors) safetensors_release(file->safetensors, from->tensor);
    free(owned);
}

static rb_status fail_dtype(const import_tensor *from, const char *expected, rb_error *err)
{
    return rb_fail(err, RB_EUNSUPPORTED, "%s: tensor \"%s\" is %s, expected %s", from->path, from->tensor->name,
                   tensor_dtype_name(from->tensor->dtype), expected);
}

rb_status import_tensor_floats(const import_tensors *tensors, const import_tensor *from, int64_t first, int64_t count,
                               float *out, rb_error *err)
{
    const int64_t *shape = from->tensor->shape;
    safetensor tensor;
    void *owned = NULL;
    rb_status st;
    assert(from->tensor->rank == 3 && first >= 0 && first + count <= shape[1]);
    if (!tensor_dtype_is_float(from->tensor->dtype)) return fail_dtype(from, "F32, F16 or BF16", err);
    RB_TRY(st, load(&tensor, &owned, tensors, from, err), done);
    for (int64_t head = 0; head < shape[0]; head++)
        RB_TRY(st,
               safetensor_to_f32(&tensor, (head * shape[1] + first) * shape[2], count * shape[2],
                                 out + head * count * shape[2], err),
               done);
done:
    unload(tensors, from, owned);
    return st;
}

static int64_t n_elements(const safetensor *tensor)
{
    return (int64_t)(tensor->size_bytes / tensor_dtype_size(tensor->dtype));
}

rb_status import_tensor_numbers(const import_tensors *tensors, const import_tensor *from, double *out, rb_error *err)
{
    const int64_t n = n_elements(from->tensor);
    safetensor tensor;
    void *owned = NULL;
    rb_status st;
    if (from->tensor->dtype != TENSOR_F64 && !tensor_dtype_is_float(from->tensor->dtype))
        return fail_dtype(from, "F64, F32, F16 or BF16", err);
    RB_TRY(st, load(&tensor, &owned, tensors, from, err), done);
    if (tensor.dtype == TENSOR_F64) {
        if (n > 0) memcpy(out, tensor.data, (size_t)n * sizeof *out);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        float value;
        RB_TRY(st, safetensor_to_f32(&tensor, i, 1, &value, err), done);
        out[i] = value;
    }
done:
    unload(tensors, from, owned);
    return st;
}

rb_status import_tensor_ids(const import_tensors *tensors, const import_tensor *from, int32_t *out, rb_error *err)
{
    const int64_t n = n_elements(from->tensor);
    safetensor tensor;
    void *owned = NULL;
    rb_status st;
    if (from->tensor->dtype != TENSOR_I32 && from->tensor->dtype != TENSOR_I64)
        return fail_dtype(from, "I32 or I64", err);
    RB_TRY(st, load(&tensor, &owned, tensors, from, err), done);
    for (int64_t i = 0; i < n; i++) {
        int64_t id;
        int32_t short_id;
        if (tensor.dtype == TENSOR_I64) {
            memcpy(&id, (const char *)tensor.data + i * (int64_t)sizeof id, sizeof id);
        } else {
            memcpy(&short_id, (const char *)tensor.data + i * (int64_t)sizeof short_id, sizeof short_id);
            id = short_id;
        }
        if (id < 0 || id > INT32_MAX) {
            st = rb_fail(err, RB_EINVAL, "%s: tensor \"%s\": id %" PRId64 " is %" PRId64 ", expected 0 to %d",
                         from->path, from->tensor->name, i, id, INT32_MAX);
            goto done;
        }
        out[i] = (int32_t)id;
    }
done:
    unload(tensors, from, owned);
    return st;
}
