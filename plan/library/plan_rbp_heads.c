/* The heads of plan.rbp: see plan/library/plan_rbp_library.h, and docs/plan-rbp.md for the bytes. */
#include <stdlib.h>

#include "plan/library/plan_rbp_library.h"

enum { VALUE_NORM_BITS = 16 };

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
static void assign_blocks(rbp_reader *r, ropebits_plan *plan, uint32_t head_index, ropebits_group *groups,
                          const uint8_t *block_group)
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
            rbp_fail(r, "head %u: group %u has no blocks", head_index, g);
            return;
        }
        if (groups[g].order == ROPEBITS_ORDER_NATURAL) qsort(dims, groups[g].n_dims, sizeof *dims, by_number);
        dims += groups[g].n_dims;
        code_bits += (uint32_t)groups[g].n_dims * groups[g].width;
        groups[g].centroids = rbp_centroids_for(r, plan, groups[g].codebook, groups[g].width, groups[g].n_dims);
    }
    head->groups = groups;
    head->bits = bits;
    head->key_bits = (code_bits + 7) / 8 * 8 + (uint32_t)head->norm_bits * head->n_groups;
}

static bool is_of_groups(const ropebits_head *head) { return head->family == ROPEBITS_FAMILY_GROUPS; }

/* Columns: the same field of every head or group side by side compresses best. */
static void read_head_columns(rbp_reader *r, ropebits_plan *plan)
{
    const bool is_published = plan->version == PLAN_RBP_PUBLISHED_VERSION;
    ropebits_head *heads = plan->heads;
    for (uint32_t h = 0; h < plan->n_heads && plan->version > PLAN_RBP_GROUPS_VERSION; h++)
        heads[h].family = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_FAMILY_BLOCK_CODEBOOK, "family");
    for (uint32_t h = 0; h < plan->n_heads; h++) {
        const bool has_groups = is_of_groups(&heads[h]);
        heads[h].n_groups =
            (uint16_t)rbp_take_range(r, 1, has_groups, has_groups ? plan->n_blocks : 0, "groups of a head");
        plan->n_groups += heads[h].n_groups;
    }
    for (uint32_t h = 0; h < plan->n_heads; h++) {
        heads[h].norm =
            is_published
                ? ROPEBITS_NORM_FP16
                : (uint8_t)rbp_take_range(r, 1, 0, is_of_groups(&heads[h]) ? ROPEBITS_NORM_LOG8 : 0, "norm kind");
        heads[h].norm_bits = !is_of_groups(&heads[h]) ? 0 : heads[h].norm == ROPEBITS_NORM_LOG8 ? 8 : 16;
    }
    for (uint32_t h = 0; h < plan->n_heads && !is_published; h++)
        heads[h].encoder =
            (uint8_t)rbp_take_range(r, 1, 0, is_of_groups(&heads[h]) ? ROPEBITS_ENCODER_SEARCH : 0, "encoder");
}

/* Of the group's head. */
static void read_norm_exponents(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_group *group = plan->groups;
    for (uint32_t h = 0; h < plan->n_heads; h++)
        for (int g = 0; g < plan->heads[h].n_groups && !r->failed; g++, group++) {
            const int most = plan->heads[h].norm == ROPEBITS_NORM_LOG8 ? PLAN_RBP_MAX_NORM_EXPONENT : 0;
            group->norm_exponent = (int8_t)rbp_take_uint(r, 1);
            if (group->norm_exponent < -most || group->norm_exponent > most)
                rbp_fail(r, "head %u group %d: norm exponent is %d, expected %d to %d", h, g, group->norm_exponent,
                         -most, most);
        }
}

static void read_coherences(rbp_reader *r, ropebits_plan *plan)
{
    float *coherence = rbp_take_f16_column(r, plan->n_groups, true, "coherence");
    for (uint32_t g = 0; g < plan->n_groups && !r->failed; g++) plan->groups[g].coherence = coherence[g];
    free(coherence);
}

static void read_group_columns(rbp_reader *r, ropebits_plan *plan)
{
    for (uint32_t g = 0; g < plan->n_groups; g++)
        plan->groups[g].width = (uint8_t)rbp_take_range(r, 1, 1, RBP_MAX_WIDTH, "group width");
    for (uint32_t g = 0; g < plan->n_groups; g++)
        plan->groups[g].order = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_ORDER_NATURAL, "group order");
    for (uint32_t g = 0; g < plan->n_groups; g++)
        plan->groups[g].rotation = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_ROTATION_HADAMARD, "rotation kind");
    for (uint32_t g = 0; g < plan->n_groups; g++)
        plan->groups[g].codebook = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_CODEBOOK_SPHERE, "codebook kind");
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].seed = rbp_take_uint(r, 8);
    for (uint32_t g = 0; g < plan->n_groups; g++) plan->groups[g].coherence = 1.0f;
    if (plan->version == PLAN_RBP_PUBLISHED_VERSION) return;
    read_norm_exponents(r, plan);
    read_coherences(r, plan);
}

static void read_block_groups(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_group *groups = plan->groups;
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        if (!is_of_groups(&plan->heads[h])) continue;
        const uint8_t *block_group = rbp_take(r, plan->n_blocks);
        for (uint32_t block = 0; block < plan->n_blocks && !r->failed; block++) {
            const bool is_dropped =
                plan->version != PLAN_RBP_PUBLISHED_VERSION && block_group[block] == PLAN_RBP_NO_GROUP;
            if (!is_dropped && block_group[block] >= plan->heads[h].n_groups)
                rbp_fail(r, "head %u: block %u is in group %u of %u", h, block, block_group[block],
                         plan->heads[h].n_groups);
        }
        if (!r->failed) assign_blocks(r, plan, h, groups, block_group);
        groups += plan->heads[h].n_groups;
    }
}

/* A column of flags, one a head, then the numbers of the heads that have them, n each, which their heads then point to.
 */
static float *read_transform(rbp_reader *r, ropebits_plan *plan, uint32_t n, bool is_scale)
{
    const uint8_t *has = rbp_take(r, plan->n_heads);
    uint32_t n_having = 0;
    for (uint32_t h = 0; h < plan->n_heads && has; h++) {
        const bool may_have = !is_scale || is_of_groups(&plan->heads[h]);
        if (has[h] > may_have)
            rbp_fail(r, "head %u: flag of its %s is %u, expected 0%s", h, is_scale ? "scales" : "center", has[h],
                     may_have ? " or 1" : "");
        n_having += has[h];
    }
    float *values =
        r->failed ? NULL : rbp_take_f16_column(r, (size_t)n_having * n, is_scale, is_scale ? "scale" : "center");
    const float *next = values;
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        if (!has[h]) continue;
        if (is_scale) plan->heads[h].scales = next;
        else plan->heads[h].center = next;
        next += n;
    }
    return values;
}

static void set_values(rbp_reader *r, ropebits_plan *plan)
{
    const uint32_t dim = plan->info.head_dim;
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        ropebits_head *head = &plan->heads[h];
        head->value_width = plan->value_widths ? plan->value_widths[h] : plan->value_width;
        head->value_bits = head->value_width * dim;
        if (head->value_width == ROPEBITS_VALUES_FP16) continue;
        head->value_bits = (head->value_bits + 7) / 8 * 8 + VALUE_NORM_BITS;
        head->value_centroids = rbp_centroids_for(r, plan, plan->info.value_codebook, head->value_width, (uint16_t)dim);
    }
}

void rbp_read_heads(rbp_reader *r, ropebits_plan *plan)
{
    if (r->failed) return;
    plan->n_heads = plan->info.n_layers * plan->info.n_kv_heads;
    /* Each head has at least a group count and n_blocks bytes, groups or bits, ahead: bounds what a lying header can
     * make us allocate. */
    if ((uint64_t)plan->info.n_layers * plan->info.n_kv_heads * (plan->n_blocks + 1) > (uint64_t)(r->end - r->at)) {
        rbp_fail(r, "plan payload ends early: %u layers of %u heads announced", plan->info.n_layers,
                 plan->info.n_kv_heads);
        return;
    }
    plan->heads = rbp_allocate(r, plan->n_heads, sizeof *plan->heads);
    plan->dims = rbp_allocate(r, (size_t)plan->n_heads * plan->info.head_dim, sizeof *plan->dims);
    plan->bits = rbp_allocate(r, (size_t)plan->n_heads * plan->n_blocks, 1);
    if (!r->failed) read_head_columns(r, plan);
    plan->groups = rbp_allocate(r, plan->n_groups, sizeof *plan->groups);
    if (r->failed) return;
    set_values(r, plan);
    read_group_columns(r, plan);
    read_block_groups(r, plan);
    if (plan->version == PLAN_RBP_PUBLISHED_VERSION) return;
    plan->scales = read_transform(r, plan, plan->n_blocks, true);
    plan->centers = read_transform(r, plan, plan->info.head_dim, false);
    if (plan->version > PLAN_RBP_GROUPS_VERSION) rbp_read_block_codebook(r, plan);
}

void rbp_compute_cost(ropebits_plan *plan)
{
    double key_bits = 0.0, value_bits = 0.0;
    for (uint32_t h = 0; h < plan->n_heads; h++) {
        key_bits += plan->heads[h].key_bits;
        value_bits += plan->heads[h].value_bits;
    }
    plan->info.key_true_bits = key_bits / ((double)plan->n_heads * plan->info.head_dim);
    plan->info.bytes_per_token = (key_bits + value_bits) / 8.0;
}
