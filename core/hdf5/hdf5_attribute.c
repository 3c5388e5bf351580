/* Attributes: one string, one whole number or one real number each. See core/hdf5/hdf5_file.h.
 *
 * Strings have a fixed length. HDF5 keeps strings of variable length in its global heap, the only structure of a file
 * that has no checksum, and a reader would have to trust every length in it. */
#include <math.h>
#include <string.h>

#include "core/hdf5/hdf5_contents.h"
#include "core/hdf5/hdf5_internal.h"
#include "core/program.h"

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status write_attribute(hid_t loc, const char *object, const char *name, hid_t type, const void *value,
                                 rb_error *err)
{
    rb_h5_silence_thread();
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

/* The attribute, which must have one value of the kind. */
static rb_status find_value(const h5_attribute **out, const rb_h5_contents *file, const char *object, const char *name,
                            h5_attribute_kind kind, const char *expected, rb_error *err)
{
    const h5_object *holder;
    const rb_status st = h5_find_object(&holder, file, object, err);
    if (st != RB_OK) return st;
    const h5_attribute *found = h5_find_attribute(file, holder, name);
    const h5_attribute *cut = found ? NULL : h5_find_attribute(file, holder, ""); /* the list is cut short here */
    if (cut) return h5_fail(err, RB_EFORMAT, file, object, "attribute %s is damaged (%s)", name, cut->text);
    if (!found) return h5_fail(err, RB_EFORMAT, file, object, "attribute %s is missing", name);
    if (found->facts.kind == H5_ATTRIBUTE_DAMAGED)
        return h5_fail(err, RB_EFORMAT, file, object, "attribute %s is damaged (%s)", name, found->text);
    if (found->facts.kind == H5_ATTRIBUTE_MANY)
        return h5_fail(err, RB_EFORMAT, file, object, "attribute %s is not one value", name);
    if (found->facts.kind != kind)
        return h5_fail(err, RB_EFORMAT, file, object, "attribute %s is not a %s", name, expected);
    *out = found;
    return RB_OK;
}

bool rb_h5_has_attribute(const rb_h5_contents *file, const char *object, const char *name)
{
    const h5_object *holder;
    return h5_find_object(&holder, file, object, NULL) == RB_OK && h5_find_attribute(file, holder, name) != NULL;
}

rb_status rb_h5_get_string(const rb_h5_contents *file, const char *object, const char *name, char *value, size_t size,
                           rb_error *err)
{
    const h5_attribute *found = NULL;
    const rb_status st = find_value(&found, file, object, name, H5_ATTRIBUTE_STRING, "string of fixed length", err);
    if (st != RB_OK) return st;
    const size_t length = strlen(found->text);
    if (length >= size)
        return h5_fail(err, RB_EFORMAT, file, object, "attribute %s: %zu characters, at most %zu expected", name,
                       length, size - 1);
    memcpy(value, found->text, length + 1);
    return RB_OK;
}

rb_status rb_h5_get_int(const rb_h5_contents *file, const char *object, const char *name, int64_t min, int64_t max,
                        int64_t *value, rb_error *err)
{
    const h5_attribute *found = NULL;
    const rb_status st = find_value(&found, file, object, name, H5_ATTRIBUTE_INT, "whole number", err);
    if (st != RB_OK) return st;
    if (found->facts.whole < min || found->facts.whole > max)
        return h5_fail(err, RB_EFORMAT, file, object, "attribute %s is %lld, expected %lld to %lld", name,
                       (long long)found->facts.whole, (long long)min, (long long)max);
    *value = found->facts.whole;
    return RB_OK;
}

rb_status rb_h5_get_number(const rb_h5_contents *file, const char *object, const char *name, double *value,
                           rb_error *err)
{
    const h5_attribute *found = NULL;
    const rb_status st = find_value(&found, file, object, name, H5_ATTRIBUTE_NUMBER, "number", err);
    if (st != RB_OK) return st;
    if (!isfinite(found->facts.number))
        return h5_fail(err, RB_ENONFINITE, file, object, "attribute %s is not finite", name);
    *value = found->facts.number;
    return RB_OK;
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

rb_status rb_h5_check_schema(const rb_h5_contents *file, const char *name, const char *schema, int version,
                             rb_error *err)
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
