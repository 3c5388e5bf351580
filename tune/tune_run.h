/* `ropebits tune`: makes plans, evaluates them pass by pass, and keeps what it finds. */
#ifndef RB_TUNE_TUNE_RUN_H
#define RB_TUNE_TUNE_RUN_H

#include "allocate/plan_options.h"
#include "core/program.h"
#include "evaluate/evaluate_options.h"
#include "tune/tune_log.h"

typedef struct tune_options {
    plan_options plan;
    evaluate_options evaluate;
    tune_limits limits;
    double from, to;  /* total bits; NaN: what the method can do */
    double tolerance; /* percent of the bytes a token */
    int64_t max_evaluations, at_once;
    const char *profile, *log, *output; /* log: NULL for none */
} tune_options;

/* The search to its end. The log, when there is one, is read first and written after every pass; `log` has all points
 * then, also where none holds. The plan of the answer is written to options->output; without an answer nothing is.
 * Fails as the reading of what the options name, plan_maker_make and evaluate_plans; RB_EMISMATCH: profile and
 * checkpoint are of different models, or the log is of another request. `log` is freed with tune_log_free, also after a
 * failure. */
rb_status tune_run(tune_log *log, const tune_options *options, const rb_common_options *common, rb_error *err);

#endif
