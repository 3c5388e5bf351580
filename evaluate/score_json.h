/* The lists of a run's score as JSON: by layer and head, by position, and the worst tokens. */
#ifndef RB_EVALUATE_SCORE_JSON_H
#define RB_EVALUATE_SCORE_JSON_H

#include <cjson/cJSON.h>

#include "evaluate/evaluate_result.h"

/* Adds to a run's object "attention_kl_by_layer", "attention_overlap_by_layer", "output_error_by_layer",
 * "output_error_by_head" [layer][query head], "by_position" and "worst_tokens" (docs/evaluate.md). */
rb_status score_lists_to_json(cJSON *run, const evaluate_score *score, int n_layers, int n_q_heads, rb_error *err);

#endif
