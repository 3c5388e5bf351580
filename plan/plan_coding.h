/* What a plan asks of a runtime that the published method does not, in words: for what people read (inspect, report).
 */
#ifndef RB_PLAN_PLAN_CODING_H
#define RB_PLAN_PLAN_CODING_H

#include "plan/bit_plan.h"

enum { PLAN_CODING_MAX_LINES = 16 };

typedef struct plan_coding_line {
    const char *label; /* "norms" */
    char text[256];    /* plain text, without characters that HTML would need escaped */
} plan_coding_line;

/* Lines for what the plan has; returns how many: 0 for a plan of the published form. */
int plan_coding_describe(plan_coding_line lines[PLAN_CODING_MAX_LINES], const bit_plan *plan);

#endif
