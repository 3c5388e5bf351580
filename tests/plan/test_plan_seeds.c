/* Seeds of a plan: which there are, and a plan drawn anew. */
#include "tests/test_support.h"

#include "core/json.h"
#include "plan/plan_seeds.h"
#include "tests/profile/some_profile.h"

static rb_error err;

/* 3 layers, 2 KV heads of 4 blocks: widths 2 and 3 in every head but the last, which has one group of 4. */
static bit_plan *some_plan(void)
{
    const model_facts model = some_profile_model();
    const uint8_t bits[] = {2, 3, 3, 2}, all[] = {4, 4, 4, 4};
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    for (int h = 0; h < 6; h++)
        assert_ok(plan_head_set_block_widths(&plan->heads[h], h < 5 ? bits : all, 4, CODEBOOK_BLOCK_GTQ, &err));
    return plan;
}

static void every_seed_of_a_width_is_there_once(void **state)
{
    (void)state;
    bit_plan *plan = some_plan();
    plan->heads[2].groups.at[1].rotation.seed = 7;
    const plan_seeds seeds = plan_seeds_of(plan);
    static const plan_seed wanted[] = {{2, WIDTH_SEED + 2}, {3, 7}, {3, WIDTH_SEED + 3}, {4, WIDTH_SEED + 4}};
    assert_int_equal(seeds.n, RB_COUNT(wanted));
    for (int i = 0; i < seeds.n; i++) {
        assert_int_equal(seeds.at[i].width, wanted[i].width);
        assert_int_equal(seeds.at[i].seed, wanted[i].seed);
    }
    bit_plan_free(plan);
}

static void the_smallest_are_kept_where_there_are_too_many(void **state)
{
    (void)state;
    const model_facts model = {.n_layers = 50, .n_kv_heads = 2, .n_q_heads = 2, .head_dim = 8, .value_dim = 8};
    const uint8_t bits[] = {2, 2, 2, 2};
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    for (int h = 0; h < 100; h++) {
        assert_ok(plan_head_set_block_widths(&plan->heads[h], bits, 4, CODEBOOK_BLOCK_GTQ, &err));
        plan->heads[h].groups.at[0].rotation.seed = (uint64_t)(h * 37 % 100); /* 0 ... 99, each once */
    }
    const plan_seeds seeds = plan_seeds_of(plan);
    assert_int_equal(seeds.n, PLAN_MAX_SEEDS);
    for (int i = 0; i < seeds.n; i++) assert_int_equal(seeds.at[i].seed, i);
    bit_plan_free(plan);
}

static void a_plan_drawn_anew_has_other_seeds_and_nothing_else(void **state)
{
    (void)state;
    bit_plan *plan = some_plan(), *drawn = NULL;
    assert_ok(plan_draw_anew(&drawn, plan, 1000, &err));
    for (int h = 0; h < 6; h++) {
        const plan_groups *was = &plan->heads[h].groups, *is = &drawn->heads[h].groups;
        assert_int_equal(is->n, was->n);
        for (int g = 0; g < is->n; g++) {
            assert_int_equal(is->at[g].rotation.seed, was->at[g].rotation.seed + 1000);
            is->at[g].rotation.seed -= 1000;
        }
        assert_true(plan_head_equal(&plan->heads[h], &drawn->heads[h], &plan->model));
    }
    bit_plan_free(plan);
    bit_plan_free(drawn);
}

static void they_are_pairs_in_json(void **state)
{
    (void)state;
    const plan_seeds seeds = {.n = 2, .at = {{2, 44}, {3, 45}}};
    cJSON *json = cJSON_CreateObject();
    assert_ok(plan_seeds_add(json, &seeds, &err));
    char *text = cJSON_PrintUnformatted(json);
    assert_string_equal(text, "{\"rotation_seeds\":[[2,44],[3,45]]}");
    free(text);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_seed_of_a_width_is_there_once),
        cmocka_unit_test(the_smallest_are_kept_where_there_are_too_many),
        cmocka_unit_test(a_plan_drawn_anew_has_other_seeds_and_nothing_else),
        cmocka_unit_test(they_are_pairs_in_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
