/* Comparing documents: see evaluate/compare.h. compare_summaries.c and compare_evaluations.c say what is compared of
 * each schema. */
#include "evaluate/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "evaluate/compare_rows.h"
#include "evaluate/evaluation_file.h"
#include "profile/profile_summary.h"

static const char *const verdict_names[] = {"same", "better", "unmeasured", "worse", "lost_to_uniform", "missing"};

const char *comparison_verdict_name(comparison_verdict verdict) { return verdict_names[verdict]; }

void comparison_free(comparison *result)
{
    free(result->rows);
    *result = (comparison){0};
}

/* ---- rows ------------------------------------------------------------------------------------ */

void comparison_add(comparison *result, const comparison_row *row)
{
    result->rows[result->n_rows++] = *row;
    result->n_regressions += comparison_is_regression(row->verdict);
}

comparison_verdict comparison_judge_error(double base, double updated, double max_regression)
{
    const double limit = 0.01 * max_regression * fabs(base);
    if (updated > base + limit) return VERDICT_WORSE;
    return updated < base - limit ? VERDICT_BETTER : VERDICT_SAME;
}

comparison_verdict comparison_judge_bits(double base, double updated)
{
    static const double rounding = 1e-9;
    if (updated > base + rounding) return VERDICT_WORSE;
    return updated < base - rounding ? VERDICT_BETTER : VERDICT_SAME;
}

rb_status comparison_check_text(const text_facts *base, const char *base_path, const text_facts *updated,
                                const char *new_path, const char *set, rb_error *err)
{
    if (strcmp(base->tokens_sha256, updated->tokens_sha256) != 0)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s tokens %.12s... and %.12s...: not the same text", base_path,
                       new_path, set, base->tokens_sha256, updated->tokens_sha256);
    if (base->n_tokens != updated->n_tokens)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s n_tokens %lld and %lld", base_path, new_path, set,
                       (long long)base->n_tokens, (long long)updated->n_tokens);
    if (base->context != updated->context)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: %s context %lld and %lld", base_path, new_path, set,
                       (long long)base->context, (long long)updated->context);
    return RB_OK;
}

/* ---- dispatch -------------------------------------------------------------------------------- */

static const struct {
    const char *schema;
    rb_status (*compare)(comparison *out, const cJSON *base, const char *base_path, const cJSON *updated,
                         const char *new_path, const comparison_limits *limits, rb_error *err);
} comparers[] = {{PROFILE_SUMMARY_SCHEMA, compare_summaries}, {EVALUATION_SCHEMA, compare_evaluations}};

rb_status compare_files(comparison *out, const char *base_path, const char *new_path, const comparison_limits *limits,
                        rb_error *err)
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
        st = rb_fail(err, RB_EMISMATCH, "%s and %s: schema \"%s\" and \"%s\"", base_path, new_path, base_schema,
                     new_schema);
        goto done;
    }
    for (size_t i = 0; i < RB_COUNT(comparers); i++)
        if (strcmp(base_schema, comparers[i].schema) == 0) {
            st = comparers[i].compare(out, base, base_path, updated, new_path, limits, err);
            goto done;
        }
    st = rb_fail(err, RB_EFORMAT, "%s: schema is \"%s\", expected \"%s\" or \"%s\"", base_path, base_schema,
                 PROFILE_SUMMARY_SCHEMA, EVALUATION_SCHEMA);
done:
    cJSON_Delete(base);
    cJSON_Delete(updated);
    if (st != RB_OK) comparison_free(out);
    return st;
}
