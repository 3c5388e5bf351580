/* Maps and errors of block-codebook: for normal keys what theory says, for keys with rare long ones what the codec
 * itself leaves. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "kernels/reference/block_codebook_codec.h"
#include "kernels/reference/numpy_random.h"
#include "profile/block_codebook_error.h"

enum { HEAD_DIM = 16, N_BLOCKS = HEAD_DIM / 2, N_KEYS = 2048 };

static rb_error err;
static codec_tables *tables;
static float keys[N_KEYS * HEAD_DIM];
static double mean[HEAD_DIM], weights[N_BLOCKS];
static const model_facts model = {.n_layers = 1,
                                  .n_q_heads = 1,
                                  .n_kv_heads = 1,
                                  .head_dim = HEAD_DIM,
                                  .rotary_dim = HEAD_DIM,
                                  .value_dim = HEAD_DIM,
                                  .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}};

static int create_tables(void **state)
{
    (void)state;
    rb_threads_init(1);
    return codec_tables_create(&tables, &err) != RB_OK;
}

static int free_tables(void **state)
{
    (void)state;
    codec_tables_free(tables);
    return 0;
}

/* Block i: x of deviation 1 + i, y = x / 2 + noise of deviation 0.5; every `rare`-th key 6 times as long. */
static void make_keys(int rare)
{
    static double normals[N_KEYS * HEAD_DIM];
    double sum[HEAD_DIM] = {0};
    numpy_rng rng;
    numpy_rng_seed(&rng, 5);
    numpy_rng_standard_normal(&rng, normals, N_KEYS * HEAD_DIM);
    for (int v = 0; v < N_KEYS; v++)
        for (int i = 0; i < N_BLOCKS; i++) {
            const double size = rare > 0 && v % rare == 0 ? 6.0 : 1.0, x = size * (1 + i) * normals[v * HEAD_DIM + i];
            keys[v * HEAD_DIM + i] = (float)(x + 3.0);
            keys[v * HEAD_DIM + i + N_BLOCKS] =
                (float)(0.5 * x + size * 0.5 * normals[v * HEAD_DIM + i + N_BLOCKS] - 1.0);
        }
    for (int v = 0; v < N_KEYS; v++)
        for (int j = 0; j < HEAD_DIM; j++) sum[j] += (double)keys[v * HEAD_DIM + j] / N_KEYS;
    for (int j = 0; j < HEAD_DIM; j++) mean[j] = sum[j];
    for (int i = 0; i < N_BLOCKS; i++) weights[i] = 1.0 / (1 + i);
}

static void normal_keys_have_the_covariance_for_a_map(void **state)
{
    (void)state;
    float maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], error[N_BLOCKS * BLOCK_CODEBOOK_N_BITS];
    make_keys(0);
    assert_ok(block_codebook_error_measure(maps, error, &model, keys, N_KEYS, mean, weights, tables, &err));
    for (int i = 0; i < N_BLOCKS; i++) {
        const double size = 1 + i;
        const float *m = maps + BLOCK_CODEBOOK_MAP_SIZE * i, *e = error + BLOCK_CODEBOOK_N_BITS * i;
        assert_true(fabs((double)m[0] / size - 1.0) < 0.15 && fabs((double)m[1] / (0.5 * size) - 1.0) < 0.15
                    && fabs((double)m[2] / 0.5 - 1.0) < 0.15);
        assert_true(fabs((double)e[0] / (1.25 * size * size + 0.25) - 1.0) < 0.1);
        for (int bits = 1; bits < BLOCK_CODEBOOK_N_BITS; bits++)
            assert_true(e[bits] < e[bits - 1] && (double)e[bits] > 0.1 * (double)e[bits - 1]);
        assert_true((double)e[4] < 0.25 * (double)e[0] / 2.0); /* a scalar code of 2 bits a dim leaves 0.1175 */
    }
}

/* What is measured is what the codec leaves, though the levels of its gain are chosen by all blocks together: bits that
 * go with weight times size, as plans have them. At the level of the size alone it would be 1.37 times as much. */
static void errors_are_those_of_the_codec(void **state)
{
    (void)state;
    static const uint8_t bits[N_BLOCKS] = {3, 4, 4, 5, 5, 5, 6, 6};
    float maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], error[N_BLOCKS * BLOCK_CODEBOOK_N_BITS],
        restored[N_KEYS * HEAD_DIM];
    double own_maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], found = 0.0, expected = 0.0;
    plan_head head = {0};
    head_codec *codec = NULL;
    make_keys(50);
    assert_ok(block_codebook_error_measure(maps, error, &model, keys, N_KEYS, mean, weights, tables, &err));
    for (int i = 0; i < N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE; i++) own_maps[i] = (double)maps[i];
    assert_ok(
        plan_head_set_block_codebook(&head, bits, own_maps, weights, BLOCK_CODEBOOK_MAX_GAIN_BITS, N_BLOCKS, &err));
    assert_ok(plan_head_set_transform(&head, NULL, N_BLOCKS, mean, HEAD_DIM, &err));
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    assert_ok(head_codec_round_trip(codec, keys, N_KEYS, restored, &err));
    for (int i = 0; i < N_BLOCKS; i++) {
        double own = 0.0;
        for (int v = 0; v < N_KEYS; v++)
            for (int j = i; j < HEAD_DIM; j += N_BLOCKS)
                own += pow((double)keys[v * HEAD_DIM + j] - (double)restored[v * HEAD_DIM + j], 2) / N_KEYS;
        found += weights[i] * own;
        expected += weights[i] * (double)error[BLOCK_CODEBOOK_N_BITS * i + bits[i]];
    }
    assert_true(found < 1.01 * expected && found > 0.99 * expected);
    head_codec_free(codec);
    plan_head_clear(&head);
}

/* Rare long keys do not widen the maps: the gain takes them. */
static void rare_keys_leave_the_maps_alone(void **state)
{
    (void)state;
    float usual[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE],
        error[N_BLOCKS * BLOCK_CODEBOOK_N_BITS];
    make_keys(0);
    assert_ok(block_codebook_error_measure(usual, error, &model, keys, N_KEYS, mean, weights, tables, &err));
    make_keys(50); /* the variance is 1.7 times as large */
    assert_ok(block_codebook_error_measure(maps, error, &model, keys, N_KEYS, mean, weights, tables, &err));
    for (int i = 0; i < N_BLOCKS; i++)
        assert_true(fabs((double)maps[BLOCK_CODEBOOK_MAP_SIZE * i] / (double)usual[BLOCK_CODEBOOK_MAP_SIZE * i] - 1.0)
                    < 0.15);
}

static void constant_keys_have_no_map(void **state)
{
    (void)state;
    float maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], error[N_BLOCKS * BLOCK_CODEBOOK_N_BITS];
    for (int i = 0; i < N_KEYS * HEAD_DIM; i++) keys[i] = 2.0f;
    for (int j = 0; j < HEAD_DIM; j++) mean[j] = 2.0;
    assert_ok(block_codebook_error_measure(maps, error, &model, keys, N_KEYS, mean, weights, tables, &err));
    for (int i = 0; i < N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE; i++) assert_true(maps[i] == 0.0f);
    for (int i = 0; i < N_BLOCKS * BLOCK_CODEBOOK_N_BITS; i++) assert_true(error[i] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normal_keys_have_the_covariance_for_a_map),
        cmocka_unit_test(errors_are_those_of_the_codec),
        cmocka_unit_test(rare_keys_leave_the_maps_alone),
        cmocka_unit_test(constant_keys_have_no_map),
    };
    return cmocka_run_group_tests(tests, create_tables, free_tables);
}
