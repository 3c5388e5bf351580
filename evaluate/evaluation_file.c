/* Reader of evaluation results: see evaluate/evaluation_file.h. */
#include "evaluate/evaluation_file.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/plain_name.h"

enum { PLACE_SIZE = 512 };

/* The KL of equal distributions may be below zero by a rounding. */
static const double KL_ROUNDING = 1e-9;

static rb_status read_text(char *out, size_t size, const cJSON *json, const char *key, const char *where, rb_error *err)
{
    const char *text;
    const rb_status st = rb_json_get_string(json, key, where, &text, err);
    if (st != RB_OK) return st;
    if (strlen(text) >= size)
        return rb_fail(err, RB_EFORMAT, "%s: %s has %zu characters, expected at most %zu", where, key, strlen(text),
                       size - 1);
    strcpy(out, text);
    return RB_OK;
}

/* null is for the unquantized run, and for what a short text leaves unmeasured. */
static rb_status read_number(double *out, const cJSON *json, const char *key, const char *where, bool may_be_null,
                             double min, double max, rb_error *err)
{
    *out = (double)NAN;
    if (may_be_null && cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, key))) return RB_OK;
    return rb_json_get_number(json, key, where, min, max, out, err);
}

static rb_status needles_from_json(evaluation_run *out, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *needles;
    char place[PLACE_SIZE + 16];
    rb_status st;
    if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(json, "needles"))) return RB_OK;
    RB_TRY(st, rb_json_get_object(json, "needles", where, &needles, err), done);
    snprintf(place, sizeof place, "%s.needles", where);
    RB_TRY(st, rb_json_get_int(needles, "n", place, 1, INT32_MAX, &out->n_needles, err), done);
    RB_TRY(st, rb_json_get_int(needles, "n_right", place, 0, out->n_needles, &out->n_needles_right, err), done);
done:
    return st;
}

/* Absent in a result of before there were such documents. */
static rb_status understanding_from_json(evaluation_run *out, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *object;
    char place[PLACE_SIZE + 16];
    rb_status st;
    out->understanding_agreement = out->understanding_accuracy = (double)NAN;
    if (!rb_json_find(json, "understanding")) return RB_OK;
    RB_TRY(st, rb_json_get_object(json, "understanding", where, &object, err), done);
    snprintf(place, sizeof place, "%s.understanding", where);
    RB_TRY(st, rb_json_get_int(object, "n", place, 1, INT32_MAX, &out->n_understanding, err), done);
    RB_TRY(st, rb_json_get_number(object, "agreement", place, 0.0, 1.0, &out->understanding_agreement, err), done);
    st = rb_json_get_number(object, "accuracy", place, 0.0, 1.0, &out->understanding_accuracy, err);
done:
    return st;
}

static rb_status run_from_json(evaluation_run *out, const cJSON *json, bool is_first, const char *where, rb_error *err)
{
    const double bits_max = 64.0;
    rb_status st;
    RB_TRY(st, read_text(out->name, sizeof out->name, json, "name", where, err), done);
    if (!rb_is_plain_text(out->name)) {
        st = rb_fail(err, RB_EFORMAT, "%s: name is \"%s\", expected text without control characters", where, out->name);
        goto done;
    }
    RB_TRY(st, read_text(out->method, sizeof out->method, json, "method", where, err), done);
    RB_TRY(st, rb_check_plain_name(out->method, "method", where, err), done);
    if (is_first != (strcmp(out->method, "none") == 0)) {
        st = rb_fail(err, RB_EFORMAT, "%s: method is \"%s\", expected %s", where, out->method,
                     is_first ? "\"none\": the unquantized run is the first" : "a plan's");
        goto done;
    }
    RB_TRY(st, read_number(&out->avg_bits, json, "avg_bits", where, is_first, 0.0, bits_max, err), done);
    RB_TRY(st, read_number(&out->value_bits, json, "value_bits", where, is_first, 0.0, bits_max, err), done);
    RB_TRY(st, read_number(&out->key_true_bits, json, "key_true_bits", where, is_first, 0.0, bits_max, err), done);
    RB_TRY(st, read_number(&out->value_true_bits, json, "value_true_bits", where, is_first, 0.0, bits_max, err), done);
    if (rb_json_find(json, "n_predicted"))
        RB_TRY(st, rb_json_get_int(json, "n_predicted", where, 0, INT64_C(1) << 40, &out->n_predicted, err), done);
    RB_TRY(st, rb_json_get_number(json, "perplexity", where, 1.0, DBL_MAX, &out->perplexity, err), done);
    RB_TRY(st, read_number(&out->kl_mean, json, "kl_mean", where, is_first, -KL_ROUNDING, DBL_MAX, err), done);
    RB_TRY(st, read_number(&out->kl_p999, json, "kl_p999", where, is_first, -KL_ROUNDING, DBL_MAX, err), done);
    RB_TRY(st, read_number(&out->top1_agreement, json, "top1_agreement", where, is_first, 0.0, 1.0, err), done);
    RB_TRY(st, read_number(&out->attention_kl, json, "attention_kl", where, true, -KL_ROUNDING, DBL_MAX, err), done);
    RB_TRY(st, read_number(&out->attention_overlap, json, "attention_overlap", where, true, 0.0, 1.0, err), done);
    RB_TRY(st, read_number(&out->output_error, json, "output_error", where, true, 0.0, DBL_MAX, err), done);
    RB_TRY(st, needles_from_json(out, json, where, err), done);
    RB_TRY(st, understanding_from_json(out, json, where, err), done);
done:
    return st;
}

static rb_status runs_from_json(evaluation *out, const cJSON *document, const char *name, rb_error *err)
{
    const cJSON *list, *item;
    char where[PLACE_SIZE];
    rb_status st = rb_json_get_array(document, "runs", name, &list, err);
    if (st == RB_OK && (cJSON_GetArraySize(list) < 1 || cJSON_GetArraySize(list) > EVALUATION_MAX_RUNS))
        st = rb_fail(err, RB_EFORMAT, "%s: %d runs, expected 1 to %d", name, cJSON_GetArraySize(list),
                     EVALUATION_MAX_RUNS);
    if (st == RB_OK)
        st = rb_alloc(&out->runs, (size_t)cJSON_GetArraySize(list), sizeof *out->runs, "runs of an evaluation", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(where, sizeof where, "%.400s: runs[%d]", name, out->n_runs);
        st = run_from_json(&out->runs[out->n_runs], item, out->n_runs == 0, where, err);
        if (st != RB_OK) return st;
        out->n_runs++;
    }
    return RB_OK;
}

static rb_status facts_from_json(evaluation *out, const cJSON *document, const char *name, rb_error *err)
{
    const cJSON *object;
    char where[PLACE_SIZE];
    rb_status st;
    snprintf(where, sizeof where, "%.400s: model", name);
    RB_TRY(st, rb_json_get_object(document, "model", name, &object, err), done);
    RB_TRY(st, model_facts_from_json(&out->model, object, where, err), done);
    snprintf(where, sizeof where, "%.400s: text", name);
    RB_TRY(st, rb_json_get_object(document, "text", name, &object, err), done);
    RB_TRY(st, text_facts_from_json(&out->text, object, where, err), done);
    if (rb_json_find(document, "documents_sha256"))
        RB_TRY(st,
               read_text(out->documents_sha256, sizeof out->documents_sha256, document, "documents_sha256", name, err),
               done);
done:
    return st;
}

rb_status evaluation_from_json(evaluation **out, const cJSON *document, const char *name, rb_error *err)
{
    evaluation *result = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&result, 1, sizeof *result, "evaluation", err), done);
    RB_TRY(st, rb_json_check_schema(document, name, EVALUATION_SCHEMA, EVALUATION_VERSION, err), done);
    RB_TRY(st, facts_from_json(result, document, name, err), done);
    RB_TRY(st, runs_from_json(result, document, name, err), done);
    *out = result;
    result = NULL;
done:
    evaluation_free(result);
    return st;
}

rb_status evaluation_read(evaluation **out, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, evaluation_from_json(out, document, path, err), done);
done:
    cJSON_Delete(document);
    return st;
}

void evaluation_free(evaluation *result)
{
    if (!result) return;
    free(result->runs);
    free(result);
}
