/* See tune_log.h. */
#include "tune/tune_log.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/program.h"

/* The KL of equal distributions may be below zero by a rounding. */
static const double KL_ROUNDING = 1e-9;

void tune_log_free(tune_log *log)
{
    cJSON_Delete(log->request);
    log->request = NULL;
}

bool tune_log_holds(const tune_log *log, const tune_point *point)
{
    return point->asked_bits <= log->most_bits && tune_excess(point, &log->limits, &log->unquantized) <= 0.0;
}

int tune_log_search_points(search_point *out, const tune_log *log)
{
    int n = 0;
    for (int i = 0; i < log->n_points; i++)
        if (log->points[i].asked_bits <= log->most_bits)
            out[n++] = (search_point){.bits = log->points[i].total_bits,
                                      .excess = tune_excess(&log->points[i], &log->limits, &log->unquantized),
                                      .pass = log->points[i].pass};
    return n;
}

int tune_log_answer(const tune_log *log)
{
    int best = -1;
    for (int i = 0; i < log->n_points; i++)
        if (tune_log_holds(log, &log->points[i])
            && (best < 0 || log->points[i].total_bits < log->points[best].total_bits))
            best = i;
    return best;
}

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status point_to_json(cJSON **out, const tune_point *point, const tune_log *log, rb_error *err)
{
    const tune_baseline *plain = &log->unquantized;
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"pass", point->pass},
                   {"asked_total_bits", point->asked_bits},
                   {"total_bits", point->total_bits},
                   {"key_true_bits", point->key_true_bits},
                   {"value_true_bits", point->value_true_bits},
                   {"bytes_per_token", point->bytes_per_token},
                   {"kl_mean", point->kl},
                   {"perplexity", point->perplexity},
                   {"perplexity_increase_percent", tune_perplexity_increase(point, plain)}};
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(*out, numbers[i].name, numbers[i].value, err), done);
    if (plain->n_needles > 0)
        RB_TRY(st, rb_json_add_number(*out, "n_needles_right", (double)point->n_right, err), done);
    RB_TRY(st, rb_json_add_string(*out, "plan_sha256", point->plan_sha256, err), done);
    st = rb_json_add_bool(*out, "holds", tune_log_holds(log, point), err);
done:
    return st;
}

static rb_status limits_to_json(cJSON **out, const tune_limits *limits, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "kl", limits->kl, err), done);
    RB_TRY(st, rb_json_add_number(*out, "perplexity_increase_percent", limits->perplexity_increase, err), done);
    st = limits->max_needles_lost == TUNE_NO_LIMIT
             ? rb_json_add_null(*out, "max_needles_lost", err)
             : rb_json_add_number(*out, "max_needles_lost", (double)limits->max_needles_lost, err);
done:
    return st;
}

static rb_status baseline_to_json(cJSON **out, const tune_baseline *plain, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "perplexity", plain->perplexity, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_needles", (double)plain->n_needles, err), done);
    st = rb_json_add_number(*out, "n_needles_right", (double)plain->n_right, err);
done:
    return st;
}

static rb_status add_request(cJSON *json, const cJSON *request, rb_error *err)
{
    cJSON *copy = cJSON_Duplicate(request, true);
    if (!copy) return rb_fail(err, RB_ENOMEM, "out of memory for the request");
    return rb_json_add_item(json, "request", &copy, err);
}

rb_status tune_log_to_json(cJSON **out, const tune_log *log, rb_error *err)
{
    const int answer = tune_log_answer(log);
    cJSON *json = NULL, *item = NULL, *list = cJSON_CreateArray();
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for points");
    *out = NULL;
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", TUNE_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", TUNE_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "tool_version", rb_tool_version(), err), done);
    RB_TRY(st, add_request(json, log->request, err), done);
    RB_TRY(st, limits_to_json(&item, &log->limits, err), done);
    RB_TRY(st, rb_json_add_item(json, "limits", &item, err), done);
    RB_TRY(st, baseline_to_json(&item, &log->unquantized, err), done);
    RB_TRY(st, rb_json_add_item(json, "unquantized", &item, err), done);
    for (int i = 0; i < log->n_points; i++) {
        RB_TRY(st, point_to_json(&item, &log->points[i], log, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "points", &list, err), done);
    RB_TRY(st, answer < 0 ? rb_json_add_null(json, "answer", err) : rb_json_add_number(json, "answer", answer, err),
           done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

rb_status tune_log_write(const tune_log *log, const char *path, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st = tune_log_to_json(&json, log, err);
    if (st == RB_OK) st = rb_json_write(json, path, err);
    cJSON_Delete(json);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

static rb_status sha256_from_json(char out[RB_SHA256_HEX], const cJSON *json, const char *key, const char *where,
                                  rb_error *err)
{
    const char *text;
    const rb_status st = rb_json_get_string(json, key, where, &text, err);
    if (st != RB_OK) return st;
    if (strlen(text) != RB_SHA256_HEX - 1 || strspn(text, "0123456789abcdef") != RB_SHA256_HEX - 1)
        return rb_fail(err, RB_EFORMAT, "%s: %s is no SHA-256 of 64 hexadecimal digits", where, key);
    memcpy(out, text, RB_SHA256_HEX);
    return RB_OK;
}

static rb_status point_from_json(tune_point *out, const cJSON *json, const tune_log *log, const char *where,
                                 rb_error *err)
{
    const double bits_max = 64.0;
    const int least_pass = log->n_points > 0 ? log->points[log->n_points - 1].pass : 0;
    int64_t pass;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "pass", where, least_pass, TUNE_MAX_POINTS, &pass, err), done);
    out->pass = (int)pass;
    RB_TRY(st, rb_json_get_number(json, "asked_total_bits", where, 0.0, bits_max, &out->asked_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "total_bits", where, 0.0, bits_max, &out->total_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "key_true_bits", where, 0.0, bits_max, &out->key_true_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "value_true_bits", where, 0.0, bits_max, &out->value_true_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "bytes_per_token", where, 0.0, DBL_MAX, &out->bytes_per_token, err), done);
    RB_TRY(st, rb_json_get_number(json, "kl_mean", where, -KL_ROUNDING, DBL_MAX, &out->kl, err), done);
    RB_TRY(st, rb_json_get_number(json, "perplexity", where, 1.0, DBL_MAX, &out->perplexity, err), done);
    if (log->unquantized.n_needles > 0)
        RB_TRY(st, rb_json_get_int(json, "n_needles_right", where, 0, log->unquantized.n_needles, &out->n_right, err),
               done);
    st = sha256_from_json(out->plan_sha256, json, "plan_sha256", where, err);
done:
    return st;
}

static rb_status baseline_from_json(tune_baseline *out, const cJSON *document, const char *path, rb_error *err)
{
    const cJSON *json;
    char where[512];
    rb_status st;
    snprintf(where, sizeof where, "%.400s: unquantized", path);
    RB_TRY(st, rb_json_get_object(document, "unquantized", path, &json, err), done);
    RB_TRY(st, rb_json_get_number(json, "perplexity", where, 1.0, DBL_MAX, &out->perplexity, err), done);
    RB_TRY(st, rb_json_get_int(json, "n_needles", where, 0, INT32_MAX, &out->n_needles, err), done);
    st = rb_json_get_int(json, "n_needles_right", where, 0, out->n_needles, &out->n_right, err);
done:
    return st;
}

static rb_status points_from_json(tune_log *out, const cJSON *document, const char *path, rb_error *err)
{
    const cJSON *list, *item;
    char where[512];
    rb_status st = rb_json_get_array(document, "points", path, &list, err);
    if (st == RB_OK && (cJSON_GetArraySize(list) < 1 || cJSON_GetArraySize(list) > TUNE_MAX_POINTS))
        st = rb_fail(err, RB_EFORMAT, "%s: %d points, expected 1 to %d", path, cJSON_GetArraySize(list),
                     TUNE_MAX_POINTS);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(where, sizeof where, "%.400s: points[%d]", path, out->n_points);
        st = point_from_json(&out->points[out->n_points], item, out, where, err);
        if (st != RB_OK) return st;
        out->n_points++;
    }
    return RB_OK;
}

rb_status tune_log_read(tune_log *out, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    const cJSON *request;
    rb_status st;
    *out = (tune_log){.most_bits = (double)INFINITY};
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, rb_json_check_schema(document, path, TUNE_SCHEMA, TUNE_VERSION, err), done);
    RB_TRY(st, rb_json_get_object(document, "request", path, &request, err), done);
    RB_TRY(st, baseline_from_json(&out->unquantized, document, path, err), done);
    RB_TRY(st, points_from_json(out, document, path, err), done);
    out->request = cJSON_Duplicate(request, true);
    if (!out->request) st = rb_fail(err, RB_ENOMEM, "out of memory for the request");
done:
    cJSON_Delete(document);
    return st;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* A leaf as one short text. */
static void show(char *out, size_t size, const cJSON *item)
{
    char *text = item ? cJSON_PrintUnformatted(item) : NULL;
    snprintf(out, size, "%.70s", text ? text : "not there");
    free(text);
}

static rb_status compare_trees(const cJSON *recorded, const cJSON *asked, const char *name, const char *path,
                               rb_error *err)
{
    char a[80], b[80], own[512];
    const cJSON *item;
    rb_status st;
    if (!cJSON_IsObject(recorded) || !cJSON_IsObject(asked)) {
        if (recorded && asked && cJSON_Compare(recorded, asked, true)) return RB_OK;
        show(a, sizeof a, recorded);
        show(b, sizeof b, asked);
        return rb_fail(err, RB_EMISMATCH, "%s is of another request: %s is %s, and here %s; give another --log", path,
                       name, a, b);
    }
    cJSON_ArrayForEach (item, asked) {
        snprintf(own, sizeof own, "%.400s%s%.64s", name, *name ? "." : "", item->string);
        st = compare_trees(cJSON_GetObjectItemCaseSensitive(recorded, item->string), item, own, path, err);
        if (st != RB_OK) return st;
    }
    cJSON_ArrayForEach (item, recorded) {
        snprintf(own, sizeof own, "%.400s%s%.64s", name, *name ? "." : "", item->string);
        if (!cJSON_GetObjectItemCaseSensitive(asked, item->string)) return compare_trees(item, NULL, own, path, err);
    }
    return RB_OK;
}

rb_status tune_log_check_request(const tune_log *recorded, const cJSON *request, const char *path, rb_error *err)
{
    return compare_trees(recorded->request, request, "", path, err);
}
