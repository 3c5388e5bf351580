/* Method optimal: budgets are kept, its parts do what they are for, and what it promises is what the codec then does.
 */
#include "tests/test_support.h"

#include "allocate/budget.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"
#include "methods/plan_error.h"

enum { N_LAYERS = 2, N_KV_HEADS = 2, N_HEADS = N_LAYERS * N_KV_HEADS, D = 32, N_BLOCKS = D / 2, N = 4000 };

static rb_error err;
static const text_facts calibration = {.n_tokens = N, .context = N};
static double q_energy[N_HEADS * N_BLOCKS], k_energy[N_HEADS * N_BLOCKS], k_mean[N_HEADS * D];

static model_facts some_model(void)
{
    model_facts model = {
        .model_type = "llama",
        .n_layers = N_LAYERS,
        .n_q_heads = N_KV_HEADS,
        .n_kv_heads = N_KV_HEADS,
        .head_dim = D,
        .rotary_dim = D,
        .value_dim = D,
        .attention_scale = 0.25,
        .rope = {
            .attention_factor = 1, .kind = ROPE_DEFAULT, .pairing = ROPE_SPLIT_HALF, .theta = 10000.0, .factor = 1.0}};
    memset(model.config_sha256, 'c', RB_SHA256_HEX - 1);
    for (int i = 0; i < N_BLOCKS; i++) model.rope.inv_freq[i] = pow(10000.0, -2.0 * i / D);
    return model;
}

/* Blocks of falling energy, more so in later heads; a mean key in the first dims. */
static int make_energies(void **state)
{
    (void)state;
    for (int h = 0; h < N_HEADS; h++) {
        for (int i = 0; i < N_BLOCKS; i++) {
            q_energy[h * N_BLOCKS + i] = exp(-0.2 * (h + 1) * i) * (i % 3 + 1);
            k_energy[h * N_BLOCKS + i] = 2.0 * exp(-0.15 * (h + 1) * i) * ((i * 5) % 7 + 1);
        }
        for (int i = 0; i < D; i++) k_mean[h * D + i] = i < 4 ? sqrt(0.8 * k_energy[h * N_BLOCKS + i]) : 0.0;
    }
    return 0;
}

static const head_statistics statistics = {.q_energy = q_energy, .k_energy = k_energy, .k_mean = k_mean};

static bit_plan *within(allocation_method method, const optimal_options *options, budget_kind kind, double amount,
                        budget_answer *answer)
{
    const model_facts model = some_model();
    const plan_budget budget = {kind, amount};
    const plan_request request = {.model = &model,
                                  .calibration = &calibration,
                                  .statistics = &statistics,
                                  .method = method,
                                  .options = options,
                                  .value_width = 3};
    bit_plan *plan = NULL;
    assert_ok(allocate_within(&plan, answer, &request, &budget, &err));
    return plan;
}

static double objective(allocation_method method, const optimal_options *options, double true_bits)
{
    budget_answer answer;
    bit_plan_free(within(method, options, BUDGET_TRUE_BITS, true_bits, &answer));
    return answer.objective;
}

/* ---- attention factor ------------------------------------------------------------------------ */

/* RoPE multiplies queries and keys, so a logit's variance by the fourth power; the keys that are coded stay what they
 * are. So it is as if the queries had that much more energy. */
static void a_gain_is_query_energy_to_the_fourth(void **state)
{
    (void)state;
    const optimal_options options = optimal_options_default();
    model_facts model = some_model(), plain = model;
    double weighed[N_HEADS * N_BLOCKS];
    bit_plan *plans[2];
    codec_errors errors = {.n_blocks = N_BLOCKS};
    plan_prediction predicted[2];
    plain.rotary_dim = model.rotary_dim = D / 2;
    model.rope.attention_factor = 1.5;
    for (int i = 0; i < N_HEADS * N_BLOCKS; i++)
        weighed[i] = q_energy[i] * (i % N_BLOCKS < N_BLOCKS / 2 ? 1.5 * 1.5 * 1.5 * 1.5 : 1.0);
    const head_statistics larger = {.q_energy = weighed, .k_energy = k_energy, .k_mean = k_mean};
    const plan_budget budget = {BUDGET_TRUE_BITS, 2.5};
    const plan_request requests[] = {{.model = &model, .statistics = &statistics},
                                     {.model = &plain, .statistics = &larger}};
    for (int i = 0; i < 2; i++) {
        budget_answer answer;
        plan_request request = requests[i];
        request.calibration = &calibration;
        request.method = METHOD_OPTIMAL;
        request.options = &options;
        request.value_width = 3;
        assert_ok(allocate_within(&plans[i], &answer, &request, &budget, &err));
        assert_ok(plan_predict(&predicted[i], plans[i], request.statistics, &errors, &err));
    }
    for (int h = 0; h < N_HEADS; h++) assert_true(plan_head_equal(&plans[0]->heads[h], &plans[1]->heads[h], &plain));
    assert_true(predicted[0].logit_mae == predicted[1].logit_mae);
    for (int i = 0; i < 2; i++) bit_plan_free(plans[i]);
    codec_errors_free(&errors);
}

/* ---- budgets --------------------------------------------------------------------------------- */

static void every_budget_is_kept_and_nearly_spent(void **state)
{
    (void)state;
    const optimal_options options = optimal_options_default();
    const double value_bits = (3.0 * D + 16.0) / D;
    budget_answer answer;
    for (double bits = 1.5; bits <= 6.0; bits += 1.35) {
        bit_plan *plan = within(METHOD_OPTIMAL, &options, BUDGET_TRUE_BITS, bits, &answer);
        assert_true(bit_plan_cost(plan).key_true_bits <= bits && bit_plan_cost(plan).key_true_bits > bits - 0.1);
        bit_plan_free(plan);
        const double bytes = floor((bits + value_bits) * D * N_HEADS / 8.0);
        plan = within(METHOD_OPTIMAL_CENTER, &options, BUDGET_BYTES_PER_TOKEN, bytes, &answer);
        assert_true(bit_plan_cost(plan).bytes_per_token <= bytes && bit_plan_cost(plan).bytes_per_token > bytes - 2.0);
        bit_plan_free(plan);
    }
}

static void published_methods_take_the_largest_budget_that_fits(void **state)
{
    (void)state;
    const model_facts model = some_model();
    for (double bits = 1.9; bits < 6.0; bits += 0.37) {
        bit_plan *plan = within(METHOD_BLOCK_GTQ, NULL, BUDGET_TRUE_BITS, bits, NULL), *dearer = NULL;
        assert_true(bit_plan_cost(plan).key_true_bits <= bits);
        const double step = 1.0 / N_BLOCKS;
        for (double above = plan->avg_bits + step; above <= plan->avg_bits + 3 * step; above += step) {
            assert_ok(allocate_plan(&dearer, &model, &calibration, METHOD_BLOCK_GTQ, above, 3, &statistics, &err));
            assert_true(bit_plan_cost(dearer).key_true_bits > bits);
            bit_plan_free(dearer);
        }
        bit_plan_free(plan);
    }
    bit_plan *plan = within(METHOD_UNIFORM, NULL, BUDGET_TRUE_BITS, 3.49, NULL); /* 16 / 32 for the norm */
    assert_true(plan->avg_bits == 2.0);
    bit_plan_free(plan);
}

static void at_nominal_bits_it_stores_what_block_gtq_stores(void **state)
{
    (void)state;
    const optimal_options options = optimal_options_default();
    budget_answer answer;
    bit_plan *published = within(METHOD_BLOCK_GTQ, NULL, BUDGET_AVG_BITS, 2.5, NULL),
             *own = within(METHOD_OPTIMAL, &options, BUDGET_AVG_BITS, 2.5, &answer);
    assert_true(own->avg_bits == 2.5);
    assert_true(allocate_key_bits(own) <= allocate_key_bits(published)
                && allocate_key_bits(own) > allocate_key_bits(published) - 32);
    assert_string_equal(own->method, "optimal");
    bit_plan_free(published);
    bit_plan_free(own);
}

static void budgets_below_anything_are_refused(void **state)
{
    (void)state;
    const model_facts model = some_model();
    const optimal_options options = optimal_options_default();
    plan_request request = {.model = &model,
                            .calibration = &calibration,
                            .statistics = &statistics,
                            .method = METHOD_BLOCK_GTQ,
                            .options = &options,
                            .value_width = 3};
    bit_plan *plan = NULL;
    budget_answer answer;
    assert_fails(allocate_within(&plan, &answer, &request, &(plan_budget){BUDGET_TRUE_BITS, 1.2}, &err), RB_EINVAL,
                 "budget is 1.200 true bits");
    assert_fails(allocate_within(&plan, &answer, &request, &(plan_budget){BUDGET_BYTES_PER_TOKEN, 50}, &err), RB_EINVAL,
                 "budget is 50 bytes a token, expected more than the values alone take: 56");
    request.method = METHOD_OPTIMAL;
    assert_fails(allocate_within(&plan, &answer, &request, &(plan_budget){BUDGET_TRUE_BITS, 0.25}, &err), RB_EINVAL,
                 "");
    assert_null(plan);
}

static void values_get_whole_bits_of_their_half(void **state)
{
    (void)state;
    const model_facts model = some_model();
    assert_int_equal(plan_budget_value_width(&(plan_budget){BUDGET_AVG_BITS, 2.7}, &model), 2);
    assert_int_equal(plan_budget_value_width(&(plan_budget){BUDGET_TRUE_BITS, 0.5}, &model), 1);
    assert_int_equal(plan_budget_value_width(&(plan_budget){BUDGET_TRUE_BITS, 12}, &model), 8);
    /* 4 heads of 3 * 32 + 16 bits are 56 bytes, of 4 bits 72. */
    assert_int_equal(plan_budget_value_width(&(plan_budget){BUDGET_BYTES_PER_TOKEN, 112}, &model), 3);
    assert_int_equal(plan_budget_value_width(&(plan_budget){BUDGET_BYTES_PER_TOKEN, 143}, &model), 3);
    assert_int_equal(plan_budget_value_width(&(plan_budget){BUDGET_BYTES_PER_TOKEN, 144}, &model), 4);
}

/* ---- its parts ------------------------------------------------------------------------------- */

static void every_part_lowers_the_error_it_is_for(void **state)
{
    (void)state;
    optimal_options options = optimal_options_default();
    const double all = objective(METHOD_OPTIMAL, &options, 2.5);
    assert_true(objective(METHOD_OPTIMAL_CENTER, &options, 2.5) < 0.95 * all);
    options.norm = NORM_FP16;
    assert_true(objective(METHOD_OPTIMAL, &options, 2.5) > 1.02 * all);
    options = optimal_options_default();
    options.encoder = ENCODER_NEAREST;
    assert_true(objective(METHOD_OPTIMAL, &options, 2.5) > 1.02 * all);
    options = optimal_options_default();
    options.equalize = false;
    assert_true(objective(METHOD_OPTIMAL, &options, 2.5) > 1.001 * all);
    options = optimal_options_default();
    options.scope = SCOPE_HEAD;
    assert_true(objective(METHOD_OPTIMAL, &options, 2.5) >= all);
    options = optimal_options_default();
    options.widths = 1u << 2 | 1u << 4;
    options.max_groups = 2;
    assert_true(objective(METHOD_OPTIMAL, &options, 2.5) > all);
}

static void limits_are_kept(void **state)
{
    (void)state;
    optimal_options options = optimal_options_default();
    budget_answer answer;
    options.widths = 1u << 2 | 1u << 4 | 1u << 8;
    options.max_groups = 2;
    options.rotation = ROTATION_HADAMARD;
    options.scope = SCOPE_HEAD;
    bit_plan *plan = within(METHOD_OPTIMAL, &options, BUDGET_TRUE_BITS, 3.3, &answer);
    for (int h = 0; h < N_HEADS; h++) {
        assert_in_range(plan->heads[h].groups.n, 1, 2);
        assert_true(plan_head_true_bits(&plan->heads[h], D) <= 3.3);
        for (int g = 0; g < plan->heads[h].groups.n; g++) {
            const plan_group *group = &plan->heads[h].groups.at[g];
            assert_true(group->width == 2 || group->width == 4 || group->width == 8);
            assert_int_equal(group->rotation.kind, ROTATION_HADAMARD);
        }
    }
    bit_plan_free(plan);
}

static void no_head_falls_below_its_share(void **state)
{
    (void)state;
    optimal_options options = optimal_options_default();
    budget_answer answer;
    for (int percent = 60; percent <= 100; percent += 40) {
        options.least_share = percent / 100.0;
        bit_plan *plan = within(METHOD_OPTIMAL, &options, BUDGET_TRUE_BITS, 3.0, &answer);
        for (int h = 0; h < N_HEADS; h++)
            assert_true(plan_head_true_bits(&plan->heads[h], D) >= 3.0 * options.least_share - 8.0 / D - 1e-9);
        bit_plan_free(plan);
    }
}

static void options_of_another_family_are_named(void **state)
{
    (void)state;
    const optimal_options usual = optimal_options_default();
    optimal_options own = usual;
    for (int family = -1; family < FAMILY_N_KINDS; family++) assert_null(optimal_foreign_options(&own, &usual, family));
    own.gain_bits = 0;
    assert_string_equal(optimal_foreign_options(&own, &usual, FAMILY_GROUPS),
                        "has no gain, expected --gain-bits with block-codebook");
    assert_null(optimal_foreign_options(&own, &usual, FAMILY_BLOCK_CODEBOOK));
    assert_non_null(optimal_foreign_options(&own, &usual, -1));
    optimal_options of_groups[7];
    for (size_t i = 0; i < RB_COUNT(of_groups); i++) of_groups[i] = usual;
    of_groups[0].equalize = false;
    of_groups[1].codebook = CODEBOOK_BLOCK_GTQ;
    of_groups[2].rotation = ROTATION_HADAMARD;
    of_groups[3].norm = NORM_FP16;
    of_groups[4].encoder = ENCODER_NEAREST;
    of_groups[5].widths = 1u << 4;
    of_groups[6].max_groups = 1;
    for (size_t i = 0; i < RB_COUNT(of_groups); i++) {
        assert_null(optimal_foreign_options(&of_groups[i], &usual, FAMILY_GROUPS));
        assert_non_null(optimal_foreign_options(&of_groups[i], &usual, FAMILY_BLOCK_CODEBOOK));
    }
}

/* ---- the model beside the codec -------------------------------------------------------------- */

static double normal(numpy_rng *rng)
{
    double x;
    numpy_rng_standard_normal(rng, &x, 1);
    return x;
}

/* Normal queries and keys with these energies and means: the variance of the logit's error is the one that was
 * promised, within what the normal law of the measured distortions and the sample leave. Energies are per block of two
 * dims; the mean is in dims 0 to 3. */
static void the_promised_variance_is_found(void **state)
{
    (void)state;
    const model_facts model = some_model();
    const optimal_options options = optimal_options_default();
    budget_answer answer;
    codec_tables *tables = NULL;
    float *k = malloc(N * D * sizeof *k), *k_hat = malloc(N * D * sizeof *k_hat);
    double found = 0.0;
    assert_true(k && k_hat);
    assert_ok(codec_tables_create(&tables, &err));
    bit_plan *plan = within(METHOD_OPTIMAL_CENTER, &options, BUDGET_TRUE_BITS, 2.5, &answer);
    for (int h = 0; h < N_HEADS; h++) {
        head_codec *codec = NULL;
        numpy_rng rng;
        double square = 0.0;
        numpy_rng_seed(&rng, (uint64_t)h);
        for (int i = 0; i < N * D; i++) {
            const int dim = i % D, block = dim % N_BLOCKS;
            const double mean = k_mean[h * D + block], rest = k_energy[h * N_BLOCKS + block] - mean * mean;
            k[i] = (float)(k_mean[h * D + dim] + sqrt(rest / 2.0) * normal(&rng));
        }
        assert_ok(head_codec_create(&codec, &plan->heads[h], &model, tables, &err));
        assert_ok(head_codec_round_trip(codec, k, N, k_hat, &err));
        for (int i = 0; i < N * D; i++)
            square += q_energy[h * N_BLOCKS + i % D % N_BLOCKS] / 2.0 * pow((double)k[i] - (double)k_hat[i], 2.0);
        found += sqrt(square / N);
        head_codec_free(codec);
    }
    assert_true(fabs(found / answer.objective - 1.0) < 0.05);
    /* What is expected of the plan, read back from nothing but it; its scales and centres are rounded to fp16. */
    codec_errors errors = {.n_blocks = N_BLOCKS};
    plan_prediction prediction;
    assert_ok(plan_predict(&prediction, plan, &statistics, &errors, &err));
    assert_true(fabs(prediction.logit_mae / (logit_mae_of_variance(1.0) * answer.objective / N_HEADS) - 1.0) < 2e-3);
    assert_true(prediction.bits_above_bound > 0.1 && prediction.bits_above_bound < 1.0
                && prediction.bound_logit_mae < prediction.logit_mae);
    codec_errors_free(&errors);
    bit_plan_free(plan);
    codec_tables_free(tables);
    free(k);
    free(k_hat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gain_is_query_energy_to_the_fourth),
        cmocka_unit_test(every_budget_is_kept_and_nearly_spent),
        cmocka_unit_test(published_methods_take_the_largest_budget_that_fits),
        cmocka_unit_test(at_nominal_bits_it_stores_what_block_gtq_stores),
        cmocka_unit_test(budgets_below_anything_are_refused),
        cmocka_unit_test(values_get_whole_bits_of_their_half),
        cmocka_unit_test(every_part_lowers_the_error_it_is_for),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(no_head_falls_below_its_share),
        cmocka_unit_test(options_of_another_family_are_named),
        cmocka_unit_test(the_promised_variance_is_found),
    };
    return cmocka_run_group_tests(tests, make_energies, NULL);
}
