/* What is said of the blocks of a head of block-codebook. */
#include "tests/test_support.h"

#include "allocate/plan_explain_block_codebook.h"
#include "tests/plan/plan_json_damage.h"
#include "tests/plan/some_plan.h"

enum { N_BLOCKS = 4, HEAD_DIM = 2 * N_BLOCKS };

static rb_error err;
static const uint8_t bits[N_BLOCKS] = {0, 4, 10, 6};

/* A map with axes s1, s2 at an angle: the Cholesky factor of R diag(s1^2, s2^2) R^T. */
static void map_of(double map[BLOCK_CODEBOOK_MAP_SIZE], double s1, double s2, double degrees)
{
    const double c = cos(degrees * 0.017453292519943295), s = sin(degrees * 0.017453292519943295);
    const double xx = s1 * s1 * c * c + s2 * s2 * s * s, xy = (s1 * s1 - s2 * s2) * c * s,
                 yy = s1 * s1 * s * s + s2 * s2 * c * c;
    map[0] = sqrt(xx);
    map[1] = xy / map[0];
    map[2] = sqrt(yy - map[1] * map[1]);
}

static bit_plan *one_head(const double *maps)
{
    static const double weights[N_BLOCKS] = {1.0, 2.0, 0.5, 4.0}, center[HEAD_DIM] = {0, 1, 0, 0, 0, 0, 0, 0};
    const model_facts model = some_model(1, 1, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    assert_ok(plan_head_set_block_codebook(&plan->heads[0], bits, maps, weights, 2, N_BLOCKS, &err));
    assert_ok(plan_head_set_transform(&plan->heads[0], NULL, N_BLOCKS, center, HEAD_DIM, &err));
    return plan;
}

/* Each bit halves what a block leaves: 8, 16, 24, 32 without any. */
static float errors[N_BLOCKS][BLOCK_CODEBOOK_MAX_BITS + 1];
static int make_errors(void **state)
{
    (void)state;
    for (int i = 0; i < N_BLOCKS; i++)
        for (int b = 0; b <= BLOCK_CODEBOOK_MAX_BITS; b++) errors[i][b] = (float)(8.0 * (i + 1) * exp2(-b));
    return 0;
}

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance)) fail_msg("%.9g, expected %.9g", found, expected);
}

static void a_map_is_told_by_its_axes(void **state)
{
    (void)state;
    static const double s[N_BLOCKS][3] = {{3.0, 1.0, 30.0}, {5.0, 0.25, -60.0}, {2.0, 2.0, 0.0}, {1.5, 1.0, 90.0}};
    static const double q_energy[N_BLOCKS] = {1.0, 2.0, 3.0, 4.0}, k_energy[N_BLOCKS] = {4.0, 5.0, 6.0, 0.0};
    static const double k_mean[HEAD_DIM] = {0, 1, 0, 0, 0, 0, 0, 0};
    double maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE];
    explained_block_codebook e;
    cJSON *json = NULL;
    for (int i = 0; i < N_BLOCKS; i++) map_of(maps + BLOCK_CODEBOOK_MAP_SIZE * i, s[i][0], s[i][1], s[i][2]);
    bit_plan *plan = one_head(maps);
    plan_explain_block_codebook(
        &e, plan, 0,
        &(head_statistics){
            .q_energy = q_energy, .k_energy = k_energy, .k_mean = k_mean, .block_codebook_error = &errors[0][0]});
    /* 20 bits of codes, 2 of gain: 3 bytes. */
    assert_true(e.bits == 24.0);
    assert_int_equal(e.gain_bits, 2);
    assert_near(e.least_gain, sqrt(0.5), 1e-6);
    assert_near(e.most_gain, 2.0, 1e-6);
    for (int i = 0; i < N_BLOCKS; i++) {
        /* fp16 keeps 11 bits of a map. */
        assert_near(e.blocks[i].axes[0], s[i][0], 2e-3 * s[i][0]);
        assert_near(e.blocks[i].axes[1], s[i][1], 4e-3 * s[i][0]);
        if (i != 2) assert_near(fmod(e.blocks[i].angle - s[i][2] + 270.0, 180.0) - 90.0, 0.0, 0.3);
        assert_true(e.blocks[i].bits == bits[i]);
        assert_near(e.blocks[i].code_share, bits[i] / 20.0, 1e-12);
        assert_true(e.blocks[i].q_energy == q_energy[i] && e.blocks[i].k_energy == k_energy[i]);
    }
    /* Block 1 is dims 1 and 5, mean 1 and 0: the centre takes 1 off its energy 5. */
    assert_near(e.blocks[1].center_share, 0.2, 1e-12);
    assert_true(e.blocks[0].center_share == 0.0 && e.blocks[3].center_share == 0.0);
    assert_true(e.blocks[3].weight == 4.0);
    /* V = sum of q D / 2: 4 + 1 + 36 / 1024 + 1 for independent blocks. */
    const double v[N_BLOCKS] = {4.0, 1.0, 36.0 / 1024.0, 1.0}, variance = v[0] + v[1] + v[2] + v[3];
    assert_near(e.logit_mae, logit_mae_of_variance(variance), 1e-6);
    for (int i = 0; i < N_BLOCKS; i++) {
        assert_near(e.blocks[i].more, bits[i] < BLOCK_CODEBOOK_MAX_BITS ? -0.5 * v[i] / variance : 0.0, 1e-6);
        assert_near(e.blocks[i].less, bits[i] > 0 ? v[i] / variance : 0.0, 1e-6);
    }
    assert_ok(explained_block_codebook_to_json(&json, &e, &err));
    assert_string_equal(find(json, "family")->valuestring, "block-codebook");
    assert_true(number_at(json, "blocks.2.bits") == 10);
    assert_true(number_at(json, "blocks.1.axes.0") == e.blocks[1].axes[0]);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

static void a_map_of_0_has_no_axes(void **state)
{
    (void)state;
    static const double maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], energy[N_BLOCKS] = {1, 1, 1, 1}, mean[HEAD_DIM];
    explained_block_codebook e;
    bit_plan *plan = one_head(maps);
    plan_explain_block_codebook(
        &e, plan, 0,
        &(head_statistics){
            .q_energy = energy, .k_energy = energy, .k_mean = mean, .block_codebook_error = &errors[0][0]});
    assert_true(e.blocks[1].axes[0] == 0.0 && e.blocks[1].axes[1] == 0.0 && e.blocks[1].angle == 0.0);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_map_is_told_by_its_axes),
        cmocka_unit_test(a_map_of_0_has_no_axes),
    };
    return cmocka_run_group_tests_name("plan_explain_block_codebook", tests, make_errors, NULL);
}
