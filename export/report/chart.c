/* See chart.h. */
#include "export/report/chart.h"

#include <math.h>

enum { HEIGHT = 300 }; /* pixels */

chart chart_empty(void) { return (chart){INFINITY, -INFINITY, INFINITY, -INFINITY}; }

static bool has_place(double bits, double error) { return error > 0.0 && isfinite(error) && isfinite(bits); }

void chart_widen(chart *c, double bits, double error)
{
    if (!has_place(bits, error)) return;
    c->least_bits = fmin(c->least_bits, bits);
    c->most_bits = fmax(c->most_bits, bits);
    c->least_log = fmin(c->least_log, log10(error));
    c->most_log = fmax(c->most_log, log10(error));
}

void chart_round(chart *c)
{
    if (c->least_bits > c->most_bits) *c = (chart){0.0, 1.0, 0.0, 1.0};
    c->least_bits = floor(c->least_bits * 2.0 - 0.1) / 2.0;
    c->most_bits = ceil(c->most_bits * 2.0 + 0.1) / 2.0;
    c->least_log = floor(c->least_log * 10.0 - 0.5) / 10.0;
    c->most_log = ceil(c->most_log * 10.0 + 0.5) / 10.0;
}

static double across(const chart *c, double bits)
{
    return 100.0 * (bits - c->least_bits) / (c->most_bits - c->least_bits);
}
static double down(const chart *c, double error)
{
    return HEIGHT * (c->most_log - log10(error)) / (c->most_log - c->least_log);
}

static void write_error_marks(const page *p, const chart *c)
{
    static const double marks[] = {1.0, 2.0, 5.0};
    for (double power = floor(c->least_log); power <= c->most_log; power += 1.0)
        for (int m = 0; m < 3; m++) {
            const double error = marks[m] * pow(10.0, power);
            if (log10(error) < c->least_log || log10(error) > c->most_log) continue;
            page_html(p, "<line x1=\"0\" x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>", down(c, error),
                      down(c, error));
            page_html(p, "<text x=\"-8\" y=\"%.1f\" class=\"end\">%g</text>\n", down(c, error) + 4.0, error);
        }
}

static void write_bit_marks(const page *p, const chart *c)
{
    const double step = fmax(page_step(c->most_bits - c->least_bits, 7), 0.5);
    for (double bits = ceil(c->least_bits / step) * step; bits <= c->most_bits; bits += step) {
        page_html(p, "<line x1=\"%.2f%%\" x2=\"%.2f%%\" y1=\"0\" y2=\"%d\" class=\"grid\"/>", across(c, bits),
                  across(c, bits), HEIGHT);
        page_html(p, "<text x=\"%.2f%%\" y=\"%d\" class=\"middle\">%g</text>\n", across(c, bits), HEIGHT + 18, bits);
    }
}

void chart_begin(page *p, const chart *c, const char *title, const char *description, const char *bits_name,
                 const char *error_name)
{
    char attributes[64];
    snprintf(attributes, sizeof attributes, "height=\"%d\" class=\"plot\"", HEIGHT + 44);
    page_html(p, "<p class=\"axis\">%s</p>\n<div class=\"axes\">", error_name);
    page_picture_begin(p, attributes, title, description);
    write_error_marks(p, c);
    write_bit_marks(p, c);
    page_html(p, "<text x=\"50%%\" y=\"%d\" class=\"middle\">%s</text>\n", HEIGHT + 38, bits_name);
}

void chart_end(const page *p)
{
    page_picture_end(p);
    page_html(p, "</div>\n");
}

void chart_line(const page *p, const chart *c, const char *class, double bits_a, double error_a, double bits_b,
                double error_b)
{
    if (!has_place(bits_a, error_a) || !has_place(bits_b, error_b)) return;
    page_html(p, "<line x1=\"%.2f%%\" y1=\"%.1f\" x2=\"%.2f%%\" y2=\"%.1f\" class=\"curve %s\"/>\n", across(c, bits_a),
              down(c, error_a), across(c, bits_b), down(c, error_b), class);
}

void chart_dot(const page *p, const chart *c, const char *class, int radius, double bits, double error,
               const char *title, const char *label)
{
    if (!has_place(bits, error)) return;
    const double x = across(c, bits), y = down(c, error);
    const bool is_right = x > 66.0;
    page_html(p, "<circle cx=\"%.2f%%\" cy=\"%.1f\" r=\"%d\" class=\"dot %s\"><title>", x, y, radius, class);
    page_text(p, title);
    page_html(p, "</title></circle>");
    if (label) {
        page_html(p, "<text x=\"%.2f%%\" dx=\"%d\" y=\"%.1f\" class=\"label%s\">", x, is_right ? -10 : 10, y - 7.0,
                  is_right ? " end" : "");
        page_text(p, label);
        page_html(p, "</text>");
    }
    page_html(p, "\n");
}

bool chart_is_near(const chart *c, double bits_a, double error_a, double bits_b, double error_b)
{
    static const double label_width = 25.0, label_height = 16.0; /* percent, on a wide screen; pixels */
    if (!has_place(bits_a, error_a) || !has_place(bits_b, error_b)) return false;
    return fabs(across(c, bits_a) - across(c, bits_b)) < label_width
           && fabs(down(c, error_a) - down(c, error_b)) < label_height;
}
