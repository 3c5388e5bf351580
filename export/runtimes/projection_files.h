/* A projection in the runtime's own form: a file that it reads or a command line, with what it was made for, what it
 * cannot say, and its loss layer by layer in its comments. docs/runtimes.md says how each is used. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_FILES_H
#define RB_EXPORT_RUNTIMES_PROJECTION_FILES_H

#include "export/runtimes/projection_loss.h"

/* A projection and what it cost; borrowed. */
typedef struct projection_report {
    const bit_plan *plan;
    const projection *projection;
    const char *plan_name;
    const head_losses *plan_losses, *losses; /* of the plan and of the projection; their arrays NULL: not measured */
} projection_report;

/* The mean over the heads of a layer, or over all (layer -1), of losses [n_layers][n_kv_heads]. */
double mean_loss(const double *losses, const model_facts *model, int layer);

/* The name of the runtime's file; %s is the stem of the plan's. */
const char *projection_file_format(runtime_id id);
/* Atomic. */
rb_status projection_write(const projection_report *report, const char *path, rb_error *err);

#endif
