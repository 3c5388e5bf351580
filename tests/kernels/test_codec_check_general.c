/* The check of the general form: searches, 8-bit norms, scales and centres, dims of no group. The reference's own
 * trial is good with nothing allowed; each kind of damage, planted alone, is found; what is allowed is allowed as far
 * as the bounds say and no farther. */
#include "tests/test_support.h"

#include "kernels/check/codec_check.h"
#include "kernels/check/codec_trial.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/numpy_random.h"

enum { D = 64, N_BLOCKS = D / 2, N = 40, N_QUERIES = 2 };

static rb_error err;

typedef struct bench {
    model_facts model;
    plan_head head;
    codec_tables *tables;
    head_codec *codec;
    codec_trial_input in;
    codec_trial trial;
    float x[N * D], queries[N_QUERIES * D];
    uint8_t codes[N * D];
    uint16_t norms[N * GROUPS_MAX_GROUPS];
    codec_bounds bounds;
} bench;

static void fill_normal(float *x, int n, uint64_t seed)
{
    double normals[N * D];
    numpy_rng rng;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, (size_t)n);
    for (int i = 0; i < n; i++) x[i] = (float)normals[i];
}

/* Blocks by threes: in a group of 2 bits, in one of 4, in none. */
static plan_head some_head(norm_kind norm, plan_encoder encoder)
{
    plan_head head = {.groups.norm = norm, .groups.encoder = encoder};
    int low[N_BLOCKS], high[N_BLOCKS], n_low = 0, n_high = 0;
    for (int i = 0; i < N_BLOCKS; i++) {
        if (i % 3 == 0) low[n_low++] = i;
        if (i % 3 == 1) high[n_high++] = i;
    }
    assert_ok(plan_head_add_group(&head, 2, low, n_low, CODEBOOK_SPHERE, 3, &err));
    assert_ok(plan_head_add_group(&head, 4, high, n_high, CODEBOOK_SPHERE, 4, &err));
    if (encoder == ENCODER_SEARCH) {
        head.groups.at[0].coherence = 0.5f;
        head.groups.at[1].coherence = 12.0f;
    }
    return head;
}

static void set_up(bench *b, plan_head head, const double *scales, const double *center)
{
    *b = (bench){.model = {.n_layers = 1,
                           .n_q_heads = 1,
                           .n_kv_heads = 1,
                           .head_dim = D,
                           .rotary_dim = D,
                           .value_dim = D,
                           .rope = {.attention_factor = 1, .pairing = ROPE_SPLIT_HALF}},
                 .head = head};
    assert_ok(plan_head_set_transform(&b->head, scales, N_BLOCKS, center, D, &err));
    assert_ok(codec_tables_create(&b->tables, &err));
    assert_ok(head_codec_create(&b->codec, &b->head, &b->model, b->tables, &err));
    fill_normal(b->x, N * D, 5);
    fill_normal(b->queries, N_QUERIES * D, 6);
    b->in = (codec_trial_input){.heads = &b->head,
                                .n_heads = 1,
                                .model = &b->model,
                                .tables = b->tables,
                                .type = CODEC_F32,
                                .x = b->x,
                                .n = N,
                                .queries = b->queries,
                                .n_queries = N_QUERIES};
    b->bounds = (codec_bounds){.code_tie = CODEC_CUDA_CODE_TIE,
                               .norm_tie = CODEC_CUDA_NORM_TIE,
                               .cosine_tie = CODEC_CUDA_COSINE_TIE,
                               .restore = CODEC_CUDA_RESTORE_F32,
                               .rounding = codec_dtype_rounding(CODEC_F32),
                               .rounding_least = codec_dtype_rounding_least(CODEC_F32),
                               .logits = CODEC_CUDA_LOGITS};
}

static void start_trial(bench *b)
{
    assert_ok(codec_trial_cpu(&b->trial, &b->in, &err));
    assert_ok(head_codec_encode(b->codec, b->x, N, b->codes, b->norms, &err));
}

static void clear(bench *b)
{
    codec_trial_free(&b->trial);
    head_codec_free(b->codec);
    plan_head_clear(&b->head);
    codec_tables_free(b->tables);
}

/* What an implementation does that has found the bench's codes and norms. */
static void store_and_restore(bench *b)
{
    const size_t packed_bytes = head_codec_packed_bytes(b->codec);
    for (int v = 0; v < N; v++)
        pack_codes(b->trial.packed + (size_t)v * packed_bytes, b->codes + v * D, head_codec_widths(b->codec), D);
    codec_image_write_norms(b->trial.norms, b->trial.image, 0, b->norms, N);
    assert_ok(head_codec_decode(b->codec, b->codes, b->norms, N, b->trial.x_hat, &err));
    for (int query = 0; query < N_QUERIES; query++)
        for (int v = 0; v < N; v++) {
            double sum = 0.0;
            for (int j = 0; j < D; j++) sum += (double)b->queries[query * D + j] * (double)b->trial.x_hat[v * D + j];
            b->trial.logits[query * N + v] = (float)sum;
        }
}

static codec_report check(bench *b)
{
    codec_report report = {0};
    uint8_t codes[N * D];
    float reference[N * D];
    uint16_t norms[N * GROUPS_MAX_GROUPS];
    const codec_checked on = {&b->head, &b->model, b->tables, b->codec};
    codec_image_read_norms(norms, b->trial.image, 0, b->trial.norms, N);
    assert_ok(codec_check_encoded(&report, &on, b->x, N, b->trial.packed, norms, &b->bounds, codes, &err));
    assert_ok(codec_check_restored(&report, &on, codes, norms, N, b->trial.x_hat, &b->bounds, reference, &err));
    codec_check_logits(&report, &on, b->queries, N_QUERIES, reference, N, b->trial.logits, &b->bounds);
    return report;
}

static void some_transform(double *scales, double *center)
{
    for (int i = 0; i < N_BLOCKS; i++) scales[i] = exp2(sin(i * 3.7));
    for (int i = 0; i < D; i++) center[i] = 4.0 * sin(i * 1.3);
}

/* ---- nothing wrong --------------------------------------------------------------------------- */

static void the_references_own_trial_is_good_with_nothing_allowed(void **state)
{
    (void)state;
    double scales[N_BLOCKS], center[D];
    some_transform(scales, center);
    for (int kind = 0; kind < 16; kind++) {
        bench b;
        set_up(&b, some_head(kind & 1 ? NORM_LOG8 : NORM_FP16, kind & 2 ? ENCODER_SEARCH : ENCODER_NEAREST),
               kind & 4 ? scales : NULL, kind & 8 ? center : NULL);
        b.bounds = (codec_bounds){.rounding = codec_dtype_rounding(CODEC_F32),
                                  .rounding_least = codec_dtype_rounding_least(CODEC_F32),
                                  .logits = codec_dtype_rounding(CODEC_F32)};
        start_trial(&b);
        const codec_report r = check(&b);
        assert_true(codec_report_is_good(&r));
        assert_int_equal(r.codes_tied + r.searches_tied + r.norms_tied, 0);
        assert_int_equal(r.n_norms, 2 * N);
        clear(&b);
    }
}

/* ---- searches -------------------------------------------------------------------------------- */

/* Coordinates of group g of vector v, without a transform. */
static void find_coordinates(bench *b, int v, int g, double *y)
{
    const plan_group *group = &b->head.groups.at[g];
    const int m = 2 * group->n_blocks;
    const double *rotation;
    double square = 0.0;
    int dims[D];
    assert_ok(codec_tables_rotation(b->tables, &group->rotation, &rotation, &err));
    plan_group_dims(group, &b->model, dims);
    for (int i = 0; i < m; i++) {
        y[i] = 0.0;
        for (int j = 0; j < m; j++) y[i] += rotation[i * m + j] * (double)b->x[v * D + dims[j]];
        square += (double)b->x[v * D + dims[i]] * (double)b->x[v * D + dims[i]];
    }
    for (int i = 0; i < m; i++) y[i] /= sqrt(square);
}

static double norm_of_group(bench *b, int v, int g)
{
    int dims[D];
    double square = 0.0;
    plan_group_dims(&b->head.groups.at[g], &b->model, dims);
    for (int j = 0; j < 2 * b->head.groups.at[g].n_blocks; j++)
        square += (double)b->x[v * D + dims[j]] * (double)b->x[v * D + dims[j]];
    return sqrt(square);
}

/* Group 1 of vector v coded at a stretch, with the norm of those codes; returns how far its cosine is below the best,
 * relative. */
static double code_at_stretch(bench *b, int v, double stretch)
{
    const int first = 2 * b->head.groups.at[0].n_blocks, m = 2 * b->head.groups.at[1].n_blocks;
    const codebook *book;
    uint8_t *codes = b->codes + v * D + first;
    double y[D], cosine[2];
    find_coordinates(b, v, 1, y);
    assert_ok(codec_tables_codebook(b->tables, CODEBOOK_SPHERE, b->head.groups.at[1].width, m, &book, &err));
    for (int i = 0; i < 2; i++) {
        double product = 0.0, square = 0.0;
        for (int j = 0; i == 1 && j < m; j++) codes[j] = (uint8_t)codebook_code(book, stretch * y[j]);
        for (int j = 0; j < m; j++) {
            product += y[j] * (double)book->centroid_f32[codes[j]];
            square += (double)book->centroid_f32[codes[j]] * (double)book->centroid_f32[codes[j]];
        }
        cosine[i] = product / sqrt(square);
    }
    assert_ok(norm_encode(&b->norms[2 * v + 1], b->head.groups.norm, b->head.groups.at[1].norm_exponent,
                          norm_of_group(b, v, 1) * plan_encoder_gain(cosine[1], (double)b->head.groups.at[1].coherence),
                          &err));
    return 1.0 - cosine[1] / cosine[0];
}

/* The codes of a stretch that is not the best: right by a bound above what they lack, wrong below. */
static void another_stretch_is_good_only_within_the_bound(void **state)
{
    (void)state;
    static const double stretches[] = {0.84, 1.0, 1.17, 1.38};
    int n_tried = 0;
    for (size_t s = 0; s < RB_COUNT(stretches); s++) {
        bench b;
        set_up(&b, some_head(NORM_LOG8, ENCODER_SEARCH), NULL, NULL);
        start_trial(&b);
        const double missing = code_at_stretch(&b, 7, stretches[s]);
        store_and_restore(&b);
        codec_report r = check(&b);
        if (missing == 0.0) { /* it is the best */
            assert_true(codec_report_is_good(&r) && r.searches_tied == 0);
        } else {
            n_tried++;
            assert_int_equal(r.codes_wrong, 1);
            assert_int_equal(r.searches_tied + r.norms_wrong + r.values_wrong, 0);
            b.bounds.cosine_tie = 1.001 * missing;
            r = check(&b);
            assert_true(codec_report_is_good(&r));
            assert_int_equal(r.searches_tied, 1);
            assert_true(fabs(r.worst_cosine - missing) < 1e-9);
            b.bounds.cosine_tie = 0.999 * missing;
            r = check(&b);
            assert_int_equal(r.codes_wrong, 1);
        }
        clear(&b);
    }
    assert_true(n_tried >= 3);
}

/* However small the loss: a code that no stretch has is wrong. */
static void a_code_of_no_stretch_is_wrong_whatever_the_cosine(void **state)
{
    (void)state;
    bench b;
    set_up(&b, some_head(NORM_FP16, ENCODER_SEARCH), NULL, NULL);
    start_trial(&b);
    b.bounds.cosine_tie = 1.0;
    for (int j = 0; j < 2; j++) { /* 4 bits: to the other side of 0 */
        uint8_t *code = &b.codes[9 * D + 2 * b.head.groups.at[0].n_blocks + j];
        *code = *code < 8 ? 15 : 0;
    }
    store_and_restore(&b);
    const codec_report r = check(&b);
    assert_int_equal(r.codes_wrong, 2);
    assert_int_equal(r.searches_tied, 0);
    clear(&b);
}

/* Without a search the codes of a stretch are wrong codes. */
static void the_nearest_encoder_has_no_stretches(void **state)
{
    (void)state;
    bench b;
    set_up(&b, some_head(NORM_FP16, ENCODER_NEAREST), NULL, NULL);
    start_trial(&b);
    b.bounds.cosine_tie = 1.0;
    const uint16_t norm = b.norms[2 * 3 + 1];
    code_at_stretch(&b, 3, 1.38);
    b.norms[2 * 3 + 1] = norm;
    store_and_restore(&b);
    const codec_report r = check(&b);
    assert_true(r.codes_wrong > 0);
    assert_int_equal(r.searches_tied + r.norms_wrong, 0);
    clear(&b);
}

/* ---- norms ----------------------------------------------------------------------------------- */

/* A search stores |x| cos: |x| itself is another fp16 number, and wrong. */
static void the_norm_of_a_search_is_that_of_its_codes(void **state)
{
    (void)state;
    bench b;
    set_up(&b, some_head(NORM_FP16, ENCODER_SEARCH), NULL, NULL);
    start_trial(&b);
    assert_ok(norm_encode(&b.norms[2 * 5], NORM_FP16, 0, norm_of_group(&b, 5, 0), &err));
    store_and_restore(&b);
    const codec_report r = check(&b);
    assert_int_equal(r.norms_wrong, 1);
    assert_int_equal(r.codes_wrong + r.codes_tied + r.norms_tied + r.values_wrong, 0);
    clear(&b);
}

/* Group 0 of vector 2 gets the norm 2^octaves: one value, the rest 0. Bytes stored: the reference's and `units` more.
 */
static codec_report plant_norm(double octaves, int expected, int units)
{
    bench b;
    int dims[D];
    set_up(&b, some_head(NORM_LOG8, ENCODER_NEAREST), NULL, NULL);
    plan_group_dims(&b.head.groups.at[0], &b.model, dims);
    for (int j = 0; j < 2 * b.head.groups.at[0].n_blocks; j++)
        b.x[2 * D + dims[j]] = j == 1 ? (float)exp2(octaves) : 0.0f;
    start_trial(&b);
    assert_int_equal(b.norms[2 * 2], expected);
    b.norms[2 * 2] = (uint16_t)(b.norms[2 * 2] + units);
    store_and_restore(&b);
    const codec_report r = check(&b);
    assert_int_equal(r.codes_wrong + r.codes_tied + r.bytes_wrong + r.values_wrong, 0);
    clear(&b);
    return r;
}

/* Exponent 3: 2^3 is 255, and a step is a sixteenth of an octave. */
static void a_byte_off_by_one_is_wrong_unless_half_way(void **state)
{
    (void)state;
    static const struct {
        double octaves;
        int expected, units, tied, wrong;
    } cases[] = {
        {2.0, 239, 0, 0, 0},
        {2.0, 239, 1, 0, 1},
        {2.0, 239, -1, 0, 1},
        {2.0 + 0.5 / 16 + 1e-6, 240, -1, 1, 0},
        {2.0 + 0.5 / 16 + 1e-6, 240, 1, 0, 1},
        {2.0 + 0.5 / 16 - 1e-6, 239, 1, 1, 0},
        {2.0 + 0.5 / 16 + 4e-6, 240, -1, 0, 1},
        {2.0 + 0.5 / 16 - 4e-6, 239, 1, 0, 1},
        {5.0, 255, -1, 0, 1},
        {5.0, 255, 0, 0, 0},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const codec_report r = plant_norm(cases[i].octaves, cases[i].expected, cases[i].units);
        assert_int_equal(r.norms_tied, cases[i].tied);
        assert_int_equal(r.norms_wrong, cases[i].wrong);
    }
}

/* ---- transforms ------------------------------------------------------------------------------ */

/* The bound of a restored dim is a share of N / s: a dim of a small scale may err more. */
static void the_bound_of_a_value_is_that_of_its_scale(void **state)
{
    (void)state;
    double scales[N_BLOCKS], center[D];
    some_transform(scales, center);
    for (int block = 0; block < N_BLOCKS; block += 5)
        for (int is_beyond = 0; is_beyond < 2; is_beyond++) {
            bench b;
            double square = 0.0;
            set_up(&b, some_head(NORM_LOG8, ENCODER_SEARCH), scales, center);
            start_trial(&b);
            float *x_hat = b.trial.x_hat + 4 * D;
            for (int i = 0; i < D; i++) {
                const double coded =
                    ((double)x_hat[i] - (double)b.head.center[i]) * (double)b.head.groups.scales[i % N_BLOCKS];
                square += coded * coded;
            }
            const double allowed = b.bounds.restore * sqrt(square) / (double)b.head.groups.scales[block]
                                   + b.bounds.rounding * fabs((double)x_hat[block]);
            x_hat[block] = (float)((double)x_hat[block] + (is_beyond ? 1.1 : 0.9) * allowed);
            const codec_report r = check(&b);
            assert_int_equal(r.values_wrong, is_beyond);
            clear(&b);
        }
}

/* A dim of no group is its centre, and nothing else. */
static void a_dim_of_no_group_must_be_its_centre(void **state)
{
    (void)state;
    double center[D];
    bench b;
    for (int i = 0; i < D; i++) center[i] = 0.5 * (1 + i);
    set_up(&b, some_head(NORM_FP16, ENCODER_NEAREST), NULL, center);
    start_trial(&b);
    assert_true(b.trial.x_hat[2] == 1.5f); /* block 2 is in no group */
    b.trial.x_hat[2] = 0.0f;
    assert_int_equal(check(&b).values_wrong, 1);
    clear(&b);
}

/* What is left of x - c is known to a share of |x| + |c|: a code that is off by that is tied, without a centre it is
 * wrong. */
static void ties_grow_with_what_the_centre_takes_away(void **state)
{
    (void)state;
    for (int is_centred = 0; is_centred < 2; is_centred++) {
        enum { FAR = 64 };
        double center[D], y[D];
        int n_near = 0;
        bench b;
        const codebook *book;
        for (int i = 0; i < D; i++) center[i] = is_centred ? FAR : 0.0;
        set_up(&b, some_head(NORM_FP16, ENCODER_NEAREST), NULL, NULL);
        const int first = 2 * b.head.groups.at[0].n_blocks, m = 2 * b.head.groups.at[1].n_blocks;
        assert_ok(codec_tables_codebook(b.tables, CODEBOOK_SPHERE, b.head.groups.at[1].width, m, &book, &err));
        start_trial(&b);
        /* In which vector a coordinate is nearest above a boundary, in units of what is tied without a centre. */
        int at_v = 0, at_j = 0;
        double nearest = 1.0;
        for (int v = 0; v < N; v++) {
            find_coordinates(&b, v, 1, y);
            for (int j = 0; j < m; j++) {
                const int code = b.codes[v * D + first + j];
                const double above = code > 0 ? y[j] - book->boundary[code - 1] : 1.0;
                if (above > 2 * CODEC_CUDA_CODE_TIE && above < nearest) nearest = above, at_v = v, at_j = j, n_near++;
            }
        }
        assert_true(n_near > 0 && nearest < 30 * CODEC_CUDA_CODE_TIE);
        uint8_t codes[N * D];
        memcpy(codes, b.codes, sizeof codes);
        clear(&b);
        set_up(&b, some_head(NORM_FP16, ENCODER_NEAREST), NULL, is_centred ? center : NULL);
        for (int i = 0; i < N * D; i++) b.x[i] = (float)((double)b.x[i] + center[i % D]);
        start_trial(&b);
        b.codes[at_v * D + first + at_j] = (uint8_t)(codes[at_v * D + first + at_j] - 1);
        store_and_restore(&b);
        const codec_report r = check(&b);
        assert_int_equal(r.codes_wrong, !is_centred);
        assert_int_equal(r.codes_tied, is_centred);
        clear(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_own_trial_is_good_with_nothing_allowed),
        cmocka_unit_test(another_stretch_is_good_only_within_the_bound),
        cmocka_unit_test(a_code_of_no_stretch_is_wrong_whatever_the_cosine),
        cmocka_unit_test(the_nearest_encoder_has_no_stretches),
        cmocka_unit_test(the_norm_of_a_search_is_that_of_its_codes),
        cmocka_unit_test(a_byte_off_by_one_is_wrong_unless_half_way),
        cmocka_unit_test(the_bound_of_a_value_is_that_of_its_scale),
        cmocka_unit_test(a_dim_of_no_group_must_be_its_centre),
        cmocka_unit_test(ties_grow_with_what_the_centre_takes_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
