/* Codec family trellis against its definition written out plainly: every path of a short one tried, and vectors
 * restored from the bits of their stream. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/numpy_random.h"
#include "kernels/reference/trellis_codec.h"

enum { HEAD_DIM = 16, N_VECTORS = 100, GAIN_BITS = 3, GAIN_ZERO = 2 };

static rb_error err;
static codec_tables *tables;
static const uint8_t falling[HEAD_DIM] = {8, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0};
static const uint8_t all_coded[HEAD_DIM] = {8, 7, 6, 5, 5, 4, 4, 4, 3, 3, 3, 3, 2, 2, 2, 1};

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

static model_facts facts(void)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = 1,
                         .n_kv_heads = 1,
                         .head_dim = HEAD_DIM,
                         .rotary_dim = HEAD_DIM,
                         .value_dim = HEAD_DIM,
                         .rope = {.attention_factor = 1}};
}

static void normals(double *out, uint64_t seed, size_t n)
{
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, out, n);
}

/* A basis that leans, vectors of falling length, a centre. */
static plan_head head_of(const uint8_t *widths, int gain_bits, int gain_zero)
{
    double basis[HEAD_DIM * HEAD_DIM], weights[HEAD_DIM], center[HEAD_DIM];
    plan_head head = {0};
    normals(basis, 11, HEAD_DIM * HEAD_DIM);
    for (int i = 0; i < HEAD_DIM; i++) {
        for (int j = 0; j < HEAD_DIM; j++) basis[i * HEAD_DIM + j] *= exp2(-0.3 * i);
        weights[i] = exp2(-0.6 * i);
        center[i] = i % 3 - 0.75;
    }
    assert_ok(plan_head_set_trellis(&head, widths, basis, weights, gain_bits, gain_zero, HEAD_DIM, &err));
    assert_ok(plan_head_set_center(&head, center, HEAD_DIM, &err));
    return head;
}

/* Vectors of many sizes, the centre itself first. */
static void make_vectors(float *x, const plan_head *head)
{
    double drawn[N_VECTORS * HEAD_DIM];
    normals(drawn, 5, N_VECTORS * HEAD_DIM);
    for (int v = 0; v < N_VECTORS; v++)
        for (int j = 0; j < HEAD_DIM; j++)
            x[v * HEAD_DIM + j] =
                (float)((double)head->center[j] + (v == 0 ? 0.0 : exp2(v % 13 - 6)) * drawn[v * HEAD_DIM + j]);
}

/* ---- the search ------------------------------------------------------------------------------ */

enum { N_SHORT = 4 };
static const uint8_t short_widths[N_SHORT] = {8, 1, 3, 2};

static double path_error(const double *y, const double *weights, unsigned path)
{
    double error = 0.0;
    int state = 0;
    for (int t = 0; t < N_SHORT; t++) {
        const int code = (int)(path & ((1u << short_widths[t]) - 1u));
        path >>= short_widths[t];
        state = state >> short_widths[t] | code << (8 - short_widths[t]);
        const double off = y[t] - (double)trellis_tables[short_widths[t]][state];
        error += weights[t] * off * off;
    }
    return error;
}

static void finds_the_path_of_the_least_error(void **state)
{
    static const double weights[N_SHORT] = {1.0, 0.5, 2.0, 0.25};
    double y[N_SHORT * TRELLIS_LANES];
    uint8_t states[N_SHORT * TRELLIS_LANES];
    void *work = malloc(trellis_search_size(N_SHORT));
    (void)state;
    normals(y, 3, N_SHORT * TRELLIS_LANES);
    trellis_search(states, y, weights, short_widths, N_SHORT, trellis_tables, work);
    for (int v = 0; v < TRELLIS_LANES; v++) {
        double own[N_SHORT], least = INFINITY, found = 0.0;
        for (int t = 0; t < N_SHORT; t++) own[t] = y[t * TRELLIS_LANES + v];
        for (unsigned path = 0; path < 1u << 14; path++) least = fmin(least, path_error(own, weights, path));
        for (int t = 0; t < N_SHORT; t++) {
            const double off = own[t] - (double)trellis_tables[short_widths[t]][states[t * TRELLIS_LANES + v]];
            found += weights[t] * off * off;
            if (t > 0) /* the state shares its lower bits with the upper ones of the state before */
                assert_int_equal(states[t * TRELLIS_LANES + v] & ((256 >> short_widths[t]) - 1),
                                 states[(t - 1) * TRELLIS_LANES + v] >> short_widths[t]);
        }
        assert_true(fabs(found - least) <= 1e-12 * least);
    }
    free(work);
}

/* Paths of 65 coordinates of one width, as bench/train_trellis.c measures them, on other variables. */
static void leaves_the_error_that_the_table_states(void **state)
{
    enum { N = 65, N_TILES = 40 };
    double *y = malloc((size_t)N_TILES * N * TRELLIS_LANES * sizeof *y), weights[N];
    uint8_t states[N * TRELLIS_LANES], widths[N];
    void *work = malloc(trellis_search_size(N));
    (void)state;
    normals(y, 99, (size_t)N_TILES * N * TRELLIS_LANES);
    for (int width = 1; width <= 6; width++) {
        double squares = 0.0;
        for (int t = 0; t < N; t++) {
            widths[t] = (uint8_t)(t == 0 ? 8 : width);
            weights[t] = 1.0;
        }
        for (int tile = 0; tile < N_TILES; tile++) {
            const double *own = y + (size_t)tile * N * TRELLIS_LANES;
            trellis_search(states, own, weights, widths, N, trellis_tables, work);
            for (int i = TRELLIS_LANES; i < N * TRELLIS_LANES; i++) {
                const double off = own[i] - (double)trellis_tables[width][states[i]];
                squares += off * off;
            }
        }
        const double error = squares / ((N - 1.0) * N_TILES * TRELLIS_LANES);
        assert_true(fabs(error / trellis_errors[width] - 1.0) < 0.05);
    }
    free(work);
    free(y);
}

/* ---- the codec ------------------------------------------------------------------------------- */

static unsigned bits_at(const uint8_t *stream, int at, int n)
{
    unsigned bits = 0;
    for (int i = 0; i < n; i++) bits |= (unsigned)(stream[(at + i) / 8] >> (at + i) % 8 & 1) << i;
    return bits;
}

/* As a runtime does: from 8 bits of the stream that end where the coordinate's own do. */
static void restore_plainly(double *out, const plan_head *head, const uint8_t *stream)
{
    const plan_trellis *own = &head->trellis;
    double sums[HEAD_DIM] = {0};
    int end = 0;
    for (int i = 0; i < HEAD_DIM && own->widths[i] > 0; i++) {
        end += own->widths[i];
        for (int j = 0; j < HEAD_DIM; j++)
            sums[j] += (double)trellis_tables[own->widths[i]][bits_at(stream, end - 8, 8)]
                       * (double)own->basis[i * HEAD_DIM + j];
    }
    const double gain = exp2(0.5 * ((int)bits_at(stream, end, own->gain_bits) - own->gain_zero));
    for (int j = 0; j < HEAD_DIM; j++) out[j] = (double)head->center[j] + gain * sums[j];
}

static void check_codec(const uint8_t *widths, int gain_bits, int gain_zero)
{
    const model_facts model = facts();
    plan_head head = head_of(widths, gain_bits, gain_zero);
    float x[N_VECTORS * HEAD_DIM], x_hat[N_VECTORS * HEAD_DIM], again[HEAD_DIM];
    uint8_t codes[N_VECTORS * HEAD_DIM], alone[HEAD_DIM], stream[64];
    uint16_t norms[1];
    head_codec *codec = NULL;
    assert_ok(plan_head_check(&head, &model, "head", &err));
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    assert_int_equal(head_codec_n_norms(codec), 0);
    assert_int_equal(8 * head_codec_packed_bytes(codec), plan_head_stored_bits(&head, HEAD_DIM / 2));
    make_vectors(x, &head);
    assert_ok(head_codec_encode(codec, x, N_VECTORS, codes, norms, &err));
    assert_ok(head_codec_decode(codec, codes, norms, N_VECTORS, x_hat, &err));
    for (int v = 0; v < N_VECTORS; v++) {
        double plain[HEAD_DIM], largest = 0.0;
        pack_codes(stream, codes + v * HEAD_DIM, head_codec_widths(codec), HEAD_DIM);
        restore_plainly(plain, &head, stream);
        for (int j = 0; j < HEAD_DIM; j++) largest = fmax(largest, fabs(plain[j]));
        for (int j = 0; j < HEAD_DIM; j++)
            assert_true(fabs((double)x_hat[v * HEAD_DIM + j] - plain[j]) <= 1e-6 * largest);
        /* a vector's codes do not depend on its neighbours */
        assert_ok(head_codec_encode(codec, x + v * HEAD_DIM, 1, alone, norms, &err));
        assert_memory_equal(alone, codes + v * HEAD_DIM, HEAD_DIM);
        assert_ok(head_codec_round_trip(codec, x + v * HEAD_DIM, 1, again, &err));
        assert_memory_equal(again, x_hat + v * HEAD_DIM, sizeof again);
    }
    head_codec_free(codec);
    plan_head_clear(&head);
}

static void restores_what_the_stream_says(void **state)
{
    (void)state;
    check_codec(falling, GAIN_BITS, GAIN_ZERO);
    check_codec(falling, 0, 0);
    check_codec(falling, 4, 10);
    check_codec(all_coded, 4, 4);
}

/* Coordinates of variance 1 in their basis come back with the errors of the tables, and no bias along themselves. */
static void keeps_coordinates_unbiased(void **state)
{
    enum { N = 4000 };
    const model_facts model = facts();
    double basis[HEAD_DIM * HEAD_DIM] = {0}, weights[HEAD_DIM];
    double *drawn = malloc(N * HEAD_DIM * sizeof *drawn);
    float *x = malloc(N * HEAD_DIM * sizeof *x);
    uint8_t widths[HEAD_DIM] = {8};
    plan_head head = {0};
    head_codec *codec = NULL;
    (void)state;
    for (int i = 0; i < HEAD_DIM; i++) {
        if (i > 0) widths[i] = 2;
        basis[i * HEAD_DIM + i] = trellis_stretch(widths[i]);
        weights[i] = 1.0;
    }
    assert_ok(plan_head_set_trellis(&head, widths, basis, weights, 0, 0, HEAD_DIM, &err));
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    normals(drawn, 17, N * HEAD_DIM);
    for (int i = 0; i < N * HEAD_DIM; i++) x[i] = (float)drawn[i];
    assert_ok(head_codec_round_trip(codec, x, N, x, &err));
    for (int j = 1; j < HEAD_DIM; j++) {
        double product = 0.0, square = 0.0;
        for (int v = 0; v < N; v++) {
            product += (double)x[v * HEAD_DIM + j] * drawn[v * HEAD_DIM + j];
            square += drawn[v * HEAD_DIM + j] * drawn[v * HEAD_DIM + j];
        }
        assert_true(fabs(product / square - 1.0) < 0.04);
    }
    head_codec_free(codec);
    plan_head_clear(&head);
    free(drawn);
    free(x);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void assert_refused(const uint8_t *widths, int gain_bits, int gain_zero, const char *message)
{
    const model_facts model = facts();
    plan_head head = head_of(widths, gain_bits, gain_zero);
    err = (rb_error){0};
    assert_int_equal(plan_head_check(&head, &model, "head", &err), RB_EFORMAT);
    assert_string_equal(err.msg, message);
    plan_head_clear(&head);
}

static void refuses_what_cannot_be_executed(void **state)
{
    static const uint8_t nine[HEAD_DIM] = {8, 9}, start[HEAD_DIM] = {7, 3}, hole[HEAD_DIM] = {8, 0, 1},
                         full[HEAD_DIM] = {8, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6};
    (void)state;
    assert_refused(nine, 3, 2, "head: coordinate 1 has 9 bits, expected 0 to 8");
    assert_refused(start, 3, 2, "head: coordinate 0 has 7 bits, expected 8");
    assert_refused(hole, 3, 2, "head: coordinate 2 has 1 bits after one that has none");
    assert_refused(full, 3, 2, "head: the last coordinate and the gain have 9 bits, expected 8 at most");
    assert_refused(falling, 5, 2, "head: gain_bits is 5, expected 0 to 4");
    assert_refused(falling, 3, 8, "head: gain_zero is 8, expected 0 to 7");
}

static void refuses_a_basis_that_cannot_be_inverted(void **state)
{
    const model_facts model = facts();
    plan_head head = head_of(falling, 3, 2);
    head_codec *codec = NULL;
    (void)state;
    for (int j = 0; j < HEAD_DIM; j++) head.trellis.basis[3 * HEAD_DIM + j] = 0.0f;
    err = (rb_error){0};
    assert_int_equal(head_codec_create(&codec, &head, &model, tables, &err), RB_EFORMAT);
    assert_string_equal(err.msg, "basis of 16 vectors cannot be inverted");
    plan_head_clear(&head);
}

static void refuses_numbers_that_are_not_finite(void **state)
{
    const model_facts model = facts();
    plan_head head = head_of(falling, 3, 2);
    float x[2 * HEAD_DIM] = {0};
    uint8_t codes[2 * HEAD_DIM];
    uint16_t norms[1];
    head_codec *codec = NULL;
    (void)state;
    x[HEAD_DIM + 5] = INFINITY;
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    err = (rb_error){0};
    assert_int_equal(head_codec_encode(codec, x, 2, codes, norms, &err), RB_ENONFINITE);
    assert_string_equal(err.msg, "vector 1: dim 5 is inf, expected a finite number");
    head_codec_free(codec);
    plan_head_clear(&head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_path_of_the_least_error),
        cmocka_unit_test(leaves_the_error_that_the_table_states),
        cmocka_unit_test(restores_what_the_stream_says),
        cmocka_unit_test(keeps_coordinates_unbiased),
        cmocka_unit_test(refuses_what_cannot_be_executed),
        cmocka_unit_test(refuses_a_basis_that_cannot_be_inverted),
        cmocka_unit_test(refuses_numbers_that_are_not_finite),
    };
    return cmocka_run_group_tests_name("trellis codec", tests, create_tables, free_tables);
}
