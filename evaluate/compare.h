/* Is NEW worse than BASE? The findings are a list, which a report prints and a program turns into an exit code.
 *
 * Profile summaries can be compared with each other, and so can evaluations; the "schema" says which a document is.
 * What is judged, and by which limit: evaluate/compare_metrics.h.
 *
 * Two results of the same rotation seeds differ only by what was changed, so a small change is a finding. Results of
 * different seeds differ by luck as well. They are judged by the spread over seeds that either of them has measured
 * (`profile --seeds`), by a typical one where neither has. */
#ifndef RB_EVALUATE_COMPARE_H
#define RB_EVALUATE_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"
#include "evaluate/compare_limits.h"

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
    const char *metric; /* a name of compare_metrics.h */
    char run[256];      /* of an evaluation: the run's name in BASE; otherwise "" */
    char method[32];
    double avg_bits;      /* NaN: the unquantized run */
    double value_bits;    /* NaN: of a summary, or unquantized */
    int layer;            /* -1: all layers */
    double base, updated; /* NaN when missing or unmeasured; means over seeds where these were judged */
    double allowed;       /* the worst that NEW may have; NaN: nothing was judged */
    comparison_verdict verdict;
    bool is_redrawn; /* the seeds differ */
} comparison_row;

enum { COMPARISON_MAX_NOTES = 8, COMPARISON_NOTE_SIZE = 512 };

typedef struct comparison {
    comparison_schema schema;
    int n_rows, n_regressions;
    comparison_row *rows; /* owned */
    int n_notes;          /* what could not be told, for people */
    char notes[COMPARISON_MAX_NOTES][COMPARISON_NOTE_SIZE];
} comparison;

/* Summaries give rows for each method and budget of BASE: its means, its true bits and every layer. Evaluations give
 * rows for every run of BASE. What only NEW has is not compared. Fails with RB_EMISMATCH on different models, weights
 * or texts, naming both values, and with RB_EFORMAT on documents that cannot be compared. Free with comparison_free,
 * also after a failure. */
rb_status compare_files(comparison *out, const char *base_path, const char *new_path, const comparison_limits *limits,
                        rb_error *err);
void comparison_free(comparison *result);

#endif
