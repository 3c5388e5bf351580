/* ropebits-run: the whole pipeline from one file. It skips what has not changed. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/program.h"
#include "run/folder_lock.h"
#include "run/pipeline.h"
#include "run/run_baseline.h"
#include "run/run_summary.h"

typedef struct run_options {
    const char *output;
    baseline_options baseline;
} run_options;

/* configs/demo.json -> ropebits-demo in the current folder. */
static rb_status default_folder(char **out, const char *config_path, rb_error *err)
{
    const char *slash = strrchr(config_path, '/');
    const char *name = slash ? slash + 1 : config_path;
    const char *dot = strrchr(name, '.');
    return rb_format(out, err, "ropebits-%.*s", dot && dot != name ? (int)(dot - name) : (int)strlen(name), name);
}

static rb_status run_run(const rb_run_args *args, rb_error *err)
{
    const run_options *opt = args->context;
    const char *config_path = args->positionals->at[0];
    bool ran[PIPELINE_N_STAGES] = {false};
    pipeline_config config = {0};
    comparison_limits limits;
    char *folder = NULL;
    int lock = -1;
    rb_status st;

    RB_TRY(st, pipeline_config_read(&config, config_path, err), done);
    RB_TRY(st, baseline_options_check(&limits, &opt->baseline, &config, err), done);
    if (opt->output) RB_TRY(st, rb_format(&folder, err, "%s", opt->output), done);
    else RB_TRY(st, default_folder(&folder, config_path, err), done);
    RB_TRY(st, folder_lock_take(&lock, folder, err), done);
    RB_TRY(st, pipeline_run(&config, folder, args->common, ran, err), done);
    RB_TRY(st, run_summary_print(&config, folder, ran, args->common->json, err), done);
    st = baseline_compare(&opt->baseline, &limits, folder, args->common->json, err);
done:
    if (lock >= 0) close(lock);
    pipeline_config_free(&config);
    free(folder);
    return st;
}

int main(int argc, char **argv)
{
    run_options opt = {0};
    rb_option table[BASELINE_N_OPTIONS + 1] = {
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "DIR",
         .help = "folder of all outputs; without it, ropebits-NAME for NAME.json"},
    };
    const int n = baseline_options_append(table, 1, &opt.baseline);
    const rb_program program = {
        .name = "run",
        .synopsis = "ropebits run [options] PIPELINE.json",
        .summary = "Calibrates, profiles, allocates, exports and, where the pipeline file asks for it, evaluates, and "
                   "prints what came of it. A stage whose inputs and "
                   "options did not change is not run again.",
        .options = table,
        .n_options = n,
        .min_positionals = 1,
        .max_positionals = 1,
        .positional_names = "PIPELINE.json",
        .run = run_run,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}
