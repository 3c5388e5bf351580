/* The check of heads of family block-codebook against the reference: nothing wrong with the reference's own trial, each
 * kind of damage in its own counter, and ties as ties. */
#include "tests/test_support.h"

#include "kernels/check/codec_check.h"
#include "kernels/check/codec_trial.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/block_codebook_codec.h"
#include "kernels/reference/numpy_random.h"

enum { N = 40, N_QUERIES = 3, D = 32, N_BLOCKS = D / 2, UNCODED = 5, GAIN_BITS = 3 };

static rb_error err;

typedef struct bench {
    model_facts model;
    plan_head head;
    codec_tables *tables;
    head_codec *codec;
    codec_trial_input in;
    codec_trial trial;
    codec_bounds bounds;
    float *x, *queries; /* [N][D], [N_QUERIES][D] */
} bench;

/* Codebooks take a second to make, a minute under sanitizers: all cases share them. */
static codec_tables *shared_tables;

static int create_tables(void **state)
{
    (void)state;
    return codec_tables_create(&shared_tables, &err) != RB_OK;
}

static int free_tables(void **state)
{
    (void)state;
    codec_tables_free(shared_tables);
    return 0;
}

static float *random_floats(int64_t n, uint64_t seed)
{
    double *normals = malloc((size_t)n * sizeof *normals);
    float *x = malloc((size_t)n * sizeof *x);
    numpy_rng rng;
    assert_true(normals && x);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, (size_t)n);
    for (int64_t i = 0; i < n; i++) x[i] = (float)normals[i];
    free(normals);
    return x;
}

/* The GPU's. */
static codec_bounds bounds_of(codec_dtype type)
{
    return (codec_bounds){.block_codebook_tie = CODEC_CUDA_BLOCK_CODEBOOK_TIE,
                          .block_codebook_restore = CODEC_CUDA_BLOCK_CODEBOOK_RESTORE,
                          .rounding = codec_dtype_rounding(type),
                          .rounding_least = codec_dtype_rounding_least(type),
                          .logits = CODEC_CUDA_LOGITS};
}

/* Blocks of 1 to 6 bits, one of none, with a centre; two bits of padding. The caller may change x before start_trial.
 */
static void set_up(bench *b, int gain_bits, codec_dtype type)
{
    double maps[BLOCK_CODEBOOK_MAP_SIZE * N_BLOCKS], weights[N_BLOCKS], center[D];
    uint8_t bits[N_BLOCKS];
    int sum = gain_bits;
    *b = (bench){.model = {.n_layers = 1,
                           .n_q_heads = 1,
                           .n_kv_heads = 1,
                           .head_dim = D,
                           .rotary_dim = D,
                           .value_dim = D,
                           .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}},
                 .bounds = bounds_of(type)};
    for (int i = 0; i < N_BLOCKS; i++) {
        bits[i] = (uint8_t)(i == UNCODED ? 0 : 1 + i * 5 % 6);
        sum += i < N_BLOCKS - 1 ? bits[i] : 0;
        maps[3 * i] = exp(sin(i * 1.1));
        maps[3 * i + 1] = 0.5 * sin(i * 2.3);
        maps[3 * i + 2] = exp(cos(i * 1.7));
        weights[i] = exp(sin(i * 0.7));
    }
    while ((sum + bits[N_BLOCKS - 1]) % 8 != 6) bits[N_BLOCKS - 1] = (uint8_t)(1 + bits[N_BLOCKS - 1] % 8);
    for (int i = 0; i < D; i++) center[i] = sin(i * 1.3);
    b->tables = shared_tables;
    assert_ok(plan_head_set_transform(&b->head, NULL, N_BLOCKS, center, D, &err));
    assert_ok(plan_head_set_block_codebook(&b->head, bits, maps, weights, gain_bits, N_BLOCKS, &err));
    assert_ok(head_codec_create(&b->codec, &b->head, &b->model, b->tables, &err));
    b->x = random_floats(N * D, 11);
    b->queries = random_floats(N_QUERIES * D, 12);
    for (int i = 0; i < N * D; i++) b->x[i] = b->x[i] * exp2f((float)(i / D % 5 - 2) / 2.0f) + b->head.center[i % D];
    codec_dtype_round(b->x, N * D, type);
    b->in = (codec_trial_input){.heads = &b->head,
                                .n_heads = 1,
                                .model = &b->model,
                                .tables = b->tables,
                                .type = type,
                                .x = b->x,
                                .n = N,
                                .queries = b->queries,
                                .n_queries = N_QUERIES};
}

static void start_trial(bench *b) { assert_ok(codec_trial_cpu(&b->trial, &b->in, &err)); }

static void clear(bench *b)
{
    codec_trial_free(&b->trial);
    head_codec_free(b->codec);
    plan_head_clear(&b->head);
    free(b->x);
    free(b->queries);
}

/* ---- codes of a trial ------------------------------------------------------------------------ */

static uint8_t *packed_at(bench *b, int v) { return b->trial.packed + (size_t)v * head_codec_packed_bytes(b->codec); }

static int get_codes(uint16_t *codes, bench *b, int v)
{
    uint8_t bytes[D];
    assert_ok(unpack_codes(bytes, packed_at(b, v), head_codec_widths(b->codec), D, &err));
    return block_codebook_codes_split(codes, bytes, &b->head.block_codebook, N_BLOCKS);
}

/* Stores other codes, and what an implementation makes of them, so that the damage stays alone. */
static void put_codes(bench *b, int v, int gain, const uint16_t *codes)
{
    uint8_t bytes[D];
    float *x_hat = b->trial.x_hat + v * D;
    uint16_t unused = 0;
    block_codebook_codes_join(bytes, gain, codes, &b->head.block_codebook, N_BLOCKS);
    pack_codes(packed_at(b, v), bytes, head_codec_widths(b->codec), D);
    assert_ok(head_codec_decode(b->codec, bytes, &unused, 1, x_hat, &err));
    for (int q = 0; q < N_QUERIES; q++) {
        double sum = 0.0;
        for (int j = 0; j < D; j++) sum += (double)b->queries[q * D + j] * (double)x_hat[j];
        b->trial.logits[q * N + v] = (float)sum;
    }
    codec_dtype_round(x_hat, D, b->in.type);
}

/* Point of a block's code at gain 1. */
static void point_of(double at[2], bench *b, int block, int code)
{
    const float *map = b->head.block_codebook.maps + BLOCK_CODEBOOK_MAP_SIZE * block;
    const block_codebook *book;
    assert_ok(codec_tables_block_codebook(b->tables, b->head.block_codebook.bits[block], &book, &err));
    at[0] = (double)map[0] * (double)book->x[code];
    at[1] = (double)map[1] * (double)book->x[code] + (double)map[2] * (double)book->y[code];
}

static int nearest_to(bench *b, int block, const double z[2], int but)
{
    double least = INFINITY;
    int nearest = -1;
    for (int c = 0; c < 1 << b->head.block_codebook.bits[block]; c++) {
        double p[2];
        point_of(p, b, block, c);
        if (c == but || hypot(z[0] - p[0], z[1] - p[1]) >= least) continue;
        least = hypot(z[0] - p[0], z[1] - p[1]);
        nearest = c;
    }
    return nearest;
}

static void best_codes(uint16_t *codes, bench *b, const float *x, int gain)
{
    for (int i = 0; i < N_BLOCKS; i++) {
        const double g = block_codebook_gain(b->head.block_codebook.gain_bits, gain);
        int dims[2];
        model_block_dims(&b->model, i, dims);
        const double z[2] = {((double)x[dims[0]] - (double)b->head.center[dims[0]]) / g,
                             ((double)x[dims[1]] - (double)b->head.center[dims[1]]) / g};
        codes[i] = b->head.block_codebook.bits[i] == 0 ? 0 : (uint16_t)nearest_to(b, i, z, -1);
    }
}

/* ---- verdicts -------------------------------------------------------------------------------- */

typedef struct expected {
    int codes_tied, codes_wrong, gains_tied, bytes_wrong, values_wrong, logits_wrong;
} expected;

static void assert_found(bench *b, expected e)
{
    codec_report r = {0};
    uint8_t *codes = malloc(N * D);
    float *reference = malloc(N * D * sizeof *reference);
    const codec_checked on = {&b->head, &b->model, b->tables, b->codec};
    assert_true(codes && reference);
    assert_ok(codec_check_encoded(&r, &on, b->x, N, b->trial.packed, NULL, &b->bounds, codes, &err));
    assert_ok(codec_check_restored(&r, &on, codes, NULL, N, b->trial.x_hat, &b->bounds, reference, &err));
    codec_check_logits(&r, &on, b->queries, N_QUERIES, reference, N, b->trial.logits, &b->bounds);
    assert_int_equal(r.codes_tied, e.codes_tied);
    assert_int_equal(r.codes_wrong, e.codes_wrong);
    assert_int_equal(r.searches_tied, e.gains_tied);
    assert_int_equal(r.bytes_wrong, e.bytes_wrong);
    assert_int_equal(r.values_wrong, e.values_wrong);
    assert_int_equal(r.logits_wrong, e.logits_wrong);
    assert_int_equal(r.norms_wrong + r.norms_tied + r.n_norms, 0);
    assert_int_equal(codec_report_is_good(&r), e.codes_wrong + e.bytes_wrong + e.values_wrong + e.logits_wrong == 0);
    assert_int_equal(r.n_codes, N * (N_BLOCKS - 1 + (b->head.block_codebook.gain_bits > 0)));
    free(codes);
    free(reference);
}

static void the_references_own_trial_has_nothing_wrong(void **state)
{
    (void)state;
    for (int type = 0; type < CODEC_N_DTYPES; type++)
        for (int gain_bits = 0; gain_bits <= GAIN_BITS; gain_bits += GAIN_BITS) {
            bench b;
            set_up(&b, gain_bits, (codec_dtype)type);
            start_trial(&b);
            b.bounds.block_codebook_tie = b.bounds.block_codebook_restore = 0.0;
            assert_found(&b, (expected){0});
            clear(&b);
        }
}

static void a_code_of_a_point_farther_off_is_wrong(void **state)
{
    uint16_t codes[N_BLOCKS];
    bench b;
    (void)state;
    set_up(&b, GAIN_BITS, CODEC_F32);
    start_trial(&b);
    const int gain = get_codes(codes, &b, 7);
    codes[3] ^= 1;
    codes[8] ^= 1;
    put_codes(&b, 7, gain, codes);
    assert_found(&b, (expected){.codes_wrong = 2});
    clear(&b);
}

/* Between a point and its nearest neighbour no other is nearer; moved by `aside` of their distance towards the
 * neighbour. */
static void place_between(bench *b, int v, int block, double aside, int *first, int *second)
{
    double p[2], q[2];
    int dims[2];
    model_block_dims(&b->model, block, dims);
    *first = 0;
    point_of(p, b, block, *first);
    *second = nearest_to(b, block, p, *first);
    point_of(q, b, block, *second);
    for (int i = 0; i < 2; i++)
        b->x[v * D + dims[i]] = (float)((double)b->head.center[dims[i]] + p[i] * (0.5 - aside) + q[i] * (0.5 + aside));
}

static void a_code_of_a_point_as_near_is_a_tie(void **state)
{
    enum { BLOCK = 3, VECTOR = 9 };
    uint16_t codes[N_BLOCKS];
    int first, second;
    bench b;
    (void)state;
    set_up(&b, 0, CODEC_F32);
    place_between(&b, VECTOR, BLOCK, 0.0, &first, &second);
    start_trial(&b);
    get_codes(codes, &b, VECTOR);
    assert_true(codes[BLOCK] == first || codes[BLOCK] == second);
    codes[BLOCK] = (uint16_t)(codes[BLOCK] == first ? second : first);
    put_codes(&b, VECTOR, 0, codes);
    assert_found(&b, (expected){.codes_tied = 1});
    clear(&b);
}

static void a_code_of_a_point_nearly_as_near_is_wrong(void **state)
{
    enum { BLOCK = 3, VECTOR = 9 };
    uint16_t codes[N_BLOCKS];
    int first, second;
    bench b;
    (void)state;
    set_up(&b, 0, CODEC_F32);
    place_between(&b, VECTOR, BLOCK, 1e-4, &first, &second);
    start_trial(&b);
    get_codes(codes, &b, VECTOR);
    assert_int_equal(codes[BLOCK], second);
    codes[BLOCK] = (uint16_t)first;
    put_codes(&b, VECTOR, 0, codes);
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

/* Block LEVELED gets two levels, of 6 bits and 7 or the other way round. */
enum { LEVELED = 11, LEVEL_BITS = 13 };
static void give_levels(bench *b)
{
    plan_block_codebook *own = &b->head.block_codebook;
    head_codec_free(b->codec);
    own->bits[LEVELED] = LEVEL_BITS;
    assert_ok(head_codec_create(&b->codec, &b->head, &b->model, b->tables, &err));
}

static void codes_of_levels_are_judged_one_after_the_other(void **state)
{
    (void)state;
    for (int shift = 0; shift < 2; shift++) {
        uint16_t codes[N_BLOCKS];
        bench b;
        set_up(&b, GAIN_BITS, CODEC_F32);
        give_levels(&b);
        start_trial(&b);
        assert_found(&b, (expected){0});
        const int first_bits = block_codebook_first_bits(b.head.block_codebook.maps + BLOCK_CODEBOOK_MAP_SIZE * LEVELED,
                                                         LEVEL_BITS),
                  gain = get_codes(codes, &b, 7);
        codes[LEVELED] ^= (uint16_t)(1 << shift * first_bits);
        put_codes(&b, 7, gain, codes);
        assert_found(&b, (expected){.codes_wrong = 1});
        clear(&b);
    }
}

/* Half way between two levels of the first dim, with the best second level for each. */
static void a_level_as_near_is_a_tie(void **state)
{
    (void)state;
    enum { VECTOR = 9 };
    for (int is_near = 1; is_near >= 0; is_near--) {
        uint16_t codes[N_BLOCKS];
        const block_levels *levels[2];
        bench b;
        int dims[2];
        set_up(&b, 0, CODEC_F32);
        give_levels(&b);
        const float *map = b.head.block_codebook.maps + BLOCK_CODEBOOK_MAP_SIZE * LEVELED;
        const int first_bits = block_codebook_first_bits(map, LEVEL_BITS);
        assert_ok(codec_tables_block_levels(b.tables, first_bits, &levels[0], &err));
        assert_ok(codec_tables_block_levels(b.tables, LEVEL_BITS - first_bits, &levels[1], &err));
        model_block_dims(&b.model, LEVELED, dims);
        const double low = (double)levels[0]->level[20], high = (double)levels[0]->level[21],
                     place = is_near ? 0.5 * (low + high) : 0.501 * low + 0.499 * high;
        b.x[VECTOR * D + dims[0]] = (float)((double)b.head.center[dims[0]] + (double)map[0] * place);
        b.x[VECTOR * D + dims[1]] = (float)((double)b.head.center[dims[1]] + 0.1);
        start_trial(&b);
        get_codes(codes, &b, VECTOR);
        const int first = codes[LEVELED] & ((1 << first_bits) - 1), other = 41 - first;
        assert_true(first == 20 || (is_near && first == 21));
        const double rest = 0.1 - (double)map[1] * (double)levels[0]->level[other];
        codes[LEVELED] = (uint16_t)(other | block_levels_nearest(levels[1], rest / (double)map[2]) << first_bits);
        put_codes(&b, VECTOR, 0, codes);
        assert_found(&b, is_near ? (expected){.codes_tied = 1} : (expected){.codes_wrong = 1});
        clear(&b);
    }
}

/* Other gains with the best codes for them: one next to the level with more error, one beyond. */
static void another_gain_is_wrong(void **state)
{
    (void)state;
    for (int step = -2; step <= 2; step++) {
        uint16_t codes[N_BLOCKS];
        bench b;
        if (step == 0) continue;
        set_up(&b, GAIN_BITS, CODEC_F32);
        start_trial(&b);
        int v = 0, gain = -1;
        while (v < N && (gain < 2 || gain > (1 << GAIN_BITS) - 3)) gain = get_codes(codes, &b, v++);
        v--;
        best_codes(codes, &b, b.x + v * D, gain + step);
        put_codes(&b, v, gain + step, codes);
        assert_found(&b, (expected){.codes_wrong = 1});
        clear(&b);
    }
}

/* All blocks at the innermost of their points, at the largest gain: that has no error, but the vector's size points to
 * a level far below. */
static void a_gain_that_is_not_next_to_the_level_is_wrong_even_without_error(void **state)
{
    enum { VECTOR = 4, GAIN = (1 << GAIN_BITS) - 1 };
    uint16_t codes[N_BLOCKS] = {0};
    bench b;
    (void)state;
    set_up(&b, GAIN_BITS, CODEC_F32);
    for (int i = 0; i < N_BLOCKS; i++) {
        const double g = block_codebook_gain(GAIN_BITS, GAIN), center[2] = {0.0, 0.0};
        double p[2] = {0.0, 0.0};
        int dims[2];
        model_block_dims(&b.model, i, dims);
        if (b.head.block_codebook.bits[i] > 0) codes[i] = (uint16_t)nearest_to(&b, i, center, -1);
        if (b.head.block_codebook.bits[i] > 0) point_of(p, &b, i, codes[i]);
        for (int j = 0; j < 2; j++) b.x[VECTOR * D + dims[j]] = (float)((double)b.head.center[dims[j]] + g * p[j]);
    }
    start_trial(&b);
    assert_true(block_codebook_codec_level(head_codec_block_codebook(b.codec), b.x + VECTOR * D) < GAIN - 1.6);
    put_codes(&b, VECTOR, GAIN, codes);
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

/* A vector stretched until its gain changes: there both are as good. */
static void a_gain_as_good_is_a_tie(void **state)
{
    enum { VECTOR = 12 };
    uint16_t codes[N_BLOCKS];
    float before[D];
    double low = 1.0, high = 2.0;
    bench b;
    int gain[2], found;
    (void)state;
    set_up(&b, GAIN_BITS, CODEC_F32);
    float *x = b.x + VECTOR * D;
    memcpy(before, x, sizeof before);
    for (int i = 0; i < 60; i++) {
        const double tried[2] = {low, 0.5 * (low + high)};
        for (int k = 0; k < 2; k++) {
            uint8_t bytes[D];
            for (int j = 0; j < D; j++)
                x[j] = (float)((double)b.head.center[j] + tried[k] * ((double)before[j] - (double)b.head.center[j]));
            assert_ok(head_codec_encode(b.codec, x, 1, bytes, NULL, &err));
            gain[k] = block_codebook_codes_split(codes, bytes, &b.head.block_codebook, N_BLOCKS);
        }
        if (gain[0] == gain[1]) low = tried[1];
        else high = tried[1];
    }
    for (int j = 0; j < D; j++)
        x[j] = (float)((double)b.head.center[j] + high * ((double)before[j] - (double)b.head.center[j]));
    start_trial(&b);
    found = get_codes(codes, &b, VECTOR);
    assert_int_equal(gain[0] + 1, found);
    best_codes(codes, &b, x, gain[0]);
    put_codes(&b, VECTOR, gain[0], codes);
    assert_found(&b, (expected){.gains_tied = 1});
    b.bounds.block_codebook_tie = 0.0;
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

static void padding_that_is_not_zero_is_a_wrong_byte(void **state)
{
    bench b;
    (void)state;
    set_up(&b, GAIN_BITS, CODEC_F32);
    start_trial(&b);
    packed_at(&b, 5)[head_codec_packed_bytes(b.codec) - 1] |= 0x80;
    assert_found(&b, (expected){.bytes_wrong = 1});
    clear(&b);
}

/* Errors of a restored dim count by its block's size; where nothing is stored, by the centre. */
static void a_restored_value_off_is_wrong(void **state)
{
    static const int at[] = {0, 20, UNCODED, UNCODED + N_BLOCKS};
    (void)state;
    for (size_t i = 0; i < RB_COUNT(at); i++)
        for (int sign = -1; sign <= 1; sign += 2) {
            bench b;
            set_up(&b, GAIN_BITS, CODEC_F32);
            start_trial(&b);
            float *value = &b.trial.x_hat[6 * D + at[i]];
            *value += (float)sign * 1e-7f * fabsf(b.head.center[at[i]]);
            assert_found(&b, (expected){0});
            *value += (float)sign * 1e-3f;
            assert_found(&b, (expected){.values_wrong = 1});
            *value = NAN;
            assert_found(&b, (expected){.values_wrong = 1});
            clear(&b);
        }
}

static void a_logit_off_is_wrong(void **state)
{
    bench b;
    (void)state;
    set_up(&b, GAIN_BITS, CODEC_F16);
    start_trial(&b);
    b.trial.logits[N + 3] += 1e-2f;
    assert_found(&b, (expected){.logits_wrong = 1});
    b.trial.logits[N + 3] = NAN;
    assert_found(&b, (expected){.logits_wrong = 1});
    clear(&b);
}

static void a_vector_that_is_not_finite_is_refused(void **state)
{
    bench b;
    uint8_t codes[N * D];
    codec_report r = {0};
    (void)state;
    set_up(&b, GAIN_BITS, CODEC_F32);
    start_trial(&b);
    b.x[8 * D + UNCODED] = INFINITY;
    const codec_checked on = {&b.head, &b.model, b.tables, b.codec};
    assert_fails(codec_check_encoded(&r, &on, b.x, N, b.trial.packed, NULL, &b.bounds, codes, &err), RB_ENONFINITE,
                 "vector 8");
    clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_own_trial_has_nothing_wrong),
        cmocka_unit_test(a_code_of_a_point_farther_off_is_wrong),
        cmocka_unit_test(a_code_of_a_point_as_near_is_a_tie),
        cmocka_unit_test(a_code_of_a_point_nearly_as_near_is_wrong),
        cmocka_unit_test(codes_of_levels_are_judged_one_after_the_other),
        cmocka_unit_test(a_level_as_near_is_a_tie),
        cmocka_unit_test(another_gain_is_wrong),
        cmocka_unit_test(a_gain_that_is_not_next_to_the_level_is_wrong_even_without_error),
        cmocka_unit_test(a_gain_as_good_is_a_tie),
        cmocka_unit_test(padding_that_is_not_zero_is_a_wrong_byte),
        cmocka_unit_test(a_restored_value_off_is_wrong),
        cmocka_unit_test(a_logit_off_is_wrong),
        cmocka_unit_test(a_vector_that_is_not_finite_is_refused),
    };
    return cmocka_run_group_tests(tests, create_tables, free_tables);
}
