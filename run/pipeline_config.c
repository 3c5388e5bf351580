/* Reader of pipeline files: see run/pipeline_config.h. */
#include "run/pipeline_config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

#define PIPELINE_SCHEMA "ropebits-pipeline"
#define NOTES           "notes"
enum { PIPELINE_VERSION = 1 };

typedef enum member_kind {
    MEMBER_PATH,
    MEMBER_PATHS,
    MEMBER_TEMPLATE,
    MEMBER_TEXT,
    MEMBER_NUMBER,
    MEMBER_NUMBER_OR_WORD,
    MEMBER_BOOL,
    MEMBER_LIST
} member_kind;

/* Where a member stands in the document (section NULL: at the top) and in pipeline_config. */
typedef struct member {
    const char *section, *key;
    member_kind kind;
    size_t offset;
    bool required;
} member;

static const member members[] = {
    {NULL, "model", MEMBER_PATH, offsetof(pipeline_config, model), true},
    {NULL, "text", MEMBER_PATHS, offsetof(pipeline_config, texts), true},
    {NULL, "test_text", MEMBER_PATH, offsetof(pipeline_config, test_text), false},
    {NULL, "bos", MEMBER_TEXT, offsetof(pipeline_config, bos), false},
    {"calibrate", "n_tokens", MEMBER_NUMBER, offsetof(pipeline_config, n_tokens), false},
    {"calibrate", "n_test_tokens", MEMBER_NUMBER, offsetof(pipeline_config, n_test_tokens), false},
    {"calibrate", "context", MEMBER_NUMBER, offsetof(pipeline_config, context), false},
    {"calibrate", "with_needles", MEMBER_BOOL, offsetof(pipeline_config, with_needles), false},
    {"calibrate", "values", MEMBER_BOOL, offsetof(pipeline_config, values), false},
    {"calibrate", "needle_share", MEMBER_NUMBER, offsetof(pipeline_config, needle_share), false},
    {"calibrate", "needle_template", MEMBER_TEMPLATE, offsetof(pipeline_config, needle_template), false},
    {"calibrate", "dtype", MEMBER_TEXT, offsetof(pipeline_config, dtype), false},
    {"profile", "budgets", MEMBER_LIST, offsetof(pipeline_config, budgets), false},
    {"profile", "methods", MEMBER_LIST, offsetof(pipeline_config, methods), false},
    {"profile", "sink", MEMBER_NUMBER_OR_WORD, offsetof(pipeline_config, profile_sink), false},
    {"allocate", "method", MEMBER_TEXT, offsetof(pipeline_config, method), true},
    {"allocate", "avg_bits", MEMBER_NUMBER, offsetof(pipeline_config, avg_bits), true},
    {"allocate", "value_bits", MEMBER_NUMBER, offsetof(pipeline_config, value_bits), false},
    {"allocate", "value_per", MEMBER_TEXT, offsetof(pipeline_config, value_per), false},
    {"allocate", "rotation", MEMBER_TEXT, offsetof(pipeline_config, rotation), false},
    {"allocate", "sink", MEMBER_NUMBER_OR_WORD, offsetof(pipeline_config, sink), false},
    {"allocate", "recent", MEMBER_NUMBER, offsetof(pipeline_config, recent), false},
    {"export", "formats", MEMBER_LIST, offsetof(pipeline_config, formats), false},
    {"evaluate", "budgets", MEMBER_LIST, offsetof(pipeline_config, evaluate.budgets), true},
    {"evaluate", "methods", MEMBER_LIST, offsetof(pipeline_config, evaluate.methods), true},
    {"evaluate", "text", MEMBER_PATH, offsetof(pipeline_config, evaluate.text), false},
    {"evaluate", "haystack", MEMBER_PATH, offsetof(pipeline_config, evaluate.haystack), false},
    {"evaluate", "n_tokens", MEMBER_NUMBER, offsetof(pipeline_config, evaluate.n_tokens), false},
    {"evaluate", "context", MEMBER_NUMBER, offsetof(pipeline_config, evaluate.context), false},
    {"evaluate", "needles", MEMBER_NUMBER, offsetof(pipeline_config, evaluate.needles), false},
    {"evaluate", "needle_tasks", MEMBER_LIST, offsetof(pipeline_config, evaluate.needle_tasks), false},
    {"evaluate", "needle_template", MEMBER_TEMPLATE, offsetof(pipeline_config, evaluate.needle_template), false},
    {"evaluate", "understanding", MEMBER_NUMBER, offsetof(pipeline_config, evaluate.understanding), false},
    {"evaluate", "sink", MEMBER_NUMBER_OR_WORD, offsetof(pipeline_config, evaluate.sink), false},
    {"evaluate", "recent", MEMBER_NUMBER_OR_WORD, offsetof(pipeline_config, evaluate.recent), false},
};

/* A char *, except for MEMBER_PATHS and MEMBER_BOOL. */
static void *member_field(pipeline_config *config, const member *m) { return (char *)config + m->offset; }

void pipeline_config_free(pipeline_config *config)
{
    for (size_t i = 0; i < RB_COUNT(members); i++)
        if (members[i].kind != MEMBER_PATHS && members[i].kind != MEMBER_BOOL)
            free(*(char **)member_field(config, &members[i]));
    for (int i = 0; i < config->texts.n; i++) free(config->texts.at[i]);
    *config = (pipeline_config){0};
}

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

static rb_status read_member(pipeline_config *out, const cJSON *document, const member *m, const char *path,
                             rb_error *err)
{
    const char *slash = strrchr(path, '/');
    const cJSON *section = m->section ? rb_json_find(document, m->section) : document;
    const cJSON *item = section ? rb_json_find(section, m->key) : NULL;
    void *field = member_field(out, m);
    char *where = NULL;
    rb_status st = RB_OK;

    /* Only this section means something by its absence: no evaluation. */
    const bool is_left_out = !section && strcmp(m->section, "evaluate") == 0;
    if (!item && (!m->required || is_left_out)) return RB_OK;
    RB_TRY(st, rb_format(&where, err, "%s: %s%s%s", path, m->section ? m->section : "", m->section ? "." : "", m->key),
           done);
    if (!item) {
        st = rb_fail(err, RB_EFORMAT, "%s is missing", where);
        goto done;
    }
    const int folder_length = slash ? (int)(slash - path) : 0;
    switch (m->kind) {
    case MEMBER_PATH: st = path_text(field, item, path, folder_length, where, err); break;
    case MEMBER_PATHS: st = texts_of(field, item, path, folder_length, where, err); break;
    case MEMBER_TEMPLATE: st = template_text(field, item, path, folder_length, where, err); break;
    case MEMBER_BOOL:
        st = cJSON_IsBool(item) ? RB_OK : rb_fail(err, RB_EFORMAT, "%s: expected true or false", where);
        *(bool *)field = cJSON_IsTrue(item);
        break;
    case MEMBER_LIST: st = list_text(field, item, where, err); break;
    case MEMBER_TEXT:
        st = cJSON_IsString(item) ? scalar_text(field, item, where, err)
                                  : rb_fail(err, RB_EFORMAT, "%s: expected a string", where);
        break;
    case MEMBER_NUMBER_OR_WORD: st = scalar_text(field, item, where, err); break;
    case MEMBER_NUMBER:
        st = cJSON_IsNumber(item) ? scalar_text(field, item, where, err)
                                  : rb_fail(err, RB_EFORMAT, "%s: expected a number", where);
        break;
    }
done:
    free(where);
    return st;
}

static bool is_known(const char *section, const char *key)
{
    if (!section && (strcmp(key, "schema") == 0 || strcmp(key, "version") == 0 || strcmp(key, NOTES) == 0)) return true;
    for (size_t i = 0; i < RB_COUNT(members); i++) {
        const bool same_section =
            section && members[i].section ? strcmp(section, members[i].section) == 0 : section == members[i].section;
        if (same_section && strcmp(key, members[i].key) == 0) return true;
    }
    return false;
}

static bool is_section(const char *key)
{
    for (size_t i = 0; i < RB_COUNT(members); i++)
        if (members[i].section && strcmp(key, members[i].section) == 0) return true;
    return false;
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
                if (!is_known(item->string, inner->string))
                    return rb_fail(err, RB_EFORMAT, "%s: %s has no member \"%s\"", path, item->string, inner->string);
            }
        } else if (!is_known(NULL, item->string)) {
            return rb_fail(err, RB_EFORMAT, "%s: a pipeline has no member \"%s\"", path, item->string);
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
    for (size_t i = 0; i < RB_COUNT(members); i++) RB_TRY(st, read_member(out, document, &members[i], path, err), done);
    if (out->evaluate.budgets && !out->evaluate.text && !out->test_text)
        st = rb_fail(err, RB_EFORMAT, "%s: evaluate.text is missing, and there is no test_text in its place", path);
done:
    cJSON_Delete(document);
    if (st != RB_OK) pipeline_config_free(out);
    return st;
}
