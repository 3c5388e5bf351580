/* The Pareto picture: expected logit error of every method over stored bits: report.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "export/report/chart.h"
#include "export/report/report.h"

static double mae_of(const sweep_point *point) { return point->prediction.logit_mae; }
static double bound_of(const sweep_point *point) { return point->prediction.bound_logit_mae; }

static const char *class_of(int method)
{
    return method == METHOD_UNIFORM ? "uniform" : method == METHOD_BLOCK_GTQ ? "gtq" : "plan";
}

/* The method with the best points: its bound is the one to show. */
static int bound_method(const plan_sweep *sweep)
{
    int last = METHOD_UNIFORM;
    for (int method = 0; method < METHOD_N; method++)
        if (sweep->n_points[method] > 0) last = method;
    return last;
}

static void write_curve(const page *p, const chart *c, const plan_sweep *sweep, int method, const char *class,
                        double (*value)(const sweep_point *), bool has_dots)
{
    const sweep_point *points = sweep->points[method];
    char title[160];
    for (int i = 1; i < sweep->n_points[method]; i++)
        chart_line(p, c, class, points[i - 1].true_bits, value(&points[i - 1]), points[i].true_bits, value(&points[i]));
    for (int i = 0; has_dots && i < sweep->n_points[method]; i++) {
        snprintf(title, sizeof title, "%s: %.3f bits, error %.4g", allocation_method_name((allocation_method)method),
                 points[i].true_bits, value(&points[i]));
        chart_dot(p, c, class, 3, points[i].true_bits, value(&points[i]), title, NULL);
    }
}

static chart chart_of(const report *r, int bound)
{
    chart c = chart_empty();
    for (int method = 0; method < METHOD_N; method++)
        for (int i = 0; i < r->sweep.n_points[method]; i++) {
            const sweep_point *point = &r->sweep.points[method][i];
            chart_widen(&c, point->true_bits, mae_of(point));
            if (method == bound) chart_widen(&c, point->true_bits, bound_of(point));
        }
    chart_widen(&c, r->cost.key_true_bits, r->plan_expected);
    chart_round(&c);
    return c;
}

static void write_legend(const page *p, const report *r, int own)
{
    page_html(p, "<figcaption>Expected error over size: further down and to the left is better "
                 "<span class=\"legend\"><span><i class=\"dot plan\"></i>this plan</span>");
    if (own >= 0)
        page_html(p, "<span><i class=\"line plan\"></i>%s</span>", allocation_method_name((allocation_method)own));
    if (r->sweep.n_points[METHOD_BLOCK_GTQ] > 0) page_html(p, "<span><i class=\"line gtq\"></i>block-gtq</span>");
    if (r->sweep.n_points[METHOD_UNIFORM] > 0) page_html(p, "<span><i class=\"line uniform\"></i>uniform</span>");
    page_html(p, "<span><i class=\"line bound\"></i>rate-distortion bound</span></span></figcaption>\n");
}

static void write_picture(page *p, const report *r)
{
    const int bound = bound_method(&r->sweep), own = bound > METHOD_BLOCK_GTQ ? bound : -1;
    const chart c = chart_of(r, bound);
    char title[160];
    page_html(p, "<figure>\n");
    write_legend(p, r, own);
    chart_begin(p, &c, "Expected logit error over stored bits of the keys",
                "A line for every method, the bound that no code of these statistics passes, and this plan.",
                "stored bits a dim of the keys", "logit error");
    write_curve(p, &c, &r->sweep, bound, "bound", bound_of, false);
    for (int method = 0; method < METHOD_N; method++)
        write_curve(p, &c, &r->sweep, method, class_of(method), mae_of, true);
    snprintf(title, sizeof title, "this plan: %.3f bits, error %.4g", r->cost.key_true_bits, r->plan_expected);
    chart_dot(p, &c, "plan", 7, r->cost.key_true_bits, r->plan_expected, title, "this plan");
    chart_end(p);
    page_html(p, "</figure>\n");
}

void section_sweep(page *p, const report *r)
{
    page_section_begin(p, "sweep", "Where it stands among plans of other sizes");
    if (!r->profile) {
        page_html(p, "<p class=\"note\">Left out: no profile was given (<code>ropebits export --profile "
                     "P.h5</code>).</p>\n");
        page_section_end(p);
        return;
    }
    page_html(p,
              "<p>Errors to expect from the profile's statistics of the calibration text%s. Each point is a plan "
              "that <code>ropebits allocate --sweep</code> would make.</p>\n",
              r->plan->n_sink > 0 ? "; every method keeps the same first tokens exact as this plan" : "");
    write_picture(p, r);
    if (r->sweep_trouble[0]) {
        page_html(p, "<p class=\"note\">Without a line of the plan's own method: ");
        page_text(p, r->sweep_trouble);
        page_html(p, ".</p>\n");
    }
    page_section_end(p);
}
