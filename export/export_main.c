/* ropebits-export: a plan in the forms other programs read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/program.h"
#include "export/plan_cuda.h"
#include "export/plan_folded.h"
#include "export/plan_header.h"
#include "export/plan_report.h"
#include "export/plan_safetensors.h"
#include "export/runtimes/projection_run.h"
#include "plan/plan_json.h"
#include "plan/plan_rbp.h"
#include "profile/profile_file.h"

typedef struct export_options {
    rb_string_list formats;
    const char *profile, *summary, *evaluation; /* of the report */
    const char *model, *capture, *output;
    bool allow_larger;
} export_options;

typedef struct export_job {
    const bit_plan *plan;
    const plan_report_inputs *report;
    const char *model; /* folder of the checkpoint; NULL: none given */
    const projection_run *projections;
    const char *capture; /* path; NULL: none given */
} export_job;

static rb_status write_json(const export_job *job, const char *path, rb_error *err)
{
    return plan_json_write(job->plan, path, err);
}
static rb_status write_rbp(const export_job *job, const char *path, rb_error *err)
{
    return plan_rbp_write(job->plan, path, err);
}
static rb_status write_header(const export_job *job, const char *path, rb_error *err)
{
    return plan_header_write(job->plan, path, err);
}
static rb_status write_safetensors(const export_job *job, const char *path, rb_error *err)
{
    return plan_safetensors_write(job->plan, path, err);
}
static rb_status write_report(const export_job *job, const char *path, rb_error *err)
{
    return plan_report_write(job->report, path, err);
}
static rb_status write_folded_weights(const export_job *job, const char *path, rb_error *err)
{
    return plan_folded_write_weights(job->plan, job->model, path, err);
}
static rb_status write_folded_plan(const export_job *job, const char *path, rb_error *err)
{
    return plan_folded_write_plan(job->plan, path, err);
}
static rb_status write_cuda(const export_job *job, const char *path, rb_error *err)
{
    return plan_cuda_write(job->plan, job->capture, path, err);
}

/* Every file of every format, in one place. file_format takes the stem of the plan's name. */
static const struct export_file {
    const char *format, *file_format;
    rb_status (*write)(const export_job *job, const char *path, rb_error *err);
} export_files[] = {
    {"rbp", "%s/%s.rbp", write_rbp},
    {"header", "%s/%s.h", write_header},
    {"safetensors", "%s/%s.safetensors", write_safetensors},
    {"json", "%s/%s.json", write_json},
    {"report", "%s/%s.html", write_report},
    {"folded", "%s/%s-folded.safetensors", write_folded_weights},
    {"folded", "%s/%s-folded.json", write_folded_plan},
    {"cuda", "%s/%s-cuda", write_cuda}, /* a folder */
};
#define RB_RUNTIME_NAME(NAME, variable, name) name,
static const char *const format_names[] = {"rbp",    "header", "safetensors", "json",
                                           "report", "folded", "cuda",        RB_RUNTIMES(RB_RUNTIME_NAME) NULL};
#undef RB_RUNTIME_NAME

/* "folder/plan.json" -> "plan". */
static rb_status stem_of(char **out, const char *path, rb_error *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    return rb_format(out, err, "%.*s", dot && dot != name ? (int)(dot - name) : (int)strlen(name), name);
}

static rb_status print_file(cJSON *files, const char *format, const char *path, rb_error *err)
{
    struct stat info;
    if (stat(path, &info) != 0) return rb_fail(err, RB_EIO, "%s: cannot be read back", path);
    const bool is_folder = S_ISDIR(info.st_mode);
    if (!files) {
        if (is_folder) printf("%-12s %-44s %15s\n", format, rb_shown(path).text, "folder");
        else printf("%-12s %-44s %9lld bytes\n", format, rb_shown(path).text, (long long)info.st_size);
        return RB_OK;
    }
    cJSON *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&item, err), done);
    RB_TRY(st, rb_json_add_string(item, "format", format, err), done);
    RB_TRY(st, rb_json_add_string(item, "path", path, err), done);
    if (!is_folder) RB_TRY(st, rb_json_add_number(item, "size_bytes", (double)info.st_size, err), done);
    RB_TRY(st, rb_json_append(files, &item, err), done);
done:
    cJSON_Delete(item);
    return st;
}

/* files: JSON list to fill, or NULL to print a line each. */
static rb_status write_file(const export_job *job, const struct export_file *file, const char *folder, const char *stem,
                            cJSON *files, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&path, err, file->file_format, folder, stem), done);
    RB_TRY(st, file->write(job, path, err), done);
    RB_TRY(st, print_file(files, file->format, path, err), done);
done:
    free(path);
    return st;
}

/* The file of another runtime. */
static rb_status write_projection(const export_job *job, const runtime *r, const char *folder, const char *stem,
                                  cJSON *files, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&path, err, projection_file_format(r->id), folder, stem), done);
    RB_TRY(st, projection_run_write(job->projections, r->id, path, err), done);
    RB_TRY(st, print_file(files, r->name, path, err), done);
done:
    free(path);
    return st;
}

static rb_status write_formats(const export_job *job, const export_options *opt, const char *stem, cJSON *files,
                               rb_error *err)
{
    rb_status st = rb_make_folder(opt->output, err);
    for (int i = 0; i < opt->formats.n && st == RB_OK; i++) {
        const runtime *r = runtime_by_name(opt->formats.at[i]);
        if (r) st = write_projection(job, r, opt->output, stem, files, err);
        for (size_t f = 0; f < RB_COUNT(export_files) && st == RB_OK; f++)
            if (strcmp(export_files[f].format, opt->formats.at[i]) == 0)
                st = write_file(job, &export_files[f], opt->output, stem, files, err);
    }
    return st;
}

/* The runtimes among the formats, each once. Returns how many. */
static int runtimes_of(runtime_id *ids, const rb_string_list *formats)
{
    bool is_taken[RUNTIME_N] = {false};
    int n = 0;
    for (int i = 0; i < formats->n; i++) {
        const runtime *r = runtime_by_name(formats->at[i]);
        if (!r || is_taken[r->id]) continue;
        is_taken[r->id] = true;
        ids[n++] = r->id;
    }
    return n;
}

static bool writes(const export_options *opt, const char *format)
{
    for (int i = 0; i < opt->formats.n; i++)
        if (strcmp(opt->formats.at[i], format) == 0) return true;
    return false;
}

/* Only the folded format needs the checkpoint; cuda and other runtimes take a capture. */
static rb_status check_inputs(const export_options *opt, int n_runtimes, rb_error *err)
{
    const bool is_folding = writes(opt, "folded");
    if (is_folding && !opt->model)
        return rb_fail(err, RB_EUSAGE, "format folded needs the checkpoint: give --model DIR");
    if (!is_folding && opt->model)
        return rb_fail(err, RB_EUSAGE, "--model is for format folded, expected it in --format");
    if (opt->capture && n_runtimes == 0 && !writes(opt, "cuda"))
        return rb_fail(err, RB_EUSAGE, "--capture is for format cuda and other runtimes, expected one in --format");
    if ((opt->profile || opt->summary || opt->evaluation) && !writes(opt, "report"))
        return rb_fail(err, RB_EUSAGE,
                       "--profile, --summary and --evaluation are for format report, expected it in --format");
    if (opt->allow_larger && n_runtimes == 0)
        return rb_fail(err, RB_EUSAGE, "--allow-larger is for other runtimes, expected one in --format");
    return RB_OK;
}

static rb_status print_json(cJSON **files, const projection_run *projections, rb_error *err)
{
    cJSON *json = NULL, *list = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-export-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_item(json, "files", files, err), done);
    if (projections->n > 0) {
        RB_TRY(st, projection_run_to_json(&list, projections, err), done);
        RB_TRY(st, rb_json_add_item(json, "projections", &list, err), done);
    }
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(list);
    cJSON_Delete(json);
    return st;
}

/* What the report is made from besides the plan, owned. */
typedef struct report_files {
    profile_table *profile;
    profile_summary *summary;
    evaluation *evaluation;
} report_files;

static rb_status report_files_read(report_files *out, const export_options *opt, rb_error *err)
{
    rb_status st = RB_OK;
    if (opt->profile) RB_TRY(st, profile_file_read(&out->profile, opt->profile, err), done);
    if (opt->summary) RB_TRY(st, profile_summary_read(&out->summary, opt->summary, err), done);
    if (opt->evaluation) RB_TRY(st, evaluation_read(&out->evaluation, opt->evaluation, err), done);
done:
    return st;
}

static void report_files_free(report_files *files)
{
    profile_table_free(files->profile);
    profile_summary_free(files->summary);
    evaluation_free(files->evaluation);
}

static rb_status export_run(const rb_run_args *args, rb_error *err)
{
    const export_options *opt = args->context;
    const char *plan_path = args->positionals->at[0];
    projection_run projections = {0};
    runtime_id runtimes[RUNTIME_N];
    const int n_runtimes = runtimes_of(runtimes, &opt->formats);
    bit_plan *plan = NULL;
    report_files about = {0};
    cJSON *files = NULL;
    char *stem = NULL;
    rb_status st;

    RB_TRY(st, check_inputs(opt, n_runtimes, err), done);
    RB_TRY(st, stem_of(&stem, plan_path, err), done);
    RB_TRY(st, plan_json_read(&plan, plan_path, err), done);
    RB_TRY(st, report_files_read(&about, opt, err), done);
    if (args->common->json && !(files = cJSON_CreateArray())) {
        st = rb_fail(err, RB_ENOMEM, "out of memory for the result");
        goto done;
    }
    RB_TRY(st,
           projection_run_create(&projections, plan, stem, runtimes, n_runtimes, opt->allow_larger, opt->capture, err),
           done);
    const plan_report_inputs report = {plan, stem, about.profile, about.summary, about.evaluation};
    RB_TRY(st,
           write_formats(&(export_job){plan, &report, opt->model, &projections, opt->capture}, opt, stem, files, err),
           done);
    if (files) RB_TRY(st, print_json(&files, &projections, err), done);
    else if (n_runtimes > 0) projection_run_print(stdout, &projections);
done:
    projection_run_clear(&projections);
    cJSON_Delete(files);
    free(stem);
    report_files_free(&about);
    bit_plan_free(plan);
    return st;
}

int main(int argc, char **argv)
{
    export_options opt = {.formats = {.n = 3, .at = {"rbp", "header", "safetensors"}}};
    const rb_option table[] = {
        {.long_name = "format",
         .kind = RB_OPT_STRINGS,
         .value = &opt.formats,
         .metavar = "LIST",
         .choices = format_names,
         .help = "what to write"},
        {.long_name = "profile",
         .kind = RB_OPT_STRING,
         .value = &opt.profile,
         .metavar = "FILE",
         .help = "profile for the report: energies, errors to expect at other sizes, sinks, and what it measured"},
        {.long_name = "summary",
         .kind = RB_OPT_STRING,
         .value = &opt.summary,
         .metavar = "FILE",
         .help = "profile summary whose errors the report shows; without it, those of --profile"},
        {.long_name = "evaluation",
         .kind = RB_OPT_STRING,
         .value = &opt.evaluation,
         .metavar = "FILE",
         .help = "result of evaluate for the report: perplexity, KL, needles"},
        {.long_name = "model",
         .kind = RB_OPT_STRING,
         .value = &opt.model,
         .metavar = "DIR",
         .help = "checkpoint whose projections format folded changes"},
        {.long_name = "capture",
         .kind = RB_OPT_STRING,
         .value = &opt.capture,
         .metavar = "FILE",
         .help = "capture whose vectors format cuda is tested with (without it they are made), and on whose test text "
                 "the loss of formats of other runtimes is measured"},
        {.long_name = "allow-larger",
         .kind = RB_OPT_FLAG,
         .value = &opt.allow_larger,
         .help = "where another runtime has nothing within the plan's bytes, write the least it has"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "DIR",
         .required = true,
         .help = "folder of the files"},
    };
    const rb_program program = {
        .name = "export",
        .synopsis = "ropebits export [options] PLAN.json -o DIR",
        .summary = "Writes a plan in the forms other programs read: plan.rbp (compact), a C header, safetensors, a "
                   "report for people, weights with its scales and bases of values folded in, C and CUDA sources that "
                   "encode, decode and attend, and the closest that other runtimes can say, with its loss.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "PLAN.json",
        .run = export_run,
        .multiplies = true,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
