/* The picture of a sweep: plan_sweep_draw of allocate/sweep.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "allocate/sweep.h"
#include "core/atomic_file.h"

enum { WIDTH = 790, HEIGHT = 480, LEFT = 70, RIGHT = 200, TOP = 44, BOTTOM = 56, LEGEND_STEP = 20 };

static const char *const colours[METHOD_N] = {"#6e7781", "#cf222e", "#0969da", "#1a7f37", "#8250df"};

/* What the axes show. */
typedef struct axes {
    double least_bits, most_bits, least_log, most_log; /* log10 of the MAE */
} axes;

static double across(const axes *a, double bits)
{
    return LEFT + (bits - a->least_bits) / (a->most_bits - a->least_bits) * (WIDTH - LEFT - RIGHT);
}
static double down(const axes *a, double mae)
{
    return TOP + (a->most_log - log10(mae)) / (a->most_log - a->least_log) * (HEIGHT - TOP - BOTTOM);
}

static double mae_of(const sweep_point *point) { return point->prediction.logit_mae; }
static double bound_of(const sweep_point *point) { return point->prediction.bound_logit_mae; }

static int bound_method(const plan_sweep *sweep)
{
    int last = 0;
    for (int method = 0; method < METHOD_N; method++)
        if (sweep->n_points[method] > 0) last = method;
    return last;
}

static void widen(axes *a, double mae)
{
    if (!(mae > 0.0 && isfinite(mae))) return;
    a->least_log = fmin(a->least_log, log10(mae));
    a->most_log = fmax(a->most_log, log10(mae));
}

/* Whole bits, and marks of 1, 2 and 5 times a power of ten, around all points. */
static axes axes_of(const plan_sweep *sweep)
{
    const int bound = bound_method(sweep);
    axes a = {floor(sweep->range.from), ceil(sweep->range.to), INFINITY, -INFINITY};
    for (int method = 0; method < METHOD_N; method++)
        for (int i = 0; i < sweep->n_points[method]; i++) {
            widen(&a, mae_of(&sweep->points[method][i]));
            if (method == bound) widen(&a, bound_of(&sweep->points[method][i]));
        }
    if (a.most_bits <= a.least_bits) a.most_bits = a.least_bits + 1.0;
    if (a.least_log > a.most_log) a.least_log = a.most_log = 0.0; /* no error anywhere */
    a.least_log = floor(a.least_log * 4.0 - 0.1) / 4.0;
    a.most_log = ceil(a.most_log * 4.0 + 0.1) / 4.0;
    return a;
}

/* title: of the axis of bits; name: of the other one. */
static void write_axes(FILE *out, const axes *a, const char *title, const char *name)
{
    static const double marks[] = {1.0, 2.0, 5.0};
    for (double bits = a->least_bits; bits <= a->most_bits; bits += 1.0) {
        fprintf(out, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#d8dee4\"/>\n", across(a, bits),
                across(a, bits), TOP, HEIGHT - BOTTOM);
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", across(a, bits),
                HEIGHT - BOTTOM + 18, bits);
    }
    for (double power = floor(a->least_log); power <= a->most_log; power += 1.0)
        for (int m = 0; m < 3; m++) {
            const double mae = marks[m] * pow(10.0, power), log_mae = log10(mae);
            if (log_mae < a->least_log || log_mae > a->most_log) continue;
            fprintf(out, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#d8dee4\"/>\n", LEFT,
                    WIDTH - RIGHT, down(a, mae), down(a, mae));
            fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 8, down(a, mae) + 4.0,
                    mae);
        }
    fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" stroke=\"#57606a\"/>\n", LEFT, TOP,
            WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14,
            title);
    fprintf(out, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
            (TOP + HEIGHT - BOTTOM) / 2, name);
}

/* A line through the points, a mark on each, and its place in the legend. */
static void write_line(FILE *out, const axes *a, const sweep_point *points, int n, double (*value)(const sweep_point *),
                       const char *colour, const char *style, const char *name, int place)
{
    const int x = WIDTH - RIGHT + 16, y = TOP + 12 + place * LEGEND_STEP;
    fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"", colour, style);
    for (int i = 0; i < n; i++)
        if (value(&points[i]) > 0.0)
            fprintf(out, "%.1f,%.1f ", across(a, points[i].true_bits), down(a, value(&points[i])));
    fprintf(out, "\"/>\n");
    for (int i = 0; i < n; i++)
        if (value(&points[i]) > 0.0)
            fprintf(out,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"><title>%s: %.3f bits, MAE "
                    "%.4g</title></circle>\n",
                    across(a, points[i].true_bits), down(a, value(&points[i])), colour, name, points[i].true_bits,
                    value(&points[i]));
    fprintf(out,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"2\"%s/><text x=\"%d\" "
            "y=\"%d\">%s</text>\n",
            x, x + 24, y, y, colour, style, x + 32, y + 4, name);
}

/* ---- what was evaluated ---------------------------------------------------------------------- */

static double both_bits(const measured_point *point) { return point->key_true_bits + point->value_true_bits; }

static axes axes_of_measured(const measured_points *points)
{
    axes a = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; i < points->n; i++) {
        a.least_bits = fmin(a.least_bits, floor(both_bits(&points->at[i])));
        a.most_bits = fmax(a.most_bits, ceil(both_bits(&points->at[i])));
        widen(&a, points->at[i].kl);
    }
    if (a.most_bits <= a.least_bits) a.most_bits = a.least_bits + 1.0;
    a.least_log = floor(a.least_log * 4.0 - 0.1) / 4.0;
    a.most_log = ceil(a.most_log * 4.0 + 0.1) / 4.0;
    return a;
}

/* Points of methods that this build does not know are grey. */
static const char *colour_of(const char *method)
{
    allocation_method known;
    return allocation_method_from_name(method, &known) ? colours[known] : "#8c959f";
}

/* The n points of one method, by rising bits: plans of different splits are no curve, so there is no line. */
static void write_measured(FILE *out, const axes *a, const measured_point *points, int n, int place)
{
    const int x = WIDTH - RIGHT + 16, y = TOP + 12 + place * LEGEND_STEP;
    const char *colour = colour_of(points->method);
    for (int i = 0; i < n; i++)
        fprintf(
            out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"><title>%s: keys "
            "%.3f bits, values %.3f, KL %.4g</title></circle>\n",
            across(a, both_bits(&points[i])), down(a, points[i].kl), colour, points[i].method, points[i].key_true_bits,
            points[i].value_true_bits, points[i].kl);
    fprintf(out,
            "<circle cx=\"%d\" cy=\"%d\" r=\"4\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%d\" "
            "y=\"%d\">%s</text>\n",
            x + 12, y, colour, x + 32, y + 4, points->method);
}

/* A second picture below the first: KL, of keys and values together. */
static void write_measured_panel(FILE *out, const measured_points *points)
{
    const axes a = axes_of_measured(points);
    int place = 0;
    fprintf(out, "<g transform=\"translate(0 %d)\">\n", HEIGHT);
    fprintf(out, "<text x=\"%d\" y=\"26\" font-size=\"15\">KL of the next token, evaluated</text>\n", LEFT);
    write_axes(out, &a, "true bits a dim of keys and values, added up", "KL, nats a token");
    for (int first = 0, end; first < points->n; first = end) {
        for (end = first + 1; end < points->n && strcmp(points->at[end].method, points->at[first].method) == 0;) end++;
        write_measured(out, &a, &points->at[first], end - first, place++);
    }
    fprintf(out, "</g>\n");
}

/* ---- all of it ------------------------------------------------------------------------------- */

rb_status plan_sweep_draw(const plan_sweep *sweep, const measured_points *measured, const model_facts *model,
                          const char *path, rb_error *err)
{
    const int height = measured->n > 0 ? 2 * HEIGHT : HEIGHT;
    const axes a = axes_of(sweep);
    const int bound = bound_method(sweep);
    char *text = NULL;
    size_t size = 0;
    int place = 0;
    rb_status st = RB_OK;
    FILE *out = open_memstream(&text, &size);
    if (!out) return rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
            "font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1b1f24\">\n",
            WIDTH, height, WIDTH, height);
    fprintf(out, "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", WIDTH, height);
    fprintf(
        out,
        "<text x=\"%d\" y=\"26\" font-size=\"15\">Logit error over size: %d layers, %d KV heads of %d dims</text>\n",
        LEFT, model->n_layers, model->n_kv_heads, model->head_dim);
    write_axes(out, &a, "true bits a dim of the keys", "expected logit MAE");
    for (int method = 0; method < METHOD_N; method++)
        if (sweep->n_points[method] > 0)
            write_line(out, &a, sweep->points[method], sweep->n_points[method], mae_of, colours[method], "",
                       allocation_method_name((allocation_method)method), place++);
    write_line(out, &a, sweep->points[bound], sweep->n_points[bound], bound_of, "#1b1f24", " stroke-dasharray=\"5 4\"",
               "rate-distortion bound", place);
    if (measured->n > 0) write_measured_panel(out, measured);
    fprintf(out, "</svg>\n");
    if (fclose(out) != 0) st = rb_fail(err, RB_ENOMEM, "out of memory for %s", path);
    if (st == RB_OK) st = rb_atomic_write(path, text, size, err);
    free(text);
    return st;
}
