/* See evaluate/compare_report.h. compare_pages.c has markdown and JUnit. */
#include "evaluate/compare_report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "evaluate/compare_cells.h"

const char *const comparison_format_names[] = {"text", "markdown", "junit", "github", NULL};

/* ---- text ------------------------------------------------------------------------------------ */

static void print_row(FILE *out, const comparison_row *row)
{
    const row_cells cells = comparison_cells(row);
    fprintf(out, "%-23s ", row->metric);
    put_plain(out, cells.of);
    fprintf(out, "%*s %-9s %10s %10s %10s %10s  %s\n", strlen(cells.of) < 25 ? 25 - (int)strlen(cells.of) : 0, "",
            cells.layer, cells.base, cells.updated, cells.change, cells.allowed,
            comparison_verdict_label(row->verdict));
}

static void print_table(FILE *out, const comparison *result)
{
    fprintf(out, "%-59s %10s %10s %10s %10s\n", "", "base", "new", "change", "allowed");
    for (int i = 0; i < result->n_rows; i++)
        if (comparison_is_shown(&result->rows[i])) print_row(out, &result->rows[i]);
}

static void print_text(FILE *out, const comparison *result)
{
    const unjudged_member *member;
    char conclusion[128];
    print_table(out, result);
    fputs("\nnot judged:\n", out);
    for (int i = 0; (member = comparison_next_unjudged(result, &i));)
        fprintf(out, "  %-22s %s\n", member->path, member->reason);
    for (int i = 0; i < result->n_notes; i++) {
        fputs("\nnote: ", out);
        put_plain(out, result->notes[i]);
        fputs("\n", out);
    }
    comparison_conclusion(conclusion, sizeof conclusion, result);
    fprintf(out, "\n%s\n", conclusion);
}

/* ---- GitHub ---------------------------------------------------------------------------------- */

/* The page of the job; what earlier steps wrote stays. */
static rb_status write_job_page(const report_of *report, rb_error *err)
{
    const char *path = getenv("GITHUB_STEP_SUMMARY");
    if (!path || path[0] == '\0') return RB_OK;
    FILE *page = fopen(path, "a");
    if (!page) return rb_fail(err, RB_EIO, "%s (GITHUB_STEP_SUMMARY): cannot open: %s", path, strerror(errno));
    comparison_print_markdown(page, report);
    const bool is_bad = ferror(page) != 0;
    if (fclose(page) != 0 || is_bad)
        return rb_fail(err, RB_EIO, "%s (GITHUB_STEP_SUMMARY): cannot write: %s", path, strerror(errno));
    return RB_OK;
}

static void print_error_command(FILE *out, const comparison_row *row)
{
    const row_cells cells = comparison_cells(row);
    fprintf(out, "::error title=ropebits compare::%s: %s of ", comparison_verdict_label(row->verdict), row->metric);
    put_github(out, cells.of);
    fprintf(out, "%s%s: base %s, new %s, allowed %s\n", cells.layer[0] ? " " : "", cells.layer, cells.base,
            cells.updated, cells.allowed);
}

static rb_status print_github(FILE *out, const report_of *report, rb_error *err)
{
    enum { MAX_COMMANDS = 9 }; /* a step shows ten of a kind, and the last one says how many more there are */
    const comparison *result = report->result;
    int n = 0;
    for (int i = 0; i < result->n_rows && n < MAX_COMMANDS; i++) {
        if (!comparison_is_regression(result->rows[i].verdict)) continue;
        print_error_command(out, &result->rows[i]);
        n++;
    }
    if (n < result->n_regressions)
        fprintf(out, "::error title=ropebits compare::%d more numbers got worse\n", result->n_regressions - n);
    for (int i = 0; i < result->n_notes; i++) {
        fputs("::warning title=ropebits compare::", out);
        put_github(out, result->notes[i]);
        fputs("\n", out);
    }
    print_text(out, result);
    return write_job_page(report, err);
}

rb_status comparison_print(FILE *out, const report_of *report, report_format format, rb_error *err)
{
    switch (format) {
    case REPORT_TEXT: print_text(out, report->result); break;
    case REPORT_MARKDOWN: comparison_print_markdown(out, report); break;
    case REPORT_JUNIT: comparison_print_junit(out, report); break;
    case REPORT_GITHUB: return print_github(out, report, err);
    }
    return RB_OK;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

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
    RB_TRY(st, rb_json_add_number(*out, "layer", row->layer < 0 ? (double)NAN : row->layer, err), done);
    RB_TRY(st, rb_json_add_number(*out, "base", row->base, err), done);
    RB_TRY(st, rb_json_add_number(*out, "new", row->updated, err), done);
    RB_TRY(st, rb_json_add_number(*out, "allowed", row->allowed, err), done);
    RB_TRY(st, rb_json_add_bool(*out, "seeds_differ", row->is_redrawn, err), done);
    RB_TRY(st, rb_json_add_string(*out, "verdict", comparison_verdict_name(row->verdict), err), done);
    RB_TRY(st, rb_json_add_bool(*out, "is_regression", comparison_is_regression(row->verdict), err), done);
done:
    return st;
}

static rb_status rows_to_json(cJSON *list, const comparison *result, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st = RB_OK;
    for (int i = 0; i < result->n_rows && st == RB_OK; i++) {
        st = row_to_json(&item, &result->rows[i], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
    }
    cJSON_Delete(item);
    return st;
}

/* The limit of every metric of the schema; rows of layers may have their own. */
static rb_status limits_to_json(cJSON *list, const report_of *report, rb_error *err)
{
    cJSON *item = NULL;
    rb_status st = RB_OK;
    for (int m = 0; m < comparison_n_metrics; m++) {
        const comparison_metric *metric = &comparison_metrics[m];
        if (metric->schema != report->result->schema) continue;
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, rb_json_add_string(item, "metric", metric->name, err), done);
        RB_TRY(st, rb_json_add_string(item, "member", metric->path, err), done);
        RB_TRY(st, rb_json_add_number(item, "max_regression_percent", comparison_limit(report->limits, metric), err),
               done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
done:
    cJSON_Delete(item);
    return st;
}

static rb_status notes_to_json(cJSON *list, const comparison *result, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < result->n_notes && st == RB_OK; i++) {
        cJSON *note = cJSON_CreateString(result->notes[i]);
        st = rb_json_append(list, &note, err);
    }
    return st;
}

static rb_status unjudged_to_json(cJSON *list, const comparison *result, rb_error *err)
{
    const unjudged_member *member;
    cJSON *item = NULL;
    rb_status st = RB_OK;
    for (int i = 0; (member = comparison_next_unjudged(result, &i));) {
        RB_TRY(st, rb_json_new_object(&item, err), done);
        RB_TRY(st, rb_json_add_string(item, "member", member->path, err), done);
        RB_TRY(st, rb_json_add_string(item, "reason", member->reason, err), done);
        RB_TRY(st, rb_json_append(list, &item, err), done);
    }
done:
    cJSON_Delete(item);
    return st;
}

static rb_status add_list(cJSON *json, const char *name, cJSON **list, rb_error *err)
{
    *list = cJSON_AddArrayToObject(json, name);
    return *list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for the comparison");
}

rb_status comparison_to_json(cJSON **out, const report_of *report, rb_error *err)
{
    const comparison_limits *limits = report->limits;
    cJSON *json = NULL, *list;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-comparison", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, rb_json_add_string(json, "base", report->base_path, err), done);
    RB_TRY(st, rb_json_add_string(json, "new", report->new_path, err), done);
    RB_TRY(st, rb_json_add_number(json, "max_regression_percent", limits->general, err), done);
    RB_TRY(st, rb_json_add_number(json, "max_growth_percent", limits->max_growth, err), done);
    RB_TRY(st, rb_json_add_number(json, "max_needles_lost", (double)limits->max_needles_lost, err), done);
    RB_TRY(st, rb_json_add_number(json, "n_regressions", report->result->n_regressions, err), done);
    RB_TRY(st, add_list(json, "rows", &list, err), done);
    RB_TRY(st, rows_to_json(list, report->result, err), done);
    RB_TRY(st, add_list(json, "limits", &list, err), done);
    RB_TRY(st, limits_to_json(list, report, err), done);
    RB_TRY(st, add_list(json, "notes", &list, err), done);
    RB_TRY(st, notes_to_json(list, report->result, err), done);
    RB_TRY(st, add_list(json, "not_judged", &list, err), done);
    RB_TRY(st, unjudged_to_json(list, report->result, err), done);
    *out = json;
    json = NULL;
done:
    cJSON_Delete(json);
    return st;
}
