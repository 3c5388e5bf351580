/* All that a pass needs, from options: what is read, the device, the needle template, the request. */
#ifndef RB_EVALUATE_EVALUATE_SETUP_H
#define RB_EVALUATE_EVALUATE_SETUP_H

#include "core/program.h"
#include "evaluate/evaluate_inputs.h"
#include "evaluate/evaluate_request.h"
#include "evaluate/needle_choice.h"

typedef struct evaluate_setup {
    evaluate_inputs in;
    rb_device_kind device;
    bool is_auto;             /* the template is chosen: */
    needle_choice choice;     /* what the unquantized model finds by each; empty otherwise */
    evaluate_request request; /* of all plans; points into this struct, which must stay where it is */
} evaluate_setup;

/* Runs the unquantized model where it chooses the template. Freed with evaluate_setup_free, also after a failure. */
rb_status evaluate_setup_make(evaluate_setup *out, const evaluate_options *options, const rb_common_options *common,
                              rb_error *err);
void evaluate_setup_free(evaluate_setup *setup);
/* The name or file of the template that words the needles. */
const char *evaluate_setup_template(const evaluate_setup *setup, const evaluate_options *options);
/* Warns where perplexity and KL are of so few tokens that they tell nothing of a plan. */
void evaluate_setup_tell_text(int64_t n_predicted);
/* Says how many needles the unquantized model finds, n_right, and warns where that is less than half: a needle score
 * without a competent model says nothing about a plan. Warns of few needles too. Nothing without needles. */
void evaluate_setup_tell_needles(const evaluate_setup *setup, const evaluate_options *options, int64_t n_right);

#endif
