/* What the comparers of all schemas share: rows, judges, and the check of the texts. Only for evaluate/; others include
 * evaluate/compare.h. */
#ifndef RB_EVALUATE_COMPARE_ROWS_H
#define RB_EVALUATE_COMPARE_ROWS_H

#include <cjson/cJSON.h>

#include "core/model_facts.h"
#include "evaluate/compare.h"

/* Copies the row to the end of the list; the comparer has allocated enough. */
void comparison_add(comparison *result, const comparison_row *row);

/* An error may grow by max_regression percent of the base. */
comparison_verdict comparison_judge_error(double base, double updated, double max_regression);
/* Bits are a count, not a measurement: any growth is a regression. */
comparison_verdict comparison_judge_bits(double base, double updated);

/* Fails with RB_EMISMATCH, naming both values, unless tokens and context are the same. `set` names the text: "test". */
rb_status comparison_check_text(const text_facts *base, const char *base_path, const text_facts *updated,
                                const char *new_path, const char *set, rb_error *err);

/* There is one for each schema. It allocates and fills out->rows. */
rb_status compare_summaries(comparison *out, const cJSON *base, const char *base_path, const cJSON *updated,
                            const char *new_path, const comparison_limits *limits, rb_error *err);
rb_status compare_evaluations(comparison *out, const cJSON *base, const char *base_path, const cJSON *updated,
                              const char *new_path, const comparison_limits *limits, rb_error *err);

#endif
