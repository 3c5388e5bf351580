/* A row's cells as text, the same in every format, and how text is escaped. Only for evaluate/compare_*.c. */
#ifndef RB_EVALUATE_COMPARE_CELLS_H
#define RB_EVALUATE_COMPARE_CELLS_H

#include <stdio.h>

#include "evaluate/compare_report.h"

typedef struct row_cells {
    char of[300];   /* "block-gtq 3 bits", or a run's name */
    char layer[24]; /* "" : all of them */
    char base[32], updated[32], change[32], allowed[48];
} row_cells;

row_cells comparison_cells(const comparison_row *row);
const char *comparison_verdict_label(comparison_verdict verdict); /* regressions stand out in capitals */
/* Whether people see it: the means, and what has regressed; everything with -v. */
bool comparison_is_shown(const comparison_row *row);
/* "no: 2 of 12 numbers got worse" */
void comparison_conclusion(char *out, size_t size, const comparison *result);
/* Members of the result's schema that are not judged, one after the other; *i starts at 0. NULL: no more. */
const unjudged_member *comparison_next_unjudged(const comparison *result, int *i);

/* Text with what means something in the format escaped. Bytes that are no UTF-8, and control characters, become a
 * question mark. */
void put_plain(FILE *out, const char *text);
void put_markdown(FILE *out, const char *text);
void put_xml(FILE *out, const char *text);
void put_github(FILE *out, const char *text);

void comparison_print_markdown(FILE *out, const report_of *report);
void comparison_print_junit(FILE *out, const report_of *report);

#endif
