/* The work of `ropebits import`: queries, keys and values that another program captured -> capture.h5. */
#ifndef RB_CALIBRATE_IMPORT_RUN_H
#define RB_CALIBRATE_IMPORT_RUN_H

#include "calibrate/calibrate_run.h"

typedef struct import_options {
    rb_string_list tests;                 /* files of the test set; none: the same files as the calibration set's */
    const char *q_name, *k_name, *v_name; /* calibrate/import_layout.h */
    const char *tokens_name;              /* of the token ids */
    int64_t n_test_tokens;                /* above 0: the last tokens of the calibration set are the test set */
    int64_t context;                      /* 0: a set is one sequence */
    const char *config;                   /* config.json; NULL: none */
    const char *model_type;               /* NULL: as config or metadata say */
    int pairing;                          /* rope_pairing; -1: as config says */
    double rope_theta;                    /* NaN: as config or inv_freq say */
    int64_t rotary_dim;                   /* 0: as config or inv_freq say, or head_dim */
    double attention_scale;               /* NaN: as config says, or 1 / sqrt(head_dim) */
    int dtype;                            /* capture_dtype */
    const char *output;
} import_options;

#define IMPORT_Q_NAME      "layer_%03d.q"
#define IMPORT_K_NAME      "layer_%03d.k"
#define IMPORT_V_NAME      "layer_%03d.v"
#define IMPORT_TOKENS_NAME "tokens"

/* context: import_options; positionals: the files of the calibration set. */
rb_status import_run(const rb_run_args *args, rb_error *err);

#endif
