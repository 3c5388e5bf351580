/* calibrate/block_statistics.h: sums by hand and by the formula, the order of a sum, and values that are no numbers. */
#include "tests/test_support.h"

#include <omp.h>

#include "calibrate/block_statistics.h"

static rb_error err;

static model_facts make_facts(int n_q_heads, int n_kv_heads, int head_dim, int rotary_dim, rope_pairing pairing)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = n_q_heads,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .rope = {.attention_factor = 1, .pairing = pairing}};
}

static float *make_vectors(int64_t n, uint32_t state)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = ((float)(state >> 8) / (float)(1 << 23) - 1) * (float)(1 + i % 7);
    }
    return x;
}

/* Two query heads on one KV head, two tokens, four dims: blocks (0, 2) and (1, 3). */
static void energies_and_means_of_a_small_head_by_hand(void **state)
{
    (void)state;
    static const float q[] = {1, 2, 3, 4, /* token 1 */ 0, 0, 1, 1, /* head 1 */ 2, 0, 0, 2, 1, 1, 1, 1};
    static const float k[] = {1, -2, 3, -4, 5, 6, -7, 8};
    const model_facts split = make_facts(2, 1, 4, 4, ROPE_SPLIT_HALF),
                      adjacent = make_facts(2, 1, 4, 4, ROPE_INTERLEAVED);
    block_statistics s;
    assert_ok(block_statistics_create(&s, &split, &err));
    assert_ok(block_statistics_compute(&s, &split, 0, q, k, 2, &err));
    assert_true(s.q_energy[0] == (1 + 9 + 0 + 1 + 4 + 0 + 1 + 1) / 4.0);
    assert_true(s.q_energy[1] == (4 + 16 + 0 + 1 + 0 + 4 + 1 + 1) / 4.0);
    assert_true(s.k_energy[0] == (1 + 9 + 25 + 49) / 2.0);
    assert_true(s.k_energy[1] == (4 + 16 + 36 + 64) / 2.0);
    assert_true(s.k_mean[0] == 3 && s.k_mean[1] == 2 && s.k_mean[2] == -2 && s.k_mean[3] == 2);
    assert_ok(block_statistics_compute(&s, &adjacent, 0, q, k, 2,
                                       &err)); /* blocks (0, 1) and (2, 3); nothing is left of the first run */
    assert_true(s.k_energy[0] == (1 + 4 + 25 + 36) / 2.0);
    assert_true(s.k_energy[1] == (9 + 16 + 49 + 64) / 2.0);
    block_statistics_free(&s);
}

/* Every head against the definition in long double, for odd sizes and a partial RoPE: blocks past rotary_dim are
 * adjacent dims. */
static void every_head_matches_the_definition(void **state)
{
    (void)state;
    static const struct {
        int n_q_heads, n_kv_heads, head_dim, rotary_dim;
        int64_t n_tokens;
    } cases[] = {{6, 2, 128, 128, 33}, {3, 3, 80, 32, 1}, {8, 1, 66, 64, 31}, {5, 5, 2, 2, 700}};
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const int dim = cases[c].head_dim, n_turned = cases[c].rotary_dim / 2,
                  q_per_kv = cases[c].n_q_heads / cases[c].n_kv_heads;
        const int64_t n = cases[c].n_tokens;
        const model_facts facts =
            make_facts(cases[c].n_q_heads, cases[c].n_kv_heads, dim, cases[c].rotary_dim, ROPE_SPLIT_HALF);
        float *q = make_vectors(facts.n_q_heads * n * dim, 1), *k = make_vectors(facts.n_kv_heads * n * dim, 2);
        block_statistics s;
        assert_ok(block_statistics_create(&s, &facts, &err));
        assert_ok(block_statistics_compute(&s, &facts, 0, q, k, n, &err));
        for (int h = 0; h < facts.n_kv_heads; h++)
            for (int i = 0; i < dim / 2; i++) {
                const int a = i < n_turned ? i : 2 * i, b = i < n_turned ? i + n_turned : 2 * i + 1;
                long double q_sum = 0, k_sum = 0, mean = 0;
                for (int64_t t = 0; t < n; t++) {
                    const float *kt = k + (h * n + t) * dim;
                    k_sum += (long double)kt[a] * kt[a] + (long double)kt[b] * kt[b];
                    mean += kt[b];
                    for (int g = 0; g < q_per_kv; g++) {
                        const float *qt = q + ((h * q_per_kv + g) * n + t) * dim;
                        q_sum += (long double)qt[a] * qt[a] + (long double)qt[b] * qt[b];
                    }
                }
                /* n additions of doubles: n half-ulps at most */
                assert_true(fabs(s.q_energy[h * (dim / 2) + i] - (double)(q_sum / (n * q_per_kv)))
                            <= 1e-13 * (double)(n * q_per_kv));
                assert_true(fabs(s.k_energy[h * (dim / 2) + i] - (double)(k_sum / n)) <= 1e-13 * (double)n);
                assert_true(fabs(s.k_mean[h * dim + b] - (double)(mean / n)) <= 1e-13 * (double)n);
            }
        block_statistics_free(&s);
        free(q);
        free(k);
    }
}

static void any_number_of_threads_gives_the_same_doubles(void **state)
{
    (void)state;
    const model_facts facts = make_facts(12, 4, 128, 128, ROPE_SPLIT_HALF);
    const int64_t n = 501;
    const int n_threads = omp_get_max_threads();
    float *q = make_vectors(12 * n * 128, 3), *k = make_vectors(4 * n * 128, 4);
    block_statistics one, many;
    assert_ok(block_statistics_create(&one, &facts, &err));
    assert_ok(block_statistics_create(&many, &facts, &err));
    omp_set_num_threads(1);
    assert_ok(block_statistics_compute(&one, &facts, 0, q, k, n, &err));
    omp_set_num_threads(5);
    assert_ok(block_statistics_compute(&many, &facts, 0, q, k, n, &err));
    omp_set_num_threads(n_threads);
    assert_memory_equal(one.q_energy, many.q_energy, 4 * 64 * sizeof(double));
    assert_memory_equal(one.k_energy, many.k_energy, 4 * 64 * sizeof(double));
    assert_memory_equal(one.k_mean, many.k_mean, 4 * 128 * sizeof(double));
    block_statistics_free(&one);
    block_statistics_free(&many);
    free(q);
    free(k);
}

static void non_finite_vectors_are_counted_and_named(void **state)
{
    (void)state;
    const model_facts facts = make_facts(4, 2, 8, 8, ROPE_SPLIT_HALF);
    const int64_t n = 20;
    float *q = make_vectors(4 * n * 8, 5), *k = make_vectors(2 * n * 8, 6);
    block_statistics s;
    assert_ok(block_statistics_create(&s, &facts, &err));
    q[(3 * n + 11) * 8 + 7] = INFINITY;
    assert_fails(block_statistics_compute(&s, &facts, 3, q, k, n, &err), RB_ENONFINITE,
                 "layer 3 q_head 3: 1 non-finite query, first at token 11");
    k[(1 * n + 4) * 8 + 2] = NAN;
    k[(1 * n + 4) * 8 + 3] = NAN;
    k[(1 * n + 19) * 8] = -INFINITY;
    assert_fails(block_statistics_compute(&s, &facts, 12, q, k, n, &err), RB_ENONFINITE,
                 "layer 12 kv_head 1: 2 non-finite keys, first at token 4");
    assert_fails(block_statistics_compute(&s, &facts, 12, q, k, 0, &err), RB_EINVAL, "layer 12: 0 tokens");
    block_statistics_free(&s);
    free(q);
    free(k);
}

/* The largest floats: their squares overflow a float, not a double. */
static void the_largest_floats_are_numbers(void **state)
{
    (void)state;
    const model_facts facts = make_facts(1, 1, 2, 2, ROPE_SPLIT_HALF);
    const float x[] = {0x1.fffffep127f, -0x1.fffffep127f};
    block_statistics s;
    assert_ok(block_statistics_create(&s, &facts, &err));
    assert_ok(block_statistics_compute(&s, &facts, 0, x, x, 1, &err));
    assert_true(s.k_energy[0] == 2 * 0x1.fffffep127 * 0x1.fffffep127);
    block_statistics_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(energies_and_means_of_a_small_head_by_hand),
        cmocka_unit_test(every_head_matches_the_definition),
        cmocka_unit_test(any_number_of_threads_gives_the_same_doubles),
        cmocka_unit_test(non_finite_vectors_are_counted_and_named),
        cmocka_unit_test(the_largest_floats_are_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
