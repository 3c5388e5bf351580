/* Command lines. One table per program drives parsing, --help with the real defaults, and the checks of ranges and
 * choices.
 *
 * A program fills an options struct with its defaults, points a table of rb_option at its fields and hands both to
 * rb_program_main (core/program.h). Long options take `--name value` and `--name=value`; short ones `-o value` and
 * `-ovalue`;
 * `--` ends the options; options and positional arguments mix freely. Unknown names are errors, never guesses. */
#ifndef RB_CORE_OPTIONS_H
#define RB_CORE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/status.h"

enum { RB_MAX_LIST = 64, RB_MAX_POSITIONALS = 256 }; /* values of an option, arguments */

typedef struct rb_number_list {
    int n;
    double at[RB_MAX_LIST];
} rb_number_list;

typedef struct rb_string_list { /* the strings point into argv, where a list's commas became NULs */
    int n;
    const char *at[RB_MAX_POSITIONALS]; /* of an option's, RB_MAX_LIST are used */
} rb_string_list;

typedef enum rb_option_kind {
    RB_OPT_FLAG,    /* value: bool *;  set to true */
    RB_OPT_INT,     /* value: int64_t *; min..max, or one of choices where given: the first is -1, the next -2 */
    RB_OPT_SIZE,    /* value: int64_t *, bytes; a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB */
    RB_OPT_NUMBER,  /* value: double *;  min..max */
    RB_OPT_STRING,  /* value: const char ** */
    RB_OPT_CHOICE,  /* value: int *; index into choices */
    RB_OPT_NUMBERS, /* value: rb_number_list *; comma separated, each within min..max; replaces the default */
    RB_OPT_STRINGS, /* value: rb_string_list *; comma separated, each one of choices where given; replaces the default
                     */
    RB_OPT_REPEATED /* value: rb_string_list *, empty by default; each time the option is given adds its whole argument,
                       commas and all */
} rb_option_kind;

typedef struct rb_option {
    char short_name; /* 0: none */
    const char *long_name;
    rb_option_kind kind;
    void *value;
    const char *metavar;            /* "FILE", "N", ...; NULL for a flag */
    const char *help;               /* one sentence; the default is appended when there is one */
    double min, max;                /* numbers only; both 0: any */
    const char *const *choices;     /* NULL-terminated */
    const char *const *suggestions; /* of a string: what completion offers before files; NULL-terminated */
    bool required;                  /* the default is the kind's empty value, see rb_option_has_value */
} rb_option;

/* Adds rows that several programs share to a table of n. Returns how many it has then. */
static inline int rb_options_append(rb_option *table, int n, const rb_option *rows, int n_rows)
{
    memcpy(table + n, rows, (size_t)n_rows * sizeof *rows);
    return n + n_rows;
}

/* Parses argv[1..] into the tables' values. `tables` are searched in order (the program's own, then the common one).
 * `positionals` receives what is left, in order. Fails with RB_EUSAGE and one sentence. */
rb_status rb_options_parse(const rb_option *const *tables, const int *n_options, int n_tables, int argc, char **argv,
                           rb_string_list *positionals, rb_error *err);

/* False for the empty value of a kind: NULL, NaN, choice -1, an empty list. Flags and whole numbers have none. */
bool rb_option_has_value(const rb_option *option);

/* Checks that every required option was given; separate so that --help works without them. */
rb_status rb_options_check_required(const rb_option *table, int n_options, rb_error *err);

/* The option list of --help: aligned, wrapped at 100 columns, with the present values as defaults. */
void rb_options_print(FILE *out, const rb_option *table, int n_options);

/* For completion in shells (`ropebits NAME --complete`), a line an option with a tab between its five columns: --name,
 * -x or --, the kind of its argument, the words with commas between or -, the help. Kinds are flag (no argument), word
 * (one of the words), list (some of them with commas between), file, value (a number). */
void rb_options_print_completion(FILE *out, const rb_option *table, int n_options);

/* Words of text, wrapped at 100 columns, and a newline. The first line starts at `column` (the caller is there),
 * further ones are indented to it. */
void rb_print_wrapped(FILE *out, const char *text, int column);

#endif
