/* The search for the least size that holds limits, as arithmetic on numbers: no plan, no model.
 *
 * A point is a plan that was evaluated: what it stores, and by how much it misses the limits. The logarithm of a
 * divergence falls about linearly with the bits that are stored, so the place where it meets its limit is interpolated
 * between the two points around it, and extrapolated where all points are on one side. Nothing depends on that: curves
 * may be noisy or rise in places. Then the answer is still a plan that was evaluated and holds, and the search only
 * takes longer.
 *
 * A pass runs several plans at once, because the model runs through its layers once for all of them, beside one
 * unquantized copy. So a pass tries budgets on both sides of where it expects the limit: three budgets narrow the
 * bracket more than three passes of one would cost. */
#ifndef RB_TUNE_TUNE_SEARCH_H
#define RB_TUNE_TUNE_SEARCH_H

#include <stdbool.h>

enum { TUNE_MAX_AT_ONCE = 8 };

typedef struct search_point {
    double bits;   /* stored, keys and values added up, a dim */
    double excess; /* logarithm of what was measured over its limit, the largest of all limits; 0 or less: they hold */
    int pass;      /* that it was evaluated in, from 0; never falls from point to point */
} search_point;

typedef struct search_range {
    double from, to;     /* budgets, 0 < from <= to */
    double tolerance;    /* relative: how near in bits a plan that fails must be below the answer */
    int at_once;         /* budgets of a pass, 1 to TUNE_MAX_AT_ONCE */
    int max_evaluations; /* points in all */
} search_range;

/* The point of least bits that holds, or -1. */
int tune_search_answer(const search_point *points, int n);

/* Budgets of the next pass, ascending, within the range. Returns how many; 0: the search is at its end, because the
 * bracket is narrow enough, because an end of the range was evaluated that the answer lies beyond, or because
 * max_evaluations are done. The last evaluations include `to` where nothing holds yet. */
int tune_search_next(double budgets[TUNE_MAX_AT_ONCE], const search_point *points, int n, const search_range *range);

#endif
