/* What an evaluation reads for what it is asked for. */
#ifndef RB_EVALUATE_EVALUATE_INPUTS_H
#define RB_EVALUATE_EVALUATE_INPUTS_H

#include "evaluate/evaluate_options.h"
#include "evaluate/evaluation_file.h"
#include "model/checkpoint.h"
#include "model/tokenizer/tokenizer.h"
#include "plan/bit_plan.h"
#include "texts/needle_documents.h"
#include "texts/token_source.h"

/* What a run is made from. */
typedef struct evaluate_inputs {
    checkpoint *model;
    bit_plan *plans[RB_MAX_LIST];
    char names[RB_MAX_LIST][EVALUATION_NAME_SIZE];
    tokenizer *words;
    token_list text; /* with the beginning-of-text tokens that facts tell of */
    text_facts facts;
    needle_documents documents; /* needles, then understanding */
    char documents_sha256[RB_SHA256_HEX];
} evaluate_inputs;

/* Reads model, tokenizer, text, documents and plans; needles are worded by `needle_template`,
 * or, where it is NULL, by some built-in one that fits their contexts, until another is chosen. The options' n_sink and
 * n_recent become the plans', and a line says so. Warns of a plan whose calibration text had its beginning-of-text
 * tokens elsewhere. Freed with evaluate_inputs_free, also after a
 * failure. */
rb_status evaluate_inputs_read(evaluate_inputs *out, const evaluate_options *options, const char *needle_template,
                               rb_error *err);
/* Reads or makes the documents again, by another template. */
rb_status evaluate_inputs_make_documents(evaluate_inputs *inputs, const evaluate_options *options,
                                         const char *needle_template, rb_error *err);
/* n_repeats needle documents for each task, context and depth that the options ask for. They belong to the caller. */
rb_status evaluate_inputs_make_needles(needle_documents *out, const evaluate_inputs *inputs,
                                       const evaluate_options *options, const char *needle_template, int64_t n_repeats,
                                       rb_error *err);
/* Warns of a plan, whose file is `path`, that was calibrated on a text that begins otherwise than this one. */
void evaluate_inputs_warn_of_bos(const char *path, const text_bos *plan, const text_bos *text);
void evaluate_inputs_free(evaluate_inputs *inputs);

#endif
