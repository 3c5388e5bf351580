/* The error expected of a plan against the codec's own, where keys and queries agree and where they do not; blocks
 * without bits; centres that are not the mean. */
#include "tests/test_support.h"

#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"
#include "methods/groups_error.h"

enum { D = 32, N_BLOCKS = D / 2, N_MOMENTS = N_BLOCKS * (N_BLOCKS + 1) / 2, N = 20000 };

static rb_error err;
static double *q, *k; /* [N][D]: dims of a block adjacent */
static double q_energy[N_BLOCKS], k_energy[N_BLOCKS], k_mean[D];
static float moment[N_MOMENTS];
static const head_statistics statistics = {
    .q_energy = q_energy, .k_energy = k_energy, .k_mean = k_mean, .moment = moment, .moment_centered = moment};
static const model_facts model = {.n_layers = 1,
                                  .n_q_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = D,
                                  .rotary_dim = D,
                                  .value_dim = D,
                                  .rope = {.attention_factor = 1, .pairing = ROPE_INTERLEAVED}};

/* Queries that lean towards their key by `lean`, blocks of falling energy; statistics as they are found, without RoPE.
 */
static void draw(double lean)
{
    double sums[N_MOMENTS] = {0};
    numpy_rng rng;
    numpy_rng_seed(&rng, 3);
    numpy_rng_standard_normal(&rng, k, N * D);
    numpy_rng_standard_normal(&rng, q, N * D);
    memset(q_energy, 0, sizeof q_energy);
    memset(k_energy, 0, sizeof k_energy);
    for (int t = 0; t < N; t++) {
        double product[N_BLOCKS] = {0};
        for (int i = t * D; i < (t + 1) * D; i++) {
            const int block = i % D / 2;
            k[i] *= exp(-0.1 * block);
            q[i] += lean * k[i];
            q_energy[block] += q[i] * q[i] / N;
            k_energy[block] += k[i] * k[i] / N;
            product[block] += q[i] * k[i];
        }
        for (int i = 0, at = 0; i < N_BLOCKS; i++)
            for (int j = i; j < N_BLOCKS; j++) sums[at++] += product[i] * product[j] / N;
    }
    for (int i = 0; i < N_MOMENTS; i++) moment[i] = (float)sums[i];
}

static double found_variance(const plan_head *head)
{
    codec_tables *tables = NULL;
    head_codec *codec = NULL;
    float *x = malloc((size_t)N * D * sizeof *x), *x_hat = malloc((size_t)N * D * sizeof *x_hat);
    double sum = 0.0;
    assert_true(x && x_hat);
    for (int i = 0; i < N * D; i++) x[i] = (float)k[i];
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(head_codec_create(&codec, head, &model, tables, &err));
    assert_ok(head_codec_round_trip(codec, x, N, x_hat, &err));
    for (int t = 0; t < N; t++) {
        double error = 0.0;
        for (int i = t * D; i < (t + 1) * D; i++) error += q[i] * ((double)x[i] - (double)x_hat[i]);
        sum += error * error / N;
    }
    head_codec_free(codec);
    codec_tables_free(tables);
    free(x);
    free(x_hat);
    return sum;
}

/* Two groups and two blocks in none. */
static bit_plan *some_plan(plan_encoder encoder)
{
    static const int strong[] = {0, 1, 2, 3, 4, 5}, weak[] = {6, 7, 8, 9, 10, 11, 12, 13};
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    plan->heads[0].groups.encoder = encoder;
    assert_ok(plan_head_add_group(&plan->heads[0], 2, weak, 8, CODEBOOK_SPHERE, 0, &err));
    assert_ok(plan_head_add_group(&plan->heads[0], 3, strong, 6, CODEBOOK_SPHERE, 0, &err));
    return plan;
}

static void check_plan(plan_encoder encoder, double lean, float planned_coherence, double tolerance)
{
    codec_errors errors = {.n_blocks = N_BLOCKS};
    coded_head coded;
    draw(lean);
    bit_plan *plan = some_plan(encoder);
    for (int g = 0; g < 2; g++) plan->heads[0].groups.at[g].coherence = planned_coherence;
    assert_ok(codec_errors_measure(&errors, plan, &err));
    coded_head_of(&coded, &plan->heads[0], &model, &statistics, 0);
    const double expected = plan_head_error(&coded, &plan->heads[0], &errors), found = found_variance(&plan->heads[0]);
    if (!(fabs(expected / found - 1.0) < tolerance))
        fail_msg("encoder %d, lean %g: %g expected, %g found", (int)encoder, lean, expected, found);
    codec_errors_free(&errors);
    bit_plan_free(plan);
}

static void codecs_err_as_expected(void **state)
{
    (void)state;
    check_plan(ENCODER_NEAREST, 0.0, 1.0f, 0.05);
    check_plan(ENCODER_SEARCH, 0.0, 1.0f, 0.05);
}

/* Where queries lean to keys, what a code takes off a key's length counts; a plan may say too little or too much of
 * that. An error across the key meets none of what leans, which the model does not know. */
static void coherent_keys_err_as_expected(void **state)
{
    (void)state;
    check_plan(ENCODER_NEAREST, 0.5, 1.0f, 0.08);
    check_plan(ENCODER_SEARCH, 0.5, 1.0f, 0.08);
    check_plan(ENCODER_SEARCH, 0.5, 4.0f, 0.08);
}

static void fewer_bits_err_more_and_none_lose_the_group(void **state)
{
    (void)state;
    codec_errors errors = {.n_blocks = N_BLOCKS};
    coded_head coded;
    draw(0.5);
    bit_plan *plan = some_plan(ENCODER_SEARCH);
    const plan_head *head = &plan->heads[0];
    assert_ok(codec_errors_measure(&errors, plan, &err));
    coded_head_of(&coded, head, &model, &statistics, 0);
    double before = group_error_at(&coded, head, &head->groups.at[0], 0, &errors).variance, own = 0.0;
    for (int width = 1; width <= PLAN_MAX_WIDTH; width++) {
        const double variance = group_error_at(&coded, head, &head->groups.at[0], width, &errors).variance;
        assert_true(variance < before);
        before = variance;
    }
    /* Only the last two blocks are in no group: they add their moments, and twice the one between them. */
    own = (double)moment[N_MOMENTS - 3] + 2.0 * (double)moment[N_MOMENTS - 2] + (double)moment[N_MOMENTS - 1];
    assert_true(fabs(lost_block_error(&coded, head) / own - 1.0) < 1e-9);
    codec_errors_free(&errors);
    bit_plan_free(plan);
}

/* |k - m|^2 for keys of mean u: E|k|^2 - 2 m u + |m|^2, and scales go to both sides. */
static void transforms_change_the_energies(void **state)
{
    (void)state;
    double scales[N_BLOCKS], center[D] = {0};
    coded_head coded;
    draw(0.0);
    for (int i = 0; i < N_BLOCKS; i++) scales[i] = 1.0;
    scales[1] = 2.0;
    center[0] = 0.5;
    k_mean[0] = 0.25;
    bit_plan *plan = some_plan(ENCODER_SEARCH);
    assert_ok(plan_head_set_transform(&plan->heads[0], scales, N_BLOCKS, center, D, &err));
    coded_head_of(&coded, &plan->heads[0], &model, &statistics, 0);
    assert_true(fabs(coded.k_energy[0] - (k_energy[0] - 2.0 * 0.5 * 0.25 + 0.25)) < 1e-12
                && coded.q_energy[0] == q_energy[0]);
    assert_true(fabs(coded.k_energy[1] - 4.0 * k_energy[1]) < 1e-12
                && fabs(coded.q_energy[1] - q_energy[1] / 4.0) < 1e-12);
    bit_plan_free(plan);
    k_mean[0] = 0.0;
}

static int make_vectors(void **state)
{
    (void)state;
    q = malloc(sizeof *q * N * D);
    k = malloc(sizeof *k * N * D);
    return !q || !k;
}

static int free_vectors(void **state)
{
    (void)state;
    free(q);
    free(k);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codecs_err_as_expected),
        cmocka_unit_test(coherent_keys_err_as_expected),
        cmocka_unit_test(fewer_bits_err_more_and_none_lose_the_group),
        cmocka_unit_test(transforms_change_the_energies),
    };
    return cmocka_run_group_tests(tests, make_vectors, free_vectors);
}
