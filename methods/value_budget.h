/* Widths of the values by what their errors do to the output of attention: one budget of stored bits over all heads
 * (docs/method.md, Values).
 *
 * Minimises the sum over layers and heads of error[l][h][width] / (energy of layer l), the energy of a layer being the
 * sum over its heads. That is the squared relative error of the layers' outputs. Every head brings its 8 measured
 * points, and methods/global_budget.h shares the bits. */
#ifndef RB_METHODS_VALUE_BUDGET_H
#define RB_METHODS_VALUE_BUDGET_H

#include "methods/global_budget.h"
#include "plan/bit_plan.h"

/* What a profile of a capture with values knows: profile/value_error.h. */
typedef struct value_statistics {
    const double *error;  /* [n_layers][n_kv_heads][PLAN_MAX_WIDTH], for widths 1 to 8 */
    const double *energy; /* [n_layers][n_kv_heads] */
} value_statistics;

/* Stored bits of the values of a token whose codes take this many bits a dim, on average over heads. If that is a whole
 * number, it is what one width for all takes. */
int64_t value_budget_bits(const model_facts *model, double avg_bits);

/* widths [n_layers][n_kv_heads], each from least_width, or the whole bits of an average below it, to 8; the answer's
 * objective is the sum above. Fails as budget_solve; RB_EINVAL: an average or a least width outside 1 to 8. */
rb_status value_budget_solve(uint8_t *widths, budget_answer *answer, const model_facts *model,
                             const value_statistics *statistics, double avg_bits, int least_width, rb_error *err);

/* The relative error of the layers' outputs to expect, mean over layers of sqrt(sum of error / sum of energy). Widths 1
 * to 8. */
double value_output_error(const uint8_t *widths, const model_facts *model, const value_statistics *statistics);

#endif
