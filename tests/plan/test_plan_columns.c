/* The table of columns: its rows hold together, and a head has the numbers of its own family. */
#include "tests/test_support.h"

#include "plan/plan_columns.h"
#include "plan/plan_family.h"
#include "tests/plan/some_plan.h"

static void columns_of_a_form_have_places_of_their_own(void **state)
{
    (void)state;
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    for (int form = 0; form < FORM_N_KINDS; form++) {
        const int n = plan_columns_list(columns, (plan_form)form, PLAN_VERSION_NEWEST);
        for (int i = 1; i < n; i++)
            if (columns[i]->place[form] <= columns[i - 1]->place[form])
                fail_msg("form %d: two columns have place %d", form, columns[i]->place[form]);
    }
}

/* How many there are, counted by hand from docs/export.md and docs/plan-rbp.md. */
static void columns_come_with_their_version(void **state)
{
    (void)state;
    static const int expected[FORM_N_KINDS][PLAN_VERSION_NEWEST] = {
        [FORM_HEADER] = {4, 11, 15, 15, 26}, [FORM_TENSORS] = {4, 11, 15, 15, 26}, [FORM_RBP] = {7, 13, 18, 18, 29}};
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    for (int form = 0; form < FORM_N_KINDS; form++)
        for (int version = 1; version <= PLAN_VERSION_NEWEST; version++)
            assert_int_equal(plan_columns_list(columns, (plan_form)form, version), expected[form][version - 1]);
}

/* Those of version 5 are of trellis, 5 of keys, and of values, 6 with their center. */
static void a_plan_has_columns_of_trellis_only_with_such_heads(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 8, 8, ROPE_SPLIT_HALF);
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    rb_error err = {0};
    for (int form = 0; form < FORM_N_KINDS; form++) {
        bit_plan *plan = some_general_plan(&model);
        const int without = form == FORM_RBP ? 18 : 15;
        assert_int_equal(plan_columns_of(columns, (plan_form)form, plan), form == FORM_RBP ? 13 : 11);
        plan->n_sink = 1;
        assert_int_equal(plan_columns_of(columns, (plan_form)form, plan), without);
        for (int h = 0; h < 2; h++) make_trellis(&plan->heads[h], 8, h);
        assert_int_equal(plan_columns_of(columns, (plan_form)form, plan), without + 5);
        assert_ok(bit_plan_create_value_heads(plan, &err));
        assert_int_equal(plan_columns_of(columns, (plan_form)form, plan), without + 11);
        for (int h = 0; h < 2; h++) replace_head(plan, h, 2);
        assert_int_equal(plan_columns_of(columns, (plan_form)form, plan), without + 6);
        bit_plan_free(plan);
    }
}

static void columns_have_what_their_forms_need(void **state)
{
    (void)state;
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    int n = plan_columns_list(columns, FORM_HEADER, PLAN_VERSION_NEWEST);
    for (int i = 0; i < n; i++) {
        assert_non_null(columns[i]->header_name);
        assert_true(!columns[i]->take == (columns[i]->extent == COLUMN_OF_MATRIX));
        assert_true(!columns[i]->take != !columns[i]->floats);
        assert_true(!columns[i]->write_item == !columns[i]->header_type);
        assert_true(!columns[i]->write_item == !columns[i]->header_otherwise);
    }
    n = plan_columns_list(columns, FORM_TENSORS, PLAN_VERSION_NEWEST);
    for (int i = 0; i < n; i++) {
        assert_non_null(columns[i]->tensor_name);
        assert_true(columns[i]->type != COLUMN_U64); /* there is no such tensor */
    }
}

/* Layer 0 is of block-codebook, layer 1 of groups. */
static void a_head_has_the_numbers_of_its_own_family(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    bit_plan *plan = some_plan_of_block_codebook(&model);
    plan_number numbers[PLAN_COLUMN_ROOM];
    for (int form = 0; form < FORM_N_KINDS; form++) {
        const int n = plan_columns_list(columns, (plan_form)form, PLAN_VERSION_NEWEST);
        for (int i = 0; i < n; i++)
            for (int h = 0; h < 4; h++) {
                const bool is_of_all = columns[i]->family == COLUMN_OF_ALL_FAMILIES,
                           is_own = columns[i]->family == (int)plan->heads[h].family;
                const int n_numbers = plan_column_take(columns[i], numbers, plan, h);
                if (!is_of_all && !is_own) assert_int_equal(n_numbers, 0);
                if (n_numbers > 0 && columns[i]->extent == COLUMN_OF_HEAD) assert_int_equal(n_numbers, 1);
                if (n_numbers > 0 && columns[i]->extent == COLUMN_OF_BLOCK)
                    assert_int_equal(n_numbers, 8 * plan_column_size(columns[i]));
                if (n_numbers > 0 && columns[i]->extent == COLUMN_OF_DIM) assert_int_equal(n_numbers, 16);
                if (is_own && columns[i]->extent == COLUMN_OF_GROUP) assert_int_equal(n_numbers, 2);
            }
    }
    bit_plan_free(plan);
}

/* Blocks b with b % 3 == 2 are in no group; split-half: block b is dims b and b + 4. */
static void dims_of_no_group_come_last_in_coding_order(void **state)
{
    (void)state;
    static const int expected[2][8] = {{0, 4, 3, 7, 1, 5, 2, 6}, {0, 0, 0, 0, 1, 1, -1, -1}};
    const model_facts model = some_model(2, 1, 8, 8, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan_of_block_codebook(&model);
    int dims[8], groups[8];
    assert_int_equal(plan_coding_order(dims, groups, plan, 1), 6);
    assert_memory_equal(dims, expected[0], sizeof dims);
    assert_memory_equal(groups, expected[1], sizeof groups);
    assert_int_equal(plan_coding_order(dims, groups, plan, 0), 0);
    for (int i = 0; i < 8; i++) assert_true(dims[i] == i && groups[i] == -1);
    bit_plan_free(plan);
}

/* PUBLISHED, GENERAL, the version that block-codebook came with, that of new models, and that of exact tokens. */
static void a_plan_has_the_lowest_version_that_holds_it(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plans[] = {some_plan(&model, CODEBOOK_BLOCK_GTQ), some_general_plan(&model),
                         some_plan_of_block_codebook(&model)};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(plan_version(plans[i]), i + 1);
        bit_plan_free(plans[i]);
    }
    const model_facts latent = some_new_model();
    bit_plan *plan = some_plan(&latent, CODEBOOK_BLOCK_GTQ);
    assert_int_equal(plan_version(plan), 4);
    plan->n_recent = 1;
    assert_int_equal(plan_version(plan), 5);
    plan->n_sink = 1, plan->n_recent = 0;
    assert_int_equal(plan_version(plan), 5);
    plan->n_sink = 0;
    assert_int_equal(plan_version(plan), 4);
    bit_plan_free(plan);
    plan = some_plan_of_levels(&model);
    assert_int_equal(plan_version(plan), 5);
    bit_plan_free(plan);
}

static void what_makes_a_model_new(void **state)
{
    (void)state;
    model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    assert_false(plan_model_is_new(&model));
    model.rope.kind = ROPE_DYNAMIC;
    assert_true(plan_model_is_new(&model));
    model.rope.kind = ROPE_LINEAR;
    model.rope.attention_factor = 1.5;
    assert_true(plan_model_is_new(&model));
    model.rope.attention_factor = 1;
    model.value_dim = 8;
    assert_true(plan_model_is_new(&model));
    model.value_dim = 16;
    model.has_local_rope = true;
    assert_true(plan_model_is_new(&model));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_of_a_form_have_places_of_their_own),
        cmocka_unit_test(columns_come_with_their_version),
        cmocka_unit_test(what_makes_a_model_new),
        cmocka_unit_test(a_plan_has_columns_of_trellis_only_with_such_heads),
        cmocka_unit_test(columns_have_what_their_forms_need),
        cmocka_unit_test(a_head_has_the_numbers_of_its_own_family),
        cmocka_unit_test(dims_of_no_group_come_last_in_coding_order),
        cmocka_unit_test(a_plan_has_the_lowest_version_that_holds_it),
    };
    return cmocka_run_group_tests_name("plan_columns", tests, NULL, NULL);
}
