/* plan.json of heads of block-codebook: what it says, the way there and back, every damage. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "tests/plan/plan_json_damage.h"
#include "tests/plan/some_plan.h"

enum { N_BLOCKS = 8 };

static rb_error err;

static char *file_text(const char *path)
{
    char *text = NULL;
    size_t size;
    assert_ok(rb_read_file(&text, &size, path, 1 << 20, &err));
    return text;
}

/* Layer 0 is of block-codebook, layer 1 of groups. */
static bit_plan *mixed_plan(void)
{
    const model_facts model = some_model(2, 2, 2 * N_BLOCKS, 2 * N_BLOCKS, ROPE_SPLIT_HALF);
    return some_plan_of_block_codebook(&model);
}

static void layers_of_both_families_come_back_byte_for_byte(void **state)
{
    (void)state;
    const char *path = scratch_path("plan.json"), *again = scratch_path("again.json");
    bit_plan *plan = mixed_plan(), *back = NULL;
    assert_ok(plan_json_write(plan, path, &err));
    assert_ok(plan_json_read(&back, path, &err));
    for (int h = 0; h < 4; h++) assert_true(plan_head_equal(&plan->heads[h], &back->heads[h], &plan->model));
    assert_ok(plan_json_write(back, again, &err));
    char *first = file_text(path), *second = file_text(again);
    assert_string_equal(first, second);
    free(first);
    free(second);
    bit_plan_free(plan);
    bit_plan_free(back);
}

/* Head 0 has 8 blocks of 0, 3, 6, 9, 1, 4, 7, 10 bits: 40, and 2 of gain: 42 in 6 bytes. */
static void a_head_of_block_codebook_says_what_it_stores(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan();
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_true(number_at(json, "version") == 3);
    assert_string_equal(find(json, "layers.0.kv_heads.0.family")->valuestring, "block-codebook");
    assert_true(number_at(json, "layers.0.kv_heads.0.true_bits") == 48.0 / 16);
    assert_true(number_at(json, "layers.0.kv_heads.0.bits.7") == 10);
    assert_true(number_at(json, "layers.0.kv_heads.0.gain_bits") == 2);
    assert_true(number_at(json, "layers.0.kv_heads.0.maps.2.1")
                == (double)plan->heads[0].block_codebook.maps[3 * 2 + 1]);
    assert_true(number_at(json, "layers.0.kv_heads.0.weights.5") == (double)plan->heads[0].block_codebook.weights[5]);
    assert_int_equal(cJSON_GetArraySize(find(json, "layers.0.kv_heads.0.center")), 2 * N_BLOCKS);
    for (int i = 0; i < 4; i++)
        assert_null(cJSON_GetObjectItem(find(json, "layers.0.kv_heads.0"),
                                        (const char *const[]){"groups", "norm", "encoder", "scales"}[i]));
    assert_null(find(json, "layers.1.kv_heads.0.family"));
    assert_non_null(find(json, "layers.1.kv_heads.0.groups"));
    cJSON_Delete(json);
    bit_plan_free(plan);
}

/* Blocks of more than 10 bits need readers that know levels, and come back. */
static void levels_need_version_5(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 2 * N_BLOCKS, 2 * N_BLOCKS, ROPE_SPLIT_HALF);
    const char *path = scratch_path("levels.json");
    bit_plan *plan = some_plan_of_levels(&model), *back = NULL;
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_true(number_at(json, "version") == 5);
    assert_true(number_at(json, "layers.0.kv_heads.0.bits.7") == 16);
    assert_true(cJSON_SetNumberHelper(find(json, "version"), 4) == 4);
    assert_fails(plan_from_json(&back, json, "p.json", &err), RB_EFORMAT,
                 "p.json: layer 0 kv_head 0: a block of more than 10 bits, expected none in version 4");
    cJSON_Delete(json);
    assert_ok(plan_json_write(plan, path, &err));
    assert_ok(plan_json_read(&back, path, &err));
    for (int h = 0; h < 4; h++) assert_true(plan_head_equal(&plan->heads[h], &back->heads[h], &plan->model));
    plan->heads[0].block_codebook.bits[0] = 15;
    assert_fails(bit_plan_check(plan, "plan", &err), RB_EFORMAT,
                 "layer 0 kv_head 0: block 0 has 15 bits, expected 0 to 14");
    bit_plan_free(plan);
    bit_plan_free(back);
}

static void a_plan_without_them_keeps_its_version(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 2 * N_BLOCKS, 2 * N_BLOCKS, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_true(number_at(json, "version") == 2);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

static void every_damage_is_named(void **state)
{
    (void)state;
    static const refusal damages[] = {
        {"version", "1", RB_EFORMAT,
         "p.json: layer 0 kv_head 0: family is block-codebook, expected groups in version 1"},
        {"version", "2", RB_EFORMAT,
         "p.json: layer 0 kv_head 0: family is block-codebook, expected groups in version 2"},
        {"version", "6", RB_EUNSUPPORTED, "version is 6, expected 5"},
        {"layers.0.kv_heads.0.family", "\"lattice\"", RB_EUNSUPPORTED, "layer 0 kv_head 0: unknown family \"lattice\""},
        {"layers.0.kv_heads.0.family", "3", RB_EFORMAT, "layer 0 kv_head 0.family: found a number, expected a string"},
        {"layers.0.kv_heads.0.family", NULL, RB_EFORMAT,
         "layer 0 kv_head 0: has gain_bits, expected none of family groups"},
        {"layers.1.kv_heads.1.weights", "[1]", RB_EFORMAT,
         "layer 1 kv_head 1: has weights, expected none of family groups"},
        {"layers.0.kv_heads.0.groups", "[]", RB_EFORMAT,
         "layer 0 kv_head 0: has groups, expected none of family block-codebook"},
        {"layers.0.kv_heads.0.norm", "\"fp16\"", RB_EFORMAT, "layer 0 kv_head 0: has norm, expected none"},
        {"layers.0.kv_heads.0.encoder", "\"nearest\"", RB_EFORMAT, "layer 0 kv_head 0: has encoder, expected none"},
        {"layers.0.kv_heads.0.scales", "[1,1,1,1,1,1,1,1]", RB_EFORMAT, "layer 0 kv_head 0: has scales, expected none"},
        {"layers.0.kv_heads.0.bits", NULL, RB_EFORMAT, "layer 0 kv_head 0: bits is no list of 8 numbers"},
        {"layers.0.kv_heads.0.bits.3", NULL, RB_EFORMAT, "layer 0 kv_head 0: bits is no list of 8 numbers"},
        {"layers.0.kv_heads.0.bits.3", "\"9\"", RB_EFORMAT, "layer 0 kv_head 0: bits[3] is no number"},
        {"layers.0.kv_heads.0.bits.3", "17", RB_EFORMAT,
         "layer 0 kv_head 0: bits[3] is 17, expected a whole number from 0 to 16"},
        {"layers.0.kv_heads.0.bits.3", "-1", RB_EFORMAT, "layer 0 kv_head 0: bits[3] is -1, expected a whole number"},
        {"layers.0.kv_heads.0.bits.3", "2.5", RB_EFORMAT, "layer 0 kv_head 0: bits[3] is 2.5, expected a whole number"},
        {"layers.0.kv_heads.0.bits.3", "0", RB_EFORMAT,
         "layer 0 kv_head 0: \"true_bits\" is 3, but the plan itself gives 2.5"},
        {"layers.0.kv_heads.0.bits", "[0,0,0,0,0,0,0,0]", RB_EFORMAT, "layer 0 kv_head 0: \"true_bits\" is 3"},
        {"layers.0.kv_heads.0.gain_bits", NULL, RB_EFORMAT, "layer 0 kv_head 0.gain_bits: is missing"},
        {"layers.0.kv_heads.0.gain_bits", "5", RB_EINVAL, "layer 0 kv_head 0.gain_bits: is 5, expected 0 to 4"},
        {"layers.0.kv_heads.0.maps", NULL, RB_EFORMAT, "layer 0 kv_head 0.maps: is missing"},
        {"layers.0.kv_heads.0.maps.7", NULL, RB_EFORMAT, "layer 0 kv_head 0: maps has 7 entries, expected 8 blocks"},
        {"layers.0.kv_heads.0.maps.6", "[1,2]", RB_EFORMAT, "layer 0 kv_head 0: maps[6] is no list of 3 numbers"},
        {"layers.0.kv_heads.0.maps.6", "1", RB_EFORMAT, "layer 0 kv_head 0: maps[6] is no list of 3 numbers"},
        {"layers.0.kv_heads.0.maps.6.2", "null", RB_EFORMAT, "layer 0 kv_head 0: maps[6][2] is no number"},
        {"layers.0.kv_heads.0.maps.6.2", "0.1", RB_EFORMAT,
         "layer 0 kv_head 0: maps[6][2] is 0.10000000000000001, expected a number that fp16 holds"},
        {"layers.0.kv_heads.0.maps.6.2", "1e6", RB_EFORMAT,
         "layer 0 kv_head 0: maps[6][2] is 1000000, expected a number that fp16 holds"},
        {"layers.0.kv_heads.0.weights", NULL, RB_EFORMAT, "layer 0 kv_head 0: weights is no list of 8 numbers"},
        {"layers.0.kv_heads.0.weights.1", "0", RB_EFORMAT,
         "layer 0 kv_head 0: weights[1] is 0, expected a number from 6.10352e-05 that fp16 holds"},
        {"layers.0.kv_heads.0.weights.1", "-1", RB_EFORMAT, "layer 0 kv_head 0: weights[1] is -1"},
        {"layers.0.kv_heads.0.weights.1", "0.3", RB_EFORMAT, "layer 0 kv_head 0: weights[1] is 0.29999999999999999"},
        {"layers.0.kv_heads.0.center.2", "0.1", RB_EFORMAT,
         "layer 0 kv_head 0: center[2] is 0.10000000000000001, expected a number that fp16 holds"},
    };
    bit_plan *plan = mixed_plan();
    cJSON *good = NULL;
    assert_ok(plan_to_json(&good, plan, &err));
    for (size_t i = 0; i < RB_COUNT(damages); i++) assert_refused(good, &damages[i]);
    cJSON_Delete(good);
    bit_plan_free(plan);
}

/* All that is stated agrees. */
static void a_layer_of_two_families_is_refused(void **state)
{
    (void)state;
    static const struct {
        int at, from;
        const char *message;
    } cases[] = {{1, 3,
                  "p.json: layer 0 kv_head 1: codec family is groups, that of kv_head 0 is block-codebook, expected "
                  "one family a layer"},
                 {3, 1,
                  "p.json: layer 1 kv_head 1: codec family is block-codebook, that of kv_head 0 is groups, expected "
                  "one family a layer"}};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        bit_plan *plan = mixed_plan(), *back = NULL;
        cJSON *json = NULL;
        replace_head(plan, cases[i].at, cases[i].from);
        assert_ok(plan_to_json(&json, plan, &err));
        assert_fails(plan_from_json(&back, json, "p.json", &err), RB_EFORMAT, cases[i].message);
        assert_null(back);
        cJSON_Delete(json);
        bit_plan_free(plan);
    }
}

/* True bits made to agree. */
static void a_head_whose_blocks_have_no_bits_is_refused(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan(), *back = NULL;
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    change(json, "layers.0.kv_heads.0.bits", "[0,0,0,0,0,0,0,0]");
    change(json, "layers.0.kv_heads.0.true_bits", "0.5");
    assert_fails(plan_from_json(&back, json, "p.json", &err), RB_EFORMAT, "layer 0 kv_head 0: no block has bits");
    assert_null(back);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_of_both_families_come_back_byte_for_byte),
        cmocka_unit_test(a_head_of_block_codebook_says_what_it_stores),
        cmocka_unit_test(levels_need_version_5),
        cmocka_unit_test(a_plan_without_them_keeps_its_version),
        cmocka_unit_test(every_damage_is_named),
        cmocka_unit_test(a_layer_of_two_families_is_refused),
        cmocka_unit_test(a_head_whose_blocks_have_no_bits_is_refused),
    };
    return cmocka_run_group_tests_name("plan_json_block_codebook", tests, NULL, NULL);
}
