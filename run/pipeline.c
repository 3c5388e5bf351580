/* From a pipeline file to stages: see run/pipeline.h. Only this file knows which program reads and writes what. */
#include "run/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/message.h"
#include "core/weighted_path.h"
#include "run/stage.h"

enum { STAGE_CALIBRATE, STAGE_PROFILE, STAGE_ALLOCATE, STAGE_EXPORT, STAGE_EVALUATE, STAGE_REPORT };
const char *const pipeline_stage_names[PIPELINE_N_STAGES] = {"calibrate", "profile",  "allocate",
                                                             "export",    "evaluate", "report"};

bool pipeline_has_stage(const pipeline_config *config, int stage_index)
{
    return stage_index != STAGE_EVALUATE || config->evaluates;
}

#define DEFAULT_FORMATS "rbp,header,safetensors"

/* What export writes by format; of a folder one of its files. */
static const struct {
    const char *format, *file;
    bool needs_model, takes_capture;
} export_files[] = {
    {"rbp", "plan.rbp", false, false},
    {"header", "plan.h", false, false},
    {"safetensors", "plan.safetensors", false, false},
    {"folded", "plan-folded.safetensors", true, false},
    {"folded", "plan-folded.json", true, false},
    {"cuda", "plan-cuda/README.md", false, true},
    {"vllm", "plan-vllm.yaml", false, true},
    {"llama.cpp", "plan-llama.cpp.args", false, true},
    {"ik_llama.cpp", "plan-ik_llama.cpp.args", false, true},
    {"exllamav3", "plan-exllamav3.py", false, true},
    {"mlx-lm", "plan-mlx-lm.py", false, true},
    {"kvtuner", "plan-kvtuner.yaml", false, true},
    {"modelopt", "plan-modelopt.json", false, true},
};

static const char *model_of(const pipeline_config *config) { return pipeline_value(config, NULL, "model"); }

/* Adds a file of the output folder as an input or an argument. */
static rb_status add_own_file(stage *s, const char *name, bool is_arg, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, stage_path(&path, s, name, err), done);
    RB_TRY(st, stage_add_input(s, path, err), done);
    if (is_arg) RB_TRY(st, stage_add_arg(s, path, err), done);
done:
    free(path);
    return st;
}

static rb_status add_output_option(stage *s, const char *name, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, stage_path(&path, s, name, err), done);
    RB_TRY(st, stage_add_option(s, "-o", path, err), done);
    RB_TRY(st, stage_add_output(s, name, err), done);
done:
    free(path);
    return st;
}

/* Adds --text for each text, and their files as inputs. */
static rb_status add_texts(stage *s, const pipeline_texts *texts, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < texts->n && st == RB_OK; i++) {
        weighted_path text = {0};
        RB_TRY(st, stage_add_option(s, "--text", texts->at[i], err), next);
        RB_TRY(st, rb_weighted_path(&text, texts->at[i], err), next);
        st = stage_add_input(s, text.path, err);
    next:
        free(text.path);
    }
    return st;
}

/* The options of a section's members. A file that one of them names is an input. */
static rb_status add_members(stage *s, const pipeline_config *config, const char *section, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < pipeline_n_members && st == RB_OK; i++) {
        const pipeline_member *m = &pipeline_members[i];
        const char *value = config->values[i];
        char *name = NULL;
        if (!value || !m->option || !m->section || strcmp(m->section, section) != 0) continue;
        RB_TRY(st, rb_format(&name, err, "--%s", m->option), next);
        RB_TRY(st, stage_add_arg(s, name, err), next);
        if (m->kind != MEMBER_FLAG) RB_TRY(st, stage_add_arg(s, value, err), next);
        if (m->kind == MEMBER_PATH || (m->kind == MEMBER_TEMPLATE && access(value, F_OK) == 0))
            st = stage_add_input(s, value, err);
    next:
        free(name);
    }
    return st;
}

static rb_status describe_calibrate(stage *s, const pipeline_config *config, rb_error *err)
{
    const char *test_text = pipeline_value(config, NULL, "test_text");
    rb_status st;
    RB_TRY(st, stage_add_option(s, "--model", model_of(config), err), done);
    RB_TRY(st, add_texts(s, &config->texts, err), done);
    RB_TRY(st, stage_add_option(s, "--test-text", test_text, err), done);
    RB_TRY(st, stage_add_option(s, "--bos", pipeline_value(config, NULL, "bos"), err), done);
    RB_TRY(st, add_members(s, config, s->program, err), done);
    RB_TRY(st, stage_add_option(s, "--shard", "none", err), done); /* whatever launched the run */
    RB_TRY(st, stage_add_input_model(s, model_of(config), err), done);
    if (test_text) RB_TRY(st, stage_add_input(s, test_text, err), done);
    RB_TRY(st, add_output_option(s, PIPELINE_CAPTURE, err), done);
    RB_TRY(st, stage_set_json_output(s, "calibrate.json", err), done);
done:
    return st;
}

static rb_status describe_profile(stage *s, const pipeline_config *config, rb_error *err)
{
    rb_status st;
    RB_TRY(st, add_own_file(s, PIPELINE_CAPTURE, true, err), done);
    RB_TRY(st, add_members(s, config, s->program, err), done);
    RB_TRY(st, stage_add_arg(s, "--no-coverage-warning", err),
           done); /* the summary of the run ends with this warning */
    RB_TRY(st, add_output_option(s, PIPELINE_PROFILE, err), done);
    RB_TRY(st, stage_set_json_output(s, PIPELINE_SUMMARY, err), done);
done:
    return st;
}

static rb_status describe_allocate(stage *s, const pipeline_config *config, rb_error *err)
{
    rb_status st;
    RB_TRY(st, add_own_file(s, PIPELINE_PROFILE, true, err), done);
    RB_TRY(st, add_members(s, config, s->program, err), done);
    RB_TRY(st, add_output_option(s, PIPELINE_PLAN, err), done);
    RB_TRY(st, stage_set_json_output(s, "allocate.json", err), done);
done:
    return st;
}

/* Whether `name` is an entry of a comma separated list. */
static bool list_has(const char *list, const char *name)
{
    const size_t length = strlen(name);
    for (const char *at = list; (at = strstr(at, name)); at += length)
        if ((at == list || at[-1] == ',') && (at[length] == ',' || at[length] == '\0')) return true;
    return false;
}

/* What export must be given for these formats: the checkpoint, the capture. */
static rb_status add_export_inputs(stage *s, const pipeline_config *config, const char *formats, rb_error *err)
{
    bool needs_model = false, takes_capture = false;
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(export_files); i++) {
        if (!list_has(formats, export_files[i].format)) continue;
        needs_model |= export_files[i].needs_model;
        takes_capture |= export_files[i].takes_capture;
    }
    if (needs_model) {
        RB_TRY(st, stage_add_option(s, "--model", model_of(config), err), done);
        RB_TRY(st, stage_add_input_model(s, model_of(config), err), done);
    }
    if (takes_capture) {
        RB_TRY(st, stage_add_arg(s, "--capture", err), done);
        RB_TRY(st, add_own_file(s, PIPELINE_CAPTURE, true, err), done);
    }
done:
    return st;
}

static rb_status describe_export(stage *s, const pipeline_config *config, rb_error *err)
{
    const char *own_formats = pipeline_value(config, "export", "formats"),
               *formats = own_formats ? own_formats : DEFAULT_FORMATS;
    rb_status st;
    RB_TRY(st, add_own_file(s, PIPELINE_PLAN, true, err), done);
    RB_TRY(st, stage_add_option(s, "--format", formats, err), done);
    RB_TRY(st, add_export_inputs(s, config, formats, err), done);
    RB_TRY(st, add_members(s, config, s->program, err), done);
    RB_TRY(st, stage_add_option(s, "-o", s->folder, err), done);
    for (size_t i = 0; i < RB_COUNT(export_files); i++)
        if (list_has(formats, export_files[i].format)) RB_TRY(st, stage_add_output(s, export_files[i].file, err), done);
    RB_TRY(st, stage_set_json_output(s, "export.json", err), done);
done:
    return st;
}

/* The path of an own file for an option; an input too. */
static rb_status add_file_option(stage *s, const char *option, const char *name, rb_error *err)
{
    const rb_status st = stage_add_arg(s, option, err);
    return st == RB_OK ? add_own_file(s, name, true, err) : st;
}

/* The page comes last, because it shows what was evaluated. */
static rb_status describe_report(stage *s, const pipeline_config *config, rb_error *err)
{
    rb_status st;
    s->program = pipeline_stage_names[STAGE_EXPORT];
    RB_TRY(st, add_own_file(s, PIPELINE_PLAN, true, err), done);
    RB_TRY(st, stage_add_option(s, "--format", "report", err), done);
    RB_TRY(st, add_file_option(s, "--profile", PIPELINE_PROFILE, err), done);
    RB_TRY(st, add_file_option(s, "--summary", PIPELINE_SUMMARY, err), done);
    if (pipeline_has_stage(config, STAGE_EVALUATE))
        RB_TRY(st, add_file_option(s, "--evaluation", PIPELINE_EVALUATION, err), done);
    RB_TRY(st, stage_add_option(s, "-o", s->folder, err), done);
    RB_TRY(st, stage_add_output(s, PIPELINE_REPORT, err), done);
    RB_TRY(st, stage_set_json_output(s, "report.json", err), done);
done:
    return st;
}

/* ---- evaluate: a plan a budget and method, then one run over all of them --------------------- */

/* Calls visit for every budget and method of the evaluation, in the order of a profile's summary, with the name of its
 * plan. */
static rb_status each_plan(const pipeline_config *config,
                           rb_status (*visit)(void *user, const char *method, const char *budget, const char *plan,
                                              rb_error *err),
                           void *user, rb_error *err)
{
    const char *budgets = pipeline_value(config, "evaluate", "budgets"),
               *methods = pipeline_value(config, "evaluate", "methods");
    rb_status st = RB_OK;
    for (const char *b = budgets ? budgets : ""; *b && st == RB_OK; b += strcspn(b, ","), b += *b == ',')
        for (const char *m = methods; *m && st == RB_OK; m += strcspn(m, ","), m += *m == ',') {
            char *method = NULL, *budget = NULL, *plan = NULL;
            RB_TRY(st, rb_format(&method, err, "%.*s", (int)strcspn(m, ","), m), next);
            RB_TRY(st, rb_format(&budget, err, "%.*s", (int)strcspn(b, ","), b), next);
            RB_TRY(st, rb_format(&plan, err, "plan-%s-%s.json", method, budget), next);
            st = visit(user, method, budget, plan, err);
        next:
            free(method);
            free(budget);
            free(plan);
        }
    return st;
}

static rb_status add_plan(void *user, const char *method, const char *budget, const char *plan, rb_error *err)
{
    stage *s = user;
    (void)method;
    (void)budget;
    return add_file_option(s, "--plan", plan, err);
}

static rb_status describe_evaluate(stage *s, const pipeline_config *config, rb_error *err)
{
    const char *own_text = pipeline_value(config, "evaluate", "text"),
               *text = own_text ? own_text : pipeline_value(config, NULL, "test_text");
    rb_status st;
    RB_TRY(st, stage_add_option(s, "--model", model_of(config), err), done);
    RB_TRY(st, each_plan(config, add_plan, s, err), done);
    if (pipeline_value(config, "evaluate", "plan")) RB_TRY(st, add_plan(s, NULL, NULL, PIPELINE_PLAN, err), done);
    RB_TRY(st, stage_add_option(s, "--text", text, err), done);
    RB_TRY(st, stage_add_option(s, "--bos", pipeline_value(config, NULL, "bos"), err), done);
    RB_TRY(st, add_members(s, config, s->program, err), done);
    RB_TRY(st, stage_add_input_model(s, model_of(config), err), done);
    RB_TRY(st, stage_add_input(s, text, err), done);
    RB_TRY(st, add_output_option(s, PIPELINE_EVALUATION, err), done);
    RB_TRY(st, stage_set_json_output(s, "evaluate.json", err), done);
done:
    return st;
}

typedef rb_status (*describe_stage)(stage *s, const pipeline_config *config, rb_error *err);
static const describe_stage describe[PIPELINE_N_STAGES] = {describe_calibrate, describe_profile,  describe_allocate,
                                                           describe_export,    describe_evaluate, describe_report};

/* Stages that can run on a GPU. The others refuse --device cuda. */
static const bool can_use_gpu[PIPELINE_N_STAGES] = {true, true, false, false, true, false};

/* What a stage gets from this run: --threads, --device where the stage has a choice, and the verbosity. */
typedef struct run_args {
    char threads[32], device[32];
    const char *args[8];
} run_args;

static void fill_run_args(run_args *out, const rb_common_options *common, bool with_device)
{
    int n = 0;
    snprintf(out->threads, sizeof out->threads, "--threads=%lld", (long long)common->threads);
    out->args[n++] = out->threads;
    if (with_device && common->device == RB_DEVICE_CPU) out->args[n++] = "--device=cpu";
    if (with_device && common->device == RB_DEVICE_CUDA) {
        snprintf(out->device, sizeof out->device, "--device=cuda");
        if (common->has_device_index)
            snprintf(out->device, sizeof out->device, "--device=cuda:%d", common->device_index);
        out->args[n++] = out->device;
    }
    if (rb_verbosity() == RB_QUIET) out->args[n++] = "-q";
    if (rb_verbosity() == RB_VERBOSE) out->args[n++] = "-v";
    out->args[n] = NULL;
}

/* ---- all stages ------------------------------------------------------------------------------ */

/* What visit_plan_stage needs. */
typedef struct plan_stages {
    const pipeline_config *config;
    const char *folder;
    rb_status (*visit)(void *user, const stage *s, rb_error *err);
    void *user;
} plan_stages;

/* A separate allocate stage with its own stamp. Its values have as many bits as its keys, which is allocate's
 * default. */
static rb_status visit_plan_stage(void *user, const char *method, const char *budget, const char *plan, rb_error *err)
{
    const plan_stages *plans = user;
    char *name = NULL, *document = NULL;
    stage s = {0};
    rb_status st;
    RB_TRY(st, rb_format(&name, err, "allocate-%s-%s", method, budget), done);
    RB_TRY(st, rb_format(&document, err, "%s.json", name), done);
    stage_init(&s, name, plans->folder);
    s.program = pipeline_stage_names[STAGE_ALLOCATE];
    RB_TRY(st, add_own_file(&s, PIPELINE_PROFILE, true, err), done);
    RB_TRY(st, stage_add_option(&s, "--method", method, err), done);
    RB_TRY(st, stage_add_option(&s, "--avg-bits", budget, err), done);
    RB_TRY(st, stage_add_option(&s, "--rotation", pipeline_value(plans->config, "allocate", "rotation"), err), done);
    RB_TRY(st, stage_add_option(&s, "--sink", pipeline_value(plans->config, "allocate", "sink"), err), done);
    RB_TRY(st, stage_add_option(&s, "--recent", pipeline_value(plans->config, "allocate", "recent"), err), done);
    RB_TRY(st, add_output_option(&s, plan, err), done);
    RB_TRY(st, stage_set_json_output(&s, document, err), done);
    RB_TRY(st, plans->visit(plans->user, &s, err), done);
done:
    stage_free(&s);
    free(name);
    free(document);
    return st;
}

static rb_status make_plan(void *user, const stage *s, rb_error *err)
{
    const run_args *extra = user;
    bool ran = false;
    return stage_run(s, extra->args, &ran, err);
}

static rb_status make_plans(const pipeline_config *config, const char *folder, const rb_common_options *common,
                            rb_error *err)
{
    run_args extra = {0};
    fill_run_args(&extra, common, can_use_gpu[STAGE_ALLOCATE]);
    return each_plan(config, visit_plan_stage, &(plan_stages){config, folder, make_plan, &extra}, err);
}

rb_status pipeline_run(const pipeline_config *config, const char *folder, const rb_common_options *common,
                       bool ran[PIPELINE_N_STAGES], rb_error *err)
{
    rb_status st = rb_make_folder(folder, err);
    for (int i = 0; i < PIPELINE_N_STAGES && st == RB_OK; i++) {
        stage s;
        run_args extra = {0};
        const double started_s = rb_now_s();
        if (!pipeline_has_stage(config, i)) continue;
        if (i == STAGE_EVALUATE) st = make_plans(config, folder, common, err);
        if (st != RB_OK) break;
        fill_run_args(&extra, common, can_use_gpu[i]);
        stage_init(&s, pipeline_stage_names[i], folder);
        st = describe[i](&s, config, err);
        if (st == RB_OK) st = stage_run(&s, extra.args, &ran[i], err);
        if (st == RB_OK && ran[i]) rb_message_info("%s took %.1f s", s.name, rb_now_s() - started_s);
        if (st == RB_OK && !ran[i]) rb_message_info("%s is up to date", s.name);
        stage_free(&s);
    }
    return st;
}

typedef struct file_visitor {
    void (*visit)(void *user, const char *path);
    void *user;
} file_visitor;

static rb_status visit_outputs(void *user, const stage *s, rb_error *err)
{
    const file_visitor *files = user;
    (void)err;
    for (int file = 0; file < s->n_outputs; file++) files->visit(files->user, s->outputs[file]);
    return RB_OK;
}

rb_status pipeline_files(const pipeline_config *config, const char *folder, void (*visit)(void *user, const char *path),
                         void *user, rb_error *err)
{
    file_visitor files = {visit, user};
    rb_status st = RB_OK;
    for (int i = 0; i < PIPELINE_N_STAGES && st == RB_OK; i++) {
        stage s = {0};
        if (!pipeline_has_stage(config, i)) continue;
        if (i == STAGE_EVALUATE)
            RB_TRY(st, each_plan(config, visit_plan_stage, &(plan_stages){config, folder, visit_outputs, &files}, err),
                   next);
        stage_init(&s, pipeline_stage_names[i], folder);
        RB_TRY(st, describe[i](&s, config, err), next);
        st = visit_outputs(&files, &s, err);
    next:
        stage_free(&s);
    }
    return st;
}
