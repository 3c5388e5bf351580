/* The summary of a run: see run/run_summary.h. */
#include "run/run_summary.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "core/table.h"
#include "evaluate/evaluation_file.h"
#include "plan/plan_json.h"
#include "profile/profile_summary.h"

typedef struct run_result {
    const pipeline_config *config;
    const char *folder;
    profile_summary *summary;
    bit_plan *plan;
    evaluation *evaluation; /* NULL: the pipeline has none */
} run_result;

static rb_status read_result(run_result *out, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, rb_join_path(&path, out->folder, PIPELINE_SUMMARY, err), done);
    RB_TRY(st, profile_summary_read(&out->summary, path, err), done);
    free(path);
    path = NULL;
    RB_TRY(st, rb_join_path(&path, out->folder, PIPELINE_PLAN, err), done);
    RB_TRY(st, plan_json_read(&out->plan, path, err), done);
    if (!out->config->evaluates) goto done;
    free(path);
    path = NULL;
    RB_TRY(st, rb_join_path(&path, out->folder, PIPELINE_EVALUATION, err), done);
    RB_TRY(st, evaluation_read(&out->evaluation, path, err), done);
done:
    free(path);
    return st;
}

static bool has_uniform(const summary_method *method)
{
    return strcmp(method->method, "uniform") != 0 && !isnan(method->reduction_vs_uniform);
}

/* Warns of rare keys that calibration did not see. This comes after the numbers, which stay true, and it comes again
 * when nothing had to run. With --json it goes to stderr. */
static void tell_coverage(const profile_summary *summary, bool as_json)
{
    char sentence[256];
    if (summary->is_covered) return;
    snprintf(sentence, sizeof sentence,
             "the test text is not all like the calibration text: its rare keys lie %.1f times as far out, %.1f %% of "
             "its keys beyond calibration's 99 %%",
             summary->coverage.key_distance, 100.0 * summary->coverage.key_outside);
    if (as_json) rb_message_warn("%s", sentence);
    else
        printf("\nnote      %s.\n          More calibration text, or text like it, makes a plan safer "
               "(docs/profile.md, Coverage).\n",
               sentence);
}

/* ---- for a person ---------------------------------------------------------------------------- */

static void print_model(const run_result *result)
{
    const model_facts *model = &result->summary->model;
    printf("model     %s: %s, %d layers, %d query and %d KV heads of %d dims, RoPE %s\n",
           rb_shown(pipeline_value(result->config, NULL, "model")).text, model->model_type, model->n_layers,
           model->n_q_heads, model->n_kv_heads, model->head_dim, rope_kind_name(model->rope.kind));
    const pipeline_texts *texts = &result->config->texts;
    const char *tokens = pipeline_value(result->config, "calibrate", "tokens"),
               *test_tokens = pipeline_value(result->config, "calibrate", "test_tokens"),
               *test_text = pipeline_value(result->config, NULL, "test_text");
    printf("texts     %lld calibration tokens of %s", (long long)result->summary->calibration.n_tokens,
           rb_shown(texts->n > 0 ? texts->at[0] : tokens).text);
    for (int i = 1; i < texts->n; i++) printf(", %s", rb_shown(texts->at[i]).text);
    printf("%s\n", pipeline_value(result->config, "calibrate", "with_needles") ? ", with needles" : "");
    printf("          %lld test tokens of %s, sequences of %lld\n", (long long)result->summary->test.n_tokens,
           rb_shown(test_text     ? test_text
                    : test_tokens ? test_tokens
                                  : "the same text, after them")
               .text,
           (long long)result->summary->test.context);
}

static void add_methods(rb_table *cells, const profile_summary *summary)
{
    rb_table_add(cells, "layer");
    for (int m = 0; m < summary->n_methods; m++) rb_table_add(cells, "%s", summary->methods[m].method);
    rb_table_end_row(cells);
    rb_table_add(cells, "%s", "");
    for (int m = 0; m < summary->n_methods; m++) rb_table_add(cells, "@ %g bits", summary->methods[m].avg_bits);
    rb_table_end_row(cells);
}

static void add_against_uniform(rb_table *cells, const profile_summary *summary)
{
    rb_table_add(cells, "vs uniform");
    for (int m = 0; m < summary->n_methods; m++) {
        if (has_uniform(&summary->methods[m]))
            rb_table_add(cells, "%+.1f %%", -100.0 * summary->methods[m].reduction_vs_uniform);
        else rb_table_add(cells, "%s", "");
    }
    rb_table_end_row(cells);
    rb_table_add(cells, "layers won");
    for (int m = 0; m < summary->n_methods; m++) {
        if (has_uniform(&summary->methods[m]))
            rb_table_add(cells, "%d of %d", summary->methods[m].layers_won_vs_uniform, summary->model.n_layers);
        else rb_table_add(cells, "%s", "");
    }
    rb_table_end_row(cells);
}

/* One column for each method and budget. */
static rb_status print_errors(const profile_summary *summary, rb_error *err)
{
    rb_table cells = {.n_left = 1};
    printf("\nlogit MAE on the test text, |q.k - q.k^| without 1/sqrt(d); less is better\n\n");
    add_methods(&cells, summary);
    for (int layer = 0; layer < summary->model.n_layers; layer++) {
        rb_table_add(&cells, "%d", layer);
        for (int m = 0; m < summary->n_methods; m++)
            rb_table_add_number(&cells, 4, summary->methods[m].logit_mae_by_layer[layer]);
        rb_table_end_row(&cells);
    }
    rb_table_add(&cells, "mean");
    for (int m = 0; m < summary->n_methods; m++) rb_table_add_number(&cells, 4, summary->methods[m].logit_mae);
    rb_table_end_row(&cells);
    rb_table_add(&cells, "true bits");
    for (int m = 0; m < summary->n_methods; m++) rb_table_add_number(&cells, 3, summary->methods[m].true_bits);
    rb_table_end_row(&cells);
    add_against_uniform(&cells, summary);
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    return st;
}

static void print_plan(const bit_plan *plan)
{
    const plan_cost cost = bit_plan_cost(plan);
    char cache[300];
    printf("\nplan      %s at %g bits: keys cost %.3f true bits a dim, values %.3f\n", plan->method, plan->avg_bits,
           cost.key_true_bits, cost.value_true_bits);
    bit_plan_describe_cache(cache, sizeof cache, plan, plan->calibration.context);
    printf("          %s\n", cache);
}

/* "block-gtq K2V2": nominal bits of keys and values. */
static void add_run_name(rb_table *cells, const evaluation_run *run)
{
    if (isnan(run->avg_bits)) rb_table_add(cells, "%s", EVALUATION_UNQUANTIZED);
    else rb_table_add(cells, "%s K%gV%g", run->method, run->avg_bits, run->value_bits);
}

/* Logit MAE that profile measured on its test text; NaN where it did not score this method at this budget. */
static double mae_of_run(const profile_summary *summary, const evaluation_run *run)
{
    if (isnan(run->avg_bits)) return 0.0; /* the unquantized model */
    const summary_method *method = profile_summary_find(summary, run->method, run->avg_bits);
    return method ? method->logit_mae : (double)NAN;
}

static void print_what_was_evaluated(const evaluation *result)
{
    const evaluation_run *plain = &result->runs[0];
    printf("\nwhat the plans do to the model: %lld tokens of text, sequences of %lld", (long long)result->text.n_tokens,
           (long long)result->text.context);
    if (plain->n_predicted > 0) printf(", %lld tokens predicted", (long long)plain->n_predicted);
    if (plain->n_needles > 0) printf("; %lld needle questions", (long long)plain->n_needles);
    if (plain->n_understanding > 0) printf("; %lld understanding documents", (long long)plain->n_understanding);
    printf("\nbits are true bits a dim; logit MAE as above; KL and top-1 of the next token are against the unquantized "
           "model\n\n");
}

static rb_status print_evaluation(const evaluation *result, const profile_summary *summary, rb_error *err)
{
    static const char *const heads[] = {"plan",    "key bits",  "val bits", "logit MAE",
                                        "KL mean", "KL 99.9 %", "top-1 %",  "perplexity"};
    const bool has_understanding = result->runs[0].n_understanding > 0, has_needles = result->runs[0].n_needles > 0;
    rb_table cells = {.n_left = 1};
    print_what_was_evaluated(result);
    for (size_t i = 0; i < RB_COUNT(heads); i++) rb_table_add(&cells, "%s", heads[i]);
    if (has_understanding) rb_table_add(&cells, "agree %%");
    if (has_needles) rb_table_add(&cells, "needles");
    rb_table_end_row(&cells);
    for (int i = 0; i < result->n_runs; i++) {
        const evaluation_run *run = &result->runs[i];
        add_run_name(&cells, run);
        rb_table_add_number(&cells, 3, run->key_true_bits);
        rb_table_add_number(&cells, 3, run->value_true_bits);
        rb_table_add_number(&cells, 4, mae_of_run(summary, run));
        rb_table_add_number(&cells, 4, run->kl_mean);
        rb_table_add_number(&cells, 3, run->kl_p999);
        rb_table_add_number(&cells, 1, 100.0 * run->top1_agreement);
        rb_table_add_number(&cells, 3, run->perplexity);
        if (has_understanding) rb_table_add_number(&cells, 1, 100.0 * run->understanding_agreement);
        if (has_needles)
            rb_table_add(&cells, "%lld of %lld", (long long)run->n_needles_right, (long long)run->n_needles);
        rb_table_end_row(&cells);
    }
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    return st;
}

static void print_file(void *user, const char *path)
{
    const char **label = user;
    struct stat info;
    if (stat(path, &info) != 0) return;
    printf("%-9s %-40s %9.1f KiB\n", *label, rb_shown(path).text, (double)info.st_size / 1024.0);
    *label = "";
}

/* ---- for a program --------------------------------------------------------------------------- */

typedef struct file_list {
    cJSON *array;
    rb_status st;
    rb_error *err;
} file_list;

static void list_file(void *user, const char *path)
{
    file_list *list = user;
    cJSON *item = cJSON_CreateString(path);
    if (list->st == RB_OK)
        list->st = item ? rb_json_append(list->array, &item, list->err)
                        : rb_fail(list->err, RB_ENOMEM, "out of memory for the summary");
    cJSON_Delete(item);
}

static rb_status read_document(cJSON *json, const char *key, const run_result *result, const char *file, rb_error *err)
{
    char *path = NULL;
    cJSON *document = NULL;
    rb_status st;
    RB_TRY(st, rb_join_path(&path, result->folder, file, err), done);
    RB_TRY(st, rb_json_read(&document, path, 0, err), done);
    RB_TRY(st, rb_json_add_item(json, key, &document, err), done);
done:
    cJSON_Delete(document);
    free(path);
    return st;
}

static rb_status print_json(const run_result *result, const bool ran[PIPELINE_N_STAGES], rb_error *err)
{
    file_list files = {.array = cJSON_CreateArray(), .st = RB_OK, .err = err};
    cJSON *json = NULL, *stages = NULL;
    rb_status st;
    if (!files.array) return rb_fail(err, RB_ENOMEM, "out of memory for the summary");
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-run-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_new_object(&stages, err), done);
    for (int i = 0; i < PIPELINE_N_STAGES; i++) {
        if (!pipeline_has_stage(result->config, i)) continue;
        RB_TRY(st, rb_json_add_string(stages, pipeline_stage_names[i], ran[i] ? "run" : "up to date", err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "stages", &stages, err), done);
    RB_TRY(st, read_document(json, "profile", result, PIPELINE_SUMMARY, err), done);
    RB_TRY(st, read_document(json, "allocate", result, "allocate.json", err), done);
    if (result->evaluation) RB_TRY(st, read_document(json, "evaluate", result, PIPELINE_EVALUATION, err), done);
    RB_TRY(st, pipeline_files(result->config, result->folder, list_file, &files, err), done);
    RB_TRY(st, files.st, done);
    RB_TRY(st, rb_json_add_item(json, "files", &files.array, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(files.array);
    cJSON_Delete(stages);
    cJSON_Delete(json);
    return st;
}

rb_status run_summary_print(const pipeline_config *config, const char *folder, const bool ran[PIPELINE_N_STAGES],
                            bool as_json, rb_error *err)
{
    run_result result = {.config = config, .folder = folder};
    const char *label = "files";
    rb_status st;
    RB_TRY(st, read_result(&result, err), done);
    if (as_json) {
        RB_TRY(st, print_json(&result, ran, err), done);
        tell_coverage(result.summary, as_json);
        goto done;
    }
    print_model(&result);
    RB_TRY(st, print_errors(result.summary, err), done);
    print_plan(result.plan);
    if (result.evaluation) RB_TRY(st, print_evaluation(result.evaluation, result.summary, err), done);
    printf("\n");
    RB_TRY(st, pipeline_files(config, folder, print_file, &label, err), done);
    tell_coverage(result.summary, as_json);
    printf("\nreport    %s/%s\n", rb_shown(folder).text, PIPELINE_REPORT);
done:
    profile_summary_free(result.summary);
    bit_plan_free(result.plan);
    evaluation_free(result.evaluation);
    return st;
}
