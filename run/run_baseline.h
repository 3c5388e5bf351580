/* `ropebits run --baseline FILE`: what came of the run against a summary or an evaluation that was kept. */
#ifndef RB_RUN_RUN_BASELINE_H
#define RB_RUN_RUN_BASELINE_H

#include "evaluate/compare_limits.h"
#include "run/pipeline.h"

typedef struct baseline_options {
    rb_string_list paths; /* each a summary or an evaluation, as its schema says */
    bool updates;         /* --update-baseline */
    comparison_options limits;
    int format; /* of evaluate/compare_report.h */
} baseline_options;

enum { BASELINE_N_OPTIONS = COMPARISON_N_OPTIONS + 3 };
int baseline_options_append(rb_option *table, int n, baseline_options *options);

/* Fails with RB_EUSAGE on options that do not go together, and on limits that name no metric: before a run of hours.
 * Limits that the options do not give are those of the pipeline file. */
rb_status baseline_options_check(comparison_limits *limits, const baseline_options *options,
                                 const pipeline_config *config, rb_error *err);

/* Prints a table for each baseline, on stderr where stdout has a JSON document. RB_ECHECK when anything got worse, but
 * not where the baselines are updated: then each is replaced by what the run has made (complete or not at all). A file
 * that is not there yet becomes a copy of the summary. Fails as compare_files. */
rb_status baseline_compare(const baseline_options *options, const comparison_limits *limits, const char *folder,
                           bool as_json, rb_error *err);

#endif
