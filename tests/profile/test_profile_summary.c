/* The summary JSON: what it says of a table, the way there and back, and what its reader refuses. */
#include "tests/test_support.h"

#include "core/json.h"
#include "profile/profile_summary.h"
#include "tests/profile/some_profile.h"

static rb_error err;

static const double uniform_mae[] = {1, 3, 4, 4, 10, 6}; /* layers 2, 4, 8 */
static const double gtq_mae[] = {1, 1, 2, 2, 6, 3};      /* layers 1, 2, 4.5 */

/* uniform at 2, block-gtq at 2, block-gtq at 2.5, which has no uniform beside it. */
static profile_table *three_methods(void)
{
    profile_table *table = some_profile(3);
    set_scores(table, 0, "uniform", 2, 4, uniform_mae);
    set_scores(table, 1, "block-gtq", 2, 6, gtq_mae);
    set_scores(table, 2, "block-gtq", 2.5, 1.0 / 3.0, gtq_mae);
    return table;
}

/* As a file has it: printed and parsed again. */
static cJSON *as_read(const profile_table *table)
{
    cJSON *json = NULL, *parsed = NULL;
    char *text = NULL;
    assert_ok(profile_summary_to_json(&json, table, &err));
    assert_ok(rb_json_print(&text, json, &err));
    assert_ok(rb_json_parse(&parsed, text, strlen(text), "s.json", &err));
    cJSON_Delete(json);
    free(text);
    return parsed;
}

static void a_summary_says_what_the_table_holds(void **state)
{
    (void)state;
    profile_table *table = three_methods();
    cJSON *json = as_read(table);
    profile_summary *summary = NULL;
    assert_ok(profile_summary_from_json(&summary, json, "s.json", &err));
    assert_memory_equal(&summary->model, &table->model, sizeof table->model);
    assert_memory_equal(&summary->calibration, &table->calibration, sizeof table->calibration);
    assert_memory_equal(&summary->test, &table->test, sizeof table->test);
    assert_int_equal(summary->n_methods, 3);
    for (int m = 0; m < 3; m++) {
        const summary_method *read = &summary->methods[m];
        const head_score mean = method_mean(&table->methods[m], &table->model, -1);
        assert_string_equal(read->method, table->methods[m].method);
        assert_true(read->avg_bits == table->methods[m].avg_bits);
        assert_true(read->true_bits == mean.true_bits); /* all digits of a double come back */
        assert_true(read->logit_mae == mean.logit_mae);
        assert_true(read->causal_mae == mean.causal_mae);
        assert_true(read->attention_kl == mean.attention_kl);
        assert_true(read->relative_error == mean.relative_error);
        for (int layer = 0; layer < 3; layer++)
            assert_true(read->logit_mae_by_layer[layer]
                        == method_mean(&table->methods[m], &table->model, layer).logit_mae);
    }
    profile_summary_free(summary);
    cJSON_Delete(json);
    profile_table_free(table);
}

/* 1 - 2.5 / (14 / 3), all three layers. */
static void a_method_is_held_against_uniform_at_its_own_budget(void **state)
{
    (void)state;
    profile_table *table = three_methods();
    cJSON *json = as_read(table);
    profile_summary *summary = NULL;
    assert_ok(profile_summary_from_json(&summary, json, "s.json", &err));
    assert_true(summary->methods[0].reduction_vs_uniform == 0.0);
    assert_int_equal(summary->methods[0].layers_won_vs_uniform, 0);
    assert_true(fabs(summary->methods[1].reduction_vs_uniform - (1.0 - 7.5 / 14.0)) < 1e-12);
    assert_int_equal(summary->methods[1].layers_won_vs_uniform, 3);
    assert_true(isnan(summary->methods[2].reduction_vs_uniform));
    assert_int_equal(summary->methods[2].layers_won_vs_uniform, -1);
    profile_summary_free(summary);
    cJSON_Delete(json);
    profile_table_free(table);
}

static void the_document_has_the_names_of_the_contract(void **state)
{
    (void)state;
    static const char *const keys[] = {"method",
                                       "avg_bits",
                                       "true_bits",
                                       "logit_mae",
                                       "logit_mae_by_layer",
                                       "causal_mae",
                                       "attention_kl",
                                       "relative_error",
                                       "sink",
                                       "reduction_vs_uniform",
                                       "layers_won_vs_uniform",
                                       "n_layers",
                                       "attended_mae",
                                       "token_error",
                                       "tail_ratio",
                                       "outside_share",
                                       "heads_out_of_proportion",
                                       "worst_tokens",
                                       "rotation_seeds"};
    profile_table *table = three_methods();
    cJSON *json = as_read(table);
    const cJSON *list = NULL, *method = NULL;
    assert_string_equal(rb_json_find(json, "schema")->valuestring, "ropebits-profile-summary");
    assert_int_equal(rb_json_find(json, "version")->valueint, 1);
    assert_true(cJSON_IsString(rb_json_find(json, "tool_version")));
    assert_ok(rb_json_get_array(json, "methods", "s.json", &list, &err));
    cJSON_ArrayForEach (method, list) {
        assert_int_equal(cJSON_GetArraySize(method), RB_COUNT(keys));
        for (size_t i = 0; i < RB_COUNT(keys); i++) assert_true(cJSON_HasObjectItem(method, keys[i]));
    }
    const cJSON *unmatched = cJSON_GetArrayItem(list, 2);
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(unmatched, "reduction_vs_uniform")));
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(unmatched, "layers_won_vs_uniform")));
    cJSON_Delete(json);
    profile_table_free(table);
}

static void a_method_is_found_by_name_and_budget(void **state)
{
    (void)state;
    profile_table *table = three_methods();
    cJSON *json = as_read(table);
    profile_summary *summary = NULL;
    assert_ok(profile_summary_from_json(&summary, json, "s.json", &err));
    assert_ptr_equal(profile_summary_find(summary, "block-gtq", 2.5), &summary->methods[2]);
    assert_ptr_equal(profile_summary_find(summary, "uniform", 2), &summary->methods[0]);
    assert_null(profile_summary_find(summary, "uniform", 2.5));
    assert_null(profile_summary_find(summary, "gtq", 2));
    profile_summary_free(summary);
    cJSON_Delete(json);
    profile_table_free(table);
}

/* ---- what is refused ------------------------------------------------------------------------- */

/* A member of the document, or of its second method; value NULL: deleted. */
static const struct {
    bool in_method;
    const char *key, *value;
    rb_status status;
    const char *message;
} refusals[] = {
    {false, "schema", "\"ropebits-plan\"", RB_EFORMAT,
     "schema is \"ropebits-plan\", expected \"ropebits-profile-summary\""},
    {false, "version", "2", RB_EUNSUPPORTED, "version is 2, expected 1"},
    {false, "model", NULL, RB_EFORMAT, "s.json: model: is missing"},
    {false, "model", "{}", RB_EFORMAT, "s.json: model.model_type: is missing"},
    {false, "calibration", NULL, RB_EFORMAT, "s.json: calibration: is missing"},
    {false, "test", "null", RB_EFORMAT, "s.json: test: is missing"},
    {false, "test", "{\"tokens_sha256\": \"x\", \"n_tokens\": 1, \"context\": 1}", RB_EFORMAT,
     "s.json: test.tokens_sha256"},
    {false, "coverage", "3", RB_EFORMAT, "coverage: found a number, expected an object"},
    {false, "coverage", "{\"key_distance\": -1, \"is_covered\": true}", RB_EINVAL,
     "s.json: coverage.key_distance: is -1"},
    {false, "coverage", "{\"key_distance\": 1}", RB_EFORMAT, "s.json: coverage.is_covered: is missing"},
    {false, "methods", "{}", RB_EFORMAT, "methods: found an object, expected an array"},
    {false, "methods", "[]", RB_EFORMAT, "0 methods, expected 1 to 256"},
    {false, "methods", "[3]", RB_EFORMAT, "s.json: methods[0]: found a number, expected an object"},
    {true, "method", NULL, RB_EFORMAT, "s.json: methods[1].method: is missing"},
    {true, "method", "\"a-method-with-a-name-of-33-letters\"", RB_EFORMAT, "longer than 31 characters"},
    {true, "avg_bits", "-1", RB_EINVAL, "methods[1].avg_bits: is -1"},
    {true, "true_bits", "-1", RB_EINVAL, "methods[1].true_bits: is -1"},
    {true, "logit_mae", "-1e-9", RB_EINVAL, "methods[1].logit_mae: is -"},
    {true, "logit_mae", "null", RB_EFORMAT, "methods[1].logit_mae: is missing"}, /* what NaN is written as */
    {true, "logit_mae", "1e999", RB_ENONFINITE, "methods[1].logit_mae: the number is beyond"},
    {true, "causal_mae", "\"2\"", RB_EFORMAT, "methods[1].causal_mae: found a string"},
    {true, "attention_kl", "-0.1", RB_EINVAL, "methods[1].attention_kl: is -0.1"},
    {true, "relative_error", NULL, RB_EFORMAT, "methods[1].relative_error: is missing"},
    {true, "reduction_vs_uniform", "1.5", RB_EINVAL, "methods[1].reduction_vs_uniform: is 1.5"},
    {true, "layers_won_vs_uniform", "4", RB_EINVAL, "methods[1].layers_won_vs_uniform: is 4, expected 0 to 3"},
    {true, "n_layers", "4", RB_EINVAL, "methods[1].n_layers: is 4, expected 3"},
    {true, "logit_mae_by_layer", "[1, 2]", RB_EFORMAT,
     "methods[1]: logit_mae_by_layer has 2 entries, expected the model's 3 layers"},
    {true, "logit_mae_by_layer", "[1, 2, -3]", RB_EFORMAT, "methods[1]: logit_mae_by_layer[2] is no error"},
    {true, "logit_mae_by_layer", "[null, 2, 3]", RB_EFORMAT, "methods[1]: logit_mae_by_layer[0] is no error"},
    {true, "logit_mae_by_layer", "[1, 1e999, 3]", RB_EFORMAT, "methods[1]: logit_mae_by_layer[1] is no error"},
};

static void assert_refused(const cJSON *good, size_t i)
{
    cJSON *document = cJSON_Duplicate(good, true);
    cJSON *object = refusals[i].in_method ? cJSON_GetArrayItem(cJSON_GetObjectItem(document, "methods"), 1) : document;
    profile_summary *summary = NULL;
    if (refusals[i].value)
        assert_true(cJSON_ReplaceItemInObjectCaseSensitive(object, refusals[i].key, cJSON_Parse(refusals[i].value)));
    else cJSON_DeleteItemFromObjectCaseSensitive(object, refusals[i].key);
    memset(&err, 0, sizeof err);
    const rb_status st = profile_summary_from_json(&summary, document, "s.json", &err);
    if (st != refusals[i].status || !strstr(err.msg, refusals[i].message))
        fail_msg("%s = %s: status %d, expected %d: \"%s\", expected \"%s\"", refusals[i].key,
                 refusals[i].value ? refusals[i].value : "nothing", (int)st, (int)refusals[i].status, err.msg,
                 refusals[i].message);
    assert_null(summary);
    memset(&err, 0, sizeof err);
    cJSON_Delete(document);
}

static void what_is_no_summary_is_refused_with_its_place(void **state)
{
    (void)state;
    profile_table *table = three_methods();
    cJSON *good = as_read(table);
    for (size_t i = 0; i < RB_COUNT(refusals); i++) assert_refused(good, i);
    cJSON_Delete(good);
    profile_table_free(table);
}

static void the_committed_baseline_reads(void **state)
{
    (void)state;
    profile_summary *summary = NULL;
    assert_ok(profile_summary_read(&summary, "tests/fixtures/demo-baseline.json", &err));
    assert_int_equal(summary->model.n_layers, 4);
    assert_non_null(profile_summary_find(summary, "block-gtq", 3));
    assert_false(isnan(summary->coverage.key_distance));
    profile_summary_free(summary);
    assert_fails(profile_summary_read(&summary, scratch_path("absent.json"), &err), RB_EIO, "absent.json");
    assert_null(summary);
    profile_summary_free(NULL);
}

static void a_summary_older_than_coverage_reads(void **state)
{
    (void)state;
    profile_table *table = three_methods();
    cJSON *json = as_read(table);
    profile_summary *summary = NULL;
    cJSON_DeleteItemFromObjectCaseSensitive(json, "coverage");
    assert_ok(profile_summary_from_json(&summary, json, "s.json", &err));
    assert_true(summary->is_covered && isnan(summary->coverage.key_distance));
    profile_summary_free(summary);
    cJSON_Delete(json);
    profile_table_free(table);
}

static double number(const cJSON *object, const char *key)
{
    const cJSON *item = rb_json_find(object, key);
    if (!cJSON_IsNumber(item)) fail_msg("no number %s", key);
    return item->valuedouble;
}

/* mae / 3 of 10 and 6 is above 2.5 only in layer 2, head 0. */
static void heads_with_a_tail_are_named_and_tokens_listed(void **state)
{
    (void)state;
    profile_table *table = some_profile(0);
    const float excess[] = {1, 3, 2, 3}, errors[] = {10, 11, 12, 13}, sizes[] = {20, 21, 22, 23};
    free(table->methods);
    table->methods = NULL;
    table->n_worst_tokens = 3;
    assert_ok(profile_table_add_methods(table, 1, &err));
    set_scores(table, 0, "uniform", 2, 4, uniform_mae);
    worst_tokens_add(&table->methods[0].worst, 2, 1, excess, errors, sizes, 4);
    table->methods[0].worst.at[0].id = 77;
    token_text_set(table->methods[0].worst.at[0].text, "a\n\xc3\xa4\xc3", 5);
    cJSON *json = as_read(table);
    const cJSON *method = cJSON_GetArrayItem(rb_json_find(json, "methods"), 0),
                *flagged = rb_json_find(method, "heads_out_of_proportion");
    const cJSON *tokens = rb_json_find(method, "worst_tokens"), *worst = cJSON_GetArrayItem(tokens, 0),
                *quantiles = rb_json_find(method, "token_error");
    assert_int_equal(cJSON_GetArraySize(flagged), 1);
    assert_true(number(cJSON_GetArrayItem(flagged, 0), "layer") == 2
                && number(cJSON_GetArrayItem(flagged, 0), "kv_head") == 0);
    assert_true(number(cJSON_GetArrayItem(flagged, 0), "tail_ratio") == 10.0 / 3.0);
    assert_true(number(method, "tail_ratio") == 10.0 / 3.0); /* the worst head's, not the mean */
    assert_true(fabs(number(method, "attended_mae") - 14.0) < 1e-12);
    assert_true(fabs(number(quantiles, "median") - 14.0 / 96) < 1e-12
                && fabs(number(quantiles, "p99") - 14.0 / 24) < 1e-12);
    assert_true(fabs(number(quantiles, "p999") - 14.0 / 12) < 1e-12
                && fabs(number(quantiles, "max") - 14.0 / 6) < 1e-12);
    assert_int_equal(cJSON_GetArraySize(tokens), 3);
    assert_true(number(worst, "position") == 1 && number(worst, "id") == 77 && number(worst, "layer") == 2
                && number(worst, "kv_head") == 1);
    assert_true(number(worst, "error") == 11 && number(worst, "size") == 21 && number(worst, "excess") == 3);
    assert_string_equal(rb_json_find(worst, "text")->valuestring, "a\\x0a\xc3\xa4\\xc3");
    assert_null(rb_json_find(cJSON_GetArrayItem(tokens, 1), "text")); /* no tokenizer was asked */
    cJSON_Delete(json);
    profile_table_free(table);
}

static void coverage_is_told_of_every_head_and_judged_by_the_mean(void **state)
{
    (void)state;
    for (int is_far = 0; is_far < 2; is_far++) {
        profile_table *table = some_profile(1);
        set_scores(table, 0, "uniform", 2, 4, uniform_mae);
        for (int h = 0; h < 6; h++)
            table->coverage[h] = (head_coverage){1.0 + (is_far ? 0.2 : 0.1) * h, 0.01 * h, 2.0, 1.5};
        cJSON *json = as_read(table);
        const cJSON *coverage = rb_json_find(json, "coverage"),
                    *last = cJSON_GetArrayItem(rb_json_find(coverage, "heads"), 5);
        assert_true(fabs(number(coverage, "key_distance") - (is_far ? 1.5 : 1.25)) < 1e-12);
        assert_true(fabs(number(coverage, "key_outside") - 0.025) < 1e-12);
        assert_true(fabs(number(coverage, "query_shift") - 2.0) < 1e-12
                    && fabs(number(coverage, "plan_transfer") - 1.5) < 1e-12);
        assert_int_equal(cJSON_IsTrue(rb_json_find(coverage, "is_covered")), !is_far);
        assert_int_equal(cJSON_GetArraySize(rb_json_find(coverage, "heads")), 6);
        assert_true(number(last, "layer") == 2 && number(last, "kv_head") == 1 && number(last, "key_outside") == 0.05);
        profile_summary *summary = NULL;
        assert_ok(profile_summary_from_json(&summary, json, "s.json", &err));
        assert_int_equal(summary->is_covered, !is_far);
        assert_true(summary->coverage.key_distance == number(coverage, "key_distance")
                    && summary->coverage.key_outside == number(coverage, "key_outside"));
        assert_true(summary->coverage.query_shift == number(coverage, "query_shift")
                    && summary->coverage.plan_transfer == number(coverage, "plan_transfer"));
        profile_summary_free(summary);
        cJSON_Delete(json);
        profile_table_free(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_with_a_tail_are_named_and_tokens_listed),
        cmocka_unit_test(coverage_is_told_of_every_head_and_judged_by_the_mean),
        cmocka_unit_test(a_summary_says_what_the_table_holds),
        cmocka_unit_test(a_method_is_held_against_uniform_at_its_own_budget),
        cmocka_unit_test(the_document_has_the_names_of_the_contract),
        cmocka_unit_test(a_method_is_found_by_name_and_budget),
        cmocka_unit_test(what_is_no_summary_is_refused_with_its_place),
        cmocka_unit_test(the_committed_baseline_reads),
        cmocka_unit_test(a_summary_older_than_coverage_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
