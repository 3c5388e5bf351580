/* profile/attention_error.h against softmax and logits written out in double, over explicitly turned vectors. */
#include "tests/profile/profile_test.h"

#include "core/threads.h"
#include "model/rope_apply.h"
#include "profile/attention_error.h"

static rb_error err;

/* s[t] = q . k_t for t < n; both already turned. */
static void dots(double *s, const float *q, const float *k, int64_t n, int d)
{
    for (int64_t t = 0; t < n; t++) {
        s[t] = 0.0;
        for (int i = 0; i < d; i++) s[t] += (double)q[i] * (double)k[t * d + i];
    }
}

static void softmax(double *p, const double *s, double scale, int64_t n)
{
    double largest = s[0], sum = 0.0;
    for (int64_t t = 1; t < n; t++) largest = fmax(largest, s[t]);
    for (int64_t t = 0; t < n; t++) sum += p[t] = exp(scale * (s[t] - largest));
    for (int64_t t = 0; t < n; t++) p[t] /= sum;
}

/* The definition in attention_error.h, by sum of p log(p / p^). */
static attention_error naive_errors(const model_facts *facts, const float *q, int n_q, const float *k,
                                    const float *k_hat, int64_t n_tokens, int64_t context)
{
    const int d = facts->head_dim;
    double *s = malloc(4 * (size_t)n_tokens * sizeof *s), *s_hat = s + n_tokens, *p = s_hat + n_tokens,
           *p_hat = p + n_tokens;
    double magnitude = 0.0, attended = 0.0, divergence = 0.0, n_pairs = 0.0;
    for (int head = 0; head < n_q; head++)
        for (int64_t at = 0; at < n_tokens; at++) {
            const int64_t first = at / context * context, n = at - first + 1;
            const float *q_at = q + (head * n_tokens + at) * d;
            dots(s, q_at, k + first * d, n, d);
            dots(s_hat, q_at, k_hat + first * d, n, d);
            softmax(p, s, facts->attention_scale, n);
            softmax(p_hat, s_hat, facts->attention_scale, n);
            for (int64_t t = 0; t < n; t++) {
                magnitude += fabs(s[t] - s_hat[t]);
                attended += p[t] * fabs(s[t] - s_hat[t]);
                divergence += p[t] * log(p[t] / p_hat[t]);
            }
            n_pairs += (double)n;
        }
    free(s);
    return (attention_error){.causal_mae = magnitude / n_pairs,
                             .attended_mae = attended / (n_q * (double)n_tokens),
                             .attention_kl = divergence / (n_q * (double)n_tokens)};
}

static const struct {
    int n_q, head_dim;
    int64_t n_tokens, context;
} cases[] = {
    {1, 2, 1, 1},      {1, 64, 5, 100},   {3, 64, 63, 20}, {3, 80, 129, 64},
    {1, 128, 200, 65}, {2, 66, 130, 130}, {3, 64, 97, 1},
};

static void every_shape_matches_the_definition(void **state)
{
    (void)state;
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const model_facts facts = small_model(cases[c].n_q, cases[c].head_dim, cases[c].head_dim, ROPE_SPLIT_HALF);
        const int64_t n_tokens = cases[c].n_tokens, context = cases[c].context;
        const size_t n = (size_t)n_tokens * (size_t)facts.head_dim;
        float *q = random_floats(n * (size_t)cases[c].n_q, 1), *k = random_floats(n, 2),
              *near = disturbed(k, n, 0.1f, 3), *far = disturbed(k, n, 3.0f, 4);
        const float *const k_hat[] = {near, far};
        attention_error errors[2];
        for (size_t i = 0; i < n * (size_t)cases[c].n_q; i++) q[i] *= 4.0f; /* weights far from equal */
        assert_ok(attention_errors(errors, &facts, q, cases[c].n_q, k, k_hat, 2, n_tokens, context, &err));
        for (int candidate = 0; candidate < 2; candidate++) {
            const attention_error expected =
                naive_errors(&facts, q, cases[c].n_q, k, k_hat[candidate], n_tokens, context);
            assert_close(errors[candidate].causal_mae, expected.causal_mae, 2e-6 * expected.causal_mae);
            assert_close(errors[candidate].attended_mae, expected.attended_mae, 5e-6 * expected.attended_mae);
            assert_close(errors[candidate].attention_kl, expected.attention_kl,
                         1e-5 * expected.attention_kl + 2e-7); /* f32 logits around 10 */
        }
        free(q), free(k), free(near), free(far);
    }
}

/* Positions restart in every sequence and RoPE makes a logit depend on their difference: a pair (s, t) must see q
 * turned by s - t against an unturned k. This is what profile feeds in, so the turning by rope_apply is part of it. */
static void turned_vectors_give_the_error_at_the_distance_of_the_pair(void **state)
{
    (void)state;
    static const struct {
        int rotary_dim;
        rope_pairing pairing;
    } turns[] = {{16, ROPE_SPLIT_HALF}, {16, ROPE_INTERLEAVED}, {6, ROPE_SPLIT_HALF}, {6, ROPE_INTERLEAVED}};
    enum { N = 23, D = 16, CONTEXT = 9 };
    static const int64_t sequence_start[] = {0, 9, 18, 23};
    for (size_t c = 0; c < RB_COUNT(turns); c++) {
        const model_facts facts = small_model(1, D, turns[c].rotary_dim, turns[c].pairing);
        float *q = random_floats(N * D, 11), *k = random_floats(N * D, 12), *k_hat = disturbed(k, N * D, 0.2f, 13);
        double sum = 0.0, n_pairs = 0.0;
        for (int s = 0; s < N; s++)
            for (int t = s / CONTEXT * CONTEXT; t <= s; t++, n_pairs++) {
                double error[D];
                for (int i = 0; i < D; i++) error[i] = (double)k[t * D + i] - (double)k_hat[t * D + i];
                sum += fabs(turned_dot(&facts, q + s * D, error, t - s));
            }
        rope_table rope = {0};
        attention_error found;
        assert_ok(rope_table_init(&rope, &facts, &facts.rope, CONTEXT, &err));
        rope_apply(&rope, q, 1, D, sequence_start, 3);
        rope_apply(&rope, k, 1, D, sequence_start, 3);
        rope_apply(&rope, k_hat, 1, D, sequence_start, 3);
        assert_ok(attention_errors(&found, &facts, q, 1, k, (const float *const[]){k_hat}, 1, N, CONTEXT, &err));
        assert_close(found.causal_mae, sum / n_pairs, 5e-6 * sum / n_pairs);
        rope_table_free(&rope);
        free(q), free(k), free(k_hat);
    }
}

/* Two tokens by hand, scale 1: the second query sees logits (0, ln 3), restored (0, 0): p = (1/4, 3/4), p^ = (1/2,
 * 1/2). */
static void two_tokens_by_hand(void **state)
{
    (void)state;
    model_facts facts = small_model(1, 2, 2, ROPE_SPLIT_HALF);
    facts.attention_scale = 1.0;
    const float q[] = {5, 5, 1, 0}, k[] = {0, 0, (float)log(3.0), 0}, restored[] = {0, 0, 0, 0};
    attention_error found;
    assert_ok(attention_errors(&found, &facts, q, 1, k, (const float *const[]){restored}, 1, 2, 2, &err));
    assert_close(found.causal_mae, log(3.0) / 3.0, 1e-7); /* three pairs, one of them off by ln 3 */
    assert_close(found.attended_mae, 0.75 * log(3.0) / 2.0,
                 1e-7); /* which the second of two queries looks at with 3/4 */
    assert_close(found.attention_kl, (0.25 * log(0.5) + 0.75 * log(1.5)) / 2.0, 1e-7);
}

static void exact_keys_have_no_error(void **state)
{
    (void)state;
    const model_facts facts = small_model(3, 64, 64, ROPE_SPLIT_HALF);
    float *q = random_floats(3 * 150 * 64, 21), *k = random_floats(150 * 64, 22);
    attention_error found;
    assert_ok(attention_errors(&found, &facts, q, 3, k, (const float *const[]){k}, 1, 150, 100, &err));
    assert_true(found.causal_mae == 0.0);
    assert_true(found.attention_kl == 0.0);
    free(q), free(k);
}

/* Logits of 10^4: exp(s) by itself would overflow; the weights are one and zeros. */
static void large_logits_do_not_overflow(void **state)
{
    (void)state;
    model_facts facts = small_model(1, 2, 2, ROPE_SPLIT_HALF);
    facts.attention_scale = 1.0;
    const float q[] = {100, 0, 100, 0}, k[] = {100, 0, 50, 0}, restored[] = {90, 0, 50, 0};
    attention_error found;
    assert_ok(attention_errors(&found, &facts, q, 1, k, (const float *const[]){restored}, 1, 2, 2, &err));
    assert_true(found.causal_mae == 2000.0 / 3.0);
    assert_true(found.attention_kl == 0.0);
}

/* q . k of 10^40 is no f32: no number is better than a wrong one, and a NaN is no divergence of zero. */
static void logits_beyond_f32_are_an_error(void **state)
{
    (void)state;
    const model_facts facts = small_model(1, 2, 2, ROPE_SPLIT_HALF);
    const float q[] = {1e38f, 0}, k[] = {100, 0}, restored[] = {200, 0};
    attention_error found;
    assert_fails(attention_errors(&found, &facts, q, 1, k, (const float *const[]){restored}, 1, 1, 1, &err),
                 RB_ENONFINITE, "leave the range of f32");
}

/* What comes after a query, or in another sequence, does not reach it. */
static void keys_a_query_does_not_see_do_not_count(void **state)
{
    (void)state;
    const model_facts facts = small_model(1, 64, 64, ROPE_SPLIT_HALF);
    enum { N = 140, D = 64, CONTEXT = 70 };
    float *q = random_floats(N * D, 31), *k = random_floats(N * D, 32), *k_hat = random_floats(N * D, 32);
    attention_error found;
    k_hat[69 * D] += 1.0f; /* the last key of the first sequence: one pair of 2 * 70 * 71 / 2 sees it */
    assert_ok(attention_errors(&found, &facts, q, 1, k, (const float *const[]){k_hat}, 1, N, CONTEXT, &err));
    assert_close(found.causal_mae, fabs((double)q[69 * D]) / (70.0 * 71.0), 1e-8);
    free(q), free(k), free(k_hat);
}

static void any_number_of_threads_gives_the_same_doubles(void **state)
{
    (void)state;
    const model_facts facts = small_model(3, 64, 64, ROPE_SPLIT_HALF);
    const size_t n = 333 * 64;
    float *q = random_floats(3 * n, 41), *k = random_floats(n, 42), *near = disturbed(k, n, 0.1f, 43),
          *far = disturbed(k, n, 1.0f, 44);
    const float *const k_hat[] = {near, far};
    attention_error one[2], many[2];
    rb_threads_init(1);
    assert_ok(attention_errors(one, &facts, q, 3, k, k_hat, 2, 333, 200, &err));
    rb_threads_init(5);
    assert_ok(attention_errors(many, &facts, q, 3, k, k_hat, 2, 333, 200, &err));
    rb_threads_init(0);
    assert_memory_equal(one, many, sizeof one);
    free(q), free(k), free(near), free(far);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_matches_the_definition),
        cmocka_unit_test(turned_vectors_give_the_error_at_the_distance_of_the_pair),
        cmocka_unit_test(two_tokens_by_hand),
        cmocka_unit_test(exact_keys_have_no_error),
        cmocka_unit_test(large_logits_do_not_overflow),
        cmocka_unit_test(logits_beyond_f32_are_an_error),
        cmocka_unit_test(keys_a_query_does_not_see_do_not_count),
        cmocka_unit_test(any_number_of_threads_gives_the_same_doubles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
