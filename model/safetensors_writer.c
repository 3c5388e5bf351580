/* The safetensors writer: header through cJSON, data as given, the file complete or absent (core/atomic_file.h). */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "model/safetensors.h"

enum { HEADER_ALIGNMENT = 8 };

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static rb_status check_names(const char *path, const safetensor *tensors, int64_t n_tensors, rb_error *err)
{
    const char **names = NULL;
    rb_status st = rb_alloc(&names, (size_t)n_tensors, sizeof *names, "tensor names", err);
    if (st != RB_OK) return st;
    for (int64_t i = 0; i < n_tensors; i++) names[i] = tensors[i].name;
    qsort(names, (size_t)n_tensors, sizeof *names, compare_strings);
    for (int64_t i = 0; st == RB_OK && i < n_tensors; i++) {
        const bool is_reserved = strcmp(names[i], "__metadata__") == 0;
        if (is_reserved || (i > 0 && strcmp(names[i - 1], names[i]) == 0))
            st = rb_fail(err, RB_EINVAL, "%s: tensor name \"%s\" is %s", path, names[i],
                         is_reserved ? "reserved" : "given twice");
    }
    free(names);
    return st;
}

static rb_status check_size(const char *path, const safetensor *tensor, rb_error *err)
{
    size_t size_bytes;
    if (tensor->rank < 0 || tensor->rank > SAFETENSORS_MAX_RANK)
        return rb_fail(err, RB_EINVAL, "%s: tensor \"%s\" has rank %d, expected 0 to %d", path, tensor->name,
                       tensor->rank, SAFETENSORS_MAX_RANK);
    if (!tensor_shape_bytes(tensor->dtype, tensor->rank, tensor->shape, &size_bytes))
        return rb_fail(err, RB_EINVAL, "%s: tensor \"%s\": its shape is negative or overflows the address space", path,
                       tensor->name);
    if (size_bytes != tensor->size_bytes)
        return rb_fail(err, RB_EINVAL, "%s: tensor \"%s\" brings %zu bytes, expected %zu from shape and dtype %s", path,
                       tensor->name, tensor->size_bytes, size_bytes, tensor_dtype_name(tensor->dtype));
    return RB_OK;
}

static rb_status add_tensor(cJSON *header, const safetensor *tensor, size_t begin, rb_error *err)
{
    double shape[SAFETENSORS_MAX_RANK];
    const double offsets[2] = {(double)begin, (double)(begin + tensor->size_bytes)};
    cJSON *entry = NULL;
    rb_status st;

    for (int i = 0; i < tensor->rank; i++) shape[i] = (double)tensor->shape[i];
    RB_TRY(st, rb_json_new_object(&entry, err), done);
    RB_TRY(st, rb_json_add_string(entry, "dtype", tensor_dtype_name(tensor->dtype), err), done);
    RB_TRY(st, rb_json_add_numbers(entry, "shape", shape, tensor->rank, err), done);
    RB_TRY(st, rb_json_add_numbers(entry, "data_offsets", offsets, 2, err), done);
    RB_TRY(st, rb_json_add_item(header, tensor->name, &entry, err), done);
done:
    cJSON_Delete(entry);
    return st;
}

static rb_status add_metadata(cJSON *header, const char *const *keys, const char *const *values, int64_t n_metadata,
                              rb_error *err)
{
    cJSON *metadata = NULL;
    rb_status st;

    RB_TRY(st, rb_json_new_object(&metadata, err), done);
    for (int64_t i = 0; i < n_metadata; i++) RB_TRY(st, rb_json_add_string(metadata, keys[i], values[i], err), done);
    RB_TRY(st, rb_json_add_item(header, "__metadata__", &metadata, err), done);
done:
    cJSON_Delete(metadata);
    return st;
}

static rb_status write_bytes(FILE *out, const char *path, const void *bytes, size_t n, rb_error *err)
{
    return n == 0 || fwrite(bytes, 1, n, out) == n
               ? RB_OK
               : rb_fail(err, RB_EIO, "%s: cannot write: %s", path, strerror(errno));
}

/* Header length, header, padding. */
static rb_status write_header(FILE *out, const char *path, const char *header, rb_error *err)
{
    static const char padding[HEADER_ALIGNMENT] = "        ";
    const size_t header_bytes = strlen(header),
                 pad_bytes = (HEADER_ALIGNMENT - header_bytes % HEADER_ALIGNMENT) % HEADER_ALIGNMENT;
    const uint64_t length = header_bytes + pad_bytes;
    rb_status st;

    RB_TRY(st, write_bytes(out, path, &length, sizeof length, err), done);
    RB_TRY(st, write_bytes(out, path, header, header_bytes, err), done);
    RB_TRY(st, write_bytes(out, path, padding, pad_bytes, err), done);
done:
    return st;
}

/* The last bytes are written here, so a full disk may show only now. */
static rb_status close_file(FILE **out, const char *path, rb_error *err)
{
    const int result = fclose(*out);
    *out = NULL;
    return result == 0 ? RB_OK : rb_fail(err, RB_EIO, "%s: cannot write: %s", path, strerror(errno));
}

rb_status safetensors_write_from(const char *path, const safetensor *tensors, int64_t n_tensors,
                                 safetensors_source source, void *user, const char *const *metadata_keys,
                                 const char *const *metadata_values, int64_t n_metadata, rb_error *err)
{
    cJSON *header = NULL;
    char *text = NULL, *tmp_path = NULL;
    FILE *out = NULL;
    size_t begin = 0;
    rb_status st;

    RB_TRY(st, check_names(path, tensors, n_tensors, err), done);
    RB_TRY(st, rb_json_new_object(&header, err), done);
    if (n_metadata > 0) RB_TRY(st, add_metadata(header, metadata_keys, metadata_values, n_metadata, err), done);
    for (int64_t i = 0; i < n_tensors; i++) {
        RB_TRY(st, check_size(path, &tensors[i], err), done);
        RB_TRY(st, add_tensor(header, &tensors[i], begin, err), done);
        begin += tensors[i].size_bytes;
    }
    text = cJSON_PrintUnformatted(header);
    if (!text) RB_TRY(st, rb_fail(err, RB_ENOMEM, "%s: out of memory for the header", path), done);

    RB_TRY(st, rb_atomic_begin(&tmp_path, path, err), done);
    out = fopen(tmp_path, "wb");
    if (!out) RB_TRY(st, rb_fail(err, RB_EIO, "%s: cannot create: %s", path, strerror(errno)), done);
    RB_TRY(st, write_header(out, path, text, err), done);
    for (int64_t i = 0; i < n_tensors; i++) {
        const void *data = NULL;
        RB_TRY(st, source(user, i, &data, err), done);
        RB_TRY(st, write_bytes(out, path, data, tensors[i].size_bytes, err), done);
    }
    RB_TRY(st, close_file(&out, path, err), done);
    RB_TRY(st, rb_atomic_publish(tmp_path, path, err), done);
done:
    if (out) fclose(out);
    if (st != RB_OK) rb_atomic_discard(tmp_path);
    free(tmp_path);
    cJSON_free(text);
    cJSON_Delete(header);
    return st;
}

/* Data that the tensors bring. */
static rb_status given_data(void *user, int64_t index, const void **data, rb_error *err)
{
    const safetensor *const *tensors = user;
    (void)err;
    *data = (*tensors)[index].data;
    return RB_OK;
}

rb_status safetensors_write(const char *path, const safetensor *tensors, int64_t n_tensors,
                            const char *const *metadata_keys, const char *const *metadata_values, int64_t n_metadata,
                            rb_error *err)
{
    return safetensors_write_from(path, tensors, n_tensors, given_data, &tensors, metadata_keys, metadata_values,
                                  n_metadata, err);
}
