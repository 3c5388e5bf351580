/* Compares two profile summaries: mean error, true bits and every layer of each method and budget. See
 * evaluate/compare.h. */
#include <math.h>
#include <string.h>

#include "evaluate/compare_rows.h"
#include "profile/profile_summary.h"

static void add_row(comparison *result, const char *metric, const summary_method *method, int layer, double base,
                    double updated, comparison_verdict verdict)
{
    comparison_row row = {.metric = metric,
                          .avg_bits = method->avg_bits,
                          .value_bits = (double)NAN,
                          .layer = layer,
                          .base = base,
                          .updated = updated,
                          .verdict = verdict};
    memcpy(row.method, method->method, sizeof row.method);
    comparison_add(result, &row);
}

/* -1: the method loses to uniform, 1: it wins, 0: there is no uniform at this budget. */
static int against_uniform(const profile_summary *summary, const summary_method *method, int layer)
{
    const summary_method *uniform = profile_summary_find(summary, "uniform", method->avg_bits);
    if (!uniform) return 0;
    return method->logit_mae_by_layer[layer] < uniform->logit_mae_by_layer[layer] ? 1 : -1;
}

static comparison_verdict judge_layer(const profile_summary *base, const summary_method *base_method,
                                      const profile_summary *updated, const summary_method *new_method, int layer,
                                      double max_regression)
{
    const comparison_verdict verdict = comparison_judge_error(base_method->logit_mae_by_layer[layer],
                                                              new_method->logit_mae_by_layer[layer], max_regression);
    if (verdict == VERDICT_WORSE) return verdict;
    return against_uniform(base, base_method, layer) > 0 && against_uniform(updated, new_method, layer) < 0
               ? VERDICT_LOST
               : verdict;
}

static void compare_method(comparison *result, const profile_summary *base, const summary_method *base_method,
                           const profile_summary *updated, double max_regression)
{
    const summary_method *new_method = profile_summary_find(updated, base_method->method, base_method->avg_bits);
    if (!new_method) {
        add_row(result, "logit_mae", base_method, -1, base_method->logit_mae, (double)NAN, VERDICT_MISSING);
        return;
    }
    add_row(result, "logit_mae", base_method, -1, base_method->logit_mae, new_method->logit_mae,
            comparison_judge_error(base_method->logit_mae, new_method->logit_mae, max_regression));
    add_row(result, "true_bits", base_method, -1, base_method->true_bits, new_method->true_bits,
            comparison_judge_bits(base_method->true_bits, new_method->true_bits));
    for (int layer = 0; layer < base->model.n_layers; layer++)
        add_row(result, "logit_mae", base_method, layer, base_method->logit_mae_by_layer[layer],
                new_method->logit_mae_by_layer[layer],
                judge_layer(base, base_method, updated, new_method, layer, max_regression));
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

rb_status compare_summaries(comparison *out, const cJSON *base_json, const char *base_path, const cJSON *new_json,
                            const char *new_path, const comparison_limits *limits, rb_error *err)
{
    profile_summary *base = NULL, *updated = NULL;
    rb_status st;
    RB_TRY(st, profile_summary_from_json(&base, base_json, base_path, err), done);
    RB_TRY(st, profile_summary_from_json(&updated, new_json, new_path, err), done);
    RB_TRY(st, check_listed_once(base, base_path, err), done);
    RB_TRY(st, check_listed_once(updated, new_path, err), done);
    RB_TRY(st, model_facts_same(&base->model, base_path, &updated->model, new_path, err), done);
    RB_TRY(st,
           comparison_check_text(&base->calibration, base_path, &updated->calibration, new_path, "calibration", err),
           done);
    RB_TRY(st, comparison_check_text(&base->test, base_path, &updated->test, new_path, "test", err), done);
    RB_TRY(st,
           rb_alloc(&out->rows, (size_t)base->n_methods * (size_t)(base->model.n_layers + 2), sizeof *out->rows,
                    "comparison", err),
           done);
    for (int m = 0; m < base->n_methods; m++)
        compare_method(out, base, &base->methods[m], updated, limits->max_regression);
done:
    profile_summary_free(base);
    profile_summary_free(updated);
    return st;
}
