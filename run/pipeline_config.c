/* Reader of pipeline files: see run/pipeline_config.h. */
#include "run/pipeline_config.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/nearest_name.h"

#define PIPELINE_SCHEMA "ropebits-pipeline"
#define NOTES           "notes"
enum { PIPELINE_VERSION = 1 };

#define CALIBRATE "calibrate"
#define PROFILE   "profile"
#define ALLOCATE  "allocate"
#define EXPORT    "export"
#define EVALUATE  "evaluate"
#define COMPARE   "compare"

const pipeline_member pipeline_members[] = {
    {NULL, "model", MEMBER_PATH, NULL},
    {NULL, "text", MEMBER_PATHS, NULL},
    {NULL, "test_text", MEMBER_PATH, NULL},
    {NULL, "bos", MEMBER_TEXT, NULL},
    {CALIBRATE, "tokens", MEMBER_PATH, "tokens"},
    {CALIBRATE, "test_tokens", MEMBER_PATH, "test-tokens"},
    {CALIBRATE, "n_tokens", MEMBER_NUMBER, "n-tokens"},
    {CALIBRATE, "n_test_tokens", MEMBER_NUMBER, "n-test-tokens"},
    {CALIBRATE, "context", MEMBER_NUMBER, "context"},
    {CALIBRATE, "with_needles", MEMBER_FLAG, "with-needles"},
    {CALIBRATE, "needle_share", MEMBER_NUMBER, "needle-share"},
    {CALIBRATE, "needle_template", MEMBER_TEMPLATE, "needle-template"},
    {CALIBRATE, "dtype", MEMBER_TEXT, "dtype"},
    {CALIBRATE, "precision", MEMBER_TEXT, "precision"},
    {CALIBRATE, "max_gpu_memory", MEMBER_TEXT, "max-gpu-memory"},
    {CALIBRATE, "values", MEMBER_FLAG, "values"},
    {CALIBRATE, "hash_weights", MEMBER_FLAG, "hash-weights"},
    {PROFILE, "budgets", MEMBER_LIST, "budgets"},
    {PROFILE, "methods", MEMBER_LIST, "methods"},
    {PROFILE, "sink", MEMBER_NUMBER_OR_WORD, "sink"},
    {PROFILE, "seeds", MEMBER_NUMBER, "seeds"},
    {PROFILE, "metric_tokens", MEMBER_NUMBER, "metric-tokens"},
    {PROFILE, "metric_draws", MEMBER_NUMBER, "metric-draws"},
    {PROFILE, "no_curves", MEMBER_FLAG, "no-curves"},
    {PROFILE, "worst_tokens", MEMBER_NUMBER, "worst-tokens"},
    {ALLOCATE, "method", MEMBER_TEXT, "method"},
    {ALLOCATE, "avg_bits", MEMBER_NUMBER, "avg-bits"},
    {ALLOCATE, "true_bits", MEMBER_NUMBER, "true-bits"},
    {ALLOCATE, "total_bits", MEMBER_NUMBER, "total-bits"},
    {ALLOCATE, "bytes_per_token", MEMBER_NUMBER, "bytes-per-token"},
    {ALLOCATE, "memory", MEMBER_TEXT, "memory"},
    {ALLOCATE, "context", MEMBER_NUMBER, "context"},
    {ALLOCATE, "value_bits", MEMBER_NUMBER, "value-bits"},
    {ALLOCATE, "value_codec", MEMBER_TEXT, "value-codec"},
    {ALLOCATE, "value_per", MEMBER_TEXT, "value-per"},
    {ALLOCATE, "least_value_bits", MEMBER_NUMBER, "least-value-bits"},
    {ALLOCATE, "equal_heads", MEMBER_FLAG, "equal-heads"},
    {ALLOCATE, "rotation", MEMBER_TEXT, "rotation"},
    {ALLOCATE, "sink", MEMBER_NUMBER_OR_WORD, "sink"},
    {ALLOCATE, "recent", MEMBER_NUMBER, "recent"},
    {ALLOCATE, "center", MEMBER_FLAG, "center"},
    {ALLOCATE, "gain_bits", MEMBER_NUMBER, "gain-bits"},
    {ALLOCATE, "no_equalize", MEMBER_FLAG, "no-equalize"},
    {ALLOCATE, "norm", MEMBER_TEXT, "norm"},
    {ALLOCATE, "encoder", MEMBER_TEXT, "encoder"},
    {ALLOCATE, "codebook", MEMBER_TEXT, "codebook"},
    {ALLOCATE, "groups", MEMBER_NUMBER, "groups"},
    {ALLOCATE, "widths", MEMBER_LIST, "widths"},
    {ALLOCATE, "per", MEMBER_TEXT, "per"},
    {ALLOCATE, "least_share", MEMBER_NUMBER, "least-share"},
    {EXPORT, "formats", MEMBER_LIST, NULL},
    {EXPORT, "allow_larger", MEMBER_FLAG, "allow-larger"},
    {EVALUATE, "budgets", MEMBER_LIST, NULL},
    {EVALUATE, "methods", MEMBER_LIST, NULL},
    {EVALUATE, "plan", MEMBER_FLAG, NULL},
    {EVALUATE, "text", MEMBER_PATH, NULL},
    {EVALUATE, "n_tokens", MEMBER_NUMBER, "n-tokens"},
    {EVALUATE, "context", MEMBER_NUMBER, "context"},
    {EVALUATE, "needles", MEMBER_NUMBER, "needles"},
    {EVALUATE, "needle_tasks", MEMBER_LIST, "needle-tasks"},
    {EVALUATE, "needle_contexts", MEMBER_LIST, "needle-contexts"},
    {EVALUATE, "needle_template", MEMBER_TEMPLATE, "needle-template"},
    {EVALUATE, "depths", MEMBER_LIST, "depths"},
    {EVALUATE, "understanding", MEMBER_NUMBER, "understanding"},
    {EVALUATE, "understanding_tasks", MEMBER_LIST, "understanding-tasks"},
    {EVALUATE, "understanding_contexts", MEMBER_LIST, "understanding-contexts"},
    {EVALUATE, "haystack", MEMBER_PATH, "haystack"},
    {EVALUATE, "documents", MEMBER_PATH, "documents"},
    {EVALUATE, "seed", MEMBER_NUMBER, "seed"},
    {EVALUATE, "sink", MEMBER_NUMBER_OR_WORD, "sink"},
    {EVALUATE, "recent", MEMBER_NUMBER_OR_WORD, "recent"},
    {EVALUATE, "keys_only", MEMBER_FLAG, "keys-only"},
    {EVALUATE, "values_only", MEMBER_FLAG, "values-only"},
    {EVALUATE, "attention_stride", MEMBER_NUMBER, "attention-stride"},
    {EVALUATE, "worst_tokens", MEMBER_NUMBER, "worst-tokens"},
    {EVALUATE, "precision", MEMBER_TEXT, "precision"},
    {EVALUATE, "max_gpu_memory", MEMBER_TEXT, "max-gpu-memory"},
    {COMPARE, "max_regression", MEMBER_LIMITS, NULL}, /* of --baseline */
    {COMPARE, "max_growth", MEMBER_NUMBER, NULL},
    {COMPARE, "max_needles_lost", MEMBER_NUMBER, NULL},
};
const int pipeline_n_members = RB_COUNT(pipeline_members);
static_assert(RB_COUNT(pipeline_members) <= PIPELINE_MAX_MEMBERS, "room for the members' values");

static bool is_at(const pipeline_member *m, const char *section)
{
    return section && m->section ? strcmp(section, m->section) == 0 : section == m->section;
}

/* Its row, or -1. */
static int find_member(const char *section, const char *key)
{
    for (int i = 0; i < pipeline_n_members; i++)
        if (is_at(&pipeline_members[i], section) && strcmp(key, pipeline_members[i].key) == 0) return i;
    return -1;
}

const char *pipeline_value(const pipeline_config *config, const char *section, const char *key)
{
    const int i = find_member(section, key);
    assert(i >= 0);
    return config->values[i];
}

void pipeline_config_free(pipeline_config *config)
{
    for (int i = 0; i < pipeline_n_members; i++) free(config->values[i]);
    for (int i = 0; i < config->texts.n; i++) free(config->texts.at[i]);
    *config = (pipeline_config){0};
}

/* ---- values ---------------------------------------------------------------------------------- */

/* A number or string as on a command line: 3, 2.5, block-gtq. */
static rb_status scalar_text(char **out, const cJSON *item, const char *where, rb_error *err)
{
    if (cJSON_IsString(item)) return rb_format(out, err, "%s", item->valuestring);
    if (cJSON_IsNumber(item)) return rb_format(out, err, "%.17g", item->valuedouble);
    return rb_fail(err, RB_EFORMAT, "%s: expected a number or a string", where);
}

static rb_status list_text(char **out, const cJSON *list, const char *where, rb_error *err)
{
    const cJSON *item;
    rb_status st = RB_OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) == 0)
        return rb_fail(err, RB_EFORMAT, "%s: expected a list with at least one entry", where);
    if (cJSON_GetArraySize(list) > RB_MAX_LIST)
        return rb_fail(err, RB_EFORMAT, "%s: has %d entries, expected at most %d", where, cJSON_GetArraySize(list),
                       RB_MAX_LIST);
    cJSON_ArrayForEach (item, list) {
        char *entry = NULL, *joined = NULL;
        RB_TRY(st, scalar_text(&entry, item, where, err), next);
        RB_TRY(st, rb_format(&joined, err, "%s%s%s", *out ? *out : "", *out ? "," : "", entry), next);
        free(*out);
        *out = joined;
    next:
        free(entry);
        if (st != RB_OK) break;
    }
    return st;
}

static rb_status limits_text(char **out, const cJSON *item, const char *where, rb_error *err)
{
    const cJSON *entry;
    if (cJSON_IsNumber(item)) return scalar_text(out, item, where, err);
    if (!cJSON_IsObject(item) || !item->child)
        return rb_fail(err, RB_EFORMAT, "%s: expected a number, or an object with a number for each metric", where);
    cJSON_ArrayForEach (entry, item) {
        char *joined = NULL;
        if (!cJSON_IsNumber(entry)) return rb_fail(err, RB_EFORMAT, "%s.%s: expected a number", where, entry->string);
        const rb_status st = rb_format(&joined, err, "%s%s%s=%.17g", *out ? *out : "", *out ? "," : "", entry->string,
                                       entry->valuedouble);
        if (st != RB_OK) return st;
        free(*out);
        *out = joined;
    }
    return RB_OK;
}

static rb_status path_text(char **out, const cJSON *item, const char *folder, int folder_length, const char *where,
                           rb_error *err)
{
    if (!cJSON_IsString(item)) return rb_fail(err, RB_EFORMAT, "%s: expected a path", where);
    if (item->valuestring[0] == '/' || folder_length == 0) return rb_format(out, err, "%s", item->valuestring);
    return rb_format(out, err, "%.*s/%s", folder_length, folder, item->valuestring);
}

/* One path, or a list of them. */
static rb_status texts_of(pipeline_texts *out, const cJSON *item, const char *folder, int folder_length,
                          const char *where, rb_error *err)
{
    const cJSON *entry;
    if (cJSON_IsString(item)) return path_text(&out->at[out->n++], item, folder, folder_length, where, err);
    if (!cJSON_IsArray(item) || cJSON_GetArraySize(item) == 0)
        return rb_fail(err, RB_EFORMAT, "%s: expected a path or a list of paths", where);
    cJSON_ArrayForEach (entry, item) {
        if (out->n == PIPELINE_MAX_TEXTS)
            return rb_fail(err, RB_EFORMAT, "%s: has more than %d texts", where, PIPELINE_MAX_TEXTS);
        const rb_status st = path_text(&out->at[out->n++], entry, folder, folder_length, where, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* A built-in template's name has neither '/' nor '.'; anything else is a path. */
static rb_status template_text(char **out, const cJSON *item, const char *folder, int folder_length, const char *where,
                               rb_error *err)
{
    if (!cJSON_IsString(item)) return rb_fail(err, RB_EFORMAT, "%s: expected a name or a path", where);
    if (!strchr(item->valuestring, '/') && !strchr(item->valuestring, '.')) return scalar_text(out, item, where, err);
    return path_text(out, item, folder, folder_length, where, err);
}

static rb_status read_item(pipeline_config *out, int row, const cJSON *item, const char *path, const char *where,
                           rb_error *err)
{
    const char *slash = strrchr(path, '/');
    const int folder_length = slash ? (int)(slash - path) : 0;
    char **value = &out->values[row];
    switch (pipeline_members[row].kind) {
    case MEMBER_PATH: return path_text(value, item, path, folder_length, where, err);
    case MEMBER_PATHS: return texts_of(&out->texts, item, path, folder_length, where, err);
    case MEMBER_TEMPLATE: return template_text(value, item, path, folder_length, where, err);
    case MEMBER_FLAG:
        if (!cJSON_IsBool(item)) return rb_fail(err, RB_EFORMAT, "%s: expected true or false", where);
        return cJSON_IsTrue(item) ? rb_format(value, err, "%s", "") : RB_OK;
    case MEMBER_LIMITS: return limits_text(value, item, where, err);
    case MEMBER_LIST: return list_text(value, item, where, err);
    case MEMBER_TEXT:
        return cJSON_IsString(item) ? scalar_text(value, item, where, err)
                                    : rb_fail(err, RB_EFORMAT, "%s: expected a string", where);
    case MEMBER_NUMBER_OR_WORD: return scalar_text(value, item, where, err);
    case MEMBER_NUMBER:
        return cJSON_IsNumber(item) ? scalar_text(value, item, where, err)
                                    : rb_fail(err, RB_EFORMAT, "%s: expected a number", where);
    }
    assert(false && "a kind of member that read_item does not know");
    return RB_EFORMAT;
}

static rb_status read_member(pipeline_config *out, const cJSON *document, int row, const char *path, rb_error *err)
{
    const pipeline_member *m = &pipeline_members[row];
    const cJSON *section = m->section ? rb_json_find(document, m->section) : document;
    const cJSON *item = section ? rb_json_find(section, m->key) : NULL;
    char *where = NULL;
    rb_status st;
    if (!item) return RB_OK;
    RB_TRY(st, rb_format(&where, err, "%s: %s%s%s", path, m->section ? m->section : "", m->section ? "." : "", m->key),
           done);
    st = read_item(out, row, item, path, where, err);
done:
    free(where);
    return st;
}

/* ---- what must be there ---------------------------------------------------------------------- */

static bool has(const pipeline_config *config, const char *section, const char *key)
{
    return pipeline_value(config, section, key) != NULL;
}

/* allocate would refuse it too, but only when calibrate and profile have run. */
static rb_status check_budget(const pipeline_config *config, const char *path, rb_error *err)
{
    static const char *const budgets[] = {"avg_bits", "true_bits", "total_bits", "bytes_per_token", "memory"};
    int n = 0;
    for (size_t i = 0; i < RB_COUNT(budgets); i++) n += has(config, ALLOCATE, budgets[i]);
    if (n != 1)
        return rb_fail(err, RB_EFORMAT,
                       "%s: allocate has %d budgets, expected one of avg_bits, true_bits, total_bits, bytes_per_token, "
                       "or memory with context",
                       path, n);
    if (has(config, ALLOCATE, "memory") != has(config, ALLOCATE, "context"))
        return rb_fail(err, RB_EFORMAT, "%s: allocate.memory and allocate.context go together", path);
    return RB_OK;
}

static rb_status check_evaluation(const pipeline_config *config, const char *path, rb_error *err)
{
    const bool has_budgets = has(config, EVALUATE, "budgets"), has_methods = has(config, EVALUATE, "methods");
    if (!config->evaluates) return RB_OK;
    if (!has_budgets && (has_methods || !has(config, EVALUATE, "plan")))
        return rb_fail(err, RB_EFORMAT, "%s: evaluate.budgets is missing, and so is \"plan\": true in its place", path);
    if (has_budgets && !has_methods) return rb_fail(err, RB_EFORMAT, "%s: evaluate.methods is missing", path);
    if (!has(config, EVALUATE, "text") && !has(config, NULL, "test_text"))
        return rb_fail(err, RB_EFORMAT, "%s: evaluate.text is missing, and there is no test_text in its place", path);
    return RB_OK;
}

static rb_status check_required(const pipeline_config *config, const char *path, rb_error *err)
{
    if (!has(config, NULL, "model")) return rb_fail(err, RB_EFORMAT, "%s: model is missing", path);
    if (config->texts.n == 0 && !has(config, CALIBRATE, "tokens"))
        return rb_fail(err, RB_EFORMAT, "%s: text is missing", path);
    if (!has(config, ALLOCATE, "method")) return rb_fail(err, RB_EFORMAT, "%s: allocate.method is missing", path);
    const rb_status st = check_budget(config, path, err);
    return st == RB_OK ? check_evaluation(config, path, err) : st;
}

/* ---- what must not be there ------------------------------------------------------------------ */

static bool is_section(const char *key)
{
    for (int i = 0; i < pipeline_n_members; i++)
        if (pipeline_members[i].section && strcmp(key, pipeline_members[i].section) == 0) return true;
    return false;
}

static bool is_known(const char *section, const char *key)
{
    if (!section && (strcmp(key, "schema") == 0 || strcmp(key, "version") == 0 || strcmp(key, NOTES) == 0)) return true;
    return find_member(section, key) >= 0;
}

static rb_status fail_unknown(const char *section, const char *key, const char *path, rb_error *err)
{
    const char *names[PIPELINE_MAX_MEMBERS + 8];
    size_t n = 0;
    for (int i = 0; i < pipeline_n_members; i++)
        if (is_at(&pipeline_members[i], section)) names[n++] = pipeline_members[i].key;
    if (!section) {
        static const char *const sections[] = {CALIBRATE, PROFILE, ALLOCATE, EXPORT, EVALUATE, COMPARE, NOTES};
        memcpy(names + n, sections, sizeof sections);
        n += RB_COUNT(sections);
    }
    const char *nearest = rb_nearest_name(key, names, n);
    return rb_fail(err, RB_EFORMAT, "%s: %s has no member \"%s\"%s%s%s", path, section ? section : "a pipeline", key,
                   nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

/* Notes are for people: a string or a list of strings. */
static rb_status check_notes(const cJSON *document, const char *path, rb_error *err)
{
    const cJSON *notes = rb_json_find(document, NOTES), *item;
    bool is_text = !notes || cJSON_IsString(notes) || cJSON_IsArray(notes);
    if (cJSON_IsArray(notes)) {
        cJSON_ArrayForEach (item, notes) is_text &= cJSON_IsString(item) != 0;
    }
    return is_text ? RB_OK : rb_fail(err, RB_EFORMAT, "%s: " NOTES ": expected a string or a list of strings", path);
}

/* A misspelt member would silently become a default. */
static rb_status refuse_unknown(const cJSON *document, const char *path, rb_error *err)
{
    const cJSON *item, *inner;
    cJSON_ArrayForEach (item, document) {
        if (is_section(item->string)) {
            if (!cJSON_IsObject(item))
                return rb_fail(err, RB_EFORMAT, "%s: %s: expected an object", path, item->string);
            cJSON_ArrayForEach (inner, item) {
                if (!is_known(item->string, inner->string)) return fail_unknown(item->string, inner->string, path, err);
            }
        } else if (!is_known(NULL, item->string)) {
            return fail_unknown(NULL, item->string, path, err);
        }
    }
    return RB_OK;
}

rb_status pipeline_config_read(pipeline_config *out, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    rb_status st;
    *out = (pipeline_config){0};
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, rb_json_check_schema(document, path, PIPELINE_SCHEMA, PIPELINE_VERSION, err), done);
    RB_TRY(st, refuse_unknown(document, path, err), done);
    RB_TRY(st, check_notes(document, path, err), done);
    out->evaluates = rb_json_find(document, EVALUATE) != NULL;
    for (int i = 0; i < pipeline_n_members; i++) RB_TRY(st, read_member(out, document, i, path, err), done);
    st = check_required(out, path, err);
done:
    cJSON_Delete(document);
    if (st != RB_OK) pipeline_config_free(out);
    return st;
}
