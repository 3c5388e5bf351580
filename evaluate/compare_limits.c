/* See evaluate/compare_limits.h. */
#include "evaluate/compare_limits.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/nearest_name.h"

int comparison_options_append(rb_option *table, int n, comparison_options *options)
{
    const rb_option rows[COMPARISON_N_OPTIONS] = {
        {.long_name = "max-regression",
         .kind = RB_OPT_REPEATED,
         .value = &options->max_regression,
         .metavar = "[METRIC=]PERCENT",
         .help = "how much worse a number may be, of all measurements or of one metric; without it every metric has a "
                 "limit of its own, for results of one machine"},
        {.long_name = "max-growth",
         .kind = RB_OPT_NUMBER,
         .value = &options->max_growth,
         .metavar = "PERCENT",
         .min = 0.0,
         .max = 1000.0,
         .help = "how much the true bits may grow"},
        {.long_name = "max-needles-lost",
         .kind = RB_OPT_INT,
         .value = &options->max_needles_lost,
         .metavar = "N",
         .min = 0,
         .max = 1000000,
         .help = "of evaluations: how many fewer needles a run may find"},
    };
    return rb_options_append(table, n, rows, COMPARISON_N_OPTIONS);
}

comparison_limits comparison_limits_default(void)
{
    comparison_limits limits = {.general = (double)NAN};
    for (int i = 0; i < COMPARISON_MAX_METRICS; i++) limits.of_metric[i] = (double)NAN;
    return limits;
}

/* Names that take a percentage, each once. */
static int limit_names(const char *names[COMPARISON_MAX_METRICS])
{
    int n = 0;
    for (int i = 0; i < comparison_n_metrics; i++) {
        const comparison_metric *metric = &comparison_metrics[i];
        bool is_new = metric->kind == METRIC_MEASUREMENT || metric->kind == METRIC_BITS;
        for (int j = 0; j < n && is_new; j++) is_new = strcmp(names[j], metric->name) != 0;
        if (is_new) names[n++] = metric->name;
    }
    return n;
}

static rb_status refuse_name(const char *name, rb_error *err)
{
    const char *names[COMPARISON_MAX_METRICS];
    char list[800] = "";
    const int n = limit_names(names);
    const char *nearest = rb_nearest_name(name, names, (size_t)n);
    if (nearest)
        return rb_fail(err, RB_EUSAGE, "--max-regression: no metric \"%s\", did you mean \"%s\"?", name, nearest);
    for (int i = 0; i < n; i++) {
        const size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    return rb_fail(err, RB_EUSAGE, "--max-regression: no metric \"%s\", expected one of %s", name, list);
}

static rb_status set_limit(comparison_limits *limits, const char *name, double percent, rb_error *err)
{
    bool is_known = false;
    for (int i = 0; i < comparison_n_metrics; i++) {
        const comparison_metric *metric = &comparison_metrics[i];
        if (strcmp(metric->name, name) != 0 || metric->kind == METRIC_COUNT || metric->kind == METRIC_ANSWERS) continue;
        limits->of_metric[i] = percent;
        is_known = true;
    }
    return is_known ? RB_OK : refuse_name(name, err);
}

/* "5" or "kl_mean=5". */
static rb_status take_limit(comparison_limits *limits, const char *text, rb_error *err)
{
    enum { NAME_SIZE = 64 };
    char name[NAME_SIZE], *end;
    const char *equals = strchr(text, '='), *number = equals ? equals + 1 : text;
    const double percent = strtod(number, &end);
    if (end == number || *end != '\0' || !(percent >= 0.0 && percent <= 1e6))
        return rb_fail(err, RB_EUSAGE, "--max-regression: \"%s\", expected PERCENT or METRIC=PERCENT, from 0 up", text);
    if (!equals) {
        limits->general = percent;
        return RB_OK;
    }
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    return set_limit(limits, name, percent, err);
}

rb_status comparison_limits_from(comparison_limits *out, const comparison_options *options, rb_error *err)
{
    enum { PART_SIZE = 128 };
    rb_status st = RB_OK;
    *out = comparison_limits_default();
    out->max_growth = options->max_growth;
    out->max_needles_lost = options->max_needles_lost;
    for (int i = 0; i < options->max_regression.n && st == RB_OK; i++)
        for (const char *at = options->max_regression.at[i]; st == RB_OK && at;) {
            char part[PART_SIZE];
            const size_t length = strcspn(at, ",");
            snprintf(part, sizeof part, "%.*s", (int)length, at);
            st = take_limit(out, part, err);
            at = at[length] == ',' ? at + length + 1 : NULL;
        }
    return st;
}

double comparison_limit(const comparison_limits *limits, const comparison_metric *metric)
{
    const double own = limits->of_metric[metric - comparison_metrics];
    if (!isnan(own)) return own;
    switch (metric->kind) {
    case METRIC_BITS: return limits->max_growth;
    case METRIC_MEASUREMENT: return isnan(limits->general) ? metric->limit : limits->general;
    case METRIC_COUNT:
    case METRIC_ANSWERS: break;
    }
    return 0.0;
}
