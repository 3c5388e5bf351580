/* Attributes: one string, one whole number or one real number each. See core/hdf5/hdf5_file.h.
 *
 * Strings have a fixed length. HDF5 keeps strings of variable length in its global heap, the only structure of a file
 * that has no checksum, and a reader would have to trust every length in it. */
#include "core/hdf5/hdf5_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/program.h"

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status write_attribute(hid_t loc, const char *object, const char *name, hid_t type, const void *value,
                                 rb_error *err)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = -1;
    rb_status st = RB_OK;
    if (space >= 0)
        attribute = H5Acreate_by_name(loc, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, type, value) < 0)
        st = rb_h5_fail_call(err, RB_EIO, loc, object, "attribute %s cannot be written", name);
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    return st;
}

/* A NUL-terminated UTF-8 string type of size_bytes, the NUL included. */
static hid_t string_type(size_t size_bytes, H5T_cset_t charset)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0 && (H5Tset_size(type, size_bytes) < 0 || H5Tset_cset(type, charset) < 0)) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

rb_status rb_h5_set_string(hid_t loc, const char *object, const char *name, const char *value, rb_error *err)
{
    enum { MAX_ATTRIBUTE = 60000 }; /* HDF5 keeps an attribute and its description within 64 KiB */
    const size_t size_bytes = strlen(value) + 1;
    if (size_bytes > MAX_ATTRIBUTE)
        return rb_h5_fail(err, RB_EINVAL, loc, object, "attribute %s: %zu characters, at most %d fit", name,
                          size_bytes - 1, MAX_ATTRIBUTE - 1);
    hid_t type = string_type(size_bytes, H5T_CSET_UTF8);
    if (type < 0) return rb_fail(err, RB_ENOMEM, "HDF5 cannot make a string type");
    const rb_status st = write_attribute(loc, object, name, type, value, err);
    H5Tclose(type);
    return st;
}

rb_status rb_h5_set_int(hid_t loc, const char *object, const char *name, int64_t value, rb_error *err)
{
    return write_attribute(loc, object, name, H5T_STD_I64LE, &value, err);
}

rb_status rb_h5_set_number(hid_t loc, const char *object, const char *name, double value, rb_error *err)
{
    return write_attribute(loc, object, name, H5T_IEEE_F64LE, &value, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef struct attribute {
    hid_t id, type;
} attribute;

static void close_attribute(attribute *a)
{
    if (a->type >= 0) H5Tclose(a->type);
    if (a->id >= 0) H5Aclose(a->id);
}

/* Exactly one element, whatever the shape of its space says. */
static bool has_one_element(hid_t attribute_id)
{
    hid_t space = H5Aget_space(attribute_id);
    const hssize_t n = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    if (space >= 0) H5Sclose(space);
    return n == 1;
}

/* Opens the attribute of one element; close_attribute also after a failure. */
static rb_status open_attribute(attribute *out, hid_t loc, const char *object, const char *name, rb_error *err)
{
    *out = (attribute){-1, -1};
    rb_status st = rb_h5_check_links(loc, object, err);
    if (st != RB_OK) return st;
    const htri_t exists = H5Aexists_by_name(loc, object, name, H5P_DEFAULT);
    if (exists == 0) return rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s is missing", name);
    if (exists > 0) out->id = H5Aopen_by_name(loc, object, name, H5P_DEFAULT, H5P_DEFAULT);
    if (out->id >= 0) out->type = H5Aget_type(out->id);
    if (out->type < 0) return rb_h5_fail_call(err, RB_EFORMAT, loc, object, "attribute %s is damaged", name);
    if (!has_one_element(out->id))
        return rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s is not one value", name);
    return RB_OK;
}

rb_status rb_h5_get_string(hid_t loc, const char *object, const char *name, char *value, size_t size, rb_error *err)
{
    enum { MAX_STORED = 1 << 20 };
    attribute a;
    hid_t memory_type = -1;
    char *text = NULL;
    size_t stored;
    rb_status st;

    RB_TRY(st, open_attribute(&a, loc, object, name, err), done);
    stored = H5Tget_size(a.type);
    if (H5Tget_class(a.type) != H5T_STRING || H5Tis_variable_str(a.type) != 0 || stored == 0 || stored > MAX_STORED) {
        st = rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s is not a string of fixed length", name);
        goto done;
    }
    RB_TRY(st, rb_alloc(&text, stored + 1, 1, name, err), done);
    memory_type = string_type(stored + 1, H5Tget_cset(a.type));
    if (memory_type < 0 || H5Aread(a.id, memory_type, text) < 0) {
        st = rb_h5_fail_call(err, RB_EFORMAT, loc, object, "attribute %s is damaged", name);
        goto done;
    }
    if (strlen(text) >= size) {
        st = rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s: %zu characters, at most %zu expected", name,
                        strlen(text), size - 1);
        goto done;
    }
    memcpy(value, text, strlen(text) + 1);
done:
    if (memory_type >= 0) H5Tclose(memory_type);
    close_attribute(&a);
    free(text);
    return st;
}

rb_status rb_h5_get_int(hid_t loc, const char *object, const char *name, int64_t min, int64_t max, int64_t *value,
                        rb_error *err)
{
    attribute a;
    int64_t found = 0;
    rb_status st;

    RB_TRY(st, open_attribute(&a, loc, object, name, err), done);
    if (H5Tget_class(a.type) != H5T_INTEGER || H5Tget_size(a.type) > sizeof found
        || H5Aread(a.id, H5T_NATIVE_INT64, &found) < 0) {
        st = rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s is not a whole number", name);
        goto done;
    }
    if (found < min || found > max) {
        st = rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s is %lld, expected %lld to %lld", name,
                        (long long)found, (long long)min, (long long)max);
        goto done;
    }
    *value = found;
done:
    close_attribute(&a);
    return st;
}

rb_status rb_h5_get_number(hid_t loc, const char *object, const char *name, double *value, rb_error *err)
{
    attribute a;
    double found = 0;
    rb_status st;

    RB_TRY(st, open_attribute(&a, loc, object, name, err), done);
    if (H5Tget_class(a.type) != H5T_FLOAT || H5Tget_size(a.type) > sizeof found
        || H5Aread(a.id, H5T_NATIVE_DOUBLE, &found) < 0) {
        st = rb_h5_fail(err, RB_EFORMAT, loc, object, "attribute %s is not a number", name);
        goto done;
    }
    if (!isfinite(found)) {
        st = rb_h5_fail(err, RB_ENONFINITE, loc, object, "attribute %s is not finite", name);
        goto done;
    }
    *value = found;
done:
    close_attribute(&a);
    return st;
}

/* ---- schema ---------------------------------------------------------------------------------- */

rb_status rb_h5_set_schema(hid_t file, const char *schema, int version, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_h5_set_string(file, "/", "schema", schema, err), done);
    RB_TRY(st, rb_h5_set_int(file, "/", "schema_version", version, err), done);
    RB_TRY(st, rb_h5_set_string(file, "/", "tool_version", rb_tool_version(), err), done);
done:
    return st;
}

rb_status rb_h5_check_schema(hid_t file, const char *name, const char *schema, int version, rb_error *err)
{
    char found[64];
    int64_t found_version;
    rb_status st;
    RB_TRY(st, rb_h5_get_string(file, "/", "schema", found, sizeof found, err), done);
    if (strcmp(found, schema) != 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: schema %s, expected %s", name, found, schema);
        goto done;
    }
    RB_TRY(st, rb_h5_get_int(file, "/", "schema_version", INT64_MIN, INT64_MAX, &found_version, err), done);
    if (found_version != version)
        st = rb_fail(err, RB_EFORMAT, "%s: %s version %lld, expected %d", name, schema, (long long)found_version,
                     version);
done:
    return st;
}
