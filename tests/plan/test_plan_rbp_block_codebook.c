/* plan.rbp of heads of block-codebook: a round trip, and a runtime that does what plan/library/ropebits_plan.h says.
 * Damage: test_plan_rbp_damage.c. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/head_codec.h"
#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "tests/plan/some_plan.h"

static rb_error err;

/* Bits of blocks whose codebooks are made quickly: the sanitizer build takes many seconds for those of 2 to 5, which
 * have several starts, and for large ones. */
static const uint8_t points[] = {0, 1, 6, 7, 8}, levels[] = {12, 0, 11, 7, 12};

static bit_plan *plan_of(const uint8_t *quick, const model_facts *model)
{
    bit_plan *plan = some_plan_of_block_codebook(model);
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++)
        for (int b = 0; b < model_n_blocks(model) && plan->heads[h].family == FAMILY_BLOCK_CODEBOOK; b++)
            plan->heads[h].block_codebook.bits[b] = quick[plan->heads[h].block_codebook.bits[b] % 5];
    return plan;
}

static bit_plan *small_plan(const model_facts *model) { return plan_of(points, model); }

static void assert_survives(const uint8_t *bits, int version, const model_facts *model)
{
    const char *path = scratch_path("plan.rbp");
    bit_plan *plan = plan_of(bits, model), *back = NULL;
    char *first = NULL;
    uint8_t *second = NULL;
    size_t size, size_again;
    assert_ok(plan_rbp_write(plan, path, &err));
    assert_ok(plan_rbp_read(&back, path, &err));
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++)
        assert_true(plan_head_equal(&plan->heads[h], &back->heads[h], model));
    assert_ok(rb_read_file(&first, &size, path, 1 << 20, &err));
    assert_ok(plan_rbp_encode(&second, &size_again, back, &err));
    assert_int_equal(first[8], version);
    assert_true(size == size_again);
    assert_memory_equal(first, second, size);
    free(first);
    free(second);
    bit_plan_free(plan);
    bit_plan_free(back);
}

static void layers_of_both_families_survive_the_file(void **state)
{
    (void)state;
    const model_facts split = some_model(3, 2, 64, 64, ROPE_SPLIT_HALF),
                      partial = some_model(3, 1, 32, 16, ROPE_INTERLEAVED),
                      tiny = some_model(2, 1, 2, 2, ROPE_SPLIT_HALF);
    assert_survives(points, PLAN_RBP_POINTS_VERSION, &split);
    assert_survives(points, PLAN_RBP_POINTS_VERSION, &partial);
    assert_survives(levels, PLAN_RBP_LEVELS_VERSION, &split);
    assert_survives(levels, PLAN_RBP_LEVELS_VERSION, &partial);
    /* One block, of the most points, and the ends of what a map and a weight may be. */
    bit_plan *plan = NULL, *back = NULL;
    const uint8_t bits[] = {10};
    const double maps[] = {0.0, -3.0, 65504.0}, weights[] = {1e-9};
    assert_ok(bit_plan_create(&plan, &tiny, &err));
    strcpy(plan->method, "block-codebook");
    for (int h = 0; h < 2; h++)
        assert_ok(
            plan_head_set_block_codebook(&plan->heads[h], bits, maps, weights, BLOCK_CODEBOOK_MAX_GAIN_BITS, 1, &err));
    assert_ok(plan_rbp_write(plan, scratch_path("tiny.rbp"), &err));
    assert_ok(plan_rbp_read(&back, scratch_path("tiny.rbp"), &err));
    for (int h = 0; h < 2; h++) assert_true(plan_head_equal(&plan->heads[h], &back->heads[h], &tiny));
    bit_plan_free(plan);
    bit_plan_free(back);
}

static void a_layer_of_two_families_is_not_written(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = small_plan(&model);
    uint8_t *bytes = NULL;
    size_t size;
    replace_head(plan, 3, 1);
    assert_fails(plan_rbp_encode(&bytes, &size, plan, &err), RB_EFORMAT,
                 "plan: layer 1 kv_head 1: codec family is block-codebook, that of kv_head 0 is groups, expected one "
                 "family a layer");
    assert_null(bytes);
    bit_plan_free(plan);
}

static ropebits_plan *in_library(const bit_plan *plan)
{
    char error[256];
    ropebits_plan *library = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(ropebits_plan_parse(&library, bytes, size, error, sizeof error), 0);
    free(bytes);
    return library;
}

/* Head 0 has 8 blocks of 0, 7, 1, 8, 1, 8, 6, 0 bits: 31, and 2 of gain: 33 in 5 bytes. */
static void the_library_says_how_keys_are_coded(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = small_plan(&model);
    ropebits_plan *library = in_library(plan);
    const ropebits_head *head = ropebits_plan_head(library, 0, 0), *other = ropebits_plan_head(library, 0, 1),
                        *groups = ropebits_plan_head(library, 1, 0);
    assert_int_equal(head->family, ROPEBITS_FAMILY_BLOCK_CODEBOOK);
    assert_int_equal(head->n_groups, 0);
    assert_int_equal(head->norm_bits, 0);
    assert_int_equal(head->gain_bits, 2);
    assert_int_equal(head->key_bits, 40);
    assert_memory_equal(head->bits, plan->heads[0].block_codebook.bits, 8);
    assert_memory_equal(head->maps, plan->heads[0].block_codebook.maps, 3 * 8 * sizeof(float));
    assert_memory_equal(head->weights, plan->heads[0].block_codebook.weights, 8 * sizeof(float));
    assert_memory_equal(head->center, plan->heads[0].center, 16 * sizeof(float));
    assert_null(head->scales);
    assert_int_equal(other->gain_bits, 0);
    assert_memory_equal(other->maps, plan->heads[1].block_codebook.maps, 3 * 8 * sizeof(float));
    assert_memory_equal(other->weights, plan->heads[1].block_codebook.weights, 8 * sizeof(float));
    assert_null(other->center);
    assert_int_equal(groups->family, ROPEBITS_FAMILY_GROUPS);
    assert_int_equal(groups->n_groups, 2);
    assert_null(groups->maps);
    assert_true(fabs(ropebits_plan_get_info(library)->key_true_bits - bit_plan_cost(plan).key_true_bits) <= 1e-12);
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

static void the_points_are_those_of_the_quantizer(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 1, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = small_plan(&model);
    ropebits_plan *library = in_library(plan);
    static block_codebook book;
    for (uint32_t bits = 0; bits <= ROPEBITS_MAX_POINT_BITS + 1; bits++) {
        const bool is_used = memchr(plan->heads[0].block_codebook.bits, (int)bits, 8) && bits > 0;
        const float *own = ropebits_plan_points(library, bits);
        if (!is_used) {
            assert_null(own);
            continue;
        }
        assert_ok(block_codebook_build(&book, (int)bits, &err));
        assert_memory_equal(own, book.x, (size_t)book.size * sizeof(float));
        assert_memory_equal(own + book.size, book.y, (size_t)book.size * sizeof(float));
    }
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

/* ---- a runtime, from nothing but the header's words ------------------------------------------------ */

static void dims_of(int dims[2], int block, const ropebits_plan_info *info)
{
    const int n = (int)info->rotary_dim / 2, is_split = info->pairing == ROPEBITS_PAIRING_SPLIT_HALF && block < n;
    dims[0] = is_split ? block : 2 * block;
    dims[1] = is_split ? block + n : 2 * block + 1;
}

static float gain_of(const ropebits_head *head, int c) { return (float)exp2((c - (1 << head->gain_bits) / 4) / 2.0); }

static void point_of(double out[2], const ropebits_plan *library, const ropebits_head *head, int block, int code)
{
    const float *m = head->maps + 3 * block;
    double x, y;
    if (head->bits[block] > 10) {
        const uint32_t first = ropebits_first_bits(m, head->bits[block]);
        x = (double)ropebits_plan_levels(library, first)[code & ((1 << first) - 1)];
        y = (double)ropebits_plan_levels(library, head->bits[block] - first)[code >> first];
    } else {
        const float *book = ropebits_plan_points(library, head->bits[block]);
        x = (double)book[code];
        y = (double)book[(1 << head->bits[block]) + code];
    }
    out[0] = (double)m[0] * x;
    out[1] = (double)m[1] * x + (double)m[2] * y;
}

static unsigned take_bits(const uint8_t *stream, int *at, int n)
{
    unsigned value = 0;
    for (int i = 0; i < n; i++, ++*at) value |= (stream[*at / 8] >> *at % 8 & 1u) << i;
    return value;
}

static void restore(float *x, const uint8_t *stream, const ropebits_plan *library, const ropebits_head *head)
{
    const ropebits_plan_info *info = ropebits_plan_get_info(library);
    int at = 0;
    const double gain = (double)gain_of(head, (int)take_bits(stream, &at, head->gain_bits));
    for (int block = 0; block < (int)info->head_dim / 2; block++) {
        double point[2] = {0.0, 0.0};
        int dims[2];
        dims_of(dims, block, info);
        if (head->bits[block] > 0)
            point_of(point, library, head, block, (int)take_bits(stream, &at, head->bits[block]));
        for (int i = 0; i < 2; i++)
            x[dims[i]] = (float)(gain * point[i] + (head->center ? (double)head->center[dims[i]] : 0.0));
    }
}

/* Of points the distance decides; of levels that of the first dim, and of codes with one first level (of first_bits)
 * that of the second. */
static bool is_nearer(const double *at, const double *than, int code, int than_code, uint32_t first_bits)
{
    if (first_bits == 0) return at[0] * at[0] + at[1] * at[1] < than[0] * than[0] + than[1] * than[1];
    const bool is_same = (code ^ than_code) % (1 << first_bits) == 0;
    return fabs(at[0]) < fabs(than[0]) || (is_same && fabs(at[1]) < fabs(than[1]));
}

/* Codes of all blocks at a level, and what they leave. */
static double store_at(int *codes, const double *z, double gain, const ropebits_plan *library,
                       const ropebits_head *head, int n_blocks)
{
    double error = 0.0;
    for (int block = 0; block < n_blocks; block++) {
        const uint32_t first_bits =
            head->bits[block] > 10 ? ropebits_first_bits(head->maps + 3 * block, head->bits[block]) : 0;
        double least[2] = {INFINITY, INFINITY};
        for (int code = 0; head->bits[block] > 0 && code < 1 << head->bits[block]; code++) {
            double point[2];
            point_of(point, library, head, block, code);
            const double at[2] = {z[2 * block] / gain - point[0], z[2 * block + 1] / gain - point[1]};
            if (is_nearer(at, least, code, codes[block], first_bits)) {
                memcpy(least, at, sizeof least);
                codes[block] = code;
            }
        }
        if (head->bits[block] > 0)
            error += (double)head->weights[block] * gain * gain * (least[0] * least[0] + least[1] * least[1]);
    }
    return error;
}

static void put_bits(uint8_t *stream, int *at, unsigned value, int n)
{
    for (int i = 0; i < n; i++, ++*at) stream[*at / 8] |= (uint8_t)((value >> i & 1u) << *at % 8);
}

static void store(uint8_t *stream, const float *x, const ropebits_plan *library, const ropebits_head *head)
{
    const ropebits_plan_info *info = ropebits_plan_get_info(library);
    const int n_blocks = (int)info->head_dim / 2, zero = (1 << head->gain_bits) / 4, most = (1 << head->gain_bits) - 1;
    double z[RB_MAX_HEAD_DIM], square = 0.0, size = 0.0, least = INFINITY;
    int codes[RB_MAX_BLOCKS] = {0}, best[RB_MAX_BLOCKS] = {0}, best_level = 0, at = 0;
    for (int block = 0; block < n_blocks; block++) {
        int dims[2];
        dims_of(dims, block, info);
        for (int i = 0; i < 2; i++)
            z[2 * block + i] = (double)x[dims[i]] - (head->center ? (double)head->center[dims[i]] : 0.0);
        if (head->bits[block] == 0) continue;
        square += (double)head->weights[block] * (z[2 * block] * z[2 * block] + z[2 * block + 1] * z[2 * block + 1]);
        for (int i = 0; i < 3; i++)
            size +=
                (double)head->weights[block] * (double)head->maps[3 * block + i] * (double)head->maps[3 * block + i];
    }
    const int level = (int)fmin(fmax(round(log2(square / size) + zero), 0.0), most);
    for (int c = level > 0 ? level - 1 : 0; c <= level + 1 && c <= most; c++) {
        const double error = store_at(codes, z, (double)gain_of(head, c), library, head, n_blocks);
        if (!(error < least)) continue;
        least = error;
        best_level = c;
        memcpy(best, codes, sizeof best);
    }
    memset(stream, 0, head->key_bits / 8);
    put_bits(stream, &at, (unsigned)best_level, head->gain_bits);
    for (int block = 0; block < n_blocks; block++) put_bits(stream, &at, (unsigned)best[block], head->bits[block]);
}

static void assert_header_is_the_quantizer(const uint8_t *bits, const model_facts *model)
{
    enum { N_KEYS = 12 };
    const int d = model->head_dim;
    bit_plan *plan = plan_of(bits, model);
    ropebits_plan *library = in_library(plan);
    codec_tables *tables = NULL;
    float *keys = NULL, *expected = NULL, found[RB_MAX_HEAD_DIM];
    uint8_t *codes = NULL, stream[2 * RB_MAX_HEAD_DIM], own[2 * RB_MAX_HEAD_DIM];
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(rb_alloc(&keys, N_KEYS * (size_t)d, sizeof *keys, "keys", &err));
    assert_ok(rb_alloc(&expected, N_KEYS * (size_t)d, sizeof *expected, "keys", &err));
    assert_ok(rb_alloc(&codes, N_KEYS * (size_t)d, 1, "codes", &err));
    /* Keys of all sizes, so that every level of the gain is taken. */
    for (int t = 0; t < N_KEYS; t++)
        for (int i = 0; i < d; i++) keys[t * d + i] = (float)(sin(1.7 * t + 0.9 * i * i) * exp2(t - 5.0));
    for (uint32_t h = 0; h < (uint32_t)(model->n_layers * model->n_kv_heads); h++) {
        const ropebits_head *head =
            ropebits_plan_head(library, h / (uint32_t)model->n_kv_heads, h % (uint32_t)model->n_kv_heads);
        head_codec *codec = NULL;
        if (head->family != ROPEBITS_FAMILY_BLOCK_CODEBOOK) continue;
        assert_ok(head_codec_create(&codec, &plan->heads[h], model, tables, &err));
        assert_ok(head_codec_encode(codec, keys, N_KEYS, codes, NULL, &err));
        assert_ok(head_codec_decode(codec, codes, NULL, N_KEYS, expected, &err));
        for (int t = 0; t < N_KEYS; t++) {
            pack_codes(stream, codes + t * d, head_codec_widths(codec), d);
            store(own, keys + t * d, library, head);
            assert_memory_equal(own, stream, head->key_bits / 8);
            restore(found, stream, library, head);
            assert_memory_equal(found, expected + t * d, (size_t)d * sizeof *found);
        }
        head_codec_free(codec);
    }
    free(keys);
    free(expected);
    free(codes);
    codec_tables_free(tables);
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

static void what_the_header_says_stores_and_restores_as_the_quantizer_does(void **state)
{
    (void)state;
    const model_facts split = some_model(3, 2, 32, 32, ROPE_SPLIT_HALF),
                      partial = some_model(5, 1, 16, 8, ROPE_INTERLEAVED);
    assert_header_is_the_quantizer(points, &split);
    assert_header_is_the_quantizer(levels, &split);
    assert_header_is_the_quantizer(points, &partial);
    assert_header_is_the_quantizer(levels, &partial);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_of_both_families_survive_the_file),
        cmocka_unit_test(a_layer_of_two_families_is_not_written),
        cmocka_unit_test(the_library_says_how_keys_are_coded),
        cmocka_unit_test(the_points_are_those_of_the_quantizer),
        cmocka_unit_test(what_the_header_says_stores_and_restores_as_the_quantizer_does),
    };
    return cmocka_run_group_tests_name("plan_rbp_block_codebook", tests, NULL, NULL);
}
