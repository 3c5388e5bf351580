/* What a report is made of, computed: report.h. */
#include "export/report/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "methods/optimal.h"
#include "methods/trellis_allocation.h"
#include "profile/profile_statistics.h"

/* ---- the run of the evaluation --------------------------------------------------------------- */

static bool is_file_of(const char *file, const char *stem)
{
    const size_t length = strlen(stem);
    return strncmp(file, stem, length) == 0
           && (strcmp(file + length, ".json") == 0 || strcmp(file + length, ".rbp") == 0);
}

static bool is_same(double a, double b) { return fabs(a - b) < 1e-6; }

/* `run` names its plans otherwise: there, one of the same method and size is the plan. */
static bool is_like(const evaluation_run *run, const report *r)
{
    return strcmp(run->method, r->plan->method) == 0 && is_same(run->key_true_bits, r->cost.key_true_bits)
           && is_same(run->value_true_bits, r->cost.value_true_bits);
}

static void find_runs(report *r)
{
    for (int i = 0; r->evaluation && i < r->evaluation->n_runs; i++) {
        const evaluation_run *run = &r->evaluation->runs[i];
        if (isnan(run->avg_bits)) r->unquantized = run;
        else if (is_like(run, r) && (!r->run || is_file_of(run->name, r->stem))) r->run = run;
    }
}

/* ---- the sweep ------------------------------------------------------------------------------- */

/* Two bits to either side of the plan, where there is something. */
static sweep_range range_of(double true_bits)
{
    static const double step = 0.5, around = 2.0, least = 0.5, most = 17.0;
    return (sweep_range){fmax(least, floor((true_bits - around) / step) * step),
                         fmin(most, ceil((true_bits + around) / step) * step), step};
}

/* The plan's own method, where it is none of the published ones. */
static bool own_method(allocation_method *out, report *r)
{
    if (!allocation_method_from_name(r->plan->method, out)) {
        snprintf(r->sweep_trouble, sizeof r->sweep_trouble, "%s is no method of allocate", r->plan->method);
        return false;
    }
    if (*out == METHOD_TRELLIS && !r->profile->sensitivity.key_metric) {
        snprintf(r->sweep_trouble, sizeof r->sweep_trouble,
                 "the profile has no sensitivity of the outputs (calibrate --values)");
        return false;
    }
    return !allocation_method_is_published(*out);
}

/* Moves the points of one method. */
static void take_points(plan_sweep *to, plan_sweep *from, allocation_method method)
{
    to->points[method] = from->points[method];
    to->n_points[method] = from->n_points[method];
    from->points[method] = NULL;
    from->n_points[method] = 0;
}

/* All methods keep the plan's first tokens exact, and are judged on the others. What keeps the plan's own method from a
 * curve is told on the page. */
static rb_status compute_sweep(report *r, rb_error *err)
{
    const head_statistics statistics = profile_statistics(r->profile, r->plan->n_sink);
    const optimal_options options = optimal_options_default();
    const sweep_range range = range_of(r->cost.key_true_bits);
    const plan_request request = {.model = &r->profile->model,
                                  .calibration = &r->profile->calibration,
                                  .statistics = &statistics,
                                  .options = &options,
                                  .value_width = PLAN_FP16_WIDTH,
                                  .trellis_least_share = TRELLIS_LEAST_SHARE,
                                  .n_sink = r->plan->n_sink};
    bool methods[METHOD_N] = {[METHOD_UNIFORM] = true, [METHOD_BLOCK_GTQ] = true};
    allocation_method own;
    plan_sweep of_own = {0};
    rb_error trouble = {0};
    const rb_status st = plan_sweep_compute(&r->sweep, &range, &request, &request, methods, err);
    if (st != RB_OK || !own_method(&own, r)) return st;
    bool only_own[METHOD_N] = {false};
    only_own[own] = true;
    if (plan_sweep_compute(&of_own, &range, &request, &request, only_own, &trouble) == RB_OK)
        take_points(&r->sweep, &of_own, own);
    else snprintf(r->sweep_trouble, sizeof r->sweep_trouble, "%.255s", trouble.msg);
    plan_sweep_free(&of_own);
    return RB_OK;
}

static rb_status expect_plan(report *r, rb_error *err)
{
    const head_statistics statistics = profile_statistics(r->profile, r->plan->n_sink);
    codec_errors errors = {.n_blocks = model_n_blocks(&r->plan->model)};
    plan_prediction prediction = {.logit_mae = NAN};
    const rb_status st = plan_predict(&prediction, r->plan, &statistics, &errors, err);
    r->plan_expected = prediction.logit_mae;
    codec_errors_free(&errors);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

rb_status report_prepare(report *r, rb_error *err)
{
    rb_status st = RB_OK;
    r->cost = bit_plan_cost(r->plan);
    find_runs(r);
    r->plan_expected = NAN;
    if (r->profile) {
        RB_TRY(st, expect_plan(r, err), done);
        RB_TRY(st, compute_sweep(r, err), done);
    }
    RB_TRY(st, plan_errors_compute(&r->errors, r, err), done);
    RB_TRY(st,
           rb_alloc(&r->cells, (size_t)r->plan->model.n_layers * RB_MAX_HEAD_DIM, sizeof *r->cells, "heat maps", err),
           done);
    report_warn(r);
done:
    return st;
}

void report_clear(report *r)
{
    free(r->cells);
    plan_errors_clear(&r->errors);
    plan_sweep_free(&r->sweep);
}
