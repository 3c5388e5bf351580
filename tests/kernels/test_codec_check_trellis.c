/* The check of heads of family trellis against the reference: nothing wrong with the reference's own trial, each kind
 * of damage in its own counter, and ties as ties. */
#include "tests/test_support.h"

#include "kernels/check/codec_check.h"
#include "kernels/check/codec_trial.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/numpy_random.h"
#include "kernels/reference/trellis_codec.h"

enum { N = 40, N_QUERIES = 3, D = 32, N_CODED = 27, GAIN_BITS = 3, VECTOR = 9 };

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
    return (codec_bounds){.trellis_tie = CODEC_CUDA_TRELLIS_TIE,
                          .trellis_restore = CODEC_CUDA_TRELLIS_RESTORE,
                          .rounding = codec_dtype_rounding(type),
                          .rounding_least = codec_dtype_rounding_least(type),
                          .logits = CODEC_CUDA_LOGITS};
}

/* The last coordinate with bits counts next to nothing. Five have none; five bits of padding. The caller may change x
 * before start_trial. */
static void set_up(bench *b, codec_dtype type)
{
    double basis[D * D], weights[D], center[D];
    uint8_t widths[D] = {8};
    float *lean = random_floats(D * D, 10);
    *b = (bench){.model = {.n_layers = 1,
                           .n_q_heads = 1,
                           .n_kv_heads = 1,
                           .head_dim = D,
                           .rotary_dim = D,
                           .value_dim = D,
                           .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}},
                 .bounds = bounds_of(type)};
    for (int i = 0; i < D; i++) {
        if (i > 0) widths[i] = (uint8_t)(i >= N_CODED ? 0 : i < 13 ? 3 : 2);
        for (int j = 0; j < D; j++) basis[i * D + j] = 0.05 * (double)lean[i * D + j] + (i == j ? 1.0 : 0.0);
        weights[i] = i == N_CODED - 1 ? 0.0 : exp(sin(i * 0.7));
        center[i] = sin(i * 1.3);
    }
    free(lean);
    assert_ok(codec_tables_create(&b->tables, &err));
    assert_ok(plan_head_set_trellis(&b->head, widths, basis, weights, GAIN_BITS, 4, D, &err));
    assert_ok(plan_head_set_center(&b->head, center, D, &err));
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
    codec_tables_free(b->tables);
    plan_head_clear(&b->head);
    free(b->x);
    free(b->queries);
}

/* ---- codes of a trial ------------------------------------------------------------------------ */

static uint8_t *packed_at(bench *b, int v) { return b->trial.packed + (size_t)v * head_codec_packed_bytes(b->codec); }

static void get_codes(uint8_t *codes, bench *b, int v)
{
    assert_ok(unpack_codes(codes, packed_at(b, v), head_codec_widths(b->codec), D, &err));
}

/* Stores other codes, and what an implementation makes of them, so that the damage stays alone. */
static void put_codes(bench *b, int v, const uint8_t *codes)
{
    float *x_hat = b->trial.x_hat + v * D;
    uint16_t unused = 0;
    pack_codes(packed_at(b, v), codes, head_codec_widths(b->codec), D);
    assert_ok(head_codec_decode(b->codec, codes, &unused, 1, x_hat, &err));
    for (int q = 0; q < N_QUERIES; q++) {
        double sum = 0.0;
        for (int j = 0; j < D; j++) sum += (double)b->queries[q * D + j] * (double)x_hat[j];
        b->trial.logits[q * N + v] = (float)sum;
    }
    codec_dtype_round(x_hat, D, b->in.type);
}

/* ---- verdicts -------------------------------------------------------------------------------- */

typedef struct expected {
    int codes_tied, codes_wrong, paths_tied, bytes_wrong, values_wrong, logits_wrong;
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
    assert_int_equal(r.searches_tied, e.paths_tied);
    assert_int_equal(r.bytes_wrong, e.bytes_wrong);
    assert_int_equal(r.values_wrong, e.values_wrong);
    assert_int_equal(r.logits_wrong, e.logits_wrong);
    assert_int_equal(r.norms_wrong + r.norms_tied + r.n_norms, 0);
    assert_int_equal(codec_report_is_good(&r), e.codes_wrong + e.bytes_wrong + e.values_wrong + e.logits_wrong == 0);
    assert_int_equal(r.n_codes, N * (N_CODED + 1));
    free(codes);
    free(reference);
}

static void the_references_own_trial_has_nothing_wrong(void **state)
{
    (void)state;
    for (int type = 0; type < CODEC_N_DTYPES; type++) {
        bench b;
        set_up(&b, (codec_dtype)type);
        start_trial(&b);
        b.bounds.trellis_tie = b.bounds.trellis_restore = 0.0;
        assert_found(&b, (expected){0});
        clear(&b);
    }
}

static void a_path_of_more_error_is_wrong(void **state)
{
    uint8_t codes[D];
    bench b;
    (void)state;
    set_up(&b, CODEC_F32);
    start_trial(&b);
    get_codes(codes, &b, VECTOR);
    codes[13] ^= 1;
    put_codes(&b, VECTOR, codes);
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

static void a_path_of_as_little_error_is_a_tie(void **state)
{
    uint8_t codes[D];
    bench b;
    (void)state;
    set_up(&b, CODEC_F32);
    start_trial(&b);
    get_codes(codes, &b, VECTOR);
    codes[N_CODED - 1] ^= 1;
    put_codes(&b, VECTOR, codes);
    assert_found(&b, (expected){.paths_tied = 1});
    b.bounds.trellis_tie = 1e-9;
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

static void another_gain_is_wrong(void **state)
{
    uint8_t codes[D];
    bench b;
    (void)state;
    set_up(&b, CODEC_F32);
    start_trial(&b);
    get_codes(codes, &b, VECTOR);
    codes[D - 1] ^= 1;
    put_codes(&b, VECTOR, codes);
    assert_found(&b, (expected){.codes_wrong = 1});
    clear(&b);
}

/* The vector's size brought to the boundary between two levels, but for `aside`, relative. */
static void bring_to_boundary(bench *b, int v, double aside)
{
    float *x = b->x + v * D;
    const double level = trellis_codec_level(head_codec_trellis(b->codec), x),
                 factor = exp2(0.5 * (floor(level) + 0.5 - level)) * (1.0 + aside);
    for (int j = 0; j < D; j++) {
        const double center = (double)b->head.center[j];
        x[j] = (float)(((double)x[j] - center) * factor + center);
    }
}

/* The codes of the vector a little larger, whose level is the next, for the vector as it is. */
static void a_gain_as_near_is_a_tie(void **state)
{
    (void)state;
    for (int is_near = 0; is_near < 2; is_near++) {
        static const double asides[] = {4e-3, 2e-6};
        uint8_t above[D], codes[D];
        bench b;
        set_up(&b, CODEC_F32);
        bring_to_boundary(&b, VECTOR, asides[is_near]);
        start_trial(&b);
        get_codes(above, &b, VECTOR);
        codec_trial_free(&b.trial);
        bring_to_boundary(&b, VECTOR, -asides[is_near]);
        start_trial(&b);
        get_codes(codes, &b, VECTOR);
        assert_int_equal(trellis_codes_gain(&b.head.trellis, above), trellis_codes_gain(&b.head.trellis, codes) + 1);
        put_codes(&b, VECTOR, above);
        assert_found(&b, is_near ? (expected){.codes_tied = 1, .paths_tied = 1} : (expected){.codes_wrong = 1});
        clear(&b);
    }
}

static void damaged_bytes_values_and_logits_are_told_apart(void **state)
{
    bench b;
    (void)state;
    set_up(&b, CODEC_F16);
    start_trial(&b);
    packed_at(&b, 3)[head_codec_packed_bytes(b.codec) - 1] |= 0x80; /* padding */
    b.trial.x_hat[5 * D + 7] += 0.01f;
    b.trial.logits[N + 8] += 0.01f;
    assert_found(&b, (expected){.bytes_wrong = 1, .values_wrong = 1, .logits_wrong = 1});
    clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_own_trial_has_nothing_wrong),
        cmocka_unit_test(a_path_of_more_error_is_wrong),
        cmocka_unit_test(a_path_of_as_little_error_is_a_tie),
        cmocka_unit_test(another_gain_is_wrong),
        cmocka_unit_test(a_gain_as_near_is_a_tie),
        cmocka_unit_test(damaged_bytes_values_and_logits_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
