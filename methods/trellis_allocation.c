/* See trellis_allocation.h. */
#include "methods/trellis_allocation.h"

#include <math.h>
#include <stdlib.h>

#include "core/threads.h"

enum { N_KINDS = 2 }; /* keys, values */

struct trellis_curves {
    const model_facts *model;
    const head_statistics *statistics;
    trellis_part parts;
    int n_heads;         /* of a kind */
    trellis_head *heads; /* [n_layers][N_KINDS][n_kv_heads]; zeroes of a kind that is not wanted */
};

static trellis_head *head_of(const trellis_curves *c, int layer, int kind, int kv_head)
{
    return &c->heads[((int64_t)layer * N_KINDS + kind) * c->model->n_kv_heads + kv_head];
}

static bool is_wanted(trellis_part parts, int kind) { return (parts >> kind & 1) != 0; }

/* ---- curves ---------------------------------------------------------------------------------- */

/* Values: half of what all tokens say and half of what tokens say by the attention they get. Few tokens get most of it,
 * so their moment by itself is a guess. */
static void value_moment(float *out, const head_statistics *known, int64_t first, int size)
{
    for (int i = 0; i < size; i++)
        out[i] = 0.5f * (known->value_moment[first + i] + known->value_moment_weighted[first + i]);
}

static rb_status create_key_head(trellis_head *out, const trellis_curves *c, int64_t h, rb_error *err)
{
    const int n = c->model->head_dim;
    return trellis_head_create(out, c->statistics->key_metric + h * n * n, c->statistics->key_covariance + h * n * n, n,
                               TRELLIS_KEY_GAIN_BITS, TRELLIS_KEY_GAIN_ZERO, err);
}

static rb_status create_value_head(trellis_head *out, const trellis_curves *c, int64_t h, rb_error *err)
{
    const int n = c->model->value_dim;
    float *moment = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&moment, (size_t)n, (size_t)n * sizeof *moment, "moments", err), done);
    value_moment(moment, c->statistics, h * n * n, n * n);
    RB_TRY(st,
           trellis_head_create(out, c->statistics->value_metric + h * n * n, moment, n, TRELLIS_VALUE_GAIN_BITS,
                               TRELLIS_VALUE_GAIN_ZERO, err),
           done);
done:
    free(moment);
    return st;
}

static rb_status create_head(const trellis_curves *c, int i, rb_error *err)
{
    const int kv_head = i % c->model->n_kv_heads, kind = i / c->model->n_kv_heads % N_KINDS,
              layer = i / c->model->n_kv_heads / N_KINDS;
    const int64_t h = (int64_t)layer * c->model->n_kv_heads + kv_head;
    if (!is_wanted(c->parts, kind)) return RB_OK;
    const rb_status st =
        kind == 0 ? create_key_head(&c->heads[i], c, h, err) : create_value_head(&c->heads[i], c, h, err);
    return st == RB_OK ? RB_OK
                       : rb_fail_in(err, st, "layer %d kv_head %d, %s", layer, kv_head, kind == 0 ? "keys" : "values");
}

rb_status trellis_curves_build(trellis_curves **out, trellis_part parts, const model_facts *model,
                               const head_statistics *statistics, rb_error *err)
{
    const int n = model->n_layers * N_KINDS * model->n_kv_heads;
    trellis_curves *c = NULL;
    rb_first_failure failure = {0};
    rb_status st;
    *out = NULL;
    if (!statistics->key_metric)
        return rb_fail(err, RB_EINVAL,
                       "method trellis needs the sensitivity of the outputs, which the profile has not: it is measured "
                       "from a capture with values (calibrate --values)");
    RB_TRY(st, rb_alloc(&c, 1, sizeof *c, "curves", err), done);
    *c = (trellis_curves){
        .model = model, .statistics = statistics, .parts = parts, .n_heads = model->n_layers * model->n_kv_heads};
    RB_TRY(st, rb_alloc(&c->heads, (size_t)n, sizeof *c->heads, "curves", err), done);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n; i++) {
        rb_error mine = {0};
        rb_note_failure(&failure, i, create_head(c, i, &mine), &mine);
    }
    RB_TRY(st, rb_tell_failure(&failure, err), done);
    *out = c;
    c = NULL;
done:
    trellis_curves_free(c);
    return st;
}

void trellis_curves_free(trellis_curves *c)
{
    if (!c) return;
    for (int i = 0; c->heads && i < N_KINDS * c->n_heads; i++) trellis_head_free(&c->heads[i]);
    free(c->heads);
    free(c);
}

const trellis_head *trellis_curves_key_head(const trellis_curves *c, int h)
{
    return head_of(c, h / c->model->n_kv_heads, 0, h % c->model->n_kv_heads);
}

double trellis_layer_weight(const head_statistics *statistics, int layer)
{
    return statistics->residual_energy ? 1.0 / statistics->residual_energy[layer] : 1.0;
}

/* ---- a budget -------------------------------------------------------------------------------- */

/* The request's shape: of every layer the wanted kinds, and of a kind all heads, or one that stands for them. */
typedef struct shape {
    int kinds[N_KINDS], n_kinds;
    int per_kind; /* curves of a kind */
    int stands_for;
} shape;

static shape shape_of(const trellis_curves *c, const trellis_budget *budget)
{
    shape s = {.per_kind = budget->equal_heads ? 1 : c->model->n_kv_heads,
               .stands_for = budget->equal_heads ? c->model->n_kv_heads : 1};
    for (int kind = 0; kind < N_KINDS; kind++)
        if (is_wanted(budget->parts, kind)) s.kinds[s.n_kinds++] = kind;
    return s;
}

/* The harm that the heads for which curve i stands are left with, by the bytes of one of them; error [n_points]. */
static void sum_errors(double *error, int n_points, const trellis_curves *c, const shape *s, int layer, int i)
{
    const int kind = s->kinds[i / s->per_kind], first = i % s->per_kind * s->stands_for;
    for (int p = 0; p < n_points; p++) error[p] = 0.0;
    for (int h = first; h < first + s->stands_for; h++)
        for (int p = 0; p < n_points; p++) error[p] += head_of(c, layer, kind, h)->error[p];
}

static rb_status make_heads(bit_plan *plan, const trellis_curves *c, const shape *s, const int32_t *points,
                            rb_error *err)
{
    const int per_layer = s->n_kinds * s->per_kind;
    rb_status st = RB_OK;
    for (int at = 0; at < c->model->n_layers * per_layer && st == RB_OK; at++) {
        const int layer = at / per_layer, i = at % per_layer, kind = s->kinds[i / s->per_kind],
                  first = i % s->per_kind * s->stands_for;
        for (int h = first; h < first + s->stands_for && st == RB_OK; h++) {
            plan_head *heads = kind == 0 ? plan->heads : plan->value_heads;
            st = trellis_head_make(&heads[layer * c->model->n_kv_heads + h], head_of(c, layer, kind, h), points[at],
                                   err);
        }
    }
    return st;
}

/* Keys are coded less their mean. */
static rb_status set_centers(bit_plan *plan, const trellis_curves *c, rb_error *err)
{
    const int n = c->model->head_dim;
    rb_status st = RB_OK;
    for (int h = 0; h < c->n_heads && st == RB_OK; h++)
        st = plan_head_set_center(&plan->heads[h], c->statistics->k_mean + (int64_t)h * n, n, err);
    return st;
}

/* Whole bytes that every curve gets. */
static int64_t min_head_bits(const trellis_curves *c, const trellis_budget *budget, const shape *s)
{
    const double share = budget->least_share * (double)budget->total_bits / (s->n_kinds * c->n_heads),
                 least = 8.0 * trellis_least_bytes(TRELLIS_VALUE_GAIN_BITS);
    return (int64_t)(fmax(share, least) / 8.0) * 8;
}

static rb_status check_budget(const trellis_curves *c, const trellis_budget *budget, rb_error *err)
{
    int64_t least = 0;
    if (is_wanted(budget->parts, 0)) least += trellis_least_bytes(TRELLIS_KEY_GAIN_BITS);
    if (is_wanted(budget->parts, 1)) least += trellis_least_bytes(TRELLIS_VALUE_GAIN_BITS);
    least *= c->n_heads;
    if (budget->total_bits / 8 >= least) return RB_OK;
    return rb_fail(err, RB_EINVAL,
                   "budget is %lld bytes a token, expected at least the %lld that method trellis stores",
                   (long long)(budget->total_bits / 8), (long long)least);
}

rb_status trellis_plan(bit_plan *plan, budget_answer *answer, const trellis_curves *c, const trellis_budget *budget,
                       rb_error *err)
{
    const shape s = shape_of(c, budget);
    const int per_layer = s.n_kinds * s.per_kind, n = c->model->n_layers * per_layer;
    budget_curve *curves = NULL;
    double *weights = NULL, *errors = NULL;
    int32_t *points = NULL;
    size_t at = 0;
    rb_status st;
    RB_TRY(st, check_budget(c, budget, err), done);
    RB_TRY(st, rb_alloc(&curves, (size_t)n, sizeof *curves, "curves", err), done);
    RB_TRY(st, rb_alloc(&weights, (size_t)n, sizeof *weights, "curves", err), done);
    RB_TRY(st, rb_alloc(&points, (size_t)n, sizeof *points, "curves", err), done);
    for (int i = 0; i < n; i++) {
        const int layer = i / per_layer, kind = s.kinds[i % per_layer / s.per_kind];
        curves[i].n_points = head_of(c, layer, kind, 0)->n_points;
        weights[i] = trellis_layer_weight(c->statistics, layer) * (kind == 0 ? TRELLIS_KEY_HARM : 1.0);
        at += (size_t)curves[i].n_points;
    }
    RB_TRY(st, rb_alloc(&errors, at, sizeof *errors, "curves", err), done);
    at = 0;
    for (int i = 0; i < n; i++) {
        curves[i].error = errors + at;
        sum_errors(errors + at, curves[i].n_points, c, &s, i / per_layer, i % per_layer);
        at += (size_t)curves[i].n_points;
    }
    const budget_request request = {.n_layers = c->model->n_layers,
                                    .heads_per_layer = per_layer,
                                    .curves = curves,
                                    .weights = weights,
                                    .objective = OBJECTIVE_VARIANCE,
                                    .scope = SCOPE_MODEL,
                                    .total_bits = budget->total_bits / s.stands_for,
                                    .min_head_bits = min_head_bits(c, budget, &s)};
    RB_TRY(st, budget_solve(points, answer, &request, err), done);
    answer->stored_bits *= s.stands_for;
    if (is_wanted(budget->parts, 1)) RB_TRY(st, bit_plan_create_value_heads(plan, err), done);
    RB_TRY(st, make_heads(plan, c, &s, points, err), done);
    if (is_wanted(budget->parts, 0)) RB_TRY(st, set_centers(plan, c, err), done);
done:
    free(curves);
    free(weights);
    free(points);
    free(errors);
    return st;
}
