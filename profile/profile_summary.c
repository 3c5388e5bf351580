/* The summary JSON: see profile/profile_summary.h and docs/profile.md. */
#include "profile/profile_summary.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/plain_name.h"
#include "core/program.h"
#include "profile/seed_spread.h"
#include "profile/sink_report.h"
#include "profile/tail_summary.h"

enum { PLACE_SIZE = 512 };

/* ---- writing --------------------------------------------------------------------------------- */

static rb_status layers_to_json(cJSON *json, const method_score *method, const model_facts *model, rb_error *err)
{
    double *by_layer = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&by_layer, (size_t)model->n_layers, sizeof *by_layer, "errors by layer", err), done);
    for (int layer = 0; layer < model->n_layers; layer++) by_layer[layer] = method_mean(method, model, layer).logit_mae;
    RB_TRY(st, rb_json_add_numbers(json, "logit_mae_by_layer", by_layer, model->n_layers, err), done);
done:
    free(by_layer);
    return st;
}

static rb_status method_to_json(cJSON **out, const profile_table *table, const method_score *method, rb_error *err)
{
    const model_facts *model = &table->model;
    const method_score *uniform = profile_table_uniform(table, method->avg_bits);
    const head_score mean = method_mean(method, model, -1);
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "method", method->method, err), done);
    if (method->plan) RB_TRY(st, rb_json_add_string(json, "plan", method->plan, err), done);
    RB_TRY(st, rb_json_add_number(json, "avg_bits", method->avg_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "true_bits", mean.true_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "sink", (double)method->n_sink, err), done);
    RB_TRY(st, rb_json_add_number(json, "logit_mae", mean.logit_mae, err), done);
    RB_TRY(st, layers_to_json(json, method, model, err), done);
    RB_TRY(st, rb_json_add_number(json, "causal_mae", mean.causal_mae, err), done);
    RB_TRY(st, rb_json_add_number(json, "attention_kl", mean.attention_kl, err), done);
    RB_TRY(st, rb_json_add_number(json, "relative_error", mean.relative_error, err), done);
    RB_TRY(st,
           rb_json_add_number(json, "reduction_vs_uniform",
                              uniform ? method_reduction(method, uniform, model) : (double)NAN, err),
           done);
    RB_TRY(st,
           rb_json_add_number(json, "layers_won_vs_uniform",
                              uniform ? (double)method_layers_won(method, uniform, model) : (double)NAN, err),
           done);
    RB_TRY(st, rb_json_add_number(json, "n_layers", model->n_layers, err), done);
    RB_TRY(st, tail_summary_add(json, method, model, err), done);
    RB_TRY(st, plan_seeds_add(json, &method->seeds, err), done);
    RB_TRY(st, seed_spread_add(json, method, model->n_layers, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    return st;
}

static rb_status methods_to_json(cJSON *json, const profile_table *table, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the summary");
    for (int m = 0; m < table->n_methods && st == RB_OK; m++) {
        st = method_to_json(&item, table, &table->methods[m], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
    }
    if (st == RB_OK) return rb_json_add_item(json, "methods", &list, err);
    cJSON_Delete(list);
    return st;
}

rb_status profile_summary_to_json(cJSON **out, const profile_table *table, rb_error *err)
{
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", PROFILE_SUMMARY_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", PROFILE_SUMMARY_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "tool_version", rb_tool_version(), err), done);
    RB_TRY(st, model_facts_to_json(&item, &table->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    RB_TRY(st, text_facts_to_json(&item, &table->calibration, err), done);
    RB_TRY(st, rb_json_add_item(json, "calibration", &item, err), done);
    RB_TRY(st, text_facts_to_json(&item, &table->test, err), done);
    RB_TRY(st, rb_json_add_item(json, "test", &item, err), done);
    RB_TRY(st, coverage_summary_add(json, table, err), done);
    RB_TRY(st, sink_summary_add(json, table, err), done);
    RB_TRY(st, methods_to_json(json, table, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    return st;
}

/* ---- reading --------------------------------------------------------------------------------- */

static rb_status layers_from_json(summary_method *method, const cJSON *json, int n_layers, const char *where,
                                  rb_error *err)
{
    const cJSON *list, *item;
    int layer = 0;
    rb_status st;
    RB_TRY(st, rb_json_get_array(json, "logit_mae_by_layer", where, &list, err), done);
    if (cJSON_GetArraySize(list) != n_layers) {
        st = rb_fail(err, RB_EFORMAT, "%s: logit_mae_by_layer has %d entries, expected the model's %d layers", where,
                     cJSON_GetArraySize(list), n_layers);
        goto done;
    }
    RB_TRY(st,
           rb_alloc(&method->logit_mae_by_layer, (size_t)n_layers, sizeof *method->logit_mae_by_layer,
                    "errors by layer", err),
           done);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.0 && item->valuedouble <= DBL_MAX)) {
            st = rb_fail(err, RB_EFORMAT, "%s: logit_mae_by_layer[%d] is no error, expected a number from 0", where,
                         layer);
            goto done;
        }
        method->logit_mae_by_layer[layer++] = item->valuedouble;
    }
done:
    return st;
}

static rb_status method_from_json(summary_method *out, const cJSON *json, int n_layers, const char *where,
                                  rb_error *err)
{
    const char *name;
    int64_t won = -1, stated_layers;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "n_layers", where, n_layers, n_layers, &stated_layers, err), done);
    RB_TRY(st, rb_json_get_string(json, "method", where, &name, err), done);
    if (strlen(name) >= sizeof out->method) {
        st = rb_fail(err, RB_EFORMAT, "%s: method \"%s\" is longer than %zu characters", where, name,
                     sizeof out->method - 1);
        goto done;
    }
    RB_TRY(st, rb_check_plain_name(name, "method", where, err), done);
    strcpy(out->method, name);
    RB_TRY(st, rb_json_get_number(json, "avg_bits", where, 0.0, 64.0, &out->avg_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "true_bits", where, 0.0, 64.0, &out->true_bits, err), done);
    RB_TRY(st, rb_json_get_number(json, "logit_mae", where, 0.0, DBL_MAX, &out->logit_mae, err), done);
    RB_TRY(st, rb_json_get_number(json, "causal_mae", where, 0.0, DBL_MAX, &out->causal_mae, err), done);
    RB_TRY(st, rb_json_get_number(json, "attention_kl", where, 0.0, DBL_MAX, &out->attention_kl, err), done);
    RB_TRY(st, rb_json_get_number(json, "relative_error", where, 0.0, DBL_MAX, &out->relative_error, err), done);
    out->reduction_vs_uniform = NAN;
    if (rb_json_find(json, "reduction_vs_uniform"))
        RB_TRY(st,
               rb_json_get_number(json, "reduction_vs_uniform", where, -DBL_MAX, 1.0, &out->reduction_vs_uniform, err),
               done);
    if (rb_json_find(json, "layers_won_vs_uniform"))
        RB_TRY(st, rb_json_get_int(json, "layers_won_vs_uniform", where, 0, n_layers, &won, err), done);
    out->layers_won_vs_uniform = (int)won;
    RB_TRY(st, layers_from_json(out, json, n_layers, where, err), done);
done:
    return st;
}

static rb_status methods_from_json(profile_summary *summary, const cJSON *document, const char *name, rb_error *err)
{
    const cJSON *list, *item;
    char where[PLACE_SIZE];
    rb_status st = rb_json_get_array(document, "methods", name, &list, err);
    if (st == RB_OK && (cJSON_GetArraySize(list) < 1 || cJSON_GetArraySize(list) > PROFILE_MAX_METHODS))
        st = rb_fail(err, RB_EFORMAT, "%s: %d methods, expected 1 to %d", name, cJSON_GetArraySize(list),
                     PROFILE_MAX_METHODS);
    if (st == RB_OK)
        st = rb_alloc(&summary->methods, (size_t)cJSON_GetArraySize(list), sizeof *summary->methods,
                      "methods of a summary", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(where, sizeof where, "%.400s: methods[%d]", name, summary->n_methods);
        summary->n_methods++; /* counted first: a half-read one is freed too */
        st = method_from_json(&summary->methods[summary->n_methods - 1], item, summary->model.n_layers, where, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status text_from_json(text_facts *out, const cJSON *document, const char *key, const char *name,
                                rb_error *err)
{
    const cJSON *object;
    char where[PLACE_SIZE];
    const rb_status st = rb_json_get_object(document, key, name, &object, err);
    snprintf(where, sizeof where, "%.400s: %s", name, key);
    return st == RB_OK ? text_facts_from_json(out, object, where, err) : st;
}

rb_status profile_summary_from_json(profile_summary **out, const cJSON *document, const char *name, rb_error *err)
{
    profile_summary *summary = NULL;
    const cJSON *object;
    char where[PLACE_SIZE];
    rb_status st;
    *out = NULL;
    snprintf(where, sizeof where, "%.400s: model", name);
    RB_TRY(st, rb_alloc(&summary, 1, sizeof *summary, "summary", err), done);
    RB_TRY(st, rb_json_check_schema(document, name, PROFILE_SUMMARY_SCHEMA, PROFILE_SUMMARY_VERSION, err), done);
    RB_TRY(st, rb_json_get_object(document, "model", name, &object, err), done);
    RB_TRY(st, model_facts_from_json(&summary->model, object, where, err), done);
    RB_TRY(st, text_from_json(&summary->calibration, document, "calibration", name, err), done);
    RB_TRY(st, text_from_json(&summary->test, document, "test", name, err), done);
    RB_TRY(st, coverage_summary_read(&summary->coverage, &summary->is_covered, document, name, err), done);
    RB_TRY(st, methods_from_json(summary, document, name, err), done);
    *out = summary;
    summary = NULL;
done:
    profile_summary_free(summary);
    return st;
}

rb_status profile_summary_read(profile_summary **out, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, profile_summary_from_json(out, document, path, err), done);
done:
    cJSON_Delete(document);
    return st;
}

void profile_summary_free(profile_summary *summary)
{
    if (!summary) return;
    for (int m = 0; m < summary->n_methods; m++) free(summary->methods[m].logit_mae_by_layer);
    free(summary->methods);
    free(summary);
}

const summary_method *profile_summary_find(const profile_summary *summary, const char *method, double avg_bits)
{
    for (int m = 0; m < summary->n_methods; m++)
        if (strcmp(summary->methods[m].method, method) == 0 && summary->methods[m].avg_bits == avg_bits)
            return &summary->methods[m];
    return NULL;
}
