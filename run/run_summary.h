/* What `ropebits run` prints when all stages are done: for a person, or as one JSON document. */
#ifndef RB_RUN_RUN_SUMMARY_H
#define RB_RUN_RUN_SUMMARY_H

#include "run/pipeline.h"

/* Reads the summary and the plan from the folder and prints to stdout. */
rb_status run_summary_print(const pipeline_config *config, const char *folder, const bool ran[PIPELINE_N_STAGES],
                            bool as_json, rb_error *err);

#endif
