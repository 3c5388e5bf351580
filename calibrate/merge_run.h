/* The work of `ropebits merge`: captures of one model -> one capture. */
#ifndef RB_CALIBRATE_MERGE_RUN_H
#define RB_CALIBRATE_MERGE_RUN_H

#include "core/program.h"

typedef struct merge_options {
    const char *output;
    int64_t max_tokens; /* of each set, to store; 0: all */
    int64_t every;      /* store every K-th sequence; 1: all */
} merge_options;

/* context: merge_options; positionals: the captures. Memory: one layer's queries, keys and values of all that is
 * stored, and the largest of these of one part. */
rb_status merge_run(const rb_run_args *args, rb_error *err);

#endif
