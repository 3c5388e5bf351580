/* See evaluate/compare_cells.h. */
#include "evaluate/compare_cells.h"

#include <math.h>
#include <string.h>

#include <utf8proc.h>

#include "core/message.h"

static void print_number(char *out, size_t size, double value)
{
    if (isnan(value)) snprintf(out, size, "-");
    else snprintf(out, size, "%.5g", value);
}

/* The rows of one metric have one direction, but a number and its bound say which it is. */
row_cells comparison_cells(const comparison_row *row)
{
    row_cells cells = {0};
    if (row->run[0] != '\0') snprintf(cells.of, sizeof cells.of, "%s", row->run);
    else snprintf(cells.of, sizeof cells.of, "%s %g bits", row->method, row->avg_bits);
    if (row->layer >= 0) snprintf(cells.layer, sizeof cells.layer, "layer %d", row->layer);
    print_number(cells.base, sizeof cells.base, row->base);
    print_number(cells.updated, sizeof cells.updated, row->updated);
    if (row->base > 0.0 && !isnan(row->updated))
        snprintf(cells.change, sizeof cells.change, "%+.2f %%", 100.0 * (row->updated / row->base - 1.0));
    print_number(cells.allowed, sizeof cells.allowed, row->allowed);
    return cells;
}

const char *comparison_verdict_label(comparison_verdict verdict)
{
    static const char *const labels[] = {
        [VERDICT_SAME] = "same",   [VERDICT_BETTER] = "better",        [VERDICT_UNMEASURED] = "not measured",
        [VERDICT_WORSE] = "WORSE", [VERDICT_LOST] = "LOST TO UNIFORM", [VERDICT_MISSING] = "MISSING"};
    return labels[verdict];
}

bool comparison_is_shown(const comparison_row *row)
{
    return row->layer < 0 || comparison_is_regression(row->verdict) || rb_verbosity() >= RB_VERBOSE;
}

void comparison_conclusion(char *out, size_t size, const comparison *result)
{
    if (result->n_regressions > 0)
        snprintf(out, size, "no: %d of %d numbers got worse", result->n_regressions, result->n_rows);
    else snprintf(out, size, "yes: none of %d numbers got worse", result->n_rows);
}

const unjudged_member *comparison_next_unjudged(const comparison *result, int *i)
{
    while (*i < comparison_n_unjudged && comparison_unjudged[*i].schema != result->schema) ++*i;
    return *i < comparison_n_unjudged ? &comparison_unjudged[(*i)++] : NULL;
}

/* ---- escaping -------------------------------------------------------------------------------- */

/* What stands for a character of one byte; NULL: itself. */
typedef const char *(*escape_of)(int character);

/* Control characters, and the two that XML has no place for. */
static bool is_unfit(utf8proc_int32_t character)
{
    return character < 0x20 || (character >= 0x7f && character < 0xa0) || character == 0xfffe || character == 0xffff;
}

static void put_escaped(FILE *out, const char *text, escape_of escape)
{
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text;
    for (utf8proc_ssize_t left = (utf8proc_ssize_t)strlen(text), n; left > 0; at += n, left -= n) {
        utf8proc_int32_t character;
        n = utf8proc_iterate(at, left, &character);
        const bool is_bad = n < 1 || is_unfit(character);
        const char *written = is_bad ? "?" : n == 1 ? escape(character) : NULL;
        if (n < 1) n = 1;
        if (written) fputs(written, out);
        else fwrite(at, 1, (size_t)n, out);
    }
}

static const char *no_escape(int character)
{
    (void)character;
    return NULL;
}

static const char *markdown_escape(int character)
{
    static const char marks[] = "\\`*_{}[]<>()#+-.!|~$&", *const escapes[] = {
                                                              "\\\\", "\\`",  "\\*",  "\\_", "\\{", "\\}", "\\[",
                                                              "\\]",  "&lt;", "&gt;", "\\(", "\\)", "\\#", "\\+",
                                                              "\\-",  "\\.",  "\\!",  "\\|", "\\~", "\\$", "&amp;"};
    const char *found = strchr(marks, character);
    return found ? escapes[found - marks] : NULL;
}

static const char *xml_escape(int character)
{
    switch (character) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&apos;";
    default: return NULL;
    }
}

static const char *github_escape(int character) { return character == '%' ? "%25" : NULL; }

void put_plain(FILE *out, const char *text) { put_escaped(out, text, no_escape); }
void put_markdown(FILE *out, const char *text) { put_escaped(out, text, markdown_escape); }
void put_xml(FILE *out, const char *text) { put_escaped(out, text, xml_escape); }
void put_github(FILE *out, const char *text) { put_escaped(out, text, github_escape); }
