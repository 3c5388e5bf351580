/* Widths of the values by what their errors do to the output of attention: one budget of stored bits over all heads
 * (docs/method.md, Values).
 *
 * Minimises the sum over layers and heads of error[l][h][width] / (energy of layer l), energy of a layer the sum over
 * its heads: the squared relative error of the layers' outputs. Every head brings its 8 measured points,
 * methods/global_budget.h shares the bits. */
#ifndef RB_METHODS_VALUE_BUDGET_H
#define RB_METHODS_VALUE_BUDGET_H

#include "methods/global_budget.h"
#include "plan/bit_plan.h"

/* Of a profile of a capture with values: profile/value_error.h. */
typedef struct value_statistics {
    const double *error;  /* [n_layers][n_kv_heads][PLAN_MAX_WIDTH], of widths 1 to 8 */
    const double *energy; /* [n_layers][n_kv_heads] */
} value_statistics;

/* Stored bits of the values of a token at this many bits a dim, codes alone, on average over heads: what one width
 * takes where it is whole. */
int64_t value_budget_bits(const model_facts *model, double avg_bits);

/* widths [n_layers][n_kv_heads], each from least_width, or the whole bits of an average below it, to 8; the answer's
 * objective is the sum above. Fails as budget_solve; RB_EINVAL: an average or a least width outside 1 to 8. */
rb_status value_budget_solve(uint8_t *widths, budget_answer *answer, const model_facts *model,
                             const value_statistics *statistics, double avg_bits, int least_width, rb_error *err);

/* The relative error of the layers' outputs to expect, mean over layers of sqrt(sum of error / sum of energy). Widths 1
 * to 8. */
double value_output_error(const uint8_t *widths, const model_facts *model, const value_statistics *statistics);

#endif
