/* Writer of plan.json: see plan/plan_json.h and docs/plan-json.md. */
#include <stdlib.h>

#include "core/json.h"
#include "core/program.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"
#include "plan/plan_json_parts.h"

static rb_status bits_to_json(cJSON *json, const plan_head *head, int n_blocks, rb_error *err)
{
    uint8_t bits[RB_MAX_BLOCKS];
    int numbers[RB_MAX_BLOCKS];
    if (plan_family_of(head)->coordinate_widths) return RB_OK;
    plan_head_bits(head, bits, n_blocks);
    for (int i = 0; i < n_blocks; i++) numbers[i] = bits[i];
    return plan_json_add_ints(json, "bits", numbers, n_blocks, err);
}

/* model: of its values where the head is of values. */
static rb_status head_to_json(cJSON **out, const plan_head *head, int kv_head, const model_facts *model, rb_error *err)
{
    const plan_family *family = plan_family_of(head);
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "kv_head", kv_head, err), done);
    RB_TRY(st, bits_to_json(*out, head, model_n_blocks(model), err), done);
    RB_TRY(st, rb_json_add_number(*out, "true_bits", plan_head_true_bits(head, model->head_dim), err), done);
    /* Older readers know the families of version 1 without a name. */
    if (family->since > PLAN_VERSION_PUBLISHED)
        RB_TRY(st, rb_json_add_string(*out, "family", codec_family_names[head->family], err), done);
    RB_TRY(st, family->to_json(*out, head, model, err), done);
done:
    return st;
}

/* A list of the heads of a layer. */
static rb_status heads_to_json(cJSON **out, const plan_head *heads, const model_facts *model, rb_error *err)
{
    cJSON *item = NULL;
    *out = cJSON_CreateArray();
    rb_status st = *out ? RB_OK : plan_json_no_memory(err);
    for (int kv_head = 0; kv_head < model->n_kv_heads && st == RB_OK; kv_head++) {
        st = head_to_json(&item, &heads[kv_head], kv_head, model, err);
        if (st == RB_OK) st = rb_json_append(*out, &item, err);
        cJSON_Delete(item);
    }
    return st;
}

static rb_status layer_to_json(cJSON **out, const bit_plan *plan, int layer, rb_error *err)
{
    cJSON *heads = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "layer", layer, err), done);
    RB_TRY(st, heads_to_json(&heads, bit_plan_head(plan, layer, 0), &plan->model, err), done);
    RB_TRY(st, rb_json_add_item(*out, "kv_heads", &heads, err), done);
done:
    cJSON_Delete(heads);
    return st;
}

static rb_status layers_to_json(cJSON *json, const bit_plan *plan, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : plan_json_no_memory(err);
    for (int layer = 0; layer < plan->model.n_layers && st == RB_OK; layer++) {
        st = layer_to_json(&item, plan, layer, err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
        cJSON_Delete(item);
    }
    if (st == RB_OK) return rb_json_add_item(json, "layers", &list, err);
    cJSON_Delete(list);
    return st;
}

/* Heads of values: a list a layer, a head a KV head. */
static rb_status add_value_heads(cJSON *json, const bit_plan *plan, rb_error *err)
{
    const model_facts values = model_value_facts(&plan->model);
    cJSON *list = NULL, *row = NULL;
    rb_status st = RB_OK;
    if (!plan->value_heads) return RB_OK;
    if (!(list = cJSON_CreateArray())) st = plan_json_no_memory(err);
    for (int layer = 0; layer < plan->model.n_layers && st == RB_OK; layer++) {
        st = heads_to_json(&row, &plan->value_heads[layer * plan->model.n_kv_heads], &values, err);
        if (st == RB_OK) st = rb_json_append(list, &row, err);
        cJSON_Delete(row);
    }
    if (st == RB_OK) st = rb_json_add_item(json, "value_heads", &list, err);
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
    rb_status st = list ? RB_OK : plan_json_no_memory(err);
    if (st == RB_OK) st = rb_alloc(&widths, (size_t)n_heads, sizeof *widths, "widths of values", err);
    for (int layer = 0; layer < n_layers && st == RB_OK; layer++) {
        for (int h = 0; h < n_heads; h++) widths[h] = plan->value_widths[layer * n_heads + h];
        row = cJSON_CreateIntArray(widths, n_heads);
        st = row ? rb_json_append(list, &row, err) : plan_json_no_memory(err);
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
    if (plan->value_heads) return RB_OK;
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

rb_status plan_to_json(cJSON **out, const bit_plan *plan, rb_error *err)
{
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    text_facts calibration = plan->calibration;
    if (calibration.bos.mode == BOS_NONE) calibration.bos.mode = BOS_UNKNOWN; /* a plan that says nothing means none */
    *out = NULL;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", PLAN_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", plan_version(plan), err), done);
    RB_TRY(st, rb_json_add_string(json, "tool_version", rb_tool_version(), err), done);
    RB_TRY(st, model_facts_to_json(&item, &plan->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    RB_TRY(st, text_facts_to_json(&item, &calibration, err), done);
    RB_TRY(st, rb_json_add_item(json, "calibration", &item, err), done);
    RB_TRY(st, rb_json_add_string(json, "method", plan->method, err), done);
    RB_TRY(st, rb_json_add_number(json, "avg_bits", plan->avg_bits, err), done);
    if (bit_plan_keeps_exact(plan)) {
        RB_TRY(st, rb_json_add_number(json, "sink", (double)plan->n_sink, err), done);
        RB_TRY(st, rb_json_add_number(json, "recent", (double)plan->n_recent, err), done);
    }
    RB_TRY(st, add_cost(json, plan, err), done);
    RB_TRY(st, add_values(json, plan, err), done);
    RB_TRY(st, layers_to_json(json, plan, err), done);
    RB_TRY(st, add_value_heads(json, plan, err), done);
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
