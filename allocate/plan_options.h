/* What is asked of a plan besides its size: the options that `allocate` and `tune` share, and the plans that they make.
 */
#ifndef RB_ALLOCATE_PLAN_OPTIONS_H
#define RB_ALLOCATE_PLAN_OPTIONS_H

#include "allocate/value_options.h"
#include "core/options.h"
#include "methods/optimal.h"

typedef struct plan_options {
    int method;               /* allocation_method; -1: not given */
    int64_t n_sink, n_recent; /* n_sink: or SINK_AUTO */
    value_options values;
    bool equal_heads; /* of method trellis and of its values */
    int rotation;     /* rotation_kind, of the keys */
    /* Only methods that are not published have these. */
    bool center, no_equalize;
    int norm, encoder, codebook, scope;
    int64_t max_groups, gain_bits;
    double least_share; /* NAN: the method's own */
    rb_number_list widths;
} plan_options;

plan_options plan_options_default(void); /* no method */

/* Rows for the table of a program, all but that of the method, which point into `options`. Returns how many. */
enum { PLAN_OPTIONS_N_ROWS = 18 };
int plan_options_rows(rb_option rows[PLAN_OPTIONS_N_ROWS], plan_options *options);

/* What they mean for a method that is not published; with --center, optimal becomes optimal-center. RB_EUSAGE where
 * they do not go together, or would do nothing. */
rb_status plan_options_resolve(optimal_options *out, allocation_method *method, const plan_options *options,
                               rb_error *err);

/* The first tokens of a sequence that stay fp16: methods as published keep none unless they are asked to. */
int64_t plan_options_sinks(const plan_options *options, bool is_published, const profile_table *profile);
/* Warns of statistics that are not of what is quantized. */
void plan_options_warn_of_sinks(int64_t n_sink, const profile_table *profile);

#endif
