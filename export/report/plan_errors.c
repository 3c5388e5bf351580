/* The plan's logit error against the published methods at the same stored bits: report.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "export/report/report.h"
#include "profile/profile_statistics.h"

/* Stored bits of a plan are counted, not measured: more apart than this are others. */
static const double SAME_BITS = 5e-4;

static const allocation_method rival_methods[N_RIVALS] = {
    [RIVAL_UNIFORM] = METHOD_UNIFORM, [RIVAL_BLOCK_GTQ] = METHOD_BLOCK_GTQ};

/* A plan of a rival, wherever it comes from. by_layer is borrowed. */
typedef struct error_point {
    double true_bits, logit_mae;
    const double *by_layer;
} error_point;

/* ---- a rival between two of its plans -------------------------------------------------------- */

/* Its best plan at these bits or fewer, and its cheapest at these bits or more; NULL where there is none. */
static void neighbours(const error_point **below, const error_point **above, const error_point *points, int n,
                       double true_bits)
{
    *below = *above = NULL;
    for (int i = 0; i < n; i++) {
        const error_point *at = &points[i];
        if (at->true_bits <= true_bits + SAME_BITS && (!*below || at->logit_mae < (*below)->logit_mae)) *below = at;
        if (at->true_bits >= true_bits - SAME_BITS && (!*above || at->true_bits < (*above)->true_bits)) *above = at;
    }
}

/* On a straight line of logarithms; of plain errors where one is zero. */
static double between(double below, double above, double part)
{
    if (below <= 0.0 || above <= 0.0) return below + part * (above - below);
    return exp(log(below) + part * (log(above) - log(below)));
}

static rb_status rival_set(rival_method *out, const error_point *points, int n, double true_bits, int n_layers,
                           rb_error *err)
{
    const error_point *below, *above;
    rb_status st;
    neighbours(&below, &above, points, n, true_bits);
    if (!below || !above) return RB_OK;
    const double apart = above->true_bits - below->true_bits;
    const double part = apart > SAME_BITS ? fmin(fmax((true_bits - below->true_bits) / apart, 0.0), 1.0) : 0.0;
    RB_TRY(
        st,
        rb_alloc(&out->logit_mae_by_layer, (size_t)n_layers, sizeof *out->logit_mae_by_layer, "errors by layer", err),
        done);
    out->is_known = true;
    out->below_bits = below->true_bits;
    out->above_bits = above->true_bits;
    for (int layer = 0; layer < n_layers; layer++) {
        out->logit_mae_by_layer[layer] = between(below->by_layer[layer], above->by_layer[layer], part);
        out->logit_mae += out->logit_mae_by_layer[layer] / n_layers;
    }
done:
    return st;
}

/* ---- measured -------------------------------------------------------------------------------- */

static const summary_method *measured_plan(const report *r)
{
    for (int m = 0; r->summary && m < r->summary->n_methods; m++) {
        const summary_method *method = &r->summary->methods[m];
        if (strcmp(method->method, r->plan->method) == 0 && fabs(method->true_bits - r->cost.key_true_bits) < SAME_BITS)
            return method;
    }
    return NULL;
}

static rb_status set_measured(plan_errors *out, const report *r, const summary_method *plan, rb_error *err)
{
    const int n_layers = r->plan->model.n_layers;
    error_point points[PROFILE_MAX_METHODS];
    out->source = ERRORS_MEASURED;
    out->logit_mae = plan->logit_mae;
    memcpy(out->logit_mae_by_layer, plan->logit_mae_by_layer, (size_t)n_layers * sizeof(double));
    for (int i = 0; i < N_RIVALS; i++) {
        int n = 0;
        for (int m = 0; m < r->summary->n_methods; m++) {
            const summary_method *method = &r->summary->methods[m];
            if (strcmp(method->method, allocation_method_name(rival_methods[i])) == 0)
                points[n++] = (error_point){method->true_bits, method->logit_mae, method->logit_mae_by_layer};
        }
        const rb_status st = rival_set(&out->rivals[i], points, n, r->cost.key_true_bits, n_layers, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* ---- expected -------------------------------------------------------------------------------- */

static rb_status set_expected(plan_errors *out, const report *r, rb_error *err)
{
    const int n_layers = r->plan->model.n_layers;
    const head_statistics statistics = profile_statistics(r->profile, r->plan->n_sink);
    codec_errors errors = {.n_blocks = model_n_blocks(&r->plan->model)};
    error_point *points = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&points, SWEEP_MAX_BUDGETS, sizeof *points, "points of a sweep", err), done);
    RB_TRY(st, plan_predict_layers(out->logit_mae_by_layer, r->plan, &statistics, &errors, err), done);
    out->source = ERRORS_EXPECTED;
    for (int layer = 0; layer < n_layers; layer++) out->logit_mae += out->logit_mae_by_layer[layer] / n_layers;
    for (int i = 0; i < N_RIVALS; i++) {
        const int n = r->sweep.n_points[rival_methods[i]];
        for (int at = 0; at < n; at++) {
            const sweep_point *point = &r->sweep.points[rival_methods[i]][at];
            points[at] = (error_point){point->true_bits, point->prediction.logit_mae, point->logit_mae_by_layer};
        }
        RB_TRY(st, rival_set(&out->rivals[i], points, n, r->cost.key_true_bits, n_layers, err), done);
    }
done:
    codec_errors_free(&errors);
    free(points);
    return st;
}

/* ---- both ------------------------------------------------------------------------------------ */

/* Nothing is known yet. */
static rb_status begin(plan_errors *out, const report *r, rb_error *err)
{
    plan_errors_clear(out);
    for (int i = 0; i < N_RIVALS; i++) out->rivals[i].method = rival_methods[i];
    return rb_alloc(&out->logit_mae_by_layer, (size_t)r->plan->model.n_layers, sizeof *out->logit_mae_by_layer,
                    "errors by layer", err);
}

/* What was measured comes first, unless only expected errors have a rival to be held to. */
rb_status plan_errors_compute(plan_errors *out, const report *r, rb_error *err)
{
    const summary_method *measured = measured_plan(r);
    rb_status st;
    *out = (plan_errors){0};
    RB_TRY(st, begin(out, r, err), done);
    if (measured) RB_TRY(st, set_measured(out, r, measured, err), done);
    if (!r->profile || out->rivals[RIVAL_UNIFORM].is_known) goto done;
    RB_TRY(st, begin(out, r, err), done);
    st = set_expected(out, r, err);
done:
    return st;
}

void plan_errors_clear(plan_errors *errors)
{
    for (int i = 0; i < N_RIVALS; i++) free(errors->rivals[i].logit_mae_by_layer);
    free(errors->logit_mae_by_layer);
    *errors = (plan_errors){0};
}

const rival_method *report_rival(const report *r, int which)
{
    const rival_method *rival = &r->errors.rivals[which];
    const bool is_itself = strcmp(r->plan->method, allocation_method_name(rival->method)) == 0;
    return rival->is_known && !is_itself ? rival : NULL;
}
