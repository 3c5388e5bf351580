/* Writer of plan.rbp: see plan/plan_rbp.h, and docs/plan-rbp.md for the bytes. */
#include <assert.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/program.h"
#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_codebooks.h"
#include "plan/plan_rbp.h"

/* Plans are written once and read often, and are small: the best compression costs milliseconds. */
enum { ZSTD_LEVEL = 19, MAX_GROUPS = PLAN_RBP_NO_GROUP };

/* The file stores these enums as they are. */
static_assert((int)ROPE_SPLIT_HALF == ROPEBITS_PAIRING_SPLIT_HALF
                  && (int)ROPE_INTERLEAVED == ROPEBITS_PAIRING_INTERLEAVED,
              "pairing");
static_assert((int)ROPE_DEFAULT == ROPEBITS_ROPE_DEFAULT && (int)ROPE_LINEAR == ROPEBITS_ROPE_LINEAR
                  && (int)ROPE_LLAMA3 == ROPEBITS_ROPE_LLAMA3,
              "rope kind");
static_assert((int)ROTATION_HAAR == ROPEBITS_ROTATION_HAAR && (int)ROTATION_HADAMARD == ROPEBITS_ROTATION_HADAMARD,
              "rotation kind");
static_assert((int)CODEBOOK_BLOCK_GTQ == ROPEBITS_CODEBOOK_BLOCK_GTQ
                  && (int)CODEBOOK_SPHERE == ROPEBITS_CODEBOOK_SPHERE,
              "codebook kind");
static_assert((int)GROUP_ORDER_BLOCK == ROPEBITS_ORDER_BLOCK && (int)GROUP_ORDER_NATURAL == ROPEBITS_ORDER_NATURAL,
              "group order");
static_assert((int)NORM_FP16 == ROPEBITS_NORM_FP16 && (int)NORM_LOG8 == ROPEBITS_NORM_LOG8, "norm kind");
static_assert((int)ENCODER_NEAREST == ROPEBITS_ENCODER_NEAREST && (int)ENCODER_SEARCH == ROPEBITS_ENCODER_SEARCH,
              "encoder");
static_assert((int)NORM_MIN_EXPONENT == -(int)PLAN_RBP_MAX_NORM_EXPONENT
                  && (int)NORM_MAX_EXPONENT == (int)PLAN_RBP_MAX_NORM_EXPONENT,
              "norm exponent");
static_assert((int)PLAN_FP16_WIDTH == ROPEBITS_VALUES_FP16, "fp16 values");
static_assert((int)FAMILY_GROUPS == ROPEBITS_FAMILY_GROUPS
                  && (int)FAMILY_BLOCK_CODEBOOK == ROPEBITS_FAMILY_BLOCK_CODEBOOK,
              "family");
static_assert((int)BLOCK_CODEBOOK_MAX_BITS == ROPEBITS_MAX_BLOCK_BITS
                  && (int)BLOCK_CODEBOOK_MAX_GAIN_BITS == ROPEBITS_MAX_GAIN_BITS,
              "bits of block-codebook");
static_assert(BLOCK_CODEBOOK_LEAST_WEIGHT == PLAN_RBP_LEAST_WEIGHT, "weights of block-codebook");

/* ---- growing bytes --------------------------------------------------------------------------- */

typedef struct byte_buffer {
    uint8_t *bytes;
    size_t size, capacity;
    rb_status st; /* sticky: puts after a failure do nothing */
    rb_error *err;
} byte_buffer;

static void put_bytes(byte_buffer *buffer, const void *bytes, size_t n)
{
    if (buffer->st != RB_OK) return;
    if (buffer->size + n > buffer->capacity) {
        const size_t capacity = 2 * (buffer->size + n) + 1024;
        uint8_t *grown = realloc(buffer->bytes, capacity);
        if (!grown) {
            buffer->st = rb_fail(buffer->err, RB_ENOMEM, "out of memory for a plan of %zu bytes", capacity);
            return;
        }
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    memcpy(buffer->bytes + buffer->size, bytes, n);
    buffer->size += n;
}

static void put_uint(byte_buffer *buffer, uint64_t value, int n_bytes)
{
    uint8_t bytes[8];
    for (int i = 0; i < n_bytes; i++) bytes[i] = (uint8_t)(value >> (8 * i));
    put_bytes(buffer, bytes, (size_t)n_bytes);
}

static void put_f64(byte_buffer *buffer, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_uint(buffer, bits, 8);
}

static void put_f32(byte_buffer *buffer, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_uint(buffer, bits, 4);
}

static void put_name(byte_buffer *buffer, const char *name)
{
    const size_t length = strlen(name);
    assert(length <= UINT8_MAX);
    put_uint(buffer, length, 1);
    put_bytes(buffer, name, length);
}

static int hex_digit(char c) { return c >= 'a' ? c - 'a' + 10 : c - '0'; }

static void put_sha256(byte_buffer *buffer, const char *hex)
{
    const bool is_known = hex[0] != '\0';
    put_uint(buffer, is_known, 1);
    for (int i = 0; is_known && i < PLAN_RBP_SHA256_SIZE; i++)
        put_uint(buffer, (uint64_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1])), 1);
}

/* ---- sections -------------------------------------------------------------------------------- */

static void put_identity(byte_buffer *buffer, const bit_plan *plan)
{
    put_name(buffer, rb_tool_version());
    put_name(buffer, plan->method);
    put_f64(buffer, plan->avg_bits);
    put_name(buffer, plan->model.model_type);
    put_sha256(buffer, plan->model.config_sha256);
    put_sha256(buffer, plan->model.weights_sha256);
    put_sha256(buffer, plan->calibration.tokens_sha256);
    put_uint(buffer, (uint64_t)plan->calibration.n_tokens, 8);
    put_uint(buffer, (uint64_t)plan->calibration.context, 8);
}

static void put_geometry(byte_buffer *buffer, const model_facts *model)
{
    const rope_facts *rope = &model->rope;
    put_uint(buffer, (uint64_t)model->n_layers, 4);
    put_uint(buffer, (uint64_t)model->n_q_heads, 4);
    put_uint(buffer, (uint64_t)model->n_kv_heads, 4);
    put_uint(buffer, (uint64_t)model->head_dim, 4);
    put_uint(buffer, (uint64_t)model->rotary_dim, 4);
    put_f64(buffer, model->attention_scale);
    put_uint(buffer, (uint64_t)rope->kind, 1);
    put_uint(buffer, (uint64_t)rope->pairing, 1);
    put_f64(buffer, rope->theta);
    put_f64(buffer, rope->factor);
    put_f64(buffer, rope->low_freq_factor);
    put_f64(buffer, rope->high_freq_factor);
    put_uint(buffer, (uint64_t)rope->original_max_position, 8);
    for (int i = 0; i < model->rotary_dim / 2; i++) put_f64(buffer, rope->inv_freq[i]);
}

/* dims 0: the N(0, 1) table. Built for 4 dims and doubled, which is exact. */
static void put_codebook(byte_buffer *buffer, codebook_kind kind, int width, int dims)
{
    enum { UNIT_SOURCE_DIMS = 4 };
    codebook book;
    const bool is_unit = dims == PLAN_RBP_UNIT_DIMS;
    if (buffer->st == RB_OK)
        buffer->st = codebook_build(&book, kind, width, is_unit ? UNIT_SOURCE_DIMS : dims, buffer->err);
    if (buffer->st != RB_OK) return;
    put_uint(buffer, (uint64_t)kind, 1);
    put_uint(buffer, (uint64_t)width, 1);
    put_uint(buffer, (uint64_t)dims, 2);
    for (int i = book.size / 2; i < book.size; i++) {
        if (is_unit) put_f64(buffer, 2.0 * book.centroid[i]);
        else put_f32(buffer, book.centroid_f32[i]);
    }
}

/* block-gtq centroids are those of N(0, 1) over sqrt(dims): one table a width serves every group size. */
static bool needs_table(const plan_codebooks *books, int i)
{
    return books->at[i].kind != CODEBOOK_BLOCK_GTQ || i == 0 || books->at[i - 1].kind != CODEBOOK_BLOCK_GTQ
           || books->at[i - 1].width != books->at[i].width;
}

static void put_codebooks(byte_buffer *buffer, const bit_plan *plan)
{
    plan_codebooks books = {0};
    uint64_t n_tables = 0;
    if (buffer->st == RB_OK) buffer->st = plan_codebooks_collect(&books, plan, buffer->err);
    for (int i = 0; i < books.n; i++) n_tables += needs_table(&books, i);
    put_uint(buffer, n_tables, 2);
    for (int i = 0; i < books.n; i++)
        if (needs_table(&books, i))
            put_codebook(buffer, books.at[i].kind, books.at[i].width,
                         books.at[i].kind == CODEBOOK_BLOCK_GTQ ? PLAN_RBP_UNIT_DIMS : books.at[i].dims);
    plan_codebooks_free(&books);
}

/* Bytes `index` of fp16 numbers: a column is all low bytes, then all high bytes, which are more alike. */
static void put_f16_bytes(byte_buffer *buffer, const float *values, int n, int index)
{
    for (int i = 0; i < n; i++) put_uint(buffer, (uint64_t)(rb_f32_to_f16(values[i]) >> 8 * index & 0xff), 1);
}

static void put_points(byte_buffer *buffer, const bit_plan *plan)
{
    plan_codebooks books = {0};
    block_codebook *points = NULL;
    if (buffer->st == RB_OK) buffer->st = plan_codebooks_collect(&books, plan, buffer->err);
    if (buffer->st == RB_OK) buffer->st = rb_alloc(&points, 1, sizeof *points, "points of a plan", buffer->err);
    put_uint(buffer, (uint64_t)books.n_points, 1);
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS && buffer->st == RB_OK; bits++) {
        if (!books.has_points[bits]) continue;
        buffer->st = block_codebook_build(points, bits, buffer->err);
        put_uint(buffer, (uint64_t)bits, 1);
        for (int index = 0; index < 2; index++) {
            put_f16_bytes(buffer, points->x, points->size, index);
            put_f16_bytes(buffer, points->y, points->size, index);
        }
    }
    free(points);
    plan_codebooks_free(&books);
}

#define FOR_EACH_HEAD(statement)                                              \
    for (int h = 0; h < plan->model.n_layers * plan->model.n_kv_heads; h++) { \
        const plan_head *head = &plan->heads[h];                              \
        statement;                                                            \
    }
#define FOR_EACH_GROUP(statement)                                       \
    FOR_EACH_HEAD(for (int g = 0; g < plan_head_groups(head)->n; g++) { \
        const plan_group *group = &plan_head_groups(head)->at[g];       \
        statement;                                                      \
    })

static void put_values(byte_buffer *buffer, const bit_plan *plan)
{
    const value_range range = bit_plan_value_range(plan);
    const bool is_one = range.least == range.most;
    put_uint(buffer, is_one ? (uint64_t)range.least : PLAN_RBP_WIDTH_PER_HEAD, 1);
    put_uint(buffer, (uint64_t)plan->value_codebook, 1);
    if (!is_one) put_bytes(buffer, plan->value_widths, (size_t)plan->model.n_layers * (size_t)plan->model.n_kv_heads);
}

static void put_block_groups(byte_buffer *buffer, const bit_plan *plan)
{
    uint8_t block_group[RB_MAX_BLOCKS];
    FOR_EACH_HEAD(if (head->family != FAMILY_GROUPS) continue;
                  memset(block_group, PLAN_RBP_NO_GROUP, sizeof block_group);
                  for (int g = 0; g < plan_head_groups(head)->n;
                       g++) for (int b = 0; b < plan_head_groups(head)->at[g].n_blocks; b++)
                      block_group[plan_head_groups(head)->at[g].blocks[b]] = (uint8_t)g;
                  put_bytes(buffer, block_group, (size_t)model_n_blocks(&plan->model)))
}

static void put_transforms(byte_buffer *buffer, const bit_plan *plan)
{
    const int n_blocks = model_n_blocks(&plan->model), head_dim = plan->model.head_dim;
    FOR_EACH_HEAD(put_uint(buffer, plan_head_groups(head)->scales != NULL, 1))
    for (int index = 0; index < 2; index++)
        FOR_EACH_HEAD(if (plan_head_groups(head)->scales)
                          put_f16_bytes(buffer, plan_head_groups(head)->scales, n_blocks, index))
    FOR_EACH_HEAD(put_uint(buffer, head->center != NULL, 1))
    for (int index = 0; index < 2; index++)
        FOR_EACH_HEAD(if (head->center) put_f16_bytes(buffer, head->center, head_dim, index))
}

static void put_block_codebook(byte_buffer *buffer, const bit_plan *plan)
{
    const int n_blocks = model_n_blocks(&plan->model);
    FOR_EACH_HEAD(if (head->family == FAMILY_BLOCK_CODEBOOK)
                      put_uint(buffer, (uint64_t)head->block_codebook.gain_bits, 1))
    FOR_EACH_HEAD(if (head->family == FAMILY_BLOCK_CODEBOOK)
                      put_bytes(buffer, head->block_codebook.bits, (size_t)n_blocks))
    for (int index = 0; index < 2; index++)
        FOR_EACH_HEAD(if (head->family == FAMILY_BLOCK_CODEBOOK)
                          put_f16_bytes(buffer, head->block_codebook.maps, BLOCK_CODEBOOK_MAP_SIZE * n_blocks, index))
    for (int index = 0; index < 2; index++)
        FOR_EACH_HEAD(if (head->family == FAMILY_BLOCK_CODEBOOK)
                          put_f16_bytes(buffer, head->block_codebook.weights, n_blocks, index))
}

static void put_heads(byte_buffer *buffer, const bit_plan *plan, int version)
{
    const bool has_coding = version != PLAN_RBP_PUBLISHED_VERSION, has_families = version > PLAN_RBP_GROUPS_VERSION;
    if (has_families) FOR_EACH_HEAD(put_uint(buffer, (uint64_t)head->family, 1))
    FOR_EACH_HEAD(put_uint(buffer, (uint64_t)plan_head_groups(head)->n, 1))
    if (has_coding) FOR_EACH_HEAD(put_uint(buffer, (uint64_t)plan_head_groups(head)->norm, 1))
    if (has_coding) FOR_EACH_HEAD(put_uint(buffer, (uint64_t)plan_head_groups(head)->encoder, 1))
    FOR_EACH_GROUP(put_uint(buffer, (uint64_t)group->width, 1))
    FOR_EACH_GROUP(put_uint(buffer, (uint64_t)group->order, 1))
    FOR_EACH_GROUP(put_uint(buffer, (uint64_t)group->rotation.kind, 1))
    FOR_EACH_GROUP(put_uint(buffer, (uint64_t)group->codebook, 1))
    FOR_EACH_GROUP(put_uint(buffer, group->rotation.seed, 8))
    if (has_coding) FOR_EACH_GROUP(put_uint(buffer, (uint8_t)group->norm_exponent, 1))
    for (int index = 0; has_coding && index < 2; index++)
        FOR_EACH_GROUP(put_f16_bytes(buffer, &group->coherence, 1, index))
    put_block_groups(buffer, plan);
    if (has_coding) put_transforms(buffer, plan);
    if (has_families) put_block_codebook(buffer, plan);
}

#undef FOR_EACH_GROUP
#undef FOR_EACH_HEAD

/* ---- file ------------------------------------------------------------------------------------ */

static rb_status check_encodable(const bit_plan *plan, rb_error *err)
{
    for (int layer = 0; layer < plan->model.n_layers; layer++)
        for (int kv_head = 0; kv_head < plan->model.n_kv_heads; kv_head++)
            if (plan_head_groups(bit_plan_head(plan, layer, kv_head))->n > MAX_GROUPS)
                return rb_fail(err, RB_EUNSUPPORTED,
                               "layer %d kv_head %d: %d groups, expected at most %d in a plan.rbp", layer, kv_head,
                               plan_head_groups(bit_plan_head(plan, layer, kv_head))->n, MAX_GROUPS);
    return RB_OK;
}

static rb_status wrap(uint8_t **out, size_t *size_bytes, const byte_buffer *payload, int version, rb_error *err)
{
    byte_buffer file = {.st = RB_OK, .err = err};
    uint8_t *frame = NULL;
    rb_status st;
    if (payload->size > PLAN_RBP_MAX_PAYLOAD)
        return rb_fail(err, RB_EUNSUPPORTED, "plan takes %zu bytes, expected at most %u in a plan.rbp", payload->size,
                       PLAN_RBP_MAX_PAYLOAD);
    RB_TRY(st, rb_alloc(&frame, ZSTD_compressBound(payload->size), 1, "compressed plan", err), done);
    const size_t frame_size =
        ZSTD_compress(frame, ZSTD_compressBound(payload->size), payload->bytes, payload->size, ZSTD_LEVEL);
    if (ZSTD_isError(frame_size)) {
        st = rb_fail(err, RB_EINVAL, "zstd: %s", ZSTD_getErrorName(frame_size));
        goto done;
    }
    put_bytes(&file, PLAN_RBP_MAGIC, PLAN_RBP_MAGIC_SIZE);
    put_uint(&file, (uint64_t)version, 4);
    put_uint(&file, 0, 4);
    put_uint(&file, payload->size, 4);
    put_uint(&file, frame_size, 4);
    put_bytes(&file, frame, frame_size);
    if (file.st == RB_OK) put_uint(&file, plan_rbp_crc32(file.bytes, file.size), 4);
    st = file.st;
    if (st == RB_OK) {
        *out = file.bytes;
        *size_bytes = file.size;
        file.bytes = NULL;
    }
done:
    free(file.bytes);
    free(frame);
    return st;
}

static int version_of(const bit_plan *plan)
{
    if (bit_plan_has_family(plan, FAMILY_BLOCK_CODEBOOK)) return ROPEBITS_PLAN_FORMAT_VERSION;
    return bit_plan_is_published_form(plan) ? PLAN_RBP_PUBLISHED_VERSION : PLAN_RBP_GROUPS_VERSION;
}

rb_status plan_rbp_encode(uint8_t **out, size_t *size_bytes, const bit_plan *plan, rb_error *err)
{
    byte_buffer payload = {.st = RB_OK, .err = err};
    const int version = version_of(plan);
    rb_status st;
    *out = NULL;
    RB_TRY(st, bit_plan_check(plan, "plan", err), done);
    RB_TRY(st, check_encodable(plan, err), done);
    put_identity(&payload, plan);
    put_geometry(&payload, &plan->model);
    put_codebooks(&payload, plan);
    if (version > PLAN_RBP_GROUPS_VERSION) put_points(&payload, plan);
    put_values(&payload, plan);
    put_heads(&payload, plan, version);
    RB_TRY(st, payload.st, done);
    RB_TRY(st, wrap(out, size_bytes, &payload, version, err), done);
done:
    free(payload.bytes);
    return st;
}

rb_status plan_rbp_write(const bit_plan *plan, const char *path, rb_error *err)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    rb_status st = plan_rbp_encode(&bytes, &size, plan, err);
    if (st == RB_OK) st = rb_atomic_write(path, bytes, size, err);
    free(bytes);
    return st;
}
