/* ropebits-compare: the gate. Exit code 3 when a new summary is worse than a base. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/json.h"
#include "core/message.h"
#include "core/program.h"
#include "evaluate/compare.h"

typedef struct compare_options {
    comparison_limits limits;
} compare_options;

static double change_percent(const comparison_row *row)
{
    return row->base > 0.0 ? 100.0 * (row->updated / row->base - 1.0) : (double)NAN;
}

/* Without -v only the means are shown, and what has regressed. */
static bool is_shown(const comparison_row *row)
{
    return row->layer < 0 || comparison_is_regression(row->verdict) || rb_verbosity() >= RB_VERBOSE;
}

/* Regressions stand out in capitals. */
static const char *verdict_label(comparison_verdict verdict)
{
    static const char *const labels[] = {
        [VERDICT_SAME] = "same",   [VERDICT_BETTER] = "better",        [VERDICT_UNMEASURED] = "not measured",
        [VERDICT_WORSE] = "WORSE", [VERDICT_LOST] = "LOST TO UNIFORM", [VERDICT_MISSING] = "MISSING"};
    return labels[verdict];
}

static void print_row(const comparison_row *row)
{
    char layer[16], base[32] = "-", updated[32] = "-", change[32] = "";
    snprintf(layer, sizeof layer, row->layer < 0 ? "all" : "%d", row->layer);
    if (!isnan(row->base)) snprintf(base, sizeof base, "%.4f", row->base);
    if (!isnan(row->updated)) snprintf(updated, sizeof updated, "%.4f", row->updated);
    if (!isnan(change_percent(row))) snprintf(change, sizeof change, "%+.2f %%", change_percent(row));
    if (row->run[0] != '\0') printf("%-15s %-29s ", row->metric, row->run);
    else printf("%-10s %-12s %4g bits  layer %-4s ", row->metric, row->method, row->avg_bits, layer);
    printf("%10s %10s %10s  %s\n", base, updated, change, verdict_label(row->verdict));
}

static void print_table(const comparison *result, double max_regression)
{
    printf("%-46s %10s %10s %10s\n", "", "base", "new", "change");
    for (int i = 0; i < result->n_rows; i++)
        if (is_shown(&result->rows[i])) print_row(&result->rows[i]);
    if (result->n_regressions > 0)
        printf("\nno: %d of %d numbers got worse (limit %g %%)\n", result->n_regressions, result->n_rows,
               max_regression);
    else printf("\nyes: none of %d numbers got worse (limit %g %%)\n", result->n_rows, max_regression);
}

static rb_status row_to_json(cJSON **out, const comparison_row *row, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "metric", row->metric, err), done);
    if (row->run[0] != '\0') {
        RB_TRY(st, rb_json_add_string(*out, "run", row->run, err), done);
        RB_TRY(st, rb_json_add_number(*out, "value_bits", row->value_bits, err), done);
    }
    RB_TRY(st, rb_json_add_string(*out, "method", row->method, err), done);
    RB_TRY(st, rb_json_add_number(*out, "avg_bits", row->avg_bits, err), done);
    RB_TRY(st,
           row->layer < 0 ? rb_json_add_null(*out, "layer", err) : rb_json_add_number(*out, "layer", row->layer, err),
           done);
    RB_TRY(st, rb_json_add_number(*out, "base", row->base, err), done);
    RB_TRY(st, rb_json_add_number(*out, "new", row->updated, err), done);
    RB_TRY(st, rb_json_add_string(*out, "verdict", comparison_verdict_name(row->verdict), err), done);
    RB_TRY(st, rb_json_add_bool(*out, "is_regression", comparison_is_regression(row->verdict), err), done);
done:
    return st;
}

static rb_status print_json(const comparison *result, const rb_string_list *paths, const comparison_limits *limits,
                            rb_error *err)
{
    cJSON *json = NULL, *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the comparison");
    if (st != RB_OK) goto done;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-comparison", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "base", paths->at[0], err), done);
    RB_TRY(st, rb_json_add_string(json, "new", paths->at[1], err), done);
    RB_TRY(st, rb_json_add_number(json, "max_regression_percent", limits->max_regression, err), done);
    RB_TRY(st, rb_json_add_number(json, "max_needles_lost", (double)limits->max_needles_lost, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_regressions", result->n_regressions, err), done);
    for (int i = 0; i < result->n_rows; i++) {
        RB_TRY(st, row_to_json(&item, &result->rows[i], err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
    RB_TRY(st, rb_json_add_item(json, "rows", &list, err), done);
    RB_TRY(st, rb_json_put(json, err), done);
done:
    cJSON_Delete(item);
    cJSON_Delete(list);
    cJSON_Delete(json);
    return st;
}

static rb_status compare_run(const rb_run_args *args, rb_error *err)
{
    const compare_options *opt = args->context;
    comparison result = {0};
    rb_status st;
    RB_TRY(st, compare_files(&result, args->positionals->at[0], args->positionals->at[1], &opt->limits, err), done);
    if (args->common->json) RB_TRY(st, print_json(&result, args->positionals, &opt->limits, err), done);
    else print_table(&result, opt->limits.max_regression);
    if (result.n_regressions > 0) st = RB_ECHECK;
done:
    comparison_free(&result);
    return st;
}

int main(int argc, char **argv)
{
    compare_options opt = {.limits = {.max_regression = 1.0}};
    const rb_option table[] = {
        {.long_name = "max-regression",
         .kind = RB_OPT_NUMBER,
         .value = &opt.limits.max_regression,
         .metavar = "PERCENT",
         .min = 0.0,
         .max = 1000.0,
         .help = "how much larger an error may be"},
        {.long_name = "max-needles-lost",
         .kind = RB_OPT_INT,
         .value = &opt.limits.max_needles_lost,
         .metavar = "N",
         .min = 0,
         .max = 1000000,
         .help = "of evaluations: how many fewer needles a run may find"},
    };
    const rb_program program = {
        .name = "compare",
        .synopsis = "ropebits compare [options] BASE.json NEW.json",
        .summary = "Compares two profile summaries (ropebits profile --json) or two evaluations (ropebits evaluate) of "
                   "the same model and texts. Exit code 3 when the "
                   "logit MAE of a method, budget or layer got worse, a layer was lost to uniform, the perplexity or "
                   "KL of a run got worse, needles were lost, true "
                   "bits grew, or a method or run is missing.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 2,
        .max_positionals = 2,
        .positional_names = "BASE.json NEW.json",
        .run = compare_run,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
