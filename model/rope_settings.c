/* RoPE settings of config.json. See model/rope_settings.h.
 *
 * A wrong base or an unread setting gives keys that look plausible and are wrong. So every member of the settings
 * object must be one that its rope type reads, or have the value that changes nothing. */
#include "model/rope_settings.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"

enum { WHERE_BYTES = 512 };

enum {
    OF_LINEAR = 1 << ROPE_LINEAR,
    OF_LLAMA3 = 1 << ROPE_LLAMA3,
    OF_DYNAMIC = 1 << ROPE_DYNAMIC,
    OF_YARN = 1 << ROPE_YARN,
    OF_LONGROPE = 1 << ROPE_LONGROPE,
    OF_PROPORTIONAL = 1 << ROPE_PROPORTIONAL,
    OF_ALL = (1 << ROPE_N_KINDS) - 1
};

/* Members of the settings object, the rope kinds that read them, and a value that is the same as none for others. */
static const struct {
    const char *key;
    int kinds;
    double neutral;
} SETTINGS[] = {
    {"rope_type", OF_ALL, 0},
    {"type", OF_ALL, 0},
    {"rope_theta", OF_ALL, 0},
    {"partial_rotary_factor", OF_ALL, 1},
    {"factor", OF_ALL & ~(1 << ROPE_DEFAULT), 1},
    {"low_freq_factor", OF_LLAMA3, 0},
    {"high_freq_factor", OF_LLAMA3, 0},
    {"original_max_position_embeddings", OF_LLAMA3 | OF_YARN | OF_LONGROPE | OF_DYNAMIC, 0},
    {"attention_factor", OF_YARN | OF_LONGROPE, 1},
    {"beta_fast", OF_YARN, 0},
    {"beta_slow", OF_YARN, 0},
    {"mscale", OF_YARN, 0},
    {"mscale_all_dim", OF_YARN, 0},
    {"truncate", OF_YARN, 0},
    {"short_factor", OF_LONGROPE, 0},
    {"long_factor", OF_LONGROPE, 0},
};

/* The object with the settings of one kind of layer (NULL: none), and the document, whose fields count where the object
 * has none. */
typedef struct rope_source {
    const cJSON *object, *document;
    const model_family *family;
    const char *name, *where; /* of the document; of the object */
    const char *theta_key;    /* in the document */
} rope_source;

/* ---- members --------------------------------------------------------------------------------- */

static rb_status get_number(double *out, const cJSON *object, const char *key, const char *where, rb_error *err)
{
    return rb_json_find(object, key) ? rb_json_get_number(object, key, where, -DBL_MAX, DBL_MAX, out, err) : RB_OK;
}

/* A number of the object or, where it has none, of the document; both must agree. Stays as it is where there is
 * none. */
static rb_status get_either(double *out, bool *is_given, const rope_source *source, const char *key,
                            const char *document_key, rb_error *err)
{
    const bool has_inner = source->object && rb_json_find(source->object, key),
               has_outer = rb_json_find(source->document, document_key) != NULL;
    double inner = 0, outer = 0;
    rb_status st = RB_OK;

    *is_given = has_inner || has_outer;
    if (has_inner) RB_TRY(st, get_number(&inner, source->object, key, source->where, err), done);
    if (has_outer) RB_TRY(st, get_number(&outer, source->document, document_key, source->name, err), done);
    if (has_inner && has_outer && inner != outer)
        return rb_fail(err, RB_EINVAL, "%s: %s is %.17g, but %.17g at the top of the file", source->where, key, inner,
                       outer);
    if (has_inner || has_outer) *out = has_inner ? inner : outer;
done:
    return st;
}

static rb_status parse_kind(rope_settings *settings, const rope_source *source, rb_error *err)
{
    const cJSON *object = source->object;
    const char *where = source->where, *kind = NULL, *old_kind = NULL;
    rb_status st = RB_OK;

    /* transformers 4 wrote "type" first and "rope_type" later, often both. Neither means default. */
    if (rb_json_find(object, "rope_type")) RB_TRY(st, rb_json_get_string(object, "rope_type", where, &kind, err), done);
    if (rb_json_find(object, "type")) RB_TRY(st, rb_json_get_string(object, "type", where, &old_kind, err), done);
    if (kind && old_kind && strcmp(kind, old_kind) != 0)
        return rb_fail(err, RB_EINVAL, "%s: rope_type is \"%s\" and type is \"%s\"", where, kind, old_kind);
    if (!kind) kind = old_kind ? old_kind : rope_kind_name(ROPE_DEFAULT);
    if (source->family->names_longrope_so && (strcmp(kind, "su") == 0 || strcmp(kind, "yarn") == 0))
        kind = rope_kind_name(ROPE_LONGROPE);
    for (int i = 0; i < ROPE_N_KINDS; i++)
        if (strcmp(kind, rope_kind_name((rope_kind)i)) == 0) {
            settings->kind = (rope_kind)i;
            return RB_OK;
        }
    st = rb_fail(err, RB_EUNSUPPORTED,
                 "%s: rope_type \"%s\" is not supported, expected default, linear, llama3, dynamic, yarn, longrope or "
                 "proportional",
                 where, kind);
done:
    return st;
}

static bool is_read(const cJSON *item, rope_kind kind)
{
    if (cJSON_IsNull(item)) return true;
    for (size_t i = 0; i < RB_COUNT(SETTINGS); i++)
        if (strcmp(SETTINGS[i].key, item->string) == 0)
            return (SETTINGS[i].kinds & (1 << kind))
                   || (SETTINGS[i].neutral != 0 && cJSON_IsNumber(item) && item->valuedouble == SETTINGS[i].neutral);
    return false;
}

static rb_status check_settings_are_read(const rope_settings *settings, const rope_source *source, rb_error *err)
{
    const cJSON *item;
    cJSON_ArrayForEach (item, source->object) {
        if (cJSON_IsObject(item))
            return rb_fail(err, RB_EUNSUPPORTED, "%s.%s is an object: %s has no settings per layer type", source->where,
                           item->string, source->family->model_type);
        if (!is_read(item, settings->kind))
            return rb_fail(err, RB_EUNSUPPORTED, "%s: \"%s\" is not a setting of rope_type %s that is supported",
                           source->where, item->string, rope_kind_name(settings->kind));
    }
    return RB_OK;
}

/* One number for each block; the number of blocks is checked when the frequencies are made. */
static rb_status get_factors(double *factors, int *n, const rope_source *source, const char *key, rb_error *err)
{
    const cJSON *list, *item;
    const rb_status st = rb_json_get_array(source->object, key, source->where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) > RB_MAX_BLOCKS)
        return rb_fail(err, RB_EINVAL, "%s.%s: %d factors, expected at most %d", source->where, key,
                       cJSON_GetArraySize(list), RB_MAX_BLOCKS);
    *n = 0;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0))
            return rb_fail(err, RB_EINVAL, "%s.%s[%d]: expected a number above 0", source->where, key, *n);
        factors[(*n)++] = item->valuedouble;
    }
    return RB_OK;
}

static rb_status parse_yarn(rope_settings *settings, const rope_source *source, rb_error *err)
{
    const cJSON *object = source->object;
    rb_status st;
    RB_TRY(st, get_number(&settings->beta_fast, object, "beta_fast", source->where, err), done);
    RB_TRY(st, get_number(&settings->beta_slow, object, "beta_slow", source->where, err), done);
    RB_TRY(st, get_number(&settings->mscale, object, "mscale", source->where, err), done);
    RB_TRY(st, get_number(&settings->mscale_all_dim, object, "mscale_all_dim", source->where, err), done);
    if (rb_json_find(object, "truncate"))
        RB_TRY(st, rb_json_get_bool(object, "truncate", source->where, &settings->truncates, err), done);
done:
    return st;
}

/* A field beside the object counts more than one in it, as in transformers: Phi-3 has both. */
static rb_status parse_original_position(rope_settings *settings, const rope_source *source, rb_error *err)
{
    const char *key = "original_max_position_embeddings";
    const bool is_outer = rb_json_find(source->document, key) != NULL;
    if (!is_outer && !rb_json_find(source->object, key)) return RB_OK;
    return rb_json_get_int(is_outer ? source->document : source->object, key, is_outer ? source->name : source->where,
                           1, INT64_C(1) << 40, &settings->original_max_position, err);
}

static rb_status parse_scaling(rope_settings *settings, const rope_source *source, rb_error *err)
{
    const cJSON *object = source->object;
    const char *where = source->where;
    const int kind = 1 << settings->kind;
    rb_status st = RB_OK;

    if (kind & (OF_LINEAR | OF_LLAMA3 | OF_DYNAMIC))
        RB_TRY(st, rb_json_get_number(object, "factor", where, -DBL_MAX, DBL_MAX, &settings->factor, err), done);
    else RB_TRY(st, get_number(&settings->factor, object, "factor", where, err), done);
    if (kind & OF_LLAMA3) {
        RB_TRY(st,
               rb_json_get_number(object, "low_freq_factor", where, -DBL_MAX, DBL_MAX, &settings->low_freq_factor, err),
               done);
        RB_TRY(
            st,
            rb_json_get_number(object, "high_freq_factor", where, -DBL_MAX, DBL_MAX, &settings->high_freq_factor, err),
            done);
    }
    if (kind & (OF_LLAMA3 | OF_YARN | OF_LONGROPE)) RB_TRY(st, parse_original_position(settings, source, err), done);
    if (kind & (OF_YARN | OF_LONGROPE))
        RB_TRY(st, get_number(&settings->attention_factor, object, "attention_factor", where, err), done);
    if (kind & OF_YARN) RB_TRY(st, parse_yarn(settings, source, err), done);
    if (kind & OF_LONGROPE) {
        RB_TRY(st, get_factors(settings->short_factor, &settings->n_short, source, "short_factor", err), done);
        RB_TRY(st, get_factors(settings->long_factor, &settings->n_long, source, "long_factor", err), done);
    }
done:
    return st;
}

/* ---- one RoPE -------------------------------------------------------------------------------- */

static rb_status parse_rotary_factor(rope_settings *settings, const rope_source *source, rb_error *err)
{
    const char *key = "partial_rotary_factor";
    bool is_given;
    rb_status st = get_either(&settings->rotary_factor, &is_given, source, key, key, err);
    if (st == RB_OK && settings->rotary_factor != 1 && !source->family->has_partial_rope
        && settings->kind != ROPE_PROPORTIONAL)
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: partial_rotary_factor is %g, expected 1: the whole head turns in %s",
                     source->where, settings->rotary_factor, source->family->model_type);
    return st;
}

static rb_status parse_one(rope_settings *settings, const rope_source *source, rb_error *err)
{
    bool is_given = false;
    rb_status st = RB_OK;

    *settings =
        (rope_settings){.kind = ROPE_DEFAULT, .rotary_factor = 1, .beta_fast = 32, .beta_slow = 1, .truncates = true};
    if (source->object) {
        RB_TRY(st, parse_kind(settings, source, err), done);
        RB_TRY(st, check_settings_are_read(settings, source, err), done);
        RB_TRY(st, parse_scaling(settings, source, err), done);
    }
    RB_TRY(st, parse_rotary_factor(settings, source, err), done);
    RB_TRY(st, get_either(&settings->theta, &is_given, source, "rope_theta", source->theta_key, err), done);
    if (!is_given)
        st = rb_fail(err, RB_EFORMAT, "%s: no %s, neither at the top nor in rope_parameters; there is no safe default",
                     source->name, source->theta_key);
done:
    return st;
}

/* ---- the document ---------------------------------------------------------------------------- */

static rb_status find_object(const cJSON **object, const char **key, const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *parameters = rb_json_find(json, "rope_parameters"), *scaling = rb_json_find(json, "rope_scaling");
    *object = NULL;
    *key = parameters ? "rope_parameters" : "rope_scaling";
    if (parameters && scaling)
        return rb_fail(err, RB_EINVAL, "%s: both rope_parameters and rope_scaling are set, expected one of them", name);
    return parameters || scaling ? rb_json_get_object(json, *key, name, object, err) : RB_OK;
}

rb_status rope_settings_parse(rope_settings *settings, rope_settings *local, const model_family *family,
                              const cJSON *json, const char *name, rb_error *err)
{
    char where[WHERE_BYTES], local_where[WHERE_BYTES];
    const cJSON *object = NULL;
    const char *key = NULL;
    rb_status st;

    RB_TRY(st, find_object(&object, &key, json, name, err), done);
    snprintf(where, sizeof where, "%s%s%s", name, object ? ": " : "", object ? key : "");
    rope_source source = {object, json, family, name, where, "rope_theta"};
    if (!family->has_local_rope) return parse_one(settings, &source, err);

    /* Settings per layer type, or those of the layers that see everything beside rope_local_base_freq. */
    rope_source of_window = {NULL, json, family, name, name, "rope_local_base_freq"};
    if (object && (rb_json_find(object, "full_attention") || rb_json_find(object, "sliding_attention"))) {
        RB_TRY(st, rb_json_get_object(object, "full_attention", where, &source.object, err), done);
        RB_TRY(st, rb_json_get_object(object, "sliding_attention", where, &of_window.object, err), done);
        snprintf(local_where, sizeof local_where, "%.480s.sliding_attention", where);
        of_window.where = local_where;
    }
    RB_TRY(st, parse_one(settings, &source, err), done);
    RB_TRY(st, parse_one(local, &of_window, err), done);
done:
    return st;
}
