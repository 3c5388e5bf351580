/* Bases, curves and plans of method trellis, from made-up metrics and moments. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"
#include "kernels/reference/trellis_codec.h"
#include "methods/trellis_allocation.h"
#include "methods/trellis_basis.h"

enum { N_LAYERS = 2, N_KV_HEADS = 2, N = 8, N_HEADS = N_LAYERS * N_KV_HEADS, SIZE = N * N };

static rb_error err;

static model_facts facts(void)
{
    return (model_facts){.model_type = "llama",
                         .n_layers = N_LAYERS,
                         .n_q_heads = N_KV_HEADS,
                         .n_kv_heads = N_KV_HEADS,
                         .head_dim = N,
                         .rotary_dim = N,
                         .value_dim = N,
                         .rope = {.attention_factor = 1}};
}

/* scale A A^T of random A [N][N], columns of falling size. */
static void make_moment(float *out, uint64_t seed, double scale)
{
    double drawn[SIZE];
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, drawn, SIZE);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0.0;
            for (int k = 0; k < N; k++) sum += drawn[i * N + k] * drawn[j * N + k] * exp2(-k);
            out[i * N + j] = (float)(scale * sum);
        }
}

static double product(const double *a, const float *matrix, const double *b)
{
    double sum = 0.0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) sum += a[i] * (double)matrix[i * N + j] * b[j];
    return sum;
}

/* The metric of two vectors of the basis is 0, of one its harm; the moment is the sum of their outer products. */
static void finds_a_basis_of_independent_harms(void **state)
{
    float metric[SIZE], moment[SIZE];
    double basis[SIZE], harm[N];
    (void)state;
    make_moment(metric, 1, 3.0);
    make_moment(moment, 2, 0.5);
    for (int i = 0; i < N; i++) metric[i * N + i] += 0.1f; /* well above the floor */
    assert_ok(trellis_basis_find(basis, harm, metric, moment, N, &err));
    for (int i = 0; i < N; i++) {
        assert_true(i == 0 || harm[i] <= harm[i - 1]);
        for (int j = 0; j < N; j++) {
            double sum = 0.0;
            assert_true(fabs(product(basis + i * N, metric, basis + j * N) - (i == j ? harm[i] : 0.0))
                        <= 1e-5 * sqrt(harm[i] * harm[j]) + 1e-7 * harm[0]);
            for (int k = 0; k < N; k++) sum += basis[k * N + i] * basis[k * N + j];
            assert_true(fabs(sum - (double)moment[i * N + j]) <= 1e-5 * (double)moment[0]);
        }
    }
}

static void refuses_a_metric_of_zeroes(void **state)
{
    float metric[SIZE] = {0}, moment[SIZE];
    double basis[SIZE], harm[N];
    (void)state;
    make_moment(moment, 2, 0.5);
    err = (rb_error){0};
    assert_int_equal(trellis_basis_find(basis, harm, metric, moment, N, &err), RB_ENONFINITE);
    assert_string_equal(err.msg, "metric of errors is 0");
    metric[3] = NAN;
    err = (rb_error){0};
    assert_int_equal(trellis_basis_find(basis, harm, metric, moment, N, &err), RB_ENONFINITE);
    assert_string_equal(err.msg, "metric of errors is not finite");
}

/* At every byte no other widths do less harm: all are tried for 4 coordinates. */
static void gives_bits_where_they_save_most(void **state)
{
    enum { FOUR = 4 };
    static const float metric[FOUR * FOUR] = {9, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.2f},
                                     moment[FOUR * FOUR] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    trellis_head head;
    (void)state;
    assert_ok(trellis_head_create(&head, metric, moment, FOUR, 3, 2, &err));
    assert_int_equal(head.n_points, 5);
    assert_true(isinf(head.error[0]) && isinf(head.error[1]));
    for (int bytes = 2; bytes < head.n_points; bytes++) {
        double least = INFINITY;
        for (int a = 0; a <= 8; a++)
            for (int b = 0; b <= 8; b++)
                for (int c = 0; c <= 5; c++)
                    if (8 + a + b + c + 3 <= 8 * bytes)
                        least = fmin(least, head.harm[0] * trellis_errors[8] + head.harm[1] * trellis_errors[a]
                                                + head.harm[2] * trellis_errors[b] + head.harm[3] * trellis_errors[c]);
        assert_true(fabs(head.error[bytes] - least) <= 1e-12 * least);
    }
    trellis_head_free(&head);
}

/* ---- plans ----------------------------------------------------------------------------------- */

typedef struct known_heads {
    float key_metric[N_HEADS * SIZE], key_covariance[N_HEADS * SIZE], value_metric[N_HEADS * SIZE],
        value_moment[N_HEADS * SIZE];
    double k_mean[N_HEADS * N], residual[N_LAYERS];
} known_heads;

static known_heads known;

static head_statistics statistics(void)
{
    for (int h = 0; h < N_HEADS; h++) {
        make_moment(known.key_metric + h * SIZE, 10 + (uint64_t)h, h < 2 ? 1.0 : 16.0);
        make_moment(known.key_covariance + h * SIZE, 20 + (uint64_t)h, 1.0);
        make_moment(known.value_metric + h * SIZE, 30 + (uint64_t)h, 4.0);
        make_moment(known.value_moment + h * SIZE, 40 + (uint64_t)h, 1.0);
    }
    for (int i = 0; i < N_HEADS * N; i++) known.k_mean[i] = 0.25 * (i % 5);
    known.residual[0] = 1.0;
    known.residual[1] = 4.0;
    return (head_statistics){.k_mean = known.k_mean,
                             .key_metric = known.key_metric,
                             .key_covariance = known.key_covariance,
                             .value_metric = known.value_metric,
                             .value_moment = known.value_moment,
                             .value_moment_weighted = known.value_moment,
                             .residual_energy = known.residual};
}

static int64_t stored_bits(const plan_head *heads)
{
    int64_t bits = 0;
    for (int h = 0; heads && h < N_HEADS; h++) bits += plan_head_stored_bits(&heads[h], N / 2);
    return bits;
}

static bit_plan *plan_of(const trellis_budget *budget, budget_answer *answer)
{
    const model_facts model = facts();
    const head_statistics own = statistics();
    trellis_curves *curves = NULL;
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    assert_ok(trellis_curves_build(&curves, budget->parts, &model, &own, &err));
    assert_ok(trellis_plan(plan, answer, curves, budget, &err));
    trellis_curves_free(curves);
    return plan;
}

static void shares_a_budget_of_keys_and_values(void **state)
{
    const trellis_budget budget = {.parts = TRELLIS_BOTH, .total_bits = 8 * 30};
    const model_facts model = facts();
    budget_answer answer;
    bit_plan *plan = plan_of(&budget, &answer);
    (void)state;
    assert_int_equal(stored_bits(plan->heads) + stored_bits(plan->value_heads), answer.stored_bits);
    assert_true(answer.stored_bits <= budget.total_bits && answer.stored_bits > budget.total_bits - 8);
    assert_true(answer.objective >= answer.bound && answer.objective < 1.05 * answer.bound);
    for (int h = 0; h < N_HEADS; h++) {
        assert_ok(plan_head_check(&plan->heads[h], &model, "keys", &err));
        assert_ok(plan_head_check(&plan->value_heads[h], &model, "values", &err));
        assert_non_null(plan->heads[h].center);
        assert_null(plan->value_heads[h].center);
    }
    bit_plan_free(plan);
}

static void keeps_the_heads_of_a_layer_equal(void **state)
{
    const trellis_budget budget = {.parts = TRELLIS_BOTH, .total_bits = 8 * 31, .equal_heads = true};
    budget_answer answer;
    bit_plan *plan = plan_of(&budget, &answer);
    (void)state;
    for (int layer = 0; layer < N_LAYERS; layer++) {
        assert_int_equal(plan_head_stored_bits(&plan->heads[2 * layer], N / 2),
                         plan_head_stored_bits(&plan->heads[2 * layer + 1], N / 2));
        assert_int_equal(plan_head_stored_bits(&plan->value_heads[2 * layer], N / 2),
                         plan_head_stored_bits(&plan->value_heads[2 * layer + 1], N / 2));
    }
    assert_int_equal(stored_bits(plan->heads) + stored_bits(plan->value_heads), answer.stored_bits);
    assert_true(answer.stored_bits <= budget.total_bits);
    bit_plan_free(plan);
}

static void sets_one_part_by_itself(void **state)
{
    const trellis_budget keys = {.parts = TRELLIS_KEYS, .total_bits = 8 * 14},
                         values = {.parts = TRELLIS_VALUES, .total_bits = 8 * 14};
    budget_answer answer;
    bit_plan *plan = plan_of(&keys, &answer);
    (void)state;
    assert_null(plan->value_heads);
    assert_int_equal(stored_bits(plan->heads), answer.stored_bits);
    bit_plan_free(plan);
    plan = plan_of(&values, &answer);
    assert_int_equal(stored_bits(plan->value_heads), answer.stored_bits);
    bit_plan_free(plan);
}

static void refuses_what_it_cannot_do(void **state)
{
    const trellis_budget budget = {.parts = TRELLIS_BOTH, .total_bits = 8 * 15};
    const model_facts model = facts();
    const head_statistics own = statistics(), none = {0};
    trellis_curves *curves = NULL;
    budget_answer answer;
    bit_plan *plan = NULL;
    (void)state;
    err = (rb_error){0};
    assert_int_equal(trellis_curves_build(&curves, TRELLIS_BOTH, &model, &none, &err), RB_EINVAL);
    assert_ok(bit_plan_create(&plan, &model, &err));
    assert_ok(trellis_curves_build(&curves, TRELLIS_BOTH, &model, &own, &err));
    err = (rb_error){0};
    assert_int_equal(trellis_plan(plan, &answer, curves, &budget, &err), RB_EINVAL);
    assert_string_equal(err.msg, "budget is 15 bytes a token, expected at least the 16 that method trellis stores");
    trellis_curves_free(curves);
    known.value_metric[3 * SIZE] = NAN;
    err = (rb_error){0};
    assert_int_equal(trellis_curves_build(&curves, TRELLIS_BOTH, &model, &own, &err), RB_ENONFINITE);
    assert_string_equal(err.msg, "layer 1 kv_head 1, values: metric of errors is not finite");
    bit_plan_free(plan);
}

static int start(void **state)
{
    (void)state;
    rb_threads_init(1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_a_basis_of_independent_harms), cmocka_unit_test(refuses_a_metric_of_zeroes),
        cmocka_unit_test(gives_bits_where_they_save_most),    cmocka_unit_test(shares_a_budget_of_keys_and_values),
        cmocka_unit_test(keeps_the_heads_of_a_layer_equal),   cmocka_unit_test(sets_one_part_by_itself),
        cmocka_unit_test(refuses_what_it_cannot_do),
    };
    return cmocka_run_group_tests_name("trellis allocation", tests, start, NULL);
}
