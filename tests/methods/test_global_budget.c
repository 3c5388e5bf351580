/* methods/global_budget.h against every choice of points, and what it must hold on heads by the hundred. */
#include "tests/test_support.h"

#include "core/status.h"
#include "kernels/reference/numpy_random.h"
#include "methods/global_budget.h"

enum { MAX_HEADS = 8, N_POINTS = 24 };

static rb_error err;

/* Falling curves that are not convex: each byte gains a random share of what is left, often nothing. */
typedef struct heads {
    int n;
    double error[MAX_HEADS][N_POINTS], weights[MAX_HEADS];
    budget_curve curves[MAX_HEADS];
} heads;

static void make_heads(heads *h, int n, uint64_t seed)
{
    numpy_rng rng;
    double draws[N_POINTS];
    numpy_rng_seed(&rng, seed);
    h->n = n;
    for (int i = 0; i < n; i++) {
        numpy_rng_standard_normal(&rng, draws, N_POINTS);
        h->error[i][0] = exp(draws[0]);
        for (int p = 1; p < N_POINTS; p++)
            h->error[i][p] = h->error[i][p - 1] * (draws[p] < 0.3 ? 1.0 : exp(-0.6 * draws[p]));
        h->weights[i] = exp(0.5 * draws[1]);
        h->curves[i] = (budget_curve){N_POINTS, h->error[i]};
    }
}

static budget_request request_for(const heads *h, int n_layers, budget_scope scope, budget_objective objective,
                                  int64_t total_bits)
{
    return (budget_request){.n_layers = n_layers,
                            .heads_per_layer = h->n / n_layers,
                            .curves = h->curves,
                            .weights = h->weights,
                            .objective = objective,
                            .scope = scope,
                            .total_bits = total_bits};
}

static double value_at(const budget_request *r, int head, int point)
{
    const double error = r->curves[head].error[point];
    return (r->weights ? r->weights[head] : 1.0) * (r->objective == OBJECTIVE_MAE ? sqrt(error) : error);
}

/* Least sum of heads `head` to `end` - 1 within `bytes`, each from `low` to `high` bytes. */
static double try_every_choice(const budget_request *r, int head, int end, int low, int high, int bytes)
{
    double least = INFINITY;
    if (head == end) return 0.0;
    for (int p = low; p <= high && p <= bytes; p++)
        if (r->curves[head].error[p] < INFINITY)
            least = fmin(least, value_at(r, head, p) + try_every_choice(r, head + 1, end, low, high, bytes - p));
    return least;
}

static void assert_answer_is_consistent(const budget_request *r, const int32_t *points, const budget_answer *answer)
{
    double value = 0.0;
    int64_t bits = 0;
    for (int h = 0; h < r->n_layers * r->heads_per_layer; h++) {
        assert_in_range(points[h], 0, r->curves[h].n_points - 1);
        value += value_at(r, h, points[h]);
        bits += 8 * points[h];
    }
    assert_int_equal(answer->stored_bits, bits);
    assert_in_range(bits, 0, r->total_bits);
    assert_true(fabs(value - answer->objective) <= 1e-12 * value);
    assert_true(answer->objective >= answer->bound);
}

static void three_heads_are_within_the_gap_of_every_choice(void **state)
{
    (void)state;
    int n_optimal = 0, n_solved = 0;
    for (uint64_t seed = 0; seed < 20; seed++)
        for (int objective = 0; objective < OBJECTIVE_N; objective++)
            for (int bytes = 0; bytes <= 3 * N_POINTS; bytes += 3) {
                heads h;
                int32_t points[3];
                budget_answer answer;
                make_heads(&h, 3, seed);
                const budget_request r = request_for(&h, 1, SCOPE_MODEL, (budget_objective)objective, 8 * bytes + 5);
                assert_ok(budget_solve(points, &answer, &r, &err));
                assert_answer_is_consistent(&r, points, &answer);
                const double least = try_every_choice(&r, 0, 3, 0, N_POINTS - 1, bytes);
                assert_true(answer.bound <= least * (1.0 + 1e-12));
                assert_true(answer.objective >= least * (1.0 - 1e-12));
                n_optimal += answer.objective <= least * (1.0 + 1e-12);
                n_solved++;
            }
    if (getenv("RB_TEST_REPORT")) printf("three heads: the optimum in %d of %d\n", n_optimal, n_solved);
    assert_true(n_optimal >= n_solved * 95 / 100);
}

/* Any two allocations of two heads are one trade apart. */
static void two_heads_get_the_optimum(void **state)
{
    (void)state;
    for (uint64_t seed = 50; seed < 80; seed++)
        for (int bytes = 0; bytes <= 2 * N_POINTS; bytes++) {
            heads h;
            int32_t points[2];
            budget_answer answer;
            make_heads(&h, 2, seed);
            const budget_request r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_MAE, 8 * bytes);
            assert_ok(budget_solve(points, &answer, &r, &err));
            assert_answer_is_consistent(&r, points, &answer);
            assert_true(answer.objective <= try_every_choice(&r, 0, 2, 0, N_POINTS - 1, bytes) * (1.0 + 1e-12));
        }
}

/* On the hull the bound is met: 3 heads of convex curves with the same steps of one byte. */
static void convex_curves_have_no_gap(void **state)
{
    (void)state;
    double error[3][N_POINTS];
    budget_curve curves[3];
    int32_t points[3];
    for (int i = 0; i < 3; i++) {
        for (int p = 0; p < N_POINTS; p++) error[i][p] = (i + 1) * exp2(-0.5 * p);
        curves[i] = (budget_curve){N_POINTS, error[i]};
    }
    for (int bytes = 0; bytes <= 3 * (N_POINTS - 1); bytes++) {
        budget_answer answer;
        const budget_request r = {.n_layers = 1,
                                  .heads_per_layer = 3,
                                  .curves = curves,
                                  .scope = SCOPE_MODEL,
                                  .objective = OBJECTIVE_VARIANCE,
                                  .total_bits = 8 * bytes};
        assert_ok(budget_solve(points, &answer, &r, &err));
        assert_answer_is_consistent(&r, points, &answer);
        assert_int_equal(answer.stored_bits, 8 * bytes);
        assert_true(answer.objective - answer.bound <= 1e-12 * answer.objective);
    }
}

static void scopes_share_as_they_say(void **state)
{
    (void)state;
    enum { N = 6, LAYERS = 2, BYTES = 59 };
    heads h;
    int32_t points[N];
    budget_answer head, layer, model;
    make_heads(&h, N, 4);
    budget_request r = request_for(&h, LAYERS, SCOPE_HEAD, OBJECTIVE_MAE, 8 * BYTES);
    assert_ok(budget_solve(points, &head, &r, &err));
    assert_answer_is_consistent(&r, points, &head);
    /* 9 bytes a head, and of the 5 that are left 3 for one layer: that which gains more. */
    double value[LAYERS][2] = {{0}};
    for (int i = 0; i < N; i++)
        for (int more = 0; more < 2; more++) value[i / 3][more] += value_at(&r, i, BYTES / N + more);
    const int chosen = value[1][0] - value[1][1] > value[0][0] - value[0][1];
    assert_true(value[chosen][0] > value[chosen][1]);
    for (int i = 0; i < N; i++) {
        const int bytes = BYTES / N + (i / 3 == chosen);
        assert_in_range(points[i], 0, bytes);
        assert_true(h.error[i][points[i]] == h.error[i][bytes]);
        if (points[i] > 0) assert_true(h.error[i][points[i]] < h.error[i][points[i] - 1]); /* no byte for nothing */
    }
    assert_true(head.objective == head.bound);
    r.scope = SCOPE_LAYER;
    assert_ok(budget_solve(points, &layer, &r, &err));
    assert_answer_is_consistent(&r, points, &layer);
    for (int l = 0; l < LAYERS; l++) {
        const int *p = points + l * N / LAYERS;
        assert_in_range(p[0] + p[1] + p[2], 0, BYTES / LAYERS);
        const double least = try_every_choice(&r, l * 3, l * 3 + 3, 0, N_POINTS - 1, BYTES / LAYERS);
        assert_true(value_at(&r, l * 3, p[0]) + value_at(&r, l * 3 + 1, p[1]) + value_at(&r, l * 3 + 2, p[2])
                    <= least + (layer.objective - layer.bound) + 1e-12);
    }
    r.scope = SCOPE_MODEL;
    assert_ok(budget_solve(points, &model, &r, &err));
    assert_answer_is_consistent(&r, points, &model);
    assert_true(model.objective < layer.objective && layer.objective < head.objective);
}

static void floors_and_ceilings_are_kept(void **state)
{
    (void)state;
    for (int bytes = 12; bytes <= 30; bytes++) {
        heads h;
        int32_t points[3];
        budget_answer answer;
        make_heads(&h, 3, 9);
        budget_request r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_MAE, 8 * bytes);
        r.min_head_bits = 8 * 4 - 7; /* whole bytes: 4 */
        r.max_head_bits = 8 * 9 + 7; /* and 9 */
        assert_ok(budget_solve(points, &answer, &r, &err));
        assert_answer_is_consistent(&r, points, &answer);
        for (int i = 0; i < 3; i++) assert_in_range(points[i], 4, 9);
        const double least = try_every_choice(&r, 0, 3, 4, 9, bytes);
        assert_true(answer.objective <= least * 1.02 && answer.bound <= least * (1.0 + 1e-12));
    }
}

static void a_head_of_no_weight_gives_its_bits_away(void **state)
{
    (void)state;
    heads h;
    int32_t points[3];
    budget_answer answer;
    make_heads(&h, 3, 2);
    h.weights[1] = 0.0;
    const budget_request r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_VARIANCE, 8 * 30);
    assert_ok(budget_solve(points, &answer, &r, &err));
    assert_int_equal(points[1], 0);
    assert_true(h.error[0][points[0]] < h.error[0][0] && h.error[2][points[2]] < h.error[2][0]);
}

/* Points where nothing fits are passed over, and told when the budget cannot. */
static void heads_that_need_bits_get_them_first(void **state)
{
    (void)state;
    heads h;
    int32_t points[3];
    budget_answer answer;
    make_heads(&h, 3, 3);
    for (int p = 0; p < 5; p++) h.error[2][p] = INFINITY;
    budget_request r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_MAE, 8 * 5);
    assert_ok(budget_solve(points, &answer, &r, &err));
    assert_int_equal(points[2], 5);
    r.total_bits = 8 * 5 - 1;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL,
                 "a budget of 32 bits for heads 0 to 2, which need 40");
    r.total_bits = 800;
    r.max_head_bits = 39;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "head 2 needs 40 bits, its limit is 39");
}

static void bad_requests_are_told(void **state)
{
    (void)state;
    heads h;
    int32_t points[3];
    budget_answer answer;
    make_heads(&h, 3, 3);
    budget_request r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_MAE, 100);
    r.n_layers = 0;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "0 layers of 3 heads");
    r = request_for(&h, 1, SCOPE_N, OBJECTIVE_MAE, 100);
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "scope of the budget is 3");
    r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_N, 100);
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "objective is 2");
    r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_MAE, -1);
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "a budget of -1 bits");
    r = request_for(&h, 1, SCOPE_MODEL, OBJECTIVE_MAE, 100);
    r.max_head_bits = -1;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "limits of a head are 0 and -1 bits");
    r.max_head_bits = 0;
    h.weights[2] = NAN;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "head 2: weight is nan");
    h.weights[2] = 1.0;
    h.error[1][7] = 1e9;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL,
                 "head 1: error within 7 bytes is 1e+09, expected a finite number that does not rise");
    h.curves[1].n_points = 0;
    assert_fails(budget_solve(points, &answer, &r, &err), RB_EINVAL, "head 1: a curve of 0 points");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(three_heads_are_within_the_gap_of_every_choice),
        cmocka_unit_test(two_heads_get_the_optimum),
        cmocka_unit_test(convex_curves_have_no_gap),
        cmocka_unit_test(scopes_share_as_they_say),
        cmocka_unit_test(floors_and_ceilings_are_kept),
        cmocka_unit_test(a_head_of_no_weight_gives_its_bits_away),
        cmocka_unit_test(heads_that_need_bits_get_them_first),
        cmocka_unit_test(bad_requests_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
