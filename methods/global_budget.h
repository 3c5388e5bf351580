/* One budget over all heads: who gets how many bytes, to minimise the sum over heads of weight_h * phi(V_h).
 *
 * Each head brings a curve: V by stored bytes. The lower convex hull of weight * phi(V) splits a curve into steps of
 * falling gain per byte. To take all heads' steps in that order is to minimise the Lagrangian
 *      sum(weight phi(V)) + lambda * bytes
 * while lambda falls: each prefix is the optimum for what it spends (Everett 1963; Shoham and Gersho 1988). Sorting the
 * steps finds the multiplier of the budget exactly, where bisection would approach it. The first step that does not fit
 * has slope lambda, and the Lagrange dual at its maximum,
 *      bound = value of the steps before it - lambda * bytes left,
 * is below every allocation within the budget. What is left, and bytes traded between two heads, then go to any points
 * of the curves, on the hull or not, as long as the sum falls. So `objective - bound` is how far from the optimum the
 * answer can be at most. (A single head needs no bound: its best point is known.)
 *
 * Deterministic: ties go to the lowest head. */
#ifndef RB_METHODS_GLOBAL_BUDGET_H
#define RB_METHODS_GLOBAL_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

/* What is summed over heads: V, or sqrt(V), which the mean absolute logit error follows (sqrt(2 V / pi) for a normal
 * error). */
typedef enum budget_objective { OBJECTIVE_MAE, OBJECTIVE_VARIANCE, OBJECTIVE_N } budget_objective;
extern const char *const budget_objective_names[]; /* "mae", "variance", NULL */

/* Who shares a budget. Per head and per layer, each gets the same whole number of bytes. Of what is left, less than a
 * byte a head, whole layers get a byte more for each of their heads, where that helps most: so the heads of a layer
 * stay alike. The rest, less than a byte for each head of a layer, is not spent; per layer nothing of what is left is.
 */
typedef enum budget_scope { SCOPE_HEAD, SCOPE_LAYER, SCOPE_MODEL, SCOPE_N } budget_scope;
extern const char *const budget_scope_names[]; /* "head", "layer", "model", NULL */

/* V of a head within p bytes, p < n_points: does not rise, INFINITY where nothing fits; borrowed. */
typedef struct budget_curve {
    int n_points;
    const double *error;
} budget_curve;

typedef struct budget_request {
    int n_layers, heads_per_layer;
    const budget_curve *curves; /* [n_layers][heads_per_layer] */
    const double *weights;      /* the same shape, finite and >= 0; NULL: all 1 */
    budget_objective objective;
    budget_scope scope;
    int64_t total_bits;                   /* stored bits of all heads together, a token */
    int64_t min_head_bits, max_head_bits; /* floor and ceiling of every head, whole bytes count; max 0: none */
} budget_request;

typedef struct budget_answer {
    int64_t stored_bits; /* spent; at most total_bits */
    double objective;    /* sum of weight * phi(V) */
    double bound;        /* no allocation in this scope is below; objective >= bound >= 0 */
} budget_answer;

/* points [n_layers][heads_per_layer]: the point of each head's curve, the lowest of equal error.
 * RB_EINVAL: a budget below what the heads need at least (saying how much), shapes, limits, weights or enums out of
 * range; RB_ENOMEM. */
rb_status budget_solve(int32_t *points, budget_answer *answer, const budget_request *request, rb_error *err);

#endif
