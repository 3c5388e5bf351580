/* Compares two profile summaries: every metric of each method and budget, and every layer. See evaluate/compare.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "evaluate/compare_rows.h"
#include "profile/profile_summary.h"

/* -1: the method loses to uniform, 1: it wins, 0: there is no uniform at this budget. */
static int against_uniform(const profile_summary *summary, const summary_method *method, int layer)
{
    const summary_method *uniform = profile_summary_find(summary, "uniform", method->avg_bits);
    if (!uniform) return 0;
    return method->logit_mae_by_layer[layer] < uniform->logit_mae_by_layer[layer] ? 1 : -1;
}

/* A layer that beat uniform must go on doing so, even where it got worse by less than the limit. With other seeds that
 * may be luck. */
static void judge_against_uniform(comparison *out, int first_row, const profile_summary *base,
                                  const summary_method *base_method, const profile_summary *updated,
                                  const summary_method *new_method)
{
    for (int i = first_row; i < out->n_rows; i++) {
        comparison_row *row = &out->rows[i];
        if (row->layer < 0 || strcmp(row->metric, "logit_mae") != 0 || row->is_redrawn) continue;
        if (row->verdict == VERDICT_WORSE || against_uniform(base, base_method, row->layer) <= 0
            || against_uniform(updated, new_method, row->layer) >= 0)
            continue;
        row->verdict = VERDICT_LOST;
        out->n_regressions++;
    }
}

static const cJSON *method_at(const cJSON *document, int index)
{
    return cJSON_GetArrayItem(rb_json_find(document, "methods"), index);
}

static rb_status compare_method(comparison *out, const compared_pair *pair, const profile_summary *base, int m,
                                const profile_summary *updated, rb_error *err)
{
    const summary_method *method = &base->methods[m],
                         *other = profile_summary_find(updated, method->method, method->avg_bits);
    compared_entry entry = {.base = method_at(pair->base, m),
                            .n_layers = base->model.n_layers,
                            .row = {.avg_bits = method->avg_bits, .value_bits = (double)NAN}};
    const int first_row = out->n_rows;
    memcpy(entry.row.method, method->method, sizeof entry.row.method);
    if (!other) {
        comparison_add_missing(out, &entry, "logit_mae", method->logit_mae);
        return RB_OK;
    }
    const int n = (int)(other - updated->methods);
    entry.updated = method_at(pair->updated, n);
    snprintf(entry.base_where, sizeof entry.base_where, "%.400s: methods[%d]", pair->base_path, m);
    snprintf(entry.new_where, sizeof entry.new_where, "%.400s: methods[%d]", pair->new_path, n);
    const rb_status st = comparison_add_entry(out, pair, &entry, err);
    if (st == RB_OK) judge_against_uniform(out, first_row, base, method, updated, other);
    return st;
}

/* With a method listed twice it would not be clear which of the two is judged. */
static rb_status check_listed_once(const profile_summary *summary, const char *path, rb_error *err)
{
    for (int m = 0; m < summary->n_methods; m++) {
        const summary_method *method = &summary->methods[m];
        if (profile_summary_find(summary, method->method, method->avg_bits) != method)
            return rb_fail(err, RB_EFORMAT, "%s: %s at %g bits is there twice", path, method->method, method->avg_bits);
    }
    return RB_OK;
}

rb_status compare_summaries(comparison *out, const compared_pair *pair, rb_error *err)
{
    profile_summary *base = NULL, *updated = NULL;
    rb_status st;
    RB_TRY(st, profile_summary_from_json(&base, pair->base, pair->base_path, err), done);
    RB_TRY(st, profile_summary_from_json(&updated, pair->updated, pair->new_path, err), done);
    RB_TRY(st, check_listed_once(base, pair->base_path, err), done);
    RB_TRY(st, check_listed_once(updated, pair->new_path, err), done);
    RB_TRY(st, comparison_check_model(out, pair, &base->model, &updated->model, err), done);
    RB_TRY(st, comparison_check_text(pair, &base->calibration, &updated->calibration, "calibration", err), done);
    RB_TRY(st, comparison_check_text(pair, &base->test, &updated->test, "test", err), done);
    RB_TRY(st, comparison_reserve(out, base->n_methods, base->model.n_layers, err), done);
    for (int m = 0; m < base->n_methods && st == RB_OK; m++) st = compare_method(out, pair, base, m, updated, err);
done:
    profile_summary_free(base);
    profile_summary_free(updated);
    return st;
}
