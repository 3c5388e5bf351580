/* What the plan does to the model, beside every other plan of the evaluation: report.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "export/report/chart.h"
#include "export/report/report.h"

enum { NAME_SIZE = EVALUATION_NAME_SIZE + 64 };

/* Whether another plan has this method and these bits. */
static bool has_double(const evaluation *e, const evaluation_run *run)
{
    for (int i = 0; i < e->n_runs; i++) {
        const evaluation_run *other = &e->runs[i];
        if (other != run && strcmp(other->method, run->method) == 0 && other->avg_bits == run->avg_bits
            && other->value_bits == run->value_bits)
            return true;
    }
    return false;
}

/* "block-gtq K3V3", and the file where that is not one plan's. */
static void name_of(char out[NAME_SIZE], const evaluation *e, const evaluation_run *run)
{
    if (isnan(run->avg_bits)) snprintf(out, NAME_SIZE, "%s", EVALUATION_UNQUANTIZED);
    else
        snprintf(out, NAME_SIZE, has_double(e, run) ? "%s K%.3gV%.3g, %s" : "%s K%.3gV%.3g", run->method, run->avg_bits,
                 run->value_bits, run->name);
}

/* ---- the table ------------------------------------------------------------------------------- */

/* An empty cell where there is nothing. */
static void write_number(const page *p, const char *format, double number)
{
    if (isnan(number)) page_cell(p, "%s", "\xe2\x80\x93");
    else page_cell(p, format, number);
}

static void write_share(const page *p, int64_t n_right, int64_t n)
{
    if (n == 0) page_cell(p, "%s", "\xe2\x80\x93");
    else page_cell(p, "%lld of %lld", (long long)n_right, (long long)n);
}

static void write_run(const page *p, const report *r, const evaluation_run *run, bool has_needles,
                      bool has_understanding)
{
    char name[NAME_SIZE];
    name_of(name, r->evaluation, run);
    page_row_begin(p, run == r->run ? "own" : NULL, name);
    write_number(p, "%.3f", run->key_true_bits);
    write_number(p, "%.3f", run->value_true_bits);
    write_number(p, "%.3f", run->perplexity);
    write_number(p, "%.4f", run->kl_mean);
    write_number(p, "%.3f", run->kl_p999);
    write_number(p, "%.1f", 100.0 * run->top1_agreement);
    if (has_needles) write_share(p, run->n_needles_right, run->n_needles);
    if (has_understanding) write_number(p, "%.1f", 100.0 * run->understanding_agreement);
    page_row_end(p);
}

static void write_table(const page *p, const report *r)
{
    const evaluation *e = r->evaluation;
    const bool has_needles = e->runs[0].n_needles > 0, has_understanding = e->runs[0].n_understanding > 0;
    const char *columns[9] = {"plan",     "key bits",  "value bits",       "perplexity",
                              "KL, nats", "KL 99.9 %", "same top token, %"};
    char caption[256], tokens[PAGE_NUMBER_SIZE];
    int n = 7;
    if (has_needles) columns[n++] = "needles";
    if (has_understanding) columns[n++] = "understanding, %";
    snprintf(caption, sizeof caption,
             "Every evaluated plan. n = %s tokens in sequences of %lld%s; bits are stored bits "
             "a dim",
             page_count(tokens, (double)e->text.n_tokens), (long long)e->text.context,
             has_needles ? ", and the needle questions counted in the table" : "");
    page_table_begin(p, caption, columns, n);
    for (int i = 0; i < e->n_runs; i++) write_run(p, r, &e->runs[i], has_needles, has_understanding);
    page_table_end(p);
}

/* ---- the picture ----------------------------------------------------------------------------- */

static double both_bits(const evaluation_run *run) { return run->key_true_bits + run->value_true_bits; }

/* Whether the name of this run's dot would lie on that of another one that has a name. */
static bool is_hidden(const chart *c, const report *r, const evaluation_run *run)
{
    if (run == r->run) return false;
    if (r->run && chart_is_near(c, both_bits(run), run->kl_mean, both_bits(r->run), r->run->kl_mean)) return true;
    for (const evaluation_run *other = r->evaluation->runs; other < run; other++)
        if (other != r->run && chart_is_near(c, both_bits(run), run->kl_mean, both_bits(other), other->kl_mean))
            return true;
    return false;
}

static void write_run_dot(page *p, const chart *c, const report *r, const evaluation_run *run)
{
    char name[NAME_SIZE], title[NAME_SIZE + 64];
    const bool is_own = run == r->run;
    name_of(name, r->evaluation, run);
    snprintf(title, sizeof title, "%s: %.3f bits, KL %.4g", name, both_bits(run), run->kl_mean);
    chart_dot(p, c, is_own ? "plan" : "gtq", is_own ? 7 : 5, both_bits(run), run->kl_mean, title,
              is_hidden(c, r, run) ? NULL
              : is_own             ? "this plan"
                                   : run->method);
}

static void write_picture(page *p, const report *r)
{
    const evaluation *e = r->evaluation;
    chart c = chart_empty();
    int n = 0;
    for (int i = 0; i < e->n_runs; i++) {
        chart_widen(&c, both_bits(&e->runs[i]), e->runs[i].kl_mean);
        n += e->runs[i].kl_mean > 0.0 && !isnan(both_bits(&e->runs[i]));
    }
    if (n < 2) return;
    chart_round(&c);
    page_html(p, "<figure>\n<figcaption>KL over size: further down and to the left is better</figcaption>\n");
    chart_begin(p, &c, "KL of the next token over stored bits", "A dot for every evaluated plan.",
                "stored bits a dim, keys and values added up", "KL, nats a token");
    for (int i = 0; i < e->n_runs; i++)
        if (&e->runs[i] != r->run) write_run_dot(p, &c, r, &e->runs[i]);
    if (r->run) write_run_dot(p, &c, r, r->run);
    chart_end(p);
    page_html(p, "</figure>\n");
}

void section_evaluation(page *p, const report *r)
{
    page_section_begin(p, "evaluation", "What it does to the model");
    if (!r->evaluation)
        page_html(p, "<p class=\"note\">Left out: no evaluation was given (<code>ropebits export --evaluation "
                     "E.json</code>, a result of <code>ropebits evaluate</code>).</p>\n");
    else {
        page_html(p, "<p>Keys and values quantized, held to the unquantized model%s.</p>\n",
                  r->run ? "; this plan is marked" : ". This plan is not among those evaluated");
        write_table(p, r);
        write_picture(p, r);
    }
    page_section_end(p);
}
