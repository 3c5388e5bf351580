/* Scores of next-token distributions against hand counts. */
#include "tests/test_support.h"

#include "evaluate/token_score.h"

/* Logits are logarithms of probabilities of four tokens, shifted by a constant that must not matter. */
static void fill(float *out, const double *p, double shift)
{
    for (int i = 0; i < 4; i++) out[i] = (float)(log(p[i]) + shift);
}

static void scores_are_those_of_the_distributions(void **state)
{
    (void)state;
    const double p[3][4] = {{0.5, 0.25, 0.125, 0.125}, {0.25, 0.5, 0.125, 0.125}, {0.5, 0.25, 0.125, 0.125}};
    float logits[12], scratch[8];
    token_score out[3];
    for (int run = 0; run < 3; run++) fill(logits + 4 * run, p[run], 10.0 * run - 5.0);
    token_scores(out, logits, 3, 4, 1, scratch);

    assert_true(fabs(out[0].nll - log(4.0)) < 1e-6);
    assert_true(out[0].kl == 0.0 && !out[0].is_target_first && out[0].is_top1_same);
    /* sum p log(p / q) = 0.5 log 2 - 0.25 log 2 */
    assert_true(fabs(out[1].nll - log(2.0)) < 1e-6);
    assert_true(fabs(out[1].kl - 0.25 * log(2.0)) < 1e-6);
    assert_true(out[1].is_target_first && !out[1].is_top1_same);
    assert_true(fabs(out[2].kl) < 1e-6 && out[2].is_top1_same);
}

static void of_equal_logits_the_lowest_id_is_first(void **state)
{
    (void)state;
    const float logits[4] = {0.0f, 3.0f, 3.0f, 1.0f};
    float scratch[8];
    token_score out;
    token_scores(&out, logits, 1, 4, 1, scratch);
    assert_true(out.is_target_first);
    token_scores(&out, logits, 1, 4, 2, scratch);
    assert_false(out.is_target_first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_the_distributions),
        cmocka_unit_test(of_equal_logits_the_lowest_id_is_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
