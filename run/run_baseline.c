/* See run/run_baseline.h. */
#include "run/run_baseline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "evaluate/compare_report.h"
#include "evaluate/evaluation_file.h"

int baseline_options_append(rb_option *table, int n, baseline_options *options)
{
    const rb_option rows[] = {
        {.long_name = "baseline",
         .kind = RB_OPT_REPEATED,
         .value = &options->paths,
         .metavar = "FILE",
         .help = "compare summary.json or evaluation.json of this run with FILE, one that was kept, and exit with 3 "
                 "when it got worse; may be given twice, for both"},
        {.long_name = "update-baseline",
         .kind = RB_OPT_FLAG,
         .value = &options->updates,
         .help = "show what changed and put the result of this run in the place of the baseline"},
        {.long_name = "format",
         .kind = RB_OPT_CHOICE,
         .value = &options->format,
         .metavar = "FORMAT",
         .choices = comparison_format_names,
         .help = "how the comparison is printed (ropebits compare)"},
    };
    n = rb_options_append(table, n, rows, RB_COUNT(rows));
    options->limits.max_growth = (double)NAN; /* not given, and not 0, which the pipeline file's would replace */
    options->limits.max_needles_lost = -1;
    return comparison_options_append(table, n, &options->limits);
}

/* ---- limits ---------------------------------------------------------------------------------- */

/* Those of the pipeline file come first, so that the command line's replace them. */
static rb_status merge(comparison_options *out, const comparison_options *given, const pipeline_config *config,
                       rb_error *err)
{
    const char *max_regression = pipeline_value(config, "compare", "max_regression"),
               *max_growth = pipeline_value(config, "compare", "max_growth"),
               *max_lost = pipeline_value(config, "compare", "max_needles_lost");
    const int n_own = max_regression != NULL;
    *out = *given;
    if (given->max_regression.n + n_own > RB_MAX_LIST)
        return rb_fail(err, RB_EUSAGE, "--max-regression: more than %d of them", RB_MAX_LIST - n_own);
    if (n_own) out->max_regression.at[0] = max_regression;
    for (int i = 0; i < given->max_regression.n; i++) out->max_regression.at[i + n_own] = given->max_regression.at[i];
    out->max_regression.n += n_own;
    if (isnan(given->max_growth)) out->max_growth = max_growth ? atof(max_growth) : 0.0;
    if (given->max_needles_lost < 0) out->max_needles_lost = max_lost ? atoll(max_lost) : 0;
    return RB_OK;
}

rb_status baseline_options_check(comparison_limits *limits, const baseline_options *options,
                                 const pipeline_config *config, rb_error *err)
{
    const comparison_options *given = &options->limits;
    comparison_options merged;
    rb_status st;
    const bool has_limits = given->max_regression.n > 0 || !isnan(given->max_growth) || given->max_needles_lost >= 0;
    if (options->paths.n == 0 && (options->updates || has_limits))
        return rb_fail(err, RB_EUSAGE, "%s without --baseline FILE", options->updates ? "--update-baseline" : "limits");
    if (options->format == REPORT_JUNIT)
        return rb_fail(err, RB_EUSAGE,
                       "--format junit is a document of its own, expected text, markdown or github; "
                       "ropebits compare prints it of the two files");
    for (int i = 0; i < options->paths.n && !options->updates; i++)
        if (access(options->paths.at[i], R_OK) != 0)
            return rb_fail(err, RB_EIO, "%s: no such baseline; --update-baseline makes one of this run",
                           options->paths.at[i]);
    RB_TRY(st, merge(&merged, given, config, err), done);
    st = comparison_limits_from(limits, &merged, err);
done:
    return st;
}

/* ---- one baseline ---------------------------------------------------------------------------- */

/* The file of the run that a baseline is of. */
static rb_status result_of(char **out, const char *baseline, const char *folder, rb_error *err)
{
    cJSON *document = NULL;
    const char *schema = "", *name = PIPELINE_SUMMARY;
    rb_status st = RB_OK;
    if (access(baseline, F_OK) == 0) {
        RB_TRY(st, rb_json_read(&document, baseline, 0, err), done);
        RB_TRY(st, rb_json_get_string(document, "schema", baseline, &schema, err), done);
        if (strcmp(schema, EVALUATION_SCHEMA) == 0) name = PIPELINE_EVALUATION;
    }
    RB_TRY(st, rb_join_path(out, folder, name, err), done);
    if (access(*out, F_OK) != 0)
        st = rb_fail(err, RB_EMISMATCH, "%s is an evaluation, and this pipeline has no evaluate object", baseline);
done:
    cJSON_Delete(document);
    return st;
}

static rb_status copy_file(const char *from, const char *to, rb_error *err)
{
    char *bytes = NULL;
    size_t size_bytes;
    rb_status st;
    RB_TRY(st, rb_read_file(&bytes, &size_bytes, from, (size_t)1 << 28, err), done);
    st = rb_atomic_write(to, bytes, size_bytes, err);
done:
    free(bytes);
    return st;
}

static rb_status compare_one(int *n_regressions, const baseline_options *options, const comparison_limits *limits,
                             const char *baseline, const char *made, FILE *out, rb_error *err)
{
    comparison result = {0};
    rb_status st;
    RB_TRY(st, compare_files(&result, baseline, made, limits, err), done);
    *n_regressions += result.n_regressions;
    st = comparison_print(out, &(report_of){&result, baseline, made, limits}, (report_format)options->format, err);
done:
    comparison_free(&result);
    return st;
}

/* A baseline of another model, text or setting cannot be compared, and is replaced all the same: it was asked for. */
static rb_status update(const baseline_options *options, const comparison_limits *limits, const char *baseline,
                        const char *made, FILE *out, rb_error *err)
{
    rb_error why = {0};
    int n_regressions = 0;
    if (access(baseline, F_OK) != 0) rb_message_info("%s: new", baseline);
    else if (compare_one(&n_regressions, options, limits, baseline, made, out, &why) != RB_OK)
        rb_message_warn("%s is replaced without a comparison: %s", baseline, why.msg);
    else rb_message_info("%s is replaced; %d of its numbers got worse", baseline, n_regressions);
    return copy_file(made, baseline, err);
}

rb_status baseline_compare(const baseline_options *options, const comparison_limits *limits, const char *folder,
                           bool as_json, rb_error *err)
{
    FILE *out = as_json ? stderr : stdout;
    int n_regressions = 0;
    rb_status st = RB_OK;
    for (int i = 0; i < options->paths.n && st == RB_OK; i++) {
        const char *baseline = options->paths.at[i];
        char *made = NULL;
        st = result_of(&made, baseline, folder, err);
        if (st == RB_OK && options->format == REPORT_TEXT)
            fprintf(out, "\n%s against %s\n", strrchr(made, '/') + 1, baseline);
        if (st == RB_OK)
            st = options->updates ? update(options, limits, baseline, made, out, err)
                                  : compare_one(&n_regressions, options, limits, baseline, made, out, err);
        free(made);
    }
    return st == RB_OK && n_regressions > 0 ? RB_ECHECK : st;
}
