/* Comparing summaries: see evaluate/compare.h. */
#include "evaluate/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "profile/profile_summary.h"

static const char *const verdict_names[] = {"same", "better", "worse", "lost_to_uniform", "missing"};

const char *comparison_verdict_name(comparison_verdict verdict) { return verdict_names[verdict]; }

void comparison_free(comparison *result)
{
    free(result->rows);
    *result = (comparison){0};
}

/* ---- rows ---------------------------------------------------------------------------------------------------------------------- */

static void add_row(comparison *result, const char *metric, const summary_method *method, int layer, double base, double updated,
                    comparison_verdict verdict)
{
    comparison_row *row = &result->rows[result->n_rows++];
    *row = (comparison_row){.metric = metric, .avg_bits = method->avg_bits, .layer = layer, .base = base, .updated = updated, .verdict = verdict};
    memcpy(row->method, method->method, sizeof row->method);
    result->n_regressions += comparison_is_regression(verdict);
}

static comparison_verdict judge_error(double base, double updated, double max_regression)
{
    const double limit = 0.01 * max_regression * base;
    if (updated > base + limit) return VERDICT_WORSE;
    return updated < base - limit ? VERDICT_BETTER : VERDICT_SAME;
}

/* Bits are a count, not a measurement: any growth is a regression. */
static comparison_verdict judge_bits(double base, double updated)
{
    static const double rounding = 1e-9;
    if (updated > base + rounding) return VERDICT_WORSE;
    return updated < base - rounding ? VERDICT_BETTER : VERDICT_SAME;
}

/* ---- profile summaries ----------------------------------------------------------------------------------------------------------- */

/* -1: loses, 1: wins, 0: there is no uniform at this budget to tell. */
static int against_uniform(const profile_summary *summary, const summary_method *method, int layer)
{
    const summary_method *uniform = profile_summary_find(summary, "uniform", method->avg_bits);
    if (!uniform) return 0;
    return method->logit_mae_by_layer[layer] < uniform->logit_mae_by_layer[layer] ? 1 : -1;
}

static comparison_verdict judge_layer(const profile_summary *base, const summary_method *base_method, const profile_summary *updated,
                                      const summary_method *new_method, int layer, double max_regression)
{
    const comparison_verdict verdict = judge_error(base_method->logit_mae_by_layer[layer], new_method->logit_mae_by_layer[layer], max_regression);
    if (verdict == VERDICT_WORSE) return verdict;
    return against_uniform(base, base_method, layer) > 0 && against_uniform(updated, new_method, layer) < 0 ? VERDICT_LOST : verdict;
}

static void compare_method(comparison *result, const profile_summary *base, const summary_method *base_method, const profile_summary *updated,
                           double max_regression)
{
    const summary_method *new_method = profile_summary_find(updated, base_method->method, base_method->avg_bits);
    if (!new_method) {
        add_row(result, "logit_mae", base_method, -1, base_method->logit_mae, (double)NAN, VERDICT_MISSING);
        return;
    }
    add_row(result, "logit_mae", base_method, -1, base_method->logit_mae, new_method->logit_mae,
            judge_error(base_method->logit_mae, new_method->logit_mae, max_regression));
    add_row(result, "true_bits", base_method, -1, base_method->true_bits, new_method->true_bits,
            judge_bits(base_method->true_bits, new_method->true_bits));
    for (int layer = 0; layer < base->model.n_layers; layer++)
        add_row(result, "logit_mae", base_method, layer, base_method->logit_mae_by_layer[layer], new_method->logit_mae_by_layer[layer],
                judge_layer(base, base_method, updated, new_method, layer, max_regression));
}

static rb_status check_same_text(const text_facts *base, const char *base_path, const text_facts *updated, const char *new_path, const char *set,
                                 rb_error *err)
{
    if (strcmp(base->tokens_sha256, updated->tokens_sha256) != 0)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s tokens %.12s... and %.12s...: not the same text", base_path, new_path, set,
                       base->tokens_sha256,
                       updated->tokens_sha256);
    if (base->n_tokens != updated->n_tokens)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s n_tokens %lld and %lld", base_path, new_path, set, (long long)base->n_tokens,
                       (long long)updated->n_tokens);
    if (base->context != updated->context)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s context %lld and %lld", base_path, new_path, set, (long long)base->context,
                       (long long)updated->context);
    return RB_OK;
}

/* A method listed twice would leave it open which of the two is judged. */
static rb_status check_listed_once(const profile_summary *summary, const char *path, rb_error *err)
{
    for (int m = 0; m < summary->n_methods; m++) {
        const summary_method *method = &summary->methods[m];
        if (profile_summary_find(summary, method->method, method->avg_bits) != method)
            return rb_fail(err, RB_EFORMAT, "%s: %s at %g bits is there twice", path, method->method, method->avg_bits);
    }
    return RB_OK;
}

static rb_status compare_summaries(comparison *out, const cJSON *base_json, const char *base_path, const cJSON *new_json, const char *new_path,
                                   double max_regression, rb_error *err)
{
    profile_summary *base = NULL, *updated = NULL;
    rb_status st;
    RB_TRY(st, profile_summary_from_json(&base, base_json, base_path, err), done);
    RB_TRY(st, profile_summary_from_json(&updated, new_json, new_path, err), done);
    RB_TRY(st, check_listed_once(base, base_path, err), done);
    RB_TRY(st, check_listed_once(updated, new_path, err), done);
    RB_TRY(st, model_facts_same(&base->model, base_path, &updated->model, new_path, err), done);
    RB_TRY(st, check_same_text(&base->calibration, base_path, &updated->calibration, new_path, "calibration", err), done);
    RB_TRY(st, check_same_text(&base->test, base_path, &updated->test, new_path, "test", err), done);
    RB_TRY(st, rb_alloc(&out->rows, (size_t)base->n_methods * (size_t)(base->model.n_layers + 2), sizeof *out->rows, "comparison", err), done);
    for (int m = 0; m < base->n_methods; m++) compare_method(out, base, &base->methods[m], updated, max_regression);
done:
    profile_summary_free(base);
    profile_summary_free(updated);
    return st;
}

/* ---- dispatch -------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *schema;
    rb_status (*compare)(comparison *out, const cJSON *base, const char *base_path, const cJSON *updated, const char *new_path, double max_regression,
                         rb_error *err);
} comparers[] = {{PROFILE_SUMMARY_SCHEMA, compare_summaries}};

rb_status compare_files(comparison *out, const char *base_path, const char *new_path, double max_regression, rb_error *err)
{
    cJSON *base = NULL, *updated = NULL;
    const char *base_schema, *new_schema;
    rb_status st;
    *out = (comparison){0};
    RB_TRY(st, rb_json_read(&base, base_path, 0, err), done);
    RB_TRY(st, rb_json_read(&updated, new_path, 0, err), done);
    RB_TRY(st, rb_json_get_string(base, "schema", base_path, &base_schema, err), done);
    RB_TRY(st, rb_json_get_string(updated, "schema", new_path, &new_schema, err), done);
    if (strcmp(base_schema, new_schema) != 0) {
        st = rb_fail(err, RB_EMISMATCH, "%s and %s: schema \"%s\" and \"%s\"", base_path, new_path, base_schema, new_schema);
        goto done;
    }
    for (size_t i = 0; i < RB_COUNT(comparers); i++)
        if (strcmp(base_schema, comparers[i].schema) == 0) {
            st = comparers[i].compare(out, base, base_path, updated, new_path, max_regression, err);
            goto done;
        }
    st = rb_fail(err, RB_EFORMAT, "%s: schema is \"%s\", expected \"%s\"", base_path, base_schema, PROFILE_SUMMARY_SCHEMA);
done:
    cJSON_Delete(base);
    cJSON_Delete(updated);
    if (st != RB_OK) comparison_free(out);
    return st;
}
