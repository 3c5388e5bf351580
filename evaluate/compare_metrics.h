/* The metrics that `compare` judges, and the members of its documents that it does not, each with the reason: one
 * table, from which the comparers, the names of --max-regression, --list-metrics and the tables in docs/compare.md
 * come.
 *
 * Limits are in percent of BASE, for two results of the same seeds. Why these: docs/compare.md. */
#ifndef RB_EVALUATE_COMPARE_METRICS_H
#define RB_EVALUATE_COMPARE_METRICS_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "core/status.h"

typedef enum comparison_schema { COMPARE_SUMMARIES, COMPARE_EVALUATIONS } comparison_schema;

typedef enum metric_kind {
    METRIC_MEASUREMENT, /* may become worse by its limit, in percent */
    METRIC_BITS,        /* what is stored: may grow by --max-growth, by default not at all */
    METRIC_COUNT,       /* of heads that something is wrong with */
    METRIC_ANSWERS      /* right answers: --max-needles-lost may be lost */
} metric_kind;

/* How it is read of a method (of a summary) or a run (of an evaluation). */
typedef enum metric_form {
    METRIC_NUMBER,
    METRIC_BY_LAYER, /* a list, a number a layer */
    METRIC_LENGTH    /* the number of entries of a list */
} metric_form;

typedef struct comparison_metric {
    const char *name; /* rows of layers have the name of the mean */
    comparison_schema schema;
    const char *path; /* of the member; a dot leads into an object */
    metric_kind kind;
    metric_form form;
    bool smaller_is_worse;
    double largest; /* that a document may have */
    double limit;   /* percent, unless --max-regression says otherwise */
    double floor;   /* a change of less is none, however small BASE is */
    double spread;  /* standard deviation over seeds in percent, where none was measured */
    double drawn;   /* and as a number, where BASE may be zero */
} comparison_metric;

extern const comparison_metric comparison_metrics[];
extern const int comparison_n_metrics;
enum { COMPARISON_MAX_METRICS = 48 };

/* What is not judged. */
typedef struct unjudged_member {
    comparison_schema schema;
    const char *path; /* in the document, of any method or run */
    const char *reason;
} unjudged_member;
extern const unjudged_member comparison_unjudged[];
extern const int comparison_n_unjudged;

/* values [n]: n is 1, or the number of layers for METRIC_BY_LAYER. NaN where the document has null or nothing. Fails
 * with RB_EFORMAT on anything but numbers in range, naming the member; `where` starts the message. */
rb_status comparison_metric_read(double *values, int n, const comparison_metric *metric, const cJSON *object,
                                 const char *where, rb_error *err);

#endif
