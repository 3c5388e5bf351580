/* Reading and judging: see evaluate/compare_rows.h and, for the reasons, docs/compare.md. */
#include "evaluate/compare_rows.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"

/* How many standard deviations luck may take: so many numbers are judged that one beyond four is no surprise. */
static const double Z = 5.0;

/* ---- rows and notes -------------------------------------------------------------------------- */

rb_status comparison_reserve(comparison *out, int n_entries, int n_layers, rb_error *err)
{
    const size_t n = (size_t)n_entries * (COMPARISON_MAX_METRICS + 3 * (size_t)n_layers);
    return rb_alloc(&out->rows, n, sizeof *out->rows, "comparison", err);
}

static void add_row(comparison *out, const comparison_row *row)
{
    out->rows[out->n_rows++] = *row;
    out->n_regressions += comparison_is_regression(row->verdict);
}

void comparison_add_missing(comparison *out, const compared_entry *entry, const char *metric, double base)
{
    comparison_row row = entry->row;
    row.metric = metric;
    row.layer = -1;
    row.base = base;
    row.updated = row.allowed = (double)NAN;
    row.verdict = VERDICT_MISSING;
    add_row(out, &row);
}

void comparison_note(comparison *out, const char *fmt, ...)
{
    char note[COMPARISON_NOTE_SIZE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(note, sizeof note, fmt, args);
    va_end(args);
    for (int i = 0; i < out->n_notes; i++)
        if (strcmp(out->notes[i], note) == 0) return;
    if (out->n_notes < COMPARISON_MAX_NOTES) memcpy(out->notes[out->n_notes++], note, sizeof note);
}

/* ---- model and texts ------------------------------------------------------------------------- */

rb_status comparison_check_model(comparison *out, const compared_pair *pair, const model_facts *base,
                                 const model_facts *updated, rb_error *err)
{
    const bool both = (base->weights_sha256[0] && updated->weights_sha256[0])
                      || (base->weights_sample_sha256[0] && updated->weights_sample_sha256[0]);
    const rb_status st = model_facts_same(base, pair->base_path, updated, pair->new_path, err);
    if (st == RB_OK && !both)
        comparison_note(out,
                        "%s does not say which weights it is of: other weights under the same config.json would not "
                        "be noticed",
                        base->weights_sample_sha256[0] ? "NEW" : "BASE");
    return st;
}

rb_status comparison_check_text(const compared_pair *pair, const text_facts *base, const text_facts *updated,
                                const char *set, rb_error *err)
{
    if (strcmp(base->tokens_sha256, updated->tokens_sha256) != 0)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s tokens %.12s... and %.12s...: not the same text",
                       pair->base_path, pair->new_path, set, base->tokens_sha256, updated->tokens_sha256);
    if (base->n_tokens != updated->n_tokens)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s n_tokens %lld and %lld", pair->base_path, pair->new_path, set,
                       (long long)base->n_tokens, (long long)updated->n_tokens);
    if (base->context != updated->context)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s context %lld and %lld", pair->base_path, pair->new_path, set,
                       (long long)base->context, (long long)updated->context);
    return RB_OK;
}

/* ---- seeds ----------------------------------------------------------------------------------- */

/* Whether a list of [width, seed] has the pair; *has_width tells whether it has the width at all. */
static bool has_pair(const cJSON *list, double width, double seed, bool *has_width)
{
    const cJSON *pair;
    bool found = false;
    *has_width = false;
    cJSON_ArrayForEach (pair, list) {
        const cJSON *w = cJSON_GetArrayItem(pair, 0), *s = cJSON_GetArrayItem(pair, 1);
        if (!cJSON_IsNumber(w) || !cJSON_IsNumber(s) || w->valuedouble != width) continue;
        *has_width = true;
        found |= s->valuedouble == seed;
    }
    return found;
}

/* A width that both have was rotated by a seed that only one has. */
static bool has_other_seed(const cJSON *list, const cJSON *other)
{
    const cJSON *pair;
    bool has_width;
    cJSON_ArrayForEach (pair, list) {
        const cJSON *w = cJSON_GetArrayItem(pair, 0), *s = cJSON_GetArrayItem(pair, 1);
        if (!cJSON_IsNumber(w) || !cJSON_IsNumber(s)) continue;
        if (!has_pair(other, w->valuedouble, s->valuedouble, &has_width) && has_width) return true;
    }
    return false;
}

/* A document that does not tell counts as one of the same seeds. */
static bool seeds_differ(const cJSON *base, const cJSON *updated)
{
    const cJSON *a = rb_json_find(base, "rotation_seeds"), *b = rb_json_find(updated, "rotation_seeds");
    return cJSON_IsArray(a) && cJSON_IsArray(b) && (has_other_seed(a, b) || has_other_seed(b, a));
}

/* What a document has measured of one number over seeds. */
typedef struct spread {
    double mean, deviation; /* NaN: not measured */
    double pooled;          /* of layers: root mean square over them, as a share of the mean */
    int n;
} spread;

static double number_at(const cJSON *item, int layer)
{
    if (layer >= 0) item = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, layer) : NULL;
    return item && cJSON_IsNumber(item) && isfinite(item->valuedouble) && item->valuedouble >= 0.0 ? item->valuedouble
                                                                                                   : (double)NAN;
}

/* A member that is not as it should be is one that was not measured. */
static spread spread_of(const cJSON *object, const comparison_metric *metric, int layer, int n_layers)
{
    spread out = {.mean = (double)NAN, .deviation = (double)NAN, .n = 1};
    const cJSON *seeds = rb_json_find(object, "seeds");
    const cJSON *pair = seeds ? rb_json_find(seeds, layer < 0 ? metric->name : metric->path) : NULL;
    const double n = seeds ? number_at(rb_json_find(seeds, "n"), -1) : (double)NAN;
    if (!pair || !(n >= 2)) return out;
    const cJSON *means = rb_json_find(pair, "mean"), *deviations = rb_json_find(pair, "standard_deviation");
    out.mean = number_at(means, layer);
    out.deviation = number_at(deviations, layer);
    if (isnan(out.mean) || isnan(out.deviation)) return (spread){(double)NAN, (double)NAN, 0.0, 1};
    out.n = (int)n;
    for (int l = 0; layer >= 0 && l < n_layers; l++) {
        const double mean = number_at(means, l), deviation = number_at(deviations, l);
        if (mean > 0.0) out.pooled += deviation / mean * (deviation / mean) / n_layers;
    }
    out.pooled = sqrt(out.pooled);
    return out;
}

/* ---- one number ------------------------------------------------------------------------------ */

/* Few draws may have been alike by chance: three times for two of them, a third more for eight, and at least half of
 * what is typical. A layer takes at least what its like have. */
static double deviation_of(const spread *of, const comparison_metric *metric)
{
    const double measured = fmax(of->deviation, of->pooled * of->mean) * (1.0 + 2.0 / (of->n - 1));
    return fmax(measured, 0.5 * 0.01 * metric->spread * of->mean);
}

/* Luck of a measurement when the seeds differ. A mean over seeds, where there is one, takes the place of the number
 * itself. */
static double luck_of_draws(const compared_entry *entry, const comparison_metric *metric, int layer, double *base,
                            double *updated)
{
    const spread a = spread_of(entry->base, metric, layer, entry->n_layers),
                 b = spread_of(entry->updated, metric, layer, entry->n_layers);
    double deviation = -1.0;
    if (!isnan(a.mean)) *base = a.mean, deviation = deviation_of(&a, metric);
    if (!isnan(b.mean)) *updated = b.mean, deviation = fmax(deviation, deviation_of(&b, metric));
    if (deviation < 0.0) deviation = 0.01 * metric->spread * fabs(*base);
    return Z * fmax(deviation, metric->drawn) * sqrt(1.0 / a.n + 1.0 / b.n);
}

static double luck_of(const compared_entry *entry, const comparison_metric *metric, int layer, double *base,
                      double *updated)
{
    if (!entry->is_redrawn) return 0.0;
    switch (metric->kind) {
    case METRIC_MEASUREMENT: return luck_of_draws(entry, metric, layer, base, updated);
    case METRIC_COUNT: return Z * sqrt(*base + 1.0);
    case METRIC_ANSWERS: { /* of two draws from one binomial law */
        const double n = (double)entry->n_questions, share = fmin(fmax(*base / n, 1.0 / n), 1.0 - 1.0 / n);
        return Z * sqrt(2.0 * n * fmax(share * (1.0 - share), 0.25 / n));
    }
    case METRIC_BITS: break;
    }
    return 0.0;
}

/* Fills base, updated, allowed and verdict of a row whose BASE has a number. */
static void judge(comparison_row *row, const compared_entry *entry, const comparison_metric *metric,
                  const comparison_limits *limits)
{
    const double luck = luck_of(entry, metric, row->layer, &row->base, &row->updated),
                 percent = comparison_limit(limits, metric), sign = metric->smaller_is_worse ? -1.0 : 1.0;
    double room = 0.01 * percent * fabs(row->base);
    if (metric->kind == METRIC_ANSWERS) room = (double)limits->max_needles_lost;
    /* Who asks for a limit of zero means it, but for rounding. */
    if (percent > 0.0 || metric->kind == METRIC_BITS) room = fmax(room, metric->floor);
    room += luck;
    row->allowed = row->base + sign * room;
    const double worse_by = sign * (row->updated - row->base);
    row->verdict = sign * (row->updated - row->allowed) > 0.0 ? VERDICT_WORSE
                   : worse_by < -room                         ? VERDICT_BETTER
                                                              : VERDICT_SAME;
    if (metric->kind == METRIC_COUNT || metric->kind == METRIC_ANSWERS)
        if (row->verdict == VERDICT_SAME && worse_by < -luck) row->verdict = VERDICT_BETTER;
}

static void add_number(comparison *out, const compared_pair *pair, const compared_entry *entry,
                       const comparison_metric *metric, int layer, double base, double updated)
{
    comparison_row row = entry->row;
    const bool is_stated = metric->form == METRIC_NUMBER && !strchr(metric->path, '.')
                           && cJSON_GetObjectItemCaseSensitive(entry->base, metric->path);
    /* Nothing to say of what neither has, unless BASE says that it could not be measured. */
    if (isnan(base) && (entry->skips_nulls || (isnan(updated) && !is_stated))) return;
    row.metric = metric->name;
    row.layer = layer;
    row.base = base;
    row.updated = updated;
    row.allowed = (double)NAN;
    row.is_redrawn = entry->is_redrawn;
    if (isnan(base)) row.verdict = VERDICT_UNMEASURED;
    else if (isnan(updated)) row.verdict = VERDICT_MISSING;
    else judge(&row, entry, metric, pair->limits);
    add_row(out, &row);
}

static void note_of_seeds(comparison *out, const compared_entry *entry)
{
    const bool is_measured = rb_json_find(entry->base, "seeds") || rb_json_find(entry->updated, "seeds");
    if (!entry->is_redrawn) return;
    comparison_note(
        out,
        "the rotation seeds of BASE and NEW differ: limits allow for luck, by %s; for small changes compare "
        "results of the same seeds",
        is_measured                        ? "the spread over seeds that was measured"
        : out->schema == COMPARE_SUMMARIES ? "a typical spread over seeds, since neither was profiled with "
                                             "--seeds"
                                           : "a typical spread over seeds");
}

rb_status comparison_add_entry(comparison *out, const compared_pair *pair, compared_entry *entry, rb_error *err)
{
    double *values = NULL;
    const int n_layers = entry->n_layers;
    rb_status st;
    RB_TRY(st, rb_alloc(&values, 2 * (size_t)n_layers + 2, sizeof *values, "metrics", err), done);
    entry->is_redrawn = seeds_differ(entry->base, entry->updated);
    note_of_seeds(out, entry);
    for (int m = 0; m < comparison_n_metrics; m++) {
        const comparison_metric *metric = &comparison_metrics[m];
        const bool by_layer = metric->form == METRIC_BY_LAYER;
        const int n = by_layer ? n_layers : 1;
        if (metric->schema != out->schema) continue;
        RB_TRY(st, comparison_metric_read(values, n, metric, entry->base, entry->base_where, err), done);
        RB_TRY(st, comparison_metric_read(values + n, n, metric, entry->updated, entry->new_where, err), done);
        for (int i = 0; i < n; i++) add_number(out, pair, entry, metric, by_layer ? i : -1, values[i], values[n + i]);
    }
done:
    free(values);
    return st;
}
