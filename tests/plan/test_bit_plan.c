/* The plan as data: groups and dims by hand, costs by hand count and against the reference, every kind of damage named.
 */
#include "tests/test_support.h"

#include "core/json.h"
#include "plan/bit_plan.h"

static rb_error err;

/* A model that model_facts_check accepts. */
static model_facts facts_of(int n_layers, int n_kv_heads, int head_dim, int rotary_dim, rope_pairing pairing)
{
    model_facts model = {.model_type = "llama",
                         .n_layers = n_layers,
                         .n_q_heads = 3 * n_kv_heads,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .attention_scale = 1.0 / sqrt(head_dim)};
    memset(model.config_sha256, 'a', RB_SHA256_HEX - 1);
    model.rope =
        (rope_facts){.attention_factor = 1, .kind = ROPE_DEFAULT, .pairing = pairing, .theta = 10000.0, .factor = 1.0};
    for (int i = 0; i < rotary_dim / 2; i++) model.rope.inv_freq[i] = pow(10000.0, -2.0 * i / rotary_dim);
    return model;
}

static void set_blocks(plan_head *head, const uint8_t *bits, int n_blocks)
{
    assert_ok(plan_head_set_block_widths(head, bits, n_blocks, CODEBOOK_BLOCK_GTQ, &err));
}

/* ---- groups ---------------------------------------------------------------------------------- */

static void blocks_of_equal_width_form_a_group_in_ascending_order(void **state)
{
    (void)state;
    static const uint8_t bits[] = {3, 8, 3, 1, 3, 8};
    static const int widths[] = {1, 3, 8}, counts[] = {1, 3, 2}, blocks[3][3] = {{3}, {0, 2, 4}, {1, 5}};
    plan_head head = {0};
    assert_ok(plan_head_set_block_widths(&head, bits, 6, CODEBOOK_SPHERE, &err));
    assert_int_equal(head.groups.n, 3);
    for (int g = 0; g < 3; g++) {
        const plan_group *group = &head.groups.at[g];
        assert_int_equal(group->width, widths[g]);
        assert_int_equal(group->n_blocks, counts[g]);
        assert_memory_equal(group->blocks, blocks[g], sizeof(int) * (size_t)counts[g]);
        assert_int_equal(group->order, GROUP_ORDER_BLOCK);
        assert_int_equal(group->codebook, CODEBOOK_SPHERE);
        assert_int_equal(group->rotation.kind, ROTATION_HAAR);
        assert_int_equal(group->rotation.seed, 42 + widths[g]);
        assert_int_equal(group->rotation.dims, 2 * counts[g]);
    }
    plan_head_clear(&head);
    assert_int_equal(head.groups.n, 0);
    assert_null(head.groups.at);
}

static void widths_come_back_by_block(void **state)
{
    (void)state;
    static const uint8_t bits[] = {5, 1, 2, 8, 5, 4, 7, 6, 3, 3};
    uint8_t found[RB_COUNT(bits)];
    plan_head head = {0};
    set_blocks(&head, bits, RB_COUNT(bits));
    plan_head_bits(&head, found, RB_COUNT(bits));
    assert_memory_equal(found, bits, sizeof bits);
    plan_head_clear(&head);
}

static void uniform_is_one_group_of_all_dims_with_its_seed(void **state)
{
    (void)state;
    plan_head head = {0};
    assert_ok(plan_head_set_uniform(&head, 5, 4, 1003, CODEBOOK_BLOCK_GTQ, &err));
    assert_int_equal(head.groups.n, 1);
    assert_int_equal(head.groups.at[0].width, 5);
    assert_int_equal(head.groups.at[0].order, GROUP_ORDER_NATURAL);
    assert_int_equal(head.groups.at[0].rotation.seed, 1003);
    assert_int_equal(head.groups.at[0].rotation.dims, 8);
    assert_memory_equal(head.groups.at[0].blocks, ((const int[]){0, 1, 2, 3}), 4 * sizeof(int));
    /* a second set replaces the first */
    set_blocks(&head, (const uint8_t[]){2, 3}, 2);
    assert_int_equal(head.groups.n, 2);
    plan_head_clear(&head);
}

static void widths_out_of_range_are_refused_and_leave_the_head_empty(void **state)
{
    (void)state;
    plan_head head = {0};
    set_blocks(&head, (const uint8_t[]){2, 3}, 2);
    assert_fails(plan_head_set_block_widths(&head, (const uint8_t[]){2, 0}, 2, CODEBOOK_SPHERE, &err), RB_EINVAL,
                 "block 1: width 0, expected 1 to 8");
    assert_int_equal(head.groups.n, 0);
    assert_fails(plan_head_set_block_widths(&head, (const uint8_t[]){9, 2}, 2, CODEBOOK_SPHERE, &err), RB_EINVAL,
                 "block 0: width 9, expected 1 to 8");
    assert_fails(plan_head_set_uniform(&head, 0, 2, 42, CODEBOOK_SPHERE, &err), RB_EINVAL,
                 "width is 0, expected 1 to 8");
    assert_fails(plan_head_set_uniform(&head, 16, 2, 42, CODEBOOK_SPHERE, &err), RB_EINVAL,
                 "width is 16, expected 1 to 8");
    assert_int_equal(head.groups.n, 0);
}

static void values_are_a_uniform_head_seeded_by_kv_head(void **state)
{
    (void)state;
    const model_facts model = facts_of(2, 4, 8, 8, ROPE_SPLIT_HALF);
    bit_plan *plan = NULL;
    plan_head head = {0};
    assert_ok(bit_plan_create(&plan, &model, &err));
    assert_false(bit_plan_quantizes_values(plan));
    bit_plan_set_value_width(plan, 3);
    plan->value_widths[4 + 2] = 5;
    assert_true(bit_plan_quantizes_values(plan));
    plan->value_codebook = CODEBOOK_SPHERE;
    assert_ok(bit_plan_value_head(plan, 1, 2, &head, &err));
    assert_int_equal(head.groups.at[0].width, 5);
    assert_int_equal(head.groups.at[0].rotation.seed, 1002);
    plan_head_clear(&head);
    assert_ok(bit_plan_value_head(plan, 0, 2, &head, &err));
    assert_int_equal(head.groups.n, 1);
    assert_int_equal(head.groups.at[0].width, 3);
    assert_int_equal(head.groups.at[0].codebook, CODEBOOK_SPHERE);
    assert_int_equal(head.groups.at[0].order, GROUP_ORDER_NATURAL);
    assert_int_equal(head.groups.at[0].rotation.seed, 1002);
    assert_int_equal(head.groups.at[0].rotation.dims, 8);
    plan_head_clear(&head);
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    assert_fails(bit_plan_value_head(plan, 0, 0, &head, &err), RB_EINVAL, "width is 16");
    bit_plan_free(plan);
}

/* ---- dims ------------------------------------------------------------------------------------ */

static void check_dims(const model_facts *model, group_order order, const int *blocks, int n_blocks,
                       const int *expected)
{
    int dims[16], copy[8];
    memcpy(copy, blocks, sizeof(int) * (size_t)n_blocks);
    const plan_group group = {.n_blocks = n_blocks, .blocks = copy, .order = order};
    plan_group_dims(&group, model, dims);
    assert_memory_equal(dims, expected, 2 * sizeof(int) * (size_t)n_blocks);
}

static void dims_follow_pairing_order_and_rotary_dim(void **state)
{
    (void)state;
    const model_facts split = facts_of(1, 1, 8, 8, ROPE_SPLIT_HALF),
                      interleaved = facts_of(1, 1, 8, 8, ROPE_INTERLEAVED);
    const model_facts partial = facts_of(1, 1, 12, 4, ROPE_SPLIT_HALF),
                      partial_interleaved = facts_of(1, 1, 12, 4, ROPE_INTERLEAVED);
    static const int some[] = {0, 3}, mixed[] = {1, 2, 5};
    check_dims(&split, GROUP_ORDER_BLOCK, some, 2, (const int[]){0, 4, 3, 7});
    check_dims(&split, GROUP_ORDER_NATURAL, some, 2, (const int[]){0, 3, 4, 7});
    check_dims(&interleaved, GROUP_ORDER_BLOCK, some, 2, (const int[]){0, 1, 6, 7});
    check_dims(&interleaved, GROUP_ORDER_NATURAL, some, 2, (const int[]){0, 1, 6, 7});
    /* blocks 0, 1 turn: dims (0, 2), (1, 3); blocks 2..5 are the adjacent dims past rotary_dim */
    check_dims(&partial, GROUP_ORDER_BLOCK, mixed, 3, (const int[]){1, 3, 4, 5, 10, 11});
    check_dims(&partial, GROUP_ORDER_BLOCK, some, 2, (const int[]){0, 2, 6, 7});
    check_dims(&partial_interleaved, GROUP_ORDER_BLOCK, mixed, 3, (const int[]){2, 3, 4, 5, 10, 11});
}

static void group_orders_have_names(void **state)
{
    (void)state;
    assert_string_equal(group_order_name(GROUP_ORDER_BLOCK), "block");
    assert_string_equal(group_order_name(GROUP_ORDER_NATURAL), "natural");
}

/* ---- cost ------------------------------------------------------------------------------------ */

static void true_bits_equal_the_reference(void **state)
{
    (void)state;
    cJSON *reference = NULL;
    const cJSON *heads = NULL, *head_json;
    int n = 0;
    assert_ok(rb_json_read(&reference, "tests/fixtures/demo-llama-reference.json", 0, &err));
    assert_ok(rb_json_get_array(reference, "heads", "reference", &heads, &err));
    cJSON_ArrayForEach (head_json, heads) {
        const cJSON *bits_by_budget = rb_json_find(head_json, "bits"),
                    *true_bits = rb_json_find(head_json, "true_bits"), *bits;
        cJSON_ArrayForEach (bits, bits_by_budget) {
            char key[64];
            uint8_t widths[64];
            int n_blocks = 0;
            double expected = 0.0;
            plan_head head = {0};
            const cJSON *width;
            cJSON_ArrayForEach (width, bits) widths[n_blocks++] = (uint8_t)width->valueint;
            snprintf(key, sizeof key, "block-gtq@%s", bits->string);
            assert_ok(rb_json_get_number(true_bits, key, "true_bits", 0, 100, &expected, &err));
            set_blocks(&head, widths, n_blocks);
            assert_true(plan_head_true_bits(&head, 2 * n_blocks) == expected);
            assert_true(plan_head_nominal_bits(&head, 2 * n_blocks) == atof(bits->string));
            plan_head_clear(&head);
            n++;
        }
    }
    assert_true(n >= 16);
    cJSON_Delete(reference);
}

/* 3 bits and 6 norms of 16 bits over 128 dims make 3.75. */
static void six_widths_cost_three_quarters_of_a_bit(void **state)
{
    (void)state;
    uint8_t bits[64];
    plan_head head = {0};
    memset(bits, 3, sizeof bits);
    bits[0] = 1, bits[1] = 2, bits[2] = 4, bits[3] = 5, bits[4] = 6; /* 3 more than five blocks of 3; */
    bits[5] = bits[6] = bits[7] = 2;                                 /* 3 less than three */
    set_blocks(&head, bits, 64);
    assert_int_equal(head.groups.n, 6);
    assert_true(plan_head_nominal_bits(&head, 128) == 3.0);
    assert_true(plan_head_true_bits(&head, 128) == 3.75);
    plan_head_clear(&head);
}

/* Widths 1, 2, 2 over 6 dims: 2 + 8 = 10 bits of code, 16 with padding; two groups, so 32 bits of norms. */
static void padding_to_a_byte_is_part_of_the_cost(void **state)
{
    (void)state;
    plan_head head = {0};
    set_blocks(&head, (const uint8_t[]){1, 2, 2}, 3);
    assert_true(plan_head_nominal_bits(&head, 6) == 10.0 / 6.0);
    assert_true(plan_head_true_bits(&head, 6) == 48.0 / 6.0);
    plan_head_clear(&head);
}

/* Two layers of one head, 6 dims. Layer 0: widths 1, 2, 2: 10 bits, stored 48. Layer 1: uniform 4: 24 bits, stored 24 +
 * 16 = 40. Values fp16: 96 bits a head; at 3 bits 18, stored 24 + 16 = 40. All fp16: 2 * 2 * 12 bytes. */
static void plan_cost_is_the_hand_count(void **state)
{
    (void)state;
    const model_facts model = facts_of(2, 1, 6, 6, ROPE_SPLIT_HALF);
    bit_plan *plan = NULL;
    char text[80];
    assert_ok(bit_plan_create(&plan, &model, &err));
    set_blocks(bit_plan_head(plan, 0, 0), (const uint8_t[]){1, 2, 2}, 3);
    assert_ok(plan_head_set_uniform(bit_plan_head(plan, 1, 0), 4, 3, 42, CODEBOOK_BLOCK_GTQ, &err));
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    plan_cost cost = bit_plan_cost(plan);
    assert_true(cost.key_nominal_bits == 34.0 / 12.0);
    assert_true(cost.key_true_bits == 88.0 / 12.0);
    assert_true(cost.value_true_bits == 16.0);
    assert_true(cost.bytes_per_token == (88.0 + 192.0) / 8.0);
    assert_true(cost.fp16_bytes_per_token == 48.0);
    assert_true(cost.compression == 48.0 / 35.0);
    bit_plan_set_value_width(plan, 3);
    cost = bit_plan_cost(plan);
    assert_true(cost.value_true_bits == 40.0 / 6.0);
    assert_true(cost.bytes_per_token == (88.0 + 80.0) / 8.0);
    assert_true(cost.compression == 48.0 / 21.0);
    assert_true(bit_plan_is_published_form(plan));
    plan->value_widths[1] = 6; /* 3 * 6 bits are 3 bytes, 6 * 6 are 5, a norm is 2 */
    cost = bit_plan_cost(plan);
    assert_true(cost.value_true_bits == (40.0 + 56.0) / 12.0);
    assert_true(cost.bytes_per_token == (88.0 + 96.0) / 8.0);
    const value_range range = bit_plan_value_range(plan);
    assert_int_equal(range.least, 3);
    assert_int_equal(range.most, 6);
    assert_true(range.mean == 4.5);
    assert_false(bit_plan_is_published_form(plan));
    bit_plan_describe_values(text, sizeof text, plan);
    assert_string_equal(text, "8.000 true bits a dim, widths 3 to 6");
    bit_plan_set_value_width(plan, 3);
    bit_plan_describe_values(text, sizeof text, plan);
    assert_string_equal(text, "6.667 true bits a dim");
    bit_plan_free(plan);
}

static void heads_are_addressed_layer_by_layer(void **state)
{
    (void)state;
    const model_facts model = facts_of(3, 2, 8, 8, ROPE_SPLIT_HALF);
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    assert_ptr_equal(bit_plan_head(plan, 0, 0), plan->heads);
    assert_ptr_equal(bit_plan_head(plan, 1, 0), plan->heads + 2);
    assert_ptr_equal(bit_plan_head(plan, 2, 1), plan->heads + 5);
    for (int h = 0; h < 6; h++) assert_int_equal(plan->heads[h].groups.n, 0);
    bit_plan_free(plan);
    bit_plan_free(NULL);
}

/* ---- damage ---------------------------------------------------------------------------------- */

/* Two layers, two heads; the head that is damaged is layer 1, kv_head 1: groups of 2 bits {0, 3} and of 3 bits {1, 2}.
 */
static bit_plan *sound_plan(void)
{
    static const uint8_t bits[] = {2, 3, 3, 2};
    const model_facts model = facts_of(2, 2, 8, 8, ROPE_SPLIT_HALF);
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    strcpy(plan->method, "block-gtq");
    plan->avg_bits = 2.5;
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    for (int h = 0; h < 4; h++) set_blocks(&plan->heads[h], bits, 4);
    assert_ok(bit_plan_check(plan, "p.json", &err));
    return plan;
}

#define PLACE "p.json: layer 1 kv_head 1 group 1: "
/* Damages a sound plan by one assignment and expects the message. */
#define EXPECT_DAMAGE(assignment, message)                                       \
    do {                                                                         \
        bit_plan *plan = sound_plan();                                           \
        plan_head *head = bit_plan_head(plan, 1, 1);                             \
        plan_group *group = &head->groups.at[1];                                 \
        (void)group;                                                             \
        assignment;                                                              \
        assert_fails(bit_plan_check(plan, "p.json", &err), RB_EFORMAT, message); \
        bit_plan_free(plan);                                                     \
    } while (0)

static void check_names_a_damaged_group(void **state)
{
    (void)state;
    EXPECT_DAMAGE(group->width = 0, PLACE "width is 0, expected 1 to 8");
    EXPECT_DAMAGE(group->width = 9, PLACE "width is 9, expected 1 to 8");
    EXPECT_DAMAGE(group->n_blocks = 0, PLACE "has no blocks");
    EXPECT_DAMAGE(group->n_blocks = -1, PLACE "has no blocks");
    EXPECT_DAMAGE(group->codebook = CODEBOOK_N_KINDS, PLACE "unknown codebook kind 2");
    EXPECT_DAMAGE(group->rotation.kind = ROTATION_N_KINDS, PLACE "unknown rotation kind 2");
    EXPECT_DAMAGE(group->order = (group_order)2, PLACE "unknown order 2");
    EXPECT_DAMAGE(group->rotation.dims = 6, PLACE "rotation has 6 dims, expected 4 for 2 blocks");
}

static void check_names_a_block_out_of_place(void **state)
{
    (void)state;
    EXPECT_DAMAGE(group->blocks[1] = 4, PLACE "block 4, expected 0 to 3");
    EXPECT_DAMAGE(group->blocks[0] = -1, PLACE "block -1, expected 0 to 3");
    EXPECT_DAMAGE(group->blocks[0] = 2, PLACE "block 2 after block 2, expected ascending");
    EXPECT_DAMAGE(group->blocks[1] = 0, PLACE "block 0 after block 1, expected ascending");
    EXPECT_DAMAGE(group->blocks[1] = 3, PLACE "block 3 is in another group too");
    EXPECT_DAMAGE(plan_head_clear(head), "p.json: layer 1 kv_head 1: has no groups");
    EXPECT_DAMAGE(head->groups.norm = (norm_kind)7, "p.json: layer 1 kv_head 1: unknown norm kind 7");
    EXPECT_DAMAGE(head->groups.encoder = (plan_encoder)7, "p.json: layer 1 kv_head 1: unknown encoder 7");
    EXPECT_DAMAGE(group->norm_exponent = 3, PLACE "norm_exponent is 3, expected 0 to 0");
    EXPECT_DAMAGE((head->groups.norm = NORM_LOG8, group->norm_exponent = 127),
                  PLACE "norm_exponent is 127, expected -126 to 126");
}

static void check_names_what_is_wrong_with_the_whole(void **state)
{
    (void)state;
    EXPECT_DAMAGE(plan->method[0] = '\0', "p.json: method is \"\"");
    EXPECT_DAMAGE(plan->method[2] = '\n', "p.json: method is \"bl\\nck-gtq");
    EXPECT_DAMAGE(plan->avg_bits = NAN, "p.json: avg_bits is ");
    EXPECT_DAMAGE(plan->avg_bits = -1.0, "p.json: avg_bits is -1");
    EXPECT_DAMAGE(bit_plan_set_value_width(plan, 0),
                  "p.json: layer 0 kv_head 0: value width is 0, expected 1 to 8, or 16");
    EXPECT_DAMAGE(plan->value_widths[0] = 12, "p.json: layer 0 kv_head 0: value width is 12, expected 1 to 8, or 16");
    EXPECT_DAMAGE(plan->value_widths[2] = 3, "p.json: layer 1 kv_head 0: value width is 3, the first head's is 16, "
                                             "expected all values to be fp16 (16) or none");
    EXPECT_DAMAGE(plan->value_codebook = CODEBOOK_N_KINDS, "p.json: unknown value codebook kind 2");
}

static void check_looks_at_the_model_first(void **state)
{
    (void)state;
    bit_plan *plan = sound_plan();
    plan->model.rope.inv_freq[1] = NAN;
    assert_fails(bit_plan_check(plan, "p.json", &err), RB_EINVAL, "p.json");
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_of_equal_width_form_a_group_in_ascending_order),
        cmocka_unit_test(widths_come_back_by_block),
        cmocka_unit_test(uniform_is_one_group_of_all_dims_with_its_seed),
        cmocka_unit_test(widths_out_of_range_are_refused_and_leave_the_head_empty),
        cmocka_unit_test(values_are_a_uniform_head_seeded_by_kv_head),
        cmocka_unit_test(dims_follow_pairing_order_and_rotary_dim),
        cmocka_unit_test(group_orders_have_names),
        cmocka_unit_test(true_bits_equal_the_reference),
        cmocka_unit_test(six_widths_cost_three_quarters_of_a_bit),
        cmocka_unit_test(padding_to_a_byte_is_part_of_the_cost),
        cmocka_unit_test(plan_cost_is_the_hand_count),
        cmocka_unit_test(heads_are_addressed_layer_by_layer),
        cmocka_unit_test(check_names_a_damaged_group),
        cmocka_unit_test(check_names_a_block_out_of_place),
        cmocka_unit_test(check_names_what_is_wrong_with_the_whole),
        cmocka_unit_test(check_looks_at_the_model_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
