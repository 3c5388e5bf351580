/* The tables of a plan.rbp beside our own: the same in what we write, and told by name where one number differs. */
#include "tests/test_support.h"

#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "plan/plan_rbp_tables.h"
#include "plan/plan_read.h"
#include "tests/plan/some_plan.h"

static rb_error err;

/* A plan and what the library reads of its plan.rbp. */
typedef struct pair {
    bit_plan *plan;
    ropebits_plan *source;
} pair;

static pair open_pair(bit_plan *plan)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    char message[256];
    pair made = {.plan = plan};
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(ropebits_plan_parse(&made.source, bytes, size, message, sizeof message), 0);
    free(bytes);
    return made;
}

static void close_pair(pair *p)
{
    ropebits_plan_close(p->source);
    bit_plan_free(p->plan);
}

static const char *other_table(const pair *p)
{
    static char name[64];
    assert_ok(plan_rbp_find_other_table(name, sizeof name, p->source, p->plan, &err));
    return name;
}

/* The library's tables are its own, and read-only for others. */
static void change(const float *table, int i) { ((float *)(uintptr_t)table)[i] *= 1.01f; }

static bit_plan *plan_of(codebook_kind kind)
{
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, kind);
    bit_plan_set_value_width(plan, 3);
    return plan;
}

static void what_is_written_has_our_tables(void **state)
{
    (void)state;
    for (int kind = 0; kind < CODEBOOK_N_KINDS; kind++) {
        pair p = open_pair(plan_of((codebook_kind)kind));
        assert_string_equal(other_table(&p), "");
        close_pair(&p);
    }
}

static void a_centroid_of_a_group_that_differs_is_told(void **state)
{
    (void)state;
    pair p = open_pair(plan_of(CODEBOOK_SPHERE));
    const ropebits_group *group = &ropebits_plan_head(p.source, 0, 0)->groups[0];
    char want[64];
    snprintf(want, sizeof want, "sphere centroids of width %d for %d dims", group->width, group->n_dims);
    change(group->centroids, 0);
    assert_string_equal(other_table(&p), want);
    close_pair(&p);
}

static void a_centroid_of_the_values_that_differs_is_told(void **state)
{
    (void)state;
    pair p = open_pair(plan_of(CODEBOOK_BLOCK_GTQ));
    for (uint32_t layer = 0; layer < 2; layer++)
        for (uint32_t h = 0; h < 2; h++) change(ropebits_plan_head(p.source, layer, h)->value_centroids, 5);
    assert_string_equal(other_table(&p), "block-gtq centroids of width 3 for 16 dims");
    close_pair(&p);
}

static void a_point_that_differs_is_told(void **state)
{
    bit_plan *plan = NULL;
    (void)state;
    assert_ok(plan_read(&plan, "tests/fixtures/plan-block-codebook.json", &err));
    pair p = open_pair(plan);
    assert_string_equal(other_table(&p), "");
    change(ropebits_plan_points(p.source, 6), 3);
    assert_string_equal(other_table(&p), "points of 6 bits");
    close_pair(&p);
}

static void a_file_of_our_own_is_read_to_code_without_a_word(void **state)
{
    const char *path = scratch_path("own.rbp");
    bit_plan *plan = plan_of(CODEBOOK_SPHERE), *back = NULL;
    (void)state;
    assert_ok(plan_rbp_write(plan, path, &err));
    assert_ok(plan_read_to_code(&back, path, &err));
    bit_plan_free(back);
    bit_plan_free(plan);
    assert_fails(plan_read_to_code(&back, "tests/fixtures/absent.rbp", &err), RB_EFORMAT, "absent.rbp");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_has_our_tables),
        cmocka_unit_test(a_centroid_of_a_group_that_differs_is_told),
        cmocka_unit_test(a_centroid_of_the_values_that_differs_is_told),
        cmocka_unit_test(a_point_that_differs_is_told),
        cmocka_unit_test(a_file_of_our_own_is_read_to_code_without_a_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
