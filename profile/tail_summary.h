/* The members of the summary JSON that tell of tails and of coverage (docs/profile.md). They are additions to version
 * 1: readers that do not know them pass over them. */
#ifndef RB_PROFILE_TAIL_SUMMARY_H
#define RB_PROFILE_TAIL_SUMMARY_H

#include <stdbool.h>

#include <cjson/cJSON.h>

#include "profile/profile_table.h"

/* attended_mae, token_error, tail_ratio, outside_share, heads_out_of_proportion, worst_tokens of a method. */
rb_status tail_summary_add(cJSON *method_json, const method_score *method, const model_facts *model, rb_error *err);
/* The member coverage of a summary. */
rb_status coverage_summary_add(cJSON *json, const profile_table *table, rb_error *err);
/* Its means and is_covered; NaN and true in a document without it. */
rb_status coverage_summary_read(head_coverage *mean, bool *is_covered, const cJSON *document, const char *name,
                                rb_error *err);

#endif
