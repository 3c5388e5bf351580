/* The quantizer against the definition of kernels/reference/head_codec.h written out plainly: one vector at a time,
 * dims taken from the block widths by hand, sums in index order, no BLAS, boundaries counted one by one. And that a
 * vector's result does not depend on its company. */
#include "tests/test_support.h"

#include "core/half.h"
#include "core/threads.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/numpy_random.h"

enum { MAX_DIM = 128, MAX_VECTORS = 300, MAX_GROUPS = 8, GUARD = 0xA5, GUARD_BYTES = 64 };

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

/* ---- heads ----------------------------------------------------------------------------------- */

static model_facts facts_of(int head_dim, int rotary_dim, rope_pairing pairing)
{
    return (model_facts){.n_layers = 1,
                         .n_q_heads = 1,
                         .n_kv_heads = 1,
                         .head_dim = head_dim,
                         .rotary_dim = rotary_dim,
                         .value_dim = head_dim,
                         .rope = {.attention_factor = 1, .pairing = pairing}};
}

static head_codec *codec_of(plan_head *head, const model_facts *model)
{
    head_codec *codec = NULL;
    assert_ok(head_codec_create(&codec, head, model, tables, &err));
    plan_head_clear(head); /* the codec keeps nothing of it */
    return codec;
}

static head_codec *uniform_codec(int width, int head_dim, codebook_kind books)
{
    const model_facts model = facts_of(head_dim, head_dim, ROPE_SPLIT_HALF);
    plan_head head = {0};
    assert_ok(plan_head_set_uniform(&head, width, head_dim / 2, 42, books, &err));
    return codec_of(&head, &model);
}

static head_codec *block_codec(const uint8_t *bits, const model_facts *model, codebook_kind books)
{
    plan_head head = {0};
    assert_ok(plan_head_set_block_widths(&head, bits, model_n_blocks(model), books, &err));
    return codec_of(&head, model);
}

/* Three widths in no order, most blocks in the middle one. */
static void mixed_bits(uint8_t *bits, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) bits[i] = (uint8_t)(i % 5 == 1 ? 4 : i % 7 == 3 ? 2 : 3);
}

static float *random_vectors(int n, int head_dim, uint64_t seed)
{
    numpy_rng rng;
    double *normal = malloc(sizeof(double) * (size_t)(n * head_dim + 1));
    float *x = malloc(sizeof(float) * (size_t)(n * head_dim + 1));
    assert_true(normal && x);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normal, (size_t)(n * head_dim));
    for (int i = 0; i < n * head_dim; i++)
        x[i] = (float)(normal[i] * (0.1 + i % head_dim % 11)); /* dims of unequal energy, as keys have */
    free(normal);
    return x;
}

/* ---- the definition, plainly ----------------------------------------------------------------- */

typedef struct plain_group {
    int first, dims, width;
    uint64_t seed;
    codebook_kind books;
} plain_group;

typedef struct plain_codec {
    int head_dim, n_groups;
    plain_group groups[MAX_GROUPS];
    int permutation[MAX_DIM];
} plain_codec;

static plain_codec plain_uniform(int width, int head_dim, codebook_kind books)
{
    plain_codec out = {.head_dim = head_dim, .n_groups = 1, .groups = {{0, head_dim, width, 42, books}}};
    for (int j = 0; j < head_dim; j++) out.permutation[j] = j;
    return out;
}

static plain_codec plain_blocks(const uint8_t *bits, const model_facts *model, codebook_kind books)
{
    const int half = model->rotary_dim / 2;
    plain_codec out = {.head_dim = model->head_dim};
    int at = 0;
    for (int width = 1; width <= 8; width++) {
        const int first = at;
        for (int block = 0; block < model->head_dim / 2; block++) {
            if (bits[block] != width) continue;
            const bool is_adjacent = block >= half || model->rope.pairing == ROPE_INTERLEAVED;
            out.permutation[at++] = is_adjacent ? 2 * block : block;
            out.permutation[at++] = is_adjacent ? 2 * block + 1 : block + half;
        }
        if (at > first)
            out.groups[out.n_groups++] = (plain_group){first, at - first, width, 42 + (uint64_t)width, books};
    }
    return out;
}

/* One vector: code, fp16 norm, reconstruction; gap: how far each rotated coordinate is from its nearest boundary. */
static void plain_quantize(const plain_codec *codec, const float *x, uint8_t *codes, uint16_t *norms, double *x_hat,
                           double *gap)
{
    for (int g = 0; g < codec->n_groups; g++) {
        const plain_group *group = &codec->groups[g];
        const int m = group->dims, *dims = codec->permutation + group->first;
        const double *rotation;
        const codebook *book;
        double y[MAX_DIM], square = 0.0, corrected = 0.0;
        assert_ok(codec_tables_rotation(tables, &(rotation_spec){.seed = group->seed, .dims = m}, &rotation, &err));
        assert_ok(codec_tables_codebook(tables, group->books, group->width, m, &book, &err));
        for (int j = 0; j < m; j++) square += (double)x[dims[j]] * x[dims[j]];
        const double norm = sqrt(square);
        norms[g] = rb_f32_to_f16((float)norm);
        for (int j = 0; j < m; j++) {
            double sum = 0.0;
            int code = 0;
            for (int i = 0; i < m; i++) sum += rotation[j * m + i] * x[dims[i]];
            sum = norm > 0.0 ? sum / norm : 0.0;
            gap[group->first + j] = INFINITY;
            for (int b = 0; b + 1 < book->size; b++) {
                code += book->boundary[b] < sum;
                gap[group->first + j] = fmin(gap[group->first + j], fabs(book->boundary[b] - sum));
            }
            codes[group->first + j] = (uint8_t)code;
            y[j] = book->centroid_f32[code];
            corrected += y[j] * y[j];
        }
        for (int i = 0; i < m; i++) {
            double sum = 0.0;
            for (int j = 0; j < m; j++) sum += rotation[j * m + i] * y[j];
            x_hat[dims[i]] = rb_f16_to_f32(norms[g]) * sum / sqrt(corrected);
        }
    }
}

/* Double accumulation over 128 terms in two orders differs by less than 1e-13: only a coordinate that near to a
 * boundary may differ. None of the vectors here has one, so codes and norms must be equal; reconstructions to f32
 * rounding and the same 1e-13. */
static void check_against_definition(const head_codec *codec, const plain_codec *plain, const float *x, int n)
{
    const int d = plain->head_dim, n_groups = plain->n_groups;
    const size_t n_codes = (size_t)(n * d), n_norms = (size_t)(n * n_groups);
    uint8_t *codes = malloc(n_codes + GUARD_BYTES);
    uint16_t *norms = malloc(2 * n_norms + GUARD_BYTES);
    float *x_hat = malloc(4 * n_codes + GUARD_BYTES);
    assert_true(codes && norms && x_hat);
    memset(codes, GUARD, n_codes + GUARD_BYTES);
    memset(norms, GUARD, 2 * n_norms + GUARD_BYTES);
    memset(x_hat, GUARD, 4 * n_codes + GUARD_BYTES);
    assert_int_equal(head_codec_n_norms(codec), n_groups);
    assert_int_equal(head_codec_dims(codec), d);
    assert_memory_equal(head_codec_permutation(codec), plain->permutation, sizeof(int) * (size_t)d);
    for (int g = 0; g < n_groups; g++)
        for (int j = 0; j < plain->groups[g].dims; j++)
            assert_int_equal(head_codec_widths(codec)[plain->groups[g].first + j], plain->groups[g].width);

    assert_ok(head_codec_encode(codec, x, n, codes, norms, &err));
    assert_ok(head_codec_decode(codec, codes, norms, n, x_hat, &err));
    for (int v = 0; v < n; v++) {
        uint8_t expected_codes[MAX_DIM];
        uint16_t expected_norms[MAX_GROUPS];
        double expected[MAX_DIM], gap[MAX_DIM], scale = 0.0;
        plain_quantize(plain, x + v * d, expected_codes, expected_norms, expected, gap);
        for (int j = 0; j < d; j++) scale = fmax(scale, fabs(expected[j]));
        assert_memory_equal(norms + v * n_groups, expected_norms, 2 * (size_t)n_groups);
        for (int j = 0; j < d; j++) {
            if (codes[v * d + j] != expected_codes[j])
                fail_msg("vector %d position %d: code %d, expected %d (%g from a boundary)", v, j, codes[v * d + j],
                         expected_codes[j], gap[j]);
            if (!(fabs(x_hat[v * d + j] - expected[j]) <= 0x1p-24 * fabs(expected[j]) + 1e-13 * scale))
                fail_msg("vector %d dim %d: %.9g, expected %.9g", v, j, (double)x_hat[v * d + j], expected[j]);
        }
    }
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        assert_int_equal(codes[n_codes + i], GUARD);
        assert_int_equal(((uint8_t *)norms)[2 * n_norms + i], GUARD);
        assert_int_equal(((uint8_t *)x_hat)[4 * n_codes + i], GUARD);
    }
    free(codes);
    free(norms);
    free(x_hat);
}

static const int counts[] = {0, 1, 31, 33, 129}, dims_tested[] = {64, 80, 128};

static void uniform_follows_the_definition_at_every_width_size_and_count(void **state)
{
    (void)state;
    for (int books = 0; books < CODEBOOK_N_KINDS; books++)
        for (size_t d = 0; d < RB_COUNT(dims_tested); d++) {
            float *x = random_vectors(129, dims_tested[d], d);
            for (int width = 1; width <= 8; width++) {
                const plain_codec plain = plain_uniform(width, dims_tested[d], (codebook_kind)books);
                head_codec *codec = uniform_codec(width, dims_tested[d], (codebook_kind)books);
                check_against_definition(codec, &plain, x, counts[(width + books) % 5]);
                head_codec_free(codec);
            }
            free(x);
        }
}

static void check_blocks(const uint8_t *bits, const model_facts *model, int n, uint64_t seed)
{
    for (int books = 0; books < CODEBOOK_N_KINDS; books++) {
        const plain_codec plain = plain_blocks(bits, model, (codebook_kind)books);
        head_codec *codec = block_codec(bits, model, (codebook_kind)books);
        float *x = random_vectors(n, model->head_dim, seed);
        check_against_definition(codec, &plain, x, n);
        head_codec_free(codec);
        free(x);
    }
}

static void block_groups_follow_the_definition_at_every_size_and_count(void **state)
{
    (void)state;
    uint8_t bits[MAX_DIM / 2];
    for (size_t d = 0; d < RB_COUNT(dims_tested); d++)
        for (size_t c = 0; c < RB_COUNT(counts); c++) {
            const model_facts model = facts_of(dims_tested[d], dims_tested[d], ROPE_SPLIT_HALF);
            mixed_bits(bits, model.head_dim / 2);
            check_blocks(bits, &model, counts[c], 10 + c);
        }
}

/* Eight groups: every width at once, sizes from a single block (2 dims) up. */
static void a_head_may_have_a_group_of_every_width(void **state)
{
    (void)state;
    uint8_t bits[32];
    const model_facts model = facts_of(64, 64, ROPE_SPLIT_HALF);
    for (int i = 0; i < 32; i++) bits[i] = (uint8_t)(i < 8 ? 8 - i : 3 + i % 2);
    check_blocks(bits, &model, 33, 3);
}

static void partial_and_interleaved_rope_pair_their_own_dims(void **state)
{
    (void)state;
    uint8_t bits[MAX_DIM / 2];
    static const struct {
        int head_dim, rotary_dim;
        rope_pairing pairing;
    } cases[] = {
        {80, 20, ROPE_SPLIT_HALF},  {80, 32, ROPE_INTERLEAVED}, {64, 64, ROPE_INTERLEAVED},
        {128, 64, ROPE_SPLIT_HALF}, {64, 2, ROPE_SPLIT_HALF},
    };
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const model_facts model = facts_of(cases[i].head_dim, cases[i].rotary_dim, cases[i].pairing);
        mixed_bits(bits, model.head_dim / 2);
        check_blocks(bits, &model, 31, 20 + i);
    }
}

/* ---- company --------------------------------------------------------------------------------- */

typedef struct encoded {
    uint8_t codes[MAX_VECTORS * MAX_DIM];
    uint16_t norms[MAX_VECTORS * MAX_GROUPS];
    float x_hat[MAX_VECTORS * MAX_DIM];
} encoded;

static head_codec *mixed_codec(int head_dim)
{
    uint8_t bits[MAX_DIM / 2];
    const model_facts model = facts_of(head_dim, head_dim, ROPE_SPLIT_HALF);
    mixed_bits(bits, head_dim / 2);
    return block_codec(bits, &model, CODEBOOK_SPHERE);
}

/* 300 vectors fill two tiles and a part. BLAS may order the sums of a lone vector in another way: 1e-13, far from any
 * boundary of these. */
static void a_vector_is_coded_alike_alone_and_among_others(void **state)
{
    (void)state;
    static encoded whole, single;
    head_codec *codec = mixed_codec(80);
    float *x = random_vectors(MAX_VECTORS, 80, 31);
    const int n_groups = head_codec_n_norms(codec);
    assert_ok(head_codec_encode(codec, x, MAX_VECTORS, whole.codes, whole.norms, &err));
    assert_ok(head_codec_decode(codec, whole.codes, whole.norms, MAX_VECTORS, whole.x_hat, &err));
    for (int v = 0; v < MAX_VECTORS; v++) {
        assert_ok(head_codec_encode(codec, x + v * 80, 1, single.codes, single.norms, &err));
        assert_ok(head_codec_decode(codec, single.codes, single.norms, 1, single.x_hat, &err));
        assert_memory_equal(single.codes, whole.codes + v * 80, 80);
        assert_memory_equal(single.norms, whole.norms + v * n_groups, 2 * (size_t)n_groups);
        for (int j = 0; j < 80; j++)
            assert_true(fabsf(single.x_hat[j] - whole.x_hat[v * 80 + j])
                        <= 0x1p-23f * fabsf(whole.x_hat[v * 80 + j]) + 1e-12f);
    }
    free(x);
    head_codec_free(codec);
}

/* The codec is immutable: callers share it between threads. */
static void threads_that_share_a_codec_get_the_same_bytes(void **state)
{
    (void)state;
    enum { N_THREADS = 4 };
    static encoded alone, shared[N_THREADS];
    rb_status status[N_THREADS];
    head_codec *codec = mixed_codec(128);
    float *x = random_vectors(MAX_VECTORS, 128, 32);
    assert_ok(head_codec_encode(codec, x, MAX_VECTORS, alone.codes, alone.norms, &err));
#pragma omp parallel for num_threads(N_THREADS) schedule(static, 1)
    for (int t = 0; t < N_THREADS; t++)
        status[t] = head_codec_encode(codec, x, MAX_VECTORS, shared[t].codes, shared[t].norms, NULL);
    for (int t = 0; t < N_THREADS; t++) {
        assert_int_equal(status[t], RB_OK);
        assert_memory_equal(shared[t].codes, alone.codes, sizeof alone.codes);
        assert_memory_equal(shared[t].norms, alone.norms, sizeof alone.norms);
    }
    free(x);
    head_codec_free(codec);
}

/* ---- zeros ----------------------------------------------------------------------------------- */

static void a_zero_group_stays_zero_beside_one_that_is_not(void **state)
{
    (void)state;
    static encoded out;
    head_codec *codec = mixed_codec(64);
    const int *permutation = head_codec_permutation(codec);
    const uint8_t *widths = head_codec_widths(codec);
    float x[3 * 64] = {0};
    for (int j = 0; j < 64; j++)
        if (widths[j] == 3)
            x[64 + permutation[j]] = (float)(j + 1); /* vector 1: the group of 3 bits only; vectors 0 and 2: nothing */
    assert_ok(head_codec_encode(codec, x, 3, out.codes, out.norms, &err));
    assert_ok(head_codec_decode(codec, out.codes, out.norms, 3, out.x_hat, &err));
    for (int v = 0; v < 3; v++)
        for (int j = 0; j < 64; j++) {
            const bool is_zero = v != 1 || widths[j] != 3;
            /* y = 0 sits on the middle boundary, so it belongs to the centroid below */
            if (is_zero) assert_int_equal(out.codes[v * 64 + j], (1 << widths[j]) / 2 - 1);
            if (is_zero) assert_true(out.x_hat[v * 64 + permutation[j]] == 0.0f);
        }
    assert_int_equal(out.norms[3], 0);
    assert_int_not_equal(out.norms[4], 0);
    assert_int_equal(out.norms[5], 0);
    head_codec_free(codec);
}

/* A norm below fp16's smallest is stored as 0, one among its subnormals keeps what bits it has. */
static void tiny_vectors_come_back_tiny(void **state)
{
    (void)state;
    static encoded out;
    head_codec *codec = uniform_codec(4, 64, CODEBOOK_BLOCK_GTQ);
    float x[2 * 64] = {0};
    x[3] = 1e-30f;
    x[64 + 3] = 3.0f * 0x1p-24f;
    assert_ok(head_codec_encode(codec, x, 2, out.codes, out.norms, &err));
    assert_ok(head_codec_decode(codec, out.codes, out.norms, 2, out.x_hat, &err));
    assert_int_equal(out.norms[0], 0);
    assert_int_equal(out.norms[1], 3);
    for (int j = 0; j < 64; j++) assert_true(out.x_hat[j] == 0.0f);
    assert_true(fabsf(out.x_hat[64 + 3] - x[64 + 3]) < 0.1f * x[64 + 3]);
    head_codec_free(codec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniform_follows_the_definition_at_every_width_size_and_count),
        cmocka_unit_test(block_groups_follow_the_definition_at_every_size_and_count),
        cmocka_unit_test(a_head_may_have_a_group_of_every_width),
        cmocka_unit_test(partial_and_interleaved_rope_pair_their_own_dims),
        cmocka_unit_test(a_vector_is_coded_alike_alone_and_among_others),
        cmocka_unit_test(threads_that_share_a_codec_get_the_same_bytes),
        cmocka_unit_test(a_zero_group_stays_zero_beside_one_that_is_not),
        cmocka_unit_test(tiny_vectors_come_back_tiny),
    };
    return cmocka_run_group_tests(tests, create_tables, free_tables);
}
