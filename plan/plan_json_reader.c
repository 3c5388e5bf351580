/* Reader of plan.json: see plan/plan_json.h and docs/plan-json.md. What a plan states twice (bits and groups, costs)
 * must agree. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"
#include "plan/plan_json_parts.h"

/* ---- a head ---------------------------------------------------------------------------------- */

static bool has_member(int family, const char *name)
{
    for (const char *const *member = plan_families[family]->members; *member; member++)
        if (strcmp(*member, name) == 0) return true;
    return false;
}

/* A head has no members of other families. Two families may have a member of one name. */
static rb_status refuse_foreign(const cJSON *json, int family, const char *where, rb_error *err)
{
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        for (const char *const *member = plan_families[f]->members; f != family && *member; member++)
            if (!has_member(family, *member) && rb_json_find(json, *member))
                return rb_fail(err, RB_EFORMAT, "%s: has %s, expected none of family %s", where, *member,
                               codec_family_names[family]);
    return RB_OK;
}

static rb_status check_stated_number(const cJSON *json, const char *key, double actual, const char *where,
                                     rb_error *err)
{
    static const double tolerance = 1e-9;
    double stated;
    rb_status st = rb_json_get_number(json, key, where, -HUGE_VAL, HUGE_VAL, &stated, err);
    if (st == RB_OK && !(fabs(stated - actual) <= tolerance * fabs(actual)))
        st = rb_fail(err, RB_EFORMAT, "%s: \"%s\" is %.12g, but the plan itself gives %.12g", where, key, stated,
                     actual);
    return st;
}

static rb_status head_from_json(plan_head *head, const cJSON *json, int kv_head, const model_facts *model,
                                const char *where, rb_error *err)
{
    int family = 0; /* files of version 1 do not name it */
    int64_t number;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "kv_head", where, kv_head, kv_head, &number, err), done);
    if (rb_json_find(json, "family"))
        RB_TRY(st, plan_json_get_name(&family, json, "family", codec_family_names, where, err), done);
    RB_TRY(st, refuse_foreign(json, family, where, err), done);
    RB_TRY(st, plan_json_get_floats(&head->center, json, "center", model->head_dim, where, err), done);
    RB_TRY(st, plan_families[family]->from_json(head, json, model, where, err), done);
    RB_TRY(st, check_stated_number(json, "true_bits", plan_head_true_bits(head, model->head_dim), where, err), done);
done:
    return st;
}

/* The heads of a layer: a list of the model's KV heads. `what` names it: "kv_heads", "value heads". where
 * [PLAN_JSON_PLACE_SIZE] is the layer's place. */
static rb_status heads_from_json(plan_head *heads, const cJSON *list, const model_facts *model, const char *what,
                                 const char *where, rb_error *err)
{
    const cJSON *item;
    char place[PLAN_JSON_PLACE_SIZE];
    int kv_head = 0;
    if (cJSON_GetArraySize(list) != model->n_kv_heads)
        return rb_fail(err, RB_EFORMAT, "%s: %d %s, expected the model's %d", where, cJSON_GetArraySize(list), what,
                       model->n_kv_heads);
    cJSON_ArrayForEach (item, list) {
        snprintf(place, sizeof place, "%.480s kv_head %d", where, kv_head);
        const rb_status st = head_from_json(&heads[kv_head], item, kv_head, model, place, err);
        if (st != RB_OK) return st;
        kv_head++;
    }
    return RB_OK;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static rb_status layer_from_json(bit_plan *plan, const cJSON *json, int layer, const char *name, rb_error *err)
{
    const cJSON *list;
    char where[PLAN_JSON_PLACE_SIZE];
    int64_t number;
    rb_status st;
    snprintf(where, sizeof where, "%.400s: layer %d", name, layer);
    RB_TRY(st, rb_json_get_int(json, "layer", where, layer, layer, &number, err), done);
    RB_TRY(st, rb_json_get_array(json, "kv_heads", where, &list, err), done);
    RB_TRY(st, heads_from_json(bit_plan_head(plan, layer, 0), list, &plan->model, "kv_heads", where, err), done);
done:
    return st;
}

static rb_status layers_from_json(bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const cJSON *list, *item;
    int layer = 0;
    rb_status st = rb_json_get_array(document, "layers", name, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != plan->model.n_layers)
        st = rb_fail(err, RB_EFORMAT, "%s: %d layers, expected the model's %d", name, cJSON_GetArraySize(list),
                     plan->model.n_layers);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        st = layer_from_json(plan, item, layer++, name, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status value_heads_from_json(bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const model_facts values = model_value_facts(&plan->model);
    const cJSON *list, *item;
    char where[PLAN_JSON_PLACE_SIZE];
    int layer = 0;
    rb_status st = rb_json_get_array(document, "value_heads", name, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != values.n_layers)
        st = rb_fail(err, RB_EFORMAT, "%s: value_heads of %d layers, expected the model's %d", name,
                     cJSON_GetArraySize(list), values.n_layers);
    if (st == RB_OK) st = bit_plan_create_value_heads(plan, err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(where, sizeof where, "%.400s: value_heads: layer %d", name, layer);
        if (!cJSON_IsArray(item)) return rb_fail(err, RB_EFORMAT, "%s: is no list of heads", where);
        st = heads_from_json(&plan->value_heads[layer * values.n_kv_heads], item, &values, "heads", where, err);
        if (st != RB_OK) return st;
        layer++;
    }
    return RB_OK;
}

static rb_status check_stated_cost(const bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const plan_cost cost = bit_plan_cost(plan);
    const cJSON *object;
    char where[PLAN_JSON_PLACE_SIZE];
    rb_status st;
    snprintf(where, sizeof where, "%.400s: cost", name);
    RB_TRY(st, check_stated_number(document, "true_bits", cost.key_true_bits, name, err), done);
    RB_TRY(st, rb_json_get_object(document, "cost", name, &object, err), done);
    RB_TRY(st, check_stated_number(object, "key_nominal_bits", cost.key_nominal_bits, where, err), done);
    RB_TRY(st, check_stated_number(object, "key_true_bits", cost.key_true_bits, where, err), done);
    RB_TRY(st, check_stated_number(object, "value_true_bits", cost.value_true_bits, where, err), done);
    RB_TRY(st, check_stated_number(object, "bytes_per_token", cost.bytes_per_token, where, err), done);
    RB_TRY(st, check_stated_number(object, "fp16_bytes_per_token", cost.fp16_bytes_per_token, where, err), done);
    RB_TRY(st, check_stated_number(object, "compression", cost.compression, where, err), done);
done:
    return st;
}

static rb_status layer_widths_from_json(uint8_t *widths, const cJSON *list, int n_heads, int layer, const char *where,
                                        rb_error *err)
{
    const cJSON *item;
    int h = 0;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n_heads)
        return rb_fail(err, RB_EFORMAT, "%s: widths[%d] is no list of %d numbers, one a KV head", where, layer,
                       n_heads);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= PLAN_MIN_WIDTH && item->valuedouble <= PLAN_MAX_WIDTH)
            || item->valuedouble != floor(item->valuedouble))
            return rb_fail(err, RB_EFORMAT, "%s: widths[%d][%d] is no width, expected a whole number from %d to %d",
                           where, layer, h, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH);
        widths[h++] = (uint8_t)item->valuedouble;
    }
    return RB_OK;
}

/* One width for all, or one a layer and head. */
static rb_status value_widths_from_json(bit_plan *plan, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    int64_t width;
    int layer = 0;
    rb_status st;
    if (!rb_json_find(json, "widths")) {
        st = rb_json_get_int(json, "width", where, PLAN_MIN_WIDTH, PLAN_FP16_WIDTH, &width, err);
        if (st == RB_OK) bit_plan_set_value_width(plan, (int)width);
        return st;
    }
    if (rb_json_find(json, "width"))
        return rb_fail(err, RB_EFORMAT, "%s: has width and widths, expected one of them", where);
    st = rb_json_get_array(json, "widths", where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != plan->model.n_layers)
        st = rb_fail(err, RB_EFORMAT, "%s: widths of %d layers, expected the model's %d", where,
                     cJSON_GetArraySize(list), plan->model.n_layers);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        st = layer_widths_from_json(plan->value_widths + layer * plan->model.n_kv_heads, item, plan->model.n_kv_heads,
                                    layer, where, err);
        if (st != RB_OK) return st;
        layer++;
    }
    return RB_OK;
}

/* A plan has one of `values` and `value_heads`. */
static rb_status values_from_json(bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const cJSON *object;
    char where[PLAN_JSON_PLACE_SIZE];
    rb_status st;
    if (rb_json_find(document, "value_heads")) {
        if (!rb_json_find(document, "values")) return value_heads_from_json(plan, document, name, err);
        return rb_fail(err, RB_EFORMAT, "%s: has values and value_heads, expected one of them", name);
    }
    snprintf(where, sizeof where, "%.400s: values", name);
    RB_TRY(st, rb_json_get_object(document, "values", name, &object, err), done);
    RB_TRY(st, value_widths_from_json(plan, object, where, err), done);
    RB_TRY(st, plan_json_get_codebook(&plan->value_codebook, object, where, err), done);
done:
    return st;
}

/* Absent: 0. */
static rb_status exact_from_json(int64_t *out, const cJSON *document, const char *key, const char *name, rb_error *err)
{
    *out = 0;
    return rb_json_find(document, key) ? rb_json_get_int(document, key, name, 0, PLAN_MAX_EXACT, out, err) : RB_OK;
}

static rb_status header_from_json(bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const char *method;
    char where[PLAN_JSON_PLACE_SIZE];
    rb_status st;
    snprintf(where, sizeof where, "%.400s: calibration", name);
    RB_TRY(st, text_facts_from_json(&plan->calibration, rb_json_find(document, "calibration"), where, err), done);
    /* A plan that says nothing is of a text as it is: those of before could not be of another. */
    if (plan->calibration.bos.mode == BOS_UNKNOWN && plan->calibration.n_tokens > 0)
        plan->calibration.bos.mode = BOS_NONE;
    RB_TRY(st, rb_json_get_string(document, "method", name, &method, err), done);
    if (strlen(method) >= sizeof plan->method) {
        st = rb_fail(err, RB_EFORMAT, "%s: method \"%s\" is longer than %zu characters", name, method,
                     sizeof plan->method - 1);
        goto done;
    }
    strcpy(plan->method, method);
    RB_TRY(st, rb_json_get_number(document, "avg_bits", name, 0.0, 16.0, &plan->avg_bits, err), done);
    RB_TRY(st, exact_from_json(&plan->n_sink, document, "sink", name, err), done);
    RB_TRY(st, exact_from_json(&plan->n_recent, document, "recent", name, err), done);
    RB_TRY(st, values_from_json(plan, document, name, err), done);
done:
    return st;
}

/* The names of the families that a version has, "a, b". */
static const char *list_families(char *out, size_t size, int version)
{
    size_t n = 0;
    out[0] = '\0';
    for (int f = 0; f < FAMILY_N_KINDS; f++)
        if (plan_families[f]->since <= version && n < size)
            n += (size_t)snprintf(out + n, size - n, "%s%s", n > 0 ? ", " : "", codec_family_names[f]);
    return out;
}

/* The version says which readers can take a plan: it must not promise less than there is. */
static rb_status check_version(const bit_plan *plan, int version, const char *name, rb_error *err)
{
    const value_range range = bit_plan_value_range(plan);
    char known[120];
    if (version < PLAN_VERSION_MODEL && plan_model_is_new(&plan->model))
        return rb_fail(
            err, RB_EFORMAT,
            "%s: model: value_dim, local_rope, attention_factor or rope kind %s, expected none in version %d", name,
            rope_kind_name(plan->model.rope.kind), version);
    if (version < PLAN_VERSION_EXACT && bit_plan_keeps_exact(plan))
        return rb_fail(err, RB_EFORMAT, "%s: sink is %lld and recent %lld, expected 0 in version %d", name,
                       (long long)plan->n_sink, (long long)plan->n_recent, version);
    if (version < PLAN_VERSION_EXACT && plan->value_heads)
        return rb_fail(err, RB_EFORMAT, "%s: has value_heads, expected none in version %d", name, version);
    if (version == PLAN_VERSION_PUBLISHED && range.least != range.most)
        return rb_fail(err, RB_EFORMAT, "%s: values: widths from %g to %g, expected one in version %d", name,
                       range.least, range.most, version);
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan_family_of(&plan->heads[h])->since > version)
            return rb_fail(err, RB_EFORMAT, "%s: layer %d kv_head %d: family is %s, expected %s in version %d", name,
                           h / plan->model.n_kv_heads, h % plan->model.n_kv_heads,
                           codec_family_names[plan->heads[h].family], list_families(known, sizeof known, version),
                           version);
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const char *what;
        if (plan_family_version(&what, &plan->heads[h], model_n_blocks(&plan->model)) > version)
            return rb_fail(err, RB_EFORMAT, "%s: layer %d kv_head %d: %s, expected none in version %d", name,
                           h / plan->model.n_kv_heads, h % plan->model.n_kv_heads, what, version);
    }
    for (int h = 0; version == PLAN_VERSION_PUBLISHED && h < bit_plan_n_heads(plan); h++)
        if (!plan_head_is_published_form(&plan->heads[h], model_n_blocks(&plan->model)))
            return rb_fail(err, RB_EFORMAT,
                           "%s: layer %d kv_head %d: a block without bits, scales, a center, norm log8 or encoder "
                           "search, expected none in version %d",
                           name, h / plan->model.n_kv_heads, h % plan->model.n_kv_heads, version);
    return RB_OK;
}

/* The document's, or the newest: its check then tells. */
static int known_version(const cJSON *document)
{
    const cJSON *stated = rb_json_find(document, "version");
    for (int version = PLAN_VERSION_PUBLISHED; cJSON_IsNumber(stated) && version < PLAN_VERSION_NEWEST; version++)
        if (stated->valuedouble == version) return version;
    return PLAN_VERSION_NEWEST;
}

rb_status plan_from_json(bit_plan **out, const cJSON *document, const char *name, rb_error *err)
{
    bit_plan *plan = NULL;
    model_facts model;
    const cJSON *object;
    const int version = known_version(document);
    char where[PLAN_JSON_PLACE_SIZE];
    rb_status st;
    *out = NULL;
    snprintf(where, sizeof where, "%.400s: model", name);
    RB_TRY(st, rb_json_check_schema(document, name, PLAN_SCHEMA, version, err), done);
    RB_TRY(st, rb_json_get_object(document, "model", name, &object, err), done);
    RB_TRY(st, model_facts_from_json(&model, object, where, err), done);
    RB_TRY(st, bit_plan_create(&plan, &model, err), done);
    RB_TRY(st, header_from_json(plan, document, name, err), done);
    RB_TRY(st, layers_from_json(plan, document, name, err), done);
    RB_TRY(st, bit_plan_check(plan, name, err), done);
    RB_TRY(st, check_version(plan, version, name, err), done);
    RB_TRY(st, check_stated_cost(plan, document, name, err), done);
    *out = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

rb_status plan_json_read(bit_plan **out, const char *path, rb_error *err)
{
    cJSON *document = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_read(&document, path, PLAN_JSON_MAX_SIZE, err), done);
    RB_TRY(st, plan_from_json(out, document, path, err), done);
done:
    cJSON_Delete(document);
    return st;
}
