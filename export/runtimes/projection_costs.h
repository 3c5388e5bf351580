/* What a runtime's types cost in the heads of a plan: what a projection (projection.h) minimises the sum of.
 *
 * A plan gave a head so many bits because an error there costs so much: were all choices free, w * 4^-bits would cost
 * the same everywhere, so the weight of an error is w = 4^bits, with the true bits a dim of the head's keys or values.
 * A type leaves the share D of the squared norm of a normal vector (runtime_quantizer_distortion). So by bits alone
 *
 *      cost = 4^bits * D[type]
 *
 * With a capture the errors themselves are known, of the plan and of every type, on the first tokens of the calibration
 * text. Then
 *
 *      cost = (error[type] / error of the plan)^2
 *
 * the error being logit MAE for keys and the relative error for values (projection_loss.h). Either way a type that does
 * what the plan does costs about 1. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_COSTS_H
#define RB_EXPORT_RUNTIMES_PROJECTION_COSTS_H

#include "export/runtimes/runtime.h"
#include "plan/bit_plan.h"

typedef enum projection_side { SIDE_KEYS, SIDE_VALUES, N_SIDES } projection_side;

typedef struct projection_costs {
    int n_heads;
    double *at; /* [N_SIDES][n_heads][RUNTIME_MAX_TYPES], owned; of types that the runtime has */
} projection_costs;

static inline double *projection_cost(const projection_costs *costs, projection_side side, int head, int type)
{
    return &costs->at[((int64_t)side * costs->n_heads + head) * RUNTIME_MAX_TYPES + type];
}

const runtime_quantizer *runtime_side(const runtime *r, int type, projection_side side);

/* By bits. Zeroed before, cleared by the caller also after a failure. */
rb_status projection_costs_create(projection_costs *costs, const bit_plan *plan, const runtime *r, codec_tables *tables,
                                  rb_error *err);
void projection_costs_clear(projection_costs *costs);

/* Puts the cost of one type by errors of the plan, the type and 16 bits. A plan that errs less than 16 bits do, as one
 * that does not quantize, is taken to err as they do. */
void projection_cost_measure(projection_costs *costs, projection_side side, int head, int type, double plan_error,
                             double fp16_error, double error);

#endif
