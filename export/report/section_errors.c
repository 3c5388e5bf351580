/* The plan's logit error against uniform and block-gtq at the same bytes, as bars, and all that profile measured:
 * report.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "export/report/report.h"

enum { BAR = 34, LAYERS_HEIGHT = 220 }; /* pixels */

static const char *const rival_class[N_RIVALS] = {[RIVAL_UNIFORM] = "uniform", [RIVAL_BLOCK_GTQ] = "gtq"};

/* ---- means ----------------------------------------------------------------------------------- */

static void write_bar(const page *p, int place, const char *class, const char *name, double error, double most)
{
    char number[PAGE_NUMBER_SIZE];
    const double width = most > 0.0 ? 100.0 * error / most : 0.0;
    page_html(p, "<text x=\"-8\" y=\"%d\" class=\"end\">%s</text>", place * BAR + BAR / 2 + 4, name);
    page_html(p, "<rect x=\"0\" y=\"%d\" width=\"%.2f%%\" height=\"%d\" class=\"%s\"/>", place * BAR + 5, width,
              BAR - 10, class);
    page_html(p, "<text x=\"%.2f%%\" dx=\"8\" y=\"%d\" class=\"number\">%s</text>\n", width, place * BAR + BAR / 2 + 5,
              page_number(number, error));
}

static void write_means(page *p, const report *r)
{
    const plan_errors *e = &r->errors;
    char attributes[64];
    double most = e->logit_mae;
    int n = 0;
    for (int i = 0; i < N_RIVALS; i++)
        if (report_rival(r, i)) most = fmax(most, report_rival(r, i)->logit_mae);
    for (int i = 0; i < N_RIVALS; i++) n += report_rival(r, i) != NULL;
    if (n == 0) return;
    snprintf(attributes, sizeof attributes, "height=\"%d\" class=\"plot\"", (n + 1) * BAR);
    page_html(p, "<div class=\"names\">");
    page_picture_begin(p, attributes, "Mean logit error",
                       "Horizontal bars: this plan and the others at the same bytes.");
    write_bar(p, 0, "plan", "this plan", e->logit_mae, most);
    n = 1;
    for (int i = N_RIVALS - 1; i >= 0; i--)
        if (report_rival(r, i))
            write_bar(p, n++, rival_class[i], allocation_method_name(e->rivals[i].method), e->rivals[i].logit_mae,
                      most);
    page_picture_end(p);
    page_html(p, "</div>\n");
}

/* ---- layer by layer -------------------------------------------------------------------------- */

static double most_of_layers(const report *r)
{
    double most = 0.0;
    for (int layer = 0; layer < r->plan->model.n_layers; layer++) {
        most = fmax(most, r->errors.logit_mae_by_layer[layer]);
        for (int i = 0; i < N_RIVALS; i++)
            if (report_rival(r, i)) most = fmax(most, report_rival(r, i)->logit_mae_by_layer[layer]);
    }
    return most > 0.0 ? most : 1.0;
}

/* Lines of the scale, and the layers' numbers. */
static void write_scale(const page *p, double most, int n_layers)
{
    const double step = page_step(most, 4);
    const int every = (int)fmax(1.0, page_step(n_layers, 10));
    for (int i = 0; i * step <= most; i++) {
        const double y = LAYERS_HEIGHT * (1.0 - i * step / most);
        page_html(p, "<line x1=\"0\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>", y, y);
        page_html(p, "<text x=\"-8\" y=\"%.1f\" class=\"end\">%g</text>\n", y + 4.0, i * step);
    }
    for (int layer = 0; layer < n_layers; layer += every)
        page_html(p, "<text x=\"%.2f%%\" y=\"%d\" class=\"middle\">%d</text>\n", 100.0 * (layer + 0.5) / n_layers,
                  LAYERS_HEIGHT + 18, layer);
}

static void write_column(const page *p, const char *class, double left, double width, double error, double most)
{
    const double height = LAYERS_HEIGHT * error / most;
    page_html(p, "<rect x=\"%.2f%%\" y=\"%.1f\" width=\"%.2f%%\" height=\"%.1f\" class=\"%s\"/>", left,
              LAYERS_HEIGHT - height, width, height, class);
}

/* uniform is a wide bar, the plan a narrow one in front of it, block-gtq a line across. */
static void write_layer(const page *p, const report *r, int layer, double most)
{
    const rival_method *uniform = report_rival(r, RIVAL_UNIFORM), *gtq = report_rival(r, RIVAL_BLOCK_GTQ);
    const double slot = 100.0 / r->plan->model.n_layers, left = layer * slot;
    char number[PAGE_NUMBER_SIZE];
    page_html(p, "<g><title>layer %d: this plan %s", layer, page_number(number, r->errors.logit_mae_by_layer[layer]));
    if (gtq) page_html(p, ", block-gtq %s", page_number(number, gtq->logit_mae_by_layer[layer]));
    if (uniform) page_html(p, ", uniform %s", page_number(number, uniform->logit_mae_by_layer[layer]));
    page_html(p, "</title>");
    if (uniform) write_column(p, "uniform", left + 0.1 * slot, 0.8 * slot, uniform->logit_mae_by_layer[layer], most);
    write_column(p, "plan", left + 0.25 * slot, 0.5 * slot, r->errors.logit_mae_by_layer[layer], most);
    if (gtq) {
        const double y = LAYERS_HEIGHT * (1.0 - gtq->logit_mae_by_layer[layer] / most);
        page_html(p, "<line x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"%.1f\" y2=\"%.1f\" class=\"gtq\"/>", left + 0.1 * slot,
                  left + 0.9 * slot, y, y);
    }
    page_html(p, "</g>\n");
}

static void write_layers(page *p, const report *r)
{
    const int n_layers = r->plan->model.n_layers;
    const double most = most_of_layers(r);
    char attributes[64];
    page_html(
        p, "<figure>\n<figcaption>Layer by layer <span class=\"legend\"><span><i class=\"plan\"></i>this plan</span>");
    if (report_rival(r, RIVAL_BLOCK_GTQ)) page_html(p, "<span><i class=\"gtq\"></i>block-gtq</span>");
    if (report_rival(r, RIVAL_UNIFORM)) page_html(p, "<span><i class=\"uniform\"></i>uniform</span>");
    page_html(p, "</span></figcaption>\n<div class=\"axes\">");
    snprintf(attributes, sizeof attributes, "height=\"%d\" class=\"plot\"", LAYERS_HEIGHT + 24);
    page_picture_begin(p, attributes, "Logit error of every layer",
                       "One bar a layer; the table of all that was measured has the numbers.");
    write_scale(p, most, n_layers);
    for (int layer = 0; layer < n_layers; layer++) write_layer(p, r, layer, most);
    page_picture_end(p);
    page_html(p, "</div>\n</figure>\n");
}

/* ---- what is compared ------------------------------------------------------------------------ */

static void write_rival_words(const page *p, const report *r, int which)
{
    const rival_method *rival = report_rival(r, which);
    char number[PAGE_NUMBER_SIZE];
    if (!rival) return;
    const char *name = allocation_method_name(rival->method);
    if (rival->above_bits - rival->below_bits < 1e-3) {
        page_html(p, " <code>%s</code> has a plan of %.3f bits: %s.", name, rival->above_bits,
                  page_number(number, rival->logit_mae));
        return;
    }
    page_html(p,
              " <code>%s</code> has plans of %.3f and %.3f bits next to it, and is read between them, the logarithm of "
              "the error "
              "on a straight line",
              name, rival->below_bits, rival->above_bits);
    page_html(p, ": %s.", page_number(number, rival->logit_mae));
}

static int layers_with_less(const report *r, const rival_method *rival)
{
    int n = 0;
    for (int layer = 0; layer < r->plan->model.n_layers; layer++)
        n += r->errors.logit_mae_by_layer[layer] < rival->logit_mae_by_layer[layer];
    return n;
}

static void write_what(const page *p, const report *r)
{
    const rival_method *uniform = report_rival(r, RIVAL_UNIFORM);
    char count[PAGE_NUMBER_SIZE];
    page_html(p, "<p>Mean |q&middot;k &minus; q&middot;k&#770;|, without 1/&radic;d, ");
    if (r->errors.source == ERRORS_MEASURED)
        page_html(p, "measured by profile on %s test tokens.", page_count(count, (double)r->summary->test.n_tokens));
    else
        page_html(p, "expected from the statistics of %s calibration tokens, not measured%s.",
                  page_count(count, (double)r->profile->calibration.n_tokens),
                  r->plan->n_sink > 0 ? ", for the tokens that the plan quantizes" : "");
    if (uniform)
        page_html(p, " Less is better; this plan is below uniform in %d of %d layers.", layers_with_less(r, uniform),
                  r->plan->model.n_layers);
    page_html(p,
              "</p>\n<p class=\"note\">Compared at the same stored bits of the keys, %.3f a dim: codes, norms and "
              "padding.",
              r->cost.key_true_bits);
    for (int i = 0; i < N_RIVALS; i++) write_rival_words(p, r, i);
    if (!report_rival(r, RIVAL_UNIFORM) && !report_rival(r, RIVAL_BLOCK_GTQ))
        page_html(p, " No plans of uniform or block-gtq on both sides of these bits are known, so there is nothing to "
                     "compare with.");
    page_html(p, "</p>\n");
}

/* ---- all that was measured ------------------------------------------------------------------- */

static void write_row(const page *p, const profile_summary *summary, const char *label, const char *format,
                      double (*value)(const summary_method *))
{
    page_row_begin(p, "sum", label);
    for (int m = 0; m < summary->n_methods; m++) {
        const double number = value(&summary->methods[m]);
        if (isnan(number)) page_cell(p, "%s", "");
        else page_cell(p, format, number); /* NOLINT: the formats stand below */
    }
    page_row_end(p);
}

static double mean_error(const summary_method *method) { return method->logit_mae; }
static double true_bits(const summary_method *method) { return method->true_bits; }
static double causal_error(const summary_method *method) { return method->causal_mae; }
static double divergence(const summary_method *method) { return method->attention_kl; }
static double relative_error(const summary_method *method) { return 100.0 * method->relative_error; }
static double reduction(const summary_method *method)
{
    return strcmp(method->method, "uniform") == 0 ? (double)NAN : -100.0 * method->reduction_vs_uniform;
}

static void write_measured(const page *p, const profile_summary *summary)
{
    char names[PROFILE_MAX_METHODS][64], caption[200], head[32];
    const char *columns[PROFILE_MAX_METHODS + 1] = {"layer"};
    for (int m = 0; m < summary->n_methods; m++) {
        snprintf(names[m], sizeof names[m], "%s @ %g", summary->methods[m].method, summary->methods[m].avg_bits);
        columns[m + 1] = names[m];
    }
    snprintf(caption, sizeof caption, "Logit error on %lld test tokens, by method and nominal bits",
             (long long)summary->test.n_tokens);
    page_html(p, "<details>\n<summary>All that profile measured</summary>\n");
    page_table_begin(p, caption, columns, summary->n_methods + 1);
    for (int layer = 0; layer < summary->model.n_layers; layer++) {
        snprintf(head, sizeof head, "%d", layer);
        page_row_begin(p, NULL, head);
        for (int m = 0; m < summary->n_methods; m++)
            page_cell(p, "%.4f", summary->methods[m].logit_mae_by_layer[layer]);
        page_row_end(p);
    }
    write_row(p, summary, "mean", "%.4f", mean_error);
    write_row(p, summary, "true bits a dim", "%.3f", true_bits);
    write_row(p, summary, "against uniform at equal nominal bits, %", "%+.1f", reduction);
    write_row(p, summary, "over causal pairs", "%.4f", causal_error);
    write_row(p, summary, "attention KL, nats", "%.4f", divergence);
    write_row(p, summary, "key error, relative, %", "%.1f", relative_error);
    page_table_end(p);
    page_html(p, "</details>\n");
}

void section_errors(page *p, const report *r)
{
    page_section_begin(p, "errors", "Logit error at the same bytes");
    if (r->errors.source == ERRORS_UNKNOWN)
        page_html(p, "<p class=\"note\">Left out: neither a profile nor a summary that scored this plan was given "
                     "(<code>ropebits export --profile P.h5 --summary S.json</code>).</p>\n");
    else {
        write_what(p, r);
        write_means(p, r);
        write_layers(p, r);
    }
    if (r->summary) write_measured(p, r->summary);
    page_section_end(p);
}
