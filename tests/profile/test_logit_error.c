/* profile/logit_error.h against the definition: every offset, every block turned explicitly, in double. */
#include "tests/profile/profile_test.h"

#include "core/threads.h"
#include "profile/logit_error.h"

static rb_error err;

static const struct {
    int n_q, head_dim, rotary_dim;
    rope_pairing pairing;
    int64_t n_tokens;
} cases[] = {
    {1, 2, 2, ROPE_SPLIT_HALF, 1},     {1, 6, 6, ROPE_INTERLEAVED, 31},   {3, 64, 64, ROPE_SPLIT_HALF, 33},
    {3, 80, 32, ROPE_SPLIT_HALF, 7},   {1, 80, 20, ROPE_INTERLEAVED, 13}, {2, 128, 128, ROPE_INTERLEAVED, 5},
    {3, 64, 64, ROPE_SPLIT_HALF, 128}, {1, 66, 64, ROPE_SPLIT_HALF, 129},
};

static void every_shape_matches_the_definition(void **state)
{
    (void)state;
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const model_facts facts = small_model(cases[c].n_q, cases[c].head_dim, cases[c].rotary_dim, cases[c].pairing);
        const int64_t n_tokens = cases[c].n_tokens;
        const size_t n = (size_t)n_tokens * (size_t)facts.head_dim;
        float *q = random_floats(n * (size_t)cases[c].n_q, 1), *k = random_floats(n, 2),
              *near = disturbed(k, n, 0.1f, 3), *far = disturbed(k, n, 2.0f, 4);
        const float *const k_hat[] = {near, far};
        offset_table *table = NULL;
        double mae[2];
        assert_ok(offset_table_create(&table, &facts, &facts.rope, &err));
        assert_ok(logit_mae(mae, table, q, cases[c].n_q, k, k_hat, 2, n_tokens, &err));
        for (int candidate = 0; candidate < 2; candidate++) {
            const double expected = naive_logit_mae(&facts, q, cases[c].n_q, k, k_hat[candidate], n_tokens);
            assert_close(mae[candidate], expected, 2e-6 * expected); /* f32 products of up to 128 terms, averaged */
        }
        offset_table_free(table);
        free(q), free(k), free(near), free(far);
    }
}

/* Yarn's attention factor multiplies what the blocks that turn add, twice; and layers may turn by another RoPE. */
static void a_gain_and_a_local_rope_match_the_definition(void **state)
{
    (void)state;
    enum { N = 37, DIM = 16 };
    model_facts facts = small_model(2, DIM, 8, ROPE_INTERLEAVED);
    float *q = random_floats(2 * N * DIM, 1), *k = random_floats(N * DIM, 2), *near = disturbed(k, N * DIM, 0.1f, 3);
    const float *const k_hat[] = {near};
    facts.rope.attention_factor = 1.2;
    facts.local_rope = facts.rope;
    facts.local_rope.attention_factor = 0.7;
    for (int i = 0; i < 4; i++) facts.local_rope.inv_freq[i] = 0.3 / (i + 1);
    const rope_facts *const ropes[] = {&facts.rope, &facts.local_rope};
    for (int i = 0; i < 2; i++) {
        offset_table *table = NULL;
        double mae;
        assert_ok(offset_table_create(&table, &facts, ropes[i], &err));
        assert_ok(logit_mae(&mae, table, q, 2, k, k_hat, 1, N, &err));
        const double expected = naive_logit_mae_by(&facts, ropes[i], q, 2, k, near, N);
        assert_close(mae, expected, 2e-6 * expected);
        offset_table_free(table);
    }
    free(q), free(k), free(near);
}

/* e = (1, 0) on a block that does not turn, q = (3, 4): q . R e = 3 at every offset. */
static void a_block_past_rotary_dim_does_not_turn(void **state)
{
    (void)state;
    const model_facts facts = small_model(1, 4, 2, ROPE_SPLIT_HALF);
    const float q[] = {7, -7, 3, 4}, k[] = {5, 5, 1, 2}, restored[] = {5, 5, 0, 2};
    const float *const k_hat[] = {restored};
    offset_table *table = NULL;
    double mae;
    assert_ok(offset_table_create(&table, &facts, &facts.rope, &err));
    assert_ok(logit_mae(&mae, table, q, 1, k, k_hat, 1, 1, &err));
    assert_true(mae == 3.0);
    offset_table_free(table);
}

/* Offsets are evenly spaced over [-1024, 1024], both ends included: with frequency pi / 1024, e = (1, 0) and q = (1, 0)
 * the error is |cos(D pi / 1024)|. */
static void offsets_reach_both_ends(void **state)
{
    (void)state;
    model_facts facts = small_model(1, 2, 2, ROPE_SPLIT_HALF);
    facts.rope.inv_freq[0] = acos(-1.0) / 1024.0;
    const float q[] = {1, 0}, k[] = {1, 0}, nothing[] = {0, 0};
    const float *const k_hat[] = {nothing};
    offset_table *table = NULL;
    double mae, expected = 0.0;
    for (int o = 0; o < 50; o++) expected += fabs(cos(acos(-1.0) * (2.0 * o / 49.0 - 1.0))) / 50.0;
    assert_ok(offset_table_create(&table, &facts, &facts.rope, &err));
    assert_ok(logit_mae(&mae, table, q, 1, k, k_hat, 1, 1, &err));
    assert_close(mae, expected, 1e-7);
    offset_table_free(table);
}

static void the_error_grows_as_its_cause(void **state)
{
    (void)state;
    const model_facts facts = small_model(3, 64, 64, ROPE_SPLIT_HALF);
    const int64_t n_tokens = 50;
    const size_t n = 50 * 64;
    float *q = random_floats(3 * n, 5), *k = calloc(n, sizeof *k), *one = random_floats(n, 6),
          *four = random_floats(n, 6);
    assert_non_null(k);
    for (size_t i = 0; i < n; i++) four[i] *= 4.0f; /* keys of zero and a power of two: exact */
    const float *const k_hat[] = {one, four, k};
    offset_table *table = NULL;
    double mae[3];
    assert_ok(offset_table_create(&table, &facts, &facts.rope, &err));
    assert_ok(logit_mae(mae, table, q, 3, k, k_hat, 3, n_tokens, &err));
    assert_true(mae[0] > 0.0);
    assert_true(mae[1] == 4.0 * mae[0]);
    assert_true(mae[2] == 0.0);
    offset_table_free(table);
    free(q), free(k), free(one), free(four);
}

static void errors_beyond_f32_are_an_error(void **state)
{
    (void)state;
    const model_facts facts = small_model(1, 2, 2, ROPE_SPLIT_HALF);
    const float q[] = {1e38f, 0}, k[] = {100, 0}, nothing[] = {0, 0};
    offset_table *table = NULL;
    double mae;
    assert_ok(offset_table_create(&table, &facts, &facts.rope, &err));
    assert_fails(logit_mae(&mae, table, q, 1, k, (const float *const[]){nothing}, 1, 1, &err), RB_ENONFINITE,
                 "leave the range of f32");
    offset_table_free(table);
}

static void any_number_of_threads_gives_the_same_doubles(void **state)
{
    (void)state;
    const model_facts facts = small_model(3, 128, 128, ROPE_SPLIT_HALF);
    const int64_t n_tokens = 301;
    const size_t n = 301 * 128;
    float *q = random_floats(3 * n, 7), *k = random_floats(n, 8), *near = disturbed(k, n, 0.1f, 9),
          *far = disturbed(k, n, 1.0f, 10);
    const float *const k_hat[] = {near, far};
    offset_table *table = NULL;
    double one[2], many[2];
    assert_ok(offset_table_create(&table, &facts, &facts.rope, &err));
    rb_threads_init(1);
    assert_ok(logit_mae(one, table, q, 3, k, k_hat, 2, n_tokens, &err));
    rb_threads_init(5);
    assert_ok(logit_mae(many, table, q, 3, k, k_hat, 2, n_tokens, &err));
    rb_threads_init(0);
    assert_memory_equal(one, many, sizeof one);
    offset_table_free(table);
    free(q), free(k), free(near), free(far);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_matches_the_definition),
        cmocka_unit_test(a_gain_and_a_local_rope_match_the_definition),
        cmocka_unit_test(a_block_past_rotary_dim_does_not_turn),
        cmocka_unit_test(offsets_reach_both_ends),
        cmocka_unit_test(the_error_grows_as_its_cause),
        cmocka_unit_test(errors_beyond_f32_are_an_error),
        cmocka_unit_test(any_number_of_threads_gives_the_same_doubles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
