/* What a run answers in understanding documents (texts/understanding_documents.h), in all and by task. */
#ifndef RB_EVALUATE_UNDERSTANDING_SCORE_H
#define RB_EVALUATE_UNDERSTANDING_SCORE_H

#include <cjson/cJSON.h>

#include "evaluate/evaluate_result.h"
#include "texts/needle_documents.h"

/* documents NULL: none. answers [documents->n]. Shares are means over the tasks, so that a task of long answers
 * counts no more than another. */
understanding_score understanding_score_make(const needle_documents *documents, const answer_score *answers);

/* {"n", "n_right", "agreement", "accuracy", "by_task": [{"task", "n", "n_right", "agreement", "accuracy"}, ..]}, tasks
 * in the order of their first document. */
rb_status understanding_to_json(cJSON **out, const needle_documents *documents, const answer_score *answers,
                                rb_error *err);

#endif
