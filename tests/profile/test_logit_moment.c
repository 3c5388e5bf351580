/* Second moments of what blocks add to a logit: against plain sums, and the two laws that must come out. */
#include "tests/test_support.h"

#include "kernels/reference/numpy_random.h"
#include "profile/logit_moment.h"

enum { D = 8, N_BLOCKS = D / 2, N_Q = 2, N = 3000 };

static rb_error err;
static float q[N_Q * N * D], k[N * D];

static model_facts some_model(int rotary_dim)
{
    model_facts model = {.n_layers = 1,
                         .n_q_heads = N_Q,
                         .n_kv_heads = 1,
                         .head_dim = D,
                         .rotary_dim = rotary_dim,
                         .value_dim = D,
                         .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};
    const double frequencies[] = {1.0, 0.37, 1e-5, 1e-6};
    for (int i = 0; i < rotary_dim / 2; i++) model.rope.inv_freq[i] = frequencies[i];
    return model;
}

static void fill(float *x, int n, uint64_t seed, float mean)
{
    static double normals[N_Q * N * D];
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, (size_t)n);
    for (int i = 0; i < n; i++) x[i] = (float)normals[i] + mean;
}

static double at(const float *moment, int i, int j) { return (double)moment[i * N_BLOCKS - i * (i - 1) / 2 + j - i]; }

static void independent_blocks_have_half_the_product_of_energies(void **state)
{
    (void)state;
    const model_facts model = some_model(D);
    float moment[N_BLOCKS * (N_BLOCKS + 1) / 2];
    fill(q, N_Q * N * D, 1, 0.0f);
    fill(k, N * D, 2, 0.0f);
    assert_ok(logit_moment_measure(moment, &model, 0, q, k, NULL, N, &err));
    for (int i = 0; i < N_BLOCKS; i++)
        for (int j = i; j < N_BLOCKS; j++)
            assert_true(fabs(at(moment, i, j) - (i == j ? 2.0 : 0.0)) < 0.35); /* energies are 2: 2 * 2 / 2 */
}

/* Queries and keys that point the same way: blocks that do not turn within 1024 tokens keep (q . k)^2 and add up,
 * blocks that turn have half of it and do not. */
static void blocks_that_agree_and_hardly_turn_add_up(void **state)
{
    (void)state;
    const model_facts model = some_model(D);
    float moment[N_BLOCKS * (N_BLOCKS + 1) / 2];
    for (int i = 0; i < N_Q * N * D; i++) q[i] = 1.0f;
    for (int i = 0; i < N * D; i++) k[i] = 2.0f;
    assert_ok(logit_moment_measure(moment, &model, 0, q, k, NULL, N, &err));
    assert_true(fabs(at(moment, 0, 0) - 8.0) < 0.5 && fabs(at(moment, 0, 1)) < 0.5); /* z = 4 cos: 16 / 2 */
    assert_true(fabs(at(moment, 2, 2) - 16.0) < 0.01 && fabs(at(moment, 2, 3) - 16.0) < 0.01);
}

static void the_mean_is_taken_off(void **state)
{
    (void)state;
    const model_facts model = some_model(D);
    float moment[N_BLOCKS * (N_BLOCKS + 1) / 2], plain[N_BLOCKS * (N_BLOCKS + 1) / 2];
    double mean[D];
    fill(q, N_Q * N * D, 1, 0.0f);
    fill(k, N * D, 2, 0.0f);
    assert_ok(logit_moment_measure(plain, &model, 0, q, k, NULL, N, &err));
    for (int i = 0; i < D; i++) mean[i] = i;
    for (int i = 0; i < N * D; i++) k[i] += (float)mean[i % D];
    assert_ok(logit_moment_measure(moment, &model, 0, q, k, mean, N, &err));
    for (int i = 0; i < N_BLOCKS * (N_BLOCKS + 1) / 2; i++)
        assert_true(fabs((double)moment[i] - (double)plain[i]) < 1e-4);
}

/* One token is one token's products; a block past rotary_dim does not turn. */
static void one_token_and_partial_rope_will_do(void **state)
{
    (void)state;
    const model_facts model = some_model(4);
    float moment[N_BLOCKS * (N_BLOCKS + 1) / 2], one_q[N_Q * D], one_k[D];
    double expected = 0.0;
    for (int i = 0; i < N_Q * D; i++) one_q[i] = (float)(i % 5) - 1.5f;
    for (int i = 0; i < D; i++) one_k[i] = (float)(i % 3) + 0.5f;
    assert_ok(logit_moment_measure(moment, &model, 0, one_q, one_k, NULL, 1, &err));
    for (int h = 0; h < N_Q; h++) { /* blocks 2 and 3 are dims 4, 5 and 6, 7 */
        const double two = (double)(one_q[h * D + 4] * one_k[4] + one_q[h * D + 5] * one_k[5]),
                     three = (double)(one_q[h * D + 6] * one_k[6] + one_q[h * D + 7] * one_k[7]);
        expected += two * three / N_Q;
    }
    assert_true(fabs(at(moment, 2, 3) - expected) < 1e-4);
}

/* What RoPE multiplies a block by counts twice in a logit; another layer has another RoPE. */
static void gains_and_frequencies_are_those_of_the_layer(void **state)
{
    (void)state;
    model_facts model = some_model(4), slow = some_model(4);
    float plain[N_BLOCKS * (N_BLOCKS + 1) / 2], gained[N_BLOCKS * (N_BLOCKS + 1) / 2];
    fill(q, N_Q * N * D, 1, 0.0f);
    fill(k, N * D, 2, 0.0f);
    slow.rope.inv_freq[0] = 0.001;
    assert_ok(logit_moment_measure(plain, &slow, 0, q, k, NULL, N, &err));
    model.n_layers = 2;
    model.has_local_rope = model.layer_is_local[1] = true;
    model.local_rope = slow.rope;
    model.local_rope.attention_factor = 1.5;
    assert_ok(logit_moment_measure(gained, &model, 1, q, k, NULL, N, &err));
    for (int i = 0; i < N_BLOCKS; i++)
        for (int j = i; j < N_BLOCKS; j++) {
            const double factor = (i < 2 ? 2.25 : 1.0) * (j < 2 ? 2.25 : 1.0);
            assert_true(fabs(at(gained, i, j) - factor * at(plain, i, j)) < 1e-5 * (1 + fabs(at(gained, i, j))));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(independent_blocks_have_half_the_product_of_energies),
        cmocka_unit_test(blocks_that_agree_and_hardly_turn_add_up),
        cmocka_unit_test(the_mean_is_taken_off),
        cmocka_unit_test(gains_and_frequencies_are_those_of_the_layer),
        cmocka_unit_test(one_token_and_partial_rope_will_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
