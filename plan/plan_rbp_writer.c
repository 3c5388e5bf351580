/* Writer of plan.rbp: see plan/plan_rbp.h, and docs/plan-rbp.md for the bytes. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/program.h"
#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_family.h"
#include "plan/plan_rbp.h"

/* Plans are written once and read often. Most are small, and the best compression costs milliseconds. Bases make large
 * ones, of numbers that hardly compress: there it would take minutes. */
enum { ZSTD_LEVEL = 19, ZSTD_FAST_LEVEL = 3, ZSTD_LARGE_SIZE = 4 << 20 };

/* The file stores these enums as they are. */
static_assert((int)ROPE_SPLIT_HALF == ROPEBITS_PAIRING_SPLIT_HALF
                  && (int)ROPE_INTERLEAVED == ROPEBITS_PAIRING_INTERLEAVED,
              "pairing");
static_assert((int)ROPE_DEFAULT == ROPEBITS_ROPE_DEFAULT && (int)ROPE_LINEAR == ROPEBITS_ROPE_LINEAR
                  && (int)ROPE_LLAMA3 == ROPEBITS_ROPE_LLAMA3 && (int)ROPE_DYNAMIC == ROPEBITS_ROPE_DYNAMIC
                  && (int)ROPE_YARN == ROPEBITS_ROPE_YARN && (int)ROPE_LONGROPE == ROPEBITS_ROPE_LONGROPE
                  && (int)ROPE_PROPORTIONAL == ROPEBITS_ROPE_PROPORTIONAL
                  && (int)ROPE_N_KINDS == (int)ROPEBITS_ROPE_PROPORTIONAL + 1,
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
#define RB_FAMILY_CHECK(NAME, prefix, name) static_assert((int)FAMILY_##NAME == ROPEBITS_FAMILY_##NAME, name);
RB_CODEC_FAMILIES(RB_FAMILY_CHECK)
#undef RB_FAMILY_CHECK
static_assert((int)BLOCK_CODEBOOK_MAX_BITS == ROPEBITS_MAX_BLOCK_BITS
                  && (int)BLOCK_CODEBOOK_MAX_POINT_BITS == ROPEBITS_MAX_POINT_BITS
                  && (int)BLOCK_CODEBOOK_MAX_LEVEL_BITS == ROPEBITS_MAX_LEVEL_BITS
                  && (int)BLOCK_CODEBOOK_MAX_GAIN_BITS == ROPEBITS_MAX_GAIN_BITS,
              "bits of block-codebook");
static_assert((int)BLOCK_CODEBOOK_LEAST_WEIGHT_INVERSE == PLAN_RBP_LEAST_WEIGHT_INVERSE, "weights of block-codebook");
static_assert((int)TRELLIS_MAX_WIDTH == ROPEBITS_MAX_TRELLIS_WIDTH
                  && (int)TRELLIS_MAX_GAIN_BITS == ROPEBITS_MAX_GAIN_BITS,
              "bits of trellis");
static_assert((int)TRELLIS_LEAST_WEIGHT_INVERSE == PLAN_RBP_LEAST_WEIGHT_INVERSE, "weights of trellis");
static_assert((int)PLAN_WIDTH_OF_HEADS == ROPEBITS_VALUES_OF_HEADS, "values with heads of their own");

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

static void put_rope_numbers(byte_buffer *buffer, const rope_facts *rope)
{
    put_f64(buffer, rope->theta);
    put_f64(buffer, rope->factor);
    put_f64(buffer, rope->low_freq_factor);
    put_f64(buffer, rope->high_freq_factor);
    put_uint(buffer, (uint64_t)rope->original_max_position, 8);
}

static void put_frequencies(byte_buffer *buffer, const rope_facts *rope, int n)
{
    for (int i = 0; i < n; i++) put_f64(buffer, rope->inv_freq[i]);
}

/* What PLAN_VERSION_MODEL adds to the geometry. */
static void put_model(byte_buffer *buffer, const model_facts *model)
{
    put_uint(buffer, (uint64_t)model->value_dim, 4);
    put_f64(buffer, model->rope.attention_factor);
    put_uint(buffer, model->has_local_rope, 1);
    if (!model->has_local_rope) return;
    put_uint(buffer, (uint64_t)model->local_rope.kind, 1);
    put_rope_numbers(buffer, &model->local_rope);
    put_f64(buffer, model->local_rope.attention_factor);
    put_frequencies(buffer, &model->local_rope, model->rotary_dim / 2);
    for (int layer = 0; layer < model->n_layers; layer++) put_uint(buffer, model->layer_is_local[layer], 1);
}

static void put_geometry(byte_buffer *buffer, const model_facts *model, int version)
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
    put_rope_numbers(buffer, rope);
    put_frequencies(buffer, rope, model->rotary_dim / 2);
    if (version >= PLAN_VERSION_MODEL) put_model(buffer, model);
}

static void put_exact(byte_buffer *buffer, const bit_plan *plan)
{
    put_uint(buffer, (uint64_t)plan->n_sink, 4);
    put_uint(buffer, (uint64_t)plan->n_recent, 4);
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

/* fp16 numbers are stored as all low bytes, then all high bytes, which are more alike. */
static void put_f16_byte(byte_buffer *buffer, float value, int index)
{
    put_uint(buffer, (uint64_t)(rb_f32_to_f16(value) >> 8 * index & 0xff), 1);
}

static void put_table_of_points(byte_buffer *buffer, int bits)
{
    float *points = NULL;
    if (buffer->st == RB_OK) buffer->st = plan_points_build(&points, bits, buffer->err);
    put_uint(buffer, (uint64_t)bits, 1);
    for (int index = 0; index < 2 && buffer->st == RB_OK; index++)
        for (int i = 0; i < 2 << bits; i++) put_f16_byte(buffer, points[i], index);
    free(points);
}

static void put_table_of_levels(byte_buffer *buffer, int bits)
{
    block_levels levels = {0};
    if (buffer->st == RB_OK) buffer->st = block_levels_build(&levels, bits, buffer->err);
    put_uint(buffer, (uint64_t)bits, 1);
    for (int index = 0; index < 2 && buffer->st == RB_OK; index++)
        for (int i = 0; i < levels.size; i++) put_f16_byte(buffer, levels.level[i], index);
}

static void put_points(byte_buffer *buffer, const bit_plan *plan, int version)
{
    plan_codebooks books = {0};
    if (buffer->st == RB_OK) buffer->st = plan_codebooks_collect(&books, plan, buffer->err);
    put_uint(buffer, (uint64_t)books.n_points, 1);
    for (int bits = 1; bits <= PLAN_MAX_POINT_BITS; bits++)
        if (books.has_points[bits]) put_table_of_points(buffer, bits);
    if (version >= PLAN_VERSION_LEVELS) put_uint(buffer, (uint64_t)books.n_levels, 1);
    for (int bits = 1; bits <= PLAN_MAX_LEVEL_BITS; bits++)
        if (books.has_levels[bits]) put_table_of_levels(buffer, bits);
    plan_codebooks_free(&books);
}

static void put_f16_floats(byte_buffer *buffer, const float *values, int n, int index)
{
    for (int i = 0; i < n; i++) put_f16_byte(buffer, values[i], index);
}

static void put_trellis_tables(byte_buffer *buffer, const bit_plan *plan)
{
    plan_codebooks books = {0};
    if (buffer->st == RB_OK) buffer->st = plan_codebooks_collect(&books, plan, buffer->err);
    put_uint(buffer, (uint64_t)books.n_trellis, 1);
    for (int width = 1; width <= PLAN_MAX_TRELLIS_WIDTH; width++) {
        if (!books.has_trellis[width]) continue;
        put_uint(buffer, (uint64_t)width, 1);
        for (int index = 0; index < 2; index++) put_f16_floats(buffer, trellis_tables[width], TRELLIS_STATES, index);
    }
    plan_codebooks_free(&books);
}

static void put_values(byte_buffer *buffer, const bit_plan *plan)
{
    const value_range range = bit_plan_value_range(plan);
    const bool is_one = plan->value_heads || range.least == range.most;
    const int one = plan->value_heads ? PLAN_RBP_VALUE_HEADS : plan->value_widths[0];
    put_uint(buffer, is_one ? (uint64_t)one : PLAN_RBP_WIDTH_PER_HEAD, 1);
    put_uint(buffer, (uint64_t)plan->value_codebook, 1);
    if (!is_one) put_bytes(buffer, plan->value_widths, (size_t)plan->model.n_layers * (size_t)plan->model.n_kv_heads);
}

/* ---- heads ----------------------------------------------------------------------------------- */

/* The numbers of head h as the file has them; returns how many. */
static int stored_numbers(plan_number *out, const plan_column *column, const bit_plan *plan, int h)
{
    const int n = plan_column_take(column, out, plan, h);
    if (n > 0 || column->storing != STORED_OF_EVERY_HEAD) return n;
    out[0].whole = (int64_t)column->otherwise;
    return 1;
}

static void put_flags(byte_buffer *buffer, const plan_column *column, const bit_plan *plan)
{
    plan_number numbers[PLAN_COLUMN_ROOM];
    for (int h = 0; h < bit_plan_n_heads(plan); h++)
        put_uint(buffer, plan_column_take(column, numbers, plan, h) > 0, 1);
}

static void put_f16_matrix(byte_buffer *buffer, const plan_column *column, const bit_plan *plan)
{
    const int n_dims = plan_column_dims(column, &plan->model);
    for (int index = 0; index < 2; index++)
        for (int h = 0; h < bit_plan_n_heads(plan); h++) {
            const float *floats = plan_column_floats(column, plan, h);
            if (floats) put_f16_floats(buffer, floats, n_dims * n_dims, index);
        }
}

static void put_f16_column(byte_buffer *buffer, const plan_column *column, const bit_plan *plan)
{
    plan_number numbers[PLAN_COLUMN_ROOM];
    for (int index = 0; index < 2; index++)
        for (int h = 0; h < bit_plan_n_heads(plan); h++) {
            const int n = stored_numbers(numbers, column, plan, h);
            for (int i = 0; i < n; i++) put_f16_byte(buffer, numbers[i].real, index);
        }
}

static void put_whole_column(byte_buffer *buffer, const plan_column *column, const bit_plan *plan)
{
    const int n_bytes = column->type == COLUMN_U64 ? 8 : column->type == COLUMN_U16 ? 2 : 1;
    plan_number numbers[PLAN_COLUMN_ROOM];
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const int n = stored_numbers(numbers, column, plan, h);
        for (int i = 0; i < n; i++) put_uint(buffer, (uint64_t)numbers[i].whole, n_bytes);
    }
}

/* The same number of every head, group, block or dim side by side compresses best. */
static void put_heads(byte_buffer *buffer, const bit_plan *plan)
{
    const plan_column *columns[PLAN_COLUMNS_ROOM];
    const int n = plan_columns_of(columns, FORM_RBP, plan);
    for (int i = 0; i < n; i++) {
        if (columns[i]->storing == STORED_AFTER_FLAGS) put_flags(buffer, columns[i], plan);
        if (columns[i]->floats) put_f16_matrix(buffer, columns[i], plan);
        else if (columns[i]->type == COLUMN_F16) put_f16_column(buffer, columns[i], plan);
        else put_whole_column(buffer, columns[i], plan);
    }
}

/* ---- file ------------------------------------------------------------------------------------ */

static rb_status check_storable(const bit_plan *plan, rb_error *err)
{
    char where[64];
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const plan_family *family = plan_family_of(&plan->heads[h]);
        if (!family->check_storable) continue;
        snprintf(where, sizeof where, "layer %d kv_head %d", h / plan->model.n_kv_heads, h % plan->model.n_kv_heads);
        const rb_status st = family->check_storable(&plan->heads[h], where, err);
        if (st != RB_OK) return st;
    }
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
    const size_t frame_size = ZSTD_compress(frame, ZSTD_compressBound(payload->size), payload->bytes, payload->size,
                                            payload->size > ZSTD_LARGE_SIZE ? ZSTD_FAST_LEVEL : ZSTD_LEVEL);
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

rb_status plan_rbp_encode(uint8_t **out, size_t *size_bytes, const bit_plan *plan, rb_error *err)
{
    byte_buffer payload = {.st = RB_OK, .err = err};
    const int version = plan_version(plan);
    rb_status st;
    *out = NULL;
    RB_TRY(st, bit_plan_check(plan, "plan", err), done);
    RB_TRY(st, check_storable(plan, err), done);
    put_identity(&payload, plan);
    put_geometry(&payload, &plan->model, version);
    if (version >= PLAN_VERSION_EXACT) put_exact(&payload, plan);
    put_codebooks(&payload, plan);
    if (version >= PLAN_VERSION_POINTS) put_points(&payload, plan, version);
    if (version >= PLAN_VERSION_EXACT) put_trellis_tables(&payload, plan);
    put_values(&payload, plan);
    put_heads(&payload, plan);
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
