/* A picture of errors over bits: bits to the right, the error upwards on a logarithmic scale. */
#ifndef RB_EXPORT_REPORT_CHART_H
#define RB_EXPORT_REPORT_CHART_H

#include <stdbool.h>

#include "export/report/page.h"

typedef struct chart {
    double least_bits, most_bits, least_log, most_log; /* log10 of the error */
} chart;

chart chart_empty(void);
/* Makes room for a point. Errors that are not above 0 have no place, and are left out here and everywhere. */
void chart_widen(chart *c, double bits, double error);
/* Rounds to marks of the scales, when all points have room. */
void chart_round(chart *c);

/* The axes with their names. Closed by chart_end. */
void chart_begin(page *p, const chart *c, const char *title, const char *description, const char *bits_name,
                 const char *error_name);
void chart_end(const page *p);
/* From one point to another, neither left out. */
void chart_line(const page *p, const chart *c, const char *class, double bits_a, double error_a, double bits_b,
                double error_b);
/* label NULL: none; beside the dot, on the left where the dot is in the right third. */
void chart_dot(const page *p, const chart *c, const char *class, int radius, double bits, double error,
               const char *title, const char *label);
/* Whether two dots are so near that their labels would lie on each other. */
bool chart_is_near(const chart *c, double bits_a, double error_a, double bits_b, double error_b);

#endif
