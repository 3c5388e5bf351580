/* Draws: the most likely token, what top_k and top_p leave, shares that follow softmax, seeds. */
#include "tests/test_support.h"

#include "generate/sampler.h"

static rb_error err;

static int32_t next(sampler *s, const float *logits)
{
    int32_t id = -1;
    assert_ok(sampler_next(s, logits, &id, &err));
    return id;
}

static void the_most_likely_token_is_the_first_of_equal_ones(void **state)
{
    (void)state;
    static const float logits[5] = {-3, 2, -INFINITY, 2, 1};
    sampler s;
    assert_ok(sampler_create(&s, &(sampler_options){0}, 5, &err));
    assert_int_equal(next(&s, logits), 1);
    sampler_free(&s);
}

/* 4000 draws of probabilities p: shares within 5 standard deviations. */
static void draws_follow_the_probabilities(void **state)
{
    (void)state;
    enum { N = 4000 };
    static const float logits[4] = {0.0f, 0.6931472f, 1.3862944f, -INFINITY}; /* 1 : 2 : 4 : 0 */
    static const struct {
        sampler_options options;
        double weight[4];
    } cases[] = {{{.temperature = 1, .top_p = 1}, {1, 2, 4, 0}},
                 {{.temperature = 0.5, .top_p = 1}, {1, 4, 16, 0}},
                 {{.temperature = 1, .top_k = 2, .top_p = 1}, {0, 2, 4, 0}},
                 {{.temperature = 1, .top_p = 0.8}, {0, 2, 4, 0}},
                 {{.temperature = 1, .top_p = 0.5}, {0, 0, 1, 0}},
                 {{.temperature = 1, .top_k = 1, .top_p = 1}, {0, 0, 1, 0}}};
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const double *w = cases[c].weight, sum = w[0] + w[1] + w[2];
        int n[4] = {0};
        sampler s;
        assert_ok(sampler_create(&s, &cases[c].options, 4, &err));
        for (int i = 0; i < N; i++) n[next(&s, logits)]++;
        for (int i = 0; i < 4; i++) {
            const double p = w[i] / sum, deviation = 5 * sqrt(N * p * (1 - p));
            if (fabs(n[i] - N * p) > deviation) fail_msg("case %zu token %d: %d of %d draws", c, i, n[i], N);
        }
        sampler_free(&s);
    }
}

static void a_seed_gives_the_same_draws(void **state)
{
    (void)state;
    static const float logits[8] = {0};
    int n_same = 0;
    sampler a, b, other;
    assert_ok(sampler_create(&a, &(sampler_options){.temperature = 1, .top_p = 1, .seed = 7}, 8, &err));
    assert_ok(sampler_create(&b, &(sampler_options){.temperature = 1, .top_p = 1, .seed = 7}, 8, &err));
    assert_ok(sampler_create(&other, &(sampler_options){.temperature = 1, .top_p = 1, .seed = 8}, 8, &err));
    for (int i = 0; i < 100; i++) {
        const int32_t id = next(&a, logits);
        assert_int_equal(next(&b, logits), id);
        n_same += next(&other, logits) == id;
    }
    assert_true(n_same < 50);
    sampler_free(&a), sampler_free(&b), sampler_free(&other);
}

static void logits_that_say_nothing_are_an_error(void **state)
{
    (void)state;
    static const float nan_one[2] = {0, NAN}, none[2] = {-INFINITY, -INFINITY}, infinite[2] = {INFINITY, 0};
    int32_t id;
    sampler s;
    assert_ok(sampler_create(&s, &(sampler_options){0}, 2, &err));
    assert_fails(sampler_next(&s, nan_one, &id, &err), RB_ENONFINITE, "the logit of token 1 is not a number");
    assert_fails(sampler_next(&s, none, &id, &err), RB_ENONFINITE, "no token has a finite logit");
    assert_fails(sampler_next(&s, infinite, &id, &err), RB_ENONFINITE, "no token has a finite logit");
    sampler_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_most_likely_token_is_the_first_of_equal_ones),
        cmocka_unit_test(draws_follow_the_probabilities),
        cmocka_unit_test(a_seed_gives_the_same_draws),
        cmocka_unit_test(logits_that_say_nothing_are_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
