/* ropebits-evaluate: what plans do to the model, end to end. */
#include <math.h>
#include <stdio.h>

#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "core/table.h"
#include "evaluate/attention_score.h"
#include "evaluate/evaluate_json.h"
#include "evaluate/evaluate_run.h"
#include "evaluate/evaluate_setup.h"
#include "texts/documents_file.h"
#include "texts/sequences.h"
#include "texts/understanding_documents.h"

enum { MAX_WORST_TOKENS = 1000 };

static rb_status add_exact(cJSON *json, const char *name, int64_t n, rb_error *err)
{
    return n == EVALUATE_AS_PLANNED ? rb_json_add_string(json, name, "plan", err)
                                    : rb_json_add_number(json, name, (double)n, err);
}

static rb_status options_to_json(cJSON **out, const evaluate_options *opt, const evaluate_setup *setup, rb_error *err)
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
    RB_TRY(st, rb_json_add_string(*out, "needle_template", evaluate_setup_template(setup, opt), err), done);
    if (setup->is_auto) RB_TRY(st, needle_choice_to_json(*out, &setup->choice, err), done);
    if (setup->device == RB_DEVICE_CUDA)
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

static void add_run(rb_table *cells, const char *name, const evaluate_score *score, const plan_cost *cost,
                    int64_t n_needles)
{
    const struct {
        double value;
        int digits;
    } measured[] = {{cost ? cost->key_true_bits : (double)NAN, 3},
                    {cost ? cost->value_true_bits : (double)NAN, 3},
                    {score->text.perplexity, 4},
                    {score->text.kl_mean, 5},
                    {score->text.kl_p999, 4},
                    {score->text.kl_max, 4},
                    {100.0 * score->text.top1_agreement, 2},
                    {score->attention_kl, 5},
                    {100.0 * score->attention_overlap, 2},
                    {100.0 * score->output_error, 2}};
    char shown[256];
    rb_escape_text(shown, sizeof shown, name);
    rb_table_add(cells, "%s", shown);
    for (size_t i = 0; i < RB_COUNT(measured); i++) rb_table_add_number(cells, measured[i].digits, measured[i].value);
    if (n_needles > 0) rb_table_add(cells, "%lld/%lld", (long long)score->n_right, (long long)n_needles);
    else rb_table_add(cells, "-");
    rb_table_add_number(cells, 2, 100.0 * score->understanding.agreement);
    rb_table_add_number(cells, 2, 100.0 * score->understanding.accuracy);
    rb_table_end_row(cells);
}

static rb_status print_runs(const evaluate_result *result, const evaluate_inputs *in, rb_error *err)
{
    static const char *const heads[] = {"run",       "key bits", "val bits", "perplexity", "KL",
                                        "KL 99.9 %", "KL max",   "top-1 %",  "attn KL",    "top-16 %",
                                        "out err %", "needles",  "agree %",  "right %"};
    const int64_t n_needles = needle_documents_count(&in->documents, DOCUMENT_NEEDLES);
    rb_table cells = {.n_left = 1};
    for (size_t i = 0; i < RB_COUNT(heads); i++) rb_table_add(&cells, "%s", heads[i]);
    rb_table_end_row(&cells);
    add_run(&cells, "unquantized", &result->runs[0], NULL, n_needles);
    for (int run = 1; run < result->n_runs; run++) {
        const plan_cost cost = bit_plan_cost(in->plans[run - 1]);
        add_run(&cells, in->names[run - 1], &result->runs[run], &cost, n_needles);
    }
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    return st;
}

static rb_status print_result(const evaluate_result *result, const evaluate_inputs *in, double seconds, rb_error *err)
{
    const rb_status st = print_runs(result, in, err);
    if (st != RB_OK) return st;
    for (int run = 1; run < result->n_runs; run++) {
        char exact[80];
        bit_plan_describe_exact(exact, sizeof exact, in->plans[run - 1]);
        if (bit_plan_keeps_exact(in->plans[run - 1])) printf("%s keeps %s unquantized\n", in->names[run - 1], exact);
    }
    printf("%lld tokens of text in sequences of %lld, %lld of them predicted; %lld documents; %.1f s\n",
           (long long)in->facts.n_tokens, (long long)in->facts.context, (long long)result->runs[0].text.n,
           (long long)in->documents.n, seconds);
    return RB_OK;
}

static rb_status evaluate_run(const rb_run_args *args, rb_error *err)
{
    const evaluate_options *opt = args->context;
    const double started_s = rb_now_s();
    evaluate_setup setup = {0};
    evaluate_inputs *in = &setup.in;
    evaluate_result result = {0};
    cJSON *json = NULL, *options = NULL;
    rb_status st;
    if (opt->keys_only && opt->values_only)
        return rb_fail(err, RB_EUSAGE, "--keys-only and --values-only exclude each other");
    RB_TRY(st, evaluate_setup_make(&setup, opt, args->common, err), done);
    if (in->documents.n > 0 && opt->write_documents)
        RB_TRY(st, documents_write(&in->documents, opt->write_documents, err), done);
    RB_TRY(st, evaluate_plans(&result, &setup.request, err), done);
    evaluate_setup_tell_text(result.runs[0].text.n);
    evaluate_setup_tell_needles(&setup, opt, result.runs[0].n_right);
    for (int run = 0; run < result.n_runs; run++)
        worst_predictions_name(&result.runs[run].worst, in->words, in->text.ids, in->facts.context);
    RB_TRY(st, options_to_json(&options, opt, &setup, err), done);
    RB_TRY(st,
           evaluate_to_json(&json, &result, &setup.request, in->names, &in->facts, in->documents_sha256, &options, err),
           done);
    if (opt->output) RB_TRY(st, rb_json_write(json, opt->output, err), done);
    if (args->common->json) st = rb_json_put(json, err);
    else st = print_result(&result, in, rb_now_s() - started_s, err);
done:
    cJSON_Delete(options);
    cJSON_Delete(json);
    evaluate_result_free(&result);
    evaluate_setup_free(&setup);
    return st;
}

int main(int argc, char **argv)
{
    static const char *const as_planned[] = {"plan", NULL}; /* EVALUATE_AS_PLANNED */
    evaluate_options opt = evaluate_options_default();
    const rb_option own[] = {
        {.long_name = "plan",
         .kind = RB_OPT_REPEATED,
         .value = &opt.plans,
         .metavar = "FILE",
         .help = "plan.json or plan.rbp; may be given several times; without one, only the unquantized model runs"},
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
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "RESULT.json",
         .help = "the result, for compare"},
    };
    rb_option table[RB_COUNT(own) + EVALUATE_TEXT_N_ROWS + EVALUATE_NEEDLES_N_ROWS + EVALUATE_DEVICE_N_ROWS];
    int n = evaluate_text_rows(table, &opt);
    n += evaluate_needles_rows(table + n, &opt);
    n += evaluate_device_rows(table + n, &opt);
    n = rb_options_append(table, n, own, RB_COUNT(own));
    const rb_program program = {
        .name = "evaluate",
        .synopsis = "ropebits evaluate --model MODEL [--plan PLAN.json ..] --text FILE [--needles N] [options] -o "
                    "RESULT.json",
        .summary = "Runs a checkpoint with every key and value quantized and restored as each plan says, and holds its "
                   "next-token distributions, attention and "
                   "needle answers to the unquantized run's.",
        .options = table,
        .n_options = n,
        .run = evaluate_run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
