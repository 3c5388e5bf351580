/* RoPE settings of config.json.
 *
 *   transformers 4   "rope_theta": 10000.0,
 *                    "rope_scaling": null | {"rope_type" or "type": "llama3", "factor": 8.0, ...}
 *   transformers 5   "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, ...}
 *
 * A wrong base or an unread setting gives keys that look plausible and are wrong. So nothing here has a default: the
 * base must be written down, and every member of the settings object must be one that its rope type reads. */
#include "model/rope_config.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

enum {
    OF_DEFAULT = 1 << ROPE_DEFAULT,
    OF_LINEAR = 1 << ROPE_LINEAR,
    OF_LLAMA3 = 1 << ROPE_LLAMA3,
    OF_ALL = OF_DEFAULT | OF_LINEAR | OF_LLAMA3
};

/* Members of the settings object, and the rope kinds that read them. */
static const struct {
    const char *key;
    int kinds;
} SETTINGS[] = {
    {"rope_type", OF_ALL},
    {"type", OF_ALL},
    {"rope_theta", OF_ALL},
    {"partial_rotary_factor", OF_ALL},
    {"factor", OF_LINEAR | OF_LLAMA3},
    {"low_freq_factor", OF_LLAMA3},
    {"high_freq_factor", OF_LLAMA3},
    {"original_max_position_embeddings", OF_LLAMA3},
};

static int kinds_reading(const char *key)
{
    for (size_t i = 0; i < RB_COUNT(SETTINGS); i++)
        if (strcmp(SETTINGS[i].key, key) == 0) return SETTINGS[i].kinds;
    return 0;
}

static rb_status find_settings(const cJSON **settings, char *where, size_t where_bytes, const cJSON *json,
                               const char *name, rb_error *err)
{
    const cJSON *parameters = rb_json_find(json, "rope_parameters"), *scaling = rb_json_find(json, "rope_scaling"),
                *item;
    if (parameters && scaling)
        return rb_fail(err, RB_EINVAL, "%s: both rope_parameters and rope_scaling are set, expected one of them", name);
    *settings = NULL;
    if (!parameters && !scaling) return RB_OK;
    const char *key = parameters ? "rope_parameters" : "rope_scaling";
    const rb_status st = rb_json_get_object(json, key, name, settings, err);
    if (st != RB_OK) return st;
    snprintf(where, where_bytes, "%s: %s", name, key);
    cJSON_ArrayForEach (item, *settings) {
        if (cJSON_IsObject(item))
            return rb_fail(err, RB_EUNSUPPORTED, "%s.%s is an object: settings per layer type are not supported", where,
                           item->string);
    }
    return RB_OK;
}

/* transformers 4 wrote "type" first and "rope_type" later, often both. */
static rb_status parse_kind(rope_facts *rope, const cJSON *settings, const char *where, rb_error *err)
{
    const bool has_new = rb_json_find(settings, "rope_type") != NULL, has_old = rb_json_find(settings, "type") != NULL;
    const char *kind = NULL, *old_kind = NULL;
    rb_status st;

    if (has_new || !has_old) RB_TRY(st, rb_json_get_string(settings, "rope_type", where, &kind, err), done);
    if (has_old) RB_TRY(st, rb_json_get_string(settings, "type", where, &old_kind, err), done);
    if (kind && old_kind && strcmp(kind, old_kind) != 0)
        return rb_fail(err, RB_EINVAL, "%s: rope_type is \"%s\" and type is \"%s\"", where, kind, old_kind);
    if (!kind) kind = old_kind;
    st = RB_OK;
    if (strcmp(kind, "default") == 0) rope->kind = ROPE_DEFAULT;
    else if (strcmp(kind, "linear") == 0) rope->kind = ROPE_LINEAR;
    else if (strcmp(kind, "llama3") == 0) rope->kind = ROPE_LLAMA3;
    else
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: rope_type \"%s\" is not supported, expected default, linear or llama3",
                     where, kind);
done:
    return st;
}

static rb_status check_settings_are_read(rope_kind kind, const cJSON *settings, const char *where, rb_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, settings) {
        if (!cJSON_IsNull(item) && !(kinds_reading(item->string) & (1 << kind)))
            return rb_fail(err, RB_EUNSUPPORTED, "%s: \"%s\" is not a setting of rope_type %s that is supported", where,
                           item->string, rope_kind_name(kind));
    }
    return RB_OK;
}

static rb_status parse_parameters(rope_facts *rope, const cJSON *settings, const char *where, rb_error *err)
{
    const int kind = 1 << rope->kind;
    rb_status st = RB_OK;

    if (kind & (OF_LINEAR | OF_LLAMA3))
        RB_TRY(st, rb_json_get_number(settings, "factor", where, -DBL_MAX, DBL_MAX, &rope->factor, err), done);
    if (kind & OF_LLAMA3) {
        RB_TRY(st,
               rb_json_get_number(settings, "low_freq_factor", where, -DBL_MAX, DBL_MAX, &rope->low_freq_factor, err),
               done);
        RB_TRY(st,
               rb_json_get_number(settings, "high_freq_factor", where, -DBL_MAX, DBL_MAX, &rope->high_freq_factor, err),
               done);
        RB_TRY(st,
               rb_json_get_int(settings, "original_max_position_embeddings", where, 1, INT64_C(1) << 40,
                               &rope->original_max_position, err),
               done);
    }
done:
    return st;
}

/* The whole head turns in the families supported here. */
static rb_status check_not_partial(const cJSON *object, const char *where, rb_error *err)
{
    double factor;
    if (!rb_json_find(object, "partial_rotary_factor")) return RB_OK;
    const rb_status st = rb_json_get_number(object, "partial_rotary_factor", where, -DBL_MAX, DBL_MAX, &factor, err);
    if (st == RB_OK && factor != 1)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: partial_rotary_factor is %g, expected 1", where, factor);
    return st;
}

/* The base: in the settings object, at the top, or in both with one value. */
static rb_status parse_theta(rope_facts *rope, const cJSON *json, const cJSON *settings, const char *name,
                             const char *where, rb_error *err)
{
    const char *key = "rope_theta";
    const bool has_inner = settings && rb_json_find(settings, key), has_outer = rb_json_find(json, key) != NULL;
    double inner = 0, outer = 0;
    rb_status st = RB_OK;

    if (!has_inner && !has_outer)
        return rb_fail(err, RB_EFORMAT,
                       "%s: no rope_theta, neither at the top nor in rope_parameters; there is no safe default", name);
    if (has_inner) RB_TRY(st, rb_json_get_number(settings, key, where, -DBL_MAX, DBL_MAX, &inner, err), done);
    if (has_outer) RB_TRY(st, rb_json_get_number(json, key, name, -DBL_MAX, DBL_MAX, &outer, err), done);
    if (has_inner && has_outer && inner != outer)
        return rb_fail(err, RB_EINVAL, "%s: rope_theta is %.17g, but %.17g at the top of the file", where, inner,
                       outer);
    rope->theta = has_inner ? inner : outer;
done:
    return st;
}

rb_status rope_config_parse(rope_facts *rope, const cJSON *json, const char *name, rb_error *err)
{
    enum { WHERE_BYTES = 512 };
    char where[WHERE_BYTES] = "";
    const cJSON *settings;
    rb_status st;

    *rope = (rope_facts){.kind = ROPE_DEFAULT, .factor = 1};
    RB_TRY(st, find_settings(&settings, where, sizeof where, json, name, err), done);
    if (settings) {
        RB_TRY(st, parse_kind(rope, settings, where, err), done);
        RB_TRY(st, check_not_partial(settings, where, err), done);
        RB_TRY(st, check_settings_are_read(rope->kind, settings, where, err), done);
        RB_TRY(st, parse_parameters(rope, settings, where, err), done);
    }
    RB_TRY(st, check_not_partial(json, name, err), done);
    RB_TRY(st, parse_theta(rope, json, settings, name, where, err), done);
done:
    return st;
}
