/* The work of `ropebits calibrate`: checkpoint + texts -> capture.h5. */
#ifndef RB_CALIBRATE_CALIBRATE_RUN_H
#define RB_CALIBRATE_CALIBRATE_RUN_H

#include "core/program.h"

typedef enum calibrate_precision { CALIBRATE_BF16, CALIBRATE_F32 } calibrate_precision;
typedef enum capture_dtype { CAPTURE_DTYPE_F16, CAPTURE_DTYPE_F32 } capture_dtype;

typedef struct calibrate_options {
    const char *model;    /* checkpoint folder */
    rb_string_list texts; /* calibration texts, "FILE" or "FILE:weight" (core/weighted_path.h) */
    const char *test_text;
    const char *tokens, *test_tokens; /* id files instead of texts */
    int64_t n_tokens;                 /* tokens of the calibration text */
    int64_t n_test_tokens;            /* 0: as many as n_tokens */
    int bos;                          /* bos_choice (texts/sequences.h) */
    int64_t context;                  /* 0: TOKENS_CONTEXT or the model's maximum, whichever is less */
    bool with_needles;                /* part of the calibration sequences are needle documents */
    double needle_share;              /* the part of the sequences that are */
    const char *needle_template;      /* texts/needle_template.h */
    int dtype;                        /* capture_dtype */
    int precision;                    /* calibrate_precision, for the GPU's products */
    int64_t max_gpu_bytes;            /* 0: what is free */
    bool values;                      /* store V too */
    bool hash_weights;
    bool dry_run;
    bool no_resume;    /* leave nothing to continue from, and continue nothing (calibrate/capture_parts.h) */
    const char *shard; /* calibrate/shard.h */
    const char *output;
} calibrate_options;

enum { CALIBRATE_N_TOKENS = 2048 };
#define CALIBRATE_NEEDLE_SHARE 0.25

/* context: calibrate_options. */
rb_status calibrate_run(const rb_run_args *args, rb_error *err);

#endif
