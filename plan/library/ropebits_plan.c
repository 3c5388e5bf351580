/* Reader of plan.rbp: see plan/library/ropebits_plan.h for the interface, docs/plan-rbp.md for the bytes.
 *
 * Two passes: the file is checked and decompressed, then the payload is read through a cursor that never passes its
 * end. Everything a plan needs lives in arrays of the ropebits_plan; close frees them. */
#include "plan/library/ropebits_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "plan/library/plan_rbp_library.h"

/* Checks the frame around the payload; payload is allocated. */
static bool unwrap(rbp_reader *r, uint8_t **payload, size_t *payload_size, const uint8_t *bytes, size_t size)
{
    if (size < PLAN_RBP_MAGIC_SIZE || memcmp(bytes, PLAN_RBP_MAGIC, PLAN_RBP_MAGIC_SIZE) != 0)
        return rbp_fail(r, "not a plan.rbp: wrong magic");
    if (size < PLAN_RBP_HEADER_SIZE + PLAN_RBP_CRC_SIZE)
        return rbp_fail(r, "plan is cut off: %zu bytes, expected at least %d", size,
                        PLAN_RBP_HEADER_SIZE + PLAN_RBP_CRC_SIZE);
    const uint32_t version = (uint32_t)rbp_little_endian(bytes + 8, 4),
                   reserved = (uint32_t)rbp_little_endian(bytes + 12, 4);
    const uint32_t announced = (uint32_t)rbp_little_endian(bytes + 16, 4),
                   frame = (uint32_t)rbp_little_endian(bytes + 20, 4);
    if (version < PLAN_RBP_PUBLISHED_VERSION || version > ROPEBITS_PLAN_FORMAT_VERSION)
        return rbp_fail(r, "plan format version is %u, expected %d to %d", version, PLAN_RBP_PUBLISHED_VERSION,
                        ROPEBITS_PLAN_FORMAT_VERSION);
    if (size != (uint64_t)PLAN_RBP_HEADER_SIZE + frame + PLAN_RBP_CRC_SIZE)
        return rbp_fail(r, "plan is %zu bytes, expected %llu from its header", size,
                        (unsigned long long)PLAN_RBP_HEADER_SIZE + frame + PLAN_RBP_CRC_SIZE);
    const uint32_t stored_crc = (uint32_t)rbp_little_endian(bytes + size - PLAN_RBP_CRC_SIZE, 4),
                   crc = plan_rbp_crc32(bytes, size - PLAN_RBP_CRC_SIZE);
    if (crc != stored_crc) return rbp_fail(r, "plan is damaged: CRC-32 is %08x, expected %08x", crc, stored_crc);
    if (reserved != 0) return rbp_fail(r, "reserved header field is %u, expected 0", reserved);
    if (announced > PLAN_RBP_MAX_PAYLOAD)
        return rbp_fail(r, "plan announces %u bytes, expected at most %u", announced, PLAN_RBP_MAX_PAYLOAD);
    /* The frame's own size must agree before memory is taken for it. */
    if (ZSTD_getFrameContentSize(bytes + PLAN_RBP_HEADER_SIZE, frame) != announced)
        return rbp_fail(r, "zstd frame does not hold the %u bytes the header announces", announced);
    *payload = rbp_allocate(r, announced, 1);
    if (!*payload) return false;
    *payload_size = ZSTD_decompress(*payload, announced, bytes + PLAN_RBP_HEADER_SIZE, frame);
    if (ZSTD_isError(*payload_size)) return rbp_fail(r, "zstd frame is damaged: %s", ZSTD_getErrorName(*payload_size));
    if (*payload_size != announced)
        return rbp_fail(r, "zstd frame holds %zu bytes, expected %u", *payload_size, announced);
    return true;
}

static void read_payload(rbp_reader *r, ropebits_plan *plan)
{
    rbp_read_identity(r, plan);
    rbp_read_geometry(r, plan);
    if (plan->version >= PLAN_RBP_EXACT_VERSION) rbp_read_exact(r, plan);
    rbp_read_codebooks(r, plan);
    for (int f = 0; f < RBP_N_FAMILIES; f++)
        if (rbp_families[f]->read_tables && rbp_families[f]->since <= plan->version)
            rbp_families[f]->read_tables(r, plan);
    rbp_read_values(r, plan);
    rbp_read_heads(r, plan);
    rbp_read_value_heads(r, plan);
    if (!r->failed && r->at != r->end)
        rbp_fail(r, "%zu bytes too many at the end of the plan", (size_t)(r->end - r->at));
    if (!r->failed) rbp_compute_cost(plan);
    /* Tables point into the payload, which goes away now. */
    free(plan->tables);
    plan->tables = NULL;
    plan->n_tables = 0;
    plan->value_widths = NULL;
}

int ropebits_plan_parse(ropebits_plan **plan, const void *bytes, size_t size_bytes, char *error, size_t error_size)
{
    rbp_reader r = {.error = error, .error_size = error_size};
    uint8_t *payload = NULL;
    size_t payload_size = 0;
    if (error && error_size > 0) error[0] = '\0';
    *plan = rbp_allocate(&r, 1, sizeof **plan);
    if (*plan && unwrap(&r, &payload, &payload_size, bytes, size_bytes)) {
        (*plan)->version = (uint32_t)rbp_little_endian((const uint8_t *)bytes + PLAN_RBP_MAGIC_SIZE, 4);
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
    rbp_reader r = {.error = error, .error_size = error_size};
    uint8_t *bytes = NULL;
    int result = -1;
    long size;
    FILE *file = fopen(path, "rb");

    *plan = NULL;
    if (!file) rbp_fail(&r, "%s: %s", path, strerror(errno));
    else if (fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        rbp_fail(&r, "%s: cannot be read: %s", path, strerror(errno));
    else if ((unsigned long)size > PLAN_RBP_MAX_PAYLOAD + HEADROOM)
        rbp_fail(&r, "%s: %ld bytes, too many for a plan", path, size);
    else if ((bytes = rbp_allocate(&r, (size_t)size, 1)) && fread(bytes, 1, (size_t)size, file) != (size_t)size)
        rbp_fail(&r, "%s: cannot be read", path);
    else if (bytes) {
        char message[256];
        result = ropebits_plan_parse(plan, bytes, (size_t)size, message, sizeof message);
        if (result != 0) rbp_fail(&r, "%s: %s", path, message);
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
    free(plan->local_inv_freq);
    free(plan->layer_is_local);
    free(plan->heads);
    free(plan->groups);
    free(plan->dims);
    free(plan->bits);
    free(plan->value_heads);
    while (plan->owned) {
        rbp_owned *next = plan->owned->next;
        free(plan->owned);
        plan->owned = next;
    }
    free(plan);
}

const ropebits_plan_info *ropebits_plan_get_info(const ropebits_plan *plan) { return &plan->info; }

double ropebits_plan_bytes(const ropebits_plan *plan, uint64_t n_tokens)
{
    const ropebits_plan_info *info = &plan->info;
    const uint64_t most = (uint64_t)info->n_sink + info->n_recent, n_exact = n_tokens < most ? n_tokens : most;
    const double fp16_bytes = 2.0 * plan->n_heads * (info->head_dim + info->value_dim);
    return info->bytes_per_token * (double)(n_tokens - n_exact) + fp16_bytes * (double)n_exact;
}

const ropebits_head *ropebits_plan_head(const ropebits_plan *plan, uint32_t layer, uint32_t kv_head)
{
    if (layer >= plan->info.n_layers || kv_head >= plan->info.n_kv_heads) return NULL;
    return &plan->heads[(size_t)layer * plan->info.n_kv_heads + kv_head];
}

const ropebits_head *ropebits_plan_value_head(const ropebits_plan *plan, uint32_t layer, uint32_t kv_head)
{
    if (!plan->value_heads || layer >= plan->info.n_layers || kv_head >= plan->info.n_kv_heads) return NULL;
    return &plan->value_heads[(size_t)layer * plan->info.n_kv_heads + kv_head];
}

static bool is_local(const ropebits_plan *plan, uint32_t layer)
{
    return plan->info.layer_is_local && plan->info.layer_is_local[layer];
}

const double *ropebits_plan_inv_freq(const ropebits_plan *plan, uint32_t layer)
{
    if (layer >= plan->info.n_layers) return NULL;
    return is_local(plan, layer) ? plan->info.local_inv_freq : plan->info.inv_freq;
}

double ropebits_plan_attention_factor(const ropebits_plan *plan, uint32_t layer)
{
    if (layer >= plan->info.n_layers) return 0;
    return is_local(plan, layer) ? plan->info.local_rope_attention_factor : plan->info.rope_attention_factor;
}

const float *ropebits_plan_points(const ropebits_plan *plan, uint32_t bits)
{
    return bits <= ROPEBITS_MAX_POINT_BITS ? plan->points[bits] : NULL;
}

const float *ropebits_plan_levels(const ropebits_plan *plan, uint32_t bits)
{
    return bits <= ROPEBITS_MAX_LEVEL_BITS ? plan->levels[bits] : NULL;
}

/* A bit more for the first dim takes 3/4 of its share off, and gives 3 times its share to the second. */
uint32_t ropebits_first_bits(const float *map, uint32_t bits)
{
    double first = (double)map[0] * (double)map[0], second = (double)map[2] * (double)map[2];
    uint32_t own = bits - ROPEBITS_MAX_LEVEL_BITS;
    for (uint32_t b = 0; b < own; b++) first /= 4.0;
    for (uint32_t b = 0; b < bits - own; b++) second /= 4.0;
    for (; own < ROPEBITS_MAX_LEVEL_BITS && first / 4.0 + second * 4.0 < first + second; own++) {
        first /= 4.0;
        second *= 4.0;
    }
    return own;
}

const float *ropebits_plan_trellis(const ropebits_plan *plan, uint32_t width)
{
    return width <= ROPEBITS_MAX_TRELLIS_WIDTH ? plan->trellis[width] : NULL;
}
