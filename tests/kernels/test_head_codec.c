/* The quantizer of a head: numpy's codes of real keys, what a quantizer must do (norms, zero, errors), and its shared
 * tables. */
#include "tests/test_support.h"

#include <omp.h>

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/json.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"

static rb_error err;

/* ---- heads to test with ---------------------------------------------------------------------- */

static model_facts some_model(int head_dim, int rotary_dim, rope_pairing pairing)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = 1,
                         .n_kv_heads = 1,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .rope = {.attention_factor = 1, .pairing = pairing}};
}

static head_codec *make_codec(codec_tables *tables, const model_facts *model, const uint8_t *bits, codebook_kind books)
{
    plan_head head = {0};
    head_codec *codec = NULL;
    assert_ok(plan_head_set_block_widths(&head, bits, model_n_blocks(model), books, &err));
    assert_ok(head_codec_create(&codec, &head, model, tables, &err));
    plan_head_clear(&head); /* the codec keeps nothing of it */
    return codec;
}

static head_codec *make_uniform(codec_tables *tables, int width, int head_dim, codebook_kind books)
{
    const model_facts model = some_model(head_dim, head_dim, ROPE_SPLIT_HALF);
    plan_head head = {0};
    head_codec *codec = NULL;
    assert_ok(plan_head_set_uniform(&head, width, head_dim / 2, 42, books, &err));
    assert_ok(head_codec_create(&codec, &head, &model, tables, &err));
    plan_head_clear(&head);
    return codec;
}

static codec_tables *make_tables(void)
{
    codec_tables *tables = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    return tables;
}

static float *random_vectors(int64_t n, int head_dim, uint64_t seed)
{
    const size_t size = (size_t)n * (size_t)head_dim;
    double *normals = malloc(size * sizeof *normals + 1);
    float *x = malloc(size * sizeof *x + 1);
    numpy_rng rng;
    assert_true(normals && x);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, size);
    for (size_t i = 0; i < size; i++) x[i] = (float)normals[i];
    free(normals);
    return x;
}

/* ---- numpy's codes of real keys -------------------------------------------------------------- */

/* A safetensors file: 8 bytes of length, a JSON header, data. model/ has the careful reader; kernels stands below it.
 */
typedef struct codes_file {
    char *bytes;
    const char *data;
    cJSON *header;
} codes_file;

static void open_codes(codes_file *file, const char *path)
{
    size_t size;
    uint64_t length;
    assert_ok(rb_read_file(&file->bytes, &size, path, 1 << 20, &err));
    memcpy(&length, file->bytes, sizeof length);
    assert_true(length < size);
    assert_ok(rb_json_parse(&file->header, file->bytes + sizeof length, length, path, &err));
    file->data = file->bytes + sizeof length + length;
}

static const void *tensor(const codes_file *file, const char *name, int shape[2])
{
    const cJSON *entry = rb_json_find(file->header, name), *dims = rb_json_find(entry, "shape");
    assert_non_null(entry);
    for (int i = 0; i < 2; i++) shape[i] = i < cJSON_GetArraySize(dims) ? cJSON_GetArrayItem(dims, i)->valueint : 1;
    return file->data + cJSON_GetArrayItem(rb_json_find(entry, "data_offsets"), 0)->valueint;
}

/* Distance from the nearest boundary of every coordinate of one group of one vector; norm in f32, as numpy had it. */
static void boundary_distances(double *distance, codec_tables *tables, const float *k, const int *dims, int m,
                               int width)
{
    const double *rotation;
    const codebook *book;
    double norm = 0.0;
    assert_ok(codec_tables_rotation(tables, &(rotation_spec){ROTATION_HAAR, 42 + (uint64_t)width, m}, &rotation, &err));
    assert_ok(codec_tables_codebook(tables, CODEBOOK_BLOCK_GTQ, width, m, &book, &err));
    for (int j = 0; j < m; j++) norm += (double)k[dims[j]] * (double)k[dims[j]];
    norm = sqrt(norm);
    for (int i = 0; i < m; i++) {
        double y = 0.0;
        for (int j = 0; j < m; j++) y += rotation[i * m + j] * (double)k[dims[j]] / norm;
        distance[i] = INFINITY;
        for (int b = 0; b + 1 < book->size; b++) distance[i] = fmin(distance[i], fabs(y - book->boundary[b]));
    }
}

enum { MAX_DIM = 128 };

/* numpy worked in f32: its y is off by 1e-6 at most, so a code may differ only where y is that close to a boundary;
 * 1e-5 leaves room. */
static void compare_with_numpy(const char *path)
{
    static const double NEAR_BOUNDARY = 1e-5;
    codes_file file = {0};
    int shape[2], n_dims[2], n_groups[2];
    open_codes(&file, path);
    const float *k = tensor(&file, "k", n_dims), *norms = tensor(&file, "norms", n_groups),
                *k_hat = tensor(&file, "k_hat", shape);
    const int32_t *bits = tensor(&file, "bits", shape), *perm = tensor(&file, "perm", shape);
    const uint8_t *codes = tensor(&file, "codes", shape);
    const int n = n_dims[0], d = n_dims[1];
    const model_facts model = some_model(d, d, ROPE_SPLIT_HALF);
    codec_tables *tables = make_tables();
    uint8_t block_bits[MAX_DIM / 2], *found = malloc((size_t)n * (size_t)d);
    uint16_t *found_norms = malloc((size_t)n * (size_t)n_groups[1] * sizeof *found_norms);
    float *found_hat = malloc((size_t)n * (size_t)d * sizeof *found_hat);
    int n_different = 0, n_near = 0;
    assert_true(d <= MAX_DIM);

    for (int i = 0; i < d / 2; i++) block_bits[i] = (uint8_t)bits[i];
    head_codec *codec = make_codec(tables, &model, block_bits, CODEBOOK_BLOCK_GTQ);
    assert_int_equal(head_codec_n_norms(codec), n_groups[1]);
    assert_int_equal(head_codec_dims(codec), d);
    for (int i = 0; i < d; i++) {
        assert_int_equal(head_codec_permutation(codec)[i], perm[i]);
        assert_int_equal(head_codec_widths(codec)[i], bits[perm[i] % (d / 2)]);
    }
    assert_ok(head_codec_encode(codec, k, n, found, found_norms, &err));
    assert_ok(head_codec_decode(codec, found, found_norms, n, found_hat, &err));

    for (int v = 0; v < n; v++) {
        for (int first = 0, m, g = 0; first < d; first += m, g++) {
            const int width = head_codec_widths(codec)[first];
            double distance[MAX_DIM], square = 0.0;
            bool is_same = true;
            for (m = 0; first + m < d && head_codec_widths(codec)[first + m] == width; m++) {}
            boundary_distances(distance, tables, k + v * d, perm + first, m, width);
            for (int j = 0; j < m; j++) {
                const int at = v * d + first + j;
                n_near += distance[j] < NEAR_BOUNDARY;
                if (found[at] != codes[at]) {
                    is_same = false;
                    n_different++;
                    if (!(distance[j] < NEAR_BOUNDARY))
                        fail_msg("vector %d position %d: code %d, expected %d, %g from a boundary", v, first + j,
                                 found[at], codes[at], distance[j]);
                }
                square += (double)k[v * d + perm[first + j]] * (double)k[v * d + perm[first + j]];
            }
            /* fp16 keeps 11 bits: half a unit is 2^-11 of the value; the reference is fp16 of an f32 norm, so at most a
             * unit apart. */
            const double norm = sqrt(square), stored = (double)rb_f16_to_f32(found_norms[v * n_groups[1] + g]);
            assert_true(fabs(stored - norm) <= norm * 0x1p-11);
            assert_true(fabs(stored - (double)norms[v * n_groups[1] + g]) <= norm * 0x1p-10);
            for (int j = 0; j < m && is_same; j++) {
                const int at = v * d + perm[first + j];
                const double allowed = fabs(stored - (double)norms[v * n_groups[1] + g]) + 2e-6 * norm;
                if (!(fabs((double)found_hat[at] - (double)k_hat[at]) <= allowed))
                    fail_msg("vector %d dim %d: %g, expected %g", v, perm[first + j], found_hat[at], k_hat[at]);
            }
        }
    }
    assert_true(n_different <= n_near);
    if (n_different > 0)
        print_message("%s: %d of %d codes differ, %d lie within %g of a boundary\n", path, n_different, n * d, n_near,
                      NEAR_BOUNDARY);
    head_codec_free(codec);
    codec_tables_free(tables);
    free(found);
    free(found_norms);
    free(found_hat);
    cJSON_Delete(file.header);
    free(file.bytes);
}

static void codes_of_demo_llama_are_numpys(void **state)
{
    (void)state;
    compare_with_numpy("tests/fixtures/demo-llama-codes.safetensors");
}

static void codes_of_small_llama3_are_numpys(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "reference/small-llama3.codes.safetensors");
    compare_with_numpy(path);
}

static void codes_of_small_qwen2_are_numpys(void **state)
{
    (void)state;
    SHARED_OR_SKIP(path, "reference/small-qwen2.codes.safetensors");
    compare_with_numpy(path);
}

/* ---- what a quantizer does ------------------------------------------------------------------- */

static void zero_vectors_get_norm_zero_and_come_back_as_zero(void **state)
{
    (void)state;
    enum { D = 16, N = 3 };
    codec_tables *tables = make_tables();
    for (int width = 1; width <= 8; width++) {
        head_codec *codec = make_uniform(tables, width, D, CODEBOOK_SPHERE);
        float x[N * D] = {0}, x_hat[N * D];
        uint8_t codes[N * D];
        uint16_t norms[N];
        x[D] = 1.0f; /* the middle one is not zero */
        assert_ok(head_codec_encode(codec, x, N, codes, norms, &err));
        assert_ok(head_codec_decode(codec, codes, norms, N, x_hat, &err));
        assert_int_equal(norms[0], 0);
        assert_int_equal(norms[1], 0x3c00);
        assert_int_equal(norms[2], 0);
        for (int j = 0; j < D; j++) {
            assert_int_equal(codes[j], (1 << (width - 1)) - 1); /* the boundary at 0 is not below y = 0 */
            assert_true(x_hat[j] == 0.0f && x_hat[2 * D + j] == 0.0f);
        }
        head_codec_free(codec);
    }
    codec_tables_free(tables);
}

static double norm_of(const float *x, int d)
{
    double square = 0.0;
    for (int j = 0; j < d; j++) square += (double)x[j] * (double)x[j];
    return sqrt(square);
}

static void decoded_vectors_have_the_stored_norm(void **state)
{
    (void)state;
    enum { D = 80, N = 33 };
    codec_tables *tables = make_tables();
    float *x = random_vectors(N, D, 3), *x_hat = malloc(N * D * sizeof *x_hat);
    uint8_t codes[N * D];
    uint16_t norms[N];
    for (int width = 1; width <= 8; width++) {
        head_codec *codec = make_uniform(tables, width, D, CODEBOOK_BLOCK_GTQ);
        assert_ok(head_codec_encode(codec, x, N, codes, norms, &err));
        assert_ok(head_codec_decode(codec, codes, norms, N, x_hat, &err));
        for (int v = 0; v < N; v++) {
            assert_int_equal(norms[v], rb_f32_to_f16((float)norm_of(x + v * D, D)));
            const double stored = (double)rb_f16_to_f32(norms[v]);
            assert_true(fabs(norm_of(x_hat + v * D, D) - stored)
                        <= 1e-6 * stored); /* R is orthogonal to f32 rounding */
        }
        head_codec_free(codec);
    }
    free(x);
    free(x_hat);
    codec_tables_free(tables);
}

/* Lloyd-Max for N(0, 1) (Max 1960, table 1): squared error per unit of variance. At d = 128 a coordinate is that normal
 * but for 1/d; norm correction changes the error by the order of its square. */
static void error_is_that_of_lloyd_max(void **state)
{
    (void)state;
    static const double expected[] = {0, 0.3634, 0.1175, 0.03454, 0.009497, 0.002499};
    enum { D = 128, N = 500 };
    codec_tables *tables = make_tables();
    float *x = random_vectors(N, D, 4), *x_hat = malloc(N * D * sizeof *x_hat);
    for (int width = 2; width <= 5; width++) {
        head_codec *codec = make_uniform(tables, width, D, CODEBOOK_SPHERE);
        double error = 0.0, energy = 0.0;
        assert_ok(head_codec_round_trip(codec, x, N, x_hat, &err));
        for (int i = 0; i < N * D; i++) {
            error += ((double)x[i] - (double)x_hat[i]) * ((double)x[i] - (double)x_hat[i]);
            energy += (double)x[i] * (double)x[i];
        }
        assert_true(fabs(error / energy / expected[width] - 1.0) < 0.05);
        head_codec_free(codec);
    }
    free(x);
    free(x_hat);
    codec_tables_free(tables);
}

/* Blocks of four widths, counts on both sides of the tile of 128. */
static void round_trip_is_encode_then_decode_for_every_count(void **state)
{
    (void)state;
    enum { D = 64, N = 300 };
    static const int counts[] = {0, 1, 31, 33, 127, 128, 129, 300};
    const model_facts model = some_model(D, D, ROPE_SPLIT_HALF);
    codec_tables *tables = make_tables();
    uint8_t bits[D / 2], *codes = malloc(N * D);
    uint16_t *norms = malloc(N * 4 * sizeof *norms);
    float *x = random_vectors(N, D, 5), *one = malloc(N * D * sizeof *one + sizeof *one),
          *two = malloc(N * D * sizeof *two);
    for (int i = 0; i < D / 2; i++) bits[i] = (uint8_t)(2 + i % 4);
    head_codec *codec = make_codec(tables, &model, bits, CODEBOOK_BLOCK_GTQ);
    assert_int_equal(head_codec_n_norms(codec), 4);
    for (size_t c = 0; c < RB_COUNT(counts); c++) {
        const int n = counts[c];
        one[n * D] = 12345.0f; /* guard */
        assert_ok(head_codec_round_trip(codec, x, n, one, &err));
        assert_true(one[n * D] == 12345.0f);
        assert_ok(head_codec_encode(codec, x, n, codes, norms, &err));
        assert_ok(head_codec_decode(codec, codes, norms, n, two, &err));
        assert_memory_equal(one, two, (size_t)(n * D) * sizeof *one);
        memcpy(two, x, (size_t)(n * D) * sizeof *two);
        assert_ok(head_codec_round_trip(codec, two, n, two, &err)); /* in place */
        assert_memory_equal(one, two, (size_t)(n * D) * sizeof *one);
        for (int i = 0; i < n * D; i++) assert_true(codes[i] >> head_codec_widths(codec)[i % D] == 0);
    }
    head_codec_free(codec);
    codec_tables_free(tables);
    free(codes);
    free(norms);
    free(x);
    free(one);
    free(two);
}

static void codes_survive_packing_at_the_size_the_codec_tells(void **state)
{
    (void)state;
    enum { D = 16 };
    const model_facts model = some_model(D, D, ROPE_SPLIT_HALF);
    const uint8_t bits[D / 2] = {3, 3, 3, 1, 5, 3, 8, 3}; /* 5 * 6 + 2 + 10 + 16 = 58 bits */
    codec_tables *tables = make_tables();
    head_codec *codec = make_codec(tables, &model, bits, CODEBOOK_BLOCK_GTQ);
    float *x = random_vectors(1, D, 6);
    uint8_t codes[D], packed[8], back[D];
    uint16_t norms[4];
    assert_int_equal(head_codec_packed_bytes(codec), 8);
    assert_ok(head_codec_encode(codec, x, 1, codes, norms, &err));
    pack_codes(packed, codes, head_codec_widths(codec), D);
    assert_ok(unpack_codes(back, packed, head_codec_widths(codec), D, &err));
    assert_memory_equal(codes, back, D);
    free(x);
    head_codec_free(codec);
    codec_tables_free(tables);
}

static void permutation_follows_the_pairing_and_the_rest_past_rotary_dim(void **state)
{
    (void)state;
    static const uint8_t bits[] = {2, 3, 2, 3}; /* d = 8, r = 4: blocks 0, 1 turn, 2, 3 do not */
    static const int split_half[] = {0, 2, 4, 5, 1, 3, 6, 7}, interleaved[] = {0, 1, 4, 5, 2, 3, 6, 7};
    codec_tables *tables = make_tables();
    for (int i = 0; i < 2; i++) {
        const model_facts model = some_model(8, 4, i ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF);
        head_codec *codec = make_codec(tables, &model, bits, CODEBOOK_SPHERE);
        assert_memory_equal(head_codec_permutation(codec), i ? interleaved : split_half, sizeof split_half);
        head_codec_free(codec);
    }
    codec_tables_free(tables);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void values_that_are_not_finite_are_refused_by_vector(void **state)
{
    (void)state;
    enum { D = 8, N = 200 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    codec_tables *tables = make_tables();
    head_codec *codec = make_uniform(tables, 3, D, CODEBOOK_BLOCK_GTQ);
    float *x = random_vectors(N, D, 7), x_hat[N * D];
    uint8_t codes[N * D];
    uint16_t norms[N];
    for (size_t i = 0; i < RB_COUNT(bad); i++) {
        x[150 * D + 5] = bad[i];
        assert_fails(head_codec_encode(codec, x, N, codes, norms, &err), RB_ENONFINITE,
                     "vector 150: a value is not finite");
        assert_fails(head_codec_round_trip(codec, x, N, x_hat, &err), RB_ENONFINITE,
                     "vector 150: a value is not finite");
    }
    free(x);
    head_codec_free(codec);
    codec_tables_free(tables);
}

/* 65520 is half way from fp16's largest, 65504, to what would follow: below it a norm rounds down, from it on to
 * infinity. A norm of 65519.998 is below, but the f32 it passes through is 65520. */
static void norms_that_round_beyond_fp16_are_refused(void **state)
{
    (void)state;
    enum { D = 4 };
    codec_tables *tables = make_tables();
    head_codec *codec = make_uniform(tables, 3, D, CODEBOOK_BLOCK_GTQ);
    uint8_t codes[D];
    uint16_t norm = 0;
    const float largest[D] = {65504.0f}, below[D] = {65519.0f}, above[D] = {65520.0f}, between[D] = {65519.99f, 35.9f};
    const float huge[D] = {3e38f, 3e38f};
    assert_ok(head_codec_encode(codec, largest, 1, codes, &norm, &err));
    assert_int_equal(norm, 0x7bff);
    assert_ok(head_codec_encode(codec, below, 1, codes, &norm, &err));
    assert_int_equal(norm, 0x7bff);
    const double between_norm = norm_of(between, D);
    assert_true(between_norm < 65520.0 && (float)between_norm == 65520.0f); /* the case is what it claims */
    assert_fails(head_codec_encode(codec, above, 1, codes, &norm, &err), RB_ENONFINITE, "norm 65520 ");
    assert_fails(head_codec_encode(codec, between, 1, codes, &norm, &err), RB_ENONFINITE, "does not fit fp16");
    assert_fails(head_codec_encode(codec, huge, 1, codes, &norm, &err), RB_ENONFINITE, "does not fit fp16");
    head_codec_free(codec);
    codec_tables_free(tables);
}

static void heads_whose_groups_do_not_hold_the_dims_are_refused(void **state)
{
    (void)state;
    const model_facts model = some_model(64, 64, ROPE_SPLIT_HALF);
    codec_tables *tables = make_tables();
    head_codec *codec = NULL;
    plan_head head = {0};
    assert_fails(head_codec_create(&codec, &head, &model, tables, &err), RB_EINVAL, "has no groups");
    /* Far too many: must be seen before anything is written. */
    assert_ok(plan_head_set_uniform(&head, 3, 128, 42, CODEBOOK_SPHERE, &err));
    assert_fails(head_codec_create(&codec, &head, &model, tables, &err), RB_EINVAL,
                 "hold 256 dims, expected head_dim 64 at most");
    assert_ok(plan_head_set_uniform(&head, 3, 32, 42, CODEBOOK_SPHERE, &err));
    head.groups.at[0].rotation.dims = 62;
    assert_fails(head_codec_create(&codec, &head, &model, tables, &err), RB_EINVAL, "62 dims for 32 blocks");
    assert_null(codec);
    plan_head_clear(&head);
    codec_tables_free(tables);
}

/* ---- shared tables --------------------------------------------------------------------------- */

static void tables_are_built_once_and_hold_f32_values(void **state)
{
    (void)state;
    const rotation_spec spec = {ROTATION_HAAR, 45, 6}, other = {ROTATION_HAAR, 45 + (1ull << 32), 6};
    codec_tables *tables = make_tables();
    const double *first, *again, *third;
    const codebook *book, *same, *wider, *of_other_dims, *of_other_kind;
    double exact[36];
    assert_ok(codec_tables_rotation(tables, &spec, &first, &err));
    assert_ok(codec_tables_rotation(tables, &other, &third, &err));
    assert_ok(codec_tables_rotation(tables, &spec, &again, &err));
    assert_ptr_equal(first, again);
    assert_ptr_not_equal(first, third);
    assert_ok(rotation_build(exact, &spec, &err));
    for (int i = 0; i < 36; i++) assert_true(first[i] == (double)(float)exact[i]);
    assert_ok(codec_tables_codebook(tables, CODEBOOK_SPHERE, 3, 6, &book, &err));
    assert_ok(codec_tables_codebook(tables, CODEBOOK_SPHERE, 4, 6, &wider, &err));
    assert_ok(codec_tables_codebook(tables, CODEBOOK_SPHERE, 3, 8, &of_other_dims, &err));
    assert_ok(codec_tables_codebook(tables, CODEBOOK_BLOCK_GTQ, 3, 6, &of_other_kind, &err));
    assert_ok(codec_tables_codebook(tables, CODEBOOK_SPHERE, 3, 6, &same, &err));
    assert_ptr_equal(book, same);
    assert_int_equal(book->size, 8);
    assert_int_equal(wider->size, 16);
    assert_int_equal(of_other_dims->dims, 8);
    assert_int_equal(of_other_kind->kind, CODEBOOK_BLOCK_GTQ);
    codec_tables_free(tables);
    codec_tables_free(NULL);
    head_codec_free(NULL);
}

static void tables_that_cannot_be_built_are_refused_and_not_kept(void **state)
{
    (void)state;
    codec_tables *tables = make_tables();
    const double *matrix = NULL;
    const codebook *book = NULL;
    for (int i = 0; i < 2; i++) {
        assert_fails(codec_tables_rotation(tables, &(rotation_spec){ROTATION_HAAR, 1, 0}, &matrix, &err), RB_EINVAL,
                     "0 dims");
        assert_fails(codec_tables_codebook(tables, CODEBOOK_SPHERE, 9, 8, &book, &err), RB_EINVAL, "width is 9");
    }
    codec_tables_free(tables);
}

static void threads_that_ask_at_once_share_one_table(void **state)
{
    (void)state;
    enum { THREADS = 8, KEYS = 12 };
    codec_tables *tables = make_tables();
    const double *rotations[THREADS][KEYS] = {{NULL}};
    const codebook *books[THREADS][KEYS] = {{NULL}};
#pragma omp parallel num_threads(THREADS)
    {
        const int thread = omp_get_thread_num();
        rb_error own = {0};
        for (int i = 0; i < KEYS; i++) {
            const int key = (i + thread) % KEYS; /* each starts elsewhere */
            codec_tables_rotation(tables, &(rotation_spec){ROTATION_HAAR, 42 + (uint64_t)key, 16},
                                  &rotations[thread][key], &own);
            codec_tables_codebook(tables, CODEBOOK_SPHERE, 1 + key % 8, 2 + key, &books[thread][key], &own);
        }
    }
    for (int key = 0; key < KEYS; key++) {
        assert_non_null(rotations[0][key]);
        assert_non_null(books[0][key]);
        for (int thread = 1; thread < THREADS; thread++) {
            if (!rotations[thread][key]) continue; /* fewer threads than asked for */
            assert_ptr_equal(rotations[thread][key], rotations[0][key]);
            assert_ptr_equal(books[thread][key], books[0][key]);
        }
    }
    codec_tables_free(tables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_of_demo_llama_are_numpys),
        cmocka_unit_test(codes_of_small_llama3_are_numpys),
        cmocka_unit_test(codes_of_small_qwen2_are_numpys),
        cmocka_unit_test(zero_vectors_get_norm_zero_and_come_back_as_zero),
        cmocka_unit_test(decoded_vectors_have_the_stored_norm),
        cmocka_unit_test(error_is_that_of_lloyd_max),
        cmocka_unit_test(round_trip_is_encode_then_decode_for_every_count),
        cmocka_unit_test(codes_survive_packing_at_the_size_the_codec_tells),
        cmocka_unit_test(permutation_follows_the_pairing_and_the_rest_past_rotary_dim),
        cmocka_unit_test(values_that_are_not_finite_are_refused_by_vector),
        cmocka_unit_test(norms_that_round_beyond_fp16_are_refused),
        cmocka_unit_test(heads_whose_groups_do_not_hold_the_dims_are_refused),
        cmocka_unit_test(tables_are_built_once_and_hold_f32_values),
        cmocka_unit_test(tables_that_cannot_be_built_are_refused_and_not_kept),
        cmocka_unit_test(threads_that_ask_at_once_share_one_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
