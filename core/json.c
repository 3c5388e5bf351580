/* Reading and building JSON with cJSON: see core/json.h. Printing is core/json_print.c. */
#include "core/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json_fault.h"
#include "core/nearest_name.h"

enum { DEFAULT_MAX_BYTES = 256 << 20, FEW_MEMBERS = 8 };

/* Whole numbers up to here are exact in a double, and so in cJSON. */
static const int64_t MAX_EXACT_INT = (int64_t)1 << 53;

/* ---- parsing --------------------------------------------------------------------------------- */

/* An escaped NUL would end the C string that cJSON makes, and "a\u0000b" would silently be "a". With a backslash before
 * it, it is plain text. */
static const char *find_escaped_nul(const char *text)
{
    for (const char *at = strstr(text, "\\u0000"); at; at = strstr(at + 1, "\\u0000")) {
        const char *first = at;
        while (first > text && first[-1] == '\\') first--;
        if ((at - first) % 2 == 0) return at;
    }
    return NULL;
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A key that an object has twice, or NULL. Found by sorting, because the vocabulary in a tokenizer.json is one object
 * of 150 000 members. */
static rb_status find_duplicate_key(const char **duplicate, const cJSON *object, const char *name, rb_error *err)
{
    const size_t n = (size_t)cJSON_GetArraySize(object);
    const char *few[FEW_MEMBERS], **keys = few;
    const cJSON *member;
    size_t i = 0;
    if (n > FEW_MEMBERS) {
        const rb_status st = rb_alloc(&keys, n, sizeof *keys, name, err);
        if (st != RB_OK) return st;
    }
    cJSON_ArrayForEach (member, object) keys[i++] = member->string;
    qsort(keys, n, sizeof *keys, compare_keys);
    *duplicate = NULL;
    for (i = 1; i < n && !*duplicate; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0) *duplicate = keys[i];
    if (keys != few) free(keys);
    return RB_OK;
}

/* The recursion is at most as deep as cJSON's limit of nesting. */
static rb_status check_keys(const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *child;
    if (cJSON_IsObject(json)) {
        const char *duplicate;
        const rb_status st = find_duplicate_key(&duplicate, json, name, err);
        if (st != RB_OK) return st;
        if (duplicate) return rb_fail(err, RB_EFORMAT, "%s: key \"%s\" is there twice in one object", name, duplicate);
    }
    cJSON_ArrayForEach (child, json) {
        const rb_status st = child->child ? check_keys(child, name, err) : RB_OK;
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* text[length] is NUL. */
static rb_status parse_terminated(cJSON **out, const char *text, size_t length, const char *name, rb_error *err)
{
    const char *end = text, *nul = memchr(text, '\0', length);
    cJSON *json = NULL;
    rb_status st = RB_OK;
    *out = NULL;
    if (nul)
        return rb_fail(err, RB_EFORMAT, "%s: line %zu: a NUL byte, expected JSON text", name, rb_json_line(text, nul));
    if ((nul = find_escaped_nul(text)) != NULL)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: line %zu: a string with \\u0000, which ropebits cannot hold", name,
                       rb_json_line(text, nul));

    json = cJSON_ParseWithLengthOpts(text, length + 1, &end, false);
    if (!json) return rb_json_fault(err, name, text, end);
    end += strspn(end, " \t\r\n");
    if (end != text + length) {
        char excerpt[24];
        rb_json_excerpt(excerpt, sizeof excerpt, end);
        st = rb_fail(err, RB_EFORMAT, "%s: line %zu: text behind the end of the JSON document: %s", name,
                     rb_json_line(text, end), excerpt);
    }
    if (st == RB_OK) st = check_keys(json, name, err);
    if (st != RB_OK) {
        cJSON_Delete(json);
        return st;
    }
    *out = json;
    return RB_OK;
}

rb_status rb_json_parse(cJSON **out, const char *text, size_t length, const char *name, rb_error *err)
{
    /* cJSON 1.7.15 reads one byte past the length it is given on some truncated input (CVE-2023-53154): parse a copy
     * that ends in NUL. */
    char *copy = NULL;
    *out = NULL;
    if (length == SIZE_MAX) return rb_fail(err, RB_ENOMEM, "%s: %zu bytes of JSON", name, length);
    rb_status st = rb_alloc(&copy, length + 1, 1, name, err);
    if (st != RB_OK) return st;
    if (length > 0) memcpy(copy, text, length);
    st = parse_terminated(out, copy, length, name, err);
    free(copy);
    return st;
}

rb_status rb_json_read(cJSON **out, const char *path, size_t max_bytes, rb_error *err)
{
    char *text = NULL;
    size_t length;
    *out = NULL;
    rb_status st = rb_read_file(&text, &length, path, max_bytes ? max_bytes : DEFAULT_MAX_BYTES, err);
    if (st == RB_OK) st = parse_terminated(out, text, length, path, err);
    free(text);
    return st;
}

/* ---- members --------------------------------------------------------------------------------- */

const cJSON *rb_json_find(const cJSON *object, const char *key)
{
    const cJSON *member = cJSON_GetObjectItemCaseSensitive(object, key);
    return member && !cJSON_IsNull(member) ? member : NULL;
}

static const char *type_name(const cJSON *json)
{
    switch (json->type & 0xff) {
    case cJSON_False:
    case cJSON_True: return "a boolean";
    case cJSON_Number: return "a number";
    case cJSON_String: return "a string";
    case cJSON_Array: return "an array";
    case cJSON_Object: return "an object";
    default: return "null";
    }
}

/* What stands between place and key: a dot inside a document ("plan.json: layers[3]"), a colon after its name
 * ("plan.json"). */
static const char *joint(const char *where) { return strstr(where, ": ") ? "." : ": "; }

static rb_status fail_type(rb_error *err, const cJSON *found, const char *key, const char *where, const char *expected)
{
    return rb_fail(err, RB_EFORMAT, "%s%s%s: found %s, expected %s", where, joint(where), key, type_name(found),
                   expected);
}

static rb_status get_member(const cJSON *object, const char *key, const char *where, const char *expected,
                            const cJSON **out, rb_error *err)
{
    *out = NULL;
    if (!cJSON_IsObject(object))
        return rb_fail(err, RB_EFORMAT, "%s: found %s, expected an object", where,
                       object ? type_name(object) : "nothing");
    *out = rb_json_find(object, key);
    if (!*out) return rb_fail(err, RB_EFORMAT, "%s%s%s: is missing, expected %s", where, joint(where), key, expected);
    return RB_OK;
}

rb_status rb_json_get_object(const cJSON *object, const char *key, const char *where, const cJSON **out, rb_error *err)
{
    const rb_status st = get_member(object, key, where, "an object", out, err);
    return st == RB_OK && !cJSON_IsObject(*out) ? fail_type(err, *out, key, where, "an object") : st;
}

rb_status rb_json_get_array(const cJSON *object, const char *key, const char *where, const cJSON **out, rb_error *err)
{
    const rb_status st = get_member(object, key, where, "an array", out, err);
    return st == RB_OK && !cJSON_IsArray(*out) ? fail_type(err, *out, key, where, "an array") : st;
}

rb_status rb_json_get_string(const cJSON *object, const char *key, const char *where, const char **out, rb_error *err)
{
    const cJSON *member;
    const rb_status st = get_member(object, key, where, "a string", &member, err);
    if (st != RB_OK) return st;
    if (!cJSON_IsString(member)) return fail_type(err, member, key, where, "a string");
    *out = member->valuestring;
    return RB_OK;
}

rb_status rb_json_get_number(const cJSON *object, const char *key, const char *where, double min, double max,
                             double *out, rb_error *err)
{
    const cJSON *member;
    const rb_status st = get_member(object, key, where, "a number", &member, err);
    if (st != RB_OK) return st;
    if (!cJSON_IsNumber(member)) return fail_type(err, member, key, where, "a number");
    const double value = member->valuedouble;
    if (!isfinite(value))
        return rb_fail(err, RB_ENONFINITE, "%s%s%s: the number is beyond the range of a double", where, joint(where),
                       key);
    if (value < min || value > max)
        return rb_fail(err, RB_EINVAL, "%s%s%s: is %.17g, expected %.17g to %.17g", where, joint(where), key, value,
                       min, max);
    *out = value;
    return RB_OK;
}

rb_status rb_json_get_int(const cJSON *object, const char *key, const char *where, int64_t min, int64_t max,
                          int64_t *out, rb_error *err)
{
    const cJSON *member;
    const rb_status st = get_member(object, key, where, "a whole number", &member, err);
    if (st != RB_OK) return st;
    if (!cJSON_IsNumber(member)) return fail_type(err, member, key, where, "a whole number");
    const double value = member->valuedouble;
    if (!(fabs(value) <= (double)MAX_EXACT_INT) || value != floor(value))
        return rb_fail(err, RB_EINVAL, "%s%s%s: is %.17g, expected a whole number of at most 2^53", where, joint(where),
                       key, value);
    if ((int64_t)value < min || (int64_t)value > max)
        return rb_fail(err, RB_EINVAL, "%s%s%s: is %lld, expected %lld to %lld", where, joint(where), key,
                       (long long)value, (long long)min, (long long)max);
    *out = (int64_t)value;
    return RB_OK;
}

rb_status rb_json_get_bool(const cJSON *object, const char *key, const char *where, bool *out, rb_error *err)
{
    const cJSON *member;
    const rb_status st = get_member(object, key, where, "true or false", &member, err);
    if (st != RB_OK) return st;
    if (!cJSON_IsBool(member)) return fail_type(err, member, key, where, "true or false");
    *out = cJSON_IsTrue(member);
    return RB_OK;
}

rb_status rb_json_check_members(const cJSON *object, const char *where, const char *const *known, rb_error *err)
{
    const cJSON *member;
    size_t n_known = 0;
    while (known[n_known]) n_known++;
    cJSON_ArrayForEach (member, object) {
        size_t i = 0;
        while (i < n_known && strcmp(known[i], member->string) != 0) i++;
        if (i < n_known) continue;
        const char *nearest = rb_nearest_name(member->string, known, n_known);
        return rb_fail(err, RB_EFORMAT, "%s: has an unknown member \"%s\"%s%s%s", where, member->string,
                       nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
    }
    return RB_OK;
}

rb_status rb_json_check_schema(const cJSON *document, const char *name, const char *schema, int version, rb_error *err)
{
    const char *found_schema;
    int64_t found_version;
    rb_status st;
    RB_TRY(st, rb_json_get_string(document, "schema", name, &found_schema, err), done);
    if (strcmp(found_schema, schema) != 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: schema is \"%s\", expected \"%s\"", name, found_schema, schema);
        goto done;
    }
    RB_TRY(st, rb_json_get_int(document, "version", name, 0, MAX_EXACT_INT, &found_version, err), done);
    if (found_version != version)
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: %s version is %lld, expected %d", name, schema,
                     (long long)found_version, version);
done:
    return st;
}

/* ---- building -------------------------------------------------------------------------------- */

static rb_status fail_memory(rb_error *err, const char *what)
{
    return rb_fail(err, RB_ENOMEM, "out of memory for JSON: %s", what);
}

static rb_status add_created(cJSON *object, const char *key, cJSON *item, rb_error *err)
{
    if (item && cJSON_AddItemToObject(object, key, item)) return RB_OK;
    cJSON_Delete(item);
    return fail_memory(err, key);
}

static cJSON *create_number(double value) { return isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull(); }

rb_status rb_json_new_object(cJSON **out, rb_error *err)
{
    *out = cJSON_CreateObject();
    return *out ? RB_OK : fail_memory(err, "an object");
}

rb_status rb_json_add_string(cJSON *object, const char *key, const char *value, rb_error *err)
{
    return add_created(object, key, cJSON_CreateString(value), err);
}

rb_status rb_json_add_number(cJSON *object, const char *key, double value, rb_error *err)
{
    return add_created(object, key, create_number(value), err);
}

rb_status rb_json_add_bool(cJSON *object, const char *key, bool value, rb_error *err)
{
    return add_created(object, key, cJSON_CreateBool(value), err);
}

rb_status rb_json_add_null(cJSON *object, const char *key, rb_error *err)
{
    return add_created(object, key, cJSON_CreateNull(), err);
}

rb_status rb_json_add_numbers(cJSON *object, const char *key, const double *values, int n, rb_error *err)
{
    cJSON *array = cJSON_CreateArray();
    if (!array) return fail_memory(err, key);
    for (int i = 0; i < n; i++) {
        cJSON *item = create_number(values[i]);
        const rb_status st = rb_json_append(array, &item, err);
        if (st != RB_OK) {
            cJSON_Delete(array);
            return st;
        }
    }
    return add_created(object, key, array, err);
}

rb_status rb_json_add_item(cJSON *object, const char *key, cJSON **item, rb_error *err)
{
    cJSON *given = *item;
    *item = NULL;
    return add_created(object, key, given, err);
}

rb_status rb_json_append(cJSON *array, cJSON **item, rb_error *err)
{
    cJSON *given = *item;
    *item = NULL;
    if (given && cJSON_AddItemToArray(array, given)) return RB_OK;
    cJSON_Delete(given);
    return fail_memory(err, "an element");
}
