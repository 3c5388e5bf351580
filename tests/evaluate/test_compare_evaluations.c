/* Evaluations: what the reader takes and refuses, and every way one can be worse than another. */
#include "tests/test_support.h"

#include <stdbool.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "evaluate/compare.h"
#include "evaluate/evaluation_file.h"
#include "tests/profile/some_profile.h"

static rb_error err;

/* One plan's run; the numbers tests change are at the front. */
typedef struct run_numbers {
    const char *name;
    double perplexity, kl_mean, kl_p999, attention_kl, key_true_bits, value_true_bits;
    int n_needles, n_right; /* n_needles 0: null */
    double output_error;
    double agreement, accuracy; /* 0: no understanding documents */
} run_numbers;

static const run_numbers gtq = {"gtq.json", 8.0, 0.5, 4.0, 0.25, 2.75, 2.25, 24, 15, 0.375, 0.875, 0.5};

static cJSON *run_json(const char *method, double bits, const run_numbers *run)
{
    const bool unquantized = strcmp(method, "none") == 0;
    cJSON *json = cJSON_CreateObject(), *needles = NULL, *understanding = NULL;
    assert_ok(rb_json_add_string(json, "name", run->name, &err));
    assert_ok(rb_json_add_string(json, "method", method, &err));
    assert_ok(rb_json_add_number(json, "avg_bits", bits, &err));
    assert_ok(rb_json_add_number(json, "value_bits", bits, &err));
    assert_ok(rb_json_add_number(json, "key_true_bits", run->key_true_bits, &err));
    assert_ok(rb_json_add_number(json, "value_true_bits", run->value_true_bits, &err));
    assert_ok(rb_json_add_number(json, "perplexity", run->perplexity, &err));
    assert_ok(rb_json_add_number(json, "kl_mean", run->kl_mean, &err));
    assert_ok(rb_json_add_number(json, "kl_p999", run->kl_p999, &err));
    assert_ok(rb_json_add_number(json, "top1_agreement", unquantized ? (double)NAN : 0.75, &err));
    assert_ok(rb_json_add_number(json, "attention_kl", run->attention_kl, &err));
    assert_ok(rb_json_add_number(json, "attention_overlap", unquantized ? (double)NAN : 0.625, &err));
    assert_ok(rb_json_add_number(json, "output_error", run->output_error, &err));
    if (run->accuracy > 0) {
        assert_ok(rb_json_new_object(&understanding, &err));
        assert_ok(rb_json_add_number(understanding, "n", 6, &err));
        assert_ok(rb_json_add_number(understanding, "agreement", run->agreement, &err));
        assert_ok(rb_json_add_number(understanding, "accuracy", run->accuracy, &err));
        assert_ok(rb_json_add_item(json, "understanding", &understanding, &err));
    }
    if (run->n_needles == 0) {
        assert_ok(rb_json_add_null(json, "needles", &err));
        return json;
    }
    assert_ok(rb_json_new_object(&needles, &err));
    assert_ok(rb_json_add_number(needles, "n", run->n_needles, &err));
    assert_ok(rb_json_add_number(needles, "n_right", run->n_right, &err));
    assert_ok(rb_json_add_item(json, "needles", &needles, &err));
    return json;
}

/* The unquantized run, then n plans, all block-gtq at 2 bits. */
static cJSON *document(const run_numbers *runs, int n)
{
    static const run_numbers unquantized = {
        EVALUATION_UNQUANTIZED, 7.5, NAN, NAN, NAN, NAN, NAN, 24, 20, NAN, 1.0, 0.625};
    const model_facts model = some_profile_model();
    text_facts text = {.n_tokens = 4096, .context = 512};
    cJSON *json = cJSON_CreateObject(), *item = NULL, *list = cJSON_CreateArray();
    char documents[RB_SHA256_HEX] = {0};
    memset(text.tokens_sha256, 'c', RB_SHA256_HEX - 1);
    memset(documents, 'd', RB_SHA256_HEX - 1);
    assert_ok(rb_json_add_string(json, "schema", EVALUATION_SCHEMA, &err));
    assert_ok(rb_json_add_number(json, "version", EVALUATION_VERSION, &err));
    assert_ok(model_facts_to_json(&item, &model, &err));
    assert_ok(rb_json_add_item(json, "model", &item, &err));
    assert_ok(text_facts_to_json(&item, &text, &err));
    assert_ok(rb_json_add_item(json, "text", &item, &err));
    assert_ok(rb_json_add_string(json, "documents_sha256", documents, &err));
    for (int i = -1; i < n; i++) {
        item = i < 0 ? run_json("none", (double)NAN, &unquantized) : run_json("block-gtq", 2.0, &runs[i]);
        assert_ok(rb_json_append(list, &item, &err));
    }
    assert_ok(rb_json_add_item(json, "runs", &list, &err));
    return json;
}

/* Writes and frees the document. */
static const char *written(cJSON *json, const char *name)
{
    const char *path = scratch_path(name);
    assert_ok(rb_json_write(json, path, &err));
    cJSON_Delete(json);
    return path;
}

static const char *base_file(void) { return written(document(&gtq, 1), "base.json"); }

static comparison compared(const run_numbers *updated, int n, double max_regression, int max_needles_lost)
{
    comparison result;
    comparison_limits limits = comparison_limits_default();
    limits.general = max_regression;
    limits.max_needles_lost = max_needles_lost;
    assert_ok(compare_files(&result, base_file(), written(document(updated, n), "new.json"), &limits, &err));
    return result;
}

static comparison_verdict verdict_of(const comparison *result, const char *metric, const char *run)
{
    for (int i = 0; i < result->n_rows; i++)
        if (strcmp(result->rows[i].metric, metric) == 0 && strcmp(result->rows[i].run, run) == 0)
            return result->rows[i].verdict;
    fail_msg("no row for %s of %s", metric, run);
    return VERDICT_SAME;
}

/* The one regression of the changed run is in this metric. */
static void assert_only(const run_numbers *updated, const char *metric, comparison_verdict verdict,
                        double max_regression, int max_needles_lost)
{
    comparison result = compared(updated, 1, max_regression, max_needles_lost);
    assert_int_equal(verdict_of(&result, metric, "gtq.json"), verdict);
    assert_int_equal(result.n_regressions, comparison_is_regression(verdict));
    comparison_free(&result);
}

static void an_evaluation_is_not_worse_than_itself(void **state)
{
    (void)state;
    comparison result = compared(&gtq, 1, 0, 0);
    assert_int_equal(result.n_regressions, 0);
    assert_int_equal(result.n_rows,
                     4 + 12); /* perplexity, needles and understanding of the unquantized run, all of the plan's */
    comparison_free(&result);
}

static void every_error_has_the_limit_in_percent(void **state)
{
    (void)state;
    run_numbers changed = gtq;
    changed.perplexity *= 1.02;
    assert_only(&changed, "perplexity", VERDICT_WORSE, 1, 0);
    assert_only(&changed, "perplexity", VERDICT_SAME, 3, 0);
    changed = gtq;
    changed.kl_mean *= 1.02;
    assert_only(&changed, "kl_mean", VERDICT_WORSE, 1, 0);
    changed.kl_mean = 0.9 * gtq.kl_mean;
    assert_only(&changed, "kl_mean", VERDICT_BETTER, 1, 0);
    changed = gtq;
    changed.kl_p999 *= 1.02;
    assert_only(&changed, "kl_p999", VERDICT_WORSE, 1, 0);
    changed = gtq;
    changed.attention_kl *= 1.02;
    assert_only(&changed, "attention_kl", VERDICT_WORSE, 1, 0);
    changed = gtq;
    changed.output_error *= 1.02;
    assert_only(&changed, "output_error", VERDICT_WORSE, 1, 0);
}

static void true_bits_may_not_grow(void **state)
{
    (void)state;
    run_numbers changed = gtq;
    changed.key_true_bits += 1e-3;
    assert_only(&changed, "key_true_bits", VERDICT_WORSE, 50, 0);
    changed = gtq;
    changed.value_true_bits += 1e-3;
    assert_only(&changed, "value_true_bits", VERDICT_WORSE, 50, 0);
}

static void shares_of_understanding_may_fall_by_the_limit(void **state)
{
    (void)state;
    run_numbers changed = gtq;
    changed.agreement = 0.8;
    assert_only(&changed, "understanding_agreement", VERDICT_WORSE, 5, 0);
    assert_only(&changed, "understanding_agreement", VERDICT_SAME, 10, 0);
    changed.agreement = 0.95;
    assert_only(&changed, "understanding_agreement", VERDICT_BETTER, 1, 0);
    changed = gtq;
    changed.accuracy = 0.4;
    assert_only(&changed, "understanding_accuracy", VERDICT_WORSE, 5, 0);
}

static void understanding_that_is_no_more_measured_is_missing(void **state)
{
    (void)state;
    run_numbers changed = gtq;
    changed.accuracy = 0;
    comparison result = compared(&changed, 1, 50, 0);
    assert_int_equal(verdict_of(&result, "understanding_agreement", "gtq.json"), VERDICT_MISSING);
    assert_int_equal(verdict_of(&result, "understanding_accuracy", "gtq.json"), VERDICT_MISSING);
    comparison_free(&result);
}

static void needles_are_counted_one_by_one(void **state)
{
    (void)state;
    run_numbers changed = gtq;
    changed.n_right = 14;
    assert_only(&changed, "needles", VERDICT_WORSE, 50, 0);
    assert_only(&changed, "needles", VERDICT_SAME, 0, 1);
    changed.n_right = 13;
    assert_only(&changed, "needles", VERDICT_WORSE, 50, 1);
    changed.n_right = 16;
    assert_only(&changed, "needles", VERDICT_BETTER, 0, 0);
    changed.n_needles = 0;
    assert_only(&changed, "needles", VERDICT_MISSING, 0, 5);
}

/* A text too short to sample a query from. */
static void what_base_did_not_measure_is_not_judged(void **state)
{
    (void)state;
    run_numbers unmeasured = gtq;
    comparison result;
    const comparison_limits limits = comparison_limits_default();
    unmeasured.attention_kl = unmeasured.output_error = (double)NAN;
    const char *base = written(document(&unmeasured, 1), "short.json");
    assert_ok(compare_files(&result, base, written(document(&unmeasured, 1), "short-too.json"), &limits, &err));
    assert_int_equal(verdict_of(&result, "attention_kl", "gtq.json"), VERDICT_UNMEASURED);
    assert_int_equal(verdict_of(&result, "output_error", "gtq.json"), VERDICT_UNMEASURED);
    assert_int_equal(result.n_regressions, 0);
    assert_int_equal(result.n_rows, 4 + 12);
    comparison_free(&result);
    assert_ok(compare_files(&result, base, base_file(), &limits, &err));
    assert_int_equal(verdict_of(&result, "attention_kl", "gtq.json"), VERDICT_UNMEASURED);
    comparison_free(&result);
    unmeasured.output_error = gtq.output_error;
    assert_only(&unmeasured, "attention_kl", VERDICT_MISSING, 1, 0);
}

static void a_run_is_found_by_method_and_bits_and_by_name_among_several(void **state)
{
    (void)state;
    run_numbers renamed = gtq, pair[2] = {gtq, gtq};
    renamed.name = "other.json";
    comparison result = compared(&renamed, 1, 0, 0);
    assert_int_equal(result.n_regressions, 0);
    comparison_free(&result);

    pair[0].name = "other.json";
    pair[0].perplexity = 100;
    result = compared(pair, 2, 0, 0);
    assert_int_equal(result.n_regressions, 0);
    comparison_free(&result);

    pair[1].name = "third.json";
    result = compared(pair, 2, 0, 0);
    assert_int_equal(verdict_of(&result, "perplexity", "gtq.json"), VERDICT_MISSING);
    comparison_free(&result);
}

/* Frees the document. */
static void assert_not_compared(cJSON *updated, rb_status status, const char *message)
{
    comparison result;
    const comparison_limits limits = comparison_limits_default();
    assert_fails(compare_files(&result, base_file(), written(updated, "new.json"), &limits, &err), status, message);
    assert_null(result.rows);
}

static cJSON *run_of(cJSON *json, int run) { return cJSON_GetArrayItem(cJSON_GetObjectItem(json, "runs"), run); }
static void set_number(cJSON *object, const char *key, double value)
{
    cJSON_ReplaceItemInObject(object, key, cJSON_CreateNumber(value));
}

static void what_does_not_belong_together_is_refused(void **state)
{
    (void)state;
    run_numbers fewer = gtq, twice[2] = {gtq, gtq};
    cJSON *json = document(&gtq, 1);
    set_number(cJSON_GetObjectItem(json, "model"), "attention_scale", 0.25);
    assert_not_compared(json, RB_EMISMATCH, "attention_scale");
    json = document(&gtq, 1);
    set_number(cJSON_GetObjectItem(json, "text"), "context", 256);
    assert_not_compared(json, RB_EMISMATCH, "evaluation context 512 and 256");
    json = document(&gtq, 1);
    cJSON_GetObjectItem(json, "documents_sha256")->valuestring[0] = 'e';
    assert_not_compared(json, RB_EMISMATCH, "needle documents dddddddddddd... and eddddddddddd...");
    fewer.n_needles = 20;
    assert_not_compared(document(&fewer, 1), RB_EMISMATCH, "run \"gtq.json\" has 24 and 20 needles");
    assert_not_compared(document(twice, 2), RB_EFORMAT, "run \"gtq.json\" (block-gtq) is there twice");
    json = document(&gtq, 1);
    cJSON_ReplaceItemInObject(json, "schema", cJSON_CreateString("ropebits-profile-summary"));
    assert_not_compared(json, RB_EMISMATCH, "schema \"ropebits-evaluation\" and \"ropebits-profile-summary\"");
}

static void members_that_are_wrong_are_named(void **state)
{
    (void)state;
    cJSON *json = document(&gtq, 1);
    set_number(run_of(json, 1), "perplexity", 0.5);
    assert_not_compared(json, RB_EINVAL, "runs[1].perplexity: is 0.5");
    json = document(&gtq, 1);
    cJSON_ReplaceItemInObject(run_of(json, 1), "kl_mean", cJSON_CreateNull());
    assert_not_compared(json, RB_EFORMAT, "kl_mean");
    json = document(&gtq, 1);
    cJSON_DeleteItemFromArray(cJSON_GetObjectItem(json, "runs"), 0);
    assert_not_compared(json, RB_EFORMAT, "runs[0]: method is \"block-gtq\", expected \"none\"");
    json = document(&gtq, 1);
    set_number(cJSON_GetObjectItem(run_of(json, 1), "needles"), "n_right", 25);
    assert_not_compared(json, RB_EINVAL, "runs[1].needles.n_right: is 25");
    json = document(&gtq, 0);
    cJSON_DeleteItemFromArray(cJSON_GetObjectItem(json, "runs"), 0);
    assert_not_compared(json, RB_EFORMAT, "0 runs");
}

static void the_reader_gives_every_number(void **state)
{
    (void)state;
    evaluation *result = NULL;
    assert_ok(evaluation_read(&result, base_file(), &err));
    assert_int_equal(result->n_runs, 2);
    assert_int_equal(result->model.n_layers, 3);
    assert_int_equal(result->text.n_tokens, 4096);
    assert_true(isnan(result->runs[0].avg_bits) && isnan(result->runs[0].kl_mean));
    const evaluation_run *run = &result->runs[1];
    assert_string_equal(run->name, "gtq.json");
    assert_string_equal(run->method, "block-gtq");
    assert_true(run->avg_bits == 2 && run->value_bits == 2 && run->key_true_bits == 2.75
                && run->value_true_bits == 2.25);
    assert_true(run->perplexity == 8 && run->kl_mean == 0.5 && run->kl_p999 == 4 && run->attention_kl == 0.25
                && run->top1_agreement == 0.75);
    assert_true(run->attention_overlap == 0.625 && run->output_error == 0.375);
    assert_int_equal(run->n_needles, 24);
    assert_int_equal(run->n_needles_right, 15);
    evaluation_free(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_evaluation_is_not_worse_than_itself),
        cmocka_unit_test(every_error_has_the_limit_in_percent),
        cmocka_unit_test(true_bits_may_not_grow),
        cmocka_unit_test(shares_of_understanding_may_fall_by_the_limit),
        cmocka_unit_test(understanding_that_is_no_more_measured_is_missing),
        cmocka_unit_test(needles_are_counted_one_by_one),
        cmocka_unit_test(what_base_did_not_measure_is_not_judged),
        cmocka_unit_test(a_run_is_found_by_method_and_bits_and_by_name_among_several),
        cmocka_unit_test(what_does_not_belong_together_is_refused),
        cmocka_unit_test(members_that_are_wrong_are_named),
        cmocka_unit_test(the_reader_gives_every_number),
    };
    return cmocka_run_group_tests_name("compare_evaluations", tests, NULL, NULL);
}
