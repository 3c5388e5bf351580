/* The pipeline file of `ropebits run` (docs/run.md): which model and texts, and the options of each stage.
 *
 *   { "schema": "ropebits-pipeline", "version": 1,
 *     "model": "demo-llama", "text": "demo-text/calibration.txt", "test_text": "demo-text/heldout.txt",
 *     "calibrate": {"n_tokens": 2048, "context": 1024, "with_needles": true},
 *     "profile":   {"budgets": [2, 3, 4], "methods": ["uniform", "block-gtq"]},
 *     "allocate":  {"method": "block-gtq", "avg_bits": 3, "value_bits": 3, "rotation": "haar"},
 *     "export":    {"formats": ["rbp", "header", "safetensors"]},
 *     "evaluate":  {"budgets": [2, 3], "methods": ["uniform", "block-gtq"], "n_tokens": 4096, "context": 984,
 *                   "needles": 24} }
 *
 * "bos" at the top is --bos of calibrate and evaluate. "text" may be a list of strings, each a path or "PATH:weight"
 * (core/weighted_path.h); needle_template is a built-in template's name or a path; a path has a '/' or '.' in it. Paths
 * are relative to the file's folder. model, text, allocate.method and allocate.avg_bits are required; everything else
 * has the stage's default. Without "evaluate" nothing is evaluated. With it, its budgets and methods are required, and
 * also its "text" where there is no test_text. "notes", a string or a list of strings, is for people. Unknown members
 * are errors. */
#ifndef RB_RUN_PIPELINE_CONFIG_H
#define RB_RUN_PIPELINE_CONFIG_H

#include <stdbool.h>

#include "core/options.h"
#include "core/status.h"

enum { PIPELINE_MAX_TEXTS = RB_MAX_LIST };

typedef struct pipeline_texts {
    int n;
    char *at[PIPELINE_MAX_TEXTS]; /* in the form of --text */
} pipeline_texts;

/* Every string is in the form of a stage's command line; NULL leaves the stage's default. Owned. */
typedef struct pipeline_config {
    char *model, *test_text;
    char *bos; /* of calibrate and evaluate */
    pipeline_texts texts;
    bool with_needles, values;
    char *needle_share, *needle_template;
    char *n_tokens, *n_test_tokens, *context, *dtype;
    char *budgets, *methods, *profile_sink;
    char *sink, *recent; /* of every plan */
    char *method, *avg_bits, *value_bits, *value_per, *rotation;
    char *formats;
    struct {
        char *budgets, *methods; /* NULL: no evaluation */
        char *text, *haystack;
        char *n_tokens, *context, *needles, *needle_tasks, *needle_template, *understanding, *sink, *recent;
    } evaluate;
} pipeline_config;

rb_status pipeline_config_read(pipeline_config *out, const char *path, rb_error *err);
void pipeline_config_free(pipeline_config *config);

#endif
