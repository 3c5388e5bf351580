/* The search for the least size that holds a limit, on curves that are made up. */
#include "tests/test_support.h"
#include <cmocka.h>

#include <math.h>

#include "tune/tune_search.h"

enum { MOST = 64 };

typedef double (*curve)(double bits);

typedef struct run_result {
    int n_points, n_passes, answer;
    search_point points[MOST];
} run_result;

/* Sizes of a method are multiples of `grain`; budgets whose plan is known are left out, as tune does. */
static run_result run(curve excess, const search_range *range, double grain)
{
    run_result r = {0};
    double budgets[TUNE_MAX_AT_ONCE];
    for (int n; (n = tune_search_next(budgets, r.points, r.n_points, range)) > 0; r.n_passes++) {
        int n_new = 0;
        assert_true(n <= range->at_once && r.n_points + n <= range->max_evaluations);
        for (int i = 0; i < n; i++) {
            const double bits = grain > 0.0 ? floor(budgets[i] / grain + 1e-9) * grain : budgets[i];
            bool is_known = false;
            assert_true(budgets[i] >= range->from - 1e-9 && budgets[i] <= range->to + 1e-9);
            assert_true(i == 0 || budgets[i] > budgets[i - 1]);
            for (int p = 0; p < r.n_points; p++) is_known |= r.points[p].bits == bits;
            if (!is_known) r.points[r.n_points++] = (search_point){bits, excess(bits), r.n_passes};
            n_new += !is_known;
        }
        if (n_new == 0) break;
    }
    r.answer = tune_search_answer(r.points, r.n_points);
    return r;
}

static search_range usual(void)
{
    return (search_range){.from = 1.5, .to = 16.25, .tolerance = 0.01, .at_once = 3, .max_evaluations = 8};
}

/* log KL falls by ln 2 a bit and meets its limit at 4.37 bits. */
static double straight(double bits) { return -0.6931 * (bits - 4.37); }
/* It falls fast at first, and then slowly. */
static double bent(double bits) { return 9.0 / bits - 9.0 / 4.37; }
static double steep(double bits) { return -3.0 * (bits - 12.1); }
/* Falls to a floor, then no more: the limit is met between. */
static double with_floor(double bits) { return fmax(-0.2, 2.0 - 0.6 * bits); }
/* A straight line with a wave on it: it rises in places. */
static double noisy(double bits) { return straight(bits) + 0.25 * sin(23.0 * bits); }
/* Counts of needles: steps. */
static double steps(double bits) { return bits < 5.3 ? 0.7 : 0.0; }
static double never(double bits) { return 0.5 + 1.0 / bits; }
static double always(double bits) { return -0.1 * bits; }

/* The answer holds, and what was evaluated below it misses, nothing nearer than the tolerance. */
static void check_answer(const run_result *r, double truth, double tolerance)
{
    assert_true(r->answer >= 0);
    assert_true(r->points[r->answer].excess <= 0.0);
    assert_true(fabs(r->points[r->answer].bits / truth - 1.0) <= tolerance);
    for (int i = 0; i < r->n_points; i++)
        assert_true(r->points[i].bits >= r->points[r->answer].bits || r->points[i].excess > 0.0);
}

static void test_smooth_curves_take_three_passes(void **state)
{
    const search_range range = usual();
    const struct {
        curve of;
        double truth;
    } cases[] = {{straight, 4.37}, {bent, 4.37}, {steep, 12.1}, {with_floor, 2.0 / 0.6}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const run_result r = run(cases[i].of, &range, 0.0);
        assert_true(r.n_passes <= 3 && r.n_points <= 8);
        check_answer(&r, cases[i].truth, i == 0 ? 0.01 : 0.05);
    }
}

static void test_more_evaluations_reach_the_tolerance(void **state)
{
    const curve curves[] = {straight, bent, steep, with_floor, steps};
    const double truths[] = {4.37, 4.37, 12.1, 2.0 / 0.6, 5.3};
    (void)state;
    for (int at_once = 1; at_once <= 4; at_once++)
        for (int i = 0; i < 5; i++) {
            search_range range = usual();
            range.at_once = at_once;
            range.max_evaluations = 40;
            const run_result r = run(curves[i], &range, 0.0);
            check_answer(&r, truths[i], 0.01);
            assert_true(r.n_points <= 18 && r.n_passes <= (at_once == 1 ? 10 : 6));
        }
}

static void test_several_at_once_take_fewer_passes(void **state)
{
    search_range one = usual(), three = usual();
    (void)state;
    one.at_once = 1;
    one.max_evaluations = three.max_evaluations = 40;
    assert_true(run(bent, &three, 0.0).n_passes < run(bent, &one, 0.0).n_passes);
}

static void test_noise_leaves_an_answer_that_holds(void **state)
{
    search_range range = usual();
    (void)state;
    for (int most = 3; most <= 24; most++) {
        range.max_evaluations = most;
        const run_result r = run(noisy, &range, 0.0);
        assert_true(r.answer >= 0 && r.points[r.answer].excess <= 0.0 && r.n_points <= most);
        if (most >= 12) check_answer(&r, 4.37, 0.12);
    }
}

static void test_none_holds_evaluates_the_largest(void **state)
{
    const int mosts[] = {3, 4, 8, 20};
    (void)state;
    for (int i = 0; i < 4; i++) {
        search_range range = usual();
        range.max_evaluations = mosts[i];
        const run_result r = run(never, &range, 0.0);
        double largest = 0.0;
        for (int p = 0; p < r.n_points; p++) largest = fmax(largest, r.points[p].bits);
        assert_int_equal(r.answer, -1);
        if (mosts[i] > 3) assert_true(largest > range.to - 1e-9);
        if (mosts[i] == 20) assert_true(r.n_points <= 9); /* it stops at the end of the range */
    }
}

static void test_all_hold_goes_to_the_least(void **state)
{
    const search_range range = usual();
    const run_result r = run(always, &range, 0.0);
    (void)state;
    assert_true(r.answer >= 0 && r.n_points <= 8);
    check_answer(&r, range.from, 0.01);
}

static void test_a_range_of_one_size(void **state)
{
    search_range range = usual();
    (void)state;
    range.from = range.to = 4.0;
    assert_int_equal(run(straight, &range, 0.0).n_points, 1);
    assert_int_equal(run(always, &range, 0.0).n_points, 1);
}

static void test_coarse_sizes_end(void **state)
{
    search_range range = usual();
    (void)state;
    range.max_evaluations = 40;
    const run_result r = run(straight, &range, 0.25);
    check_answer(&r, 4.5, 0.001);
}

static void test_a_search_goes_on_where_it_was_stopped(void **state)
{
    search_range range = usual();
    double budgets[TUNE_MAX_AT_ONCE];
    (void)state;
    const run_result all = run(bent, &range, 0.0);
    for (int n = 0; n < all.n_points; n++) {
        if (n > 0 && all.points[n].pass == all.points[n - 1].pass) continue;
        const int n_next = tune_search_next(budgets, all.points, n, &range);
        for (int i = 0; i < n_next; i++) assert_true(budgets[i] == all.points[n + i].bits);
        assert_true(n_next > 0);
    }
    assert_int_equal(tune_search_next(budgets, all.points, all.n_points, &range), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smooth_curves_take_three_passes),
        cmocka_unit_test(test_more_evaluations_reach_the_tolerance),
        cmocka_unit_test(test_several_at_once_take_fewer_passes),
        cmocka_unit_test(test_noise_leaves_an_answer_that_holds),
        cmocka_unit_test(test_none_holds_evaluates_the_largest),
        cmocka_unit_test(test_all_hold_goes_to_the_least),
        cmocka_unit_test(test_a_range_of_one_size),
        cmocka_unit_test(test_coarse_sizes_end),
        cmocka_unit_test(test_a_search_goes_on_where_it_was_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
