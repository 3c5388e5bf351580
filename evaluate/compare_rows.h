/* What the comparers of all schemas share: reading, judging, rows, and the checks of model and texts. Only for
 * evaluate/; others include evaluate/compare.h. */
#ifndef RB_EVALUATE_COMPARE_ROWS_H
#define RB_EVALUATE_COMPARE_ROWS_H

#include <cjson/cJSON.h>

#include "core/model_facts.h"
#include "evaluate/compare.h"

/* The two documents and what they are called. */
typedef struct compared_pair {
    const cJSON *base, *updated;
    const char *base_path, *new_path;
    const comparison_limits *limits;
} compared_pair;

/* A method of a summary, or a run of an evaluation, as both documents have it. */
typedef struct compared_entry {
    const cJSON *base, *updated;
    char base_where[512], new_where[512]; /* "base.json: methods[2]" */
    int n_layers;
    int64_t n_questions; /* of METRIC_ANSWERS */
    comparison_row row;  /* what all rows of it have in common */
    bool is_redrawn;     /* the seeds differ; comparison_add_entry sets it */
    bool skips_nulls;    /* a metric that BASE has not is no row: the unquantized run */
} compared_entry;

/* Makes room for n_entries of up to n_layers layers. */
rb_status comparison_reserve(comparison *out, int n_entries, int n_layers, rb_error *err);
/* Rows for every metric of the schema. Fails with RB_EFORMAT on what is not a number in range. */
rb_status comparison_add_entry(comparison *out, const compared_pair *pair, compared_entry *entry, rb_error *err);
/* The entry is in BASE only: one row. */
void comparison_add_missing(comparison *out, const compared_entry *entry, const char *metric, double base);
/* Something for people; a note that is there already is not repeated. */
void comparison_note(comparison *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Fails with RB_EMISMATCH, naming what differs; notes where other weights would not be noticed. */
rb_status comparison_check_model(comparison *out, const compared_pair *pair, const model_facts *base,
                                 const model_facts *updated, rb_error *err);
/* Fails with RB_EMISMATCH, naming both values, unless tokens and context are the same. `set` names the text: "test". */
rb_status comparison_check_text(const compared_pair *pair, const text_facts *base, const text_facts *updated,
                                const char *set, rb_error *err);

/* There is one for each schema. It fills out->rows. */
rb_status compare_summaries(comparison *out, const compared_pair *pair, rb_error *err);
rb_status compare_evaluations(comparison *out, const compared_pair *pair, rb_error *err);

#endif
