/* What `ropebits evaluate` is asked for, and what it reads for that. */
#ifndef RB_EVALUATE_EVALUATE_INPUTS_H
#define RB_EVALUATE_EVALUATE_INPUTS_H

#include "core/options.h"
#include "model/checkpoint.h"
#include "model/tokenizer/tokenizer.h"
#include "plan/bit_plan.h"
#include "texts/needle_documents.h"
#include "texts/token_source.h"

enum { EVALUATE_AS_PLANNED = -1 };

typedef struct evaluate_options {
    const char *model, *text, *haystack, *needle_template, *documents, *write_documents, *output;
    rb_string_list plans, needle_tasks;
    rb_number_list needle_contexts, depths;
    int64_t n_tokens, context, n_needles, seed, attention_stride, n_worst_tokens, max_gpu_bytes;
    int64_t n_sink, n_recent; /* instead of the plans'; EVALUATE_AS_PLANNED: the plans' */
    int precision;            /* layer_cuda_precision */
    int bos;                  /* bos_choice */
    bool keys_only, values_only;
} evaluate_options;

/* What a run is made from. */
typedef struct evaluate_inputs {
    checkpoint *model;
    bit_plan *plans[RB_MAX_LIST];
    const char *names[RB_MAX_LIST];
    tokenizer *words;
    token_list text; /* with the beginning-of-text tokens that facts tell of */
    text_facts facts;
    needle_documents documents;
    char documents_sha256[RB_SHA256_HEX];
} evaluate_inputs;

/* Reads model, tokenizer, text, documents and plans, and writes the documents where that is asked for. The
 * options' n_sink and n_recent become the plans', and a line says so. Warns of a plan whose calibration text had its
 * beginning-of-text tokens elsewhere. Freed with evaluate_inputs_free, also after a
 * failure. */
rb_status evaluate_inputs_read(evaluate_inputs *out, const evaluate_options *options, rb_error *err);
void evaluate_inputs_free(evaluate_inputs *inputs);

#endif
