/* Budgets in what is paid: allocate/budget.h. Sizes are counted by hand. */
#include "tests/test_support.h"

#include "allocate/budget.h"
#include "tests/plan/some_plan.h"

enum { N_LAYERS = 2, N_KV_HEADS = 2, HEAD_DIM = 32, N_BLOCKS = HEAD_DIM / 2, N_HEADS = N_LAYERS * N_KV_HEADS };

static rb_error err;
static double energy[N_HEADS * N_BLOCKS];

static model_facts small_model(void) { return some_model(N_LAYERS, N_KV_HEADS, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF); }

static int fill_energy(void **state)
{
    (void)state;
    for (int i = 0; i < N_HEADS * N_BLOCKS; i++) energy[i] = 1.0 + (i * 37 % 101) * (i % 5 == 0 ? 100.0 : 1.0);
    return 0;
}

/* Stored key bits of a token by a method within so many true bits a dim; fails where the call must not. */
static int64_t bits_within(const model_facts *model, allocation_method method, double true_bits, double *avg_bits)
{
    const text_facts text = {.n_tokens = 100, .context = 100};
    const head_statistics statistics = {.q_energy = energy, .k_energy = energy};
    const plan_request request = {.model = model,
                                  .calibration = &text,
                                  .statistics = &statistics,
                                  .method = method,
                                  .value_width = PLAN_FP16_WIDTH,
                                  .value_true_bits = (double)NAN};
    const plan_budget budget = {BUDGET_TRUE_BITS, true_bits};
    bit_plan *plan = NULL;
    assert_ok(allocate_within(&plan, NULL, &request, &budget, &err));
    const int64_t bits = allocate_key_bits(plan);
    *avg_bits = plan->avg_bits;
    bit_plan_free(plan);
    return bits;
}

/* A head of uniform stores 32 codes and one norm of 16 bits: 32 w + 16 bits, w + 0.5 a dim. */
static void uniform_takes_the_largest_width_that_fits_and_no_larger(void **state)
{
    (void)state;
    const model_facts model = small_model();
    double avg_bits;
    for (int width = 1; width <= 8; width++) {
        assert_int_equal(bits_within(&model, METHOD_UNIFORM, width + 0.5, &avg_bits), N_HEADS * (32 * width + 16));
        assert_true(avg_bits == width);
        if (width == 8) continue;
        assert_int_equal(bits_within(&model, METHOD_UNIFORM, width + 1.499, &avg_bits), N_HEADS * (32 * width + 16));
        assert_true(avg_bits == width);
    }
}

/* No step of one bit of a block in every head is left that would still fit. */
static void block_gtq_never_costs_more_than_it_may(void **state)
{
    (void)state;
    const model_facts model = small_model();
    const double dims = (double)N_HEADS * HEAD_DIM;
    double avg_bits, before = 0.0;
    for (double budget = 2.0; budget < 9.0; budget += 0.17) {
        const double stored = (double)bits_within(&model, METHOD_BLOCK_GTQ, budget, &avg_bits);
        assert_true(stored <= budget * dims);
        assert_true(stored > (budget - 1.0) * dims || avg_bits == 8.0);
        assert_true(avg_bits >= before);
        before = avg_bits;
    }
    assert_true(before == 8.0);
}

static void less_than_a_method_stores_at_least_is_refused(void **state)
{
    (void)state;
    const model_facts model = small_model();
    const text_facts text = {.n_tokens = 100, .context = 100};
    const head_statistics statistics = {.q_energy = energy, .k_energy = energy};
    const plan_budget budget = {BUDGET_TRUE_BITS, 1.49};
    for (allocation_method method = METHOD_UNIFORM; method <= METHOD_BLOCK_GTQ; method++) {
        const plan_request request = {.model = &model,
                                      .calibration = &text,
                                      .statistics = &statistics,
                                      .method = method,
                                      .value_width = PLAN_FP16_WIDTH,
                                      .value_true_bits = (double)NAN};
        bit_plan *plan = NULL;
        assert_fails(allocate_within(&plan, NULL, &request, &budget, &err), RB_EINVAL, "budget is 1.490 true bits");
        assert_null(plan);
    }
}

/* fp16 tokens take 2 * 2 heads * 2 layers * (32 + 32) bytes = 512 a token; what is left is shared by whole bytes. */
static void memory_is_shared_by_the_tokens_that_are_coded(void **state)
{
    (void)state;
    const model_facts model = small_model();
    plan_budget budget;
    assert_ok(plan_budget_of_memory(&budget, 10000, 100, 0, &model, &err));
    assert_true(budget.kind == BUDGET_BYTES_PER_TOKEN && budget.amount == 100.0);
    assert_ok(plan_budget_of_memory(&budget, 10099, 100, 0, &model, &err));
    assert_true(budget.amount == 100.0);
    assert_ok(plan_budget_of_memory(&budget, 10 * 512 + 9000, 100, 10, &model, &err));
    assert_true(budget.amount == 100.0);
    assert_fails(plan_budget_of_memory(&budget, 10 * 512, 100, 10, &model, &err), RB_EINVAL,
                 "10 of 100 tokens stay fp16, which takes 5120 bytes of 5120");
    assert_fails(plan_budget_of_memory(&budget, 1 << 20, 100, 100, &model, &err), RB_EINVAL, "100 of 100 tokens");
    assert_fails(plan_budget_of_memory(&budget, 1 << 20, 100, 200, &model, &err), RB_EINVAL, "100 of 100 tokens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniform_takes_the_largest_width_that_fits_and_no_larger),
        cmocka_unit_test(block_gtq_never_costs_more_than_it_may),
        cmocka_unit_test(less_than_a_method_stores_at_least_is_refused),
        cmocka_unit_test(memory_is_shared_by_the_tokens_that_are_coded),
    };
    return cmocka_run_group_tests_name("budget", tests, fill_energy, NULL);
}
