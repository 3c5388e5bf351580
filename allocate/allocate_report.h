/* What `ropebits allocate` says of a plan that it made: what it costs, and the errors to expect. */
#ifndef RB_ALLOCATE_ALLOCATE_REPORT_H
#define RB_ALLOCATE_ALLOCATE_REPORT_H

#include "allocate/budget.h"
#include "methods/global_budget.h"
#include "methods/plan_error.h"
#include "methods/value_budget.h"
#include "profile/profile_statistics.h"

/* What the values of a plan do to the output of attention, where the profile knows. */
typedef struct value_prediction {
    bool is_known;
    double output_error;
    /* The widest width that takes no more bits if all heads have it, and what it does. */
    int one_width;
    double one_width_error, one_width_bits;
    double two_bit_error; /* what 2 bits for all heads do */
} value_prediction;

/* What a plan leaves of its budget, which is met in whole bytes and whole widths. All 0 for a budget of nominal bits.
 */
typedef struct budget_rest {
    double bytes; /* a token: of the keys, or of keys and values where the budget is for both */
    double bits;  /* a dim of the keys */
    double share; /* of the budget, 0 to 1 */
} budget_rest;

typedef struct allocate_report {
    const char *path;   /* where the plan is; borrowed */
    plan_budget budget; /* that the plan keeps within */
    rotation_kind rotation;
    int64_t context; /* that the cache's bytes are told at; 0: that of the calibration text */
    /* How near the optimum: has_answer for methods that are not published, has_value_answer for widths of values that
     * were allotted head by head. */
    bool has_answer, has_value_answer;
    budget_answer answer, value_answer;
    /* Set by allocate_report_predict. */
    const bit_plan *plan; /* borrowed */
    plan_prediction prediction;
    value_prediction values;
    budget_rest rest;
} allocate_report;

/* The profile is that of the plan's model. Fails as plan_predict. */
rb_status allocate_report_predict(allocate_report *report, const bit_plan *plan, const profile_table *profile,
                                  rb_error *err);
/* Warns of a budget that is left over by more than a part, and of values of 1 bit, with what they are expected to do.
 */
void allocate_report_warn(const allocate_report *report);
void allocate_report_print(const allocate_report *report);
rb_status allocate_report_put_json(const allocate_report *report, rb_error *err);

#endif
