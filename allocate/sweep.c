/* See sweep.h. */
#include "allocate/sweep.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/json.h"

/* A budget that only rounding keeps from the end counts. */
static int count_budgets(const sweep_range *range)
{
    return 1 + (int)floor((range->to - range->from) / range->step + 1e-9);
}

rb_status sweep_range_parse(sweep_range *out, const char *text, rb_error *err)
{
    static const double most = 17.0;
    int end = 0;
    if (sscanf(text, "%lf:%lf:%lf%n", &out->from, &out->to, &out->step, &end) != 3 || text[end])
        return rb_fail(err, RB_EUSAGE, "--sweep is '%s', expected from:to:step in true bits, as 1.5:6:0.25", text);
    if (!(out->from > 0.0 && out->from <= out->to && out->to <= most))
        return rb_fail(err, RB_EUSAGE, "--sweep is from %g to %g, expected 0 < from <= to <= %g", out->from, out->to,
                       most);
    if (!(out->step > 0.0 && (out->to - out->from) / out->step < SWEEP_MAX_BUDGETS))
        return rb_fail(err, RB_EUSAGE, "--sweep has a step of %g, expected one above 0 that makes %d budgets at most",
                       out->step, SWEEP_MAX_BUDGETS);
    return RB_OK;
}

void plan_sweep_free(plan_sweep *sweep)
{
    for (int method = 0; method < METHOD_N; method++) {
        for (int i = 0; i < sweep->n_points[method]; i++) free(sweep->points[method][i].logit_mae_by_layer);
        free(sweep->points[method]);
    }
    *sweep = (plan_sweep){0};
}

/* ---- plans ----------------------------------------------------------------------------------- */

static rb_status add_point(plan_sweep *sweep, double asked_bits, const bit_plan *plan, const plan_request *r,
                           codec_errors *errors, rb_error *err)
{
    sweep_point *point = &sweep->points[r->method][sweep->n_points[r->method]];
    *point = (sweep_point){
        .asked_bits = asked_bits, .true_bits = bit_plan_cost(plan).key_true_bits, .avg_bits = plan->avg_bits};
    rb_status st = rb_alloc(&point->logit_mae_by_layer, (size_t)plan->model.n_layers, sizeof *point->logit_mae_by_layer,
                            "errors by layer", err);
    if (st != RB_OK) return st;
    sweep->n_points[r->method]++; /* counted first: what failed is freed too */
    st = plan_predict(&point->prediction, plan, r->statistics, errors, err);
    if (st == RB_OK) st = plan_predict_layers(point->logit_mae_by_layer, plan, r->statistics, errors, err);
    return st;
}

/* uniform has eight plans: those whose size is in the range. */
static rb_status sweep_uniform(plan_sweep *sweep, const plan_request *r, codec_errors *errors, rb_error *err)
{
    for (int width = ALLOCATE_MIN_BITS; width <= ALLOCATE_MAX_BITS; width++) {
        const plan_budget budget = {BUDGET_AVG_BITS, width};
        bit_plan *plan = NULL;
        rb_status st = allocate_within(&plan, NULL, r, &budget, err);
        const double bits = st == RB_OK ? bit_plan_cost(plan).key_true_bits : 0.0;
        if (st == RB_OK && bits >= sweep->range.from && bits <= sweep->range.to)
            st = add_point(sweep, bits, plan, r, errors, err);
        bit_plan_free(plan);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* What block-gtq stores at its least. */
static rb_status least_gtq_bits(double *out, const plan_request *r, rb_error *err)
{
    const plan_budget least = {BUDGET_AVG_BITS, ALLOCATE_MIN_BITS};
    bit_plan *plan = NULL;
    const rb_status st = allocate_within(&plan, NULL, r, &least, err);
    if (st == RB_OK) *out = bit_plan_cost(plan).key_true_bits;
    bit_plan_free(plan);
    return st;
}

static rb_status sweep_budgets(plan_sweep *sweep, const plan_request *r, double least, codec_errors *errors,
                               rb_error *err)
{
    for (int i = 0; i < count_budgets(&sweep->range); i++) {
        const plan_budget budget = {BUDGET_TRUE_BITS, sweep->range.from + i * sweep->range.step};
        budget_answer answer;
        bit_plan *plan = NULL;
        if (budget.amount < least) continue;
        rb_status st = allocate_within(&plan, &answer, r, &budget, err);
        if (st == RB_OK) st = add_point(sweep, budget.amount, plan, r, errors, err);
        bit_plan_free(plan);
        if (st != RB_OK)
            return rb_fail_in(err, st, "%s at %g true bits", allocation_method_name(r->method), budget.amount);
    }
    return RB_OK;
}

static rb_status sweep_optimal(plan_sweep *sweep, plan_request r, codec_errors *errors, rb_error *err)
{
    optimal_options options = *r.options;
    optimal_curves *curves = NULL;
    options.method = r.method;
    rb_status st = optimal_curves_build(&curves, r.model, r.statistics, &options, err);
    r.curves = curves;
    if (st == RB_OK) st = sweep_budgets(sweep, &r, 0.0, errors, err);
    optimal_curves_free(curves);
    return st;
}

static rb_status sweep_method(plan_sweep *sweep, const plan_request *r, codec_errors *errors, rb_error *err)
{
    const int n_budgets = count_budgets(&sweep->range);
    double least = 0.0;
    rb_status st = rb_alloc(&sweep->points[r->method], n_budgets > ALLOCATE_MAX_BITS ? n_budgets : ALLOCATE_MAX_BITS,
                            sizeof **sweep->points, "points of a sweep", err);
    if (st != RB_OK) return st;
    switch (r->method) {
    case METHOD_UNIFORM: return sweep_uniform(sweep, r, errors, err);
    case METHOD_BLOCK_GTQ:
        st = least_gtq_bits(&least, r, err);
        return st == RB_OK ? sweep_budgets(sweep, r, least, errors, err) : st;
    default: return sweep_optimal(sweep, *r, errors, err);
    }
}

rb_status plan_sweep_compute(plan_sweep *out, const sweep_range *range, const plan_request *request,
                             const plan_request *published, const bool *methods, rb_error *err)
{
    codec_errors errors = {.n_blocks = model_n_blocks(request->model)};
    rb_status st = RB_OK;
    int n_points = 0;
    *out = (plan_sweep){.range = *range};
    for (int method = 0; method < METHOD_N && st == RB_OK; method++) {
        plan_request own = allocation_method_is_published((allocation_method)method) ? *published : *request;
        own.method = (allocation_method)method;
        out->n_sink[method] = own.n_sink;
        if (methods[method]) st = sweep_method(out, &own, &errors, err);
        n_points += out->n_points[method];
    }
    if (st == RB_OK && n_points == 0)
        st = rb_fail(err, RB_EINVAL,
                     "no plan stores %g to %g true bits a dim of the keys, expected a range with one at least",
                     range->from, range->to);
    codec_errors_free(&errors);
    return st;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static rb_status point_to_json(cJSON **out, const sweep_point *point, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "asked_true_bits", point->asked_bits, err), done);
    RB_TRY(st, rb_json_add_number(*out, "key_true_bits", point->true_bits, err), done);
    RB_TRY(st, rb_json_add_number(*out, "avg_bits", point->avg_bits, err), done);
    RB_TRY(st, rb_json_add_number(*out, "logit_mae", point->prediction.logit_mae, err), done);
    RB_TRY(st, rb_json_add_number(*out, "bits_above_bound", point->prediction.bits_above_bound, err), done);
    RB_TRY(st, rb_json_add_number(*out, "bound_logit_mae", point->prediction.bound_logit_mae, err), done);
done:
    return st;
}

static rb_status curve_to_json(cJSON *curves, const plan_sweep *sweep, allocation_method method, rb_error *err)
{
    cJSON *curve = NULL, *points = cJSON_CreateArray(), *point = NULL;
    rb_status st = points ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for points of a sweep");
    if (st != RB_OK) return st;
    RB_TRY(st, rb_json_new_object(&curve, err), done);
    RB_TRY(st, rb_json_add_string(curve, "method", allocation_method_name(method), err), done);
    RB_TRY(st, rb_json_add_number(curve, "sink", (double)sweep->n_sink[method], err), done);
    for (int i = 0; i < sweep->n_points[method]; i++) {
        RB_TRY(st, point_to_json(&point, &sweep->points[method][i], err), done);
        RB_TRY(st, rb_json_append(points, &point, err), done);
    }
    RB_TRY(st, rb_json_add_item(curve, "points", &points, err), done);
    RB_TRY(st, rb_json_append(curves, &curve, err), done);
done:
    cJSON_Delete(curve);
    cJSON_Delete(points);
    cJSON_Delete(point);
    return st;
}

rb_status plan_sweep_to_json(cJSON **out, const plan_sweep *sweep, const measured_points *measured,
                             const plan_request *request, rb_error *err)
{
    const double range[] = {sweep->range.from, sweep->range.to, sweep->range.step};
    cJSON *json = NULL, *points = NULL, *curves = cJSON_CreateArray();
    rb_status st = curves ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for curves of a sweep");
    *out = NULL;
    if (st != RB_OK) return st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", SWEEP_SCHEMA, err), done);
    RB_TRY(st, rb_json_add_number(json, "version", SWEEP_VERSION, err), done);
    RB_TRY(st, rb_json_add_string(json, "config_sha256", request->model->config_sha256, err), done);
    RB_TRY(st, rb_json_add_string(json, "calibration_tokens_sha256", request->calibration->tokens_sha256, err), done);
    RB_TRY(st, rb_json_add_numbers(json, "true_bits_from_to_step", range, 3, err), done);
    for (int method = 0; method < METHOD_N; method++)
        if (sweep->n_points[method] > 0) RB_TRY(st, curve_to_json(curves, sweep, (allocation_method)method, err), done);
    RB_TRY(st, rb_json_add_item(json, "curves", &curves, err), done);
    if (measured->n > 0) {
        RB_TRY(st, measured_points_to_json(&points, measured, err), done);
        RB_TRY(st, rb_json_add_item(json, "measured", &points, err), done);
    }
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    cJSON_Delete(points);
    cJSON_Delete(curves);
    return st;
}
