/* See projection_costs.h. */
#include "export/runtimes/projection_costs.h"

#include <math.h>
#include <stdlib.h>

const runtime_quantizer *runtime_side(const runtime *r, int type, projection_side side)
{
    return side == SIDE_KEYS ? &r->types[type].keys : &r->types[type].values;
}

static double true_bits(const bit_plan *plan, projection_side side, int head)
{
    if (side == SIDE_KEYS) return plan_head_true_bits(&plan->heads[head], plan->model.head_dim);
    return (double)bit_plan_value_stored_bits(plan, head) / plan->model.value_dim;
}

rb_status projection_costs_create(projection_costs *costs, const bit_plan *plan, const runtime *r, codec_tables *tables,
                                  rb_error *err)
{
    const int n_heads = bit_plan_n_heads(plan);
    rb_status st;
    costs->n_heads = n_heads;
    RB_TRY(
        st,
        rb_alloc(&costs->at, (size_t)n_heads * N_SIDES * RUNTIME_MAX_TYPES, sizeof *costs->at, "costs of types", err),
        done);
    for (int side = 0; side < N_SIDES; side++)
        for (int type = 0; type < r->n_types; type++) {
            double distortion;
            if (!runtime_codes(r, type, &plan->model)) continue;
            RB_TRY(st,
                   runtime_quantizer_distortion(&distortion, runtime_side(r, type, side), plan->model.head_dim, tables,
                                                err),
                   done);
            for (int h = 0; h < n_heads; h++)
                *projection_cost(costs, side, h, type) = pow(4.0, true_bits(plan, side, h)) * distortion;
        }
done:
    return st;
}

void projection_costs_clear(projection_costs *costs)
{
    free(costs->at);
    *costs = (projection_costs){0};
}

void projection_cost_measure(projection_costs *costs, projection_side side, int head, int type, double plan_error,
                             double fp16_error, double error)
{
    const double least = plan_error > fp16_error ? plan_error : fp16_error, ratio = least > 0.0 ? error / least : 0.0;
    *projection_cost(costs, side, head, type) = ratio * ratio;
}
