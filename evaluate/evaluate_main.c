/* ropebits-evaluate: what plans do to the model, end to end. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "evaluate/attention_score.h"
#include "evaluate/evaluate_inputs.h"
#include "evaluate/evaluate_json.h"
#include "evaluate/evaluate_run.h"
#include "evaluate/needle_choice.h"
#include "texts/documents_file.h"
#include "texts/sequences.h"
#include "texts/understanding_documents.h"

enum { EVALUATE_TOKENS = 8192, MAX_WORST_TOKENS = 1000 };

static rb_status add_exact(cJSON *json, const char *name, int64_t n, rb_error *err)
{
    return n == EVALUATE_AS_PLANNED ? rb_json_add_string(json, name, "plan", err)
                                    : rb_json_add_number(json, name, (double)n, err);
}

static rb_status options_to_json(cJSON **out, const evaluate_options *opt, const needle_choice *choice,
                                 rb_device_kind device, rb_error *err)
{
    const struct {
        const char *name, *value;
    } texts[] = {
        {"model", opt->model}, {"text", opt->text}, {"haystack", opt->haystack}, {"documents", opt->documents}};
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"needles", opt->n_needles},
                   {"understanding", opt->n_understanding},
                   {"seed", opt->seed},
                   {"attention_stride", opt->attention_stride},
                   {"attention_top_k", ATTENTION_TOP_K},
                   {"worst_tokens", opt->n_worst_tokens}};
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    for (size_t i = 0; i < RB_COUNT(texts); i++)
        if (texts[i].value) RB_TRY(st, rb_json_add_string(*out, texts[i].name, texts[i].value, err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(*out, numbers[i].name, (double)numbers[i].value, err), done);
    RB_TRY(st, add_exact(*out, "sink", opt->n_sink, err), done);
    RB_TRY(st, add_exact(*out, "recent", opt->n_recent, err), done);
    RB_TRY(st, rb_json_add_string(*out, "bos", bos_choice_names[opt->bos], err), done);
    RB_TRY(st,
           rb_json_add_string(*out, "needle_template",
                              choice->n > 0 ? choice->trials[choice->best].name : opt->needle_template, err),
           done);
    if (choice->n > 0) RB_TRY(st, needle_choice_to_json(*out, choice, err), done);
    if (device == RB_DEVICE_CUDA)
        RB_TRY(st, rb_json_add_string(*out, "cuda_precision", opt->precision == LAYER_CUDA_F32 ? "f32" : "bf16", err),
               done);
    st = rb_json_add_string(*out, "quantized",
                            opt->keys_only     ? "keys"
                            : opt->values_only ? "values"
                                               : "keys and values",
                            err);
done:
    return st;
}

/* A column of the table: a number, or "-" where there was nothing to measure. */
static void print_number(double value, int width, int precision)
{
    isnan(value) ? printf(" %*s", width, "-") : printf(" %*.*f", width, precision, value);
}

static void print_table(const evaluate_result *result, const evaluate_inputs *in, double seconds)
{
    const int64_t n_needles = needle_documents_count(&in->documents, DOCUMENT_NEEDLES);
    printf("%-28s %9s %9s %11s %10s %10s %10s %8s %10s %9s %9s %9s %8s %8s\n", "run", "key bits", "val bits",
           "perplexity", "KL", "KL 99.9 %", "KL max", "top-1 %", "attn KL", "top-16 %", "out err %", "needles",
           "agree %", "right %");
    for (int run = 0; run < result->n_runs; run++) {
        const evaluate_score *score = &result->runs[run];
        const plan_cost cost =
            run > 0 ? bit_plan_cost(in->plans[run - 1]) : (plan_cost){.key_true_bits = NAN, .value_true_bits = NAN};
        const struct {
            double value;
            int width, precision;
        } columns[] = {{cost.key_true_bits, 9, 3},
                       {cost.value_true_bits, 9, 3},
                       {score->text.perplexity, 11, 4},
                       {score->text.kl_mean, 10, 5},
                       {score->text.kl_p999, 10, 4},
                       {score->text.kl_max, 10, 4},
                       {100.0 * score->text.top1_agreement, 8, 2},
                       {score->attention_kl, 10, 5},
                       {100.0 * score->attention_overlap, 9, 2},
                       {100.0 * score->output_error, 9, 2}};
        char needles[48] = "-";
        if (n_needles > 0)
            snprintf(needles, sizeof needles, "%lld/%lld", (long long)score->n_right, (long long)n_needles);
        printf("%-28s", run > 0 ? in->names[run - 1] : "unquantized");
        for (size_t i = 0; i < RB_COUNT(columns); i++)
            print_number(columns[i].value, columns[i].width, columns[i].precision);
        printf(" %9s", needles);
        print_number(100.0 * score->understanding.agreement, 8, 2);
        print_number(100.0 * score->understanding.accuracy, 8, 2);
        printf("\n");
    }
    for (int run = 1; run < result->n_runs; run++) {
        char exact[80];
        bit_plan_describe_exact(exact, sizeof exact, in->plans[run - 1]);
        if (bit_plan_keeps_exact(in->plans[run - 1])) printf("%s keeps %s unquantized\n", in->names[run - 1], exact);
    }
    printf("%lld tokens of text in sequences of %lld, %lld documents, %.1f s\n", (long long)in->facts.n_tokens,
           (long long)in->facts.context, (long long)in->documents.n, seconds);
}

/* A needle score without a competent model says nothing about a plan. */
static void tell_needles(const evaluate_result *result, const evaluate_inputs *in, bool is_own_template)
{
    const long long n = needle_documents_count(&in->documents, DOCUMENT_NEEDLES), n_found = result->runs[0].n_right;
    if (n == 0) return;
    if (2 * n_found >= n) rb_message_info("needles: the unquantized model finds %lld of %lld", n_found, n);
    else
        rb_message_warn("needles: the unquantized model finds only %lld of %lld, so they say little about a plan%s",
                        n_found, n, is_own_template ? "; --needle-template auto looks for other words" : "");
}

/* Documents by the template that suits the model. */
static rb_status choose_template(needle_choice *choice, evaluate_inputs *in, const evaluate_options *opt,
                                 const evaluate_request *how, rb_error *err)
{
    rb_status st;
    RB_TRY(st, needle_choice_make(choice, in, opt, how, err), done);
    for (int i = 0; i < choice->n; i++)
        rb_message_info("needles: with template %s the unquantized model finds %lld of %lld%s", choice->trials[i].name,
                        (long long)choice->trials[i].n_right, (long long)choice->trials[i].n,
                        i == choice->best ? ": chosen" : "");
    st = evaluate_inputs_make_documents(in, opt, choice->trials[choice->best].name, err);
done:
    return st;
}

static rb_status evaluate_run(const rb_run_args *args, rb_error *err)
{
    const evaluate_options *opt = args->context;
    const double started_s = rb_now_s();
    evaluate_inputs in = {0};
    evaluate_result result = {0};
    needle_choice choice = {0};
    rb_device_kind device = RB_DEVICE_CPU;
    cJSON *json = NULL, *options = NULL;
    rb_status st;
    if (opt->keys_only && opt->values_only)
        return rb_fail(err, RB_EUSAGE, "--keys-only and --values-only exclude each other");
    const bool is_auto =
        opt->n_needles > 0 && !opt->documents && strcmp(opt->needle_template, NEEDLE_TEMPLATE_AUTO) == 0;
    RB_TRY(st, evaluate_inputs_read(&in, opt, is_auto ? needle_template_builtin(0) : opt->needle_template, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    evaluate_request request = {.model = in.model,
                                .plans = (const bit_plan *const *)in.plans,
                                .n_plans = opt->plans.n,
                                .text = in.text.ids,
                                .n_text = in.text.n,
                                .context = in.facts.context,
                                .bos = in.facts.bos,
                                .with_keys = !opt->values_only,
                                .with_values = !opt->keys_only,
                                .attention_stride = opt->attention_stride,
                                .n_worst_tokens = (int)opt->n_worst_tokens,
                                .is_on_cuda = device == RB_DEVICE_CUDA,
                                .cuda_precision = (layer_cuda_precision)opt->precision,
                                .max_gpu_bytes = opt->max_gpu_bytes};
    if (is_auto) RB_TRY(st, choose_template(&choice, &in, opt, &request, err), done);
    if (in.documents.n > 0) request.documents = &in.documents;
    if (in.documents.n > 0 && opt->write_documents)
        RB_TRY(st, documents_write(&in.documents, opt->write_documents, err), done);
    RB_TRY(st, evaluate_plans(&result, &request, err), done);
    tell_needles(&result, &in, !opt->documents && !is_auto);
    for (int run = 0; run < result.n_runs; run++)
        worst_predictions_name(&result.runs[run].worst, in.words, in.text.ids, in.facts.context);
    RB_TRY(st, options_to_json(&options, opt, &choice, device, err), done);
    RB_TRY(st, evaluate_to_json(&json, &result, &request, in.names, &in.facts, in.documents_sha256, &options, err),
           done);
    if (opt->output) RB_TRY(st, rb_json_write(json, opt->output, err), done);
    if (args->common->json) st = rb_json_put(json, err);
    else print_table(&result, &in, rb_now_s() - started_s);
done:
    cJSON_Delete(options);
    cJSON_Delete(json);
    evaluate_result_free(&result);
    evaluate_inputs_free(&in);
    return st;
}

int main(int argc, char **argv)
{
    static const char *const precisions[] = {[LAYER_CUDA_BF16] = "bf16", [LAYER_CUDA_F32] = "f32", NULL};
    static const char *const as_planned[] = {"plan", NULL}; /* EVALUATE_AS_PLANNED */
    evaluate_options opt = {.n_tokens = EVALUATE_TOKENS,
                            .needle_template = NEEDLE_TEMPLATE_DEFAULT,
                            .needle_tasks = {.n = 1, .at = {"multikey"}},
                            .understanding_tasks = {.n = UNDERSTANDING_N_TASKS},
                            .seed = 1,
                            .attention_stride = 16,
                            .n_sink = EVALUATE_AS_PLANNED,
                            .n_recent = EVALUATE_AS_PLANNED,
                            .n_worst_tokens = 5};
    memcpy(opt.understanding_tasks.at, understanding_task_names,
           UNDERSTANDING_N_TASKS * sizeof *understanding_task_names);
    const rb_option table[] = {
        {.long_name = "model",
         .kind = RB_OPT_STRING,
         .value = &opt.model,
         .metavar = "MODEL",
         .required = true,
         .help = "checkpoint: a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file"},
        {.long_name = "plan",
         .kind = RB_OPT_REPEATED,
         .value = &opt.plans,
         .metavar = "FILE",
         .help = "plan.json or plan.rbp; may be given several times; without one, only the unquantized model runs"},
        {.long_name = "text",
         .kind = RB_OPT_STRING,
         .value = &opt.text,
         .metavar = "FILE",
         .required = true,
         .help = "text for perplexity and KL, UTF-8"},
        {.long_name = "n-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.n_tokens,
         .metavar = "N",
         .min = 2,
         .max = 1 << 24,
         .help = "tokens of the text at most, without what begins its sequences"},
        {.long_name = "context",
         .kind = RB_OPT_INT,
         .value = &opt.context,
         .metavar = "N",
         .min = 0,
         .max = 1 << 24,
         .help =
             "tokens of the text per sequence, without what begins it; 0: sequences of 2048, or the model's maximum "
             "where that is less"},
        {.long_name = "bos",
         .kind = RB_OPT_CHOICE,
         .value = &opt.bos,
         .metavar = "WHERE",
         .choices = bos_choice_names,
         .help = "beginning-of-text token: in front of every sequence, of the text, or none; auto: of every sequence "
                 "where the model's tokenizer puts one in front of a text"},
        {.long_name = "needles",
         .kind = RB_OPT_INT,
         .value = &opt.n_needles,
         .metavar = "N",
         .min = 0,
         .max = 1 << 16,
         .help = "needle documents per task, context and depth; 0: none"},
        {.long_name = "needle-tasks",
         .kind = RB_OPT_STRINGS,
         .value = &opt.needle_tasks,
         .metavar = "LIST",
         .choices = needle_task_names,
         .help = "what is asked (docs/needles.md)"},
        {.long_name = "needle-contexts",
         .kind = RB_OPT_NUMBERS,
         .value = &opt.needle_contexts,
         .metavar = "LIST",
         .min = 1,
         .max = 1 << 24,
         .help = "tokens of a document; without it, the context of the text"},
        {.long_name = "depths",
         .kind = RB_OPT_NUMBERS,
         .value = &opt.depths,
         .metavar = "LIST",
         .min = 0,
         .max = 1,
         .help = "places of the asked needle in the haystack, 0 to 1; without it, random ones"},
        {.long_name = "understanding",
         .kind = RB_OPT_INT,
         .value = &opt.n_understanding,
         .metavar = "N",
         .min = 0,
         .max = 1 << 16,
         .help = "question-answer documents per understanding task and context; 0: none"},
        {.long_name = "understanding-tasks",
         .kind = RB_OPT_STRINGS,
         .value = &opt.understanding_tasks,
         .metavar = "LIST",
         .choices = understanding_task_names,
         .help = "what they ask (docs/understanding.md)"},
        {.long_name = "understanding-contexts",
         .kind = RB_OPT_NUMBERS,
         .value = &opt.understanding_contexts,
         .metavar = "LIST",
         .min = 1,
         .max = 1 << 24,
         .help = "tokens of a document at most; without it, the context of the text"},
        {.long_name = "haystack",
         .kind = RB_OPT_STRING,
         .value = &opt.haystack,
         .metavar = "FILE",
         .help = "text that hides the needles, and that the understanding documents are made of; without it, --text"},
        {.long_name = "needle-template",
         .kind = RB_OPT_STRING,
         .value = &opt.needle_template,
         .metavar = "NAME",
         .help = "completion, plain, secret-number, or a file; auto: the built-in one by which the unquantized model "
                 "finds most"},
        {.long_name = "seed",
         .kind = RB_OPT_INT,
         .value = &opt.seed,
         .metavar = "N",
         .min = 0,
         .max = 9007199254740992.0,
         .help = "of the needle documents"},
        {.long_name = "documents",
         .kind = RB_OPT_STRING,
         .value = &opt.documents,
         .metavar = "FILE",
         .help = "documents of your own instead of needles (docs/needles.md)"},
        {.long_name = "write-documents",
         .kind = RB_OPT_STRING,
         .value = &opt.write_documents,
         .metavar = "FILE",
         .help = "keep the documents that were made"},
        {.long_name = "sink",
         .kind = RB_OPT_INT,
         .value = &opt.n_sink,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .choices = as_planned,
         .help = "first tokens of a sequence that stay unquantized; plan: as each plan says"},
        {.long_name = "recent",
         .kind = RB_OPT_INT,
         .value = &opt.n_recent,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .choices = as_planned,
         .help = "last tokens before a query, its own included, that stay unquantized; plan: as each plan says"},
        {.long_name = "keys-only",
         .kind = RB_OPT_FLAG,
         .value = &opt.keys_only,
         .help = "leave the values as they are"},
        {.long_name = "values-only",
         .kind = RB_OPT_FLAG,
         .value = &opt.values_only,
         .help = "leave the keys as they are"},
        {.long_name = "attention-stride",
         .kind = RB_OPT_INT,
         .value = &opt.attention_stride,
         .metavar = "N",
         .min = 1,
         .max = 1 << 24,
         .help = "take every N-th query of the text for the KL and overlap of attention weights"},
        {.long_name = "worst-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.n_worst_tokens,
         .metavar = "N",
         .min = 0,
         .max = MAX_WORST_TOKENS,
         .help = "list the N tokens of the text that each plan makes suffer most"},
        {.long_name = "precision",
         .kind = RB_OPT_CHOICE,
         .value = &opt.precision,
         .metavar = "TYPE",
         .choices = precisions,
         .help = "of the matrix products on a GPU; the CPU computes in f32"},
        {.long_name = "max-gpu-memory",
         .kind = RB_OPT_SIZE,
         .value = &opt.max_gpu_bytes,
         .metavar = "SIZE",
         .help = "GPU memory to use at most, such as 12GiB; 0: what is free"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "RESULT.json",
         .help = "the result, for compare"},
    };
    const rb_program program = {
        .name = "evaluate",
        .synopsis = "ropebits evaluate --model MODEL [--plan PLAN.json ..] --text FILE [--needles N] [options] -o "
                    "RESULT.json",
        .summary = "Runs a checkpoint with every key and value quantized and restored as each plan says, and holds its "
                   "next-token distributions, attention and "
                   "needle answers to the unquantized run's.",
        .options = table,
        .n_options = RB_COUNT(table),
        .run = evaluate_run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
