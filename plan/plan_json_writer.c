/* Writer of plan.json: see plan/plan_json.h and docs/plan-json.md. */
#include <inttypes.h>
#include <stdlib.h>

#include "core/json.h"
#include "core/program.h"
#include "plan/plan_json.h"
#include "plan/plan_json_block_codebook.h"

static const uint64_t MAX_SEED = (uint64_t)1 << 53; /* what a JSON number keeps exactly */

static rb_status no_memory(rb_error *err) { return rb_fail(err, RB_ENOMEM, "out of memory for a plan's JSON"); }

static rb_status add_ints(cJSON *json, const char *key, const int *values, int n, rb_error *err)
{
    cJSON *list = cJSON_CreateIntArray(values, n);
    return list ? rb_json_add_item(json, key, &list, err) : no_memory(err);
}

static rb_status rotation_to_json(cJSON **out, const rotation_spec *rotation, rb_error *err)
{
    rb_status st;
    *out = NULL;
    if (rotation->seed >= MAX_SEED)
        return rb_fail(err, RB_EUNSUPPORTED, "rotation seed is %" PRIu64 ", expected below 2^53 in a plan.json",
                       rotation->seed);
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "kind", rotation_kind_name(rotation->kind), err), done);
    RB_TRY(st, rb_json_add_number(*out, "seed", (double)rotation->seed, err), done);
    RB_TRY(st, rb_json_add_number(*out, "dims", rotation->dims, err), done);
done:
    return st;
}

static rb_status group_to_json(cJSON **out, const plan_head *head, const plan_group *group, rb_error *err)
{
    cJSON *rotation = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "width", group->width, err), done);
    RB_TRY(st, add_ints(*out, "blocks", group->blocks, group->n_blocks, err), done);
    RB_TRY(st, rb_json_add_string(*out, "order", group_order_name(group->order), err), done);
    RB_TRY(st, rotation_to_json(&rotation, &group->rotation, err), done);
    RB_TRY(st, rb_json_add_item(*out, "rotation", &rotation, err), done);
    RB_TRY(st, rb_json_add_string(*out, "codebook", codebook_kind_name(group->codebook), err), done);
    if (head->groups.norm == NORM_LOG8)
        RB_TRY(st, rb_json_add_number(*out, "norm_exponent", group->norm_exponent, err), done);
    if (head->groups.encoder == ENCODER_SEARCH)
        RB_TRY(st, rb_json_add_number(*out, "coherence", (double)group->coherence, err), done);
done:
    cJSON_Delete(rotation);
    return st;
}

static rb_status groups_to_json(cJSON *json, const plan_head *head, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : no_memory(err);
    for (int g = 0; g < head->groups.n && st == RB_OK; g++) {
        st = group_to_json(&item, head, &head->groups.at[g], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
        cJSON_Delete(item);
    }
    if (st == RB_OK) return rb_json_add_item(json, "groups", &list, err);
    cJSON_Delete(list);
    return st;
}

static rb_status add_floats(cJSON *json, const char *key, const float *values, int n, rb_error *err)
{
    cJSON *list = NULL;
    if (!values) return RB_OK;
    list = cJSON_CreateFloatArray(values, n); /* as doubles, exactly */
    return list ? rb_json_add_item(json, key, &list, err) : no_memory(err);
}

/* What the published form does not have. */
static rb_status coding_to_json(cJSON *json, const plan_head *head, const model_facts *model, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_string(json, "norm", norm_kind_names[head->groups.norm], err), done);
    RB_TRY(st, rb_json_add_string(json, "encoder", plan_encoder_names[head->groups.encoder], err), done);
    RB_TRY(st, add_floats(json, "scales", head->groups.scales, model_n_blocks(model), err), done);
    RB_TRY(st, add_floats(json, "center", head->center, model->head_dim, err), done);
done:
    return st;
}

static rb_status head_to_json(cJSON **out, const bit_plan *plan, int layer, int kv_head, rb_error *err)
{
    const plan_head *head = bit_plan_head(plan, layer, kv_head);
    uint8_t bits[RB_MAX_BLOCKS];
    int numbers[RB_MAX_BLOCKS];
    rb_status st;
    plan_head_bits(head, bits, model_n_blocks(&plan->model));
    for (int i = 0; i < model_n_blocks(&plan->model); i++) numbers[i] = bits[i];
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "kv_head", kv_head, err), done);
    RB_TRY(st, add_ints(*out, "bits", numbers, model_n_blocks(&plan->model), err), done);
    RB_TRY(st, rb_json_add_number(*out, "true_bits", plan_head_true_bits(head, plan->model.head_dim), err), done);
    if (head->family == FAMILY_BLOCK_CODEBOOK) {
        RB_TRY(st, plan_block_codebook_to_json(*out, &head->block_codebook, model_n_blocks(&plan->model), err), done);
        RB_TRY(st, add_floats(*out, "center", head->center, plan->model.head_dim, err), done);
        goto done;
    }
    if (!plan_head_is_published_form(head, model_n_blocks(&plan->model)))
        RB_TRY(st, coding_to_json(*out, head, &plan->model, err), done);
    RB_TRY(st, groups_to_json(*out, head, err), done);
done:
    return st;
}

static rb_status layer_to_json(cJSON **out, const bit_plan *plan, int layer, rb_error *err)
{
    cJSON *heads = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "layer", layer, err), done);
    heads = cJSON_CreateArray();
    st = heads ? RB_OK : no_memory(err);
    for (int kv_head = 0; kv_head < plan->model.n_kv_heads && st == RB_OK; kv_head++) {
        st = head_to_json(&item, plan, layer, kv_head, err);
        if (st == RB_OK) st = rb_json_append(heads, &item, err);
        cJSON_Delete(item);
    }
    if (st == RB_OK) st = rb_json_add_item(*out, "kv_heads", &heads, err);
done:
    cJSON_Delete(heads);
    return st;
}

static rb_status layers_to_json(cJSON *json, const bit_plan *plan, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : no_memory(err);
    for (int layer = 0; layer < plan->model.n_layers && st == RB_OK; layer++) {
        st = layer_to_json(&item, plan, layer, err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
        cJSON_Delete(item);
    }
    if (st == RB_OK) return rb_json_add_item(json, "layers", &list, err);
    cJSON_Delete(list);
    return st;
}

rb_status plan_value_width_to_json(cJSON *json, const bit_plan *plan, rb_error *err)
{
    const value_range range = bit_plan_value_range(plan);
    const double ends[2] = {range.least, range.most};
    const rb_status st = rb_json_add_number(json, "value_width", range.mean, err);
    return st == RB_OK && range.least != range.most ? rb_json_add_numbers(json, "value_width_range", ends, 2, err) : st;
}

rb_status plan_cost_to_json(cJSON *json, const plan_cost *cost, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_number(json, "key_nominal_bits", cost->key_nominal_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "key_true_bits", cost->key_true_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "value_true_bits", cost->value_true_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "bytes_per_token", cost->bytes_per_token, err), done);
    RB_TRY(st, rb_json_add_number(json, "fp16_bytes_per_token", cost->fp16_bytes_per_token, err), done);
    RB_TRY(st, rb_json_add_number(json, "compression", cost->compression, err), done);
done:
    return st;
}

static rb_status add_cost(cJSON *json, const bit_plan *plan, rb_error *err)
{
    const plan_cost cost = bit_plan_cost(plan);
    cJSON *object = NULL;
    rb_status st;
    RB_TRY(st, rb_json_add_number(json, "true_bits", cost.key_true_bits, err), done);
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, plan_cost_to_json(object, &cost, err), done);
    RB_TRY(st, rb_json_add_item(json, "cost", &object, err), done);
done:
    cJSON_Delete(object);
    return st;
}

/* A list a layer, a number a KV head. */
static rb_status add_value_widths(cJSON *json, const bit_plan *plan, rb_error *err)
{
    const int n_layers = plan->model.n_layers, n_heads = plan->model.n_kv_heads;
    cJSON *list = cJSON_CreateArray(), *row = NULL;
    int *widths = NULL;
    rb_status st = list ? RB_OK : no_memory(err);
    if (st == RB_OK) st = rb_alloc(&widths, (size_t)n_heads, sizeof *widths, "widths of values", err);
    for (int layer = 0; layer < n_layers && st == RB_OK; layer++) {
        for (int h = 0; h < n_heads; h++) widths[h] = plan->value_widths[layer * n_heads + h];
        row = cJSON_CreateIntArray(widths, n_heads);
        st = row ? rb_json_append(list, &row, err) : no_memory(err);
        cJSON_Delete(row);
    }
    if (st == RB_OK) st = rb_json_add_item(json, "widths", &list, err);
    free(widths);
    cJSON_Delete(list);
    return st;
}

static rb_status add_values(cJSON *json, const bit_plan *plan, rb_error *err)
{
    const value_range range = bit_plan_value_range(plan);
    cJSON *object = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st,
           range.least == range.most ? rb_json_add_number(object, "width", range.least, err)
                                     : add_value_widths(object, plan, err),
           done);
    RB_TRY(st, rb_json_add_string(object, "codebook", codebook_kind_name(plan->value_codebook), err), done);
    RB_TRY(st, rb_json_add_item(json, "values", &object, err), done);
done:
    cJSON_Delete(object);
    return st;
}

static int version_of(const bit_plan *plan)
{
    if (bit_plan_has_family(plan, FAMILY_BLOCK_CODEBOOK)) return PLAN_JSON_VERSION;
    return bit_plan_is_published_form(plan) ? PLAN_JSON_PUBLISHED_VERSION : PLAN_JSON_GROUPS_VERSION;
}

rb_status plan_to_json(cJSON **out, const bit_plan *plan, rb_error *err)
{
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", PLAN_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", version_of(plan), err), done);
    RB_TRY(st, rb_json_add_string(json, "tool_version", rb_tool_version(), err), done);
    RB_TRY(st, model_facts_to_json(&item, &plan->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    RB_TRY(st, text_facts_to_json(&item, &plan->calibration, err), done);
    RB_TRY(st, rb_json_add_item(json, "calibration", &item, err), done);
    RB_TRY(st, rb_json_add_string(json, "method", plan->method, err), done);
    RB_TRY(st, rb_json_add_number(json, "avg_bits", plan->avg_bits, err), done);
    RB_TRY(st, add_cost(json, plan, err), done);
    RB_TRY(st, add_values(json, plan, err), done);
    RB_TRY(st, layers_to_json(json, plan, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    return st;
}

rb_status plan_json_write(const bit_plan *plan, const char *path, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, plan_to_json(&json, plan, err), done);
    RB_TRY(st, rb_json_write(json, path, err), done);
done:
    cJSON_Delete(json);
    return st;
}
