/* Which needle template suits a model: the one by which the unquantized model finds most. A score by a template that it
 * does not understand says nothing about a plan. */
#ifndef RB_EVALUATE_NEEDLE_CHOICE_H
#define RB_EVALUATE_NEEDLE_CHOICE_H

#include <cjson/cJSON.h>

#include "evaluate/evaluate_inputs.h"
#include "evaluate/evaluate_request.h"

#define NEEDLE_TEMPLATE_AUTO "auto"
/* About so many documents of every template are tried, spread over the tasks, contexts and depths that are asked for.
 */
enum { NEEDLE_CHOICE_DOCUMENTS = 24, NEEDLE_CHOICE_MAX = 16 };

typedef struct needle_trial {
    const char *name;   /* of a built-in template */
    int64_t n, n_right; /* documents, and those that the unquantized model answers */
    double nll;         /* mean over their answer tokens, nats */
} needle_trial;

typedef struct needle_choice {
    int n, best;
    needle_trial trials[NEEDLE_CHOICE_MAX]; /* in the order of the names */
} needle_choice;

/* Most right answers; of equal ones the least nll. A template that needs longer documents is no choice. `how` says on
 * what the model runs; its text, plans and documents are not used. The documents tried are the first ones of those that
 * the options ask for. Fails like evaluate_plans. */
rb_status needle_choice_make(needle_choice *out, const evaluate_inputs *inputs, const evaluate_options *options,
                             const evaluate_request *how, rb_error *err);

/* Adds "needle_templates" to an object: [{"name", "n", "n_right", "nll"}, ..]. */
rb_status needle_choice_to_json(cJSON *json, const needle_choice *choice, rb_error *err);

#endif
