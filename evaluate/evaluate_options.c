/* See evaluate_options.h. */
#include "evaluate/evaluate_options.h"

#include <string.h>

#include "evaluate/needle_choice.h"
#include "model/cuda/layer_cuda.h"
#include "texts/needle_documents.h"
#include "texts/sequences.h"
#include "texts/understanding_documents.h"

evaluate_options evaluate_options_default(void)
{
    evaluate_options opt = {.n_tokens = EVALUATE_TOKENS,
                            .needle_template = NEEDLE_TEMPLATE_AUTO,
                            .needle_tasks = {.n = 1, .at = {"multikey"}},
                            .understanding_tasks = {.n = UNDERSTANDING_N_TASKS},
                            .seed = 1,
                            .attention_stride = 16,
                            .n_sink = EVALUATE_AS_PLANNED,
                            .n_recent = EVALUATE_AS_PLANNED,
                            .n_worst_tokens = 5};
    memcpy(opt.understanding_tasks.at, understanding_task_names,
           UNDERSTANDING_N_TASKS * sizeof *understanding_task_names);
    return opt;
}

int evaluate_text_rows(rb_option rows[EVALUATE_TEXT_N_ROWS], evaluate_options *options)
{
    const rb_option own[EVALUATE_TEXT_N_ROWS] = {
        {.long_name = "model",
         .kind = RB_OPT_STRING,
         .value = &options->model,
         .metavar = "MODEL",
         .required = true,
         .help = "checkpoint: a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file"},
        {.long_name = "text",
         .kind = RB_OPT_STRING,
         .value = &options->text,
         .metavar = "FILE",
         .required = true,
         .help = "text for perplexity and KL, UTF-8"},
        {.long_name = "n-tokens",
         .kind = RB_OPT_INT,
         .value = &options->n_tokens,
         .metavar = "N",
         .min = 2,
         .max = 1 << 24,
         .help = "tokens of the text at most, without what begins its sequences"},
        {.long_name = "context",
         .kind = RB_OPT_INT,
         .value = &options->context,
         .metavar = "N",
         .min = 0,
         .max = 1 << 24,
         .help =
             "tokens of the text per sequence, without what begins it; 0: sequences of 2048, or the model's maximum "
             "where that is less"},
        {.long_name = "bos",
         .kind = RB_OPT_CHOICE,
         .value = &options->bos,
         .metavar = "WHERE",
         .choices = bos_choice_names,
         .help = "beginning-of-text token: in front of every sequence, of the text, or none; auto: of every sequence "
                 "where the model's tokenizer puts one in front of a text"},
    };
    memcpy(rows, own, sizeof own);
    return EVALUATE_TEXT_N_ROWS;
}

int evaluate_needles_rows(rb_option rows[EVALUATE_NEEDLES_N_ROWS], evaluate_options *options)
{
    const rb_option own[EVALUATE_NEEDLES_N_ROWS] = {
        {.long_name = "needles",
         .kind = RB_OPT_INT,
         .value = &options->n_needles,
         .metavar = "N",
         .min = 0,
         .max = 1 << 16,
         .help = "needle documents per task, context and depth; 0: none"},
        {.long_name = "needle-tasks",
         .kind = RB_OPT_STRINGS,
         .value = &options->needle_tasks,
         .metavar = "LIST",
         .choices = needle_task_names,
         .help = "what is asked (docs/needles.md)"},
        {.long_name = "needle-contexts",
         .kind = RB_OPT_NUMBERS,
         .value = &options->needle_contexts,
         .metavar = "LIST",
         .min = 1,
         .max = 1 << 24,
         .help = "tokens of a document; without it, the context of the text"},
        {.long_name = "depths",
         .kind = RB_OPT_NUMBERS,
         .value = &options->depths,
         .metavar = "LIST",
         .min = 0,
         .max = 1,
         .help = "places of the asked needle in the haystack, 0 to 1; without it, random ones"},
        {.long_name = "haystack",
         .kind = RB_OPT_STRING,
         .value = &options->haystack,
         .metavar = "FILE",
         .help = "text that hides the needles, and that the understanding documents are made of; without it, --text"},
        {.long_name = "needle-template",
         .kind = RB_OPT_STRING,
         .value = &options->needle_template,
         .metavar = "NAME",
         .help = "completion, plain, secret-number, or a file; auto: the built-in one by which the unquantized model "
                 "finds most"},
        {.long_name = "seed",
         .kind = RB_OPT_INT,
         .value = &options->seed,
         .metavar = "N",
         .min = 0,
         .max = 9007199254740992.0,
         .help = "of the needle documents"},
    };
    memcpy(rows, own, sizeof own);
    return EVALUATE_NEEDLES_N_ROWS;
}

int evaluate_device_rows(rb_option rows[EVALUATE_DEVICE_N_ROWS], evaluate_options *options)
{
    static const char *const precisions[] = {[LAYER_CUDA_BF16] = "bf16", [LAYER_CUDA_F32] = "f32", NULL};
    const rb_option own[EVALUATE_DEVICE_N_ROWS] = {
        {.long_name = "precision",
         .kind = RB_OPT_CHOICE,
         .value = &options->precision,
         .metavar = "TYPE",
         .choices = precisions,
         .help = "of the matrix products on a GPU; the CPU computes in f32"},
        {.long_name = "max-gpu-memory",
         .kind = RB_OPT_SIZE,
         .value = &options->max_gpu_bytes,
         .metavar = "SIZE",
         .help = "GPU memory to use at most, such as 12GiB; 0: what is free"},
    };
    memcpy(rows, own, sizeof own);
    return EVALUATE_DEVICE_N_ROWS;
}
