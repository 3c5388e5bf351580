/* Reader of plan.json: see plan/plan_json.h and docs/plan-json.md. What a plan states twice (bits and groups, costs)
 * must agree. */
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "plan/plan_json.h"
#include "plan/plan_json_block_codebook.h"

enum { PLACE_SIZE = 512 };

static const int64_t LARGEST_SEED =
    ((int64_t)1 << 53) - 1; /* above it neighbours share a double: a seed would be read as another */

/* ---- a group --------------------------------------------------------------------------------- */

static rb_status blocks_from_json(plan_group *group, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    rb_status st = rb_json_get_array(json, "blocks", where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) > n_blocks)
        st = rb_fail(err, RB_EFORMAT, "%s: %d blocks, expected at most the head's %d", where, cJSON_GetArraySize(list),
                     n_blocks);
    if (st == RB_OK)
        st =
            rb_alloc(&group->blocks, (size_t)cJSON_GetArraySize(list), sizeof *group->blocks, "blocks of a group", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < n_blocks)
            || item->valuedouble != floor(item->valuedouble))
            return rb_fail(err, RB_EFORMAT, "%s: blocks[%d] is no block, expected a whole number from 0 to %d", where,
                           group->n_blocks, n_blocks - 1);
        group->blocks[group->n_blocks++] = (int)item->valuedouble;
    }
    return RB_OK;
}

static rb_status order_from_json(group_order *order, const cJSON *json, const char *where, rb_error *err)
{
    const char *name;
    rb_status st = rb_json_get_string(json, "order", where, &name, err);
    if (st != RB_OK) return st;
    for (int i = GROUP_ORDER_BLOCK; i <= GROUP_ORDER_NATURAL; i++)
        if (strcmp(name, group_order_name((group_order)i)) == 0) {
            *order = (group_order)i;
            return RB_OK;
        }
    return rb_fail(err, RB_EFORMAT, "%s: order is \"%s\", expected \"block\" or \"natural\"", where, name);
}

static rb_status rotation_from_json(rotation_spec *out, const cJSON *json, const char *where, rb_error *err)
{
    const cJSON *object;
    const char *name;
    int64_t seed, dims;
    rb_status st;
    RB_TRY(st, rb_json_get_object(json, "rotation", where, &object, err), done);
    RB_TRY(st, rb_json_get_string(object, "kind", where, &name, err), done);
    RB_TRY(st, rb_json_get_int(object, "seed", where, 0, LARGEST_SEED, &seed, err), done);
    RB_TRY(st, rb_json_get_int(object, "dims", where, 1, RB_MAX_HEAD_DIM, &dims, err), done);
    if (!rotation_kind_from_name(name, &out->kind)) {
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: unknown rotation \"%s\"", where, name);
        goto done;
    }
    out->seed = (uint64_t)seed;
    out->dims = (int)dims;
done:
    return st;
}

static rb_status codebook_from_json(codebook_kind *kind, const cJSON *json, const char *where, rb_error *err)
{
    const char *name;
    rb_status st = rb_json_get_string(json, "codebook", where, &name, err);
    if (st == RB_OK && !codebook_kind_from_name(name, kind))
        st = rb_fail(err, RB_EUNSUPPORTED, "%s: unknown codebook \"%s\"", where, name);
    return st;
}

/* A number that rounding to a float would change is not what the writer had; whether fp16 holds it too, bit_plan_check
 * tells. */
static rb_status exact_float(float *out, double value, const char *what, const char *where, rb_error *err)
{
    if (fabs(value) <= FLT_MAX && (double)(float)value == value) {
        *out = (float)value;
        return RB_OK;
    }
    return rb_fail(err, RB_EFORMAT, "%s: %s is %.17g, expected a number that fp16 holds", where, what, value);
}

/* What version 2 adds to a group of its head. */
static rb_status coding_of_group(plan_group *out, const cJSON *json, const plan_head *head, const char *where,
                                 rb_error *err)
{
    int64_t exponent = 0;
    double coherence = 1.0;
    rb_status st = RB_OK;
    if (head->groups.norm == NORM_LOG8)
        RB_TRY(st, rb_json_get_int(json, "norm_exponent", where, NORM_MIN_EXPONENT, NORM_MAX_EXPONENT, &exponent, err),
               done);
    else if (rb_json_find(json, "norm_exponent"))
        RB_TRY(st,
               rb_fail(err, RB_EFORMAT, "%s: has a norm_exponent, expected none with norm %s", where,
                       norm_kind_names[head->groups.norm]),
               done);
    if (head->groups.encoder == ENCODER_SEARCH)
        RB_TRY(st, rb_json_get_number(json, "coherence", where, 0.0, HUGE_VAL, &coherence, err), done);
    else if (rb_json_find(json, "coherence"))
        RB_TRY(st,
               rb_fail(err, RB_EFORMAT, "%s: has a coherence, expected none with encoder %s", where,
                       plan_encoder_names[head->groups.encoder]),
               done);
    out->norm_exponent = (int)exponent;
    RB_TRY(st, exact_float(&out->coherence, coherence, "coherence", where, err), done);
done:
    return st;
}

static rb_status group_from_json(plan_group *out, const cJSON *json, const plan_head *head, int n_blocks,
                                 const char *where, rb_error *err)
{
    int64_t width;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "width", where, PLAN_MIN_WIDTH, PLAN_MAX_WIDTH, &width, err), done);
    out->width = (int)width;
    RB_TRY(st, blocks_from_json(out, json, n_blocks, where, err), done);
    RB_TRY(st, order_from_json(&out->order, json, where, err), done);
    RB_TRY(st, rotation_from_json(&out->rotation, json, where, err), done);
    RB_TRY(st, codebook_from_json(&out->codebook, json, where, err), done);
    RB_TRY(st, coding_of_group(out, json, head, where, err), done);
done:
    return st;
}

/* ---- a head ---------------------------------------------------------------------------------- */

static rb_status groups_from_json(plan_head *head, const cJSON *json, int n_blocks, const char *where, rb_error *err)
{
    const cJSON *list, *item;
    char place[PLACE_SIZE];
    rb_status st = rb_json_get_array(json, "groups", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) > n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: %d groups, expected at most one a block, %d", where,
                       cJSON_GetArraySize(list), n_blocks);
    st = rb_alloc(&head->groups.at, (size_t)cJSON_GetArraySize(list), sizeof *head->groups.at, "groups of a head", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        snprintf(place, sizeof place, "%.400s group %d", where, head->groups.n);
        head->groups.n++; /* counted first: a half-read one is freed too */
        st = group_from_json(&head->groups.at[head->groups.n - 1], item, head, n_blocks, place, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status floats_from_json(float **out, const cJSON *json, const char *key, int n, const char *where,
                                  rb_error *err)
{
    const cJSON *list, *item;
    char what[32];
    int i = 0;
    rb_status st;
    if (!rb_json_find(json, key)) return RB_OK;
    st = rb_json_get_array(json, key, where, &list, err);
    if (st == RB_OK && cJSON_GetArraySize(list) != n)
        st = rb_fail(err, RB_EFORMAT, "%s: %s has %d entries, expected %d", where, key, cJSON_GetArraySize(list), n);
    if (st == RB_OK) st = rb_alloc(out, (size_t)n, sizeof **out, "transform of a head", err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s: %s[%d] is no number", where, key, i);
        snprintf(what, sizeof what, "%s[%d]", key, i);
        st = exact_float(&(*out)[i++], item->valuedouble, what, where, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status name_from_json(int *out, const cJSON *json, const char *key, const char *const *names,
                                const char *where, rb_error *err)
{
    const char *name;
    const rb_status st = rb_json_get_string(json, key, where, &name, err);
    if (st != RB_OK) return st;
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return RB_OK;
        }
    return rb_fail(err, RB_EUNSUPPORTED, "%s: unknown %s \"%s\"", where, key, name);
}

/* What version 2 adds; a head without it is of the published form. */
static rb_status coding_from_json(plan_head *head, const cJSON *json, const model_facts *model, const char *where,
                                  rb_error *err)
{
    int norm = NORM_FP16, encoder = ENCODER_NEAREST;
    rb_status st = RB_OK;
    if (rb_json_find(json, "norm")) RB_TRY(st, name_from_json(&norm, json, "norm", norm_kind_names, where, err), done);
    if (rb_json_find(json, "encoder"))
        RB_TRY(st, name_from_json(&encoder, json, "encoder", plan_encoder_names, where, err), done);
    head->groups.norm = (norm_kind)norm;
    head->groups.encoder = (plan_encoder)encoder;
    RB_TRY(st, floats_from_json(&head->groups.scales, json, "scales", model_n_blocks(model), where, err), done);
    RB_TRY(st, floats_from_json(&head->center, json, "center", model->head_dim, where, err), done);
done:
    return st;
}

static rb_status check_stated_bits(const plan_head *head, const cJSON *json, int n_blocks, const char *where,
                                   rb_error *err)
{
    const cJSON *list, *item;
    uint8_t bits[RB_MAX_BLOCKS];
    int block = 0;
    rb_status st = rb_json_get_array(json, "bits", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) != n_blocks)
        return rb_fail(err, RB_EFORMAT, "%s: bits has %d entries, expected %d blocks", where, cJSON_GetArraySize(list),
                       n_blocks);
    plan_head_bits(head, bits, n_blocks);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s: bits[%d] is no number", where, block);
        if (item->valuedouble != bits[block])
            return rb_fail(err, RB_EFORMAT, "%s: bits[%d] is %g, but its group has width %d", where, block,
                           item->valuedouble, bits[block]);
        block++;
    }
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
    const int n_blocks = model_n_blocks(model);
    int family = FAMILY_GROUPS;
    int64_t number;
    rb_status st;
    RB_TRY(st, rb_json_get_int(json, "kv_head", where, kv_head, kv_head, &number, err), done);
    if (rb_json_find(json, "family"))
        RB_TRY(st, name_from_json(&family, json, "family", codec_family_names, where, err), done);
    if (family == FAMILY_BLOCK_CODEBOOK) {
        RB_TRY(st, floats_from_json(&head->center, json, "center", model->head_dim, where, err), done);
        RB_TRY(st, plan_block_codebook_from_json(head, json, n_blocks, where, err), done);
    } else {
        RB_TRY(st, plan_json_refuse_block_codebook(json, where, err), done);
        RB_TRY(st, coding_from_json(head, json, model, where, err), done);
        RB_TRY(st, groups_from_json(head, json, n_blocks, where, err), done);
        RB_TRY(st, check_stated_bits(head, json, n_blocks, where, err), done);
    }
    RB_TRY(st, check_stated_number(json, "true_bits", plan_head_true_bits(head, model->head_dim), where, err), done);
done:
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static rb_status layer_from_json(bit_plan *plan, const cJSON *json, int layer, const char *name, rb_error *err)
{
    const cJSON *list, *item;
    char where[PLACE_SIZE];
    int64_t number;
    int kv_head = 0;
    rb_status st;
    snprintf(where, sizeof where, "%.400s: layer %d", name, layer);
    RB_TRY(st, rb_json_get_int(json, "layer", where, layer, layer, &number, err), done);
    RB_TRY(st, rb_json_get_array(json, "kv_heads", where, &list, err), done);
    if (cJSON_GetArraySize(list) != plan->model.n_kv_heads) {
        st = rb_fail(err, RB_EFORMAT, "%s: %d kv_heads, expected the model's %d", where, cJSON_GetArraySize(list),
                     plan->model.n_kv_heads);
        goto done;
    }
    cJSON_ArrayForEach (item, list) {
        snprintf(where, sizeof where, "%.400s: layer %d kv_head %d", name, layer, kv_head);
        RB_TRY(st, head_from_json(bit_plan_head(plan, layer, kv_head), item, kv_head, &plan->model, where, err), done);
        kv_head++;
    }
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

static rb_status check_stated_cost(const bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const plan_cost cost = bit_plan_cost(plan);
    const cJSON *object;
    char where[PLACE_SIZE];
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

static rb_status header_from_json(bit_plan *plan, const cJSON *document, const char *name, rb_error *err)
{
    const cJSON *object;
    const char *method;
    char where[PLACE_SIZE];
    rb_status st;
    snprintf(where, sizeof where, "%.400s: calibration", name);
    RB_TRY(st, text_facts_from_json(&plan->calibration, rb_json_find(document, "calibration"), where, err), done);
    RB_TRY(st, rb_json_get_string(document, "method", name, &method, err), done);
    if (strlen(method) >= sizeof plan->method) {
        st = rb_fail(err, RB_EFORMAT, "%s: method \"%s\" is longer than %zu characters", name, method,
                     sizeof plan->method - 1);
        goto done;
    }
    strcpy(plan->method, method);
    RB_TRY(st, rb_json_get_number(document, "avg_bits", name, 0.0, 16.0, &plan->avg_bits, err), done);
    RB_TRY(st, rb_json_get_object(document, "values", name, &object, err), done);
    snprintf(where, sizeof where, "%.400s: values", name);
    RB_TRY(st, value_widths_from_json(plan, object, where, err), done);
    RB_TRY(st, codebook_from_json(&plan->value_codebook, object, where, err), done);
done:
    return st;
}

/* The version says which readers can take a plan: it must not promise less than there is. */
static rb_status check_version(const bit_plan *plan, int version, const char *name, rb_error *err)
{
    const value_range range = bit_plan_value_range(plan);
    if (version == PLAN_JSON_PUBLISHED_VERSION && range.least != range.most)
        return rb_fail(err, RB_EFORMAT, "%s: values: widths from %d to %d, expected one in version %d", name,
                       range.least, range.most, version);
    for (int h = 0; version != PLAN_JSON_VERSION && h < plan->model.n_layers * plan->model.n_kv_heads; h++)
        if (plan->heads[h].family == FAMILY_BLOCK_CODEBOOK)
            return rb_fail(err, RB_EFORMAT,
                           "%s: layer %d kv_head %d: family is block-codebook, expected groups in version %d", name,
                           h / plan->model.n_kv_heads, h % plan->model.n_kv_heads, version);
    for (int h = 0; version == PLAN_JSON_PUBLISHED_VERSION && h < plan->model.n_layers * plan->model.n_kv_heads; h++)
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
    for (int version = PLAN_JSON_PUBLISHED_VERSION; cJSON_IsNumber(stated) && version < PLAN_JSON_VERSION; version++)
        if (stated->valuedouble == version) return version;
    return PLAN_JSON_VERSION;
}

rb_status plan_from_json(bit_plan **out, const cJSON *document, const char *name, rb_error *err)
{
    bit_plan *plan = NULL;
    model_facts model;
    const cJSON *object;
    const int version = known_version(document);
    char where[PLACE_SIZE];
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
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, plan_from_json(out, document, path, err), done);
done:
    cJSON_Delete(document);
    return st;
}
