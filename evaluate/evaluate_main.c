/* ropebits-evaluate: what plans do to the model, end to end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "evaluate/attention_score.h"
#include "evaluate/evaluate_json.h"
#include "evaluate/evaluate_run.h"
#include "model/model_tokenizer.h"
#include "plan/plan_read.h"
#include "texts/documents_file.h"
#include "texts/token_source.h"

enum { EVALUATE_TOKENS = 8192, HAYSTACK_TOKENS = 1 << 17, MAX_TASKS = NEEDLE_N_TASKS, MAX_WORST_TOKENS = 1000 };

typedef struct evaluate_options {
    const char *model, *text, *haystack, *needle_template, *documents, *write_documents, *output;
    rb_string_list plans, needle_tasks;
    rb_number_list needle_contexts, depths;
    int64_t n_tokens, context, n_needles, seed, n_sink, n_recent, attention_stride, n_worst_tokens, max_gpu_bytes;
    int precision; /* layer_cuda_precision */
    bool keys_only, values_only;
} evaluate_options;

/* What a run is made from. */
typedef struct evaluate_inputs {
    checkpoint *model;
    bit_plan *plans[RB_MAX_LIST];
    const char *names[RB_MAX_LIST];
    token_list text;
    text_facts facts;
    needle_documents documents;
    char documents_sha256[RB_SHA256_HEX];
} evaluate_inputs;

static void free_inputs(evaluate_inputs *in)
{
    for (int i = 0; i < RB_MAX_LIST; i++) bit_plan_free(in->plans[i]);
    token_list_free(&in->text);
    needle_documents_free(&in->documents);
    checkpoint_close(in->model);
}

static rb_status read_plans(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < opt->plans.n && st == RB_OK; i++) {
        const char *path = opt->plans.at[i], *slash = strrchr(path, '/');
        in->names[i] = slash ? slash + 1 : path;
        st = plan_read(&in->plans[i], path, err);
        if (st == RB_OK)
            st = model_facts_same(&in->plans[i]->model, path, &checkpoint_config(in->model)->facts, opt->model, err);
    }
    return st;
}

/* Reads the text and cuts it to --n-tokens where it is longer. */
static rb_status read_text(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    const model_config *config = checkpoint_config(in->model);
    rb_status st;
    RB_TRY(st, tokens_from_text(&in->text, opt->text, opt->model, opt->n_tokens, err), done);
    if (in->text.n > opt->n_tokens) in->text.n = opt->n_tokens;
    if (in->text.n < 2) {
        st = rb_fail(err, RB_EINVAL, "%s: gives %lld tokens, expected at least 2", opt->text, (long long)in->text.n);
        goto done;
    }
    RB_TRY(st, tokens_check(in->text.ids, in->text.n, config->vocab_size, opt->text, err), done);
    in->facts.n_tokens = in->text.n;
    RB_TRY(st, tokens_resolve_context(&in->facts.context, opt->context, model_config_max_context(config), err), done);
    if (in->facts.context < 2) {
        st = rb_fail(err, RB_EINVAL,
                     "--context is %lld, expected at least 2: the first token of a sequence is predicted by nothing",
                     (long long)in->facts.context);
        goto done;
    }
    st = rb_sha256_bytes(in->facts.tokens_sha256, in->text.ids, (size_t)in->text.n * sizeof *in->text.ids, err);
done:
    return st;
}

/* Makes --needles documents for each task, over the contexts and depths that were asked for. */
static rb_status make_documents(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    needle_task tasks[MAX_TASKS];
    int64_t contexts[RB_MAX_LIST];
    double random_depth = NAN;
    needle_template words = {0};
    tokenizer *tok = NULL;
    token_list haystack = {0};
    needle_series series = {.tasks = tasks,
                            .contexts = contexts,
                            .depths = opt->depths.n > 0 ? opt->depths.at : &random_depth,
                            .n_depths = opt->depths.n > 0 ? opt->depths.n : 1,
                            .n_repeats = (int)opt->n_needles,
                            .seed = (uint64_t)opt->seed,
                            .counts = needle_counts_default()};
    rb_status st;
    for (int i = 0; i < opt->needle_tasks.n && series.n_tasks < MAX_TASKS; i++)
        for (int task = 0; task < NEEDLE_N_TASKS; task++)
            if (strcmp(opt->needle_tasks.at[i], needle_task_names[task]) == 0)
                tasks[series.n_tasks++] = (needle_task)task;
    for (int i = 0; i < opt->needle_contexts.n; i++)
        contexts[series.n_contexts++] = (int64_t)opt->needle_contexts.at[i];
    if (series.n_contexts == 0) contexts[series.n_contexts++] = in->facts.context;
    for (int i = 0; i < series.n_contexts; i++)
        if (contexts[i] > model_config_max_context(checkpoint_config(in->model)))
            return rb_fail(err, RB_EINVAL,
                           "--needle-contexts has %lld, expected at most the model's max_position_embeddings of %lld",
                           (long long)contexts[i], (long long)model_config_max_context(checkpoint_config(in->model)));
    RB_TRY(st, needle_template_open(&words, opt->needle_template, err), done);
    RB_TRY(st, tokenizer_open_model(&tok, opt->model, err), done);
    RB_TRY(st, tokens_from_text(&haystack, opt->haystack ? opt->haystack : opt->text, opt->model, HAYSTACK_TOKENS, err),
           done);
    const needle_source source = {
        .needles = &words, .tokens_of = tok, .haystack = haystack.ids, .n_haystack = haystack.n};
    st = needle_documents_make(&in->documents, &source, &series, err);
done:
    needle_template_free(&words);
    tokenizer_close(tok);
    token_list_free(&haystack);
    return st;
}

static rb_status check_documents(evaluate_inputs *in, const char *name, rb_error *err)
{
    const model_config *config = checkpoint_config(in->model);
    rb_sha256 *hash = NULL;
    rb_status st;
    RB_TRY(st, needle_documents_check_vocabulary(&in->documents, config->vocab_size, name, err), done);
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    for (int64_t d = 0; d < in->documents.n; d++) {
        const needle_document *document = &in->documents.at[d];
        if (document->n_tokens > model_config_max_context(config)) {
            st = rb_fail(
                err, RB_EINVAL,
                "%s: document %lld has %lld tokens, expected at most the model's max_position_embeddings of %lld", name,
                (long long)d, (long long)document->n_tokens, (long long)model_config_max_context(config));
            goto done;
        }
        RB_TRY(st, rb_sha256_add(hash, document->tokens, (size_t)document->n_tokens * sizeof *document->tokens, err),
               done);
        for (int i = 0; i < document->n_answers; i++)
            RB_TRY(st, rb_sha256_add(hash, &document->answers[i], sizeof document->answers[i], err), done);
    }
    st = rb_sha256_end(&hash, in->documents_sha256, err);
done:
    if (hash) rb_sha256_end(&hash, NULL, NULL);
    return st;
}

static int64_t longest_sequence(const evaluate_inputs *in)
{
    int64_t longest = in->facts.context < in->text.n ? in->facts.context : in->text.n;
    for (int64_t d = 0; d < in->documents.n; d++)
        if (in->documents.at[d].n_tokens > longest) longest = in->documents.at[d].n_tokens;
    return longest;
}

static rb_status read_inputs(evaluate_inputs *in, const evaluate_options *opt, rb_error *err)
{
    rb_status st;
    RB_TRY(st, checkpoint_open(&in->model, opt->model, err), done);
    RB_TRY(st, read_text(in, opt, err), done);
    if (opt->documents) RB_TRY(st, documents_read(&in->documents, opt->documents, err), done);
    else if (opt->n_needles > 0) RB_TRY(st, make_documents(in, opt, err), done);
    if (in->documents.n > 0)
        RB_TRY(st, check_documents(in, opt->documents ? opt->documents : "needle documents", err), done);
    RB_TRY(st, checkpoint_set_longest(in->model, longest_sequence(in), err), done);
    RB_TRY(st, read_plans(in, opt, err), done);
    if (in->documents.n > 0 && opt->write_documents)
        RB_TRY(st, documents_write(&in->documents, opt->write_documents, err), done);
    checkpoint_warn_quantized(in->model);
done:
    return st;
}

static rb_status options_to_json(cJSON **out, const evaluate_options *opt, rb_device_kind device, rb_error *err)
{
    const struct {
        const char *name, *value;
    } texts[] = {
        {"model", opt->model}, {"text", opt->text}, {"haystack", opt->haystack}, {"documents", opt->documents}};
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"needles", opt->n_needles},
                   {"seed", opt->seed},
                   {"sink", opt->n_sink},
                   {"recent", opt->n_recent},
                   {"attention_stride", opt->attention_stride},
                   {"attention_top_k", ATTENTION_TOP_K},
                   {"worst_tokens", opt->n_worst_tokens}};
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    for (size_t i = 0; i < RB_COUNT(texts); i++)
        if (texts[i].value) RB_TRY(st, rb_json_add_string(*out, texts[i].name, texts[i].value, err), done);
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(*out, numbers[i].name, (double)numbers[i].value, err), done);
    RB_TRY(st, rb_json_add_string(*out, "needle_template", opt->needle_template, err), done);
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

/* Finds the text of the worst tokens. */
static rb_status name_tokens(evaluate_result *result, const evaluate_inputs *in, const char *folder, rb_error *err)
{
    tokenizer *words = NULL;
    rb_status st;
    RB_TRY(st, tokenizer_open_model(&words, folder, err), done);
    for (int run = 0; run < result->n_runs; run++)
        worst_predictions_name(&result->runs[run].worst, words, in->text.ids, in->facts.context);
done:
    tokenizer_close(words);
    return st;
}

/* A column of the table: a number, or "-" where there was nothing to measure. */
static void print_number(double value, int width, int precision)
{
    isnan(value) ? printf(" %*s", width, "-") : printf(" %*.*f", width, precision, value);
}

static void print_table(const evaluate_result *result, const evaluate_inputs *in, double seconds)
{
    printf("%-28s %9s %9s %11s %10s %10s %10s %8s %10s %9s %9s %9s\n", "run", "key bits", "val bits", "perplexity",
           "KL", "KL 99.9 %", "KL max", "top-1 %", "attn KL", "top-16 %", "out err %", "needles");
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
        if (in->documents.n > 0)
            snprintf(needles, sizeof needles, "%lld/%lld", (long long)score->n_right, (long long)in->documents.n);
        printf("%-28s", run > 0 ? in->names[run - 1] : "unquantized");
        for (size_t i = 0; i < RB_COUNT(columns); i++)
            print_number(columns[i].value, columns[i].width, columns[i].precision);
        printf(" %9s\n", needles);
    }
    printf("%lld tokens of text in sequences of %lld, %lld documents, %.1f s\n", (long long)in->facts.n_tokens,
           (long long)in->facts.context, (long long)in->documents.n, seconds);
}

static rb_status evaluate_run(const rb_run_args *args, rb_error *err)
{
    const evaluate_options *opt = args->context;
    const double started_s = rb_now_s();
    evaluate_inputs in = {0};
    evaluate_result result = {0};
    rb_device_kind device = RB_DEVICE_CPU;
    cJSON *json = NULL, *options = NULL;
    rb_status st;
    if (opt->keys_only && opt->values_only)
        return rb_fail(err, RB_EUSAGE, "--keys-only and --values-only exclude each other");
    RB_TRY(st, read_inputs(&in, opt, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    const evaluate_request request = {.model = in.model,
                                      .plans = (const bit_plan *const *)in.plans,
                                      .n_plans = opt->plans.n,
                                      .text = in.text.ids,
                                      .n_text = in.text.n,
                                      .context = in.facts.context,
                                      .documents = in.documents.n > 0 ? &in.documents : NULL,
                                      .n_sink = opt->n_sink,
                                      .n_recent = opt->n_recent,
                                      .with_keys = !opt->values_only,
                                      .with_values = !opt->keys_only,
                                      .attention_stride = opt->attention_stride,
                                      .n_worst_tokens = (int)opt->n_worst_tokens,
                                      .is_on_cuda = device == RB_DEVICE_CUDA,
                                      .cuda_precision = (layer_cuda_precision)opt->precision,
                                      .max_gpu_bytes = opt->max_gpu_bytes};
    RB_TRY(st, evaluate_plans(&result, &request, err), done);
    RB_TRY(st, name_tokens(&result, &in, opt->model, err), done);
    RB_TRY(st, options_to_json(&options, opt, device, err), done);
    RB_TRY(st, evaluate_to_json(&json, &result, &request, in.names, &in.facts, in.documents_sha256, &options, err),
           done);
    if (opt->output) RB_TRY(st, rb_json_write(json, opt->output, err), done);
    if (args->common->json) st = rb_json_put(json, err);
    else print_table(&result, &in, rb_now_s() - started_s);
done:
    cJSON_Delete(options);
    cJSON_Delete(json);
    evaluate_result_free(&result);
    free_inputs(&in);
    return st;
}

int main(int argc, char **argv)
{
    static const char *const precisions[] = {[LAYER_CUDA_BF16] = "bf16", [LAYER_CUDA_F32] = "f32", NULL};
    evaluate_options opt = {.n_tokens = EVALUATE_TOKENS,
                            .needle_template = NEEDLE_TEMPLATE_DEFAULT,
                            .needle_tasks = {.n = 1, .at = {"multikey"}},
                            .seed = 1,
                            .attention_stride = 16,
                            .n_worst_tokens = 5};
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
         .required = true,
         .help = "plan.json or plan.rbp; may be given several times"},
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
         .help = "tokens of the text at most"},
        {.long_name = "context",
         .kind = RB_OPT_INT,
         .value = &opt.context,
         .metavar = "N",
         .min = 0,
         .max = 1 << 24,
         .help = "tokens per sequence of the text; 0: 2048, or the model's maximum where that is less"},
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
        {.long_name = "haystack",
         .kind = RB_OPT_STRING,
         .value = &opt.haystack,
         .metavar = "FILE",
         .help = "text that hides the needles; without it, --text"},
        {.long_name = "needle-template",
         .kind = RB_OPT_STRING,
         .value = &opt.needle_template,
         .metavar = "NAME",
         .help = "secret-number, plain, or a file"},
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
         .max = 1 << 24,
         .help = "first tokens of a sequence that stay unquantized"},
        {.long_name = "recent",
         .kind = RB_OPT_INT,
         .value = &opt.n_recent,
         .metavar = "N",
         .min = 0,
         .max = 1 << 24,
         .help = "last tokens before a query, its own included, that stay unquantized"},
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
        .synopsis =
            "ropebits evaluate --model MODEL --plan PLAN.json [--plan ..] --text FILE [--needles N] [options] -o "
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
