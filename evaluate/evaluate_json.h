/* The result of `ropebits evaluate` as a document (docs/evaluate.md); its reader is evaluate/evaluation_file.h. */
#ifndef RB_EVALUATE_EVALUATE_JSON_H
#define RB_EVALUATE_EVALUATE_JSON_H

#include <cjson/cJSON.h>

#include "evaluate/evaluate_run.h"
#include "evaluate/evaluation_file.h"

/* names [n_plans]: names of the plans' files. text: the text that was run; documents_sha256: "" without documents.
 * Takes ownership of options and sets it to NULL, also on failure. */
rb_status evaluate_to_json(cJSON **out, const evaluate_result *result, const evaluate_request *request,
                           char (*names)[EVALUATION_NAME_SIZE], const text_facts *text, const char *documents_sha256,
                           cJSON **options, rb_error *err);

#endif
