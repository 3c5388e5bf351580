/* The pipeline as stages: calibrate -> profile -> allocate -> export (-> evaluate) -> report, each of which runs only
 * when its inputs or options have changed. */
#ifndef RB_RUN_PIPELINE_H
#define RB_RUN_PIPELINE_H

#include <stdbool.h>

#include "core/program.h"
#include "run/pipeline_config.h"

/* Names of the files in the output folder. */
#define PIPELINE_CAPTURE    "capture.h5"
#define PIPELINE_PROFILE    "profile.h5"
#define PIPELINE_SUMMARY    "summary.json"
#define PIPELINE_PLAN       "plan.json"
#define PIPELINE_REPORT     "plan.html"
#define PIPELINE_EVALUATION "evaluation.json"

enum { PIPELINE_N_STAGES = 6 };
extern const char *const pipeline_stage_names[PIPELINE_N_STAGES];
/* Only evaluate may be absent: when the pipeline file has no such section. */
bool pipeline_has_stage(const pipeline_config *config, int stage_index);

/* ran[stage]: whether the stage was run; false where it was current. The folder is made. */
rb_status pipeline_run(const pipeline_config *config, const char *folder, const rb_common_options *common,
                       bool ran[PIPELINE_N_STAGES], rb_error *err);

/* Calls visit(user, path) for every file that the stages have written, in the order of stages, for the summary. */
rb_status pipeline_files(const pipeline_config *config, const char *folder, void (*visit)(void *user, const char *path),
                         void *user, rb_error *err);

#endif
