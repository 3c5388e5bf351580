/* See generate/generate_inputs.h. */
#include "generate/generate_inputs.h"

#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/message.h"
#include "model/model_tokenizer.h"
#include "plan/plan_read.h"
#include "texts/sequences.h"

enum { MAX_PROMPT_BYTES = 1 << 28 };

generate_options generate_options_default(void)
{
    return (generate_options){.max_tokens = 256, .chunk = 512, .top_p = 1, .seed = 1, .kv = KV_PLAN};
}

void generate_inputs_free(generate_inputs *in)
{
    token_list_free(&in->prompt);
    tokenizer_close(in->words);
    bit_plan_free(in->plan);
    checkpoint_close(in->model);
}

static rb_status check_options(const generate_options *opt, rb_error *err)
{
    const int n_prompts = (opt->prompt != NULL) + (opt->prompt_file != NULL) + (opt->tokens != NULL);
    if (n_prompts != 1)
        return rb_fail(err, RB_EUSAGE, "%s, expected one of --prompt, --prompt-file and --tokens",
                       n_prompts == 0 ? "there is no prompt" : "there are several prompts");
    if (opt->kv == KV_PLAN && !opt->plan)
        return rb_fail(err, RB_EUSAGE, "there is no --plan, expected one, or --kv fp16 for a cache in fp16");
    if (opt->kv == KV_FP16 && opt->plan) return rb_fail(err, RB_EUSAGE, "--plan and --kv fp16 exclude each other");
    if (opt->temperature == 0 && (opt->top_k > 0 || opt->top_p < 1))
        return rb_fail(err, RB_EUSAGE,
                       "--top-k and --top-p are of draws, and --temperature is 0: the most likely token "
                       "is taken");
    return RB_OK;
}

/* ---- the prompt ------------------------------------------------------------------------------ */

static rb_status encode(generate_inputs *in, const generate_options *opt, const char *text, size_t length,
                        rb_error *err)
{
    const model_config *config = checkpoint_config(in->model);
    text_bos bos = {0};
    token_list plain = {0};
    rb_status st;
    RB_TRY(st,
           sequences_choose_bos(&bos, opt->no_bos ? BOS_CHOICE_NONE : BOS_CHOICE_AUTO, false, opt->model, in->words,
                                model_config_max_context(config), config->vocab_size, err),
           done);
    RB_TRY(st, tokenizer_encode(in->words, text, length, &plain.ids, &plain.n, err), done);
    in->prompt.n = bos.tokens.n + plain.n;
    RB_TRY(st, rb_alloc(&in->prompt.ids, (size_t)in->prompt.n, sizeof *in->prompt.ids, "prompt", err), done);
    memcpy(in->prompt.ids, bos.tokens.ids, (size_t)bos.tokens.n * sizeof *in->prompt.ids);
    memcpy(in->prompt.ids + bos.tokens.n, plain.ids, (size_t)plain.n * sizeof *in->prompt.ids);
done:
    token_list_free(&plain);
    return st;
}

static rb_status read_prompt(generate_inputs *in, const generate_options *opt, rb_error *err)
{
    const char *name = opt->tokens ? opt->tokens : opt->prompt_file ? opt->prompt_file : "--prompt";
    char *text = NULL;
    size_t length = 0;
    rb_status st;
    if (opt->tokens) {
        RB_TRY(st, tokens_from_file(&in->prompt, opt->tokens, err), done);
    } else if (opt->prompt_file) {
        RB_TRY(st, rb_read_file(&text, &length, opt->prompt_file, MAX_PROMPT_BYTES, err), done);
        RB_TRY(st, encode(in, opt, text, length, err), named);
    } else {
        RB_TRY(st, encode(in, opt, opt->prompt, strlen(opt->prompt), err), named);
    }
    if (in->prompt.n == 0) st = rb_fail(err, RB_EINVAL, "%s: gives no tokens, expected at least one", name);
    else st = tokens_check(in->prompt.ids, in->prompt.n, checkpoint_config(in->model)->vocab_size, name, err);
    goto done;
named:
    rb_fail_in(err, st, "%s", name);
done:
    free(text);
    return st;
}

static rb_status check_length(const generate_inputs *in, const generate_options *opt, rb_error *err)
{
    const int64_t longest = model_config_max_context(checkpoint_config(in->model));
    if (in->prompt.n + opt->max_tokens <= longest) return RB_OK;
    return rb_fail(err, RB_EINVAL,
                   "the prompt's %lld tokens and --max-tokens %lld are %lld, expected at most the model's "
                   "max_position_embeddings of %lld",
                   (long long)in->prompt.n, (long long)opt->max_tokens, (long long)(in->prompt.n + opt->max_tokens),
                   (long long)longest);
}

/* ---- all of it ------------------------------------------------------------------------------- */

static rb_status read_plan(generate_inputs *in, const generate_options *opt, rb_error *err)
{
    rb_status st;
    if (!opt->plan) return RB_OK;
    RB_TRY(st, plan_read_to_code(&in->plan, opt->plan, err), done);
    st = model_facts_same(&in->plan->model, opt->plan, &checkpoint_config(in->model)->facts, opt->model, err);
done:
    return st;
}

rb_status generate_inputs_read(generate_inputs *in, const generate_options *opt, rb_error *err)
{
    rb_status st;
    *in = (generate_inputs){0};
    RB_TRY(st, check_options(opt, err), done);
    RB_TRY(st, checkpoint_open(&in->model, opt->model, err), done);
    if (!opt->tokens || tokenizer_is_there(opt->model))
        RB_TRY(st, tokenizer_open_model(&in->words, opt->model, err), done);
    RB_TRY(st, read_prompt(in, opt, err), done);
    RB_TRY(st, check_length(in, opt, err), done);
    RB_TRY(st, checkpoint_set_longest(in->model, in->prompt.n + opt->max_tokens, err), done);
    RB_TRY(st, read_plan(in, opt, err), done);
    if (!opt->ignore_eos) st = model_eos_find(&in->ends, opt->model, err);
    if (st == RB_OK) checkpoint_warn_quantized(in->model);
done:
    return st;
}
