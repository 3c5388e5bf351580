/* plan.rbp, both versions: a round trip through the library runtimes link, its size, its centroids, and every kind of damage. */
#include "tests/test_support.h"

#include <zstd.h>

#include "core/atomic_file.h"
#include "export/plan_rbp.h"
#include "export/plan_rbp_format.h"
#include "export/ropebits_plan.h"

static model_facts some_model(int n_layers, int n_kv_heads, int head_dim, int rotary_dim, rope_pairing pairing)
{
    model_facts model = {.model_type = "llama", .n_layers = n_layers, .n_q_heads = 4 * n_kv_heads, .n_kv_heads = n_kv_heads, .head_dim = head_dim,
                         .rotary_dim = rotary_dim, .attention_scale = 1.0 / sqrt(head_dim),
                         .rope = {.kind = ROPE_LLAMA3, .pairing = pairing, .theta = 500000.0, .factor = 8.0, .low_freq_factor = 1.0,
                                  .high_freq_factor = 4.0, .original_max_position = 8192}};
    for (int i = 0; i < 64; i++) model.config_sha256[i] = "0123456789abcdef"[i % 16];
    for (int i = 0; i < rotary_dim / 2; i++) model.rope.inv_freq[i] = pow(500000.0, -2.0 * i / rotary_dim);
    return model;
}

/* Widths as an allocation has them: most blocks near the budget, a few far above. Deterministic. */
static void some_bits(uint8_t *bits, int n_blocks, uint32_t *state)
{
    for (int i = 0; i < n_blocks; i++) {
        *state = *state * 1664525u + 1013904223u;
        const uint32_t r = *state >> 24;
        bits[i] = (uint8_t)(r < 40 ? 2 : r < 140 ? 3 : r < 210 ? 4 : r < 240 ? 5 : r < 250 ? 6 : r < 254 ? 7 : 8);
    }
}

static bit_plan *some_plan(const model_facts *model, codebook_kind books)
{
    rb_error err = {0};
    bit_plan *plan = NULL;
    uint8_t bits[RB_MAX_BLOCKS];
    uint32_t state = 1;
    assert_ok(bit_plan_create(&plan, model, &err));
    strcpy(plan->method, "block-gtq");
    plan->avg_bits = 3.0;
    plan->value_width = 3;
    plan->value_codebook = books;
    plan->calibration = (text_facts){.n_tokens = 2048, .context = 1024};
    for (int i = 0; i < 64; i++) plan->calibration.tokens_sha256[i] = "fedcba9876543210"[i % 16];
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        some_bits(bits, model_n_blocks(model), &state);
        if (h % 5 == 4)
            assert_ok(plan_head_set_uniform(&plan->heads[h], 4, model_n_blocks(model), 42, books, &err));
        else
            assert_ok(plan_head_set_block_widths(&plan->heads[h], bits, model_n_blocks(model), books, &err));
    }
    return plan;
}

/* What version 2 adds, each in some heads: blocks of no group, log8 norms, the search encoder, scales, centers. Head 0 has all of it. */
static bit_plan *some_plan_beyond(const model_facts *model)
{
    rb_error err = {0};
    bit_plan *plan = some_plan(model, CODEBOOK_SPHERE);
    const int n_blocks = model_n_blocks(model);
    double scales[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    int blocks[RB_MAX_BLOCKS];
    strcpy(plan->method, "optimal-center");
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        plan_head *head = &plan->heads[h];
        plan_head_clear(head);
        head->norm = h % 3 == 0 ? NORM_LOG8 : NORM_FP16;
        head->encoder = h % 5 == 0 ? ENCODER_SEARCH : ENCODER_NEAREST;
        /* Block b is in no group, in the first or in the second, in turn; with n_blocks 1 in the first. */
        for (int g = 0; g < (n_blocks > 2 ? 2 : 1); g++) {
            int n = 0;
            for (int b = 0; b < n_blocks; b++)
                if (b % 3 == g) blocks[n++] = b;
            assert_ok(plan_head_add_group(head, 2 + g, blocks, n, CODEBOOK_SPHERE, head->norm == NORM_LOG8 ? h % 2 ? NORM_MIN_EXPONENT : 5 + g : 0, &err));
            if (head->encoder == ENCODER_SEARCH) head->groups[g].coherence = 0.5f + (float)g;
        }
        for (int b = 0; b < n_blocks; b++) scales[b] = 0.37 + 0.1 * b + h;
        for (int i = 0; i < model->head_dim; i++) center[i] = (i % 7 - 3) * 0.81 + h;
        assert_ok(plan_head_set_transform(head, h % 2 == 0 ? scales : NULL, n_blocks, h % 4 != 1 ? center : NULL, model->head_dim, &err));
    }
    return plan;
}

static void assert_same_heads(const bit_plan *a, const bit_plan *b)
{
    for (int h = 0; h < a->model.n_layers * a->model.n_kv_heads; h++) assert_true(plan_head_equal(&a->heads[h], &b->heads[h], &a->model));
}

/* Frees the plan. */
static void assert_round_trip(bit_plan *plan, int value_width)
{
    rb_error err = {0};
    bit_plan *back = NULL;
    const char *path = scratch_path("plan.rbp");
    plan->value_width = value_width;
    assert_ok(plan_rbp_write(plan, path, &err));
    assert_ok(plan_rbp_read(&back, path, &err));
    assert_ok(model_facts_same(&plan->model, "written", &back->model, "read", &err));
    assert_string_equal(plan->method, back->method);
    assert_true(plan->avg_bits == back->avg_bits);
    assert_int_equal(plan->value_width, back->value_width);
    assert_int_equal(plan->value_codebook, back->value_codebook);
    assert_memory_equal(&plan->calibration, &back->calibration, sizeof plan->calibration);
    assert_same_heads(plan, back);
    bit_plan_free(plan);
    bit_plan_free(back);
}

static void a_plan_survives_the_file_for_every_pairing_and_partial_rope(void **state)
{
    (void)state;
    const model_facts split = some_model(3, 2, 64, 64, ROPE_SPLIT_HALF), partial = some_model(2, 2, 80, 32, ROPE_SPLIT_HALF);
    const model_facts interleaved = some_model(2, 1, 64, 64, ROPE_INTERLEAVED), partly_interleaved = some_model(1, 1, 128, 64, ROPE_INTERLEAVED);
    assert_round_trip(some_plan(&split, CODEBOOK_BLOCK_GTQ), 3);
    assert_round_trip(some_plan(&partial, CODEBOOK_BLOCK_GTQ), PLAN_FP16_WIDTH);
    assert_round_trip(some_plan(&interleaved, CODEBOOK_SPHERE), 8);
    assert_round_trip(some_plan(&partly_interleaved, CODEBOOK_SPHERE), PLAN_FP16_WIDTH);
    assert_round_trip(some_plan_beyond(&split), 3);
    assert_round_trip(some_plan_beyond(&partial), PLAN_FP16_WIDTH);
    assert_round_trip(some_plan_beyond(&interleaved), 8);
    assert_round_trip(some_plan_beyond(&partly_interleaved), 1);
}

/* The plan as the library reads it from its bytes. */
static ropebits_plan *in_library(const bit_plan *plan)
{
    rb_error err = {0};
    char error[256];
    ropebits_plan *library = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(ropebits_plan_parse(&library, bytes, size, error, sizeof error), 0);
    free(bytes);
    return library;
}

/* Frees the plan. */
static void assert_library_costs_and_dims(bit_plan *plan)
{
    const model_facts *model = &plan->model;
    int dims[RB_MAX_HEAD_DIM];
    uint8_t bits[RB_MAX_BLOCKS];
    ropebits_plan *library = in_library(plan);
    const plan_cost cost = bit_plan_cost(plan);
    const ropebits_plan_info *info = ropebits_plan_get_info(library);
    assert_true(fabs((info->bytes_per_token) - (cost.bytes_per_token)) <= 1e-9);
    assert_true(fabs((info->key_true_bits) - (cost.key_true_bits)) <= 1e-12);
    for (int layer = 0; layer < model->n_layers; layer++)
        for (int kv_head = 0; kv_head < model->n_kv_heads; kv_head++) {
            const plan_head *head = bit_plan_head(plan, layer, kv_head);
            const ropebits_head *read = ropebits_plan_head(library, (uint32_t)layer, (uint32_t)kv_head);
            assert_true(fabs(((double)read->key_bits / model->head_dim) - (plan_head_true_bits(head, model->head_dim))) <= 1e-12);
            plan_head_bits(head, bits, model_n_blocks(model));
            assert_memory_equal(read->bits, bits, (size_t)model_n_blocks(model));
            for (int g = 0; g < head->n_groups; g++) {
                plan_group_dims(&head->groups[g], model, dims);
                for (int i = 0; i < head->groups[g].rotation.dims; i++) assert_int_equal(read->groups[g].dims[i], dims[i]);
            }
        }
    assert_null(ropebits_plan_head(library, (uint32_t)model->n_layers, 0));
    assert_null(ropebits_plan_head(library, 0, (uint32_t)model->n_kv_heads));
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

static void the_library_gives_the_costs_and_dims_of_the_plan(void **state)
{
    (void)state;
    const model_facts model = some_model(3, 2, 128, 64, ROPE_SPLIT_HALF);
    assert_library_costs_and_dims(some_plan(&model, CODEBOOK_BLOCK_GTQ));
    assert_library_costs_and_dims(some_plan_beyond(&model));
    ropebits_plan_close(NULL);
}

static void the_library_says_how_keys_are_coded(void **state)
{
    (void)state;
    const model_facts model = some_model(3, 2, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan_beyond(&model), *published = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    ropebits_plan *library = in_library(plan);
    const ropebits_head *all = ropebits_plan_head(library, 0, 0), *none = ropebits_plan_head(library, 0, 1);
    assert_int_equal(all->norm, ROPEBITS_NORM_LOG8);
    assert_int_equal(all->norm_bits, 8);
    assert_int_equal(all->encoder, ROPEBITS_ENCODER_SEARCH);
    assert_int_equal(all->groups[1].norm_exponent, 6);
    assert_true(all->groups[1].coherence == 1.5f);
    /* 8 blocks: 0, 3, 6 with 2 bits, 1, 4, 7 with 3, and two without: 30 bits of codes, padded, and two norms. */
    assert_int_equal(all->bits[2], 0);
    assert_int_equal(all->bits[4], 3);
    assert_int_equal(all->key_bits, 32 + 2 * 8);
    assert_memory_equal(all->scales, plan->heads[0].scales, 8 * sizeof *all->scales);
    assert_memory_equal(all->center, plan->heads[0].center, 16 * sizeof *all->center);
    assert_memory_equal(ropebits_plan_head(library, 2, 0)->scales, plan->heads[4].scales, 8 * sizeof *all->scales);
    assert_memory_equal(ropebits_plan_head(library, 2, 0)->center, plan->heads[4].center, 16 * sizeof *all->center);
    assert_int_equal(ropebits_plan_head(library, 1, 1)->groups[0].norm_exponent, NORM_MIN_EXPONENT);
    assert_int_equal(none->norm, ROPEBITS_NORM_FP16);
    assert_int_equal(none->norm_bits, 16);
    assert_null(none->scales);
    assert_null(none->center);
    ropebits_plan_close(library);
    library = in_library(published);
    assert_int_equal(ropebits_plan_head(library, 0, 0)->norm_bits, 16);
    assert_int_equal(ropebits_plan_head(library, 0, 0)->encoder, ROPEBITS_ENCODER_NEAREST);
    assert_true(ropebits_plan_head(library, 0, 0)->groups[0].coherence == 1.0f);
    assert_null(ropebits_plan_head(library, 0, 0)->scales);
    ropebits_plan_close(library);
    bit_plan_free(plan);
    bit_plan_free(published);
}

/* block-gtq centroids are rebuilt from one table a width: they must be the quantizer's own, bit for bit, for every group size. */
static void centroids_are_those_of_the_quantizer_for_every_group_size(void **state)
{
    (void)state;
    rb_error err = {0};
    for (int head_dim = 2; head_dim <= 256; head_dim += 2) {
        for (int kind = 0; kind < CODEBOOK_N_KINDS; kind++) {
            if (kind == CODEBOOK_SPHERE && head_dim % 62 != 2) continue;    /* stored as they are: a few sizes will do */
            const model_facts model = some_model(CODEBOOK_MAX_WIDTH, 1, head_dim, head_dim, ROPE_SPLIT_HALF);
            bit_plan *plan = NULL;
            assert_ok(bit_plan_create(&plan, &model, &err));
            strcpy(plan->method, "uniform");
            plan->avg_bits = 3.0;
            plan->value_width = PLAN_FP16_WIDTH;
            for (int w = 1; w <= CODEBOOK_MAX_WIDTH; w++)
                assert_ok(plan_head_set_uniform(bit_plan_head(plan, w - 1, 0), w, head_dim / 2, 42, (codebook_kind)kind, &err));
            ropebits_plan *library = in_library(plan);
            for (int w = 1; w <= CODEBOOK_MAX_WIDTH; w++) {
                codebook book;
                assert_ok(codebook_build(&book, (codebook_kind)kind, w, head_dim, &err));
                assert_memory_equal(ropebits_plan_head(library, (uint32_t)w - 1, 0)->groups[0].centroids, book.centroid_f32, (size_t)book.size * sizeof(float));
            }
            ropebits_plan_close(library);
            bit_plan_free(plan);
        }
    }
}

static void a_plan_of_32_layers_and_8_heads_stays_under_16_kib(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(32, 8, 128, 128, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    uint8_t *bytes = NULL;
    size_t size = 0;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_true(size < 16 * 1024);
    bit_plan_free(plan);
    free(bytes);
}

/* ---- damage ------------------------------------------------------------------------------------------------------------------- */

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

static int encode_beyond(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF);
    return encode_plan(some_plan_beyond(&model));
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
    assert_lie_refused(8, ROPEBITS_PLAN_FORMAT_VERSION, "");     /* the columns of version 2 are not there */
    assert_lie_refused(8, 3, "version is 3, expected 1 or 2");
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
    const size_t size = ZSTD_decompress(payload, room, encoded + PLAN_RBP_HEADER_SIZE, encoded_size - PLAN_RBP_HEADER_SIZE - PLAN_RBP_CRC_SIZE);
    assert_false(ZSTD_isError(size));
    return size;
}

/* The rotation column by docs/plan-rbp.md, from the payload's end: H * N block groups, 8 bytes of seed a group, a codebook a group, then it. */
static void rotation_kinds_are_read_from_their_column_and_unknown_ones_refused(void **state)
{
    (void)state;
    enum { HEADS = 4, BLOCKS = 8 };
    char error[256];
    uint8_t payload[8192];
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
static void assert_payload_lie_refused(uint8_t *at, uint8_t value, uint8_t *payload, size_t payload_size, const char *message)
{
    const uint8_t true_value = *at;
    size_t size;
    *at = value;
    uint8_t *file = wrap_payload(&size, payload, payload_size);
    assert_refused(file, size, message);
    *at = true_value;
    free(file);
}

/* The columns of version 2 by docs/plan-rbp.md, from the payload's end. 4 heads of 2 groups; heads 0 and 2 have scales, 0, 2 and 3 a center; 0 and 3 have log8 norms. */
static void lies_in_the_columns_of_version_2_are_refused_by_name(void **state)
{
    (void)state;
    enum { HEADS = 4, GROUPS = 8, BLOCKS = 8, DIMS = 16, N_SCALES = 2 * BLOCKS, N_CENTERS = 3 * DIMS };
    uint8_t payload[8192];
    const size_t size = unwrap_payload(payload, sizeof payload);
    uint8_t *centers = payload + size - 2 * N_CENTERS, *has_center = centers - HEADS, *scales = has_center - 2 * N_SCALES, *has_scales = scales - HEADS;
    uint8_t *block_group = has_scales - HEADS * BLOCKS, *coherences = block_group - 2 * GROUPS, *exponents = coherences - GROUPS;
    uint8_t *encoders = exponents - 12 * GROUPS - HEADS, *norms = encoders - HEADS;
    assert_int_equal(encoded[8], ROPEBITS_PLAN_FORMAT_VERSION);
    assert_int_equal(block_group[2], PLAN_RBP_NO_GROUP);
    assert_payload_lie_refused(centers + N_CENTERS, 0x7c, payload, size, "center 0 is nan, expected a finite number");
    assert_payload_lie_refused(has_center + 3, 2, payload, size, "head 3: flag of its center is 2, expected 0 or 1");
    assert_payload_lie_refused(has_center, 0, payload, size, "too many at the end");
    assert_payload_lie_refused(has_center + 1, 1, payload, size, "payload ends early");
    assert_payload_lie_refused(scales + N_SCALES + 1, 0x7c, payload, size, "scale 1 is nan, expected a finite number above 0");
    assert_payload_lie_refused(scales + 2 * N_SCALES - 1, 0xbc, payload, size, "scale 15 is -");
    assert_payload_lie_refused(has_scales + 1, 0xff, payload, size, "head 1: flag of its scales is 255");
    assert_payload_lie_refused(block_group + 2, 2, payload, size, "head 0: block 2 is in group 2 of 2");
    assert_payload_lie_refused(coherences + GROUPS, 0xb8, payload, size, "coherence 0 is -0.5, expected a finite number above 0");
    assert_payload_lie_refused(exponents, 127, payload, size, "head 0 group 0: norm exponent is 127, expected -126 to 126");
    assert_payload_lie_refused(exponents + 2, 1, payload, size, "head 1 group 0: norm exponent is 1, expected 0 to 0");
    assert_payload_lie_refused(encoders, 2, payload, size, "encoder is 2, expected 0 to 1");
    assert_payload_lie_refused(norms, 2, payload, size, "norm kind is 2, expected 0 to 1");
}

static void a_block_of_no_group_is_refused_in_version_1(void **state)
{
    (void)state;
    uint8_t payload[8192];
    const size_t size = unwrap_payload(payload, sizeof payload);
    assert_payload_lie_refused(payload + size - 1, PLAN_RBP_NO_GROUP, payload, size, "head 3: block 7 is in group 255 of");
}

static void a_hadamard_plan_survives_the_file(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(2, 2, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ), *back = NULL;
    const char *path = scratch_path("hadamard.rbp");
    for (int h = 0; h < 4; h++)
        for (int g = 0; g < plan->heads[h].n_groups; g++) plan->heads[h].groups[g].rotation.kind = h == 2 ? ROTATION_HAAR : ROTATION_HADAMARD;
    assert_ok(plan_rbp_write(plan, path, &err));
    assert_ok(plan_rbp_read(&back, path, &err));
    assert_int_equal(back->heads[0].groups[0].rotation.kind, ROTATION_HADAMARD);
    assert_same_heads(plan, back);
    bit_plan_free(plan);
    bit_plan_free(back);
}

/* Every byte of the frame changed, checksum made right: an answer or a refusal, never a crash (the sanitizer build watches). */
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

static void a_missing_file_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    bit_plan *plan = NULL;
    assert_fails(plan_rbp_read(&plan, scratch_path("absent.rbp"), &err), RB_EFORMAT, "absent.rbp: No such file");
    assert_null(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_survives_the_file_for_every_pairing_and_partial_rope),
        cmocka_unit_test(the_library_gives_the_costs_and_dims_of_the_plan),
        cmocka_unit_test(the_library_says_how_keys_are_coded),
        cmocka_unit_test(centroids_are_those_of_the_quantizer_for_every_group_size),
        cmocka_unit_test(a_plan_of_32_layers_and_8_heads_stays_under_16_kib),
        cmocka_unit_test_setup_teardown(truncation_at_every_byte_is_refused, encode_published, free_one),
        {"truncation_at_every_byte_is_refused of version 2", truncation_at_every_byte_is_refused, encode_beyond, free_one, NULL},
        cmocka_unit_test_setup_teardown(every_flipped_bit_is_refused, encode_published, free_one),
        {"every_flipped_bit_is_refused of version 2", every_flipped_bit_is_refused, encode_beyond, free_one, NULL},
        cmocka_unit_test_setup_teardown(lying_headers_are_refused_by_name, encode_published, free_one),
        cmocka_unit_test_setup_teardown(rotation_kinds_are_read_from_their_column_and_unknown_ones_refused, encode_published, free_one),
        cmocka_unit_test_setup_teardown(lies_in_the_columns_of_version_2_are_refused_by_name, encode_beyond, free_one),
        cmocka_unit_test_setup_teardown(a_block_of_no_group_is_refused_in_version_1, encode_published, free_one),
        cmocka_unit_test(a_hadamard_plan_survives_the_file),
        cmocka_unit_test_setup_teardown(lying_frames_never_crash_the_reader, encode_published, free_one),
        {"lying_frames_never_crash_the_reader of version 2", lying_frames_never_crash_the_reader, encode_beyond, free_one, NULL},
        cmocka_unit_test(a_missing_file_is_named),
    };
    return cmocka_run_group_tests_name("plan_rbp", tests, NULL, NULL);
}
