/* See tune_report.h. */
#include "tune/tune_report.h"

#include <stdio.h>

#include "core/message.h"
#include "core/table.h"

/* Point numbers by rising size, in the order of evaluation where sizes are equal. */
static void sort_by_size(int order[TUNE_MAX_POINTS], const tune_log *log)
{
    for (int i = 0; i < log->n_points; i++) {
        int place = i;
        while (place > 0 && log->points[order[place - 1]].total_bits > log->points[i].total_bits) {
            order[place] = order[place - 1];
            place--;
        }
        order[place] = i;
    }
}

/* How near the search came. */
static void print_distance(const tune_log *log, int answer)
{
    const tune_point *best = &log->points[answer], *below = NULL;
    for (int i = 0; i < log->n_points; i++)
        if (log->points[i].total_bits < best->total_bits && (!below || log->points[i].total_bits > below->total_bits))
            below = &log->points[i];
    if (!below) printf("nothing smaller was evaluated\n");
    else
        printf("the next smaller plan that was evaluated takes %.1f %% fewer bytes a token and misses\n",
               100.0 * (1.0 - below->bytes_per_token / best->bytes_per_token));
}

static const char *words_of(const tune_log *log, const tune_point *point)
{
    return tune_log_holds(log, point) ? "hold" : point->asked_bits > log->most_bits ? "beyond --to" : "missed";
}

static rb_status print_points(const tune_log *log, int answer, rb_error *err)
{
    static const char *const heads[] = {"pass", "total",      "key bits", "val bits", "bytes/token",
                                        "KL",   "perplexity", "up %",     "needles",  "limits"};
    const tune_baseline *plain = &log->unquantized;
    rb_table cells = {0};
    int order[TUNE_MAX_POINTS];
    sort_by_size(order, log);
    for (size_t i = 0; i < RB_COUNT(heads); i++) rb_table_add(&cells, "%s", heads[i]);
    rb_table_end_row(&cells);
    for (int i = 0; i < log->n_points; i++) {
        const tune_point *point = &log->points[order[i]];
        rb_table_add(&cells, "%d", point->pass + 1);
        rb_table_add_number(&cells, 3, point->total_bits);
        rb_table_add_number(&cells, 3, point->key_true_bits);
        rb_table_add_number(&cells, 3, point->value_true_bits);
        rb_table_add_number(&cells, 0, point->bytes_per_token);
        rb_table_add_number(&cells, 5, point->kl);
        rb_table_add_number(&cells, 4, point->perplexity);
        rb_table_add_number(&cells, 2, tune_perplexity_increase(point, plain));
        if (plain->n_needles > 0)
            rb_table_add(&cells, "%lld/%lld", (long long)point->n_right, (long long)plain->n_needles);
        else rb_table_add(&cells, "-");
        rb_table_add(&cells, "%s", order[i] == answer ? "hold: the answer" : words_of(log, point));
        rb_table_end_row(&cells);
    }
    const rb_status st = rb_table_print(stdout, &cells, err);
    rb_table_free(&cells);
    return st;
}

rb_status tune_report_print(const tune_log *log, const char *path, rb_error *err)
{
    const tune_baseline *plain = &log->unquantized;
    const int answer = tune_log_answer(log);
    char limits[200];
    const rb_status st = print_points(log, answer, err);
    if (st != RB_OK) return st;
    printf("unquantized: perplexity %.4f", plain->perplexity);
    if (plain->n_needles > 0) printf(", %lld of %lld needles", (long long)plain->n_right, (long long)plain->n_needles);
    tune_limits_describe(limits, sizeof limits, &log->limits);
    printf("\nlimits: %s\n", limits);
    if (answer >= 0) print_distance(log, answer);
    if (answer >= 0)
        printf("plan     %s, as allocate --total-bits %.15g makes it\n", rb_shown(path).text,
               log->points[answer].asked_bits);
    return RB_OK;
}

void tune_report_none(const tune_log *log)
{
    const tune_baseline *plain = &log->unquantized;
    const tune_point *nearest = NULL;
    char limits[200], needles[80] = "";
    int n = 0;
    for (int i = 0; i < log->n_points; i++) {
        const tune_point *point = &log->points[i];
        if (point->asked_bits > log->most_bits) continue;
        if (!nearest || tune_excess(point, &log->limits, plain) < tune_excess(nearest, &log->limits, plain))
            nearest = point;
        n++;
    }
    tune_limits_describe(limits, sizeof limits, &log->limits);
    if (!nearest) {
        rb_message_error("no plan was evaluated within the range, expected a larger --max-evaluations");
        return;
    }
    if (plain->n_needles > 0)
        snprintf(needles, sizeof needles, ", and finds %lld needles where the unquantized model finds %lld",
                 (long long)nearest->n_right, (long long)plain->n_right);
    rb_message_error("none of %d plans holds %s: the nearest, of %.3f bits, has KL %.5f and a perplexity %.2f %% up%s",
                     n, limits, nearest->total_bits, nearest->kl, tune_perplexity_increase(nearest, plain), needles);
}
