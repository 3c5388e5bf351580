/* Is NEW worse than BASE? Findings as a list; the program prints them and turns them into an exit code.
 *
 * Documents are told apart by their "schema"; profile summaries are compared here. */
#ifndef RB_EVALUATE_COMPARE_H
#define RB_EVALUATE_COMPARE_H

#include <stdbool.h>

#include "core/status.h"

typedef enum comparison_verdict {
    VERDICT_SAME,           /* within the limit either way */
    VERDICT_BETTER,
    VERDICT_WORSE,          /* beyond the limit: a regression */
    VERDICT_LOST,           /* a layer that beat uniform no longer does: a regression */
    VERDICT_MISSING         /* base has it, new does not: a regression */
} comparison_verdict;

const char *comparison_verdict_name(comparison_verdict verdict);    /* as in JSON: "same", "better", "worse", "lost_to_uniform", "missing" */
static inline bool comparison_is_regression(comparison_verdict verdict) { return verdict >= VERDICT_WORSE; }

/* One number compared. */
typedef struct comparison_row {
    const char *metric;     /* "logit_mae", "true_bits" */
    char method[32];
    double avg_bits;
    int layer;              /* -1: all layers */
    double base, updated;   /* NaN when missing */
    comparison_verdict verdict;
} comparison_row;

typedef struct comparison {
    int n_rows, n_regressions;
    comparison_row *rows;   /* owned */
} comparison;

/* max_regression: how much larger an error may be, in percent of the base. A row per method and budget of BASE for its mean error, its true bits and
 * every layer; what only NEW has is not compared. Fails with RB_EMISMATCH on other models or texts, naming both values, and RB_EFORMAT on documents
 * that cannot be compared.
 * Freed with comparison_free, also after a failure. */
rb_status compare_files(comparison *out, const char *base_path, const char *new_path, double max_regression, rb_error *err);
void comparison_free(comparison *result);

#endif
