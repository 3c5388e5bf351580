/* Compares two results of `ropebits evaluate`: perplexity, KL, needles and true bits of every run of BASE. See
 * evaluate/compare.h. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "evaluate/compare_rows.h"
#include "evaluate/evaluation_file.h"

/* Numbers that are worse when they are larger: measurements, which may grow up to a limit, and counts of bits, which
 * may not. */
static const struct {
    const char *metric;
    size_t offset;
    bool is_bits;
} numbers[] = {
    {"perplexity", offsetof(evaluation_run, perplexity), false},
    {"kl_mean", offsetof(evaluation_run, kl_mean), false},
    {"kl_p999", offsetof(evaluation_run, kl_p999), false},
    {"attention_kl", offsetof(evaluation_run, attention_kl), false},
    {"output_error", offsetof(evaluation_run, output_error), false},
    {"key_true_bits", offsetof(evaluation_run, key_true_bits), true},
    {"value_true_bits", offsetof(evaluation_run, value_true_bits), true},
};
enum { ROWS_PER_RUN = RB_COUNT(numbers) + 3 }; /* and needles, and two of understanding */

static double number_of(const evaluation_run *run, size_t offset)
{
    return *(const double *)((const char *)run + offset);
}

/* ---- which run is which ---------------------------------------------------------------------- */

static bool same_bits(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static bool same_kind(const evaluation_run *a, const evaluation_run *b)
{
    return strcmp(a->method, b->method) == 0 && same_bits(a->avg_bits, b->avg_bits)
           && same_bits(a->value_bits, b->value_bits);
}

static int count_of_kind(const evaluation *result, const evaluation_run *run)
{
    int n = 0;
    for (int i = 0; i < result->n_runs; i++) n += same_kind(&result->runs[i], run);
    return n;
}

static const evaluation_run *find_named(const evaluation *result, const evaluation_run *run)
{
    for (int i = 0; i < result->n_runs; i++)
        if (same_kind(&result->runs[i], run) && strcmp(result->runs[i].name, run->name) == 0) return &result->runs[i];
    return NULL;
}

/* Found by method and bits, so that a plan may be renamed. Where several runs share these, the name decides. */
static const evaluation_run *find_run(const evaluation *base, const evaluation_run *run, const evaluation *updated)
{
    const evaluation_run *named = find_named(updated, run);
    if (named || count_of_kind(base, run) != 1 || count_of_kind(updated, run) != 1) return named;
    for (int i = 0; i < updated->n_runs; i++)
        if (same_kind(&updated->runs[i], run)) return &updated->runs[i];
    return NULL;
}

static rb_status check_listed_once(const evaluation *result, const char *path, rb_error *err)
{
    for (int i = 0; i < result->n_runs; i++)
        if (find_named(result, &result->runs[i]) != &result->runs[i])
            return rb_fail(err, RB_EFORMAT, "%s: run \"%s\" (%s) is there twice", path, result->runs[i].name,
                           result->runs[i].method);
    return RB_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void add_row(comparison *out, const char *metric, const evaluation_run *run, double base, double updated,
                    comparison_verdict verdict)
{
    comparison_row row = {.metric = metric,
                          .avg_bits = run->avg_bits,
                          .value_bits = run->value_bits,
                          .layer = -1,
                          .base = base,
                          .updated = updated,
                          .verdict = verdict};
    _Static_assert(sizeof row.run == sizeof run->name && sizeof row.method == sizeof run->method,
                   "a row holds a run's names");
    memcpy(row.run, run->name, sizeof row.run);
    memcpy(row.method, run->method, sizeof row.method);
    comparison_add(out, &row);
}

static comparison_verdict judge_needles(int64_t base, int64_t updated, int64_t max_lost)
{
    if (base - updated > max_lost) return VERDICT_WORSE;
    return updated > base ? VERDICT_BETTER : VERDICT_SAME;
}

static void compare_needles(comparison *out, const evaluation_run *base, const evaluation_run *updated,
                            int64_t max_lost)
{
    if (base->n_needles == 0) return;
    const bool missing = updated->n_needles == 0;
    add_row(out, "needles", base, (double)base->n_needles_right,
            missing ? (double)NAN : (double)updated->n_needles_right,
            missing ? VERDICT_MISSING : judge_needles(base->n_needles_right, updated->n_needles_right, max_lost));
}

/* A share is better when it is larger; it may fall by max_regression percent of the base. */
static void compare_share(comparison *out, const char *metric, const evaluation_run *run, double base, double updated,
                          double max_regression)
{
    add_row(out, metric, run, base, updated,
            isnan(updated) ? VERDICT_MISSING : comparison_judge_error(-base, -updated, max_regression));
}

/* The unquantized run agrees with itself; its accuracy shows a change of the forward pass. */
static void compare_understanding(comparison *out, const evaluation_run *base, const evaluation_run *updated,
                                  double max_regression)
{
    if (base->n_understanding == 0) return;
    if (strcmp(base->method, "none") != 0)
        compare_share(out, "understanding_agreement", base, base->understanding_agreement,
                      updated->understanding_agreement, max_regression);
    compare_share(out, "understanding_accuracy", base, base->understanding_accuracy, updated->understanding_accuracy,
                  max_regression);
}

static comparison_verdict judge_number(double base, double updated, bool is_bits, double max_regression)
{
    if (isnan(base)) return VERDICT_UNMEASURED;
    if (isnan(updated)) return VERDICT_MISSING;
    return is_bits ? comparison_judge_bits(base, updated) : comparison_judge_error(base, updated, max_regression);
}

static void compare_runs(comparison *out, const evaluation_run *base, const evaluation_run *updated,
                         const comparison_limits *limits)
{
    const bool is_unquantized = strcmp(base->method, "none") == 0;
    for (size_t i = 0; i < RB_COUNT(numbers); i++) {
        const double was = number_of(base, numbers[i].offset), is = number_of(updated, numbers[i].offset);
        if (is_unquantized && isnan(was)) continue; /* it has no such number in any document */
        add_row(out, numbers[i].metric, base, was, is,
                judge_number(was, is, numbers[i].is_bits, limits->max_regression));
    }
    compare_needles(out, base, updated, limits->max_needles_lost);
    compare_understanding(out, base, updated, limits->max_regression);
}

/* Right answers can be compared only when the same questions were asked. */
static rb_status check_same_needles(const evaluation *base, const char *base_path, const evaluation *updated,
                                    const char *new_path, rb_error *err)
{
    if (base->documents_sha256[0] && updated->documents_sha256[0]
        && strcmp(base->documents_sha256, updated->documents_sha256) != 0)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: needle documents %.12s... and %.12s...: not the same questions",
                       base_path, new_path, base->documents_sha256, updated->documents_sha256);
    for (int i = 0; i < base->n_runs; i++) {
        const evaluation_run *run = &base->runs[i], *other = find_run(base, run, updated);
        if (other && run->n_needles > 0 && other->n_needles > 0 && run->n_needles != other->n_needles)
            return rb_fail(err, RB_EMISMATCH, "%s and %s: run \"%s\" has %lld and %lld needles", base_path, new_path,
                           run->name, (long long)run->n_needles, (long long)other->n_needles);
    }
    return RB_OK;
}

rb_status compare_evaluations(comparison *out, const cJSON *base_json, const char *base_path, const cJSON *new_json,
                              const char *new_path, const comparison_limits *limits, rb_error *err)
{
    evaluation *base = NULL, *updated = NULL;
    rb_status st;
    RB_TRY(st, evaluation_from_json(&base, base_json, base_path, err), done);
    RB_TRY(st, evaluation_from_json(&updated, new_json, new_path, err), done);
    RB_TRY(st, check_listed_once(base, base_path, err), done);
    RB_TRY(st, check_listed_once(updated, new_path, err), done);
    RB_TRY(st, model_facts_same(&base->model, base_path, &updated->model, new_path, err), done);
    RB_TRY(st, comparison_check_text(&base->text, base_path, &updated->text, new_path, "evaluation", err), done);
    RB_TRY(st, check_same_needles(base, base_path, updated, new_path, err), done);
    RB_TRY(st, rb_alloc(&out->rows, (size_t)base->n_runs * ROWS_PER_RUN, sizeof *out->rows, "comparison", err), done);
    for (int i = 0; i < base->n_runs; i++) {
        const evaluation_run *run = &base->runs[i], *other = find_run(base, run, updated);
        if (other) compare_runs(out, run, other, limits);
        else add_row(out, "perplexity", run, run->perplexity, (double)NAN, VERDICT_MISSING);
    }
done:
    evaluation_free(base);
    evaluation_free(updated);
    return st;
}
