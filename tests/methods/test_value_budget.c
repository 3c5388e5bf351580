/* methods/value_budget.h against every choice of widths. */
#include "tests/test_support.h"

#include "kernels/reference/numpy_random.h"
#include "methods/value_budget.h"

enum {
    N_LAYERS = 2,
    N_KV_HEADS = 2,
    N_HEADS = N_LAYERS * N_KV_HEADS,
    HEAD_DIM = 20
}; /* 20 dims: 1, 3, 5 and 7 bits are padded */

static rb_error err;

static model_facts some_model(void)
{
    return (model_facts){.model_type = "llama",
                         .n_layers = N_LAYERS,
                         .n_q_heads = 2 * N_KV_HEADS,
                         .n_kv_heads = N_KV_HEADS,
                         .head_dim = HEAD_DIM,
                         .rotary_dim = HEAD_DIM,
                         .value_dim = HEAD_DIM};
}

/* Errors that fall by a factor of about 4 a bit; now and then a width is no better than the one before. */
static void make_errors(double error[N_HEADS][PLAN_MAX_WIDTH], double energy[N_HEADS], uint64_t seed)
{
    numpy_rng rng;
    double draws[PLAN_MAX_WIDTH + 1];
    numpy_rng_seed(&rng, seed);
    for (int h = 0; h < N_HEADS; h++) {
        numpy_rng_standard_normal(&rng, draws, PLAN_MAX_WIDTH + 1);
        energy[h] = 10.0 * exp(draws[0]);
        error[h][0] = exp(2.0 * draws[1]);
        for (int w = 1; w < PLAN_MAX_WIDTH; w++)
            error[h][w] = error[h][w - 1] * (draws[w + 1] > 1.2 ? 1.05 : exp(-1.4 + 0.4 * draws[w + 1]));
    }
}

/* Written out once more: codes up to a whole byte, and an fp16 norm. */
static int bits_by_hand(int width) { return (width * HEAD_DIM + 7) / 8 * 8 + 16; }

static double objective_by_hand(const uint8_t *widths, double error[N_HEADS][PLAN_MAX_WIDTH], const double *energy)
{
    double sum = 0.0;
    for (int h = 0; h < N_HEADS; h++) sum += error[h][widths[h] - 1] / (energy[h / 2 * 2] + energy[h / 2 * 2 + 1]);
    return sum;
}

static double best_by_hand(double error[N_HEADS][PLAN_MAX_WIDTH], const double *energy, int64_t bits)
{
    double least = INFINITY;
    for (int choice = 0; choice < 8 * 8 * 8 * 8; choice++) {
        const uint8_t widths[N_HEADS] = {(uint8_t)(1 + choice % 8), (uint8_t)(1 + choice / 8 % 8),
                                         (uint8_t)(1 + choice / 64 % 8), (uint8_t)(1 + choice / 512)};
        int64_t stored = 0;
        for (int h = 0; h < N_HEADS; h++) stored += bits_by_hand(widths[h]);
        if (stored <= bits) least = fmin(least, objective_by_hand(widths, error, energy));
    }
    return least;
}

static void widths_are_within_the_gap_of_every_choice(void **state)
{
    (void)state;
    const model_facts model = some_model();
    int n_optimal = 0, n_solved = 0;
    for (uint64_t seed = 0; seed < 10; seed++)
        for (double avg_bits = 1.0; avg_bits <= 8.0; avg_bits += 0.25) {
            double error[N_HEADS][PLAN_MAX_WIDTH], energy[N_HEADS];
            uint8_t widths[N_HEADS];
            budget_answer answer;
            int64_t stored = 0;
            make_errors(error, energy, seed);
            const int64_t bits = value_budget_bits(&model, avg_bits);
            assert_ok(
                value_budget_solve(widths, &answer, &model, &(value_statistics){error[0], energy}, avg_bits, 1, &err));
            for (int h = 0; h < N_HEADS; h++) {
                assert_in_range(widths[h], 1, 8);
                stored += bits_by_hand(widths[h]);
            }
            const double found = objective_by_hand(widths, error, energy), least = best_by_hand(error, energy, bits);
            assert_in_range(stored, 0, bits);
            assert_true(fabs(found - answer.objective) <= 1e-12 * found);
            assert_true(found >= least * (1.0 - 1e-12) && least >= answer.bound * (1.0 - 1e-12));
            n_optimal += found <= least * (1.0 + 1e-12);
            n_solved++;
        }
    assert_true(n_optimal >= 9 * n_solved / 10);
}

static void a_whole_average_costs_what_one_width_does(void **state)
{
    (void)state;
    const model_facts model = some_model();
    for (int width = 1; width <= 8; width++)
        assert_int_equal(value_budget_bits(&model, width), N_HEADS * bits_by_hand(width));
    assert_int_equal(value_budget_bits(&model, 2.5), N_HEADS * (50 + 16));
}

/* Equal heads with convex curves share evenly. */
static void equal_heads_get_one_width(void **state)
{
    (void)state;
    const model_facts model = some_model();
    double error[N_HEADS][PLAN_MAX_WIDTH], energy[N_HEADS];
    uint8_t widths[N_HEADS];
    budget_answer answer;
    for (int h = 0; h < N_HEADS; h++) {
        energy[h] = 2.0;
        for (int w = 0; w < PLAN_MAX_WIDTH; w++) error[h][w] = ldexp(1.0, -2 * w - 2);
    }
    assert_ok(value_budget_solve(widths, &answer, &model, &(value_statistics){error[0], energy}, 4, 1, &err));
    for (int h = 0; h < N_HEADS; h++) assert_int_equal(widths[h], 4);
    /* 4^-4 of 2 a head: sqrt(1 / 512). */
    assert_true(fabs(value_output_error(widths, &model, &(value_statistics){error[0], energy}) - sqrt(1.0 / 512.0))
                < 1e-12);
}

/* A layer whose output is 0 has no error to weigh. */
static void a_silent_layer_gets_the_least(void **state)
{
    (void)state;
    const model_facts model = some_model();
    double error[N_HEADS][PLAN_MAX_WIDTH], energy[N_HEADS];
    uint8_t widths[N_HEADS];
    budget_answer answer;
    make_errors(error, energy, 1);
    for (int h = 2; h < 4; h++) {
        energy[h] = 0.0;
        memset(error[h], 0, sizeof error[h]);
    }
    assert_ok(value_budget_solve(widths, &answer, &model, &(value_statistics){error[0], energy}, 3, 1, &err));
    assert_int_equal(widths[2], 1);
    assert_int_equal(widths[3], 1);
    assert_true(widths[0] + widths[1] > 6);
    assert_true(isfinite(value_output_error(widths, &model, &(value_statistics){error[0], energy})));
}

static void no_head_is_below_the_least_width(void **state)
{
    (void)state;
    const model_facts model = some_model();
    double error[N_HEADS][PLAN_MAX_WIDTH], energy[N_HEADS];
    uint8_t widths[N_HEADS];
    budget_answer answer;
    make_errors(error, energy, 3);
    for (int w = 0; w < PLAN_MAX_WIDTH; w++) error[1][w] *= 1e-6; /* would get 1 bit */
    const value_statistics statistics = {error[0], energy};
    assert_ok(value_budget_solve(widths, &answer, &model, &statistics, 3, 1, &err));
    assert_int_equal(widths[1], 1);
    assert_ok(value_budget_solve(widths, &answer, &model, &statistics, 3, 2, &err));
    assert_int_equal(widths[1], 2);
    assert_true(fabs(answer.objective - objective_by_hand(widths, error, energy)) <= 1e-12 * answer.objective);
    /* An average below it has its own whole bits. */
    assert_ok(value_budget_solve(widths, &answer, &model, &statistics, 1.9, 2, &err));
    assert_int_equal(widths[1], 1);
    assert_ok(value_budget_solve(widths, &answer, &model, &statistics, 4, 4, &err));
    for (int h = 0; h < N_HEADS; h++) assert_int_equal(widths[h], 4);
    assert_fails(value_budget_solve(widths, &answer, &model, &statistics, 4, 0, &err), RB_EINVAL,
                 "least width of values is 0, expected 1 to 8");
}

static void averages_beyond_the_codec_are_refused(void **state)
{
    (void)state;
    const model_facts model = some_model();
    double error[N_HEADS][PLAN_MAX_WIDTH], energy[N_HEADS];
    uint8_t widths[N_HEADS];
    budget_answer answer;
    make_errors(error, energy, 1);
    const value_statistics statistics = {error[0], energy};
    assert_fails(value_budget_solve(widths, &answer, &model, &statistics, 0.5, 1, &err), RB_EINVAL,
                 "values of 0.5 bits on average, expected 1 to 8");
    assert_fails(value_budget_solve(widths, &answer, &model, &statistics, 16, 1, &err), RB_EINVAL, "values of 16 bits");
    assert_fails(value_budget_solve(widths, &answer, &model, &statistics, NAN, 1, &err), RB_EINVAL, "expected 1 to 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widths_are_within_the_gap_of_every_choice),
        cmocka_unit_test(a_whole_average_costs_what_one_width_does),
        cmocka_unit_test(equal_heads_get_one_width),
        cmocka_unit_test(a_silent_layer_gets_the_least),
        cmocka_unit_test(no_head_is_below_the_least_width),
        cmocka_unit_test(averages_beyond_the_codec_are_refused),
    };
    return cmocka_run_group_tests_name("value_budget", tests, NULL, NULL);
}
