/* The projections of one export: made, measured, written, told. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_RUN_H
#define RB_EXPORT_RUNTIMES_PROJECTION_RUN_H

#include <cjson/cJSON.h>

#include "export/runtimes/projection_files.h"

typedef struct projection_run {
    const bit_plan *plan;
    const char *plan_name;
    int n;
    projection *at[RUNTIME_N];         /* owned */
    head_losses losses[1 + RUNTIME_N]; /* the plan's, then each projection's */
} projection_run;

/* Projects the plan onto the runtimes ids [n], n from 0. With a capture the choice is by errors that are measured on
 * its calibration text, and the loss is measured on its test text; NULL: the choice is by bits, and no loss is known.
 * Zeroed before; cleared by the caller also after a failure. */
rb_status projection_run_create(projection_run *run, const bit_plan *plan, const char *plan_name, const runtime_id *ids,
                                int n, bool may_be_larger, const char *capture_path, rb_error *err);
void projection_run_clear(projection_run *run);

/* Of the runtime's projection, which the run has. */
rb_status projection_run_write(const projection_run *run, runtime_id id, const char *path, rb_error *err);

/* A row a runtime: bytes, logit MAE, error of values, before and after. */
void projection_run_print(FILE *out, const projection_run *run);
/* The same by layer as a list: {"runtime", "version", "plan_bytes_per_token", "bytes_per_token", "logit_mae", ...}. */
rb_status projection_run_to_json(cJSON **out, const projection_run *run, rb_error *err);

#endif
