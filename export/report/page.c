/* See page.h. */
#include "export/report/page.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

void page_text(const page *p, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<': fputs("&lt;", p->out); break;
        case '>': fputs("&gt;", p->out); break;
        case '&': fputs("&amp;", p->out); break;
        case '"': fputs("&quot;", p->out); break;
        default: fputc(*text, p->out);
        }
    }
}

void page_textf(const page *p, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    page_text(p, text);
}

void page_html(const page *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(p->out, format, args);
    va_end(args);
}

/* ---- numbers --------------------------------------------------------------------------------- */

const char *page_count(char out[PAGE_NUMBER_SIZE], double count)
{
    char digits[PAGE_NUMBER_SIZE / 2];
    const int n = snprintf(digits, sizeof digits, "%.0f", count);
    int at = 0;
    for (int i = 0; i < n && i < (int)sizeof digits - 1; i++) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-') out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = '\0';
    return out;
}

const char *page_number(char out[PAGE_NUMBER_SIZE], double number)
{
    const double size = fabs(number);
    const int decimals = size >= 99.95 ? 0 : size >= 9.995 ? 1 : size >= 0.9995 ? 2 : size >= 0.09995 ? 3 : 4;
    if (size < 0.00995 && size > 0.0) snprintf(out, PAGE_NUMBER_SIZE, "%.2g", number);
    else snprintf(out, PAGE_NUMBER_SIZE, "%.*f", decimals, number);
    return out;
}

double page_step(double most, int n)
{
    const double rough = most / n, power = pow(10.0, floor(log10(rough))), part = rough / power;
    return power * (part < 1.5 ? 1.0 : part < 3.5 ? 2.0 : part < 7.5 ? 5.0 : 10.0);
}

/* ---- parts ----------------------------------------------------------------------------------- */

void page_section_begin(const page *p, const char *id, const char *title)
{
    page_html(p, "<section id=\"%s\" aria-labelledby=\"%s-title\">\n<h2 id=\"%s-title\">", id, id, id);
    page_text(p, title);
    page_html(p, "</h2>\n");
}

void page_section_end(const page *p) { page_html(p, "</section>\n"); }

void page_table_begin(const page *p, const char *caption, const char *const *columns, int n)
{
    page_html(p, "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"");
    page_text(p, caption);
    page_html(p, "\">\n<table>\n<caption>");
    page_text(p, caption);
    page_html(p, "</caption>\n<thead><tr>");
    for (int i = 0; i < n; i++) {
        page_html(p, "<th scope=\"col\">");
        page_text(p, columns[i]);
        page_html(p, "</th>");
    }
    page_html(p, "</tr></thead>\n<tbody>\n");
}

void page_table_end(const page *p) { page_html(p, "</tbody>\n</table>\n</div>\n"); }

void page_row_begin(const page *p, const char *class, const char *head)
{
    if (class) page_html(p, "<tr class=\"%s\"><th scope=\"row\">", class);
    else page_html(p, "<tr><th scope=\"row\">");
    page_text(p, head);
    page_html(p, "</th>");
}

void page_row_end(const page *p) { page_html(p, "</tr>\n"); }

void page_cell(const page *p, const char *format, ...)
{
    char text[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    page_html(p, "<td>");
    page_text(p, text);
    page_html(p, "</td>");
}

void page_picture_begin(page *p, const char *attributes, const char *title, const char *description)
{
    const int id = ++p->n_pictures;
    page_html(p, "<svg %s role=\"img\" aria-labelledby=\"t%d d%d\"><title id=\"t%d\">", attributes, id, id, id);
    page_text(p, title);
    page_html(p, "</title><desc id=\"d%d\">", id);
    page_text(p, description);
    page_html(p, "</desc>\n");
}

void page_picture_end(const page *p) { page_html(p, "</svg>\n"); }
