/* Command-line parsing from tables: see core/options.h. The help text is core/options_help.c. */
#include "core/options.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/nearest_name.h"

typedef struct option_tables {
    const rb_option *const *at;
    const int *n_options;
    int n;
} option_tables;

/* The arguments not read yet. */
typedef struct arguments {
    int n;
    char **at;
} arguments;

static char *next_argument(arguments *rest)
{
    rest->n--;
    return *rest->at++;
}

/* ---- values ---------------------------------------------------------------------------------- */

static rb_status check_range(const rb_option *option, double value, const char *text, rb_error *err)
{
    const bool any = option->min == 0 && option->max == 0;
    if (any || (value >= option->min && value <= option->max)) return RB_OK;
    if (isinf(option->max))
        return rb_fail(err, RB_EUSAGE, "--%s is %s, expected at least %.15g", option->long_name, text, option->min);
    return rb_fail(err, RB_EUSAGE, "--%s is %s, expected %.15g to %.15g", option->long_name, text, option->min,
                   option->max);
}

static rb_status parse_int(const rb_option *option, const char *text, rb_error *err)
{
    char *end;
    for (int i = 0; option->choices && option->choices[i]; i++)
        if (strcmp(text, option->choices[i]) == 0) {
            *(int64_t *)option->value = -1 - i;
            return RB_OK;
        }
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0')
        return rb_fail(err, RB_EUSAGE, "--%s is '%s', expected a whole number%s%s", option->long_name, text,
                       option->choices ? ", or " : "", option->choices ? option->choices[0] : "");
    if (errno == ERANGE)
        return rb_fail(err, RB_EUSAGE, "--%s is %s, expected a number within 64 bits", option->long_name, text);
    const rb_status st = check_range(option, (double)value, text, err);
    if (st == RB_OK) *(int64_t *)option->value = value;
    return st;
}

static rb_status parse_size(const rb_option *option, const char *text, rb_error *err)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"B", 1.0},  {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40},
                 {"kB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
    char *unit;
    const double number = strtod(text, &unit);
    const double max_bytes = 0x1p62;
    if (unit != text && number >= 0.0 && isfinite(number)) {
        while (*unit == ' ') unit++;
        for (size_t i = 0; i < RB_COUNT(units); i++)
            if (strcmp(unit, units[i].name) == 0 && number * units[i].bytes < max_bytes) {
                *(int64_t *)option->value = (int64_t)(number * units[i].bytes);
                return RB_OK;
            }
    }
    return rb_fail(err, RB_EUSAGE, "--%s is '%s', expected a size with its unit, such as 512MiB or 12GiB",
                   option->long_name, text);
}

static rb_status parse_number(const rb_option *option, const char *text, double *out, rb_error *err)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value))
        return rb_fail(err, RB_EUSAGE, "--%s is '%s', expected a number", option->long_name, text);
    const rb_status st = check_range(option, value, text, err);
    if (st == RB_OK) *out = value;
    return st;
}

static rb_status add_string(const rb_option *option, const char *text, rb_error *err)
{
    rb_string_list *list = option->value;
    if (list->n == RB_MAX_LIST)
        return rb_fail(err, RB_EUSAGE, "--%s has more than %d values", option->long_name, RB_MAX_LIST);
    list->at[list->n++] = text;
    return RB_OK;
}

static size_t count_choices(const char *const *choices)
{
    size_t n = 0;
    while (choices[n]) n++;
    return n;
}

static rb_status find_choice(const rb_option *option, const char *text, int *out, rb_error *err)
{
    char expected[512] = "";
    size_t used = 0;
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *out = i;
            return RB_OK;
        }
        if (used < sizeof expected)
            used +=
                (size_t)snprintf(expected + used, sizeof expected - used, "%s%s", i ? ", " : "", option->choices[i]);
    }
    const char *nearest = rb_nearest_name(text, option->choices, count_choices(option->choices));
    return rb_fail(err, RB_EUSAGE, "--%s is '%s', expected one of %s%s%s%s", option->long_name, text, expected,
                   nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
}

static rb_status add_element(const rb_option *option, const char *text, rb_error *err)
{
    if (option->kind == RB_OPT_NUMBERS) {
        rb_number_list *list = option->value;
        if (list->n == RB_MAX_LIST)
            return rb_fail(err, RB_EUSAGE, "--%s has more than %d values", option->long_name, RB_MAX_LIST);
        return parse_number(option, text, &list->at[list->n++], err);
    }
    int choice;
    const rb_status st = option->choices ? find_choice(option, text, &choice, err) : RB_OK;
    return st == RB_OK ? add_string(option, text, err) : st;
}

/* Cuts the argument at its commas, in place. */
static rb_status parse_list(const rb_option *option, char *text, rb_error *err)
{
    if (option->kind == RB_OPT_NUMBERS) ((rb_number_list *)option->value)->n = 0;
    else ((rb_string_list *)option->value)->n = 0;
    for (char *element = text, *comma; element; element = comma ? comma + 1 : NULL) {
        comma = strchr(element, ',');
        if (comma) *comma = '\0';
        if (*element == '\0')
            return rb_fail(err, RB_EUSAGE, "--%s has an empty value, expected values with a comma between",
                           option->long_name);
        const rb_status st = add_element(option, element, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

/* -o is a program's output in all of them. To make a file called "-" where others mean standard output would surprise.
 */
static bool names_output(const rb_option *option) { return option->short_name == 'o'; }

static rb_status set_value(const rb_option *option, char *text, rb_error *err)
{
    switch (option->kind) {
    case RB_OPT_FLAG: *(bool *)option->value = true; return RB_OK;
    case RB_OPT_INT: return parse_int(option, text, err);
    case RB_OPT_SIZE: return parse_size(option, text, err);
    case RB_OPT_NUMBER: return parse_number(option, text, option->value, err);
    case RB_OPT_CHOICE: return find_choice(option, text, option->value, err);
    case RB_OPT_NUMBERS:
    case RB_OPT_STRINGS: return parse_list(option, text, err);
    case RB_OPT_STRING:
    case RB_OPT_REPEATED:
        if (names_output(option) && strcmp(text, "-") == 0)
            return rb_fail(err, RB_EUSAGE,
                           "--%s is '-', expected a path: nothing is written to standard output by it, and a file of "
                           "that name is ./-",
                           option->long_name);
        if (*text == '\0')
            return rb_fail(err, RB_EUSAGE, "--%s is empty, expected %s", option->long_name, option->metavar);
        if (option->kind == RB_OPT_REPEATED) return add_string(option, text, err);
        *(const char **)option->value = text;
        return RB_OK;
    }
    assert(false && "an option kind that set_value does not know");
    return RB_EINVAL;
}

/* ---- names ----------------------------------------------------------------------------------- */

static const rb_option *find_long(const option_tables *tables, const char *name, size_t length)
{
    for (int t = 0; t < tables->n; t++)
        for (int i = 0; i < tables->n_options[t]; i++) {
            const rb_option *option = &tables->at[t][i];
            if (strncmp(option->long_name, name, length) == 0 && option->long_name[length] == '\0') return option;
        }
    return NULL;
}

static const rb_option *find_short(const option_tables *tables, char name)
{
    for (int t = 0; t < tables->n; t++)
        for (int i = 0; i < tables->n_options[t]; i++)
            if (tables->at[t][i].short_name == name) return &tables->at[t][i];
    return NULL;
}

static rb_status fail_unknown(const option_tables *tables, const char *name, size_t length, rb_error *err)
{
    enum { MAX_SUGGESTED = 128 };
    const char *names[MAX_SUGGESTED];
    char word[64];
    size_t n = 0;
    for (int t = 0; t < tables->n; t++)
        for (int i = 0; i < tables->n_options[t] && n < MAX_SUGGESTED; i++) names[n++] = tables->at[t][i].long_name;
    snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word - 1), name);
    const char *nearest = rb_nearest_name(word, names, n);
    if (nearest) return rb_fail(err, RB_EUSAGE, "unknown option --%s; did you mean --%s?", word, nearest);
    return rb_fail(err, RB_EUSAGE, "unknown option --%s", word);
}

/* --name, --name=value, --name value */
static rb_status parse_long(const option_tables *tables, char *argument, arguments *rest, rb_error *err)
{
    char *name = argument + 2;
    const size_t length = strcspn(name, "=");
    char *value = name[length] == '=' ? name + length + 1 : NULL;
    const rb_option *option = find_long(tables, name, length);
    if (!option) return fail_unknown(tables, name, length, err);
    if (option->kind == RB_OPT_FLAG && value)
        return rb_fail(err, RB_EUSAGE, "--%s takes no value, found '%s'", option->long_name, value);
    if (option->kind != RB_OPT_FLAG && !value) {
        if (rest->n == 0) return rb_fail(err, RB_EUSAGE, "--%s needs a value: %s", option->long_name, option->metavar);
        value = next_argument(rest);
    }
    return set_value(option, value, err);
}

/* -v, -o value, -ovalue */
static rb_status parse_short(const option_tables *tables, char *argument, arguments *rest, rb_error *err)
{
    const char name = argument[1];
    char *value = argument[2] ? argument + 2 : NULL;
    const rb_option *option = find_short(tables, name);
    if (!option) return rb_fail(err, RB_EUSAGE, "unknown option -%c", name);
    if (option->kind == RB_OPT_FLAG && value)
        return rb_fail(err, RB_EUSAGE, "-%c takes no value, found '%s'", name, value);
    if (option->kind != RB_OPT_FLAG && !value) {
        if (rest->n == 0) return rb_fail(err, RB_EUSAGE, "-%c needs a value: %s", name, option->metavar);
        value = next_argument(rest);
    }
    return set_value(option, value, err);
}

static rb_status add_positional(rb_string_list *positionals, const char *argument, rb_error *err)
{
    if (positionals->n == RB_MAX_POSITIONALS)
        return rb_fail(err, RB_EUSAGE, "more than %d arguments, first too many is '%s'", RB_MAX_POSITIONALS, argument);
    positionals->at[positionals->n++] = argument;
    return RB_OK;
}

rb_status rb_options_parse(const rb_option *const *tables, const int *n_options, int n_tables, int argc, char **argv,
                           rb_string_list *positionals, rb_error *err)
{
    const option_tables all = {.at = tables, .n_options = n_options, .n = n_tables};
    arguments rest = {.n = argc > 0 ? argc - 1 : 0, .at = argv + 1};
    bool options_ended = false;
    rb_status st = RB_OK;
    positionals->n = 0;
    while (rest.n > 0 && st == RB_OK) {
        char *argument = next_argument(&rest);
        if (options_ended || argument[0] != '-' || argument[1] == '\0') st = add_positional(positionals, argument, err);
        else if (strcmp(argument, "--") == 0) options_ended = true;
        else if (argument[1] == '-') st = parse_long(&all, argument, &rest, err);
        else st = parse_short(&all, argument, &rest, err);
    }
    return st;
}

/* ---- required options ------------------------------------------------------------------------ */

bool rb_option_has_value(const rb_option *option)
{
    switch (option->kind) {
    case RB_OPT_STRING: return *(const char *const *)option->value != NULL;
    case RB_OPT_INT: /* below the least that may be given: none */
        return option->choices || option->max == 0 || (double)*(const int64_t *)option->value >= option->min;
    case RB_OPT_NUMBER: return !isnan(*(const double *)option->value);
    case RB_OPT_CHOICE: return *(const int *)option->value >= 0;
    case RB_OPT_NUMBERS: return ((const rb_number_list *)option->value)->n > 0;
    case RB_OPT_STRINGS:
    case RB_OPT_REPEATED: return ((const rb_string_list *)option->value)->n > 0;
    default: return true;
    }
}

rb_status rb_options_check_required(const rb_option *table, int n_options, rb_error *err)
{
    for (int i = 0; i < n_options; i++) {
        const rb_option *option = &table[i];
        if (!option->required || rb_option_has_value(option)) continue;
        if (option->short_name)
            return rb_fail(err, RB_EUSAGE, "-%c (--%s) %s is missing", option->short_name, option->long_name,
                           option->metavar);
        return rb_fail(err, RB_EUSAGE, "--%s %s is missing", option->long_name, option->metavar);
    }
    return RB_OK;
}
