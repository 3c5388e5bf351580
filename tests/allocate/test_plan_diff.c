/* How plans differ when heads have families: what is counted, and in which bits. */
#include "tests/test_support.h"

#include "allocate/plan_diff.h"
#include "tests/plan/plan_json_damage.h"
#include "tests/plan/some_plan.h"

enum { N_BLOCKS = 8 };

static rb_error err;

static void a_family_is_a_difference_counted_in_bits_of_blocks(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 2 * N_BLOCKS, 2 * N_BLOCKS, ROPE_SPLIT_HALF);
    bit_plan *groups = some_general_plan(&model), *mixed = some_plan_of_block_codebook(&model);
    plan_diff diff;
    assert_ok(plan_diff_find(&diff, groups, "a", mixed, "b", &err));
    assert_true(diff.by_block);
    assert_int_equal(diff.heads_differing, 2);
    assert_int_equal(diff.families_differing, 2);
    assert_int_equal(diff.coding[0].family[FAMILY_GROUPS], 4);
    assert_int_equal(diff.coding[1].family[FAMILY_GROUPS], 2);
    assert_int_equal(diff.coding[1].family[FAMILY_BLOCK_CODEBOOK], 2);
    /* Heads of block-codebook have no norm and no encoder to differ in. */
    assert_int_equal(diff.norms_differing + diff.encoders_differing + diff.scales_differing + diff.maps_differing, 0);
    assert_int_equal(diff.coding[1].norm[NORM_FP16] + diff.coding[1].norm[NORM_LOG8], 2);
    assert_int_equal(diff.coding[1].encoder[ENCODER_NEAREST] + diff.coding[1].encoder[ENCODER_SEARCH], 2);
    /* The widths 2, 3, 0, 2, 3, 0, 2, 3 of head 0 are 4, 6, 0, 4, 6, 0, 4, 6 bits of blocks, against 0, 3, 6, 9, 1, 4,
     * 7, 10. */
    assert_int_equal(diff.heads[0].blocks_changed, 8);
    assert_int_equal(diff.heads[0].width_moved, 4 + 3 + 6 + 5 + 5 + 4 + 3 + 4);
    assert_int_equal(diff.heads[2].blocks_changed, 0);
    plan_diff_free(&diff);
    bit_plan_free(groups);
    bit_plan_free(mixed);
}

static void plans_of_groups_are_compared_by_their_widths(void **state)
{
    (void)state;
    static const uint8_t bits[2][N_BLOCKS] = {{2, 2, 3, 3, 4, 4, 5, 5}, {2, 2, 3, 3, 4, 4, 5, 8}};
    const model_facts model = some_model(2, 2, 2 * N_BLOCKS, 2 * N_BLOCKS, ROPE_SPLIT_HALF);
    bit_plan *plans[2] = {some_plan(&model, CODEBOOK_BLOCK_GTQ), some_plan(&model, CODEBOOK_BLOCK_GTQ)};
    plan_diff diff;
    for (int p = 0; p < 2; p++)
        assert_ok(plan_head_set_block_widths(&plans[p]->heads[3], bits[p], N_BLOCKS, CODEBOOK_BLOCK_GTQ, &err));
    assert_ok(plan_diff_find(&diff, plans[0], "a", plans[1], "b", &err));
    assert_false(diff.by_block);
    assert_int_equal(diff.heads_differing, 1);
    assert_int_equal(diff.heads[3].width_moved, 3);
    plan_diff_free(&diff);
    for (int p = 0; p < 2; p++) bit_plan_free(plans[p]);
}

static void maps_weights_and_gains_are_told_apart_from_bits(void **state)
{
    (void)state;
    const model_facts model = some_model(3, 2, 2 * N_BLOCKS, 2 * N_BLOCKS, ROPE_SPLIT_HALF);
    bit_plan *a = some_plan_of_block_codebook(&model), *b = some_plan_of_block_codebook(&model);
    plan_diff diff;
    cJSON *json = NULL;
    assert_ok(plan_diff_find(&diff, a, "a", b, "b", &err));
    assert_int_equal(diff.heads_differing + diff.maps_differing + diff.families_differing, 0);
    plan_diff_free(&diff);
    b->heads[0].block_codebook.maps[5] = 7.0f;
    b->heads[1].block_codebook.weights[5] = 7.0f;
    b->heads[4].block_codebook.gain_bits = 1;
    b->heads[4].block_codebook.bits[0] ^= 1;
    assert_ok(plan_diff_find(&diff, a, "a", b, "b", &err));
    assert_int_equal(diff.heads_differing, 3);
    assert_int_equal(diff.maps_differing, 3);
    assert_int_equal(diff.families_differing, 0);
    assert_int_equal(diff.heads[4].blocks_changed, 1);
    assert_int_equal(diff.heads[4].width_moved, 1);
    assert_ok(plan_diff_to_json(&json, &diff, &err));
    assert_true(number_at(json, "maps_differing") == 3);
    assert_true(number_at(json, "families_differing") == 0);
    assert_true(number_at(json, "b.heads_by_family.block-codebook") == 4);
    assert_string_equal(find(json, "bits_of")->valuestring, "block");
    cJSON_Delete(json);
    plan_diff_free(&diff);
    bit_plan_free(a);
    bit_plan_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_family_is_a_difference_counted_in_bits_of_blocks),
        cmocka_unit_test(plans_of_groups_are_compared_by_their_widths),
        cmocka_unit_test(maps_weights_and_gains_are_told_apart_from_bits),
    };
    return cmocka_run_group_tests_name("plan_diff", tests, NULL, NULL);
}
