/* The pipeline file of `ropebits run` (docs/run.md): which model and texts, and the options of each stage.
 *
 *   { "schema": "ropebits-pipeline", "version": 1,
 *     "model": "demo-llama", "text": "demo-text/calibration.txt", "test_text": "demo-text/heldout.txt",
 *     "calibrate": {"n_tokens": 2048, "context": 1024},
 *     "profile":   {"budgets": [2, 3, 4], "methods": ["uniform", "block-gtq"]},
 *     "allocate":  {"method": "block-gtq", "avg_bits": 3, "value_bits": 3, "rotation": "haar"},
 *     "export":    {"formats": ["rbp", "header", "safetensors"]} }
 *
 * Paths are relative to the file's folder. model, text, allocate.method and allocate.avg_bits are required; the rest
 * has the stage's own default. Unknown members are errors. */
#ifndef RB_RUN_PIPELINE_CONFIG_H
#define RB_RUN_PIPELINE_CONFIG_H

#include "core/status.h"

/* Every field is a string as it goes on a stage's command line; NULL leaves the stage's default. Owned. */
typedef struct pipeline_config {
    char *model, *text, *test_text;
    char *n_tokens, *n_test_tokens, *context, *dtype;
    char *budgets, *methods;
    char *method, *avg_bits, *value_bits, *rotation;
    char *formats;
} pipeline_config;

rb_status pipeline_config_read(pipeline_config *out, const char *path, rb_error *err);
void pipeline_config_free(pipeline_config *config);

#endif
