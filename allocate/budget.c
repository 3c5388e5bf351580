/* See budget.h. */
#include "allocate/budget.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "methods/trellis_allocation.h"

static double n_heads(const model_facts *model) { return (double)model->n_layers * model->n_kv_heads; }

static double value_bits_per_token(const model_facts *model, int width)
{
    return n_heads(model) * plan_value_bits(width, model->value_dim);
}

/* Stored bits of all values of a token. */
static double value_bits_of(const plan_request *r)
{
    double sum = 0.0;
    if (r->has_trellis_values) return r->value_true_bits * r->model->value_dim * n_heads(r->model);
    if (!r->value_widths) return value_bits_per_token(r->model, r->value_width);
    for (int h = 0; h < r->model->n_layers * r->model->n_kv_heads; h++)
        sum += plan_value_bits(r->value_widths[h], r->model->value_dim);
    return sum;
}

/* Stored bits of a token's keys and values under a budget for both. */
static double bits_of_both(const plan_budget *budget, const model_facts *model)
{
    return budget->kind == BUDGET_BYTES_PER_TOKEN
               ? 8.0 * budget->amount
               : budget->amount * n_heads(model) * 0.5 * (model->head_dim + model->value_dim);
}

int plan_budget_value_width(const plan_budget *budget, const model_facts *model)
{
    int width = PLAN_MIN_WIDTH;
    if (!plan_budget_is_for_both(budget)) return (int)fmin(PLAN_MAX_WIDTH, fmax(PLAN_MIN_WIDTH, floor(budget->amount)));
    while (width < PLAN_MAX_WIDTH && value_bits_per_token(model, width + 1) <= 0.5 * bits_of_both(budget, model))
        width++;
    return width;
}

rb_status plan_budget_of_memory(plan_budget *out, int64_t bytes, int64_t n_tokens, int64_t n_exact,
                                const model_facts *model, rb_error *err)
{
    const int64_t n = n_exact < n_tokens ? n_exact : n_tokens;
    const double exact_bytes = 2.0 * n_heads(model) * (model->head_dim + model->value_dim) * (double)n;
    *out = (plan_budget){.kind = BUDGET_BYTES_PER_TOKEN};
    if (n == n_tokens || (double)bytes <= exact_bytes)
        return rb_fail(err, RB_EINVAL,
                       "%lld of %lld tokens stay fp16, which takes %.0f bytes of %lld: nothing is left for the others",
                       (long long)n, (long long)n_tokens, exact_bytes, (long long)bytes);
    out->amount = floor(((double)bytes - exact_bytes) / (double)(n_tokens - n));
    return RB_OK;
}

static rb_status plan_at(bit_plan **out, const plan_request *r, allocation_method method, double avg_bits,
                         rb_error *err)
{
    return allocate_plan(out, r->model, r->calibration, method, avg_bits, r->value_width, r->statistics, err);
}

/* Stored bits of all keys of a token. */
static rb_status key_bits_of(double *out, const plan_request *r, const plan_budget *budget, rb_error *err)
{
    const head_statistics published = head_statistics_of_all(r->statistics);
    plan_request gtq = *r;
    bit_plan *plan = NULL;
    rb_status st = RB_OK;
    gtq.statistics = &published;
    switch (budget->kind) {
    case BUDGET_TRUE_BITS: *out = budget->amount * r->model->head_dim * n_heads(r->model); break;
    case BUDGET_TOTAL_BITS:
    case BUDGET_BYTES_PER_TOKEN:
        *out = bits_of_both(budget, r->model) - value_bits_of(r);
        if (*out <= 0.0)
            st = rb_fail(err, RB_EINVAL, "budget is %g bytes a token, expected more than the values alone take: %g",
                         bits_of_both(budget, r->model) / 8.0, value_bits_of(r) / 8.0);
        break;
    default:
        st = plan_at(&plan, &gtq, METHOD_BLOCK_GTQ, budget->amount, err);
        if (st == RB_OK) *out = (double)allocate_key_bits(plan);
        bit_plan_free(plan);
    }
    return st;
}

static rb_status optimal_within(bit_plan **out, budget_answer *answer, const plan_request *r, double key_bits,
                                const plan_budget *budget, rb_error *err)
{
    optimal_options options = *r->options;
    optimal_curves *own = NULL;
    bit_plan *plan = NULL;
    rb_status st;
    options.method = r->method;
    if (!r->curves) RB_TRY(st, optimal_curves_build(&own, r->model, r->statistics, &options, err), done);
    RB_TRY(st, allocate_values(&plan, r->model, r->calibration, r->value_width, err), done);
    RB_TRY(st, optimal_plan_keys(plan, answer, r->curves ? r->curves : own, (int64_t)(key_bits + 0.5), err), done);
    plan->avg_bits = budget->kind == BUDGET_AVG_BITS ? budget->amount : bit_plan_cost(plan).key_nominal_bits;
    RB_TRY(st, bit_plan_check(plan, "plan", err), done);
    *out = plan;
    plan = NULL;
done:
    optimal_curves_free(own);
    bit_plan_free(plan);
    return st;
}

/* Stored key bits of a token under uniform at every width up to most: key_bits[width]. */
static void uniform_bits(int64_t *key_bits, int most, const model_facts *model)
{
    for (int width = 0; width <= most; width++)
        key_bits[width] = (int64_t)n_heads(model) * ((width * model->head_dim + 7) / 8 * 8 + norm_kind_bits(NORM_FP16));
}

/* Nominal bits are never more than true ones. More nominal bits may store less: where a group ends, so does its norm.
 */
static rb_status published_within(bit_plan **out, const plan_request *r, double key_bits, rb_error *err)
{
    const double dims = r->model->head_dim * n_heads(r->model);
    const int steps = r->method == METHOD_UNIFORM ? 1 : model_n_blocks(r->model); /* of one bit */
    int64_t stored[ALLOCATE_MAX_BITS * RB_MAX_BLOCKS + 1];
    int step = (int)fmin(ALLOCATE_MAX_BITS * steps, floor(key_bits / dims * steps));
    rb_status st = RB_OK;
    if (r->method == METHOD_UNIFORM) uniform_bits(stored, step, r->model);
    else st = allocate_greedy_bits(stored, step, r->model, r->statistics, err);
    if (st != RB_OK) return st;
    while (step >= ALLOCATE_MIN_BITS * steps && (double)stored[step] > key_bits) step--;
    if (step >= ALLOCATE_MIN_BITS * steps) return plan_at(out, r, r->method, (double)step / steps, err);
    return rb_fail(err, RB_EINVAL,
                   "budget is %.3f true bits per dim of the keys, expected at least what %s stores at %d nominal bit",
                   key_bits / dims, allocation_method_name(r->method), ALLOCATE_MIN_BITS);
}

static rb_status keys_within(bit_plan **out, budget_answer *answer, const plan_request *request,
                             const plan_budget *budget, rb_error *err)
{
    double key_bits = 0.0;
    if (budget->kind == BUDGET_AVG_BITS && allocation_method_is_published(request->method))
        return plan_at(out, request, request->method, budget->amount, err);
    const rb_status st = key_bits_of(&key_bits, request, budget, err);
    if (st != RB_OK) return st;
    return allocation_method_is_published(request->method)
               ? published_within(out, request, key_bits, err)
               : optimal_within(out, answer, request, key_bits, budget, err);
}

/* ---- trellis --------------------------------------------------------------------------------- */

static rb_status trellis_part_within(bit_plan *plan, budget_answer *answer, const plan_request *r, trellis_part parts,
                                     double bits, rb_error *err)
{
    const trellis_budget budget = {.parts = parts,
                                   .total_bits = (int64_t)(bits + 0.5),
                                   .least_share = r->trellis_least_share,
                                   .equal_heads = r->equal_heads};
    trellis_curves *curves = NULL;
    rb_status st;
    RB_TRY(st, trellis_curves_build(&curves, parts, r->model, r->statistics, err), done);
    RB_TRY(st, trellis_plan(plan, answer, curves, &budget, err), done);
done:
    trellis_curves_free(curves);
    return st;
}

/* Keys of method trellis, and its values where they share the budget. */
static rb_status trellis_within(bit_plan **out, budget_answer *answer, const plan_request *r, const plan_budget *budget,
                                rb_error *err)
{
    const bool is_for_both = r->has_trellis_values && isnan(r->value_true_bits);
    bit_plan *plan = NULL;
    double bits = bits_of_both(budget, r->model);
    rb_status st;
    if (!is_for_both) RB_TRY(st, key_bits_of(&bits, r, budget, err), done);
    RB_TRY(st, allocate_values(&plan, r->model, r->calibration, r->value_width, err), done);
    RB_TRY(st, trellis_part_within(plan, answer, r, is_for_both ? TRELLIS_BOTH : TRELLIS_KEYS, bits, err), done);
    snprintf(plan->method, sizeof plan->method, "%s", allocation_method_name(METHOD_TRELLIS));
    plan->avg_bits = budget->kind == BUDGET_AVG_BITS ? budget->amount : bit_plan_cost(plan).key_nominal_bits;
    *out = plan;
    plan = NULL;
done:
    bit_plan_free(plan);
    return st;
}

/* ---- any method ------------------------------------------------------------------------------ */

rb_status allocate_within(bit_plan **out, budget_answer *answer, const plan_request *request, const plan_budget *budget,
                          rb_error *err)
{
    budget_answer of_values;
    *out = NULL;
    rb_status st = request->method == METHOD_TRELLIS ? trellis_within(out, answer, request, budget, err)
                                                     : keys_within(out, answer, request, budget, err);
    if (st == RB_OK && request->has_trellis_values && !isnan(request->value_true_bits)) {
        st = trellis_part_within(*out, &of_values, request, TRELLIS_VALUES, value_bits_of(request), err);
        if (st != RB_OK) {
            bit_plan_free(*out);
            *out = NULL;
        }
    }
    if (st == RB_OK) {
        (*out)->n_sink = request->n_sink;
        (*out)->n_recent = request->n_recent;
    }
    if (st == RB_OK && request->value_widths)
        memcpy((*out)->value_widths, request->value_widths,
               (size_t)request->model->n_layers * (size_t)request->model->n_kv_heads);
    return st;
}
