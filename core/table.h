/* A table for people: columns as wide as their widest cell, so that heads and numbers of any length stay apart.
 *
 *   rb_table table = {.n_left = 1};
 *   rb_table_add(&table, "layer"); rb_table_add(&table, "true bits"); rb_table_end_row(&table);
 *   rb_table_add(&table, "%d", 0); rb_table_add_number(&table, 3, 2.25); rb_table_end_row(&table);
 *   RB_TRY(st, rb_table_print(stdout, &table, err), done);
 *   ...
 *   rb_table_free(&table);
 *
 * The first n_left columns are flush left, the others flush right; two spaces stand between. A line has no spaces at
 * its end. Rows may have fewer cells than others. Cells are counted as characters of UTF-8, each one column wide. */
#ifndef RB_CORE_TABLE_H
#define RB_CORE_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include "core/status.h"

typedef struct rb_table {
    int n_left;            /* columns that are flush left; the caller sets it */
    char *text;            /* cells, each with its end, and a ROW_END after each row; owned */
    size_t used, room;     /* bytes of it */
    bool is_out_of_memory; /* told by rb_table_print */
} rb_table;

/* The next cell of the row, as printf writes it; control characters are escaped. */
void rb_table_add(rb_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A number with so many digits after the point, or "-" for NaN: nothing was measured. */
void rb_table_add_number(rb_table *table, int digits, double value);
void rb_table_end_row(rb_table *table);
/* Prints all rows. RB_ENOMEM: there was no room for a cell, nothing is printed. */
rb_status rb_table_print(FILE *out, const rb_table *table, rb_error *err);
void rb_table_free(rb_table *table);

#endif
