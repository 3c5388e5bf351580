/* What `ropebits generate` reads: model, plan, tokenizer, prompt. */
#ifndef RB_GENERATE_GENERATE_INPUTS_H
#define RB_GENERATE_GENERATE_INPUTS_H

#include "generate/sampler.h"
#include "model/checkpoint.h"
#include "model/model_eos.h"
#include "model/tokenizer/tokenizer.h"
#include "plan/bit_plan.h"
#include "texts/token_source.h"

typedef enum kv_choice { KV_PLAN, KV_FP16 } kv_choice;

typedef struct generate_options {
    const char *model, *plan, *prompt, *prompt_file, *tokens;
    int64_t max_tokens, chunk, top_k, seed;
    double temperature, top_p;
    int kv;        /* kv_choice */
    int precision; /* layer_cuda_precision */
    bool no_bos, ignore_eos;
} generate_options;

/* 256 tokens, chunks of 512, greedy. */
generate_options generate_options_default(void);

typedef struct generate_inputs {
    checkpoint *model;
    bit_plan *plan;   /* NULL: fp16 */
    tokenizer *words; /* NULL where the model has none, and the prompt is ids */
    token_list prompt;
    eos_tokens ends; /* none with --ignore-eos */
} generate_inputs;

/* Freed with generate_inputs_free, also after a failure. Fails with RB_EUSAGE on options that exclude each other, and
 * with RB_EINVAL on a prompt without tokens, or one that with max_tokens is longer than the model takes. */
rb_status generate_inputs_read(generate_inputs *out, const generate_options *options, rb_error *err);
void generate_inputs_free(generate_inputs *inputs);

#endif
