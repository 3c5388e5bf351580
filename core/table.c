/* See core/table.h. */
#include "core/table.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 2 };
static const char ROW_END = '\n'; /* in the place of a cell */

/* ---- filling --------------------------------------------------------------------------------- */

static bool make_room(rb_table *table, size_t n)
{
    if (table->room - table->used >= n) return true;
    const size_t room = 2 * (table->used + n);
    char *text = realloc(table->text, room);
    if (!text) {
        table->is_out_of_memory = true;
        return false;
    }
    table->text = text;
    table->room = room;
    return true;
}

void rb_table_add(rb_table *table, const char *format, ...)
{
    enum { LONGEST_ESCAPE = 4 }; /* \xNN */
    va_list arguments;
    char *cell = NULL;
    va_start(arguments, format);
    const int length = vasprintf(&cell, format, arguments);
    va_end(arguments);
    if (length < 0) {
        table->is_out_of_memory = true;
        return;
    }
    const size_t room = LONGEST_ESCAPE * (size_t)length + 1;
    if (make_room(table, room)) {
        rb_escape_text(table->text + table->used, room, cell);
        table->used += strlen(table->text + table->used) + 1;
    }
    free(cell);
}

void rb_table_add_number(rb_table *table, int digits, double value)
{
    if (isnan(value)) rb_table_add(table, "-");
    else rb_table_add(table, "%.*f", digits, value);
}

void rb_table_end_row(rb_table *table)
{
    if (make_room(table, 1)) table->text[table->used++] = ROW_END;
}

void rb_table_free(rb_table *table)
{
    free(table->text);
    *table = (rb_table){.n_left = table->n_left};
}

/* ---- printing -------------------------------------------------------------------------------- */

static int characters(const char *text)
{
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

/* Calls visit for every cell, with its row's column, and for the end of every row, with text NULL. */
static void each_cell(const rb_table *table, void (*visit)(void *user, int column, const char *text), void *user)
{
    int column = 0;
    for (size_t at = 0; at < table->used;) {
        const char *text = table->text + at;
        const bool is_end = *text == ROW_END;
        visit(user, column, is_end ? NULL : text);
        column = is_end ? 0 : column + 1;
        at += is_end ? 1 : strlen(text) + 1;
    }
}

typedef struct layout {
    FILE *out;
    int n_left, n_columns;
    int *widths; /* [n_columns] */
    int owed;    /* spaces before what comes next on the line */
} layout;

static void count_column(void *user, int column, const char *text)
{
    layout *l = user;
    if (text && column >= l->n_columns) l->n_columns = column + 1;
}

static void widen(void *user, int column, const char *text)
{
    layout *l = user;
    if (text && characters(text) > l->widths[column]) l->widths[column] = characters(text);
}

static void print_cell(void *user, int column, const char *text)
{
    layout *l = user;
    if (!text) {
        fputc('\n', l->out);
        l->owed = 0;
        return;
    }
    const int rest = l->widths[column] - characters(text), gap = column > 0 ? GAP : 0;
    const bool is_left = column < l->n_left;
    l->owed += gap + (is_left ? 0 : rest);
    int shown = (int)strlen(text), spaces = 0; /* a cell's own spaces at its end are owed, too */
    while (shown > 0 && text[shown - 1] == ' ') shown--, spaces++;
    if (shown > 0) {
        fprintf(l->out, "%*s%.*s", l->owed, "", shown, text);
        l->owed = 0;
    }
    l->owed += spaces + (is_left ? rest : 0);
}

rb_status rb_table_print(FILE *out, const rb_table *table, rb_error *err)
{
    layout l = {.out = out, .n_left = table->n_left};
    if (table->is_out_of_memory) return rb_fail(err, RB_ENOMEM, "out of memory for a table");
    each_cell(table, count_column, &l);
    const rb_status st = rb_alloc(&l.widths, (size_t)l.n_columns, sizeof *l.widths, "columns of a table", err);
    if (st != RB_OK) return st;
    each_cell(table, widen, &l);
    each_cell(table, print_cell, &l);
    free(l.widths);
    return RB_OK;
}
