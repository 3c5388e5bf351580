/* Method block-codebook: budgets, and that a plan keeps what it promises on normal keys. */
#include "tests/test_support.h"

#include "allocate/budget.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/reference/block_codebook.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"
#include "methods/block_codebook_curve.h"
#include "methods/plan_error.h"

enum {
    N_LAYERS = 2,
    N_KV_HEADS = 2,
    N_HEADS = N_LAYERS * N_KV_HEADS,
    D = 32,
    N_BLOCKS = D / 2,
    N_BITS = BLOCK_CODEBOOK_MAX_BITS + 1,
    N_KEYS = 4000
};

static rb_error err;
static const text_facts calibration = {.n_tokens = N_KEYS, .context = N_KEYS};
static double q_energy[N_HEADS * N_BLOCKS], k_energy[N_HEADS * N_BLOCKS], k_mean[N_HEADS * D];
static float block_codebook_map[N_HEADS * N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE],
    block_codebook_error[N_HEADS * N_BLOCKS * N_BITS];
static const head_statistics statistics = {.q_energy = q_energy,
                                           .k_energy = k_energy,
                                           .k_mean = k_mean,
                                           .block_codebook_map = block_codebook_map,
                                           .block_codebook_error = block_codebook_error};

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

/* Energy of a block less its mean. */
static double own_energy(int h, int block) { return 2.0 * exp(-0.15 * (h + 1) * block) * ((block * 5) % 7 + 1); }

/* Round normal blocks of falling energy around a mean, with the errors of the universal codebooks, and halves of them
 * beyond. */
static int make_statistics(void **state)
{
    static block_codebook book;
    (void)state;
    rb_threads_init(2);
    for (int bits = 0; bits < N_BITS; bits++) {
        if (block_codebook_has_levels(bits)) book.distortion *= 0.5;
        else if (block_codebook_build(&book, bits, &err) != RB_OK) return 1;
        for (int i = 0; i < N_HEADS * N_BLOCKS; i++)
            block_codebook_error[i * N_BITS + bits] = (float)(own_energy(i / N_BLOCKS, i % N_BLOCKS) * book.distortion);
    }
    for (int h = 0; h < N_HEADS; h++)
        for (int block = 0; block < N_BLOCKS; block++) {
            const int i = h * N_BLOCKS + block;
            q_energy[i] = exp(-0.2 * (h + 1) * block) * (block % 3 + 1);
            k_mean[h * D + block] = 0.5 * block;
            k_mean[h * D + block + N_BLOCKS] = -1.0;
            k_energy[i] = own_energy(h, block) + 0.25 * block * block + 1.0;
            block_codebook_map[i * BLOCK_CODEBOOK_MAP_SIZE] = block_codebook_map[i * BLOCK_CODEBOOK_MAP_SIZE + 2] =
                (float)sqrt(0.5 * own_energy(h, block));
        }
    return 0;
}

static bit_plan *within(allocation_method method, const optimal_options *options, double true_bits,
                        budget_answer *answer)
{
    const model_facts model = some_model();
    const plan_budget budget = {BUDGET_TRUE_BITS, true_bits};
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

static void every_head_gets_its_bytes_in_block_codebook(void **state)
{
    (void)state;
    optimal_options options = optimal_options_default();
    budget_answer answer;
    for (double bits = 1.0; bits <= 5.0; bits += 0.75)
        for (options.gain_bits = 0; options.gain_bits <= BLOCK_CODEBOOK_MAX_GAIN_BITS; options.gain_bits += 2) {
            bit_plan *plan = within(METHOD_BLOCK_CODEBOOK, &options, bits, &answer);
            assert_string_equal(plan->method, "block-codebook");
            for (int h = 0; h < N_HEADS; h++) {
                const plan_head *head = &plan->heads[h];
                assert_int_equal(head->family, FAMILY_BLOCK_CODEBOOK);
                assert_int_equal(head->block_codebook.gain_bits, options.gain_bits);
                assert_true(plan_head_true_bits(head, D) <= bits && plan_head_true_bits(head, D) > bits - 0.3);
                for (int j = 0; j < D; j++)
                    assert_true(head->center[j] == rb_f16_to_f32(rb_f32_to_f16((float)k_mean[h * D + j])));
            }
            bit_plan_free(plan);
        }
}

/* Heads differ in energy: the model as a whole does better where they need not have the same bytes. */
static void scopes_are_the_options(void **state)
{
    (void)state;
    optimal_options options = optimal_options_default();
    budget_answer own, model;
    options.least_share = 0.5;
    bit_plan *plan = within(METHOD_BLOCK_CODEBOOK, &options, 2.25, &own);
    for (int h = 1; h < N_HEADS; h++)
        assert_true(plan_head_true_bits(&plan->heads[h], D) == plan_head_true_bits(&plan->heads[0], D));
    bit_plan_free(plan);
    options.scope = SCOPE_MODEL;
    plan = within(METHOD_BLOCK_CODEBOOK, &options, 2.25, &model);
    assert_true(plan_head_true_bits(&plan->heads[0], D) > plan_head_true_bits(&plan->heads[N_HEADS - 1], D));
    assert_true(model.objective < 0.99 * own.objective);
    bit_plan_free(plan);
}

/* Logit errors of normal keys and queries have the size that the plan was made for, or less: the statistics know no
 * gain, and the encoder picks the best of three. */
static void the_promised_variance_is_found(void **state)
{
    (void)state;
    const optimal_options options = optimal_options_default();
    const model_facts model = some_model();
    codec_errors errors = {.n_blocks = N_BLOCKS};
    codec_tables *tables = NULL;
    plan_prediction prediction;
    budget_answer answer;
    double *normals = malloc(sizeof(double) * 2 * N_KEYS * D);
    float *keys = malloc(sizeof(float) * N_KEYS * D), *restored = malloc(sizeof(float) * N_KEYS * D);
    assert_true(normals && keys && restored);
    bit_plan *plan = within(METHOD_BLOCK_CODEBOOK, &options, 2.5, &answer);
    assert_ok(plan_predict(&prediction, plan, &statistics, &errors, &err));
    assert_ok(codec_tables_create(&tables, &err));
    double found = 0.0;
    for (int h = 0; h < N_HEADS; h++) {
        head_codec *codec = NULL;
        numpy_rng rng;
        double square = 0.0;
        numpy_rng_seed(&rng, 100 + (uint64_t)h);
        numpy_rng_standard_normal(&rng, normals, 2 * N_KEYS * D);
        for (int i = 0; i < N_KEYS * D; i++)
            keys[i] = (float)(k_mean[h * D + i % D] + sqrt(0.5 * own_energy(h, i % D % N_BLOCKS)) * normals[i]);
        assert_ok(head_codec_create(&codec, &plan->heads[h], &model, tables, &err));
        assert_ok(head_codec_round_trip(codec, keys, N_KEYS, restored, &err));
        for (int v = 0; v < N_KEYS; v++) {
            double logit = 0.0;
            for (int j = 0; j < D; j++)
                logit += sqrt(0.5 * q_energy[h * N_BLOCKS + j % N_BLOCKS]) * normals[(N_KEYS + v) * D + j]
                         * ((double)keys[v * D + j] - (double)restored[v * D + j]);
            square += logit * logit / N_KEYS;
        }
        found += logit_mae_of_variance(square) / N_HEADS;
        head_codec_free(codec);
    }
    assert_true(found < 1.02 * prediction.logit_mae && found > 0.85 * prediction.logit_mae);
    assert_true(prediction.bits_above_bound > 0.0 && prediction.bits_above_bound < 1.0);
    codec_tables_free(tables);
    codec_errors_free(&errors);
    bit_plan_free(plan);
    free(normals), free(keys), free(restored);
}

/* Blocks that agree on a phase: their maps are those of the statistics, stretched as block_codebook_curve.h says, and
 * not at all where blocks are independent. */
static void maps_are_stretched_by_what_blocks_agree_on(void **state)
{
    (void)state;
    enum { N_MOMENTS = N_BLOCKS * (N_BLOCKS + 1) / 2 };
    const model_facts model = some_model();
    float moments[N_HEADS * N_MOMENTS], *at = moments;
    for (int h = 0; h < N_HEADS; h++)
        for (int i = 0; i < N_BLOCKS; i++)
            for (int j = i; j < N_BLOCKS; j++) {
                const double a = 0.5 * q_energy[h * N_BLOCKS + i] * own_energy(h, i),
                             b = 0.5 * q_energy[h * N_BLOCKS + j] * own_energy(h, j);
                *at++ = (float)((i == j ? 1.0 : 0.8) * sqrt(a * b));
            }
    head_statistics coherent = statistics;
    coherent.moment = coherent.moment_centered = moments;
    for (int is_coherent = 0; is_coherent < 2; is_coherent++) {
        bit_plan *plan = NULL;
        int n_stretched = 0;
        assert_ok(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_CODEBOOK, 1.25, 3,
                                is_coherent ? &coherent : &statistics, &err));
        for (int h = 0; h < N_HEADS; h++) {
            const block_codebook_head known = {N_BLOCKS, q_energy + h * N_BLOCKS,
                                               block_codebook_error + h * N_BLOCKS * N_BITS,
                                               is_coherent ? moments + h * N_MOMENTS : NULL};
            double stretches[N_BLOCKS];
            block_codebook_head_error(&known, plan->heads[h].block_codebook.bits, stretches);
            for (int i = 0; i < N_BLOCKS; i++) {
                const double expected = stretches[i]
                                        * (double)block_codebook_map[(h * N_BLOCKS + i) * BLOCK_CODEBOOK_MAP_SIZE],
                             found = (double)plan->heads[h].block_codebook.maps[i * BLOCK_CODEBOOK_MAP_SIZE];
                assert_true(fabs(found / expected - 1.0) < 1e-3); /* fp16 */
                n_stretched += stretches[i] > 1.02;
            }
        }
        assert_true(is_coherent ? n_stretched > N_HEADS * 4 : n_stretched == 0);
        bit_plan_free(plan);
    }
}

static void missing_statistics_are_named(void **state)
{
    (void)state;
    const model_facts model = some_model();
    const head_statistics without = {.q_energy = q_energy, .k_energy = k_energy, .k_mean = k_mean};
    bit_plan *plan = NULL;
    assert_fails(allocate_plan(&plan, &model, &calibration, METHOD_BLOCK_CODEBOOK, 2, 3, &without, &err), RB_EINVAL,
                 "needs the maps and errors of blocks");
    assert_null(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_gets_its_bytes_in_block_codebook),
        cmocka_unit_test(scopes_are_the_options),
        cmocka_unit_test(the_promised_variance_is_found),
        cmocka_unit_test(maps_are_stretched_by_what_blocks_agree_on),
        cmocka_unit_test(missing_statistics_are_named),
    };
    return cmocka_run_group_tests(tests, make_statistics, NULL);
}
