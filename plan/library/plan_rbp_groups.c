/* The columns of family groups in plan.rbp: see plan/library/plan_rbp_library.h, and docs/plan-rbp.md for the bytes. */
#include <stdlib.h>

#include "plan/library/plan_rbp_library.h"

static bool has_groups(const ropebits_head *head) { return head->family == ROPEBITS_FAMILY_GROUPS; }

/* ---- a number a head ------------------------------------------------------------------------- */

/* One of every head, 0 for those of other families. */
static uint8_t take_choice(rbp_reader *r, const ropebits_head *head, uint64_t most, const char *what)
{
    return (uint8_t)rbp_take_range(r, 1, 0, has_groups(head) ? most : 0, what);
}

static void read_head_columns(rbp_reader *r, ropebits_plan *plan)
{
    const bool is_published = plan->version == PLAN_RBP_PUBLISHED_VERSION;
    ropebits_head *heads = plan->heads;
    for (uint32_t h = 0; h < plan->n_heads; h++) {
        const bool least = has_groups(&heads[h]);
        heads[h].n_groups = (uint16_t)rbp_take_range(r, 1, least, least ? plan->n_blocks : 0, "groups of a head");
        plan->n_groups += heads[h].n_groups;
    }
    for (uint32_t h = 0; h < plan->n_heads; h++) {
        heads[h].norm = is_published ? ROPEBITS_NORM_FP16 : take_choice(r, &heads[h], ROPEBITS_NORM_LOG8, "norm kind");
        heads[h].norm_bits = !has_groups(&heads[h]) ? 0 : heads[h].norm == ROPEBITS_NORM_LOG8 ? 8 : 16;
    }
    for (uint32_t h = 0; h < plan->n_heads && !is_published; h++)
        heads[h].encoder = take_choice(r, &heads[h], ROPEBITS_ENCODER_SEARCH, "encoder");
}

/* ---- a number a group ------------------------------------------------------------------------ */

/* The norm kind of the group's head says what is allowed. */
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
    const float *coherence = rbp_take_f16_column(r, plan, plan->n_groups, true, "coherence");
    for (uint32_t g = 0; g < plan->n_groups && !r->failed; g++) plan->groups[g].coherence = coherence[g];
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

/* ---- the group of every block ---------------------------------------------------------------- */

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

static void read_block_groups(rbp_reader *r, ropebits_plan *plan)
{
    ropebits_group *groups = plan->groups;
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        if (!has_groups(&plan->heads[h])) continue;
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

static void set_scales(ropebits_head *head, const float *scales) { head->scales = scales; }
static const rbp_flagged_column scales_of_groups = {"scales", "scale", true, has_groups, set_scales};

static void read_columns(rbp_reader *r, ropebits_plan *plan)
{
    read_head_columns(r, plan);
    plan->groups = rbp_allocate(r, plan->n_groups, sizeof *plan->groups);
    if (r->failed) return;
    read_group_columns(r, plan);
    read_block_groups(r, plan);
    if (plan->version != PLAN_RBP_PUBLISHED_VERSION)
        rbp_take_flagged_column(r, plan, plan->heads, plan->n_blocks, &scales_of_groups);
}

const rbp_family rbp_family_groups = {
    .name = "groups", .since = PLAN_RBP_PUBLISHED_VERSION, .read_columns = read_columns};
