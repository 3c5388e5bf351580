/* See plan_diff.h. */
#include "allocate/plan_diff.h"

#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "plan/plan_json.h"

#define RB_FAMILY_DECLARATION(NAME, prefix, name) extern const diff_functions prefix##_diff_functions;
RB_CODEC_FAMILIES(RB_FAMILY_DECLARATION)
#undef RB_FAMILY_DECLARATION

#define RB_FAMILY_ROW(NAME, prefix, name) &prefix##_diff_functions,
static const diff_functions *const families[FAMILY_N_KINDS] = {RB_CODEC_FAMILIES(RB_FAMILY_ROW)};
#undef RB_FAMILY_ROW

enum { N_LARGEST = 10 };

void plan_diff_free(plan_diff *diff)
{
    free(diff->heads);
    *diff = (plan_diff){0};
}

static void count_head(coding_counts *counts, const plan_head *head, int n_blocks)
{
    uint8_t bits[RB_MAX_BLOCKS];
    if (families[head->family]->count) families[head->family]->count(counts, head);
    counts->family[head->family]++;
    counts->centered += head->center != NULL;
    plan_head_bits(head, bits, n_blocks);
    counts->with_lost_blocks += memchr(bits, 0, (size_t)n_blocks) != NULL;
}

/* Every block's width, or by_block the bits of both its dims. */
static void bits_to_compare(int *bits, const plan_head *head, int n_blocks, bool by_block)
{
    uint8_t own[RB_MAX_BLOCKS];
    plan_head_bits(head, own, n_blocks);
    for (int i = 0; i < n_blocks; i++) bits[i] = by_block && !plan_head_bits_are_of_block(head) ? 2 * own[i] : own[i];
}

static void compare_heads(plan_diff *diff, int h)
{
    const model_facts *model = &diff->plans[0]->model;
    const plan_head *a = &diff->plans[0]->heads[h], *b = &diff->plans[1]->heads[h];
    const int n_blocks = model_n_blocks(model);
    int bits_a[RB_MAX_BLOCKS], bits_b[RB_MAX_BLOCKS];
    head_change *change = &diff->heads[h];
    *change =
        (head_change){.layer = h / model->n_kv_heads,
                      .kv_head = h % model->n_kv_heads,
                      .true_bits = {plan_head_true_bits(a, model->head_dim), plan_head_true_bits(b, model->head_dim)}};
    bits_to_compare(bits_a, a, n_blocks, diff->by_block);
    bits_to_compare(bits_b, b, n_blocks, diff->by_block);
    for (int i = 0; i < n_blocks; i++) {
        change->blocks_changed += bits_a[i] != bits_b[i];
        change->width_moved += abs(bits_a[i] - bits_b[i]);
    }
    const bool has_other_values = !bit_plan_same_values(diff->plans[0], h, diff->plans[1], h);
    diff->heads_differing += has_other_values || !plan_head_equal(a, b, model);
    diff->values_differing += has_other_values;
    if (a->family == b->family) families[a->family]->compare(diff, a, b, n_blocks);
    else diff->families_differing++;
    diff->centers_differing += !plan_floats_equal(a->center, b->center, model->head_dim);
}

static bool has_bits_of_blocks(const bit_plan *plan)
{
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        if (plan_head_bits_are_of_block(&plan->heads[h])) return true;
    return false;
}

rb_status plan_diff_find(plan_diff *out, const bit_plan *a, const char *name_a, const bit_plan *b, const char *name_b,
                         rb_error *err)
{
    rb_status st;
    *out = (plan_diff){
        .plans = {a, b}, .n_heads = bit_plan_n_heads(a), .by_block = has_bits_of_blocks(a) || has_bits_of_blocks(b)};
    RB_TRY(st, model_facts_same(&a->model, name_a, &b->model, name_b, err), done);
    RB_TRY(st, rb_alloc(&out->heads, (size_t)out->n_heads, sizeof *out->heads, "changes", err), done);
    for (int p = 0; p < 2; p++) {
        out->cost[p] = bit_plan_cost(out->plans[p]);
        for (int h = 0; h < out->n_heads; h++)
            count_head(&out->coding[p], &out->plans[p]->heads[h], model_n_blocks(&a->model));
    }
    for (int h = 0; h < out->n_heads; h++) compare_heads(out, h);
done:
    return st;
}

bool plan_diff_is_none(const plan_diff *diff)
{
    const bit_plan *a = diff->plans[0], *b = diff->plans[1];
    return diff->heads_differing == 0 && a->n_sink == b->n_sink && a->n_recent == b->n_recent;
}

head_change plan_diff_layer(const plan_diff *diff, int layer)
{
    const int n = diff->plans[0]->model.n_kv_heads;
    head_change sum = {.layer = layer, .kv_head = -1};
    for (int h = layer * n; h < (layer + 1) * n; h++) {
        sum.blocks_changed += diff->heads[h].blocks_changed;
        sum.width_moved += diff->heads[h].width_moved;
        for (int p = 0; p < 2; p++) sum.true_bits[p] += diff->heads[h].true_bits[p] / n;
    }
    return sum;
}

int plan_diff_largest(int *heads, int n, const plan_diff *diff)
{
    int found = 0;
    for (int h = 0; h < diff->n_heads; h++) {
        int place = found;
        if (diff->heads[h].width_moved == 0) continue;
        for (; place > 0 && diff->heads[heads[place - 1]].width_moved < diff->heads[h].width_moved; place--)
            if (place < n) heads[place] = heads[place - 1];
        if (place < n) heads[place] = h;
        if (found < n) found++;
    }
    return found;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status kinds_to_json(cJSON *json, const char *name, const char *const *kinds, const int *counts, int n,
                               rb_error *err)
{
    cJSON *object = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&object, err), done);
    for (int i = 0; i < n; i++) RB_TRY(st, rb_json_add_number(object, kinds[i], counts[i], err), done);
    RB_TRY(st, rb_json_add_item(json, name, &object, err), done);
done:
    cJSON_Delete(object);
    return st;
}

static rb_status plan_side_to_json(cJSON *json, const char *name, const plan_diff *diff, int p, rb_error *err)
{
    const coding_counts *counts = &diff->coding[p];
    cJSON *side = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&side, err), done);
    RB_TRY(st, rb_json_add_string(side, "method", diff->plans[p]->method, err), done);
    RB_TRY(st, rb_json_add_number(side, "avg_bits", diff->plans[p]->avg_bits, err), done);
    RB_TRY(st, plan_value_width_to_json(side, diff->plans[p], err), done);
    RB_TRY(st, plan_cost_to_json(side, &diff->cost[p], err), done);
    RB_TRY(st, rb_json_add_number(side, "sink", (double)diff->plans[p]->n_sink, err), done);
    RB_TRY(st, rb_json_add_number(side, "recent", (double)diff->plans[p]->n_recent, err), done);
    RB_TRY(st, kinds_to_json(side, "heads_by_family", codec_family_names, counts->family, FAMILY_N_KINDS, err), done);
    RB_TRY(st, kinds_to_json(side, "heads_by_norm", norm_kind_names, counts->norm, NORM_N_KINDS, err), done);
    RB_TRY(st, kinds_to_json(side, "heads_by_encoder", plan_encoder_names, counts->encoder, ENCODER_N_KINDS, err),
           done);
    RB_TRY(st, kinds_to_json(side, "heads_by_codebook", codebook_kind_names, counts->codebook, CODEBOOK_N_KINDS, err),
           done);
    RB_TRY(st, kinds_to_json(side, "heads_by_rotation", rotation_kind_names, counts->rotation, ROTATION_N_KINDS, err),
           done);
    RB_TRY(st, rb_json_add_number(side, "heads_centered", counts->centered, err), done);
    RB_TRY(st, rb_json_add_number(side, "heads_scaled", counts->scaled, err), done);
    RB_TRY(st, rb_json_add_number(side, "heads_with_lost_blocks", counts->with_lost_blocks, err), done);
    RB_TRY(st, rb_json_add_item(json, name, &side, err), done);
done:
    cJSON_Delete(side);
    return st;
}

static rb_status change_to_json(cJSON *list, const head_change *change, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_number(json, "layer", change->layer, err), done);
    if (change->kv_head >= 0) RB_TRY(st, rb_json_add_number(json, "kv_head", change->kv_head, err), done);
    RB_TRY(st, rb_json_add_numbers(json, "true_bits", change->true_bits, 2, err), done);
    RB_TRY(st, rb_json_add_number(json, "blocks_changed", change->blocks_changed, err), done);
    RB_TRY(st, rb_json_add_number(json, "width_moved", change->width_moved, err), done);
    RB_TRY(st, rb_json_append(list, &json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

rb_status plan_diff_to_json(cJSON **out, const plan_diff *diff, rb_error *err)
{
    cJSON *json = NULL, *layers = cJSON_CreateArray(), *largest = cJSON_CreateArray();
    int heads[N_LARGEST];
    const int n = plan_diff_largest(heads, N_LARGEST, diff);
    rb_status st = layers && largest ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for a diff");
    *out = NULL;
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-diff-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, plan_side_to_json(json, "a", diff, 0, err), done);
    RB_TRY(st, plan_side_to_json(json, "b", diff, 1, err), done);
    RB_TRY(st, rb_json_add_bool(json, "are_equal", plan_diff_is_none(diff), err), done);
    RB_TRY(st, rb_json_add_number(json, "heads", diff->n_heads, err), done);
    RB_TRY(st, rb_json_add_number(json, "heads_differing", diff->heads_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "families_differing", diff->families_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "maps_differing", diff->maps_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "value_widths_differing", diff->values_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "norms_differing", diff->norms_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "encoders_differing", diff->encoders_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "scales_differing", diff->scales_differing, err), done);
    RB_TRY(st, rb_json_add_number(json, "centers_differing", diff->centers_differing, err), done);
    RB_TRY(st, rb_json_add_string(json, "bits_of", diff->by_block ? "block" : "dim", err), done);
    for (int layer = 0; layer < diff->plans[0]->model.n_layers; layer++) {
        const head_change change = plan_diff_layer(diff, layer);
        RB_TRY(st, change_to_json(layers, &change, err), done);
    }
    for (int i = 0; i < n; i++) RB_TRY(st, change_to_json(largest, &diff->heads[heads[i]], err), done);
    RB_TRY(st, rb_json_add_item(json, "layers", &layers, err), done);
    RB_TRY(st, rb_json_add_item(json, "largest", &largest, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    cJSON_Delete(layers);
    cJSON_Delete(largest);
    return st;
}
