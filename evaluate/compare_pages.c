/* A comparison as markdown and as JUnit XML: see evaluate/compare_report.h. */
#include <string.h>

#include "evaluate/compare_cells.h"

/* ---- markdown -------------------------------------------------------------------------------- */

static void print_markdown_row(FILE *out, const comparison_row *row)
{
    const row_cells cells = comparison_cells(row);
    const char *bold = comparison_is_regression(row->verdict) ? "**" : "";
    fprintf(out, "| `%s` | ", row->metric);
    put_markdown(out, cells.of);
    fprintf(out, " | %s | %s | %s | %s | %s | %s%s%s |\n", cells.layer, cells.base, cells.updated, cells.change,
            cells.allowed, bold, comparison_verdict_label(row->verdict), bold);
}

void comparison_print_markdown(FILE *out, const report_of *report)
{
    const comparison *result = report->result;
    const unjudged_member *member;
    char conclusion[128];
    comparison_conclusion(conclusion, sizeof conclusion, result);
    fprintf(out, "### ropebits compare: %s\n\n", conclusion);
    put_markdown(out, report->base_path);
    fputs(" against ", out);
    put_markdown(out, report->new_path);
    fputs("\n\n| metric | of | layer | base | new | change | allowed | verdict |\n"
          "|---|---|---|--:|--:|--:|--:|---|\n",
          out);
    for (int i = 0; i < result->n_rows; i++)
        if (comparison_is_shown(&result->rows[i])) print_markdown_row(out, &result->rows[i]);
    for (int i = 0; i < result->n_notes; i++) {
        fputs("\nNote: ", out);
        put_markdown(out, result->notes[i]);
        fputs("\n", out);
    }
    fputs("\n<details><summary>not judged</summary>\n\n", out);
    for (int i = 0; (member = comparison_next_unjudged(result, &i));)
        fprintf(out, "- `%s`: %s\n", member->path, member->reason);
    fputs("\n</details>\n", out);
}

/* ---- JUnit ----------------------------------------------------------------------------------- */

static void print_outcome(FILE *out, const comparison_row *row, const row_cells *cells)
{
    if (row->verdict == VERDICT_UNMEASURED) {
        fputs(">\n      <skipped message=\"BASE has no number for it\"/>\n    </testcase>\n", out);
        return;
    }
    if (!comparison_is_regression(row->verdict)) {
        fputs("/>\n", out);
        return;
    }
    fprintf(out,
            ">\n      <failure type=\"%s\" message=\"%s: base %s, new %s, allowed %s\">base %s\nnew %s\nchange %s\n"
            "allowed %s</failure>\n    </testcase>\n",
            comparison_verdict_name(row->verdict), comparison_verdict_label(row->verdict), cells->base, cells->updated,
            cells->allowed, cells->base, cells->updated, cells->change, cells->allowed);
}

static void print_test_case(FILE *out, const comparison_row *row)
{
    const row_cells cells = comparison_cells(row);
    fputs("    <testcase classname=\"", out);
    put_xml(out, cells.of);
    fprintf(out, "\" name=\"%s%s%s\"", row->metric, cells.layer[0] ? " " : "", cells.layer);
    print_outcome(out, row, &cells);
}

static int count_unmeasured(const comparison *result)
{
    int n = 0;
    for (int i = 0; i < result->n_rows; i++) n += result->rows[i].verdict == VERDICT_UNMEASURED;
    return n;
}

void comparison_print_junit(FILE *out, const report_of *report)
{
    const comparison *result = report->result;
    const unjudged_member *member;
    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"ropebits compare\" "
            "tests=\"%d\" failures=\"%d\" errors=\"0\" skipped=\"%d\">\n    <properties>\n      <property "
            "name=\"base\" value=\"",
            result->n_rows, result->n_regressions, count_unmeasured(result));
    put_xml(out, report->base_path);
    fputs("\"/>\n      <property name=\"new\" value=\"", out);
    put_xml(out, report->new_path);
    fputs("\"/>\n    </properties>\n", out);
    for (int i = 0; i < result->n_rows; i++) print_test_case(out, &result->rows[i]);
    fputs("    <system-out>", out);
    for (int i = 0; i < result->n_notes; i++) {
        fputs("note: ", out);
        put_xml(out, result->notes[i]);
        fputs("\n", out);
    }
    fputs("not judged:\n", out);
    for (int i = 0; (member = comparison_next_unjudged(result, &i));) {
        fprintf(out, "%s: ", member->path);
        put_xml(out, member->reason);
        fputs("\n", out);
    }
    fputs("</system-out>\n  </testsuite>\n</testsuites>\n", out);
}
