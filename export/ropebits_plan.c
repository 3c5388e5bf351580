/* Reader of plan.rbp: see export/ropebits_plan.h for the interface, docs/plan-rbp.md for the bytes.
 *
 * Two passes: the file is checked and decompressed, then the payload is read through a cursor that never passes its end. Everything a plan needs
 * lives in arrays of the ropebits_plan; close frees them. */
#include "export/ropebits_plan.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "export/plan_rbp_format.h"

enum { MAX_WIDTH = 8, MAX_HEAD_DIM = 1024, MAX_LAYERS = 1 << 16, MAX_HEADS = 1 << 16, NAME_SIZE = 256, HEX_SIZE = 2 * PLAN_RBP_SHA256_SIZE + 1,
      NORM_BITS = 16 };

typedef struct codebook_table {
    uint8_t kind, width;
    uint16_t dims;              /* PLAN_RBP_UNIT_DIMS: for any */
    const uint8_t *values;      /* upper half, ascending: f64 for unit tables, else f32 */
} codebook_table;

/* Centroids for one (kind, width, dims), made from a table when a group first asks. */
typedef struct centroid_set {
    uint8_t kind, width;
    uint16_t dims;
    float *centroids;
} centroid_set;

struct ropebits_plan {
    ropebits_plan_info info;
    char method[NAME_SIZE], tool_version[NAME_SIZE], model_type[NAME_SIZE];
    char config_sha256[HEX_SIZE], weights_sha256[HEX_SIZE], calibration_sha256[HEX_SIZE];
    double *inv_freq;
    uint32_t n_heads, n_groups, n_blocks;
    ropebits_head *heads;       /* [n_heads] */
    ropebits_group *groups;     /* [n_groups] */
    uint16_t *dims;             /* [n_heads][head_dim] */
    uint8_t *bits;              /* [n_heads][n_blocks] */
    codebook_table *tables;
    uint32_t n_tables;
    centroid_set *sets;
    uint32_t n_sets, max_sets;
};

/* Where reading is, and the one sentence if it failed. */
typedef struct reader {
    const uint8_t *at, *end;
    char *error;
    size_t error_size;
    bool failed;
} reader;

static bool fail(reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fail(reader *r, const char *fmt, ...)
{
    if (!r->failed && r->error && r->error_size > 0) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(r->error, r->error_size, fmt, ap);
        va_end(ap);
    }
    r->failed = true;
    return false;
}

/* ---- cursor ------------------------------------------------------------------------------------------------------------------ */

static const uint8_t *take(reader *r, size_t n)
{
    if (r->failed || (size_t)(r->end - r->at) < n) {
        fail(r, "plan payload ends early");
        return NULL;
    }
    const uint8_t *bytes = r->at;
    r->at += n;
    return bytes;
}

static uint64_t little_endian(const uint8_t *bytes, int n)
{
    uint64_t value = 0;
    for (int i = n - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

static uint64_t take_uint(reader *r, int n_bytes)
{
    const uint8_t *bytes = take(r, (size_t)n_bytes);
    return bytes ? little_endian(bytes, n_bytes) : 0;
}

static double f64_at(const uint8_t *bytes)
{
    const uint64_t u = little_endian(bytes, 8);
    double value;
    memcpy(&value, &u, sizeof value);
    return value;
}

static float f32_at(const uint8_t *bytes)
{
    const uint32_t u = (uint32_t)little_endian(bytes, 4);
    float value;
    memcpy(&value, &u, sizeof value);
    return value;
}

static double take_f64(reader *r, const char *what)
{
    const uint8_t *bytes = take(r, 8);
    const double value = bytes ? f64_at(bytes) : 0.0;
    if (!isfinite(value)) fail(r, "%s is not finite", what);
    return value;
}

static uint64_t take_range(reader *r, int n_bytes, uint64_t min, uint64_t max, const char *what)
{
    const uint64_t value = take_uint(r, n_bytes);
    if (!r->failed && (value < min || value > max))
        fail(r, "%s is %llu, expected %llu to %llu", what, (unsigned long long)value, (unsigned long long)min, (unsigned long long)max);
    return value;
}

static void take_name(reader *r, char out[NAME_SIZE], const char *what)
{
    const size_t length = (size_t)take_uint(r, 1);
    const uint8_t *bytes = take(r, length);
    if (!bytes) return;
    for (size_t i = 0; i < length; i++)
        if (bytes[i] < 0x20 || bytes[i] > 0x7e) fail(r, "%s has a byte 0x%02x, expected printable ASCII", what, bytes[i]);
    memcpy(out, bytes, length);
    out[length] = '\0';
}

/* A flag byte, then the hash if the flag is 1. */
static void take_sha256(reader *r, char out[HEX_SIZE], const char *what)
{
    const uint8_t *bytes;
    out[0] = '\0';
    if (take_range(r, 1, 0, 1, what) == 0 || !(bytes = take(r, PLAN_RBP_SHA256_SIZE))) return;
    for (int i = 0; i < PLAN_RBP_SHA256_SIZE; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static void *allocate(reader *r, size_t n, size_t size)
{
    void *memory = r->failed ? NULL : calloc(n ? n : 1, size);
    if (!memory) fail(r, "out of memory for a plan");
    return memory;
}

/* ---- sections, in file order --------------------------------------------------------------------------------------------------- */

static void read_identity(reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    take_name(r, plan->tool_version, "tool version");
    take_name(r, plan->method, "method");
    info->avg_bits = take_f64(r, "avg_bits");
    take_name(r, plan->model_type, "model type");
    take_sha256(r, plan->config_sha256, "config hash flag");
    take_sha256(r, plan->weights_sha256, "weights hash flag");
    take_sha256(r, plan->calibration_sha256, "calibration hash flag");
    info->calibration_n_tokens = take_uint(r, 8);
    info->calibration_context = take_uint(r, 8);
    info->tool_version = plan->tool_version;
    info->method = plan->method;
    info->model_type = plan->model_type;
    info->config_sha256 = plan->config_sha256;
    info->weights_sha256 = plan->weights_sha256;
    info->calibration_sha256 = plan->calibration_sha256;
}

static void read_geometry(reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    info->n_layers = (uint32_t)take_range(r, 4, 1, MAX_LAYERS, "n_layers");
    info->n_q_heads = (uint32_t)take_range(r, 4, 1, MAX_HEADS, "n_q_heads");
    info->n_kv_heads = (uint32_t)take_range(r, 4, 1, MAX_HEADS, "n_kv_heads");
    info->head_dim = (uint32_t)take_range(r, 4, 2, MAX_HEAD_DIM, "head_dim");
    info->rotary_dim = (uint32_t)take_range(r, 4, 0, info->head_dim, "rotary_dim");
    if (!r->failed && info->n_q_heads % info->n_kv_heads != 0)
        fail(r, "%u query heads do not divide among %u KV heads", info->n_q_heads, info->n_kv_heads);
    if (!r->failed && (info->head_dim % 2 || info->rotary_dim % 2))
        fail(r, "head_dim %u and rotary_dim %u, expected even numbers", info->head_dim, info->rotary_dim);
    info->attention_scale = take_f64(r, "attention_scale");
    info->rope_kind = (uint8_t)take_range(r, 1, 0, ROPEBITS_ROPE_LLAMA3, "rope kind");
    info->pairing = (uint8_t)take_range(r, 1, 0, ROPEBITS_PAIRING_INTERLEAVED, "pairing");
    info->rope_theta = take_f64(r, "rope theta");
    info->rope_factor = take_f64(r, "rope factor");
    info->rope_low_freq_factor = take_f64(r, "rope low_freq_factor");
    info->rope_high_freq_factor = take_f64(r, "rope high_freq_factor");
    info->rope_original_max_position = take_uint(r, 8);
    plan->n_blocks = info->head_dim / 2;
    plan->inv_freq = allocate(r, info->rotary_dim / 2, sizeof *plan->inv_freq);
    for (uint32_t i = 0; i < info->rotary_dim / 2 && !r->failed; i++) plan->inv_freq[i] = take_f64(r, "inv_freq");
    info->inv_freq = plan->inv_freq;
}

static void read_codebooks(reader *r, ropebits_plan *plan)
{
    plan->n_tables = (uint32_t)take_uint(r, 2);
    plan->tables = allocate(r, plan->n_tables, sizeof *plan->tables);
    for (uint32_t i = 0; i < plan->n_tables && !r->failed; i++) {
        codebook_table *table = &plan->tables[i];
        table->kind = (uint8_t)take_range(r, 1, 0, ROPEBITS_CODEBOOK_SPHERE, "codebook kind");
        table->width = (uint8_t)take_range(r, 1, 1, MAX_WIDTH, "codebook width");
        table->dims = (uint16_t)take_range(r, 2, 0, MAX_HEAD_DIM, "codebook dims");
        if (r->failed) return;      /* a width out of range must not become a shift */
        table->values = take(r, ((size_t)1 << (table->width - 1)) * (table->dims == PLAN_RBP_UNIT_DIMS ? sizeof(double) : sizeof(float)));
    }
}

static const codebook_table *find_table(const ropebits_plan *plan, uint8_t kind, uint8_t width, uint16_t dims)
{
    for (uint32_t i = 0; i < plan->n_tables; i++) {
        const codebook_table *table = &plan->tables[i];
        if (table->kind == kind && table->width == width && (table->dims == dims || table->dims == PLAN_RBP_UNIT_DIMS)) return table;
    }
    return NULL;
}

static bool fill_centroids(reader *r, float *centroids, const codebook_table *table, uint16_t dims)
{
    const int half = 1 << (table->width - 1);
    for (int i = 0; i < half; i++) {
        const float value = table->dims == PLAN_RBP_UNIT_DIMS ? (float)(f64_at(table->values + 8 * i) / sqrt((double)dims)) : f32_at(table->values + 4 * i);
        if (!isfinite(value) || value <= (i ? centroids[half + i - 1] : 0.0f))
            return fail(r, "codebook of width %u for %u dims does not ascend at centroid %d", table->width, dims, half + i);
        centroids[half + i] = value;
        centroids[half - 1 - i] = -value;
    }
    return true;
}

/* The centroids of (kind, width, dims); NULL after a failure. */
static const float *centroids_for(reader *r, ropebits_plan *plan, uint8_t kind, uint8_t width, uint16_t dims)
{
    if (r->failed) return NULL;
    for (uint32_t i = 0; i < plan->n_sets; i++)
        if (plan->sets[i].kind == kind && plan->sets[i].width == width && plan->sets[i].dims == dims) return plan->sets[i].centroids;
    const codebook_table *table = find_table(plan, kind, width, dims);
    if (!table) {
        fail(r, "no codebook of kind %u, width %u for %u dims in the plan", kind, width, dims);
        return NULL;
    }
    if (plan->n_sets == plan->max_sets) {
        const uint32_t more = plan->max_sets ? 2 * plan->max_sets : 64;
        centroid_set *grown = realloc(plan->sets, more * sizeof *grown);
        if (!grown) {
            fail(r, "out of memory for a plan");
            return NULL;
        }
        plan->sets = grown;
        plan->max_sets = more;
    }
    float *centroids = allocate(r, (size_t)1 << width, sizeof *centroids);
    if (!centroids) return NULL;
    plan->sets[plan->n_sets++] = (centroid_set){kind, width, dims, centroids};
    return fill_centroids(r, centroids, table, dims) ? centroids : NULL;
}

static void read_values(reader *r, ropebits_plan *plan)
{
    ropebits_plan_info *info = &plan->info;
    info->value_width = (uint8_t)take_uint(r, 1);
    info->value_codebook = (uint8_t)take_range(r, 1, 0, ROPEBITS_CODEBOOK_SPHERE, "value codebook");
    if (r->failed || info->value_width == ROPEBITS_VALUES_FP16) return;
    if (info->value_width < 1 || info->value_width > MAX_WIDTH)
        fail(r, "value width is %u, expected 1 to %d, or %d", info->value_width, MAX_WIDTH, ROPEBITS_VALUES_FP16);
    info->value_centroids = centroids_for(r, plan, info->value_codebook, info->value_width, (uint16_t)info->head_dim);
}

/* The dims of a RoPE block: see docs/plan-rbp.md, or RoPE itself. */
static void block_dims(const ropebits_plan_info *info, uint32_t block, uint16_t out[2])
{
    const uint32_t n_rope = info->rotary_dim / 2;
    const bool is_split = info->pairing == ROPEBITS_PAIRING_SPLIT_HALF && block < n_rope;
    out[0] = (uint16_t)(is_split ? block : 2 * block);
    out[1] = (uint16_t)(is_split ? block + n_rope : 2 * block + 1);
}

static int by_number(const void *a, const void *b) { return *(const uint16_t *)a - *(const uint16_t *)b; }

/* Fills dims, bits and sizes of a head from the group number of each of its blocks. */
static void assign_blocks(reader *r, ropebits_plan *plan, uint32_t head_index, ropebits_group *groups, const uint8_t *block_group)
{
    ropebits_head *head = &plan->heads[head_index];
    uint16_t *dims = plan->dims + (size_t)head_index * plan->info.head_dim;
    uint8_t *bits = plan->bits + (size_t)head_index * plan->n_blocks;
    uint32_t code_bits = 0;
    for (uint32_t g = 0; g < head->n_groups; g++) {
        groups[g].dims = dims;
        for (uint32_t block = 0; block < plan->n_blocks; block++) {
            if (block_group[block] != g) continue;
            block_dims(&plan->info, block, dims + groups[g].n_dims);
            groups[g].n_dims = (uint16_t)(groups[g].n_dims + 2);
            bits[block] = groups[g].width;
        }
        if (groups[g].n_dims == 0) {
            fail(r, "head %u: group %u has no blocks", head_index, g);
            return;
        }
        if (groups[g].order == ROPEBITS_ORDER_NATURAL) qsort(dims, groups[g].n_dims, sizeof *dims, by_number);
        dims += groups[g].n_dims;
        code_bits += (uint32_t)groups[g].n_dims * groups[g].width;
        groups[g].centroids = centroids_for(r, plan, groups[g].codebook, groups[g].width, groups[g].n_dims);
    }
    head->groups = groups;
    head->bits = bits;
    head->key_bits = (code_bits + 7) / 8 * 8 + NORM_BITS * (uint32_t)head->n_groups;
}

/* Columns: the same field of every head or group side by side compresses best. */
static void read_group_columns(reader *r, ropebits_plan *plan)
{
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].width = (uint8_t)take_range(r, 1, 1, MAX_WIDTH, "group width");
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].order = (uint8_t)take_range(r, 1, 0, ROPEBITS_ORDER_NATURAL, "group order");
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].rotation = (uint8_t)take_range(r, 1, 0, ROPEBITS_ROTATION_HADAMARD, "rotation kind");
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].codebook = (uint8_t)take_range(r, 1, 0, ROPEBITS_CODEBOOK_SPHERE, "codebook kind");
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].seed = take_uint(r, 8);
}

static void read_heads(reader *r, ropebits_plan *plan)
{
    if (r->failed) return;
    plan->n_heads = plan->info.n_layers * plan->info.n_kv_heads;
    /* Each head has at least a group count and n_blocks bytes ahead: bounds what a lying header can make us allocate. */
    if ((uint64_t)plan->info.n_layers * plan->info.n_kv_heads * (plan->n_blocks + 1) > (uint64_t)(r->end - r->at)) {
        fail(r, "plan payload ends early: %u layers of %u heads announced", plan->info.n_layers, plan->info.n_kv_heads);
        return;
    }
    plan->heads = allocate(r, plan->n_heads, sizeof *plan->heads);
    plan->dims = allocate(r, (size_t)plan->n_heads * plan->info.head_dim, sizeof *plan->dims);
    plan->bits = allocate(r, (size_t)plan->n_heads * plan->n_blocks, 1);
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        plan->heads[h].n_groups = (uint16_t)take_range(r, 1, 1, plan->n_blocks, "groups of a head");
        plan->n_groups += plan->heads[h].n_groups;
    }
    plan->groups = allocate(r, plan->n_groups, sizeof *plan->groups);
    if (r->failed) return;
    read_group_columns(r, plan);
    ropebits_group *groups = plan->groups;
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        const uint8_t *block_group = take(r, plan->n_blocks);
        for (uint32_t block = 0; block < plan->n_blocks && !r->failed; block++)
            if (block_group[block] >= plan->heads[h].n_groups)
                fail(r, "head %u: block %u is in group %u of %u", h, block, block_group[block], plan->heads[h].n_groups);
        if (!r->failed) assign_blocks(r, plan, h, groups, block_group);
        groups += plan->heads[h].n_groups;
    }
}

static void compute_cost(ropebits_plan *plan)
{
    const ropebits_plan_info *info = &plan->info;
    const double value_bits = info->value_width == ROPEBITS_VALUES_FP16 ? 16.0 * info->head_dim : 8.0 * ((info->head_dim * info->value_width + 7) / 8) + NORM_BITS;
    double key_bits = 0.0;
    for (uint32_t h = 0; h < plan->n_heads; h++) key_bits += plan->heads[h].key_bits;
    plan->info.key_true_bits = key_bits / ((double)plan->n_heads * info->head_dim);
    plan->info.bytes_per_token = (key_bits + value_bits * plan->n_heads) / 8.0;
}

/* ---- file -------------------------------------------------------------------------------------------------------------------- */

/* Checks the frame around the payload; payload is allocated. */
static bool unwrap(reader *r, uint8_t **payload, size_t *payload_size, const uint8_t *bytes, size_t size)
{
    if (size < PLAN_RBP_MAGIC_SIZE || memcmp(bytes, PLAN_RBP_MAGIC, PLAN_RBP_MAGIC_SIZE) != 0) return fail(r, "not a plan.rbp: wrong magic");
    if (size < PLAN_RBP_HEADER_SIZE + PLAN_RBP_CRC_SIZE)
        return fail(r, "plan is cut off: %zu bytes, expected at least %d", size, PLAN_RBP_HEADER_SIZE + PLAN_RBP_CRC_SIZE);
    const uint32_t version = (uint32_t)little_endian(bytes + 8, 4), reserved = (uint32_t)little_endian(bytes + 12, 4);
    const uint32_t announced = (uint32_t)little_endian(bytes + 16, 4), frame = (uint32_t)little_endian(bytes + 20, 4);
    if (version != ROPEBITS_PLAN_FORMAT_VERSION) return fail(r, "plan format version is %u, expected %d", version, ROPEBITS_PLAN_FORMAT_VERSION);
    if (size != (uint64_t)PLAN_RBP_HEADER_SIZE + frame + PLAN_RBP_CRC_SIZE)
        return fail(r, "plan is %zu bytes, expected %llu from its header", size, (unsigned long long)PLAN_RBP_HEADER_SIZE + frame + PLAN_RBP_CRC_SIZE);
    const uint32_t stored_crc = (uint32_t)little_endian(bytes + size - PLAN_RBP_CRC_SIZE, 4), crc = plan_rbp_crc32(bytes, size - PLAN_RBP_CRC_SIZE);
    if (crc != stored_crc) return fail(r, "plan is damaged: CRC-32 is %08x, expected %08x", crc, stored_crc);
    if (reserved != 0) return fail(r, "reserved header field is %u, expected 0", reserved);
    if (announced > PLAN_RBP_MAX_PAYLOAD) return fail(r, "plan announces %u bytes, expected at most %u", announced, PLAN_RBP_MAX_PAYLOAD);
    /* The frame's own size must agree before memory is taken for it. */
    if (ZSTD_getFrameContentSize(bytes + PLAN_RBP_HEADER_SIZE, frame) != announced)
        return fail(r, "zstd frame does not hold the %u bytes the header announces", announced);
    *payload = allocate(r, announced, 1);
    if (!*payload) return false;
    *payload_size = ZSTD_decompress(*payload, announced, bytes + PLAN_RBP_HEADER_SIZE, frame);
    if (ZSTD_isError(*payload_size)) return fail(r, "zstd frame is damaged: %s", ZSTD_getErrorName(*payload_size));
    if (*payload_size != announced) return fail(r, "zstd frame holds %zu bytes, expected %u", *payload_size, announced);
    return true;
}

static void read_payload(reader *r, ropebits_plan *plan)
{
    read_identity(r, plan);
    read_geometry(r, plan);
    read_codebooks(r, plan);
    read_values(r, plan);
    read_heads(r, plan);
    if (!r->failed && r->at != r->end) fail(r, "%zu bytes too many at the end of the plan", (size_t)(r->end - r->at));
    if (!r->failed) compute_cost(plan);
    /* Tables point into the payload, which goes away now. */
    free(plan->tables);
    plan->tables = NULL;
    plan->n_tables = 0;
}

int ropebits_plan_parse(ropebits_plan **plan, const void *bytes, size_t size_bytes, char *error, size_t error_size)
{
    reader r = {.error = error, .error_size = error_size};
    uint8_t *payload = NULL;
    size_t payload_size = 0;
    if (error && error_size > 0) error[0] = '\0';
    *plan = allocate(&r, 1, sizeof **plan);
    if (*plan && unwrap(&r, &payload, &payload_size, bytes, size_bytes)) {
        r.at = payload;
        r.end = payload + payload_size;
        read_payload(&r, *plan);
    }
    free(payload);
    if (!r.failed) return 0;
    ropebits_plan_close(*plan);
    *plan = NULL;
    return -1;
}

int ropebits_plan_open(ropebits_plan **plan, const char *path, char *error, size_t error_size)
{
    enum { HEADROOM = 1 << 16 };
    reader r = {.error = error, .error_size = error_size};
    uint8_t *bytes = NULL;
    int result = -1;
    long size;
    FILE *file = fopen(path, "rb");

    *plan = NULL;
    if (!file)
        fail(&r, "%s: %s", path, strerror(errno));
    else if (fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        fail(&r, "%s: cannot be read: %s", path, strerror(errno));
    else if ((unsigned long)size > PLAN_RBP_MAX_PAYLOAD + HEADROOM)
        fail(&r, "%s: %ld bytes, too many for a plan", path, size);
    else if ((bytes = allocate(&r, (size_t)size, 1)) && fread(bytes, 1, (size_t)size, file) != (size_t)size)
        fail(&r, "%s: cannot be read", path);
    else if (bytes) {
        char message[256];
        result = ropebits_plan_parse(plan, bytes, (size_t)size, message, sizeof message);
        if (result != 0) fail(&r, "%s: %s", path, message);
    }
    if (file) fclose(file);
    free(bytes);
    return result;
}

void ropebits_plan_close(ropebits_plan *plan)
{
    if (!plan) return;
    for (uint32_t i = 0; i < plan->n_sets; i++) free(plan->sets[i].centroids);
    free(plan->sets);
    free(plan->tables);
    free(plan->inv_freq);
    free(plan->heads);
    free(plan->groups);
    free(plan->dims);
    free(plan->bits);
    free(plan);
}

const ropebits_plan_info *ropebits_plan_get_info(const ropebits_plan *plan) { return &plan->info; }

const ropebits_head *ropebits_plan_head(const ropebits_plan *plan, uint32_t layer, uint32_t kv_head)
{
    if (layer >= plan->info.n_layers || kv_head >= plan->info.n_kv_heads) return NULL;
    return &plan->heads[(size_t)layer * plan->info.n_kv_heads + kv_head];
}
