/* plan.rbp, all versions: every kind of damage, and lies with a right checksum. */
#include "tests/test_support.h"

#include <zstd.h>

#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "tests/plan/some_plan.h"

enum { PAYLOAD_ROOM = 16384 };

static uint8_t *encoded;
static size_t encoded_size;

/* Frees the plan. */
static int encode_plan(bit_plan *plan)
{
    rb_error err = {0};
    const rb_status st = plan_rbp_encode(&encoded, &encoded_size, plan, &err);
    bit_plan_free(plan);
    return st == RB_OK ? 0 : -1;
}

static int encode_published(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    return encode_plan(some_plan(&model, CODEBOOK_BLOCK_GTQ));
}

static int encode_general(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    for (int h = 0; h < 4; h++) plan->value_widths[h] = (uint8_t)(2 + h);
    return encode_plan(plan);
}

/* Heads 0 and 1 of block-codebook, of 0 to 4 bits a block, so that tables of points are small; head 0 has a center and
 * 2 bits of gain. */
static int encode_block_codebook(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan_of_block_codebook(&model);
    for (int h = 0; h < 2; h++)
        for (int b = 0; b < 8; b++) plan->heads[h].block_codebook.bits[b] %= 5;
    return encode_plan(plan);
}

/* One head of one block of two levels of 6 bits, and 3 bits of gain. */
static int encode_levels(void **state)
{
    (void)state;
    const model_facts model = some_model(1, 1, 2, 2, ROPE_SPLIT_HALF);
    const uint8_t bits[] = {12};
    const double maps[] = {1.0, 0.0, 1.0}, weights[] = {1.0};
    rb_error err = {0};
    bit_plan *plan = NULL;
    if (bit_plan_create(&plan, &model, &err) != RB_OK) return -1;
    strcpy(plan->method, "block-codebook");
    if (plan_head_set_block_codebook(&plan->heads[0], bits, maps, weights, 3, 1, &err) != RB_OK) return -1;
    return encode_plan(plan);
}

/* Heads 0 and 1 of trellis, 2 and 3 of groups, values of trellis; the last value head has a center. */
static int encode_trellis(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 8, 8, ROPE_SPLIT_HALF);
    return encode_plan(some_plan_of_trellis(&model));
}

static int free_one(void **state)
{
    (void)state;
    free(encoded);
    return 0;
}

static void assert_refused(const uint8_t *bytes, size_t size, const char *message)
{
    char error[256] = "";
    ropebits_plan *plan = NULL;
    assert_int_equal(ropebits_plan_parse(&plan, bytes, size, error, sizeof error), -1);
    assert_null(plan);
    if (!strstr(error, message)) fail_msg("\"%s\" does not contain \"%s\"", error, message);
}

static void truncation_at_every_byte_is_refused(void **state)
{
    (void)state;
    for (size_t size = 0; size < encoded_size; size++) assert_refused(encoded, size, "");
}

static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    for (size_t bit = 0; bit < 8 * encoded_size; bit++) {
        encoded[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_refused(encoded, encoded_size, "");
        encoded[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* A damaged copy whose checksum is right: lies, not accidents. */
static void put_crc(uint8_t *bytes, size_t size)
{
    const uint32_t crc = plan_rbp_crc32(bytes, size - PLAN_RBP_CRC_SIZE);
    for (int i = 0; i < PLAN_RBP_CRC_SIZE; i++) bytes[size - PLAN_RBP_CRC_SIZE + (size_t)i] = (uint8_t)(crc >> (8 * i));
}

static void assert_lie_refused(size_t offset, uint8_t value, const char *message)
{
    uint8_t *copy = malloc(encoded_size);
    assert_non_null(copy);
    memcpy(copy, encoded, encoded_size);
    copy[offset] = value;
    put_crc(copy, encoded_size);
    assert_refused(copy, encoded_size, message);
    free(copy);
}

static void lying_headers_are_refused_by_name(void **state)
{
    (void)state;
    assert_lie_refused(0, 'X', "wrong magic");
    assert_lie_refused(6, '\n', "wrong magic");
    assert_int_equal(encoded[8], PLAN_RBP_PUBLISHED_VERSION);
    assert_lie_refused(8, PLAN_RBP_GENERAL_VERSION, ""); /* the columns of version 2 are not there */
    assert_lie_refused(8, ROPEBITS_PLAN_FORMAT_VERSION, "");
    assert_lie_refused(8, 0, "version is 0, expected 1 to 5");
    assert_lie_refused(8, 6, "version is 6, expected 1 to 5");
    assert_lie_refused(12, 1, "reserved");
    assert_lie_refused(18, 0xff, "zstd frame does not hold");
    assert_lie_refused(19, 0xff, "expected at most");
    assert_lie_refused(20, (uint8_t)(encoded[20] + 1), "from its header");
    assert_lie_refused(PLAN_RBP_HEADER_SIZE, 0, "zstd");
}

/* The file around another payload of the same size. */
static uint8_t *wrap_payload(size_t *size, const uint8_t *payload, size_t payload_size)
{
    const size_t room = ZSTD_compressBound(payload_size);
    uint8_t *file = malloc(PLAN_RBP_HEADER_SIZE + room + PLAN_RBP_CRC_SIZE);
    assert_non_null(file);
    memcpy(file, encoded, PLAN_RBP_HEADER_SIZE);
    const size_t frame = ZSTD_compress(file + PLAN_RBP_HEADER_SIZE, room, payload, payload_size, 1);
    assert_false(ZSTD_isError(frame));
    for (int i = 0; i < 4; i++) file[20 + i] = (uint8_t)(frame >> (8 * i));
    *size = PLAN_RBP_HEADER_SIZE + frame + PLAN_RBP_CRC_SIZE;
    put_crc(file, *size);
    return file;
}

static size_t unwrap_payload(uint8_t *payload, size_t room)
{
    const size_t size = ZSTD_decompress(payload, room, encoded + PLAN_RBP_HEADER_SIZE,
                                        encoded_size - PLAN_RBP_HEADER_SIZE - PLAN_RBP_CRC_SIZE);
    assert_false(ZSTD_isError(size));
    return size;
}

/* The rotation column by docs/plan-rbp.md, from the payload's end: H * N block groups, 8 bytes of seed a group, a
 * codebook a group, then it. */
static void rotation_kinds_are_read_from_their_column_and_unknown_ones_refused(void **state)
{
    (void)state;
    enum { HEADS = 4, BLOCKS = 8 };
    char error[256];
    uint8_t payload[PAYLOAD_ROOM];
    size_t size, n_groups = 0;
    ropebits_plan *plan = NULL;
    const size_t payload_size = unwrap_payload(payload, sizeof payload);
    assert_int_equal(ropebits_plan_parse(&plan, encoded, encoded_size, error, sizeof error), 0);
    for (uint32_t h = 0; h < HEADS; h++) n_groups += ropebits_plan_head(plan, h / 2, h % 2)->n_groups;
    assert_int_equal(ropebits_plan_head(plan, 0, 0)->groups[0].rotation, ROPEBITS_ROTATION_HAAR);
    ropebits_plan_close(plan);
    uint8_t *kind = payload + payload_size - HEADS * BLOCKS - 8 * n_groups - 2 * n_groups;
    for (int value = 0; value < 3; value++) {
        *kind = (uint8_t)value;
        uint8_t *file = wrap_payload(&size, payload, payload_size);
        if (value < 2) {
            assert_int_equal(ropebits_plan_parse(&plan, file, size, error, sizeof error), 0);
            assert_int_equal(ropebits_plan_head(plan, 0, 0)->groups[0].rotation, value);
            assert_int_equal(ropebits_plan_head(plan, 0, 0)->groups[1].rotation, ROPEBITS_ROTATION_HAAR);
            ropebits_plan_close(plan);
        } else {
            assert_refused(file, size, "rotation kind is 2, expected 0 to 1");
        }
        free(file);
    }
}

/* One byte of the payload changed, everything around it made right. */
static void assert_payload_lie_refused(uint8_t *at, uint8_t value, uint8_t *payload, size_t payload_size,
                                       const char *message)
{
    const uint8_t true_value = *at;
    size_t size;
    *at = value;
    uint8_t *file = wrap_payload(&size, payload, payload_size);
    assert_refused(file, size, message);
    *at = true_value;
    free(file);
}

/* The columns of version 2 by docs/plan-rbp.md, from the payload's end. 4 heads of 2 groups; heads 0 and 2 have scales,
 * 0, 2 and 3 a center; 0 and 3 have log8 norms; values of 2 to 5 bits. */
static void lies_in_the_columns_of_version_2_are_refused_by_name(void **state)
{
    (void)state;
    enum { HEADS = 4, GROUPS = 8, BLOCKS = 8, DIMS = 16, N_SCALES = 2 * BLOCKS, N_CENTERS = 3 * DIMS };
    uint8_t payload[PAYLOAD_ROOM];
    const size_t size = unwrap_payload(payload, sizeof payload);
    uint8_t *centers = payload + size - 2 * N_CENTERS, *has_center = centers - HEADS,
            *scales = has_center - 2 * N_SCALES, *has_scales = scales - HEADS;
    uint8_t *block_group = has_scales - HEADS * BLOCKS, *coherences = block_group - 2 * GROUPS,
            *exponents = coherences - GROUPS;
    uint8_t *encoders = exponents - 12 * GROUPS - HEADS, *norms = encoders - HEADS, *value_widths = norms - 2 * HEADS;
    assert_int_equal(encoded[8], PLAN_RBP_GENERAL_VERSION);
    assert_int_equal(block_group[2], PLAN_RBP_NO_GROUP);
    assert_payload_lie_refused(centers + N_CENTERS, 0x7c, payload, size, "center 0 is nan, expected a finite number");
    assert_payload_lie_refused(has_center + 3, 2, payload, size, "head 3: flag of its center is 2, expected 0 or 1");
    assert_payload_lie_refused(has_center, 0, payload, size, "too many at the end");
    assert_payload_lie_refused(has_center + 1, 1, payload, size, "payload ends early");
    assert_payload_lie_refused(scales + N_SCALES + 1, 0x7c, payload, size,
                               "scale 1 is nan, expected a finite number above 0");
    assert_payload_lie_refused(scales + 2 * N_SCALES - 1, 0xbc, payload, size, "scale 15 is -");
    assert_payload_lie_refused(has_scales + 1, 0xff, payload, size, "head 1: flag of its scales is 255");
    assert_payload_lie_refused(block_group + 2, 2, payload, size, "head 0: block 2 is in group 2 of 2");
    assert_payload_lie_refused(coherences + GROUPS, 0xb8, payload, size,
                               "coherence 0 is -0.5, expected a finite number above 0");
    assert_payload_lie_refused(exponents, 127, payload, size,
                               "head 0 group 0: norm exponent is 127, expected -126 to 126");
    assert_payload_lie_refused(exponents + 2, 1, payload, size, "head 1 group 0: norm exponent is 1, expected 0 to 0");
    assert_payload_lie_refused(encoders, 2, payload, size, "encoder is 2, expected 0 to 1");
    assert_payload_lie_refused(norms, 2, payload, size, "norm kind is 2, expected 0 to 1");
    assert_int_equal(value_widths[3], 5);
    assert_payload_lie_refused(value_widths + 3, 0, payload, size, "head 3: value width is 0, expected 1 to 8");
    assert_payload_lie_refused(value_widths + 1, 9, payload, size, "head 1: value width is 9, expected 1 to 8");
    assert_payload_lie_refused(value_widths + 1, ROPEBITS_VALUES_FP16, payload, size,
                               "head 1: value width is 16, expected 1 to 8");
    assert_payload_lie_refused(value_widths + 1, 6, payload, size, "no codebook of kind 1, width 6 for 16 dims");
    assert_int_equal(value_widths[-2], PLAN_RBP_WIDTH_PER_HEAD);
    assert_payload_lie_refused(value_widths - 2, 9, payload, size, "value width is 9, expected 1 to 8, or 16");
}

/* The columns of version 3 by docs/plan-rbp.md, from the payload's end. Heads 0 and 1 of block-codebook; 2 and 3
 * of 2 groups, head 2 with scales; heads 0, 2 and 3 with a center. */
static void lies_in_the_columns_of_version_3_are_refused_by_name(void **state)
{
    (void)state;
    enum {
        HEADS = 4,
        CODEBOOKS = 2,
        GROUPS = 4,
        BLOCKS = 8,
        DIMS = 16,
        N_MAPS = 3 * CODEBOOKS * BLOCKS,
        N_WEIGHTS = CODEBOOKS * BLOCKS,
        N_SCALES = BLOCKS,
        N_CENTERS = 3 * DIMS
    };
    uint8_t payload[PAYLOAD_ROOM];
    const size_t size = unwrap_payload(payload, sizeof payload);
    uint8_t *weights = payload + size - 2 * N_WEIGHTS, *maps = weights - 2 * N_MAPS, *bits = maps - CODEBOOKS * BLOCKS,
            *gains = bits - CODEBOOKS;
    uint8_t *has_center = gains - 2 * N_CENTERS - HEADS, *has_scales = has_center - 2 * N_SCALES - HEADS;
    uint8_t *block_group = has_scales - (HEADS - CODEBOOKS) * BLOCKS,
            *encoders = block_group - (2 + 1 + 12) * GROUPS - HEADS, *norms = encoders - HEADS;
    uint8_t *n_groups = norms - HEADS, *families = n_groups - HEADS, *points = families - 2 - 4 * (2 + 4 + 8 + 16) - 4,
            *n_tables = points - 1;
    assert_int_equal(encoded[8], PLAN_RBP_POINTS_VERSION);
    assert_int_equal(*n_tables, 4);
    assert_int_equal(families[1], ROPEBITS_FAMILY_BLOCK_CODEBOOK);
    assert_int_equal(families[2], ROPEBITS_FAMILY_GROUPS);
    assert_int_equal(bits[3], 4);
    assert_payload_lie_refused(weights + N_WEIGHTS, 0x80, payload, size, "weight 0 is -");
    assert_payload_lie_refused(weights + N_WEIGHTS + 3, 0x7c, payload, size,
                               "weight 3 is nan, expected a finite number above 0");
    assert_payload_lie_refused(weights + N_WEIGHTS + 9, 0x02, payload, size, "expected 6.10352e-05 or more");
    assert_payload_lie_refused(maps + N_MAPS + 5, 0x7c, payload, size,
                               "number of a map 5 is nan, expected a finite number");
    assert_payload_lie_refused(bits, 11, payload, size, "head 0: block 0 has 11 bits, expected 0 to 10");
    assert_payload_lie_refused(bits + BLOCKS, 7, payload, size,
                               "head 1: block 0 has 7 bits, and the plan no points of so many");
    assert_payload_lie_refused(gains, 5, payload, size, "gain bits is 5, expected 0 to 4");
    assert_payload_lie_refused(has_center + 2, 2, payload, size, "head 2: flag of its center is 2, expected 0 or 1");
    assert_payload_lie_refused(has_scales, 1, payload, size, "head 0: flag of its scales is 1, expected 0");
    assert_payload_lie_refused(encoders + 1, 1, payload, size, "encoder is 1, expected 0 to 0");
    assert_payload_lie_refused(norms, 1, payload, size, "norm kind is 1, expected 0 to 0");
    assert_payload_lie_refused(n_groups, 1, payload, size, "groups of a head is 1, expected 0 to 0");
    assert_payload_lie_refused(n_groups + 2, 0, payload, size, "groups of a head is 0, expected 1 to 8");
    assert_payload_lie_refused(families + 1, 2, payload, size, "family is 2, expected 0 to 1");
    assert_payload_lie_refused(families + 1, ROPEBITS_FAMILY_GROUPS, payload, size,
                               "layer 0 kv_head 1: codec family is groups, that of kv_head 0 is block-codebook, "
                               "expected one family a layer");
    assert_payload_lie_refused(families + 2, ROPEBITS_FAMILY_BLOCK_CODEBOOK, payload, size,
                               "layer 1 kv_head 1: codec family is groups, that of kv_head 0 is block-codebook");
    assert_payload_lie_refused(points, 11, payload, size, "bits of a table of points is 11, expected 1 to 10");
    assert_payload_lie_refused(points + 9, 1, payload, size, "bits of a table of points is 1, expected 2 to 10");
    assert_payload_lie_refused(points + 1 + 4, 0x7c, payload, size,
                               "coordinate of a point 0 is nan, expected a finite number");
    assert_payload_lie_refused(n_tables, 11, payload, size, "number of tables of points is 11, expected 0 to 10");
    memset(bits, 0, BLOCKS - 1);
    assert_payload_lie_refused(bits + BLOCKS - 1, 0, payload, size, "head 0: no block has bits");
}

/* No tables of points, one of levels of 6 bits; then, from the end, weight, map and bits of the block. */
static void lies_about_levels_are_refused_by_name(void **state)
{
    (void)state;
    enum { LEVELS = 64 };
    static const uint8_t start[] = {0, 1, 6};
    uint8_t payload[8192];
    const size_t size = unwrap_payload(payload, sizeof payload);
    uint8_t *table = memmem(payload, size, start, sizeof start), *bits = payload + size - 2 - 2 * 3 - 1;
    assert_int_equal(encoded[8], PLAN_RBP_LEVELS_VERSION);
    assert_int_equal(*bits, 12);
    assert_non_null(table);
    assert_payload_lie_refused(table + 1, 9, payload, size, "number of tables of levels is 9, expected 0 to 8");
    assert_payload_lie_refused(table + 2, 9, payload, size, "bits of a table of levels is 9, expected 1 to 8");
    assert_payload_lie_refused(table + 2, 0, payload, size, "bits of a table of levels is 0, expected 1 to 8");
    assert_payload_lie_refused(table + 3 + LEVELS, 0x7c, payload, size, "level 0 is nan, expected a finite number");
    assert_payload_lie_refused(bits, 14, payload, size, "head 0: block 0 has 14 bits, expected 0 to 13");
    assert_payload_lie_refused(bits, 13, payload, size,
                               "head 0: block 0 has levels of 6 and 7 bits, and the plan none of so many");
}

/* The columns of trellis by docs/plan-rbp.md, from the payload's end: 8 dims; values of heads 0 to 3, of which the last
 * has a center, and keys of heads 0 and 1. Value head 0 has 3 bits of gain, head 2 none; key head 0 none, head 1 one.
 */
static void lies_in_the_columns_of_trellis_are_refused_by_name(void **state)
{
    (void)state;
    enum { HEADS = 4, KEYS = 2, DIMS = 8, N_BASIS = HEADS * DIMS * DIMS, N_KEY_BASIS = KEYS * DIMS * DIMS };
    uint8_t payload[PAYLOAD_ROOM];
    const size_t size = unwrap_payload(payload, sizeof payload);
    uint8_t *center = payload + size - 2 * DIMS, *has_center = center - HEADS, *basis = has_center - 2 * N_BASIS,
            *weights = basis - 2 * HEADS * DIMS, *widths = weights - HEADS * DIMS, *zeros = widths - HEADS,
            *gains = zeros - HEADS;
    uint8_t *key_basis = gains - 2 * N_KEY_BASIS, *key_weights = key_basis - 2 * KEYS * DIMS,
            *key_widths = key_weights - KEYS * DIMS, *key_zeros = key_widths - KEYS, *key_gains = key_zeros - KEYS;
    assert_int_equal(encoded[8], PLAN_RBP_EXACT_VERSION);
    assert_int_equal(widths[0], 8);
    assert_int_equal(key_widths[DIMS], 8);
    assert_int_equal(gains[0], 3);
    assert_int_equal(key_gains[1], 1);
    assert_payload_lie_refused(center + DIMS, 0x7c, payload, size, "center of values 0 is nan, expected a finite");
    assert_payload_lie_refused(has_center, 2, payload, size, "head 0: flag of its center is 2, expected 0 or 1");
    assert_payload_lie_refused(has_center, 1, payload, size, "payload ends early");
    assert_payload_lie_refused(has_center + 3, 0, payload, size, "16 bytes too many at the end");
    assert_payload_lie_refused(basis + N_BASIS + 9, 0x7c, payload, size, "number of a basis 9 is not finite");
    assert_payload_lie_refused(basis + N_BASIS + 9, 0xff, payload, size, "number of a basis 9 is not finite");
    assert_payload_lie_refused(weights + HEADS * DIMS + 2, 0x80, payload, size, "weight 2 is -");
    assert_payload_lie_refused(weights + HEADS * DIMS + 2, 0x02, payload, size, "expected 6.10352e-05 or more");
    assert_payload_lie_refused(widths, 7, payload, size, "value head 0: coordinate 0 has 7 bits, expected 8");
    assert_payload_lie_refused(widths + 1, 9, payload, size, "value head 0: coordinate 1 has 9 bits, expected 0 to 8");
    assert_payload_lie_refused(widths + 1, 0, payload, size,
                               "value head 0: coordinate 2 has 2 bits after one that has none");
    assert_payload_lie_refused(zeros, 8, payload, size, "level of the gain 1 is 8, expected 0 to 7");
    assert_payload_lie_refused(zeros + 2, 1, payload, size, "level of the gain 1 is 1, expected 0 to 0");
    assert_payload_lie_refused(gains, 5, payload, size, "gain bits is 5, expected 0 to 4");
    assert_payload_lie_refused(key_basis + N_KEY_BASIS, 0x7c, payload, size, "number of a basis 0 is not finite");
    assert_payload_lie_refused(key_widths + DIMS + 1, 200, payload, size,
                               "head 1: coordinate 1 has 200 bits, expected 0 to 8");
    assert_payload_lie_refused(key_gains + 1, 9, payload, size, "gain bits is 9, expected 0 to 4");
    /* A last coordinate of 6 bits and 3 of the gain do not fit in a byte. */
    memset(widths + 1, 6, DIMS - 1);
    assert_payload_lie_refused(widths + 1, 6, payload, size,
                               "value head 0: the last coordinate and the gain have 9 bits, expected 8 at most");
}

/* The sections before the heads: value_codebook, value_width and the tables, which end there. Each table is its width
 * and 256 numbers. */
static void lies_before_the_heads_of_trellis_are_refused_by_name(void **state)
{
    (void)state;
    enum { TABLE = 1 + 2 * 256, N_TABLES = 8 };
    uint8_t payload[PAYLOAD_ROOM], start[1 + 1] = {N_TABLES, 1};
    const size_t size = unwrap_payload(payload, sizeof payload);
    uint8_t *n_tables = payload;
    while (memcmp(n_tables, start, sizeof start) != 0 || n_tables[1 + TABLE] != 2 || n_tables[1 + 2 * TABLE] != 3) {
        n_tables++;
        assert_true(n_tables + N_TABLES * TABLE < payload + size);
    }
    uint8_t *value_width = n_tables + 1 + N_TABLES * TABLE, *families = value_width + 2;
    assert_int_equal(*value_width, PLAN_RBP_VALUE_HEADS);
    assert_int_equal(families[0], ROPEBITS_FAMILY_TRELLIS);
    assert_payload_lie_refused(n_tables, 9, payload, size, "number of trellis tables is 9, expected 0 to 8");
    assert_payload_lie_refused(n_tables + 1, 9, payload, size, "width of a trellis table is 9, expected 1 to 8");
    assert_payload_lie_refused(n_tables + 1 + TABLE, 1, payload, size,
                               "width of a trellis table is 1, expected 2 to 8");
    assert_payload_lie_refused(n_tables + 2 + 256, 0x7c, payload, size, "number of a trellis table 0 is nan");
    assert_payload_lie_refused(value_width, 254, payload, size, "value width is 254, expected 1 to 8, or 16");
    assert_payload_lie_refused(families, 3, payload, size, "family is 3, expected 0 to 2");
    assert_payload_lie_refused(families, 0, payload, size,
                               "layer 0 kv_head 1: codec family is trellis, that of kv_head 0 is groups");
    /* The last table goes; what follows moves up. */
    memmove(value_width - TABLE, value_width, (size_t)(payload + (size_t)size - value_width));
    *n_tables = N_TABLES - 1;
    const size_t shorter = size - TABLE;
    uint8_t *file;
    size_t file_size;
    for (int i = 0; i < 4; i++) encoded[16 + i] = (uint8_t)(shorter >> (8 * i));
    file = wrap_payload(&file_size, payload, shorter);
    assert_refused(file, file_size, "head 0: coordinate 0 has 8 bits, and the plan no trellis table of that width");
    free(file);
}

/* Width 0 says that a column follows, which version 1 does not have. */
static void a_width_a_head_is_refused_in_version_1(void **state)
{
    (void)state;
    uint8_t payload[PAYLOAD_ROOM];
    size_t n_groups = 0, size = unwrap_payload(payload, sizeof payload);
    char error[256];
    ropebits_plan *plan = NULL;
    assert_int_equal(ropebits_plan_parse(&plan, encoded, encoded_size, error, sizeof error), 0);
    for (uint32_t h = 0; h < 4; h++) n_groups += ropebits_plan_head(plan, h / 2, h % 2)->n_groups;
    ropebits_plan_close(plan);
    uint8_t *value_width = payload + size - 4 * 8 - 12 * n_groups - 4 - 2;
    assert_int_equal(*value_width, 3);
    assert_payload_lie_refused(value_width, PLAN_RBP_WIDTH_PER_HEAD, payload, size,
                               "value width is 0, expected 1 to 8, or 16");
}

static void a_block_of_no_group_is_refused_in_version_1(void **state)
{
    (void)state;
    uint8_t payload[PAYLOAD_ROOM];
    const size_t size = unwrap_payload(payload, sizeof payload);
    assert_payload_lie_refused(payload + size - 1, PLAN_RBP_NO_GROUP, payload, size,
                               "head 3: block 7 is in group 255 of");
}

/* Every byte of the frame changed, checksum made right: an answer or a refusal, never a crash (the sanitizer build
 * watches). */
static void lying_frames_never_crash_the_reader(void **state)
{
    (void)state;
    uint8_t *copy = malloc(encoded_size);
    char error[256];
    assert_non_null(copy);
    for (size_t offset = PLAN_RBP_HEADER_SIZE; offset < encoded_size - PLAN_RBP_CRC_SIZE; offset++)
        for (int change = 1; change < 256; change += 37) {
            ropebits_plan *plan = NULL;
            memcpy(copy, encoded, encoded_size);
            copy[offset] = (uint8_t)(copy[offset] + change);
            put_crc(copy, encoded_size);
            if (ropebits_plan_parse(&plan, copy, encoded_size, error, sizeof error) == 0) ropebits_plan_close(plan);
        }
    free(copy);
}
/* Every byte of the payload changed, file and frame made right around it. */
static void lying_payloads_never_crash_the_reader(void **state)
{
    (void)state;
    uint8_t payload[PAYLOAD_ROOM];
    char error[256];
    const size_t payload_size = unwrap_payload(payload, sizeof payload);
    for (size_t offset = 0; offset < payload_size; offset++)
        for (int change = 1; change < 256; change += 51) {
            ropebits_plan *plan = NULL;
            size_t size;
            payload[offset] = (uint8_t)(payload[offset] + change);
            uint8_t *file = wrap_payload(&size, payload, payload_size);
            if (ropebits_plan_parse(&plan, file, size, error, sizeof error) == 0) ropebits_plan_close(plan);
            free(file);
            payload[offset] = (uint8_t)(payload[offset] - change);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(truncation_at_every_byte_is_refused, encode_published, free_one),
        {"truncation_at_every_byte_is_refused of version 2", truncation_at_every_byte_is_refused, encode_general,
         free_one, NULL},
        {"truncation_at_every_byte_is_refused of version 3", truncation_at_every_byte_is_refused, encode_block_codebook,
         free_one, NULL},
        cmocka_unit_test_setup_teardown(every_flipped_bit_is_refused, encode_published, free_one),
        {"every_flipped_bit_is_refused of version 2", every_flipped_bit_is_refused, encode_general, free_one, NULL},
        {"every_flipped_bit_is_refused of version 3", every_flipped_bit_is_refused, encode_block_codebook, free_one,
         NULL},
        cmocka_unit_test_setup_teardown(lying_headers_are_refused_by_name, encode_published, free_one),
        cmocka_unit_test_setup_teardown(rotation_kinds_are_read_from_their_column_and_unknown_ones_refused,
                                        encode_published, free_one),
        cmocka_unit_test_setup_teardown(lies_in_the_columns_of_version_2_are_refused_by_name, encode_general, free_one),
        cmocka_unit_test_setup_teardown(lies_in_the_columns_of_version_3_are_refused_by_name, encode_block_codebook,
                                        free_one),
        cmocka_unit_test_setup_teardown(lies_about_levels_are_refused_by_name, encode_levels, free_one),
        {"truncation_at_every_byte_is_refused of trellis", truncation_at_every_byte_is_refused, encode_trellis,
         free_one, NULL},
        {"every_flipped_bit_is_refused of trellis", every_flipped_bit_is_refused, encode_trellis, free_one, NULL},
        cmocka_unit_test_setup_teardown(lies_in_the_columns_of_trellis_are_refused_by_name, encode_trellis, free_one),
        cmocka_unit_test_setup_teardown(lies_before_the_heads_of_trellis_are_refused_by_name, encode_trellis, free_one),
        {"lying_frames_never_crash_the_reader of trellis", lying_frames_never_crash_the_reader, encode_trellis,
         free_one, NULL},
        {"lying_payloads_never_crash_the_reader of trellis", lying_payloads_never_crash_the_reader, encode_trellis,
         free_one, NULL},
        cmocka_unit_test_setup_teardown(a_block_of_no_group_is_refused_in_version_1, encode_published, free_one),
        cmocka_unit_test_setup_teardown(a_width_a_head_is_refused_in_version_1, encode_published, free_one),
        cmocka_unit_test_setup_teardown(lying_frames_never_crash_the_reader, encode_published, free_one),
        {"lying_frames_never_crash_the_reader of version 2", lying_frames_never_crash_the_reader, encode_general,
         free_one, NULL},
        {"lying_frames_never_crash_the_reader of version 3", lying_frames_never_crash_the_reader, encode_block_codebook,
         free_one, NULL},
        cmocka_unit_test_setup_teardown(lying_payloads_never_crash_the_reader, encode_published, free_one),
        {"lying_payloads_never_crash_the_reader of version 2", lying_payloads_never_crash_the_reader, encode_general,
         free_one, NULL},
        {"lying_payloads_never_crash_the_reader of version 3", lying_payloads_never_crash_the_reader,
         encode_block_codebook, free_one, NULL},
    };
    return cmocka_run_group_tests_name("plan_rbp_damage", tests, NULL, NULL);
}
