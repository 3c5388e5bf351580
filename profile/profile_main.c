/* ropebits-profile: what methods and plans cost in logit error on a capture's test text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "methods/allocator.h"
#include "model/checkpoint.h"
#include "model/model_tokenizer.h"
#include "plan/plan_read.h"
#include "profile/coverage.h"
#include "profile/profile_compute.h"
#include "profile/profile_file.h"
#include "profile/profile_report.h"
#include "profile/profile_statistics.h"
#include "profile/profile_summary.h"
#include "profile/seed_spread.h"

typedef struct profile_options {
    rb_number_list budgets;
    rb_string_list methods;
    bool no_curves, no_coverage_warning;
    rb_string_list plans; /* finished ones */
    const char *output, *model;
    int64_t n_worst_tokens, n_sink, n_seeds;
    sensitivity_options metrics;
} profile_options;

typedef struct plan_list {
    int n;
    bit_plan *at[PROFILE_MAX_METHODS];
} plan_list;

static void free_plans(plan_list *plans)
{
    for (int i = 0; i < plans->n; i++) bit_plan_free(plans->at[i]);
}

static bool is_planned(const plan_list *plans, const char *method, double avg_bits)
{
    for (int i = 0; i < plans->n; i++)
        if (strcmp(plans->at[i]->method, method) == 0 && plans->at[i]->avg_bits == avg_bits) return true;
    return false;
}

/* A plan per method and budget, from the capture's own energies. A pair given twice is refused: readers of a summary
 * find scores by it. */
static rb_status make_plans(plan_list *plans, const profile_table *table, const profile_options *opt, rb_error *err)
{
    for (int b = 0; b < opt->budgets.n; b++)
        for (int m = 0; m < opt->methods.n; m++) {
            const double avg_bits = opt->budgets.at[b];
            allocation_method method = METHOD_UNIFORM;
            allocation_method_from_name(opt->methods.at[m], &method); /* the option table has checked the name */
            if (method == METHOD_UNIFORM && avg_bits != floor(avg_bits)) {
                rb_message_warn("uniform is not scored at %g bits: it takes whole numbers only", avg_bits);
                continue;
            }
            if (is_planned(plans, opt->methods.at[m], avg_bits))
                return rb_fail(err, RB_EUSAGE, "%s at %g bits is asked for twice", opt->methods.at[m], avg_bits);
            if (plans->n == PROFILE_MAX_METHODS)
                return rb_fail(err, RB_EUSAGE, "more than %d methods times budgets", PROFILE_MAX_METHODS);
            const int64_t n_sink = allocation_method_is_published(method) ? 0 : table->n_sink;
            const head_statistics statistics = profile_statistics(table, n_sink);
            rb_status st = allocate_plan(&plans->at[plans->n], &table->model, &table->calibration, method, avg_bits,
                                         PLAN_FP16_WIDTH, &statistics, err);
            if (st != RB_OK) return st;
            plans->at[plans->n++]->n_sink = n_sink;
        }
    if (plans->n == 0) return rb_fail(err, RB_EUSAGE, "nothing to score: uniform takes whole budgets only");
    return RB_OK;
}

/* Plans of one method and budget are scored and printed as any others, but programs that read the summary find scores
 * by these two. */
static void warn_of_alike(const plan_list *plans, const profile_options *opt)
{
    for (int i = 0; i < plans->n; i++)
        for (int earlier = 0; earlier < i; earlier++) {
            const bit_plan *a = plans->at[earlier], *b = plans->at[i];
            if (strcmp(a->method, b->method) != 0 || a->avg_bits != b->avg_bits) continue;
            rb_message_warn("%s and %s are both %s at %g bits: compare and export --summary tell plans of one summary "
                            "apart by method and bits only",
                            opt->plans.at[earlier], opt->plans.at[i], b->method, b->avg_bits);
            return;
        }
}

static rb_status read_plans(plan_list *plans, const capture_file *capture, const profile_options *opt, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < opt->plans.n && st == RB_OK; i++) {
        const char *path = opt->plans.at[i];
        RB_TRY(st, plan_read_to_code(&plans->at[i], path, err), done);
        plans->n++;
        st = model_facts_same(&plans->at[i]->model, path, &capture_file_header(capture)->model,
                              capture_file_path(capture), err);
    }
    if (st == RB_OK) warn_of_alike(plans, opt);
done:
    return st;
}

static rb_status options_to_json(char **out, const profile_options *opt, rb_error *err)
{
    cJSON *json = NULL, *names = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    if (opt->plans.n > 0) {
        names = cJSON_CreateStringArray(opt->plans.at, opt->plans.n);
        RB_TRY(st, rb_json_add_item(json, "plans", &names, err), done);
    } else {
        RB_TRY(st, rb_json_add_numbers(json, "budgets", opt->budgets.at, opt->budgets.n, err), done);
        names = cJSON_CreateStringArray(opt->methods.at, opt->methods.n);
        RB_TRY(st, rb_json_add_item(json, "methods", &names, err), done);
    }
    RB_TRY(st, rb_json_add_number(json, "metric_tokens", (double)opt->metrics.n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(json, "metric_draws", (double)opt->metrics.n_draws, err), done);
    RB_TRY(st, rb_json_add_bool(json, "curves", !opt->no_curves, err), done);
    RB_TRY(st, rb_json_print(out, json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

/* The text of the worst tokens, by the tokenizer of the model that the capture is of. */
static rb_status name_tokens(profile_table *table, const char *model, rb_error *err)
{
    char sha256[RB_SHA256_HEX];
    tokenizer *words = NULL;
    rb_status st;
    RB_TRY(st, checkpoint_config_sha256(sha256, model, err), done);
    if (strcmp(sha256, table->model.config_sha256) != 0) {
        st = rb_fail(err, RB_EMISMATCH, "%s: its config.json has SHA-256 %s, expected the capture's config_sha256 %s",
                     model, sha256, table->model.config_sha256);
        goto done;
    }
    RB_TRY(st, tokenizer_open_model(&words, model, err), done);
    for (int m = 0; m < table->n_methods; m++)
        for (int i = 0; i < table->methods[m].worst.n; i++)
            token_text_of(table->methods[m].worst.at[i].text, words, table->methods[m].worst.at[i].id);
    for (int i = 0; i < table->sinks.others.n_named; i++)
        token_text_of(table->sinks.others.named[i].text, words, table->sinks.others.named[i].id);
done:
    tokenizer_close(words);
    return st;
}

static void warn_of_coverage(const profile_table *table)
{
    const model_facts *model = &table->model;
    const head_coverage mean = profile_table_coverage(table);
    int worst = 0;
    if (coverage_is_good(&mean)) return;
    for (int h = 1; h < model->n_layers * model->n_kv_heads; h++)
        if (table->coverage[h].key_distance > table->coverage[worst].key_distance) worst = h;
    rb_message_warn("the test text lies outside what calibration saw: its rare keys are %.2f times as far out as "
                    "calibration's (layer %d kv_head %d: %.2f times), %.1f %% of keys beyond "
                    "calibration's 99 %%; calibrate on more text, or on text like it",
                    mean.key_distance, worst / model->n_kv_heads, worst % model->n_kv_heads,
                    table->coverage[worst].key_distance, 100.0 * mean.key_outside);
}

static rb_status print_json(const profile_table *table, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, profile_summary_to_json(&json, table, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status get_plans(plan_list *plans, const profile_table *table, const capture_file *capture,
                           const profile_options *opt, rb_error *err)
{
    return opt->plans.n > 0 ? read_plans(plans, capture, opt, err) : make_plans(plans, table, opt, err);
}

static rb_status profile_run(const rb_run_args *args, rb_error *err)
{
    const profile_options *opt = args->context;
    capture_file *capture = NULL;
    profile_table *table = NULL;
    plan_list plans = {0};
    char *options_json = NULL;
    rb_device_kind device = RB_DEVICE_CPU;
    rb_status st;

    if (!opt->output && opt->plans.n == 0 && !args->common->json)
        return rb_fail(err, RB_EUSAGE, "no output: give -o PROFILE.h5, --json or --plan PLAN");
    RB_TRY(st, capture_open(&capture, args->positionals->at[0], err), done);
    RB_TRY(st, profile_table_from_capture(&table, capture, opt->n_sink, err), done);
    table->n_worst_tokens = (int)opt->n_worst_tokens;
    if (opt->plans.n == 0) RB_TRY(st, profile_measure_sensitivity(table, capture, &opt->metrics, err), done);
    RB_TRY(st, get_plans(&plans, table, capture, opt, err), done);
    RB_TRY(st, rb_resolve_device(&device, args->common, err), done);
    RB_TRY(st,
           seed_spread_score(table, capture, (const bit_plan *const *)plans.at, plans.n, (int)opt->n_seeds,
                             opt->output && !opt->no_curves, device, err),
           done);
    for (int i = 0; i < opt->plans.n; i++) table->methods[i].plan = opt->plans.at[i];
    if (opt->model) RB_TRY(st, name_tokens(table, opt->model, err), done);
    if (!opt->no_coverage_warning) warn_of_coverage(table);
    if (opt->output) {
        RB_TRY(st, options_to_json(&options_json, opt, err), done);
        RB_TRY(st, profile_file_write(table, opt->output, options_json, err), done);
    }
    if (args->common->json) st = print_json(table, err);
    else st = profile_report_print(stdout, table, err);
done:
    free(options_json);
    free_plans(&plans);
    profile_table_free(table);
    capture_close(capture);
    return st;
}

int main(int argc, char **argv)
{
    profile_options opt = {.n_sink = SINK_AUTO,
                           .budgets = {.n = 3, .at = {2, 3, 4}},
                           .methods = {.n = 2, .at = {"uniform", "block-gtq"}},
                           .metrics = {.n_tokens = SENSITIVITY_TOKENS, .n_draws = SENSITIVITY_DRAWS},
                           .n_worst_tokens = 5,
                           .n_seeds = 1};
    static const char *const sinks[] = {"auto", NULL}; /* SINK_AUTO */
    const rb_option table[] = {
        {.long_name = "budgets",
         .kind = RB_OPT_NUMBERS,
         .value = &opt.budgets,
         .metavar = "LIST",
         .min = ALLOCATE_MIN_BITS,
         .max = ALLOCATE_MAX_BITS,
         .help = "nominal bits per dim of the keys"},
        {.long_name = "methods",
         .kind = RB_OPT_STRINGS,
         .value = &opt.methods,
         .metavar = "LIST",
         .choices = allocation_method_names,
         .help = "allocation methods to score"},
        {.long_name = "sink",
         .kind = RB_OPT_INT,
         .value = &opt.n_sink,
         .metavar = "N",
         .min = 0,
         .max = PLAN_MAX_EXACT,
         .choices = sinks,
         .help = "first tokens of a sequence that stay exact in plans of our own methods, whose statistics leave them "
                 "out; auto: as many as pays"},
        {.long_name = "plan",
         .kind = RB_OPT_REPEATED,
         .value = &opt.plans,
         .metavar = "PLAN",
         .help = "score this finished plan instead, a plan.json or plan.rbp; may be given several times"},
        {.long_name = "seeds",
         .kind = RB_OPT_INT,
         .value = &opt.n_seeds,
         .metavar = "N",
         .min = 1,
         .max = SEED_MAX,
         .help = "score random rotations under N seeds, the plan's own first, and record mean and standard deviation, "
                 "by which compare judges results of other seeds; takes N times as long"},
        {.long_name = "metric-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.metrics.n_tokens,
         .metavar = "N",
         .min = 0,
         .max = INT32_MAX,
         .help = "calibration tokens, at most, for the metrics of the attention's output, of a capture with values; 0: "
                 "no metrics"},
        {.long_name = "metric-draws",
         .kind = RB_OPT_INT,
         .value = &opt.metrics.n_draws,
         .metavar = "N",
         .min = 1,
         .max = SENSITIVITY_MAX_DRAWS,
         .help = "random output directions a token, for these metrics"},
        {.long_name = "no-curves",
         .kind = RB_OPT_FLAG,
         .value = &opt.no_curves,
         .help = "leave out the error curves of every width"},
        {.long_name = "no-coverage-warning",
         .kind = RB_OPT_FLAG,
         .value = &opt.no_coverage_warning,
         .help = "say nothing when the test text lies outside what calibration saw: the summary says it (is_covered)"},
        {.long_name = "worst-tokens",
         .kind = RB_OPT_INT,
         .value = &opt.n_worst_tokens,
         .metavar = "N",
         .min = 0,
         .max = WORST_MAX_TOKENS,
         .help = "tokens to list of every method, those it serves worst"},
        {.long_name = "model",
         .kind = RB_OPT_STRING,
         .value = &opt.model,
         .metavar = "DIR",
         .help = "the capture's model: its tokenizer gives the text of the worst tokens"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "PROFILE.h5",
         .help = "the profile"},
    };
    const rb_program program = {
        .name = "profile",
        .synopsis = "ropebits profile [options] CAPTURE.h5 -o PROFILE.h5\n"
                    "ropebits profile CAPTURE.h5 --plan PLAN [--plan PLAN ...] [--json]",
        .summary = "Measures what methods cost in attention-logit error on a capture's test text, from the energies of "
                   "its calibration text; or scores finished plans.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "CAPTURE.h5",
        .run = profile_run,
        .multiplies = true,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
