/* Looking into a plan's JSON and damaging it, for the tests of plan.json. Include after tests/test_support.h. */
#ifndef RB_TESTS_PLAN_PLAN_JSON_DAMAGE_H
#define RB_TESTS_PLAN_PLAN_JSON_DAMAGE_H

#include "plan/plan_json.h"

/* "layers.0.kv_heads.1.bits": members by name, elements by number. NULL when there is none. */
static inline cJSON *find(cJSON *json, const char *path)
{
    char step[64];
    while (json && *path) {
        const size_t length = strcspn(path, ".");
        assert_true(length < sizeof step);
        memcpy(step, path, length);
        step[length] = '\0';
        json =
            cJSON_IsArray(json) ? cJSON_GetArrayItem(json, atoi(step)) : cJSON_GetObjectItemCaseSensitive(json, step);
        path += length + (path[length] == '.');
    }
    return json;
}

static inline double number_at(cJSON *json, const char *path)
{
    const cJSON *item = find(json, path);
    if (!cJSON_IsNumber(item)) fail_msg("%s is no number", path);
    return item->valuedouble;
}

/* Replaces the item at a path or adds it, or appends to an array when the path ends in "+", or deletes it when text is
 * NULL. */
static inline void change(cJSON *document, const char *path, const char *text)
{
    char parent_path[128];
    const char *dot = strrchr(path, '.'), *last = dot ? dot + 1 : path;
    snprintf(parent_path, sizeof parent_path, "%.*s", dot ? (int)(dot - path) : 0, path);
    cJSON *parent = find(document, parent_path), *value = text ? cJSON_Parse(text) : NULL;
    assert_non_null(parent);
    if (strcmp(last, "+") == 0) cJSON_AddItemToArray(parent, value);
    else if (cJSON_IsArray(parent) && value) cJSON_ReplaceItemInArray(parent, atoi(last), value);
    else if (cJSON_IsArray(parent)) cJSON_DeleteItemFromArray(parent, atoi(last));
    else if (value && cJSON_HasObjectItem(parent, last)) cJSON_ReplaceItemInObjectCaseSensitive(parent, last, value);
    else if (value) cJSON_AddItemToObject(parent, last, value);
    else cJSON_DeleteItemFromObjectCaseSensitive(parent, last);
}

/* One damage, and what the reader says of it. */
typedef struct refusal {
    const char *path, *value; /* value NULL: deleted */
    rb_status status;
    const char *message;
} refusal;

static inline void assert_refused(const cJSON *good, const refusal *what)
{
    cJSON *document = cJSON_Duplicate(good, true);
    bit_plan *plan = NULL;
    rb_error err = {0};
    change(document, what->path, what->value);
    const rb_status st = plan_from_json(&plan, document, "p.json", &err);
    if (st != what->status || !strstr(err.msg, what->message))
        fail_msg("%s = %s: status %d, expected %d: \"%s\", expected \"%s\"", what->path,
                 what->value ? what->value : "nothing", (int)st, (int)what->status, err.msg, what->message);
    assert_null(plan);
    cJSON_Delete(document);
}

#endif
