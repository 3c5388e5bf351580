/* What `ropebits evaluate` is asked for, and the options that `tune` shares with it. */
#ifndef RB_EVALUATE_EVALUATE_OPTIONS_H
#define RB_EVALUATE_EVALUATE_OPTIONS_H

#include "core/options.h"

enum { EVALUATE_AS_PLANNED = -1, EVALUATE_TOKENS = 8192 };

typedef struct evaluate_options {
    const char *model, *text, *haystack, *needle_template, *documents, *write_documents, *output;
    rb_string_list plans, needle_tasks, understanding_tasks;
    rb_number_list needle_contexts, depths, understanding_contexts;
    int64_t n_tokens, context, n_needles, n_understanding, seed, attention_stride, n_worst_tokens, max_gpu_bytes;
    int64_t n_sink, n_recent; /* instead of the plans'; EVALUATE_AS_PLANNED: the plans' */
    int precision;            /* layer_cuda_precision */
    int bos;                  /* bos_choice */
    bool keys_only, values_only;
} evaluate_options;

/* 8192 tokens, needles of task multikey and the template that suits the model where they are asked for, all tasks of
 * understanding, every 16th query, what the plans keep exact. */
evaluate_options evaluate_options_default(void);

/* Rows for the table of a program, which point into `options`. Each returns how many. */
enum { EVALUATE_TEXT_N_ROWS = 5, EVALUATE_NEEDLES_N_ROWS = 7, EVALUATE_DEVICE_N_ROWS = 2 };
int evaluate_text_rows(rb_option rows[EVALUATE_TEXT_N_ROWS], evaluate_options *options); /* the model and its text */
int evaluate_needles_rows(rb_option rows[EVALUATE_NEEDLES_N_ROWS], evaluate_options *options);
int evaluate_device_rows(rb_option rows[EVALUATE_DEVICE_N_ROWS], evaluate_options *options);

#endif
