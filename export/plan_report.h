/* The report a person opens: one HTML page that needs nothing else, with the error of every layer and the heat map of
 * bits. */
#ifndef RB_EXPORT_PLAN_REPORT_H
#define RB_EXPORT_PLAN_REPORT_H

#include "plan/bit_plan.h"
#include "profile/profile_summary.h"

/* summary may be NULL: then the page has only the plan. A summary of another model is refused. Atomic. */
rb_status plan_report_write(const bit_plan *plan, const profile_summary *summary, const char *path, rb_error *err);

#endif
