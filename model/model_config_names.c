/* The fields of config.json under the names that most families use, with the defaults that real models rely on. */
#include <stdio.h>
#include <string.h>

#include "model/model_config_parts.h"

static bool is_given(const cJSON *json, const char *key) { return cJSON_GetObjectItemCaseSensitive(json, key) != NULL; }

static rb_status put(cJSON *json, const char *key, cJSON *value, rb_error *err)
{
    if (!value) return rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    cJSON_DeleteItemFromObjectCaseSensitive(json, key);
    if (cJSON_AddItemToObject(json, key, value)) return RB_OK;
    cJSON_Delete(value);
    return rb_fail(err, RB_ENOMEM, "out of memory for JSON");
}

static rb_status rename_fields(const model_family *family, cJSON *json, const char *name, rb_error *err)
{
    rb_status st = RB_OK;
    for (const config_rename *rename = family->renames; rename && rename->from && st == RB_OK; rename++) {
        const cJSON *value = rb_json_find(json, rename->from);
        if (!value) continue;
        if (rename->factor != 0 && !cJSON_IsNumber(value))
            return rb_fail(err, RB_EFORMAT, "%s: %s is not a number", name, rename->from);
        st = put(json, rename->to,
                 rename->factor != 0 ? cJSON_CreateNumber(value->valuedouble * rename->factor)
                                     : cJSON_Duplicate(value, true),
                 err);
    }
    return st;
}

/* Whether RoPE settings say it, for all layers or for each kind of layer. */
static bool rope_says(const cJSON *json, const char *key)
{
    const cJSON *rope = rb_json_find(json, "rope_parameters"), *item;
    if (!rope) rope = rb_json_find(json, "rope_scaling");
    if (rb_json_find(rope, key)) return true;
    cJSON_ArrayForEach (item, rope) {
        if (cJSON_IsObject(item) && rb_json_find(item, "rope_theta") && strncmp(key, "rope_", 5) == 0) return true;
    }
    return false;
}

static void note_default(model_config *config, const cJSON *item)
{
    const size_t used = strlen(config->defaults);
    char *value = cJSON_PrintUnformatted(item);
    snprintf(config->defaults + used, sizeof config->defaults - used, "%s%s %s", used ? ", " : "", item->string,
             value ? value : "");
    cJSON_free(value);
}

/* text: JSON of fields with their values, or NULL. */
static rb_status add_defaults(model_config *config, cJSON *json, const char *text, bool are_noted, rb_error *err)
{
    cJSON *defaults = NULL;
    const cJSON *item;
    rb_status st = RB_OK;
    if (!text) return RB_OK;
    RB_TRY(st, rb_json_parse(&defaults, text, strlen(text), "defaults", err), done);
    cJSON_ArrayForEach (item, defaults) {
        if (is_given(json, item->string) || rope_says(json, item->string)) continue;
        if (are_noted) note_default(config, item);
        RB_TRY(st, put(json, item->string, cJSON_Duplicate(item, true), err), done);
    }
done:
    cJSON_Delete(defaults);
    return st;
}

static rb_status check_expected(const model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    cJSON *expected = NULL;
    const cJSON *item;
    const char *text = config->family->expects;
    rb_status st = RB_OK;
    if (!text) return RB_OK;
    RB_TRY(st, rb_json_parse(&expected, text, strlen(text), "expected", err), done);
    cJSON_ArrayForEach (item, expected) {
        const cJSON *found = rb_json_find(json, item->string);
        if (!found || cJSON_Compare(found, item, true)) continue;
        char *found_text = cJSON_PrintUnformatted(found), *item_text = cJSON_PrintUnformatted(item);
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: %s is %.80s, expected %s in %s", name, item->string,
                     found_text ? found_text : "?", item_text ? item_text : "?", config->family->model_type);
        cJSON_free(found_text);
        cJSON_free(item_text);
        goto done;
    }
done:
    cJSON_Delete(expected);
    return st;
}

rb_status config_normalize(model_config *config, cJSON *json, const char *name, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_expected(config, json, name, err), done);
    RB_TRY(st, rename_fields(config->family, json, name, err), done);
    RB_TRY(st, add_defaults(config, json, config->family->implies, false, err), done);
    RB_TRY(st, add_defaults(config, json, config->family->defaults, true, err), done);
done:
    return st;
}
