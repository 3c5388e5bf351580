/* See measured_points.h. */
#include "allocate/measured_points.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/plain_name.h"

/* Where a format has its points. */
typedef struct point_format {
    const char *schema, *list;
    int version;
    const char *request; /* the object that has the model, and options.method of all points; NULL: the document has the
                            model, and each point its method, "none" of the unquantized run */
} point_format;

static const point_format formats[] = {{"ropebits-evaluation", "runs", 2, NULL},
                                       {"ropebits-tune", "points", 1, "request"}};

void measured_points_free(measured_points *points)
{
    free(points->at);
    *points = (measured_points){0};
}

static double bits_of(const measured_point *point) { return point->key_true_bits + point->value_true_bits; }

static int by_method_and_bits(const void *a, const void *b)
{
    const measured_point *p = a, *q = b;
    const int order = strcmp(p->method, q->method);
    return order ? order : (bits_of(p) > bits_of(q)) - (bits_of(p) < bits_of(q));
}

static rb_status find_format(const point_format **out, const cJSON *document, const char *path, rb_error *err)
{
    const char *schema;
    const rb_status st = rb_json_get_string(document, "schema", path, &schema, err);
    if (st != RB_OK) return st;
    for (size_t i = 0; i < RB_COUNT(formats); i++)
        if (strcmp(schema, formats[i].schema) == 0) {
            *out = &formats[i];
            return rb_json_check_schema(document, path, formats[i].schema, formats[i].version, err);
        }
    return rb_fail(err, RB_EFORMAT, "%s: schema is \"%s\", expected \"%s\" or \"%s\"", path, schema, formats[0].schema,
                   formats[1].schema);
}

/* A plan without any error has no place on a logarithmic scale, and is left out, as is the unquantized run. */
static rb_status add_point(measured_points *out, const cJSON *json, const char *method, const char *where,
                           rb_error *err)
{
    measured_point point = {0};
    rb_status st = RB_OK;
    if (!method) RB_TRY(st, rb_json_get_string(json, "method", where, &method, err), done);
    if (strcmp(method, "none") == 0) goto done;
    RB_TRY(st, rb_check_plain_name(method, "method", where, err), done);
    snprintf(point.method, sizeof point.method, "%s", method);
    RB_TRY(st, rb_json_get_number(json, "key_true_bits", where, 0.0, 64.0, &point.key_true_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "value_true_bits", where, 0.0, 64.0, &point.value_true_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "kl_mean", where, -1.0, DBL_MAX, &point.kl, err), done);
    if (point.kl > 0.0) out->at[out->n++] = point;
done:
    return st;
}

static rb_status check_model(const cJSON *owner, const char *path, const model_facts *model, rb_error *err)
{
    const cJSON *object;
    model_facts facts;
    char where[512];
    rb_status st;
    snprintf(where, sizeof where, "%.400s: model", path);
    RB_TRY(st, rb_json_get_object(owner, "model", path, &object, err), done);
    RB_TRY(st, model_facts_from_json(&facts, object, where, err), done);
    st = model_facts_same(&facts, path, model, "profile", err);
done:
    return st;
}

static rb_status read_document(measured_points *out, const cJSON *document, const char *path, const model_facts *model,
                               rb_error *err)
{
    const point_format *format = NULL;
    const cJSON *owner = document, *options, *list, *item;
    const char *method = NULL;
    char where[512];
    int i = 0;
    rb_status st;
    RB_TRY(st, find_format(&format, document, path, err), done);
    if (format->request) {
        RB_TRY(st, rb_json_get_object(document, format->request, path, &owner, err), done);
        RB_TRY(st, rb_json_get_object(owner, "options", path, &options, err), done);
        RB_TRY(st, rb_json_get_string(options, "method", path, &method, err), done);
    }
    RB_TRY(st, check_model(owner, path, model, err), done);
    RB_TRY(st, rb_json_get_array(document, format->list, path, &list, err), done);
    const size_t n = (size_t)out->n + (size_t)cJSON_GetArraySize(list);
    measured_point *more = realloc(out->at, (n + 1) * sizeof *more);
    if (!more) {
        st = rb_fail(err, RB_ENOMEM, "out of memory for points of evaluations");
        goto done;
    }
    out->at = more;
    cJSON_ArrayForEach (item, list) {
        snprintf(where, sizeof where, "%.400s: %s[%d]", path, format->list, i++);
        RB_TRY(st, add_point(out, item, method, where, err), done);
    }
done:
    return st;
}

rb_status measured_points_read(measured_points *out, const rb_string_list *paths, const model_facts *model,
                               rb_error *err)
{
    rb_status st = RB_OK;
    *out = (measured_points){0};
    for (int i = 0; i < paths->n && st == RB_OK; i++) {
        cJSON *document = NULL;
        st = rb_json_read(&document, paths->at[i], 0, err);
        if (st == RB_OK) st = read_document(out, document, paths->at[i], model, err);
        cJSON_Delete(document);
    }
    if (out->n > 0) qsort(out->at, (size_t)out->n, sizeof *out->at, by_method_and_bits);
    return st;
}

static rb_status point_to_json(cJSON **out, const measured_point *point, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "method", point->method, err), done);
    RB_TRY(st, rb_json_add_number(*out, "key_true_bits", point->key_true_bits, err), done);
    RB_TRY(st, rb_json_add_number(*out, "value_true_bits", point->value_true_bits, err), done);
    st = rb_json_add_number(*out, "kl_mean", point->kl, err);
done:
    return st;
}

rb_status measured_points_to_json(cJSON **out, const measured_points *points, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st = RB_OK;
    *out = cJSON_CreateArray();
    if (!*out) return rb_fail(err, RB_ENOMEM, "out of memory for points of evaluations");
    for (int i = 0; i < points->n && st == RB_OK; i++) {
        st = point_to_json(&item, &points->at[i], err);
        if (st == RB_OK) st = rb_json_append(*out, &item, err);
        cJSON_Delete(item);
        item = NULL;
    }
    return st;
}
