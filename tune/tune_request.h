/* What the numbers of a point depend on: the same request gives the same points. Limits, range and the number of
 * evaluations are not in it, so they may change from run to run of one log. */
#ifndef RB_TUNE_TUNE_REQUEST_H
#define RB_TUNE_TUNE_REQUEST_H

#include <cjson/cJSON.h>

#include "evaluate/evaluate_setup.h"
#include "tune/tune_run.h"

/* { "profile_sha256", "model", "text", "device", "options": by their names on the command line, "documents_sha256" } */
rb_status tune_request_to_json(cJSON **out, const tune_options *options, const evaluate_setup *setup, rb_error *err);

/* The needle template that a request was made with; NULL: none. Borrowed from the request. */
const char *tune_request_template(const cJSON *request);

#endif
