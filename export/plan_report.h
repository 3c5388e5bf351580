/* The report a person opens: one HTML page that needs nothing else, no script and no network. What the plan is worth at
 * the bytes it takes, what it does to the model, where its bits go, what to be careful of, and how to use it. */
#ifndef RB_EXPORT_PLAN_REPORT_H
#define RB_EXPORT_PLAN_REPORT_H

#include "evaluate/evaluation_file.h"
#include "plan/bit_plan.h"
#include "profile/profile_summary.h"

/* All but the plan and its stem may be NULL: then the page says what is left out, and how to get it. */
typedef struct plan_report_inputs {
    const bit_plan *plan;
    const char *stem; /* the plan's file without folder and ending, for its title and for commands */
    const profile_table *profile;
    const profile_summary *summary; /* NULL: that of the profile */
    const evaluation *evaluation;
} plan_report_inputs;

/* RB_EMISMATCH: one of them is for another model. Computes the errors to expect of plans of other sizes from the
 * profile, which takes as long as `allocate --sweep` of as many. Atomic. */
rb_status plan_report_write(const plan_report_inputs *inputs, const char *path, rb_error *err);

#endif
