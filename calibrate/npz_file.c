/* The .npz reader: see calibrate/npz_file.h. */
#include "calibrate/npz_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "calibrate/npy_header.h"

#define NPY_ENDING ".npy"

typedef struct npz_array {
    safetensor tensor; /* name is owned */
    zip_uint64_t entry;
    size_t data_offset; /* in the entry: after the header */
} npz_array;

struct npz_file {
    char *path;
    zip_t *zip;
    npz_array *arrays;
    int64_t n_arrays;
};

/* ---- the zip --------------------------------------------------------------------------------- */

static rb_status open_zip(npz_file *file, rb_error *err)
{
    int code = 0;
    file->zip = zip_open(file->path, ZIP_RDONLY, &code);
    if (file->zip) return RB_OK;
    const int system_error = errno;
    if (code == ZIP_ER_NOENT || code == ZIP_ER_OPEN || code == ZIP_ER_READ)
        return rb_fail(err, RB_EIO, "%s: cannot open: %s", file->path, strerror(system_error));
    zip_error_t why;
    zip_error_init_with_code(&why, code);
    const rb_status st = rb_fail(err, RB_EFORMAT, "%s: not a readable .npz: %s", file->path, zip_error_strerror(&why));
    zip_error_fini(&why);
    return st;
}

static rb_status fail_entry(const npz_file *file, const char *entry, const char *why, rb_error *err)
{
    return rb_fail(err, RB_EFORMAT, "%s: cannot read %s: %s", file->path, entry, why);
}

/* n bytes of an open entry; a shorter entry is an error. */
static rb_status read_entry(const npz_file *file, zip_file_t *in, const char *entry, void *out, size_t n, rb_error *err)
{
    for (size_t at = 0; at < n;) {
        const zip_int64_t got = zip_fread(in, (char *)out + at, n - at);
        if (got < 0) return fail_entry(file, entry, zip_file_strerror(in), err);
        if (got == 0) return fail_entry(file, entry, "it ends within its data", err);
        at += (size_t)got;
    }
    return RB_OK;
}

static rb_status open_entry(zip_file_t **in, const npz_file *file, zip_uint64_t entry, const char *name, rb_error *err)
{
    *in = zip_fopen_index(file->zip, entry, 0);
    return *in ? RB_OK : fail_entry(file, name, zip_strerror(file->zip), err);
}

/* ---- the header of an array ------------------------------------------------------------------ */

/* Everything before the data. header: NPY_MAX_HEADER_BYTES + 1, with a NUL at its end. */
static rb_status read_header(npz_array *array, char *header, const npz_file *file, zip_file_t *in, const char *entry,
                             rb_error *err)
{
    unsigned char start[NPY_START_BYTES] = {0};
    size_t length;
    rb_status st;
    RB_TRY(st, read_entry(file, in, entry, start, NPY_PREFIX_BYTES, err), done);
    const size_t n_length = npy_length_bytes(start);
    if (n_length == 0) return fail_entry(file, entry, "it is not an array of numpy (.npy 1.0 to 3.0)", err);
    RB_TRY(st, read_entry(file, in, entry, start + NPY_PREFIX_BYTES, n_length, err), done);
    length = npy_header_length(start);
    if (length > NPY_MAX_HEADER_BYTES) return fail_entry(file, entry, "its header is longer than 64 KiB", err);
    RB_TRY(st, read_entry(file, in, entry, header, length, err), done);
    header[length] = '\0';
    array->data_offset = NPY_PREFIX_BYTES + n_length + length;
done:
    return st;
}

static rb_status check_size(npz_array *array, zip_uint64_t entry_bytes, const char *where, rb_error *err)
{
    safetensor *tensor = &array->tensor;
    if (!tensor_shape_bytes(tensor->dtype, tensor->rank, tensor->shape, &tensor->size_bytes))
        return rb_fail(err, RB_EFORMAT, "%s: its shape overflows the address space", where);
    if (entry_bytes < array->data_offset || entry_bytes - array->data_offset != tensor->size_bytes)
        return rb_fail(err, RB_EFORMAT, "%s: the zip holds %llu bytes of it, expected %zu from its header", where,
                       (unsigned long long)entry_bytes, array->data_offset + tensor->size_bytes);
    return RB_OK;
}

/* ---- all arrays ------------------------------------------------------------------------------ */

static rb_status take_name(npz_array *array, const npz_file *file, const char *entry, rb_error *err)
{
    const size_t length = strlen(entry), ending = strlen(NPY_ENDING);
    char *name = NULL;
    if (length <= ending || strcmp(entry + length - ending, NPY_ENDING) != 0)
        return rb_fail(err, RB_EFORMAT, "%s: it holds %s, expected arrays (NAME.npy) only", file->path, entry);
    const rb_status st = rb_format(&name, err, "%.*s", (int)(length - ending), entry);
    if (st != RB_OK) return st;
    array->tensor.name = name;
    for (int64_t i = 0; &file->arrays[i] != array; i++)
        if (strcmp(file->arrays[i].tensor.name, name) == 0)
            return rb_fail(err, RB_EFORMAT, "%s: array \"%s\" is in it twice", file->path, name);
    return RB_OK;
}

static rb_status read_array(npz_array *array, char *header, const npz_file *file, rb_error *err)
{
    enum { WHERE_BYTES = 512 };
    char where[WHERE_BYTES];
    zip_stat_t info;
    zip_file_t *in = NULL;
    rb_status st;

    if (zip_stat_index(file->zip, array->entry, 0, &info) != 0 || !(info.valid & ZIP_STAT_NAME)
        || !(info.valid & ZIP_STAT_SIZE))
        return fail_entry(file, "an entry", zip_strerror(file->zip), err);
    RB_TRY(st, take_name(array, file, info.name, err), done);
    snprintf(where, sizeof where, "%s: array \"%s\"", file->path, array->tensor.name);
    RB_TRY(st, open_entry(&in, file, array->entry, info.name, err), done);
    RB_TRY(st, read_header(array, header, file, in, info.name, err), done);
    RB_TRY(st, npy_header_parse(&array->tensor, header, where, err), done);
    RB_TRY(st, check_size(array, info.size, where, err), done);
done:
    if (in) zip_fclose(in);
    return st;
}

rb_status npz_open(npz_file **out, const char *path, rb_error *err)
{
    npz_file *file = NULL;
    char *header = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&file, 1, sizeof *file, ".npz file", err), done);
    RB_TRY(st, rb_format(&file->path, err, "%s", path), done);
    RB_TRY(st, open_zip(file, err), done);
    const zip_int64_t n = zip_get_num_entries(file->zip, 0);
    RB_TRY(st, rb_alloc(&file->arrays, (size_t)n, sizeof *file->arrays, "array list", err), done);
    RB_TRY(st, rb_alloc(&header, NPY_MAX_HEADER_BYTES + 1, 1, "array header", err), done);
    for (; file->n_arrays < n; file->n_arrays++) {
        npz_array *array = &file->arrays[file->n_arrays];
        array->entry = (zip_uint64_t)file->n_arrays;
        st = read_array(array, header, file, err);
        if (st != RB_OK) {
            free((char *)array->tensor.name);
            goto done;
        }
    }
    *out = file;
    file = NULL;
done:
    free(header);
    npz_close(file);
    return st;
}

void npz_close(npz_file *file)
{
    if (!file) return;
    for (int64_t i = 0; i < file->n_arrays; i++) free((char *)file->arrays[i].tensor.name);
    if (file->zip) zip_discard(file->zip);
    free(file->arrays);
    free(file->path);
    free(file);
}

int64_t npz_count(const npz_file *file) { return file->n_arrays; }

const safetensor *npz_at(const npz_file *file, int64_t index) { return &file->arrays[index].tensor; }

rb_status npz_load(const npz_file *file, int64_t index, void **data, rb_error *err)
{
    const npz_array *array = &file->arrays[index];
    const char *name = array->tensor.name;
    char *bytes = NULL, past_end;
    zip_file_t *in = NULL;
    rb_status st;

    *data = NULL;
    const size_t n = array->data_offset + array->tensor.size_bytes;
    RB_TRY(st, rb_alloc(&bytes, n, 1, "array", err), done);
    RB_TRY(st, open_entry(&in, file, array->entry, name, err), done);
    RB_TRY(st, read_entry(file, in, name, bytes, n, err), done);
    /* libzip compares the CRC when it comes to the end. */
    if (zip_fread(in, &past_end, 1) != 0) RB_TRY(st, fail_entry(file, name, zip_file_strerror(in), err), done);
    memmove(bytes, bytes + array->data_offset, array->tensor.size_bytes);
    *data = bytes;
    bytes = NULL;
done:
    if (in) zip_fclose(in);
    free(bytes);
    return st;
}
