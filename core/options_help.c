/* The option list of --help, with the values that hold when nothing is given. See core/options.h. */
#include <stdlib.h>
#include <string.h>

#include "core/options.h"

enum { WIDTH = 100, HELP_COLUMN_MAX = 34, GAP = 2 };

/* "  -o, --output FILE" */
static int format_name(char *text, size_t size, const rb_option *option)
{
    char short_name[8] = "    ";
    if (option->short_name) snprintf(short_name, sizeof short_name, "-%c, ", option->short_name);
    return snprintf(text, size, "  %s--%s%s%s", short_name, option->long_name, option->metavar ? " " : "",
                    option->metavar ? option->metavar : "");
}

/* A flag's default is not printed: it is always off. */
static bool has_default(const rb_option *option) { return option->kind != RB_OPT_FLAG && rb_option_has_value(option); }

static void print_whole(FILE *out, const rb_option *option)
{
    const int64_t value = *(const int64_t *)option->value;
    if (value < 0 && option->choices) fputs(option->choices[-1 - value], out);
    else fprintf(out, "%lld", (long long)value);
}

static void print_default(FILE *out, const rb_option *option)
{
    fputs("default ", out);
    switch (option->kind) {
    case RB_OPT_FLAG: break;
    case RB_OPT_SIZE:
    case RB_OPT_INT: print_whole(out, option); break;
    case RB_OPT_NUMBER: fprintf(out, "%g", *(const double *)option->value); break;
    case RB_OPT_STRING: fputs(*(const char *const *)option->value, out); break;
    case RB_OPT_CHOICE: fputs(option->choices[*(const int *)option->value], out); break;
    case RB_OPT_NUMBERS: {
        const rb_number_list *list = option->value;
        for (int i = 0; i < list->n; i++) fprintf(out, "%s%g", i ? "," : "", list->at[i]);
        break;
    }
    case RB_OPT_REPEATED:
    case RB_OPT_STRINGS: {
        const rb_string_list *list = option->value;
        for (int i = 0; i < list->n; i++) fprintf(out, "%s%s", i ? "," : "", list->at[i]);
        break;
    }
    }
}

/* "type of stored keys (f16, f32; default f16)" */
static void print_help_sentence(FILE *out, const rb_option *option)
{
    const char *before = " (";
    fputs(option->help, out);
    for (int i = 0; option->choices && option->choices[i]; i++) {
        fprintf(out, "%s%s", before, option->choices[i]);
        before = ", ";
    }
    if (option->choices) before = "; ";
    if (option->required) fprintf(out, "%srequired)", before);
    else if (has_default(option)) {
        fputs(before, out);
        print_default(out, option);
        fputc(')', out);
    } else if (option->choices) fputc(')', out);
}

void rb_print_wrapped(FILE *out, const char *text, int column)
{
    int at = column;
    while (*text) {
        const int length = (int)strcspn(text, " ");
        if (at > column && at + 1 + length > WIDTH) {
            fprintf(out, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            fputc(' ', out);
            at++;
        }
        fprintf(out, "%.*s", length, text);
        at += length;
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_option(FILE *out, const rb_option *option, int column)
{
    char name[256], *help = NULL;
    size_t help_size;
    const int length = format_name(name, sizeof name, option);
    FILE *stream = open_memstream(&help, &help_size);
    if (stream) {
        print_help_sentence(stream, option);
        fclose(stream);
    }
    fputs(name, out);
    if (length + GAP > column) fprintf(out, "\n%*s", column, "");
    else fprintf(out, "%*s", column - length, "");
    rb_print_wrapped(out, help ? help : option->help, column);
    free(help);
}

void rb_options_print(FILE *out, const rb_option *table, int n_options)
{
    char name[256];
    int column = 0;
    for (int i = 0; i < n_options; i++) {
        const int length = format_name(name, sizeof name, &table[i]) + GAP;
        if (length > column && length <= HELP_COLUMN_MAX) column = length;
    }
    for (int i = 0; i < n_options; i++) print_option(out, &table[i], column);
}
