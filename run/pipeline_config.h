/* The pipeline file of `ropebits run` (docs/run.md): which model and texts, and the options of each stage.
 *
 *   { "schema": "ropebits-pipeline", "version": 1,
 *     "model": "demo-llama", "text": "demo-text/calibration.txt", "test_text": "demo-text/heldout.txt",
 *     "calibrate": {"n_tokens": 2048, "context": 1024, "with_needles": true},
 *     "profile":   {"budgets": [2, 3, 4], "methods": ["uniform", "block-gtq"]},
 *     "allocate":  {"method": "block-gtq", "avg_bits": 3, "value_bits": 3, "rotation": "haar"},
 *     "export":    {"formats": ["rbp", "header", "safetensors"]},
 *     "evaluate":  {"budgets": [2, 3], "methods": ["uniform", "block-gtq"], "n_tokens": 4096, "context": 984,
 *                   "needles": 24},
 *     "compare":   {"max_regression": {"kl_mean": 5}, "max_growth": 0, "max_needles_lost": 1} }
 *
 * Members of a section are the options of that stage's program, with _ for -; one table in pipeline_config.c has them
 * all, so that a new option is a row. "bos" at the top is --bos of calibrate and evaluate. "text" may be a list of
 * strings, each a path or "PATH:weight" (core/weighted_path.h); needle_template is a built-in template's name or a
 * path; a path has a '/' or '.' in it. Paths are relative to the file's folder. Required are model, text (or
 * calibrate.tokens), allocate.method and one budget of allocate; everything else has the stage's default. Without
 * "evaluate" nothing is evaluated. With it, its budgets and methods are required, or "plan": true, which judges
 * plan.json itself, and also its "text" where there is no test_text. "notes", a string or a list of strings, is for
 * people. Unknown members are errors. */
#ifndef RB_RUN_PIPELINE_CONFIG_H
#define RB_RUN_PIPELINE_CONFIG_H

#include <stdbool.h>

#include "core/options.h"
#include "core/status.h"

enum { PIPELINE_MAX_TEXTS = RB_MAX_LIST, PIPELINE_MAX_MEMBERS = 128 };

typedef enum pipeline_member_kind {
    MEMBER_PATH,     /* relative to the file's folder; an input of its stage */
    MEMBER_PATHS,    /* the texts */
    MEMBER_TEMPLATE, /* a built-in name, or a path */
    MEMBER_TEXT,
    MEMBER_NUMBER,
    MEMBER_NUMBER_OR_WORD,
    MEMBER_FLAG,   /* true gives the option */
    MEMBER_LIMITS, /* a number, or an object of numbers by metric: 1, or "logit_mae=1,kl_mean=5" */
    MEMBER_LIST    /* of numbers or strings */
} pipeline_member_kind;

/* Where a member stands, and what becomes of it. */
typedef struct pipeline_member {
    const char *section, *key; /* section NULL: at the top */
    pipeline_member_kind kind;
    const char *option; /* of the section's program, without --; NULL: pipeline.c makes something of it */
} pipeline_member;

extern const pipeline_member pipeline_members[];
extern const int pipeline_n_members;

typedef struct pipeline_texts {
    int n;
    char *at[PIPELINE_MAX_TEXTS]; /* in the form of --text */
} pipeline_texts;

typedef struct pipeline_config {
    pipeline_texts texts; /* owned */
    bool evaluates;       /* has a section evaluate */
    /* Of every row of pipeline_members in the form of a command line, "" for a flag; NULL: absent, or false. Owned. */
    char *values[PIPELINE_MAX_MEMBERS];
} pipeline_config;

/* The value of a member that the table has; NULL: the stage's default. */
const char *pipeline_value(const pipeline_config *config, const char *section, const char *key);

rb_status pipeline_config_read(pipeline_config *out, const char *path, rb_error *err);
void pipeline_config_free(pipeline_config *config);

#endif
