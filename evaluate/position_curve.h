/* KL and nll of one run by position within the context: does a plan cost more where there are more keys to look back
 * on?
 *
 * Bins double: predictions from 1 token, from 2 to 3, 4 to 7, 8 to 15, .. The bins are the same for every context, and
 * each has about as many predictions as all before it. */
#ifndef RB_EVALUATE_POSITION_CURVE_H
#define RB_EVALUATE_POSITION_CURVE_H

#include "evaluate/evaluate_batch.h"
#include "evaluate/token_score.h"

enum { POSITION_MAX_BINS = 63 };

typedef struct position_bin {
    /* Tokens of its sequence that stand before the predicted one; last: the largest there is in the text. */
    int64_t first, last;
    int64_t n;           /* predictions */
    double kl_mean, nll; /* means over them, nats */
} position_bin;

typedef struct position_curve {
    int n; /* bins that have predictions: the first ones */
    position_bin at[POSITION_MAX_BINS];
} position_curve;

/* scores [n_positions][n_runs]; context: tokens of a sequence of the text. */
void position_curve_make(position_curve *out, const evaluate_batch *batch, const token_score *scores, int run,
                         int64_t context);

#endif
