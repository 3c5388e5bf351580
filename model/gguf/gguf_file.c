/* See model/gguf/gguf_file.h. */
#include "model/gguf/gguf_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/mapped_file.h"

enum { HEADER_BYTES = 24, DEFAULT_ALIGNMENT = 32, MAX_TENSOR_NAME = 255, MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8 };

struct gguf_file {
    char *path;
    rb_mapped_file *mapped;
    const unsigned char *map;
    size_t map_bytes;
    gguf_metadata metadata;
    gguf_tensor *tensors;
    const gguf_tensor **by_name;
    int64_t n_tensors;
};

/* ---- types ----------------------------------------------------------------------------------- */

/* Numbers of ggml.h. Those with a name only are known and not read. */
static const struct {
    const char *name;
    bool is_read;
    tensor_dtype dtype;
} TYPES[] = {
    [0] = {"F32", true, TENSOR_F32},
    [1] = {"F16", true, TENSOR_F16},
    [2] = {"Q4_0", true, TENSOR_Q4_0},
    [3] = {"Q4_1", true, TENSOR_Q4_1},
    [6] = {"Q5_0", true, TENSOR_Q5_0},
    [7] = {"Q5_1", true, TENSOR_Q5_1},
    [8] = {"Q8_0", true, TENSOR_Q8_0},
    [9] = {.name = "Q8_1"},
    [10] = {.name = "Q2_K"},
    [11] = {.name = "Q3_K"},
    [12] = {"Q4_K", true, TENSOR_Q4_K},
    [13] = {"Q5_K", true, TENSOR_Q5_K},
    [14] = {"Q6_K", true, TENSOR_Q6_K},
    [15] = {.name = "Q8_K"},
    [16] = {.name = "IQ2_XXS"},
    [17] = {.name = "IQ2_XS"},
    [18] = {.name = "IQ3_XXS"},
    [19] = {.name = "IQ1_S"},
    [20] = {.name = "IQ4_NL"},
    [21] = {.name = "IQ3_S"},
    [22] = {.name = "IQ2_S"},
    [23] = {.name = "IQ4_XS"},
    [24] = {"I8", true, TENSOR_I8},
    [25] = {"I16", true, TENSOR_I16},
    [26] = {"I32", true, TENSOR_I32},
    [27] = {"I64", true, TENSOR_I64},
    [28] = {"F64", true, TENSOR_F64},
    [29] = {.name = "IQ1_M"},
    [30] = {"BF16", true, TENSOR_BF16},
    [34] = {.name = "TQ1_0"},
    [35] = {.name = "TQ2_0"},
    [39] = {.name = "MXFP4"},
    [40] = {.name = "NVFP4"},
};

static rb_status find_type(uint32_t type, const char *tensor, tensor_dtype *out, rb_error *err)
{
    if (type >= RB_COUNT(TYPES) || !TYPES[type].name)
        return rb_fail(err, RB_EUNSUPPORTED, "tensor \"%s\": unknown type %" PRIu32, tensor, type);
    if (!TYPES[type].is_read)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "tensor \"%s\" is %s, expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
                       tensor, TYPES[type].name);
    *out = TYPES[type].dtype;
    return RB_OK;
}

/* ---- the mapping and the header -------------------------------------------------------------- */

bool gguf_is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static rb_status map_file(gguf_file *file, rb_error *err)
{
    const rb_status st = rb_map_file(&file->mapped, file->path, err);
    if (st != RB_OK) return st;
    file->map = rb_mapped_address(file->mapped);
    file->map_bytes = rb_mapped_size(file->mapped);
    return file->map_bytes > 0 ? RB_OK : rb_fail(err, RB_EFORMAT, "an empty file, expected a GGUF");
}

static rb_status check_magic(const gguf_file *file, rb_error *err)
{
    static const char pointer[] = "version https://git-lfs";
    const size_t n = file->map_bytes;
    if (n >= sizeof pointer - 1 && memcmp(file->map, pointer, sizeof pointer - 1) == 0)
        return rb_fail(err, RB_EFORMAT, "a Git LFS pointer, expected the file itself; fetch it with `git lfs pull`");
    if (n < 4 || memcmp(file->map, "GGUF", 4) != 0)
        return rb_fail(err, RB_EFORMAT,
                       "not a GGUF: it does not start with \"GGUF\"; a model is a folder with "
                       "config.json or a GGUF file");
    if (n < HEADER_BYTES)
        return rb_fail(err, RB_EFORMAT, "%zu bytes, expected at least %d (the header of a GGUF)", n, HEADER_BYTES);
    return RB_OK;
}

static rb_status check_version(uint32_t version, rb_error *err)
{
    if (version == 2 || version == 3) return RB_OK;
    if (__builtin_bswap32(version) <= 3)
        return rb_fail(err, RB_EUNSUPPORTED, "a big-endian GGUF, expected a little-endian one");
    return rb_fail(err, RB_EUNSUPPORTED, "GGUF version %" PRIu32 ", expected 2 or 3", version);
}

/* llama.cpp can cut a model into files NAME-00001-of-0000N.gguf. */
static rb_status check_not_split(const gguf_file *file, rb_error *err)
{
    int64_t n_parts = 1;
    if (!gguf_find(&file->metadata, "split.count")) return RB_OK;
    const rb_status st = gguf_get_int(&file->metadata, "split.count", 0, UINT16_MAX, &n_parts, err);
    if (st != RB_OK || n_parts <= 1) return st;
    return rb_fail(err, RB_EUNSUPPORTED,
                   "one of the %" PRId64 " parts of a split GGUF (split.count), expected a whole one; join them with "
                   "`llama-gguf-split --merge`",
                   n_parts);
}

static rb_status get_alignment(const gguf_file *file, size_t *out, rb_error *err)
{
    int64_t alignment = DEFAULT_ALIGNMENT;
    if (gguf_find(&file->metadata, "general.alignment")) {
        const rb_status st = gguf_get_int(&file->metadata, "general.alignment", 1, INT64_C(1) << 30, &alignment, err);
        if (st != RB_OK) return st;
        if (alignment & (alignment - 1))
            return rb_fail(err, RB_EFORMAT, "general.alignment is %" PRId64 ", expected a power of two", alignment);
    }
    *out = (size_t)alignment;
    return RB_OK;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static rb_status read_shape(gguf_tensor *tensor, gguf_cursor *from, const char *what, rb_error *err)
{
    uint32_t rank;
    rb_status st;
    RB_TRY(st, gguf_read_u32(from, &rank, what, err), done);
    if (rank < 1 || rank > GGUF_MAX_RANK)
        return rb_fail(err, RB_EFORMAT, "%s: %" PRIu32 " dims, expected 1 to %d", what, rank, GGUF_MAX_RANK);
    tensor->rank = (int)rank;
    for (int i = tensor->rank - 1; i >= 0; i--) {
        uint64_t n;
        RB_TRY(st, gguf_read_u64(from, &n, what, err), done);
        if (n == 0 || n > INT64_MAX) return rb_fail(err, RB_EFORMAT, "%s: a dim of %" PRIu64 " elements", what, n);
        tensor->shape[i] = (int64_t)n;
    }
done:
    return st;
}

static rb_status check_size(gguf_tensor *tensor, const char *what, rb_error *err)
{
    const int64_t block = tensor_dtype_block(tensor->dtype).n_elements, row = tensor->shape[tensor->rank - 1];
    if (row % block != 0)
        return rb_fail(err, RB_EFORMAT,
                       "%s: rows of %" PRId64 " elements, expected a multiple of %" PRId64 ", the block of %s", what,
                       row, block, tensor_dtype_name(tensor->dtype));
    if (!tensor_shape_bytes(tensor->dtype, tensor->rank, tensor->shape, &tensor->size_bytes))
        return rb_fail(err, RB_EFORMAT, "%s: its shape overflows the address space", what);
    return RB_OK;
}

/* Its offset into the data, which begins after the last of these, goes to *offset. */
static rb_status read_tensor(gguf_tensor *tensor, gguf_cursor *from, const char *ordinal, uint64_t *offset,
                             rb_error *err)
{
    enum { WHAT_BYTES = MAX_TENSOR_NAME + 16 };
    char what[WHAT_BYTES];
    uint32_t type;
    rb_status st;

    RB_TRY(st, gguf_read_name(from, MAX_TENSOR_NAME, &tensor->name, ordinal, err), done);
    snprintf(what, sizeof what, "tensor \"%s\"", tensor->name);
    RB_TRY(st, read_shape(tensor, from, what, err), done);
    RB_TRY(st, gguf_read_u32(from, &type, what, err), done);
    RB_TRY(st, find_type(type, tensor->name, &tensor->dtype, err), done);
    RB_TRY(st, gguf_read_u64(from, offset, what, err), done);
    st = check_size(tensor, what, err);
done:
    return st;
}

/* ---- all tensors ----------------------------------------------------------------------------- */

static rb_status place_tensor(const gguf_file *file, gguf_tensor *tensor, size_t data_begin, uint64_t offset,
                              size_t alignment, rb_error *err)
{
    const size_t data_bytes = file->map_bytes - data_begin;
    if (offset % alignment != 0)
        return rb_fail(err, RB_EFORMAT,
                       "tensor \"%s\" starts at byte %" PRIu64 " of the data, expected a multiple of %zu", tensor->name,
                       offset, alignment);
    if (offset > data_bytes || tensor->size_bytes > data_bytes - offset)
        return rb_fail(err, RB_EFORMAT,
                       "tensor \"%s\" has %zu bytes from byte %" PRIu64
                       " of the data, but the file holds %zu: it is truncated or damaged",
                       tensor->name, tensor->size_bytes, offset, data_bytes);
    tensor->data = file->map + data_begin + offset;
    return RB_OK;
}

static int compare_name(const void *a, const void *b)
{
    const gguf_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_place(const void *a, const void *b)
{
    const gguf_tensor *const *x = a, *const *y = b;
    const unsigned char *p = (*x)->data, *q = (*y)->data;
    return p != q ? (p < q ? -1 : 1) : compare_name(a, b);
}

static rb_status check_overlap(gguf_file *file, rb_error *err)
{
    const gguf_tensor **sorted = file->by_name;
    qsort(sorted, (size_t)file->n_tensors, sizeof *sorted, compare_place);
    for (int64_t i = 1; i < file->n_tensors; i++)
        if ((const unsigned char *)sorted[i - 1]->data + sorted[i - 1]->size_bytes
            > (const unsigned char *)sorted[i]->data)
            return rb_fail(err, RB_EFORMAT, "tensors \"%s\" and \"%s\" overlap", sorted[i - 1]->name, sorted[i]->name);
    return RB_OK;
}

static rb_status sort_names(gguf_file *file, rb_error *err)
{
    const gguf_tensor **sorted = file->by_name;
    qsort(sorted, (size_t)file->n_tensors, sizeof *sorted, compare_name);
    for (int64_t i = 1; i < file->n_tensors; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            return rb_fail(err, RB_EFORMAT, "tensor \"%s\" is there twice", sorted[i]->name);
    return RB_OK;
}

static rb_status read_tensors(gguf_file *file, gguf_cursor *from, uint64_t n_tensors, rb_error *err)
{
    uint64_t *offsets = NULL;
    size_t alignment = DEFAULT_ALIGNMENT;
    rb_status st;

    if (n_tensors > (size_t)(from->end - from->at) / MIN_TENSOR_BYTES)
        return rb_fail(err, RB_EFORMAT, "%" PRIu64 " tensors, more than the file can hold: it is truncated or damaged",
                       n_tensors);
    RB_TRY(st, get_alignment(file, &alignment, err), done);
    RB_TRY(st, rb_alloc(&offsets, (size_t)n_tensors, sizeof *offsets, "tensor offsets", err), done);
    RB_TRY(st, rb_alloc(&file->tensors, (size_t)n_tensors, sizeof *file->tensors, "tensor list", err), done);
    RB_TRY(st, rb_alloc(&file->by_name, (size_t)n_tensors, sizeof *file->by_name, "tensor names", err), done);
    for (uint64_t i = 0; i < n_tensors; i++) {
        char ordinal[80];
        snprintf(ordinal, sizeof ordinal, "tensor %" PRIu64 " of %" PRIu64, i + 1, n_tensors);
        RB_TRY(st, read_tensor(&file->tensors[file->n_tensors++], from, ordinal, &offsets[i], err), done);
    }
    const size_t used = (size_t)(from->at - file->map), begin = (used + alignment - 1) / alignment * alignment;
    for (int64_t i = 0; i < file->n_tensors; i++) {
        RB_TRY(st,
               place_tensor(file, &file->tensors[i], begin < file->map_bytes ? begin : file->map_bytes, offsets[i],
                            alignment, err),
               done);
        file->by_name[i] = &file->tensors[i];
    }
    RB_TRY(st, check_overlap(file, err), done);
    st = sort_names(file, err);
done:
    free(offsets);
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

static rb_status read_file(gguf_file *file, rb_error *err)
{
    uint64_t n_tensors, n_entries;
    uint32_t version;
    rb_status st;

    RB_TRY(st, map_file(file, err), done);
    RB_TRY(st, check_magic(file, err), done);
    gguf_cursor from = {file->map + 4, file->map + file->map_bytes};
    RB_TRY(st, gguf_read_u32(&from, &version, "the header", err), done);
    RB_TRY(st, check_version(version, err), done);
    RB_TRY(st, gguf_read_u64(&from, &n_tensors, "the header", err), done);
    RB_TRY(st, gguf_read_u64(&from, &n_entries, "the header", err), done);
    RB_TRY(st, gguf_metadata_read(&file->metadata, &from, n_entries, err), done);
    RB_TRY(st, check_not_split(file, err), done);
    st = read_tensors(file, &from, n_tensors, err);
done:
    return st;
}

rb_status gguf_open(gguf_file **out, const char *path, rb_error *err)
{
    gguf_file *file = NULL;
    rb_status st;

    *out = NULL;
    RB_TRY(st, rb_alloc(&file, 1, sizeof *file, "GGUF file", err), done);
    RB_TRY(st, rb_format(&file->path, err, "%s", path), done);
    st = read_file(file, err);
    if (st != RB_OK) {
        rb_fail_in(err, st, "%s", path);
        goto done;
    }
    *out = file;
    file = NULL;
done:
    gguf_close(file);
    return st;
}

void gguf_close(gguf_file *file)
{
    if (!file) return;
    rb_unmap_file(file->mapped);
    gguf_metadata_free(&file->metadata);
    for (int64_t i = 0; i < file->n_tensors; i++) free(file->tensors[i].name);
    free(file->tensors);
    free(file->by_name);
    free(file->path);
    free(file);
}

const char *gguf_path(const gguf_file *file) { return file->path; }

const gguf_metadata *gguf_metadata_of(const gguf_file *file) { return &file->metadata; }

int64_t gguf_count(const gguf_file *file) { return file->n_tensors; }

const gguf_tensor *gguf_at(const gguf_file *file, int64_t index) { return &file->tensors[index]; }

const gguf_tensor *gguf_find_tensor(const gguf_file *file, const char *name)
{
    const gguf_tensor wanted = {.name = (char *)name}, *ref = &wanted;
    const gguf_tensor *const *found =
        bsearch(&ref, file->by_name, (size_t)file->n_tensors, sizeof *file->by_name, compare_name);
    return found ? *found : NULL;
}

int64_t gguf_offset(const gguf_file *file, const void *data) { return (const unsigned char *)data - file->map; }

rb_status gguf_check_whole(const gguf_file *file, rb_error *err) { return rb_mapped_file_check(file->mapped, err); }
