/* The safetensors reader (safetensors.h): one read-only mapping. Every rule of the format is checked before a tensor is
 * handed out.
 *
 * The parsed header stays alive with the file: tensor names and metadata point into it. Tensors are kept in file order,
 * with a second list by name for binary search, so that a checkpoint of thousands of tensors opens in O(n log n). */
#include "model/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file_kind.h"
#include "core/json.h"
#include "core/mapped_file.h"

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100 * 1000 * 1000 };

struct safetensors_file {
    char *path;
    rb_mapped_file *mapped;
    const unsigned char *map;
    size_t map_bytes;
    const unsigned char *data; /* after the header */
    size_t data_bytes;
    cJSON *header;       /* owns names and metadata */
    safetensor *tensors; /* by offset */
    const safetensor **by_name;
    int64_t n_tensors;
};

/* ---- the mapping and the header -------------------------------------------------------------- */

static rb_status map_file(safetensors_file *file, rb_error *err)
{
    const rb_status st = rb_map_file(&file->mapped, file->path, err);
    if (st != RB_OK) return rb_fail_in(err, st, "%s", file->path);
    file->map = rb_mapped_address(file->mapped);
    file->map_bytes = rb_mapped_size(file->mapped);
    if (file->map_bytes == 0)
        return rb_fail(err, RB_EFORMAT, "%s: expected safetensors, found an empty file", file->path);
    if (file->map_bytes < LENGTH_BYTES)
        return rb_fail(err, RB_EFORMAT, "%s: %zu bytes, expected at least %d (safetensors header length)", file->path,
                       file->map_bytes, LENGTH_BYTES);
    return RB_OK;
}

/* Finds the header, parses it, sets data and data_bytes. */
static rb_status read_header(safetensors_file *file, rb_error *err)
{
    const size_t room = file->map_bytes - LENGTH_BYTES;
    const char *text = (const char *)file->map + LENGTH_BYTES;
    uint64_t length;
    memcpy(&length, file->map, sizeof length);
    /* Only where there is no header: the length may have any bytes, those of a pickle too. */
    const char *kind = length == 0 || length > room || text[0] != '{' ? rb_file_kind(file->map, file->map_bytes) : NULL;
    if (kind) return rb_fail(err, RB_EFORMAT, "%s: expected safetensors, found %s", file->path, kind);
    if (length > MAX_HEADER_BYTES)
        return rb_fail(err, RB_EFORMAT, "%s: header of %" PRIu64 " bytes, expected at most %d", file->path, length,
                       MAX_HEADER_BYTES);
    if (length > room)
        return rb_fail(err, RB_EFORMAT, "%s: header of %" PRIu64 " bytes, but the file has %zu behind its length",
                       file->path, length, room);
    if (length == 0 || text[0] != '{')
        return rb_fail(err, RB_EFORMAT, "%s: header does not start with '{'", file->path);

    const rb_status st = rb_json_parse(&file->header, text, (size_t)length, file->path, err);
    if (st != RB_OK) return st;
    file->data = file->map + LENGTH_BYTES + length;
    file->data_bytes = room - (size_t)length;
    return RB_OK;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

/* A whole number from 0 to 2^53, which is as far as JSON through doubles is exact. */
static bool json_is_count(const cJSON *item, int64_t *out)
{
    const double limit = 0x1p53;
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < limit)
        || floor(item->valuedouble) != item->valuedouble)
        return false;
    *out = (int64_t)item->valuedouble;
    return true;
}

static rb_status parse_shape(safetensor *tensor, const cJSON *shape, const char *where, rb_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, shape) {
        if (tensor->rank == SAFETENSORS_MAX_RANK)
            return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d dims in its shape", where, SAFETENSORS_MAX_RANK);
        if (!json_is_count(item, &tensor->shape[tensor->rank]))
            return rb_fail(err, RB_EFORMAT, "%s: shape[%d] is not a whole number from 0 up", where, tensor->rank);
        tensor->rank++;
    }
    return RB_OK;
}

static rb_status parse_offsets(safetensor *tensor, const safetensors_file *file, const cJSON *offsets,
                               const char *where, rb_error *err)
{
    int64_t begin, end;
    const cJSON *first = offsets->child, *second = first ? first->next : NULL;
    if (!second || second->next || !json_is_count(first, &begin) || !json_is_count(second, &end))
        return rb_fail(err, RB_EFORMAT, "%s: data_offsets are not two whole numbers from 0 up", where);
    if (begin > end)
        return rb_fail(err, RB_EFORMAT, "%s: data_offsets [%" PRId64 ", %" PRId64 "] run backwards", where, begin, end);
    if ((uint64_t)end > file->data_bytes)
        return rb_fail(err, RB_EFORMAT,
                       "%s: data_offsets end at byte %" PRId64 ", but the file holds %zu bytes of data", where, end,
                       file->data_bytes);
    tensor->data = file->data + begin;
    tensor->size_bytes = (size_t)(end - begin);
    return RB_OK;
}

static rb_status parse_tensor(safetensor *tensor, const safetensors_file *file, const cJSON *entry, rb_error *err)
{
    enum { WHERE_BYTES = 512 };
    char where[WHERE_BYTES];
    const char *dtype;
    const cJSON *shape, *offsets;
    size_t size_bytes;
    rb_status st;

    tensor->name = entry->string;
    snprintf(where, sizeof where, "%s: tensor \"%s\"", file->path, tensor->name);
    if (!cJSON_IsObject(entry)) return rb_fail(err, RB_EFORMAT, "%s: its entry is not a JSON object", where);
    RB_TRY(st, rb_json_get_string(entry, "dtype", where, &dtype, err), done);
    RB_TRY(st, rb_json_get_array(entry, "shape", where, &shape, err), done);
    RB_TRY(st, rb_json_get_array(entry, "data_offsets", where, &offsets, err), done);
    if (!tensor_dtype_find(dtype, &tensor->dtype))
        return rb_fail(err, RB_EUNSUPPORTED, "%s: unknown dtype \"%s\"", where, dtype);
    RB_TRY(st, parse_shape(tensor, shape, where, err), done);
    RB_TRY(st, parse_offsets(tensor, file, offsets, where, err), done);
    if (!tensor_shape_bytes(tensor->dtype, tensor->rank, tensor->shape, &size_bytes))
        return rb_fail(err, RB_EFORMAT, "%s: its shape overflows the address space", where);
    if (size_bytes != tensor->size_bytes)
        return rb_fail(err, RB_EFORMAT, "%s: data_offsets span %zu bytes, expected %zu from shape and dtype %s", where,
                       tensor->size_bytes, size_bytes, dtype);
done:
    return st;
}

static rb_status check_metadata(const safetensors_file *file, const cJSON *metadata, rb_error *err)
{
    const cJSON *item;
    if (!cJSON_IsObject(metadata)) return rb_fail(err, RB_EFORMAT, "%s: __metadata__ is not a JSON object", file->path);
    cJSON_ArrayForEach (item, metadata) {
        if (!cJSON_IsString(item))
            return rb_fail(err, RB_EFORMAT, "%s: __metadata__ \"%s\" is not a string", file->path, item->string);
    }
    return RB_OK;
}

/* ---- all tensors ----------------------------------------------------------------------------- */

/* By offset. An empty tensor comes before the one that starts at the same byte. */
static int compare_offset(const void *a, const void *b)
{
    const safetensor *x = a, *y = b;
    if (x->data != y->data) return (const unsigned char *)x->data < (const unsigned char *)y->data ? -1 : 1;
    if (x->size_bytes != y->size_bytes) return x->size_bytes < y->size_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_name(const void *a, const void *b)
{
    const safetensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The sorted tensors must cover the data exactly. */
static rb_status check_coverage(const safetensors_file *file, rb_error *err)
{
    size_t covered = 0;
    const char *before = "the header";
    for (int64_t i = 0; i < file->n_tensors; i++) {
        const safetensor *tensor = &file->tensors[i];
        const size_t begin = (size_t)((const unsigned char *)tensor->data - file->data);
        if (begin != covered)
            return rb_fail(err, RB_EFORMAT,
                           "%s: tensor \"%s\" starts at byte %zu of the data, expected %zu: %s behind %s", file->path,
                           tensor->name, begin, covered, begin < covered ? "an overlap" : "a hole", before);
        covered += tensor->size_bytes;
        before = tensor->name;
    }
    if (covered != file->data_bytes)
        return rb_fail(err, RB_EFORMAT, "%s: the tensors cover %zu bytes of data, the file holds %zu", file->path,
                       covered, file->data_bytes);
    return RB_OK;
}

static rb_status read_tensors(safetensors_file *file, rb_error *err)
{
    const cJSON *entry;
    size_t n_entries = 0;
    rb_status st;

    cJSON_ArrayForEach (entry, file->header) n_entries++;
    RB_TRY(st, rb_alloc(&file->tensors, n_entries, sizeof *file->tensors, "tensor list", err), done);
    RB_TRY(st, rb_alloc(&file->by_name, n_entries, sizeof *file->by_name, "tensor names", err), done);
    cJSON_ArrayForEach (entry, file->header) {
        if (strcmp(entry->string, "__metadata__") == 0) RB_TRY(st, check_metadata(file, entry, err), done);
        else RB_TRY(st, parse_tensor(&file->tensors[file->n_tensors++], file, entry, err), done);
    }
    qsort(file->tensors, (size_t)file->n_tensors, sizeof *file->tensors, compare_offset);
    RB_TRY(st, check_coverage(file, err), done);
    for (int64_t i = 0; i < file->n_tensors; i++) file->by_name[i] = &file->tensors[i];
    qsort(file->by_name, (size_t)file->n_tensors, sizeof *file->by_name, compare_name);
done:
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status safetensors_open(safetensors_file **out, const char *path, rb_error *err)
{
    safetensors_file *file = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&file, 1, sizeof *file, "safetensors file", err), done);
    RB_TRY(st, rb_format(&file->path, err, "%s", path), done);
    RB_TRY(st, map_file(file, err), done);
    RB_TRY(st, read_header(file, err), done);
    RB_TRY(st, read_tensors(file, err), done);
    *out = file;
    file = NULL;
done:
    safetensors_close(file);
    return st;
}

void safetensors_close(safetensors_file *file)
{
    if (!file) return;
    rb_unmap_file(file->mapped);
    cJSON_Delete(file->header);
    free(file->tensors);
    free(file->by_name);
    free(file->path);
    free(file);
}

int64_t safetensors_count(const safetensors_file *file) { return file->n_tensors; }

const safetensor *safetensors_at(const safetensors_file *file, int64_t index) { return &file->tensors[index]; }

const safetensor *safetensors_find(const safetensors_file *file, const char *name)
{
    const safetensor key = {.name = name}, *key_ref = &key;
    const safetensor *const *found =
        bsearch(&key_ref, file->by_name, (size_t)file->n_tensors, sizeof *file->by_name, compare_name);
    return found ? *found : NULL;
}

const char *safetensors_metadata(const safetensors_file *file, const char *key)
{
    const cJSON *metadata = rb_json_find(file->header, "__metadata__");
    const cJSON *value = metadata ? rb_json_find(metadata, key) : NULL;
    return value ? value->valuestring : NULL;
}

int64_t safetensors_offset(const safetensors_file *file, const safetensor *tensor)
{
    return (const unsigned char *)tensor->data - file->map;
}

rb_status safetensors_check_whole(const safetensors_file *file, rb_error *err)
{
    return rb_mapped_file_check(file->mapped, err);
}

void tensor_release_pages(const void *data, size_t size_bytes)
{
    /* Only whole pages of this tensor: a page that it shares with a neighbour stays. */
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)data;
    const uintptr_t first = (begin + page - 1) / page * page, last = (begin + size_bytes) / page * page;
    if (first < last) madvise((unsigned char *)data + (first - begin), last - first, MADV_DONTNEED);
}

void safetensors_release(const safetensors_file *file, const safetensor *tensor)
{
    (void)file;
    tensor_release_pages(tensor->data, tensor->size_bytes);
}
