/* Compares two results of `ropebits evaluate`: every metric of every run of BASE. See evaluate/compare.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "evaluate/compare_rows.h"
#include "evaluate/evaluation_file.h"

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

static const cJSON *run_at(const cJSON *document, int index)
{
    return cJSON_GetArrayItem(rb_json_find(document, "runs"), index);
}

static rb_status compare_run_of(comparison *out, const compared_pair *pair, const evaluation *base, int r,
                                const evaluation *updated, rb_error *err)
{
    const evaluation_run *run = &base->runs[r], *other = find_run(base, run, updated);
    const bool is_unquantized = strcmp(run->method, "none") == 0;
    compared_entry entry = {.base = run_at(pair->base, r),
                            .n_layers = base->model.n_layers,
                            .n_questions = run->n_needles,
                            .row = {.avg_bits = run->avg_bits, .value_bits = run->value_bits},
                            .skips_nulls = is_unquantized};
    _Static_assert(sizeof entry.row.run == sizeof run->name && sizeof entry.row.method == sizeof run->method,
                   "a row holds a run's names");
    memcpy(entry.row.run, run->name, sizeof entry.row.run);
    memcpy(entry.row.method, run->method, sizeof entry.row.method);
    if (!other) {
        comparison_add_missing(out, &entry, "perplexity", run->perplexity);
        return RB_OK;
    }
    const int n = (int)(other - updated->runs);
    entry.updated = run_at(pair->updated, n);
    snprintf(entry.base_where, sizeof entry.base_where, "%.400s: runs[%d]", pair->base_path, r);
    snprintf(entry.new_where, sizeof entry.new_where, "%.400s: runs[%d]", pair->new_path, n);
    return comparison_add_entry(out, pair, &entry, err);
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

rb_status compare_evaluations(comparison *out, const compared_pair *pair, rb_error *err)
{
    evaluation *base = NULL, *updated = NULL;
    rb_status st;
    RB_TRY(st, evaluation_from_json(&base, pair->base, pair->base_path, err), done);
    RB_TRY(st, evaluation_from_json(&updated, pair->updated, pair->new_path, err), done);
    RB_TRY(st, check_listed_once(base, pair->base_path, err), done);
    RB_TRY(st, check_listed_once(updated, pair->new_path, err), done);
    RB_TRY(st, comparison_check_model(out, pair, &base->model, &updated->model, err), done);
    RB_TRY(st, comparison_check_text(pair, &base->text, &updated->text, "evaluation", err), done);
    RB_TRY(st, check_same_needles(base, pair->base_path, updated, pair->new_path, err), done);
    RB_TRY(st, comparison_reserve(out, base->n_runs, base->model.n_layers, err), done);
    for (int r = 0; r < base->n_runs && st == RB_OK; r++) st = compare_run_of(out, pair, base, r, updated, err);
done:
    evaluation_free(base);
    evaluation_free(updated);
    return st;
}
