/* What a comparison found, for people, for pages and for CI. Strings that come from files are escaped in each. */
#ifndef RB_EVALUATE_COMPARE_REPORT_H
#define RB_EVALUATE_COMPARE_REPORT_H

#include <stdio.h>

#include <cjson/cJSON.h>

#include "evaluate/compare.h"

typedef enum report_format {
    REPORT_TEXT,
    REPORT_MARKDOWN,
    REPORT_JUNIT, /* XML: a test case for every number that was judged */
    REPORT_GITHUB /* workflow commands and the table; the page of the job gets it as markdown (GITHUB_STEP_SUMMARY) */
} report_format;
extern const char *const comparison_format_names[]; /* NULL-terminated, for option tables */

/* What was compared, and by what. */
typedef struct report_of {
    const comparison *result;
    const char *base_path, *new_path;
    const comparison_limits *limits;
} report_of;

/* Without -v, people see the means and what has regressed. Fails with RB_EIO where the page of the job cannot be
 * written. */
rb_status comparison_print(FILE *out, const report_of *report, report_format format, rb_error *err);
/* {"schema": "ropebits-comparison", ..}: docs/compare.md. The caller's. */
rb_status comparison_to_json(cJSON **out, const report_of *report, rb_error *err);

#endif
