/* One step of the pipeline: a ropebits program, what it reads, what it writes, and whether it must run again.
 *
 * A stage is current when its stamp (OUT/.stages/NAME.json) holds the same command line, the same inputs (the program
 * file among them) and outputs that are still there unchanged. Files up to 64 MiB are compared by SHA-256, larger ones
 * by size and modification time. Inputs are looked at before the stage runs, and again after it: one that changed
 * meanwhile leaves the stage without a stamp of what it read. */
#ifndef RB_RUN_STAGE_H
#define RB_RUN_STAGE_H

#include <stdbool.h>

#include "core/status.h"

enum { STAGE_MAX_ARGS = 192, STAGE_MAX_FILES = 256 }; /* room for RB_MAX_LIST texts and a model's shards */

typedef struct stage {
    const char *name;    /* names the stamp, and the stage in messages */
    const char *program; /* "calibrate": runs ropebits-calibrate */
    const char *folder;  /* folder of the run's outputs; holds the stamps too */
    int n_args, n_inputs, n_outputs;
    char *args[STAGE_MAX_ARGS];    /* owned, without the program's name */
    char *inputs[STAGE_MAX_FILES]; /* owned paths */
    char *outputs[STAGE_MAX_FILES];
    char *json_output; /* where the program's --json document goes; owned; also one of the outputs */
} stage;

/* The program has the name of the stage, unless it is set afterwards. */
void stage_init(stage *s, const char *name, const char *folder);
void stage_free(stage *s);
rb_status stage_add_arg(stage *s, const char *arg, rb_error *err);
/* Adds "--name value" unless value is NULL. */
rb_status stage_add_option(stage *s, const char *name, const char *value, rb_error *err);
rb_status stage_add_input(stage *s, const char *path, rb_error *err);
/* Every regular file of the folder, in name order. */
rb_status stage_add_input_model(stage *s, const char *path, rb_error *err);
rb_status stage_add_output(stage *s, const char *name_in_folder, rb_error *err);
rb_status stage_set_json_output(stage *s, const char *name_in_folder, rb_error *err);
/* Full path of a file in the output folder; freed by free(). */
rb_status stage_path(char **out, const stage *s, const char *name_in_folder, rb_error *err);

/* Runs the stage unless it is current. run_args (NULL-terminated, e.g. --threads 2) do not change results and are not
 * recorded. *ran: whether it ran. A program that fails has said why on stderr; its exit code becomes the status, and
 * err names the stage. */
rb_status stage_run(const stage *s, const char *const *run_args, bool *ran, rb_error *err);

#endif
