/* Right answers of a run as JSON: the total, and by task, context length and depth. */
#ifndef RB_EVALUATE_NEEDLES_JSON_H
#define RB_EVALUATE_NEEDLES_JSON_H

#include <cjson/cJSON.h>

#include "texts/needle_documents.h"

/* {"n", "n_right", "by_task": [{"task", "n", "n_right"}, ..], "by_context": [{"context", ..}, ..], "by_depth":
 * [{"depth", ..}, ..]}: groups are in the order of their first document; a context or depth that a document does not
 * have is null. Beside every n_right stands "n_unquantized", how many the unquantized run finds. Documents of another
 * kind than needles are left out. is_right, is_unquantized_right
 * [documents->n]. */
rb_status needles_to_json(cJSON **out, const bool *is_right, const bool *is_unquantized_right,
                          const needle_documents *documents, rb_error *err);

#endif
