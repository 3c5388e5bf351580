/* Plans of one profile and one set of options, at any budget. What budgets share is made once: the curves of the
 * optimal methods take most of the time. */
#ifndef RB_ALLOCATE_PLAN_MAKER_H
#define RB_ALLOCATE_PLAN_MAKER_H

#include "allocate/plan_options.h"

typedef struct plan_maker {
    const plan_options *options; /* borrowed, as is the profile */
    const profile_table *profile;
    allocation_method method;
    optimal_options optimal;
    int64_t n_sink;
    head_statistics statistics;
    optimal_curves *curves; /* owned; NULL: none yet, or the method has none */
} plan_maker;

/* Checks the options, which have a method, for budgets of the kind of this one. RB_EUSAGE. */
rb_status plan_maker_begin(plan_maker *out, const plan_options *options, const plan_budget *budget, rb_error *err);
/* From now on plans are of this profile. Warns of sinks that are not the profile's, and of statistics
 * of too few tokens for trellis. */
void plan_maker_set_profile(plan_maker *maker, const profile_table *profile);
void plan_maker_end(plan_maker *maker); /* accepts one that is zero */

typedef struct made_plan {
    bit_plan *plan;                    /* owned; freed with bit_plan_free */
    bool has_answer, has_value_answer; /* how near the optimum: not published, widths of values head by head */
    budget_answer answer, value_answer;
} made_plan;

/* Fails as allocate_within and value_options_choose. */
rb_status plan_maker_make(made_plan *out, plan_maker *maker, const plan_budget *budget, rb_error *err);

#endif
