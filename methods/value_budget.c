/* See value_budget.h. */
#include "methods/value_budget.h"

#include <math.h>
#include <stdlib.h>

static double layer_energy(const model_facts *model, const value_statistics *statistics, int layer)
{
    double sum = 0.0;
    for (int h = 0; h < model->n_kv_heads; h++) sum += statistics->energy[layer * model->n_kv_heads + h];
    return sum;
}

static int stored_bytes(const model_facts *model, int width) { return plan_value_bits(width, model->value_dim) / 8; }

int64_t value_budget_bits(const model_facts *model, double avg_bits)
{
    const double codes = avg_bits * model->value_dim, norm = norm_kind_bits(NORM_FP16);
    const double n_heads = (double)model->n_layers * model->n_kv_heads;
    if (avg_bits == floor(avg_bits)) return (int64_t)n_heads * plan_value_bits((int)avg_bits, model->value_dim);
    return (int64_t)(n_heads * (codes + norm));
}

/* The width from `least` on, of those within so many bytes, that errs least, the narrowest of equals; 0: none fits. */
static int best_width(const model_facts *model, const double *error, int least, int bytes)
{
    int best = 0;
    for (int width = least; width <= PLAN_MAX_WIDTH && stored_bytes(model, width) <= bytes; width++)
        if (best == 0 || error[width - 1] < error[best - 1]) best = width;
    return best;
}

static void fill_curve(double *curve, int n_points, const model_facts *model, const double *error, int least)
{
    for (int p = 0; p < n_points; p++) {
        const int width = best_width(model, error, least, p);
        curve[p] = width > 0 ? error[width - 1] : INFINITY;
    }
}

rb_status value_budget_solve(uint8_t *widths, budget_answer *answer, const model_facts *model,
                             const value_statistics *statistics, double avg_bits, int least_width, rb_error *err)
{
    const int n_heads = model->n_layers * model->n_kv_heads, n_points = stored_bytes(model, PLAN_MAX_WIDTH) + 1;
    double *errors = NULL, *weights = NULL;
    budget_curve *curves = NULL;
    int32_t *points = NULL;
    rb_status st;
    if (!(avg_bits >= PLAN_MIN_WIDTH && avg_bits <= PLAN_MAX_WIDTH))
        return rb_fail(err, RB_EINVAL, "values of %g bits on average, expected %d to %d", avg_bits, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH);
    if (least_width < PLAN_MIN_WIDTH || least_width > PLAN_MAX_WIDTH)
        return rb_fail(err, RB_EINVAL, "least width of values is %d, expected %d to %d", least_width, PLAN_MIN_WIDTH,
                       PLAN_MAX_WIDTH);
    if (least_width > avg_bits) least_width = (int)avg_bits;
    RB_TRY(st, rb_alloc(&errors, (size_t)n_heads * (size_t)n_points, sizeof *errors, "curves of values", err), done);
    RB_TRY(st, rb_alloc(&weights, (size_t)n_heads, sizeof *weights, "curves of values", err), done);
    RB_TRY(st, rb_alloc(&curves, (size_t)n_heads, sizeof *curves, "curves of values", err), done);
    RB_TRY(st, rb_alloc(&points, (size_t)n_heads, sizeof *points, "curves of values", err), done);
    for (int h = 0; h < n_heads; h++) {
        const double energy = layer_energy(model, statistics, h / model->n_kv_heads);
        weights[h] = energy > 0.0 ? 1.0 / energy : 0.0;
        curves[h] = (budget_curve){n_points, errors + (size_t)h * (size_t)n_points};
        fill_curve(errors + (size_t)h * (size_t)n_points, n_points, model,
                   statistics->error + (size_t)h * PLAN_MAX_WIDTH, least_width);
    }
    const budget_request request = {.n_layers = model->n_layers,
                                    .heads_per_layer = model->n_kv_heads,
                                    .curves = curves,
                                    .weights = weights,
                                    .objective = OBJECTIVE_VARIANCE,
                                    .scope = SCOPE_MODEL,
                                    .total_bits = value_budget_bits(model, avg_bits)};
    RB_TRY(st, budget_solve(points, answer, &request, err), done);
    for (int h = 0; h < n_heads; h++)
        widths[h] = (uint8_t)best_width(model, statistics->error + (size_t)h * PLAN_MAX_WIDTH, least_width, points[h]);
done:
    free(errors);
    free(weights);
    free(curves);
    free(points);
    return st;
}

double value_output_error(const uint8_t *widths, const model_facts *model, const value_statistics *statistics)
{
    double sum = 0.0;
    for (int layer = 0; layer < model->n_layers; layer++) {
        const double energy = layer_energy(model, statistics, layer);
        double error = 0.0;
        for (int h = layer * model->n_kv_heads; h < (layer + 1) * model->n_kv_heads; h++)
            error += statistics->error[h * PLAN_MAX_WIDTH + widths[h] - 1];
        if (energy > 0.0) sum += sqrt(error / energy);
    }
    return sum / model->n_layers;
}
