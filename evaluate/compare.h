/* Is NEW worse than BASE? The findings are a list, which the program prints and turns into an exit code.
 *
 * Profile summaries can be compared with each other, and so can evaluations; the "schema" says which a document is. */
#ifndef RB_EVALUATE_COMPARE_H
#define RB_EVALUATE_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef enum comparison_verdict {
    VERDICT_SAME, /* within the limit either way */
    VERDICT_BETTER,
    VERDICT_UNMEASURED, /* base has no number for it: nothing to judge */
    VERDICT_WORSE,      /* beyond the limit: a regression */
    VERDICT_LOST,       /* a layer that beat uniform no longer does: a regression */
    VERDICT_MISSING     /* base has it, new does not: a regression */
} comparison_verdict;

/* As in JSON: "same", "better", "unmeasured", "worse", "lost_to_uniform", "missing". */
const char *comparison_verdict_name(comparison_verdict verdict);
static inline bool comparison_is_regression(comparison_verdict verdict) { return verdict >= VERDICT_WORSE; }

/* One number compared. */
typedef struct comparison_row {
    const char *metric; /* "logit_mae", "true_bits"; of an evaluation "perplexity", "kl_mean", "kl_p999",
                           "attention_kl", "output_error", "needles" (right answers), ... */
    char run[256];      /* of an evaluation: the run's name in BASE; otherwise "" */
    char method[32];
    double avg_bits;      /* NaN: the unquantized run */
    double value_bits;    /* NaN: of a summary, or unquantized */
    int layer;            /* -1: all layers */
    double base, updated; /* NaN when missing or unmeasured */
    comparison_verdict verdict;
} comparison_row;

typedef struct comparison {
    int n_rows, n_regressions;
    comparison_row *rows; /* owned */
} comparison;

typedef struct comparison_limits {
    double max_regression;    /* how much larger an error may be, in percent of the base */
    int64_t max_needles_lost; /* how many fewer right answers a run may give */
} comparison_limits;

/* Summaries give rows for each method and budget of BASE: its mean error, its true bits and every layer. Evaluations
 * give rows for every run of BASE. What only NEW has is not compared. Fails with RB_EMISMATCH on different models or
 * texts, naming both values, and with RB_EFORMAT on documents that cannot be compared. Free with comparison_free, also
 * after a failure. */
rb_status compare_files(comparison *out, const char *base_path, const char *new_path, const comparison_limits *limits,
                        rb_error *err);
void comparison_free(comparison *result);

#endif
