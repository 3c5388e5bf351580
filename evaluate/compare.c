/* Comparing documents: see evaluate/compare.h. compare_summaries.c and compare_evaluations.c say what belongs to what
 * in each schema, compare_rows.c judges. */
#include "evaluate/compare.h"

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

static const struct {
    const char *name;
    rb_status (*compare)(comparison *out, const compared_pair *pair, rb_error *err);
} schemas[] = {[COMPARE_SUMMARIES] = {PROFILE_SUMMARY_SCHEMA, compare_summaries},
               [COMPARE_EVALUATIONS] = {EVALUATION_SCHEMA, compare_evaluations}};

static rb_status compare_documents(comparison *out, const compared_pair *pair, rb_error *err)
{
    const char *base_schema, *new_schema;
    rb_status st;
    RB_TRY(st, rb_json_get_string(pair->base, "schema", pair->base_path, &base_schema, err), done);
    RB_TRY(st, rb_json_get_string(pair->updated, "schema", pair->new_path, &new_schema, err), done);
    if (strcmp(base_schema, new_schema) != 0)
        return rb_fail(err, RB_EMISMATCH, "%s and %s: schema \"%s\" and \"%s\"", pair->base_path, pair->new_path,
                       base_schema, new_schema);
    for (size_t i = 0; i < RB_COUNT(schemas); i++) {
        if (strcmp(base_schema, schemas[i].name) != 0) continue;
        out->schema = (comparison_schema)i;
        return schemas[i].compare(out, pair, err);
    }
    st = rb_fail(err, RB_EFORMAT, "%s: schema is \"%s\", expected \"%s\" or \"%s\"", pair->base_path, base_schema,
                 PROFILE_SUMMARY_SCHEMA, EVALUATION_SCHEMA);
done:
    return st;
}

rb_status compare_files(comparison *out, const char *base_path, const char *new_path, const comparison_limits *limits,
                        rb_error *err)
{
    cJSON *base = NULL, *updated = NULL;
    rb_status st;
    *out = (comparison){0};
    RB_TRY(st, rb_json_read(&base, base_path, 0, err), done);
    RB_TRY(st, rb_json_read(&updated, new_path, 0, err), done);
    st = compare_documents(out, &(compared_pair){base, updated, base_path, new_path, limits}, err);
done:
    cJSON_Delete(base);
    cJSON_Delete(updated);
    if (st != RB_OK) comparison_free(out);
    return st;
}
