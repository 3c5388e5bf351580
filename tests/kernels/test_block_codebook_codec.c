/* Codec family block-codebook against its definition written out plainly (kernels/reference/block_codebook_codec.h):
 * one vector at a time, every level of the gain and every point tried. */
#include "tests/test_support.h"

#include "core/half.h"
#include "core/threads.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/block_codebook_codec.h"
#include "kernels/reference/numpy_random.h"

enum { HEAD_DIM = 16, N_BLOCKS = HEAD_DIM / 2, N_VECTORS = 300 };

static rb_error err;
static codec_tables *tables;

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

static model_facts facts_of(rope_pairing pairing, int rotary_dim)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = 1,
                         .n_kv_heads = 1,
                         .head_dim = HEAD_DIM,
                         .rotary_dim = rotary_dim,
                         .value_dim = HEAD_DIM,
                         .rope = {.attention_factor = 1, .pairing = pairing}};
}

static const uint8_t with_levels[N_BLOCKS] = {12, 0, 13, 10, 11, 16, 0, 2};
static const uint8_t mixed_bits[N_BLOCKS] = {3, 0, 4, 10, 1, 9, 0, 2};

/* Blocks of unequal size that lean, a centre, weights that differ. */
static plan_head head_of(const uint8_t *bits, int gain_bits)
{
    double maps[N_BLOCKS * BLOCK_CODEBOOK_MAP_SIZE], weights[N_BLOCKS], center[HEAD_DIM];
    plan_head head = {0};
    for (int i = 0; i < N_BLOCKS; i++) {
        maps[BLOCK_CODEBOOK_MAP_SIZE * i] = 0.5 + 0.25 * i;
        maps[BLOCK_CODEBOOK_MAP_SIZE * i + 1] = i % 2 == 0 ? 0.3 : -0.6;
        maps[BLOCK_CODEBOOK_MAP_SIZE * i + 2] = 1.5 - 0.125 * i;
        weights[i] = 1.0 / (1 + i);
    }
    for (int j = 0; j < HEAD_DIM; j++) center[j] = j % 3 - 0.75;
    assert_ok(plan_head_set_block_codebook(&head, bits, maps, weights, gain_bits, N_BLOCKS, &err));
    assert_ok(plan_head_set_transform(&head, NULL, N_BLOCKS, center, HEAD_DIM, &err));
    return head;
}

/* Most of size 1, every tenth far out or close to the centre. */
static void fill_vectors(float *x, int n)
{
    numpy_rng rng;
    double *normals = malloc(sizeof(double) * (size_t)(n * HEAD_DIM));
    assert_non_null(normals);
    numpy_rng_seed(&rng, 3);
    numpy_rng_standard_normal(&rng, normals, (size_t)(n * HEAD_DIM));
    for (int i = 0; i < n * HEAD_DIM; i++) {
        const int v = i / HEAD_DIM;
        x[i] = (float)(normals[i] * (v % 10 == 3 ? 40.0 : v % 10 == 7 ? 0.02 : 1.0));
    }
    free(normals);
}

/* ---- the definition, plainly ----------------------------------------------------------------- */

typedef struct plain_result {
    int gain;
    uint16_t codes[N_BLOCKS];
    double restored[HEAD_DIM], error;
} plain_result;

static double plain_gain(int gain_bits, int code)
{
    return (double)(float)pow(2.0, (code - (gain_bits > 0 ? (1 << gain_bits) / 4 : 0)) / 2.0);
}

/* Of a block with levels: all pairs are tried by the first dim's distance, then those of the best first level by the
 * second's. The split of the bits leaves the least m0^2 4^-first + m2^2 4^-second. */
static uint16_t plain_levels(double *restored, const float *m, int bits, const double *z, double gain)
{
    const block_levels *levels[2];
    double rest[2] = {z[0], z[1]}, least_sum = INFINITY;
    int first_bits = 0, best[2] = {0};
    for (int b = 8; b >= bits - 8; b--) {
        const double sum = (double)(m[0] * m[0]) * pow(4.0, -b) + (double)(m[2] * m[2]) * pow(4.0, b - bits);
        if (sum > least_sum) continue;
        least_sum = sum;
        first_bits = b;
    }
    assert_ok(codec_tables_block_levels(tables, first_bits, &levels[0], &err));
    assert_ok(codec_tables_block_levels(tables, bits - first_bits, &levels[1], &err));
    for (int j = 0; j < 2; j++) {
        double least = INFINITY;
        for (int c = 0; c < levels[j]->size; c++) {
            const double at = gain * (double)m[2 * j] * (double)levels[j]->level[c];
            if (fabs(rest[j] - at) >= least) continue;
            least = fabs(rest[j] - at);
            best[j] = c;
            restored[j] = z[j] - rest[j] + at;
        }
        if (j == 0) rest[1] -= gain * (double)m[1] * (double)levels[0]->level[best[0]];
    }
    return (uint16_t)(best[0] | best[1] << first_bits);
}

static void plain_at_gain(plain_result *out, const plan_head *head, const model_facts *model, const float *x,
                          int gain_code)
{
    const double gain = plain_gain(head->block_codebook.gain_bits, gain_code);
    *out = (plain_result){.gain = gain_code};
    for (int i = 0; i < N_BLOCKS; i++) {
        const float *m = head->block_codebook.maps + BLOCK_CODEBOOK_MAP_SIZE * i;
        const block_codebook *book;
        double least = INFINITY;
        int dims[2];
        model_block_dims(model, i, dims);
        const double a = (double)x[dims[0]] - (double)head->center[dims[0]],
                     b = (double)x[dims[1]] - (double)head->center[dims[1]];
        for (int j = 0; j < 2; j++) out->restored[dims[j]] = (double)head->center[dims[j]];
        if (head->block_codebook.bits[i] == 0) continue;
        if (head->block_codebook.bits[i] > 10) {
            const double z[2] = {a, b};
            double at[2];
            out->codes[i] = plain_levels(at, m, head->block_codebook.bits[i], z, gain);
            out->error +=
                (double)head->block_codebook.weights[i] * ((a - at[0]) * (a - at[0]) + (b - at[1]) * (b - at[1]));
            for (int j = 0; j < 2; j++) out->restored[dims[j]] = (double)head->center[dims[j]] + at[j];
            continue;
        }
        assert_ok(codec_tables_block_codebook(tables, head->block_codebook.bits[i], &book, &err));
        for (int c = 0; c < book->size; c++) {
            const double px = gain * ((double)m[0] * (double)book->x[c]),
                         py = gain * ((double)m[1] * (double)book->x[c] + (double)m[2] * (double)book->y[c]);
            const double d = (a - px) * (a - px) + (b - py) * (b - py);
            if (d < least * (1.0 - 1e-12)) {
                least = d;
                out->codes[i] = (uint16_t)c;
                out->restored[dims[0]] = (double)head->center[dims[0]] + px;
                out->restored[dims[1]] = (double)head->center[dims[1]] + py;
            }
        }
        out->error += (double)head->block_codebook.weights[i] * least;
    }
}

static void plain_encode(plain_result *best, const plan_head *head, const model_facts *model, const float *x)
{
    const int gain_bits = head->block_codebook.gain_bits, largest = (1 << gain_bits) - 1;
    double square = 0.0, size = 0.0;
    for (int i = 0; i < N_BLOCKS; i++) {
        int dims[2];
        if (head->block_codebook.bits[i] == 0) continue;
        model_block_dims(model, i, dims);
        for (int j = 0; j < 2; j++)
            square +=
                (double)head->block_codebook.weights[i] * pow((double)x[dims[j]] - (double)head->center[dims[j]], 2);
        for (int j = 0; j < BLOCK_CODEBOOK_MAP_SIZE; j++)
            size += (double)head->block_codebook.weights[i]
                    * pow((double)head->block_codebook.maps[BLOCK_CODEBOOK_MAP_SIZE * i + j], 2);
    }
    const double level = floor(log2(square / size) + (gain_bits > 0 ? (1 << gain_bits) / 4 : 0) + 0.5),
                 kept = level < 0.0       ? 0.0
                        : level > largest ? largest
                                          : level;
    best->error = INFINITY;
    for (int step = -1; step <= 1; step++) {
        const double own = kept + step;
        plain_result trial;
        if (own < 0.0 || own > largest) continue;
        plain_at_gain(&trial, head, model, x, (int)own);
        if (trial.error < best->error) *best = trial;
    }
}

static void check_head(const plan_head *head, const model_facts *model)
{
    float x[N_VECTORS * HEAD_DIM], x_hat[N_VECTORS * HEAD_DIM], again[N_VECTORS * HEAD_DIM];
    uint8_t codes[N_VECTORS * HEAD_DIM];
    int used[1 << BLOCK_CODEBOOK_MAX_GAIN_BITS] = {0}, n_used = 0;
    head_codec *codec = NULL;
    assert_ok(head_codec_create(&codec, head, model, tables, &err));
    assert_int_equal(head_codec_n_norms(codec), 0);
    fill_vectors(x, N_VECTORS);
    assert_ok(head_codec_encode(codec, x, N_VECTORS, codes, NULL, &err));
    assert_ok(head_codec_decode(codec, codes, NULL, N_VECTORS, x_hat, &err));
    assert_ok(head_codec_round_trip(codec, x, N_VECTORS, again, &err));
    assert_memory_equal(x_hat, again, sizeof x_hat);
    for (int v = 0; v < N_VECTORS; v++) {
        plain_result expected;
        uint16_t own[N_BLOCKS];
        plain_encode(&expected, head, model, x + v * HEAD_DIM);
        const int gain = block_codebook_codes_split(own, codes + v * HEAD_DIM, &head->block_codebook, N_BLOCKS);
        assert_int_equal(gain, expected.gain);
        assert_memory_equal(own, expected.codes, sizeof own);
        used[gain]++;
        for (int j = 0; j < HEAD_DIM; j++)
            assert_true(fabs((double)x_hat[v * HEAD_DIM + j] - expected.restored[j])
                        <= 1e-6 * (1.0 + fabs(expected.restored[j])));
        const double error = block_codebook_codec_error(head_codec_block_codebook(codec), x + v * HEAD_DIM, gain, own);
        assert_true(fabs(error - expected.error) <= 1e-9 * (1.0 + expected.error));
        assert_true(
            fabs(error - block_codebook_codec_least_error(head_codec_block_codebook(codec), x + v * HEAD_DIM, gain))
            <= 1e-9 * (1.0 + error));
    }
    for (int g = 0; g < 1 << BLOCK_CODEBOOK_MAX_GAIN_BITS; g++) n_used += used[g] > 0;
    assert_true(head->block_codebook.gain_bits == 0 ? n_used == 1 : n_used > 2);
    head_codec_free(codec);
}

static void codes_and_gains_are_the_definitions(void **state)
{
    (void)state;
    static const struct {
        rope_pairing pairing;
        int rotary_dim, gain_bits;
        const uint8_t *bits;
    } cases[] = {{ROPE_SPLIT_HALF, HEAD_DIM, 3, mixed_bits},  {ROPE_INTERLEAVED, HEAD_DIM, 4, mixed_bits},
                 {ROPE_SPLIT_HALF, 8, 2, mixed_bits},         {ROPE_SPLIT_HALF, HEAD_DIM, 0, mixed_bits},
                 {ROPE_SPLIT_HALF, HEAD_DIM, 3, with_levels}, {ROPE_INTERLEAVED, HEAD_DIM, 4, with_levels},
                 {ROPE_SPLIT_HALF, HEAD_DIM, 0, with_levels}};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const model_facts model = facts_of(cases[i].pairing, cases[i].rotary_dim);
        plan_head head = head_of(cases[i].bits, cases[i].gain_bits);
        check_head(&head, &model);
        plan_head_clear(&head);
    }
}

/* ---- streams --------------------------------------------------------------------------------- */

/* By hand: gain 5 of 3 bits, then codes of 3, 0, 4, 10, 1, 9, 0, 2 bits, least significant bit first. */
static void a_stream_is_the_gain_then_the_blocks(void **state)
{
    (void)state;
    static const uint16_t codes[N_BLOCKS] = {6, 0, 9, 0x2a5, 1, 0x133, 0, 2};
    const model_facts model = facts_of(ROPE_SPLIT_HALF, HEAD_DIM);
    plan_head head = head_of(mixed_bits, 3);
    head_codec *codec = NULL;
    uint8_t bytes[HEAD_DIM], packed[8] = {0}, expected[8] = {0};
    uint16_t back[N_BLOCKS];
    int at = 0;
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    assert_int_equal(head_codec_packed_bytes(codec), 4); /* 3 + 29 bits */
    for (int bit = 0; bit < 3; bit++, at++) expected[at / 8] |= (uint8_t)((5 >> bit & 1) << at % 8);
    for (int i = 0; i < N_BLOCKS; i++)
        for (int bit = 0; bit < mixed_bits[i]; bit++, at++)
            expected[at / 8] |= (uint8_t)((codes[i] >> bit & 1) << at % 8);
    block_codebook_codes_join(bytes, 5, codes, &head.block_codebook, N_BLOCKS);
    pack_codes(packed, bytes, head_codec_widths(codec), HEAD_DIM);
    assert_memory_equal(packed, expected, 4);
    assert_int_equal(block_codebook_codes_split(back, bytes, &head.block_codebook, N_BLOCKS), 5);
    assert_memory_equal(back, codes, sizeof back);
    assert_true(plan_head_true_bits(&head, HEAD_DIM) == 2.0 && plan_head_nominal_bits(&head, HEAD_DIM) == 29.0 / 16.0);
    head_codec_free(codec);
    plan_head_clear(&head);
}

static void levels_are_half_octaves_around_one(void **state)
{
    (void)state;
    static const double of_3_bits[] = {0.5, 0.70710677, 1.0, 1.4142135, 2.0, 2.828427, 4.0, 5.656854};
    for (int c = 0; c < 8; c++) assert_true(fabs(block_codebook_gain(3, c) - of_3_bits[c]) < 1e-6);
    assert_true(block_codebook_gain(0, 0) == 1.0 && block_codebook_gain(4, 4) == 1.0
                && block_codebook_gain(1, 0) == 1.0);
}

/* What the family is for: a key far outside what the maps were made from is still restored to its share of error. */
static void a_gain_keeps_far_keys(void **state)
{
    (void)state;
    static const uint8_t bits[N_BLOCKS] = {6, 6, 6, 6, 6, 6, 6, 6};
    const model_facts model = facts_of(ROPE_SPLIT_HALF, HEAD_DIM);
    float x[HEAD_DIM], x_hat[2][HEAD_DIM];
    double error[2] = {0}, size = 0.0;
    for (int j = 0; j < HEAD_DIM; j++) x[j] = (float)((j % 5 - 2.2) * 4.0);
    for (int with_gain = 0; with_gain < 2; with_gain++) {
        plan_head head = head_of(bits, with_gain ? 4 : 0);
        head_codec *codec = NULL;
        assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
        assert_ok(head_codec_round_trip(codec, x, 1, x_hat[with_gain], &err));
        for (int j = 0; j < HEAD_DIM; j++) error[with_gain] += pow((double)x[j] - (double)x_hat[with_gain][j], 2);
        head_codec_free(codec);
        plan_head_clear(&head);
    }
    for (int j = 0; j < HEAD_DIM; j++) size += (double)x[j] * (double)x[j];
    assert_true(error[0] > 0.3 * size);
    assert_true(error[1] < 0.1 * size);
}

static void values_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    const model_facts model = facts_of(ROPE_SPLIT_HALF, HEAD_DIM);
    plan_head head = head_of(mixed_bits, 3);
    float x[3 * HEAD_DIM] = {0};
    uint8_t codes[3 * HEAD_DIM];
    head_codec *codec = NULL;
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    x[2 * HEAD_DIM + 5] = INFINITY;
    assert_fails(head_codec_encode(codec, x, 3, codes, NULL, &err), RB_ENONFINITE, "vector 2: dim 5 is inf");
    head_codec_free(codec);
    plan_head_clear(&head);
}

/* Whoever a vector is coded with, its codes are the same. */
static void company_does_not_matter(void **state)
{
    (void)state;
    const model_facts model = facts_of(ROPE_SPLIT_HALF, HEAD_DIM);
    plan_head head = head_of(mixed_bits, 3);
    float x[N_VECTORS * HEAD_DIM];
    uint8_t together[N_VECTORS * HEAD_DIM], alone[HEAD_DIM];
    head_codec *codec = NULL;
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    fill_vectors(x, N_VECTORS);
    assert_ok(head_codec_encode(codec, x, N_VECTORS, together, NULL, &err));
    for (int v = 0; v < N_VECTORS; v++) {
        assert_ok(head_codec_encode(codec, x + v * HEAD_DIM, 1, alone, NULL, &err));
        assert_memory_equal(alone, together + v * HEAD_DIM, HEAD_DIM);
    }
    head_codec_free(codec);
    plan_head_clear(&head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_and_gains_are_the_definitions),
        cmocka_unit_test(a_stream_is_the_gain_then_the_blocks),
        cmocka_unit_test(levels_are_half_octaves_around_one),
        cmocka_unit_test(a_gain_keeps_far_keys),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
        cmocka_unit_test(company_does_not_matter),
    };
    return cmocka_run_group_tests(tests, create_tables, free_tables);
}
