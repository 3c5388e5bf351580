/* What the report says, against numbers made by hand, and how large its page gets. tests/programs/report.sh looks at
 * pages of real plans. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "export/plan_report.h"
#include "export/report/report.h"
#include "profile/logit_moment.h"
#include "tests/plan/some_plan.h"

static rb_error err;

enum { N_LAYERS = 2 };

/* Methods of a summary for a model of two layers, errors of both. */
typedef struct made_method {
    const char *name;
    double avg_bits, true_bits, layers[N_LAYERS];
} made_method;

static profile_summary *make_summary(const model_facts *model, const made_method *methods, int n)
{
    profile_summary *summary = NULL;
    assert_ok(rb_alloc(&summary, 1, sizeof *summary, "summary", &err));
    assert_ok(rb_alloc(&summary->methods, (size_t)n, sizeof *summary->methods, "methods", &err));
    summary->model = *model;
    summary->test = (text_facts){.n_tokens = 1500, .context = 500};
    summary->is_covered = true;
    summary->coverage.key_distance = NAN;
    for (int m = 0; m < n; m++) {
        summary_method *to = &summary->methods[summary->n_methods++];
        snprintf(to->method, sizeof to->method, "%s", methods[m].name);
        to->avg_bits = methods[m].avg_bits;
        to->true_bits = methods[m].true_bits;
        to->logit_mae = (methods[m].layers[0] + methods[m].layers[1]) / 2;
        to->reduction_vs_uniform = NAN;
        to->layers_won_vs_uniform = -1;
        assert_ok(rb_alloc(&to->logit_mae_by_layer, N_LAYERS, sizeof(double), "errors", &err));
        memcpy(to->logit_mae_by_layer, methods[m].layers, sizeof methods[m].layers);
    }
    return summary;
}

/* A plan of one group of 3 bits of 32 dims: 3.5 true bits, 3 nominal ones. */
static bit_plan *uniform_plan(const char *method)
{
    const model_facts model = some_model(N_LAYERS, 1, 32, 32, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    for (int h = 0; h < N_LAYERS; h++) {
        plan_head_clear(&plan->heads[h]);
        assert_ok(plan_head_set_uniform(&plan->heads[h], 3, 16, 42, CODEBOOK_BLOCK_GTQ, &err));
    }
    snprintf(plan->method, sizeof plan->method, "%s", method);
    assert_true(bit_plan_cost(plan).key_true_bits == 3.5);
    return plan;
}

static char *page_of(const plan_report_inputs *inputs)
{
    const char *path = scratch_path("plan.html");
    char *text = NULL;
    size_t size;
    assert_ok(plan_report_write(inputs, path, &err));
    assert_ok(rb_read_file(&text, &size, path, 1 << 24, &err));
    return text;
}

/* ---- against other methods at the same bytes ------------------------------------------------- */

static void rivals_are_read_at_the_plans_bits(void **state)
{
    (void)state;
    /* uniform at 3 and 5 bits: a quarter of the way, errors of 16 and 1 are 8, of 81 and 1 they are 27. block-gtq has
     * no plan above. */
    static const made_method methods[] = {{"uniform", 2.5, 3.0, {16, 81}},
                                          {"uniform", 4.5, 5.0, {1, 1}},
                                          {"block-gtq", 2.5, 3.25, {2, 2}},
                                          {"optimal", 3, 3.5, {7, 3.5}}};
    bit_plan *plan = uniform_plan("optimal");
    profile_summary *summary = make_summary(&plan->model, methods, 4);
    report r = {.plan = plan, .stem = "plan", .summary = summary};
    assert_ok(report_prepare(&r, &err));
    assert_int_equal(r.errors.source, ERRORS_MEASURED);
    assert_true(r.errors.logit_mae == 5.25);
    const rival_method *uniform = report_rival(&r, RIVAL_UNIFORM);
    assert_non_null(uniform);
    assert_true(fabs(uniform->logit_mae_by_layer[0] - 8.0) < 1e-12);
    assert_true(fabs(uniform->logit_mae_by_layer[1] - 27.0) < 1e-12);
    assert_true(fabs(uniform->logit_mae - 17.5) < 1e-12);
    assert_null(report_rival(&r, RIVAL_BLOCK_GTQ));
    report_clear(&r);

    char *text = page_of(&(plan_report_inputs){.plan = plan, .stem = "plan", .summary = summary});
    assert_non_null(strstr(text, "<b>70\xc2\xa0% less</b> logit error than uniform at the same bytes"));
    assert_non_null(strstr(text, "plans of 3.000 and 5.000 bits next to it"));
    assert_non_null(strstr(text, "below uniform in 2 of 2 layers"));
    assert_non_null(strstr(text, "layer 1: this plan 3.50, uniform 27.0"));
    free(text);
    profile_summary_free(summary);
    bit_plan_free(plan);
}

static void more_error_than_uniform_is_said_and_warned_of(void **state)
{
    (void)state;
    static const made_method methods[] = {{"uniform", 3, 3.5, {2, 2}}, {"block-gtq", 3, 3.5, {3, 2}}};
    bit_plan *plan = uniform_plan("block-gtq");
    profile_summary *summary = make_summary(&plan->model, methods, 2);
    char *text = page_of(&(plan_report_inputs){.plan = plan, .stem = "plan", .summary = summary});
    assert_non_null(strstr(text, "<b>25\xc2\xa0% more</b> logit error than uniform at the same bytes"));
    assert_non_null(strstr(text, "uniform has the smaller logit error"));
    assert_non_null(strstr(text, "below uniform in 0 of 2 layers"));
    free(text);
    profile_summary_free(summary);
    bit_plan_free(plan);
}

/* A method does not compete with itself, and a summary without the plan says nothing of it. */
static void what_is_not_known_is_not_compared(void **state)
{
    (void)state;
    static const made_method methods[] = {{"uniform", 3, 3.5, {2, 2}}};
    bit_plan *plan = uniform_plan("uniform");
    profile_summary *summary = make_summary(&plan->model, methods, 1);
    report r = {.plan = plan, .stem = "plan", .summary = summary};
    assert_ok(report_prepare(&r, &err));
    assert_null(report_rival(&r, RIVAL_UNIFORM));
    report_clear(&r);
    strcpy(plan->method, "optimal");
    assert_ok(report_prepare(&r, &err));
    assert_int_equal(r.errors.source, ERRORS_UNKNOWN);
    report_clear(&r);
    profile_summary_free(summary);
    bit_plan_free(plan);
}

/* ---- the page -------------------------------------------------------------------------------- */

static void a_plan_by_itself_says_what_is_left_out(void **state)
{
    (void)state;
    bit_plan *plan = uniform_plan("uniform");
    char *text = page_of(&(plan_report_inputs){.plan = plan, .stem = "a&b<i>\"c\""});
    assert_non_null(strstr(text, "<b>3.5 bits</b> a key dim"));
    assert_non_null(strstr(text, "<b>3.500</b><span>true bits a dim; 3.000 nominal</span>"));
    assert_non_null(strstr(text, "neither a profile nor a summary"));
    assert_non_null(strstr(text, "no evaluation was given"));
    assert_non_null(strstr(text, "no profile was given"));
    assert_non_null(strstr(text, "ropebits inspect a&amp;b&lt;i&gt;&quot;c&quot;.rbp"));
    assert_null(strstr(text, "a&b"));
    free(text);
    bit_plan_free(plan);
}

static void others_models_are_refused(void **state)
{
    (void)state;
    static const made_method methods[] = {{"uniform", 3, 3.5, {2, 2}}};
    bit_plan *plan = uniform_plan("uniform");
    model_facts other = plan->model;
    other.n_q_heads = 8;
    profile_summary *summary = make_summary(&other, methods, 1);
    const char *path = scratch_path("refused.html");
    assert_fails(plan_report_write(&(plan_report_inputs){.plan = plan, .stem = "plan", .summary = summary}, path, &err),
                 RB_EMISMATCH, "the plan and the summary");
    assert_int_equal(access(path, F_OK), -1);
    profile_summary_free(summary);
    bit_plan_free(plan);
}

/* ---- size ------------------------------------------------------------------------------------ */

/* Energies over three decades, independent blocks. */
static profile_table *large_profile(const model_facts *model)
{
    profile_table *table = NULL;
    uint32_t random = 1;
    assert_ok(profile_table_create(&table, model, &err));
    const int n = table->n_blocks, n_heads = model->n_layers * model->n_kv_heads;
    for (int i = 0; i < n_heads * n; i++) {
        random = random * 1664525u + 1013904223u;
        table->all.q_energy[i] = table->all.k_energy[i] = exp(7.0 * (random >> 8) / 16777216.0);
        for (int moments = 0; moments < 2; moments++) {
            float *moment = moments ? table->all.logit_moment_centered : table->all.logit_moment;
            const int block = i % n;
            moment[(int64_t)(i / n) * logit_moment_size(n) + (int64_t)block * (block + 1) / 2 + block] =
                (float)(table->all.q_energy[i] * table->all.k_energy[i] / 2.0);
        }
    }
    return table;
}

/* 80 layers of 8 heads of 64 blocks, bits and energies without order: no two cells side by side are alike. */
static void a_large_plan_has_a_page_of_a_few_megabytes(void **state)
{
    (void)state;
    const model_facts model = some_model(80, 8, 128, 128, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    profile_table *profile = large_profile(&model);
    char *text = page_of(&(plan_report_inputs){.plan = plan, .stem = "plan", .profile = profile});
    assert_in_range(strlen(text), 100000, 3000000);
    assert_non_null(strstr(text, "<title id=\"t19\">Bits of keys of KV head 7</title>"));
    assert_non_null(strstr(text, "layer 79, KV head 7: "));
    free(text);
    profile_table_free(profile);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rivals_are_read_at_the_plans_bits),
        cmocka_unit_test(more_error_than_uniform_is_said_and_warned_of),
        cmocka_unit_test(what_is_not_known_is_not_compared),
        cmocka_unit_test(a_plan_by_itself_says_what_is_left_out),
        cmocka_unit_test(others_models_are_refused),
        cmocka_unit_test(a_large_plan_has_a_page_of_a_few_megabytes),
    };
    return cmocka_run_group_tests_name("plan_report", tests, NULL, NULL);
}
