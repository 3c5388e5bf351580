/* profile/profile_table.h: means over heads and layers, and the comparison with uniform, by hand. */
#include "tests/test_support.h"

#include "profile/profile_table.h"
#include "tests/profile/profile_test.h"

static rb_error err;

/* Two layers of two KV heads; methods uniform@2 and block-gtq@2 with these logit MAEs, and block-gtq@2.5. */
static profile_table *make_table(void)
{
    static const double uniform_mae[] = {1, 3, 4, 8}, gtq_mae[] = {1, 2, 5, 7};
    model_facts model = small_model(2, 4, 4, ROPE_SPLIT_HALF);
    model.n_layers = 2;
    model.n_q_heads = 4;
    model.n_kv_heads = 2;
    profile_table *table = NULL;
    assert_ok(profile_table_create(&table, &model, &err));
    assert_ok(profile_table_add_methods(table, 3, &err));
    strcpy(table->methods[0].method, "block-gtq");
    strcpy(table->methods[1].method, "uniform");
    strcpy(table->methods[2].method, "block-gtq");
    table->methods[0].avg_bits = table->methods[1].avg_bits = 2.0;
    table->methods[2].avg_bits = 2.5;
    for (int head = 0; head < 4; head++) {
        table->methods[0].heads[head].logit_mae = gtq_mae[head];
        table->methods[1].heads[head] = (head_score){.logit_mae = uniform_mae[head],
                                                     .causal_mae = head,
                                                     .attention_kl = 2 * head,
                                                     .relative_error = 4 * head,
                                                     .true_bits = 8 * head};
    }
    return table;
}

static void a_fresh_table_is_zero(void **state)
{
    (void)state;
    const model_facts model = small_model(1, 6, 6, ROPE_SPLIT_HALF);
    profile_table *table = NULL;
    assert_ok(profile_table_create(&table, &model, &err));
    assert_int_equal(table->n_blocks, 3);
    assert_int_equal(table->n_methods, 0);
    assert_null(table->curve_logit_mae);
    for (int block = 0; block < 3; block++)
        assert_true(table->all.q_energy[block] == 0.0 && table->all.k_energy[block] == 0.0);
    assert_ok(profile_table_add_curves(table, &err));
    for (int i = 0; i < PROFILE_MAX_WIDTH * 3; i++) assert_true(table->curve_block_mse[i] == 0.0);
    profile_table_free(table);
    profile_table_free(NULL);
}

static void more_methods_than_a_table_holds_are_refused(void **state)
{
    (void)state;
    const model_facts model = small_model(1, 4, 4, ROPE_SPLIT_HALF);
    profile_table *table = NULL;
    assert_ok(profile_table_create(&table, &model, &err));
    assert_fails(profile_table_add_methods(table, PROFILE_MAX_METHODS + 1, &err), RB_EINVAL,
                 "257 methods to score, expected at most 256");
    assert_fails(profile_table_add_methods(table, -1, &err), RB_EINVAL, "-1 methods");
    assert_ok(profile_table_add_methods(table, PROFILE_MAX_METHODS, &err));
    profile_table_free(table);
}

static void means_are_over_the_heads_of_a_layer_and_over_layers(void **state)
{
    (void)state;
    profile_table *table = make_table();
    const method_score *uniform = &table->methods[1];
    assert_true(method_mean(uniform, &table->model, 0).logit_mae == 2.0);
    assert_true(method_mean(uniform, &table->model, 1).logit_mae == 6.0);
    const head_score mean = method_mean(uniform, &table->model, -1);
    assert_true(mean.logit_mae == 4.0);
    assert_true(mean.causal_mae == 1.5 && mean.attention_kl == 3.0 && mean.relative_error == 6.0
                && mean.true_bits == 12.0);
    profile_table_free(table);
}

static void a_method_is_compared_with_uniform_at_its_budget(void **state)
{
    (void)state;
    profile_table *table = make_table();
    const method_score *uniform = profile_table_uniform(table, 2.0);
    assert_ptr_equal(uniform, &table->methods[1]);
    assert_null(profile_table_uniform(table, 2.5));
    assert_close(method_reduction(&table->methods[0], uniform, &table->model), 1.0 - 3.75 / 4.0, 1e-15);
    assert_int_equal(method_layers_won(&table->methods[0], uniform, &table->model), 1); /* 1.5 < 2; 6 is a draw */
    assert_true(method_reduction(uniform, uniform, &table->model) == 0.0);
    assert_int_equal(method_layers_won(uniform, uniform, &table->model), 0);
    profile_table_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_table_is_zero),
        cmocka_unit_test(more_methods_than_a_table_holds_are_refused),
        cmocka_unit_test(means_are_over_the_heads_of_a_layer_and_over_layers),
        cmocka_unit_test(a_method_is_compared_with_uniform_at_its_budget),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
