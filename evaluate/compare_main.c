/* ropebits-compare: the gate. Exit code 3 when a new summary or evaluation is worse than a base. */
#include <stdio.h>

#include "core/json.h"
#include "core/program.h"
#include "evaluate/compare_report.h"

typedef struct compare_options {
    comparison_options limits;
    int format;
} compare_options;

static rb_status print_json(const report_of *report, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    RB_TRY(st, comparison_to_json(&json, report, err), done);
    st = rb_json_put(json, err);
done:
    cJSON_Delete(json);
    return st;
}

static rb_status compare_run(const rb_run_args *args, rb_error *err)
{
    const compare_options *opt = args->context;
    comparison_limits limits;
    comparison result = {0};
    const report_of report = {&result, args->positionals->at[0], args->positionals->at[1], &limits};
    rb_status st;
    RB_TRY(st, comparison_limits_from(&limits, &opt->limits, err), done);
    RB_TRY(st, compare_files(&result, report.base_path, report.new_path, &limits, err), done);
    if (args->common->json) RB_TRY(st, print_json(&report, err), done);
    else RB_TRY(st, comparison_print(stdout, &report, (report_format)opt->format, err), done);
    if (result.n_regressions > 0) st = RB_ECHECK;
done:
    comparison_free(&result);
    return st;
}

int main(int argc, char **argv)
{
    compare_options opt = {0};
    rb_option table[COMPARISON_N_OPTIONS + 1];
    int n = comparison_options_append(table, 0, &opt.limits);
    table[n++] = (rb_option){.long_name = "format",
                             .kind = RB_OPT_CHOICE,
                             .value = &opt.format,
                             .metavar = "FORMAT",
                             .choices = comparison_format_names,
                             .help = "how the table is printed: for a terminal, for a page, as JUnit XML for CI, or as "
                                     "commands for GitHub Actions"};
    const rb_program program = {
        .name = "compare",
        .synopsis = "ropebits compare [options] BASE.json NEW.json",
        .summary =
            "Compares two profile summaries (ropebits profile --json) or two evaluations (ropebits evaluate) of "
            "the same model, weights and texts. Exit code 3 when any of their numbers got worse by more than its "
            "limit, true bits grew, needles were lost, a layer was lost to uniform, or a method or run is "
            "missing.",
        .options = table,
        .n_options = n,
        .min_positionals = 2,
        .max_positionals = 2,
        .positional_names = "BASE.json NEW.json",
        .run = compare_run,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
