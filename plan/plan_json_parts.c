/* See plan/plan_json_parts.h. */
#include "plan/plan_json_parts.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

/* ---- writing --------------------------------------------------------------------------------- */

rb_status plan_json_no_memory(rb_error *err) { return rb_fail(err, RB_ENOMEM, "out of memory for a plan's JSON"); }

rb_status plan_json_add_ints(cJSON *json, const char *key, const int *values, int n, rb_error *err)
{
    cJSON *list = cJSON_CreateIntArray(values, n);
    return list ? rb_json_add_item(json, key, &list, err) : plan_json_no_memory(err);
}

rb_status plan_json_add_floats(cJSON *json, const char *key, const float *values, int n, rb_error *err)
{
    cJSON *list = NULL;
    if (!values) return RB_OK;
    list = cJSON_CreateFloatArray(values, n);
    return list ? rb_json_add_item(json, key, &list, err) : plan_json_no_memory(err);
}

/* ---- reading --------------------------------------------------------------------------------- */

rb_status plan_json_exact_float(float *out, double value, const char *what, const char *where, rb_error *err)
{
    if (fabs(value) <= FLT_MAX && (double)(float)value == value) {
        *out = (float)value;
        return RB_OK;
    }
    return rb_fail(err, RB_EFORMAT, "%s: %s is %.17g, expected a number that fp16 holds", where, what, value);
}

rb_status plan_json_get_floats(float **out, const cJSON *json, const char *key, int n, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    char what[32];
    int i = 0;
    rb_status st;
    if (!rb_json_find(json, key)) return RB_OK;
    st = rb_json_get_array(json, key, where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != n)
        st = rb_fail(err, RB_EFORMAT, "%s: %s has %d entries, expected %d", where, key, cJSON_GetArraySize(list), n);
    if (st == RB_OK) st = rb_alloc(out, (size_t)n, sizeof **out, "transform of a head", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s: %s[%d] is no number", where, key, i);
        snprintf(what, sizeof what, "%s[%d]", key, i);
        st = plan_json_exact_float(&(*out)[i++], item->valuedouble, what, where, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

rb_status plan_json_get_name(int *out, const cJSON *json, const char *key, const char *const *names, const char *where,
                             rb_error *err)
{
    const char *name;
    const rb_status st = rb_json_get_string(json, key, where, &name, err);
    if (st != RB_OK) return st;
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return RB_OK;
        }
    return rb_fail(err, RB_EUNSUPPORTED, "%s: unknown %s \"%s\"", where, key, name);
}

rb_status plan_json_get_codebook(codebook_kind *kind, const cJSON *json, const char *where, rb_error *err)
{
    const char *name;
    rb_status st = rb_json_get_string(json, "codebook", where, &name, err);
    if (st == RB_OK && !codebook_kind_from_name(name, kind))
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: unknown codebook \"%s\"", where, name);
    return st;
}
