/* profile/tail_error.h against its definitions, and against codecs that are known to have a tail, or none. */
#include "tests/profile/profile_test.h"

#include "profile/tail_error.h"

static rb_error err;

static void errors_and_sizes_are_in_the_unit_of_a_logit(void **state)
{
    (void)state;
    static const struct {
        int head_dim, rotary_dim;
        rope_pairing pairing;
    } cases[] = {
        {8, 8, ROPE_SPLIT_HALF}, {8, 8, ROPE_INTERLEAVED}, {66, 32, ROPE_SPLIT_HALF}, {2, 2, ROPE_INTERLEAVED}};
    enum { N = 5 };
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const model_facts facts = small_model(1, cases[c].head_dim, cases[c].rotary_dim, cases[c].pairing);
        const int d = facts.head_dim;
        float *k = random_floats((size_t)(N * d), 1), *k_hat = random_floats((size_t)(N * d), 2), error[N], size[N],
              weights[66];
        double energy[33];
        for (int i = 0; i < d / 2; i++) energy[i] = 0.5 + i;
        token_weights(weights, &facts, 0, energy);
        token_errors(error, weights, d, k, k_hat, N);
        token_errors(size, weights, d, k, NULL, N);
        for (int t = 0; t < N; t++) {
            double e = 0.0, s = 0.0;
            for (int block = 0; block < d / 2; block++) {
                int dims[2];
                block_dims_by_hand(&facts, block, dims);
                for (int i = 0; i < 2; i++) {
                    const double x = k[t * d + dims[i]], y = k_hat[t * d + dims[i]];
                    e += energy[block] * (x - y) * (x - y) / 2;
                    s += energy[block] * x * x / 2;
                }
            }
            assert_close(error[t], sqrt(e), 2e-6 * sqrt(e));
            assert_close(size[t], sqrt(s), 2e-6 * sqrt(s));
        }
        free(k), free(k_hat);
    }
}

/* A logit's variance has the fourth power of what RoPE multiplies a block by. */
static void a_gain_weighs_the_blocks_that_turn(void **state)
{
    (void)state;
    model_facts facts = small_model(1, 8, 4, ROPE_INTERLEAVED);
    const double energy[] = {2, 4, 6, 8};
    float weights[8];
    facts.rope.attention_factor = 2;
    token_weights(weights, &facts, 0, energy);
    for (int i = 0; i < 8; i++) assert_true((double)weights[i] == energy[i / 2] / 2 * (i < 4 ? 16 : 1));
}

enum { N_TOKENS = 1000 };

typedef struct tokens {
    float error[N_TOKENS], size[N_TOKENS], excess[N_TOKENS];
} tokens;

/* A codec with a norm: sizes over four decades, errors a tenth of them, give or take. */
static tokens proportional_errors(void)
{
    tokens out;
    uint64_t seed = 7;
    for (int t = 0; t < N_TOKENS; t++) {
        out.size[t] = powf(10.0f, 2.0f * random_float(&seed));
        out.error[t] = out.size[t] * 0.1f * (1.0f + 0.3f * random_float(&seed));
    }
    return out;
}

static void quantiles_are_those_of_the_relative_error(void **state)
{
    (void)state;
    tokens x;
    tail_error tail;
    for (int t = 0; t < N_TOKENS; t++) { /* relative errors 1 ... 1000, in no order */
        const int rank = t * 387 % N_TOKENS + 1;
        x.size[t] = 0.001f * (float)(1 + t % 7);
        x.error[t] = (float)rank * x.size[t];
    }
    assert_ok(tail_measure(&tail, x.excess, x.error, x.size, N_TOKENS, &err));
    assert_close(tail.median, 500, 1e-3);
    assert_close(tail.p99, 990, 1e-3);
    assert_close(tail.p999, 999, 1e-3);
    assert_close(tail.largest, 1000, 1e-3);
}

static void errors_in_proportion_to_the_key_are_no_tail(void **state)
{
    (void)state;
    tokens x = proportional_errors();
    tail_error tail;
    assert_ok(tail_measure(&tail, x.excess, x.error, x.size, N_TOKENS, &err));
    assert_true(tail.ratio < 1.5);
    assert_true(tail.outside == 0.0);
}

static void equal_errors_on_keys_of_all_sizes_are_no_tail(void **state)
{
    (void)state;
    tokens x = proportional_errors();
    tail_error tail;
    for (int t = 0; t < N_TOKENS; t++) x.error[t] = 1.0f;
    assert_ok(tail_measure(&tail, x.excess, x.error, x.size, N_TOKENS, &err));
    assert_true(tail.largest > 50 * tail.median); /* small keys; they do no more harm than others */
    assert_true(tail.ratio == 1.0);
}

static void tokens_outside_the_range_are_counted(void **state)
{
    (void)state;
    tokens x = proportional_errors();
    tail_error tail;
    for (int t = 0; t < 5; t++) { /* lost whole, and large ones */
        x.size[200 * t] = 50.0f;
        x.error[200 * t] = 40.0f;
    }
    assert_ok(tail_measure(&tail, x.excess, x.error, x.size, N_TOKENS, &err));
    assert_true(tail.outside == 0.005);
    assert_true(tail.ratio > TAIL_LIMIT);
    for (int t = 0; t < N_TOKENS; t++) assert_int_equal((double)x.excess[t] > TAIL_LIMIT, t % 200 == 0);
}

/* Nothing to divide by: exact keys, zero keys, all but one exact. */
static void what_is_exact_has_no_excess(void **state)
{
    (void)state;
    tokens x = {.size = {1.0f, 2.0f}};
    tail_error tail;
    assert_ok(tail_measure(&tail, x.excess, x.error, x.size, N_TOKENS, &err));
    assert_true(tail.largest == 0.0 && tail.ratio == 0.0 && tail.outside == 0.0);
    x.error[1] = 1.0f;
    assert_ok(tail_measure(&tail, x.excess, x.error, x.size, N_TOKENS, &err));
    assert_close(tail.largest, 0.5, 1e-7);
    assert_true(tail.ratio == 0.0 && isfinite((double)x.excess[1]) && (double)x.excess[1] > 1000.0);
    assert_true(tail.outside == 0.001);
}

static void one_token_is_its_own_median(void **state)
{
    (void)state;
    const float error = 3.0f, size = 6.0f;
    float excess;
    tail_error tail;
    assert_ok(tail_measure(&tail, &excess, &error, &size, 1, &err));
    assert_true(tail.median == 0.5 && tail.p999 == 0.5 && tail.ratio == 1.0 && tail.outside == 0.0);
}

static void an_error_that_is_no_number_is_refused(void **state)
{
    (void)state;
    const float error[] = {1.0f, NAN}, size[] = {1.0f, 1.0f};
    float excess[2];
    tail_error tail;
    assert_fails(tail_measure(&tail, excess, error, size, 2, &err), RB_ENONFINITE, "token 1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_and_sizes_are_in_the_unit_of_a_logit),
        cmocka_unit_test(a_gain_weighs_the_blocks_that_turn),
        cmocka_unit_test(quantiles_are_those_of_the_relative_error),
        cmocka_unit_test(errors_in_proportion_to_the_key_are_no_tail),
        cmocka_unit_test(equal_errors_on_keys_of_all_sizes_are_no_tail),
        cmocka_unit_test(tokens_outside_the_range_are_counted),
        cmocka_unit_test(what_is_exact_has_no_excess),
        cmocka_unit_test(one_token_is_its_own_median),
        cmocka_unit_test(an_error_that_is_no_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
