/* See allocate_report.h. */
#include "allocate/allocate_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/message.h"
#include "plan/plan_json.h"

/* ---- predicting ------------------------------------------------------------------------------ */

static rb_status predict_values(value_prediction *out, const bit_plan *plan, const profile_table *profile,
                                rb_error *err)
{
    const token_statistics *known = profile_table_statistics(profile, plan->n_sink);
    const value_statistics statistics = {known->value_error, known->value_energy};
    const double dims = plan->model.value_dim, true_bits = bit_plan_cost(plan).value_true_bits;
    const size_t n_heads = (size_t)plan->model.n_layers * (size_t)plan->model.n_kv_heads;
    uint8_t *widths = NULL;
    if (!known->value_error || !bit_plan_quantizes_values(plan) || plan->value_heads) return RB_OK; /* by widths */
    const rb_status st = rb_alloc(&widths, n_heads, sizeof *widths, "widths of values", err);
    if (st != RB_OK) return st;
    out->is_known = true;
    out->output_error = value_output_error(plan->value_widths, &plan->model, &statistics);
    out->one_width = PLAN_MAX_WIDTH;
    while (out->one_width > PLAN_MIN_WIDTH
           && plan_value_bits(out->one_width, plan->model.value_dim) > true_bits * dims * (1.0 + 1e-12))
        out->one_width--;
    memset(widths, out->one_width, n_heads);
    out->one_width_bits = plan_value_bits(out->one_width, plan->model.value_dim) / dims;
    out->one_width_error = value_output_error(widths, &plan->model, &statistics);
    memset(widths, 2, n_heads);
    out->two_bit_error = value_output_error(widths, &plan->model, &statistics);
    free(widths);
    return RB_OK;
}

static budget_rest rest_of(const plan_budget *budget, const bit_plan *plan)
{
    const model_facts *model = &plan->model;
    const double n_heads = bit_plan_n_heads(plan), key_dims = n_heads * model->head_dim,
                 bytes = bit_plan_cost(plan).bytes_per_token;
    double asked;
    budget_rest rest = {0};
    switch (budget->kind) {
    case BUDGET_AVG_BITS: return rest;
    case BUDGET_TRUE_BITS:
        asked = budget->amount * key_dims / 8.0;
        rest.bytes = asked - (double)allocate_key_bits(plan) / 8.0;
        break;
    case BUDGET_TOTAL_BITS:
        asked = budget->amount * n_heads * 0.5 * (model->head_dim + model->value_dim) / 8.0;
        rest.bytes = asked - bytes;
        break;
    default: asked = budget->amount; rest.bytes = asked - bytes;
    }
    if (rest.bytes < 1e-6) rest.bytes = 0.0; /* rounding of the budget */
    rest.bits = 8.0 * rest.bytes / key_dims;
    rest.share = rest.bytes / asked;
    return rest;
}

rb_status allocate_report_predict(allocate_report *r, const bit_plan *plan, const profile_table *profile, rb_error *err)
{
    const head_statistics statistics = profile_statistics(profile, plan->n_sink);
    codec_errors errors = {.n_blocks = model_n_blocks(&plan->model)};
    rb_status st;
    r->plan = plan;
    r->rest = rest_of(&r->budget, plan);
    if (r->context == 0) r->context = plan->calibration.context;
    RB_TRY(st, plan_predict(&r->prediction, plan, &statistics, &errors, err), done);
    RB_TRY(st, predict_values(&r->values, plan, profile, err), done);
done:
    codec_errors_free(&errors);
    return st;
}

/* ---- warnings -------------------------------------------------------------------------------- */

static void warn_of_rest(const allocate_report *r)
{
    const double worth_a_word = 0.02; /* whole bytes a head and whole steps of block-gtq leave less */
    const bool is_uniform = strcmp(r->plan->method, allocation_method_name(METHOD_UNIFORM)) == 0;
    if (r->rest.share <= worth_a_word) return;
    rb_message_warn(
        "%.1f %% of the budget is left over, %.3f bits a dim of the keys: %s", 100.0 * r->rest.share, r->rest.bits,
        is_uniform ? "uniform has whole widths only" : "no plan of the method with these options comes nearer");
}

/* A code of 1 bit leaves 36 % of a normal number's variance, one of 2 bits 12 % (1 - 2/pi; Max 1960), whatever the
 * model. */
static void warn_of_values(const allocate_report *r)
{
    const bit_plan *plan = r->plan;
    const bool is_one = bit_plan_value_range(plan).least <= 1.0;
    if (!is_one || !bit_plan_quantizes_values(plan) || plan->value_heads) return;
    if (r->values.is_known)
        rb_message_warn("values have 1 bit: the outputs of attention are expected to be off by %.0f %%, and by %.0f %% "
                        "with 2 bits for all; retrieval suffers first (docs/allocate.md, Values)",
                        100.0 * r->values.output_error, 100.0 * r->values.two_bit_error);
    else
        rb_message_warn("values have 1 bit: each is expected to be off by 60 %% of its size, and by 34 %% with 2 bits; "
                        "retrieval suffers first (docs/allocate.md, Values)");
}

void allocate_report_warn(const allocate_report *r)
{
    warn_of_rest(r);
    warn_of_values(r);
}

/* ---- as text --------------------------------------------------------------------------------- */

/* How far above the optimum the sum over heads can be, as a share of it. */
static double gap_of(const budget_answer *answer)
{
    return answer->bound > 0.0 ? (answer->objective - answer->bound) / answer->bound : 0.0;
}

/* Least and most bits of a block in the plan. */
static void find_bits(int *least, int *most, const bit_plan *plan)
{
    const int n_blocks = model_n_blocks(&plan->model);
    uint8_t bits[RB_MAX_BLOCKS];
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        plan_head_bits(&plan->heads[h], bits, n_blocks);
        for (int i = 0; i < n_blocks; i++) {
            if (bits[i] < *least) *least = bits[i];
            if (bits[i] > *most) *most = bits[i];
        }
    }
}

/* How many blocks of a layer have each number of bits, over its KV heads, and the layer's true bits. The heads are of
 * one family: that of the method. */
static void print_histogram(const bit_plan *plan)
{
    const int n_blocks = model_n_blocks(&plan->model), n_kv_heads = plan->model.n_kv_heads;
    const bool is_of_block = plan_head_bits_are_of_block(plan->heads);
    int least = 1, most = is_of_block ? BLOCK_CODEBOOK_MAX_POINT_BITS : PLAN_MAX_WIDTH;
    uint8_t bits[RB_MAX_BLOCKS];
    find_bits(&least, &most, plan);
    if (is_of_block)
        printf("\nblocks of %s by their bits, both dims together\n", codec_family_names[plan->heads->family]);
    else printf("\nblocks of each width\n");
    printf("%-8s", "layer");
    for (int width = least; width <= most; width++) printf("%5d", width);
    printf("   true bits\n");
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        int count[UINT8_MAX + 1] = {0};
        double true_bits = 0.0;
        for (int kv_head = 0; kv_head < n_kv_heads; kv_head++) {
            const plan_head *head = bit_plan_head(plan, layer, kv_head);
            plan_head_bits(head, bits, n_blocks);
            for (int i = 0; i < n_blocks; i++) count[bits[i]]++;
            true_bits += plan_head_true_bits(head, plan->model.head_dim);
        }
        printf("%-8d", layer);
        for (int width = least; width <= most; width++) printf("%5d", count[width]);
        printf("%12.3f\n", true_bits / n_kv_heads);
    }
}

static void print_values(const allocate_report *r)
{
    const bit_plan *plan = r->plan;
    const value_prediction *values = &r->values;
    const value_range range = bit_plan_value_range(plan);
    char text[80];
    bit_plan_describe_values(text, sizeof text, plan);
    printf("values   %s\n", text);
    if (!values->is_known) return;
    printf("output   relative error of %.4g expected from the values", values->output_error);
    if (r->has_value_answer) printf(", within %.2g %% of the least", 100.0 * gap_of(&r->value_answer));
    if (range.least != range.most)
        printf("; %.4g with %d bits for all (%.3f true)", values->one_width_error, values->one_width,
               values->one_width_bits);
    printf("\n");
}

void allocate_report_print(const allocate_report *r)
{
    const bit_plan *plan = r->plan;
    const plan_cost cost = bit_plan_cost(plan);
    char cache[300];
    printf("method   %s at %g bits\n", plan->method, plan->avg_bits);
    printf("keys     %.3f true bits a dim (%.3f nominal)\n", cost.key_true_bits, cost.key_nominal_bits);
    print_values(r);
    bit_plan_describe_cache(cache, sizeof cache, plan, r->context);
    printf("cache    %s\n", cache);
    if (r->rest.bytes > 0.0)
        printf("unused   %.4g bytes a token of the budget, %.3f bits a dim of the keys (%.2f %%)\n", r->rest.bytes,
               r->rest.bits, 100.0 * r->rest.share);
    printf("error    logit MAE of %.4g expected, %.3f bits a dim above the rate-distortion bound, whose own is %.4g\n",
           r->prediction.logit_mae, r->prediction.bits_above_bound, r->prediction.bound_logit_mae);
    if (r->has_answer) printf("optimum  within %.2g %% of the group model's\n", 100.0 * gap_of(&r->answer));
    printf("plan     %s\n", rb_shown(r->path).text);
    print_histogram(plan);
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status add_value_prediction(cJSON *json, const allocate_report *r, rb_error *err)
{
    const value_prediction *values = &r->values;
    rb_status st = RB_OK;
    if (!values->is_known) return RB_OK;
    RB_TRY(st, rb_json_add_number(json, "value_output_error", values->output_error, err), done);
    if (r->has_value_answer)
        RB_TRY(st, rb_json_add_number(json, "value_optimality_gap", gap_of(&r->value_answer), err), done);
    RB_TRY(st, rb_json_add_number(json, "one_value_width", values->one_width, err), done);
    RB_TRY(st, rb_json_add_number(json, "one_value_width_true_bits", values->one_width_bits, err), done);
    RB_TRY(st, rb_json_add_number(json, "one_value_width_output_error", values->one_width_error, err), done);
done:
    return st;
}

rb_status allocate_report_put_json(const allocate_report *r, rb_error *err)
{
    const bit_plan *plan = r->plan;
    const plan_cost cost = bit_plan_cost(plan);
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-allocate-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "method", plan->method, err), done);
    RB_TRY(st, rb_json_add_number(json, "avg_bits", plan->avg_bits, err), done);
    RB_TRY(st, plan_value_width_to_json(json, plan, err), done);
    RB_TRY(st, rb_json_add_string(json, "rotation", rotation_kind_name(r->rotation), err), done);
    RB_TRY(st, plan_cost_to_json(json, &cost, err), done);
    RB_TRY(st, rb_json_add_number(json, "sink", (double)plan->n_sink, err), done);
    RB_TRY(st, rb_json_add_number(json, "recent", (double)plan->n_recent, err), done);
    RB_TRY(st, rb_json_add_number(json, "context", (double)r->context, err), done);
    RB_TRY(st, rb_json_add_number(json, "bytes_at_context", plan_cost_bytes(&cost, r->context), err), done);
    RB_TRY(st, rb_json_add_number(json, "unused_bytes_per_token", r->rest.bytes, err), done);
    RB_TRY(st, rb_json_add_number(json, "unused_share", r->rest.share, err), done);
    RB_TRY(st, rb_json_add_number(json, "logit_mae", r->prediction.logit_mae, err), done);
    RB_TRY(st, rb_json_add_number(json, "bound_logit_mae", r->prediction.bound_logit_mae, err), done);
    RB_TRY(st, rb_json_add_number(json, "bits_above_bound", r->prediction.bits_above_bound, err), done);
    if (r->has_answer) RB_TRY(st, rb_json_add_number(json, "optimality_gap", gap_of(&r->answer), err), done);
    RB_TRY(st, add_value_prediction(json, r, err), done);
    RB_TRY(st, rb_json_add_string(json, "plan", r->path, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(json);
    return st;
}
