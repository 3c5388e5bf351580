/* See calibrate/npy_header.h. */
#include "calibrate/npy_header.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC_BYTES = 6 };

size_t npy_length_bytes(const unsigned char *start)
{
    const int version = start[MAGIC_BYTES];
    if (memcmp(start, NPY_MAGIC, MAGIC_BYTES) != 0 || version < 1 || version > 3) return 0;
    return version == 1 ? 2 : 4;
}

size_t npy_header_length(const unsigned char *start)
{
    size_t length = 0;
    for (size_t i = npy_length_bytes(start); i > 0; i--) length = length << 8 | start[NPY_PREFIX_BYTES + i - 1];
    return length;
}

/* descr without its byte order, and the dtype. */
static const struct {
    const char *code;
    tensor_dtype dtype;
} DTYPES[] = {
    {"f2", TENSOR_F16}, {"f4", TENSOR_F32}, {"f8", TENSOR_F64}, {"i4", TENSOR_I32},
    {"i8", TENSOR_I64}, {"i2", TENSOR_I16}, {"u2", TENSOR_U16}, {"u4", TENSOR_U32},
    {"u8", TENSOR_U64}, {"i1", TENSOR_I8},  {"u1", TENSOR_U8},  {"b1", TENSOR_BOOL},
};

/* After 'KEY': and its spaces, or NULL. */
static const char *find_key(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *at = strstr(header, quoted);
    if (!at) return NULL;
    at += strlen(quoted);
    at += strspn(at, " ");
    if (*at != ':') return NULL;
    return at + 1 + strspn(at + 1, " ");
}

static rb_status parse_dtype(tensor_dtype *dtype, const char *header, const char *where, rb_error *err)
{
    enum { DESCR_BYTES = 16 };
    char descr[DESCR_BYTES] = "";
    const char *at = find_key(header, "descr");
    if (!at || sscanf(at, "'%15[^']'", descr) != 1)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: its dtype is not a plain one, expected <f4, <f2, <i4 or the like",
                       where);
    if (descr[0] == '>')
        return rb_fail(err, RB_EUNSUPPORTED, "%s: its dtype is %s, big-endian, expected little-endian", where, descr);
    for (size_t i = 0; i < RB_COUNT(DTYPES); i++) {
        if (strcmp(descr + 1, DTYPES[i].code) != 0) continue;
        *dtype = DTYPES[i].dtype;
        return RB_OK;
    }
    return rb_fail(err, RB_EUNSUPPORTED, "%s: its dtype is %s, expected a number's (bfloat16 goes into .safetensors)",
                   where, descr);
}

static rb_status parse_order(const char *header, const char *where, rb_error *err)
{
    const char *at = find_key(header, "fortran_order");
    if (at && strncmp(at, "False", strlen("False")) == 0) return RB_OK;
    if (at && strncmp(at, "True", strlen("True")) == 0)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: it is stored in Fortran order, expected C order (numpy.ascontiguousarray gives it)", where);
    return rb_fail(err, RB_EFORMAT, "%s: its header has no fortran_order", where);
}

static rb_status parse_shape(safetensor *tensor, const char *header, const char *where, rb_error *err)
{
    const char *at = find_key(header, "shape");
    if (!at || *at != '(') return rb_fail(err, RB_EFORMAT, "%s: its header has no shape", where);
    for (at++; *at != ')';) {
        char *end;
        errno = 0;
        const long long dim = strtoll(at, &end, 10);
        if (end == at || dim < 0 || errno != 0)
            return rb_fail(err, RB_EFORMAT, "%s: its shape is not a list of whole numbers", where);
        if (tensor->rank == SAFETENSORS_MAX_RANK)
            return rb_fail(err, RB_EUNSUPPORTED, "%s: more than %d dims in its shape", where, SAFETENSORS_MAX_RANK);
        tensor->shape[tensor->rank++] = dim;
        at = end + strspn(end, ", ");
    }
    return RB_OK;
}

rb_status npy_header_parse(safetensor *tensor, const char *header, const char *where, rb_error *err)
{
    rb_status st;
    RB_TRY(st, parse_dtype(&tensor->dtype, header, where, err), done);
    RB_TRY(st, parse_order(header, where, err), done);
    RB_TRY(st, parse_shape(tensor, header, where, err), done);
done:
    return st;
}
