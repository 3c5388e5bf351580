/* The work of `ropebits score`: finished plans on captures, every plan on every capture. */
#ifndef RB_PROFILE_SCORE_RUN_H
#define RB_PROFILE_SCORE_RUN_H

#include "core/program.h"

typedef struct score_options {
    rb_string_list plans; /* plan.json or plan.rbp */
} score_options;

/* context: score_options; positionals: captures of the plans' model. Captures are opened one after the other, each
 * once; memory is that of profile_score. */
rb_status score_run(const rb_run_args *args, rb_error *err);

#endif
