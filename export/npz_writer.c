/* See export/npz_writer.h. A zip of stored entries is short to write, and so has no time stamps of the day: libzip
 * would put them in. Layout: a header and the bytes of every entry, then the directory, then its end. */
#include "export/npz_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "plan/library/plan_rbp_format.h"

enum {
    LOCAL_BYTES = 30, /* of an entry's header, without its name */
    DIRECTORY_BYTES = 46,
    END_BYTES = 22,
    ZIP_VERSION = 20,
    FIRST_DAY = 0x21, /* 1980-01-01, where DOS dates begin */
    NPY_STEP = 64     /* numpy starts data at a multiple of it */
};
static const uint32_t LOCAL_MAGIC = 0x04034b50u, DIRECTORY_MAGIC = 0x02014b50u, END_MAGIC = 0x06054b50u;

typedef struct npz_entry {
    char *name; /* "packed.npy" */
    char *npy;  /* header and data, [size] */
    size_t size, at;
    uint32_t crc;
} npz_entry;

static const char *descr_of(tensor_dtype dtype)
{
    switch (dtype) {
    case TENSOR_U8: return "|u1";
    case TENSOR_F16: return "<f2";
    case TENSOR_F32: return "<f4";
    case TENSOR_I64: return "<i8";
    default: return NULL;
    }
}

/* ---- an array -------------------------------------------------------------------------------- */

static rb_status format_header(char **out, const safetensor *array, rb_error *err)
{
    char shape[SAFETENSORS_MAX_RANK * 24] = "";
    const char *descr = descr_of(array->dtype);
    if (!descr)
        return rb_fail(err, RB_EUNSUPPORTED, "array \"%s\" is %s, which .npz is not written of", array->name,
                       tensor_dtype_name(array->dtype));
    for (int i = 0, at = 0; i < array->rank; i++)
        at += snprintf(shape + at, sizeof shape - (size_t)at, "%s%lld%s", i ? " " : "", (long long)array->shape[i],
                       i == 0 || i + 1 < array->rank ? "," : "");
    return rb_format(out, err, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, shape);
}

static rb_status make_npy(npz_entry *entry, const safetensor *array, rb_error *err)
{
    char *header = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&entry->name, err, "%s.npy", array->name), done);
    RB_TRY(st, format_header(&header, array, err), done);
    const size_t start = 10, length = strlen(header),
                 padded = (start + length + 1 + NPY_STEP - 1) / NPY_STEP * NPY_STEP - start;
    entry->size = start + padded + array->size_bytes;
    RB_TRY(st, rb_alloc(&entry->npy, entry->size, 1, "array", err), done);
    memcpy(entry->npy, "\x93NUMPY\x01\x00", 8);
    entry->npy[8] = (char)(padded & 255);
    entry->npy[9] = (char)(padded >> 8);
    memset(entry->npy + start, ' ', padded);
    memcpy(entry->npy + start, header, length);
    entry->npy[start + padded - 1] = '\n';
    if (array->size_bytes > 0) memcpy(entry->npy + start + padded, array->data, array->size_bytes);
    entry->crc = plan_rbp_crc32((const uint8_t *)entry->npy, entry->size);
done:
    free(header);
    return st;
}

/* ---- the zip --------------------------------------------------------------------------------- */

static void put(char **at, uint64_t value, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) *(*at)++ = (char)(value >> 8 * i & 255);
}

/* What an entry's own header and the directory both say. */
static void put_facts(char **at, const npz_entry *entry)
{
    put(at, ZIP_VERSION, 2);
    put(at, 0, 2); /* flags */
    put(at, 0, 2); /* stored */
    put(at, 0, 2); /* time */
    put(at, FIRST_DAY, 2);
    put(at, entry->crc, 4);
    put(at, entry->size, 4);
    put(at, entry->size, 4);
    put(at, strlen(entry->name), 2);
    put(at, 0, 2); /* extra */
}

static void put_name(char **at, const npz_entry *entry)
{
    const size_t length = strlen(entry->name);
    memcpy(*at, entry->name, length);
    *at += length;
}

static void put_entry(char **at, const npz_entry *entry)
{
    put(at, LOCAL_MAGIC, 4);
    put_facts(at, entry);
    put_name(at, entry);
    memcpy(*at, entry->npy, entry->size);
    *at += entry->size;
}

static void put_directory_entry(char **at, const npz_entry *entry)
{
    put(at, DIRECTORY_MAGIC, 4);
    put(at, ZIP_VERSION, 2);
    put_facts(at, entry);
    put(at, 0, 2); /* comment */
    put(at, 0, 2); /* disk */
    put(at, 0, 2); /* internal */
    put(at, 0, 4); /* external */
    put(at, entry->at, 4);
    put_name(at, entry);
}

static void put_end(char **at, int64_t n, size_t directory_bytes, size_t directory_at)
{
    put(at, END_MAGIC, 4);
    put(at, 0, 4); /* disks */
    put(at, (uint64_t)n, 2);
    put(at, (uint64_t)n, 2);
    put(at, directory_bytes, 4);
    put(at, directory_at, 4);
    put(at, 0, 2); /* comment */
}

static rb_status write_zip(const char *path, npz_entry *entries, int64_t n, rb_error *err)
{
    size_t entry_bytes = 0, directory_bytes = 0;
    char *bytes = NULL, *at;
    rb_status st;
    for (int64_t i = 0; i < n; i++) {
        entries[i].at = entry_bytes;
        entry_bytes += LOCAL_BYTES + strlen(entries[i].name) + entries[i].size;
        directory_bytes += DIRECTORY_BYTES + strlen(entries[i].name);
    }
    const size_t size = entry_bytes + directory_bytes + END_BYTES;
    if (size > UINT32_MAX)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: %zu bytes, expected 4 GiB at most; .safetensors takes more", path,
                       size);
    RB_TRY(st, rb_alloc(&bytes, size, 1, ".npz file", err), done);
    at = bytes;
    for (int64_t i = 0; i < n; i++) put_entry(&at, &entries[i]);
    for (int64_t i = 0; i < n; i++) put_directory_entry(&at, &entries[i]);
    put_end(&at, n, directory_bytes, entry_bytes);
    st = rb_atomic_write(path, bytes, size, err);
done:
    free(bytes);
    return st;
}

rb_status npz_write(const char *path, const safetensor *arrays, int64_t n, rb_error *err)
{
    npz_entry *entries = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&entries, (size_t)n, sizeof *entries, "arrays", err), done);
    for (int64_t i = 0; i < n; i++) RB_TRY(st, make_npy(&entries[i], &arrays[i], err), done);
    st = write_zip(path, entries, n, err);
done:
    for (int64_t i = 0; entries && i < n; i++) {
        free(entries[i].name);
        free(entries[i].npy);
    }
    free(entries);
    return st;
}
