/* See profile/tail_summary.h. */
#include "profile/tail_summary.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "core/json.h"
#include "profile/coverage.h"

/* An empty list; the caller's to add. */
static rb_status new_list(cJSON **out, rb_error *err)
{
    *out = cJSON_CreateArray();
    return *out ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the summary");
}

static rb_status add_place(cJSON *json, int layer, int kv_head, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_number(json, "layer", layer, err), done);
    RB_TRY(st, rb_json_add_number(json, "kv_head", kv_head, err), done);
done:
    return st;
}

static rb_status add_quantiles(cJSON *json, const tail_error *tail, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_number(item, "median", tail->median, err), done);
    RB_TRY(st, rb_json_add_number(item, "p99", tail->p99, err), done);
    RB_TRY(st, rb_json_add_number(item, "p999", tail->p999, err), done);
    RB_TRY(st, rb_json_add_number(item, "max", tail->largest, err), done);
    RB_TRY(st, rb_json_add_item(json, "token_error", &item, err), done);
done:
    cJSON_Delete(item);
    return st;
}

static rb_status add_flagged(cJSON *json, const method_score *method, const model_facts *model, rb_error *err)
{
    cJSON *list = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, new_list(&list, err), done);
    for (int layer = 0; layer < model->n_layers; layer++)
        for (int h = 0; h < model->n_kv_heads; h++) {
            const tail_error *tail = &method_head(method, model, layer, h)->tail;
            if (tail->ratio <= TAIL_LIMIT) continue;
            RB_TRY(st, rb_json_new_object(&item, err), done);
            RB_TRY(st, add_place(item, layer, h, err), done);
            RB_TRY(st, rb_json_add_number(item, "tail_ratio", tail->ratio, err), done);
            RB_TRY(st, rb_json_add_number(item, "outside_share", tail->outside, err), done);
            RB_TRY(st, rb_json_append(list, &item, err), done);
        }
    RB_TRY(st, rb_json_add_item(json, "heads_out_of_proportion", &list, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

static rb_status add_worst(cJSON *json, const worst_tokens *worst, rb_error *err)
{
    cJSON *list = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, new_list(&list, err), done);
    for (int i = 0; i < worst->n; i++) {
        const worst_token *token = &worst->at[i];
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, rb_json_add_number(item, "position", (double)token->position, err), done);
        RB_TRY(st, rb_json_add_number(item, "id", token->id, err), done);
        if (token->text[0] != '\0') RB_TRY(st, rb_json_add_string(item, "text", token->text, err), done);
        RB_TRY(st, add_place(item, token->layer, token->kv_head, err), done);
        RB_TRY(st, rb_json_add_number(item, "error", token->error, err), done);
        RB_TRY(st, rb_json_add_number(item, "size", token->size, err), done);
        RB_TRY(st, rb_json_add_number(item, "excess", token->excess, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "worst_tokens", &list, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

rb_status tail_summary_add(cJSON *json, const method_score *method, const model_facts *model, rb_error *err)
{
    const head_score mean = method_mean(method, model, -1);
    rb_status st;
    RB_TRY(st, rb_json_add_number(json, "attended_mae", mean.attended_mae, err), done);
    RB_TRY(st, add_quantiles(json, &mean.tail, err), done);
    RB_TRY(st, rb_json_add_number(json, "tail_ratio", method_largest_ratio(method, model), err), done);
    RB_TRY(st, rb_json_add_number(json, "outside_share", mean.tail.outside, err), done);
    RB_TRY(st, add_flagged(json, method, model, err), done);
    RB_TRY(st, add_worst(json, &method->worst, err), done);
done:
    return st;
}

static rb_status coverage_to_json(cJSON **out, const head_coverage *coverage, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "key_distance", coverage->key_distance, err), done);
    RB_TRY(st, rb_json_add_number(json, "key_outside", coverage->key_outside, err), done);
    RB_TRY(st, rb_json_add_number(json, "query_shift", coverage->query_shift, err), done);
    RB_TRY(st, rb_json_add_number(json, "plan_transfer", coverage->plan_transfer, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    return st;
}

rb_status coverage_summary_add(cJSON *json, const profile_table *table, rb_error *err)
{
    const model_facts *model = &table->model;
    const head_coverage mean = profile_table_coverage(table);
    cJSON *whole = NULL, *list = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, coverage_to_json(&whole, &mean, err), done);
    RB_TRY(st, rb_json_add_bool(whole, "is_covered", coverage_is_good(&mean), err), done);
    RB_TRY(st, new_list(&list, err), done);
    for (int layer = 0; layer < model->n_layers; layer++)
        for (int h = 0; h < model->n_kv_heads; h++) {
            RB_TRY(st, coverage_to_json(&item, &table->coverage[layer * model->n_kv_heads + h], err), done);
            RB_TRY(st, add_place(item, layer, h, err), done);
            RB_TRY(st, rb_json_append(list, &item, err), done);
        }
    RB_TRY(st, rb_json_add_item(whole, "heads", &list, err), done);
    RB_TRY(st, rb_json_add_item(json, "coverage", &whole, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    cJSON_Delete(whole);
    return st;
}

rb_status coverage_summary_read(head_coverage *mean, bool *is_covered, const cJSON *document, const char *name,
                                rb_error *err)
{
    const struct {
        const char *key;
        double *value;
    } numbers[] = {{"key_distance", &mean->key_distance},
                   {"key_outside", &mean->key_outside},
                   {"query_shift", &mean->query_shift},
                   {"plan_transfer", &mean->plan_transfer}};
    const cJSON *whole;
    char where[512];
    rb_status st = RB_OK;
    *mean = (head_coverage){NAN, NAN, NAN, NAN};
    *is_covered = true;
    if (!rb_json_find(document, "coverage")) return RB_OK;
    snprintf(where, sizeof where, "%.400s: coverage", name);
    RB_TRY(st, rb_json_get_object(document, "coverage", name, &whole, err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        if (rb_json_find(whole, numbers[i].key))
            RB_TRY(st, rb_json_get_number(whole, numbers[i].key, where, 0.0, DBL_MAX, numbers[i].value, err), done);
    st = rb_json_get_bool(whole, "is_covered", where, is_covered, err);
done:
    return st;
}
