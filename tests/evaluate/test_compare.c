/* evaluate/compare.h: every verdict, by numbers that are easy to check, and what is not compared at all. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "evaluate/compare.h"
#include "profile/profile_summary.h"
#include "tests/profile/some_profile.h"

/* Twelve means, true bits, the count of heads, every layer. */
enum { N_LAYERS = 3, ROWS_PER_METHOD = 13 + N_LAYERS };

static rb_error err;

static const double uniform_mae[] = {1, 3, 4, 4, 10, 6}; /* layers 2, 4, 8; mean 14 / 3 */
static const double gtq_mae[] = {1, 1, 2, 2, 6, 3};      /* layers 1, 2, 4.5; mean 2.5 */

static profile_table *base_table(void)
{
    profile_table *table = some_profile(2);
    set_scores(table, 0, "uniform", 2, 4, uniform_mae);
    set_scores(table, 1, "block-gtq", 2, 6, gtq_mae);
    return table;
}

static void scale_layer(profile_table *table, int m, int layer, double factor)
{
    for (int kv_head = 0; kv_head < 2; kv_head++)
        method_head(&table->methods[m], &table->model, layer, kv_head)->logit_mae *= factor;
}

static void scale_all(profile_table *table, int m, double factor)
{
    for (int layer = 0; layer < N_LAYERS; layer++) scale_layer(table, m, layer, factor);
}

/* Writes the table's summary and frees the table. */
static const char *written(profile_table *table, const char *name)
{
    const char *path = scratch_path(name);
    cJSON *json = NULL;
    assert_ok(profile_summary_to_json(&json, table, &err));
    assert_ok(rb_json_write(json, path, &err));
    cJSON_Delete(json);
    profile_table_free(table);
    return path;
}

static rb_status compare_within(comparison *result, const char *base_path, const char *new_path, double max_regression)
{
    comparison_limits limits = comparison_limits_default();
    limits.general = max_regression;
    return compare_files(result, base_path, new_path, &limits, &err);
}

/* Frees both tables. Freed with comparison_free. */
static comparison compared(profile_table *base, profile_table *updated, double max_regression)
{
    comparison result;
    const char *base_path = written(base, "base.json"), *new_path = written(updated, "new.json");
    assert_ok(compare_within(&result, base_path, new_path, max_regression));
    return result;
}

static comparison_verdict verdict_of(const comparison *result, const char *metric, const char *method, int layer)
{
    for (int i = 0; i < result->n_rows; i++) {
        const comparison_row *row = &result->rows[i];
        if (strcmp(row->metric, metric) == 0 && strcmp(row->method, method) == 0 && row->layer == layer)
            return row->verdict;
    }
    fail_msg("no row for %s of %s, layer %d", metric, method, layer);
    return VERDICT_SAME;
}

/* ---- verdicts -------------------------------------------------------------------------------- */

static void a_summary_is_not_worse_than_itself(void **state)
{
    (void)state;
    comparison result = compared(base_table(), base_table(), 0);
    assert_int_equal(result.n_regressions, 0);
    assert_int_equal(result.n_rows, 2 * ROWS_PER_METHOD);
    for (int i = 0; i < result.n_rows; i++) {
        assert_int_equal(result.rows[i].verdict, VERDICT_SAME);
        assert_true(result.rows[i].base == result.rows[i].updated);
    }
    comparison_free(&result);
}

static void rows_name_what_they_compare(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    scale_layer(updated, 1, 2, 2.0);
    comparison result = compared(base_table(), updated, 1);
    const comparison_row *row = &result.rows[2 * ROWS_PER_METHOD - 1];
    assert_string_equal(row->metric, "logit_mae");
    assert_string_equal(row->method, "block-gtq");
    assert_true(row->avg_bits == 2);
    assert_int_equal(row->layer, 2);
    assert_true(row->base == 4.5);
    assert_true(row->updated == 9);
    comparison_free(&result);
}

/* What a wrong sign in the allocation does: bits go to the blocks that need them least, and errors grow everywhere. */
static void errors_that_grow_everywhere_are_regressions_everywhere(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    scale_all(updated, 1, 3.0);
    comparison result = compared(base_table(), updated, 1);
    assert_int_equal(result.n_regressions, 1 + N_LAYERS);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", -1), VERDICT_WORSE);
    for (int layer = 0; layer < N_LAYERS; layer++)
        assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", layer), VERDICT_WORSE);
    assert_int_equal(verdict_of(&result, "true_bits", "block-gtq", -1), VERDICT_SAME);
    assert_int_equal(verdict_of(&result, "logit_mae", "uniform", -1), VERDICT_SAME);
    comparison_free(&result);
}

static void assert_all_errors(double factor, double max_regression, comparison_verdict verdict)
{
    profile_table *updated = base_table();
    scale_all(updated, 1, factor);
    comparison result = compared(base_table(), updated, max_regression);
    for (int layer = -1; layer < N_LAYERS; layer++)
        assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", layer), verdict);
    comparison_free(&result);
}

static void the_limit_is_in_percent_of_the_base(void **state)
{
    (void)state;
    assert_all_errors(1.009, 1, VERDICT_SAME);
    assert_all_errors(1.011, 1, VERDICT_WORSE);
    assert_all_errors(1.011, 1.2, VERDICT_SAME);
    assert_all_errors(0.991, 1, VERDICT_SAME);
    assert_all_errors(0.989, 1, VERDICT_BETTER);
    assert_all_errors(1.0 + 1e-9, 0, VERDICT_WORSE);
    assert_all_errors(1.0, 0, VERDICT_SAME);
}

static void one_layer_worse_is_a_regression_though_the_mean_got_better(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    scale_layer(updated, 1, 0, 1.05);
    scale_layer(updated, 1, 2, 0.5);
    comparison result = compared(base_table(), updated, 1);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", -1), VERDICT_BETTER);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", 0), VERDICT_WORSE);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", 1), VERDICT_SAME);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", 2), VERDICT_BETTER);
    assert_int_equal(result.n_regressions, 1);
    comparison_free(&result);
}

static void uniform_getting_worse_is_a_regression_too(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    scale_layer(updated, 0, 1, 1.02);
    comparison result = compared(base_table(), updated, 1);
    assert_int_equal(verdict_of(&result, "logit_mae", "uniform", 1), VERDICT_WORSE);
    assert_int_equal(result.n_regressions, 1);
    comparison_free(&result);
}

/* Layer 1 goes from 0.4 % below uniform to 0.4 % above it, or level with it: less than the limit of 1 %, and lost all
 * the same. */
static void a_layer_lost_to_uniform_is_a_regression_within_the_limit_too(void **state)
{
    (void)state;
    static const double now[] = {2.0 * 1.004, 2.0};
    for (size_t i = 0; i < RB_COUNT(now); i++) {
        profile_table *base = base_table(), *updated = base_table();
        scale_layer(base, 1, 1, 2.0 * 0.996);
        scale_layer(updated, 1, 1, now[i]);
        comparison result = compared(base, updated, 1);
        assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", 1), VERDICT_LOST);
        assert_int_equal(result.n_regressions, 1);
        comparison_free(&result);
    }
}

static void a_layer_is_lost_when_uniform_overtakes_it(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    scale_layer(updated, 0, 2, 0.5); /* 4 < 4.5 */
    comparison result = compared(base_table(), updated, 1);
    assert_int_equal(verdict_of(&result, "logit_mae", "uniform", 2), VERDICT_BETTER);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", 2), VERDICT_LOST);
    assert_int_equal(result.n_regressions, 1);
    comparison_free(&result);
}

static void a_layer_that_never_beat_uniform_is_not_lost(void **state)
{
    (void)state;
    profile_table *base = base_table(), *updated = base_table();
    scale_layer(base, 1, 0, 3.0);
    scale_layer(updated, 1, 0, 3.0);
    comparison result = compared(base, updated, 1);
    assert_int_equal(result.n_regressions, 0);
    comparison_free(&result);
}

static void true_bits_may_not_grow_at_all(void **state)
{
    (void)state;
    static const struct {
        double change;
        comparison_verdict verdict;
    } cases[] = {{1e-6, VERDICT_WORSE}, {1e-12, VERDICT_SAME}, {-1e-6, VERDICT_BETTER}};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        profile_table *updated = base_table();
        for (int h = 0; h < 6; h++) updated->methods[1].heads[h].true_bits += cases[i].change;
        comparison result = compared(base_table(), updated, 100);
        assert_int_equal(verdict_of(&result, "true_bits", "block-gtq", -1), cases[i].verdict);
        assert_int_equal(result.n_regressions, cases[i].verdict == VERDICT_WORSE);
        comparison_free(&result);
    }
}

static void a_missing_method_or_budget_is_a_regression(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    updated->methods[1].avg_bits = 2.5;
    comparison result = compared(base_table(), updated, 1);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", -1), VERDICT_MISSING);
    assert_int_equal(result.n_rows, ROWS_PER_METHOD + 1);
    assert_true(isnan(result.rows[ROWS_PER_METHOD].updated));
    assert_int_equal(result.n_regressions, 1);
    comparison_free(&result);
}

/* Without a uniform in NEW nobody can say that a layer was lost to it. */
static void a_missing_uniform_is_one_regression(void **state)
{
    (void)state;
    profile_table *updated = some_profile(1);
    set_scores(updated, 0, "block-gtq", 2, 6, gtq_mae);
    comparison result = compared(base_table(), updated, 1);
    assert_int_equal(verdict_of(&result, "logit_mae", "uniform", -1), VERDICT_MISSING);
    assert_int_equal(result.n_regressions, 1);
    comparison_free(&result);
}

static void methods_that_only_new_has_are_not_judged(void **state)
{
    (void)state;
    profile_table *base = some_profile(1);
    set_scores(base, 0, "uniform", 2, 4, uniform_mae);
    comparison result = compared(base, base_table(), 1);
    assert_int_equal(result.n_rows, ROWS_PER_METHOD);
    assert_int_equal(result.n_regressions, 0);
    comparison_free(&result);
}

static void an_error_of_zero_may_not_grow(void **state)
{
    (void)state;
    profile_table *base = base_table(), *same = base_table();
    scale_layer(base, 1, 0, 0.0);
    scale_layer(same, 1, 0, 0.0);
    comparison result = compared(base, same, 1);
    assert_int_equal(result.n_regressions, 0);
    comparison_free(&result);
    base = base_table();
    scale_layer(base, 1, 0, 0.0);
    result = compared(base, base_table(), 50);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", 0), VERDICT_WORSE);
    comparison_free(&result);
}

/* Seeds of one width, 3 bits, for a method. */
static void set_seed(profile_table *table, int m, uint64_t seed)
{
    table->methods[m].seeds = (plan_seeds){.n = 1, .at = {{3, seed}}};
}

/* A spread over n seeds, of the logit MAE only: the same for every layer. */
static void set_spread(profile_table *table, int m, int n, double deviation)
{
    seed_spread *spread = &table->methods[m].spread;
    *spread = (seed_spread){.n = n, .mean = method_mean(&table->methods[m], &table->model, -1)};
    spread->deviation.logit_mae = deviation;
    assert_ok(rb_alloc(&spread->layer_mean, N_LAYERS, sizeof(double), "spread", &err));
    assert_ok(rb_alloc(&spread->layer_deviation, N_LAYERS, sizeof(double), "spread", &err));
    for (int layer = 0; layer < N_LAYERS; layer++) {
        spread->layer_mean[layer] = method_mean(&table->methods[m], &table->model, layer).logit_mae;
        spread->layer_deviation[layer] = deviation;
    }
}

/* Method 1 of NEW has a logit MAE 10 % larger. */
static comparison_verdict verdict_of_a_tenth_more(uint64_t base_seed, uint64_t new_seed, int n_seeds, double deviation)
{
    profile_table *base = base_table(), *updated = base_table();
    set_seed(base, 1, base_seed);
    set_seed(updated, 1, new_seed);
    if (n_seeds > 0) set_spread(base, 1, n_seeds, deviation);
    scale_all(updated, 1, 1.1);
    comparison result = compared(base, updated, 1);
    const comparison_verdict verdict = verdict_of(&result, "logit_mae", "block-gtq", -1);
    assert_int_equal(result.n_notes, base_seed != new_seed);
    comparison_free(&result);
    return verdict;
}

/* The mean is 2.5, a tenth of it 0.25. The typical deviation is 3.5 %, 5 of which, of two draws, are 0.62. Half of it,
 * which a measured one is at least, makes 0.23 for 8 seeds against one; the limit of 1 % brings that to 0.257. */
static void other_seeds_are_allowed_their_luck_and_the_same_are_not(void **state)
{
    (void)state;
    assert_int_equal(verdict_of_a_tenth_more(45, 45, 0, 0), VERDICT_WORSE);
    assert_int_equal(verdict_of_a_tenth_more(45, 45, 8, 1), VERDICT_WORSE);
    assert_int_equal(verdict_of_a_tenth_more(45, 46, 0, 0), VERDICT_SAME);
    assert_int_equal(verdict_of_a_tenth_more(45, 46, 8, 1), VERDICT_SAME);
    assert_int_equal(verdict_of_a_tenth_more(45, 46, 8, 0), VERDICT_SAME);
    assert_int_equal(verdict_of_a_tenth_more(45, 46, 64, 0), VERDICT_WORSE);
}

/* Two means over seeds are steadier than two draws. */
static void means_over_seeds_are_compared_where_both_have_them(void **state)
{
    (void)state;
    profile_table *base = base_table(), *updated = base_table();
    set_seed(base, 1, 45);
    set_seed(updated, 1, 46);
    scale_all(updated, 1, 1.1);
    set_spread(base, 1, 32, 0);
    set_spread(updated, 1, 32, 0);
    updated->methods[1].spread.mean.logit_mae = 2.75;
    comparison result = compared(base, updated, 1);
    assert_int_equal(verdict_of(&result, "logit_mae", "block-gtq", -1), VERDICT_WORSE);
    comparison_free(&result);
}

static void a_layer_lost_to_uniform_by_other_seeds_is_luck(void **state)
{
    (void)state;
    profile_table *base = base_table(), *updated = base_table();
    scale_layer(base, 1, 1, 2.0 * 0.996);
    scale_layer(updated, 1, 1, 2.0 * 1.004);
    set_seed(base, 1, 45);
    set_seed(updated, 1, 46);
    comparison result = compared(base, updated, 1);
    assert_int_equal(result.n_regressions, 0);
    comparison_free(&result);
}

/* A width more is another allocation, not another draw. */
static void seeds_differ_only_where_a_width_that_both_have_has_others(void **state)
{
    (void)state;
    profile_table *base = base_table(), *updated = base_table();
    set_seed(base, 1, 45);
    updated->methods[1].seeds = (plan_seeds){.n = 2, .at = {{2, 44}, {3, 45}}};
    comparison result = compared(base, updated, 1);
    assert_int_equal(result.n_notes, 0);
    assert_false(result.rows[0].is_redrawn);
    comparison_free(&result);
}

static void weights_that_differ_are_refused_and_unknown_ones_noted(void **state)
{
    (void)state;
    profile_table *base = base_table(), *updated = base_table();
    base->model.weights_sha256[0] = '\0';
    comparison result = compared(base, updated, 1);
    assert_int_equal(result.n_notes, 1);
    assert_non_null(strstr(result.notes[0], "BASE does not say which weights it is of"));
    comparison_free(&result);
}

static void verdicts_have_names(void **state)
{
    (void)state;
    static const char *const names[] = {"same", "better", "unmeasured", "worse", "lost_to_uniform", "missing"};
    for (int v = VERDICT_SAME; v <= VERDICT_MISSING; v++) {
        assert_string_equal(comparison_verdict_name((comparison_verdict)v), names[v]);
        assert_int_equal(comparison_is_regression((comparison_verdict)v), v >= 3);
    }
}

/* ---- what is not compared -------------------------------------------------------------------- */

/* Frees the table. */
static void assert_not_compared(profile_table *updated, rb_status status, const char *message)
{
    comparison result;
    const char *base_path = written(base_table(), "base.json"), *new_path = written(updated, "new.json");
    assert_fails(compare_within(&result, base_path, new_path, 1), status, message);
    assert_null(result.rows);
}

static void another_model_is_refused_with_both_values(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    updated->model.attention_scale = 0.25;
    assert_not_compared(updated, RB_EMISMATCH, "new.json: attention_scale 0.33333333333333331 and 0.25");
    updated = base_table();
    updated->model.config_sha256[0] = '0';
    assert_not_compared(updated, RB_EMISMATCH, "config_sha256 aaaa");
    updated = base_table();
    updated->model.weights_sha256[63] = '0';
    assert_not_compared(updated, RB_EMISMATCH, "weights_sha256 bbbb");
}

static void another_text_is_refused_with_both_values(void **state)
{
    (void)state;
    profile_table *updated = base_table();
    updated->calibration.tokens_sha256[0] = '0';
    assert_not_compared(updated, RB_EMISMATCH, "calibration tokens cccccccccccc... and 0ccccccccccc...");
    updated = base_table();
    updated->test.tokens_sha256[1] = '1';
    assert_not_compared(updated, RB_EMISMATCH, "test tokens dddddddddddd... and d1dddddddddd...");
    updated = base_table();
    updated->test.n_tokens = 1499;
    assert_not_compared(updated, RB_EMISMATCH, "test n_tokens 1500 and 1499");
    updated = base_table();
    updated->test.context = 250;
    assert_not_compared(updated, RB_EMISMATCH, "test context 500 and 250");
    updated = base_table();
    updated->calibration.context = 2048;
    assert_not_compared(updated, RB_EMISMATCH, "calibration context 1024 and 2048");
}

static void a_method_listed_twice_is_refused(void **state)
{
    (void)state;
    profile_table *updated = some_profile(2);
    set_scores(updated, 0, "block-gtq", 2, 6, gtq_mae);
    set_scores(updated, 1, "block-gtq", 2, 6, uniform_mae);
    assert_not_compared(updated, RB_EFORMAT, "new.json: block-gtq at 2 bits is there twice");
}

static void put_text(const char *path, const char *text) { assert_ok(rb_atomic_write(path, text, strlen(text), &err)); }

static void documents_that_are_no_summaries_are_refused(void **state)
{
    (void)state;
    comparison result;
    const char *base = written(base_table(), "base.json"), *other = scratch_path("other.json"),
               *absent = scratch_path("absent.json");
    put_text(other, "{\"schema\": \"ropebits-plan\", \"version\": 1}");
    assert_fails(compare_within(&result, base, other, 1), RB_EMISMATCH,
                 "other.json: schema \"ropebits-profile-summary\" and \"ropebits-plan\"");
    assert_fails(
        compare_within(&result, other, other, 1), RB_EFORMAT,
        "other.json: schema is \"ropebits-plan\", expected \"ropebits-profile-summary\" or \"ropebits-evaluation\"");
    put_text(other, "{\"version\": 1}");
    assert_fails(compare_within(&result, base, other, 1), RB_EFORMAT, "other.json: schema: is missing");
    put_text(other, "{\"schema\": \"ropebits-profile-summary\", \"version\": 9}");
    assert_fails(compare_within(&result, base, other, 1), RB_EUNSUPPORTED, "version is 9, expected 1");
    put_text(other, "[1, 2");
    assert_fails(compare_within(&result, other, base, 1), RB_EFORMAT, "other.json: line 1");
    assert_fails(compare_within(&result, base, absent, 1), RB_EIO, "absent.json");
    assert_null(result.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_summary_is_not_worse_than_itself),
        cmocka_unit_test(rows_name_what_they_compare),
        cmocka_unit_test(errors_that_grow_everywhere_are_regressions_everywhere),
        cmocka_unit_test(the_limit_is_in_percent_of_the_base),
        cmocka_unit_test(one_layer_worse_is_a_regression_though_the_mean_got_better),
        cmocka_unit_test(uniform_getting_worse_is_a_regression_too),
        cmocka_unit_test(a_layer_lost_to_uniform_is_a_regression_within_the_limit_too),
        cmocka_unit_test(a_layer_is_lost_when_uniform_overtakes_it),
        cmocka_unit_test(a_layer_that_never_beat_uniform_is_not_lost),
        cmocka_unit_test(true_bits_may_not_grow_at_all),
        cmocka_unit_test(a_missing_method_or_budget_is_a_regression),
        cmocka_unit_test(a_missing_uniform_is_one_regression),
        cmocka_unit_test(methods_that_only_new_has_are_not_judged),
        cmocka_unit_test(an_error_of_zero_may_not_grow),
        cmocka_unit_test(other_seeds_are_allowed_their_luck_and_the_same_are_not),
        cmocka_unit_test(means_over_seeds_are_compared_where_both_have_them),
        cmocka_unit_test(a_layer_lost_to_uniform_by_other_seeds_is_luck),
        cmocka_unit_test(seeds_differ_only_where_a_width_that_both_have_has_others),
        cmocka_unit_test(weights_that_differ_are_refused_and_unknown_ones_noted),
        cmocka_unit_test(verdicts_have_names),
        cmocka_unit_test(another_model_is_refused_with_both_values),
        cmocka_unit_test(another_text_is_refused_with_both_values),
        cmocka_unit_test(a_method_listed_twice_is_refused),
        cmocka_unit_test(documents_that_are_no_summaries_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
