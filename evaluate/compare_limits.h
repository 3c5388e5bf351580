/* How much worse NEW may be: the defaults of compare_metrics.h, and the options that change them, which `compare` and
 * `run --baseline` share. */
#ifndef RB_EVALUATE_COMPARE_LIMITS_H
#define RB_EVALUATE_COMPARE_LIMITS_H

#include "core/options.h"
#include "evaluate/compare_metrics.h"

typedef struct comparison_limits {
    double general;                           /* percent, of all measurements; NaN: each metric has its own limit */
    double of_metric[COMPARISON_MAX_METRICS]; /* by place in comparison_metrics; NaN: not given */
    double max_growth;                        /* percent, of bits */
    int64_t max_needles_lost;                 /* how many fewer right answers a run may give */
} comparison_limits;

/* As on a command line; all zero is what nobody gave. */
typedef struct comparison_options {
    rb_string_list max_regression; /* PERCENT, or METRIC=PERCENT, with commas between */
    double max_growth;
    int64_t max_needles_lost;
} comparison_options;

enum { COMPARISON_N_OPTIONS = 3 };
/* Adds the options to a table of n rows. Returns how many it has then. */
int comparison_options_append(rb_option *table, int n, comparison_options *options);

comparison_limits comparison_limits_default(void);
/* Fails with RB_EUSAGE, naming the nearest metric or all of them, on a metric that there is not. */
rb_status comparison_limits_from(comparison_limits *out, const comparison_options *options, rb_error *err);
/* The limit of a metric in percent. */
double comparison_limit(const comparison_limits *limits, const comparison_metric *metric);

#endif
