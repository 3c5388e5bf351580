/* The tables and columns of family block-codebook in plan.rbp: see plan/library/plan_rbp_library.h, and
 * docs/plan-rbp.md for the bytes. */
#include "plan/library/plan_rbp_library.h"

enum { MAP_SIZE = 3 };

static void read_points(rbp_reader *r, ropebits_plan *plan)
{
    const uint32_t n_tables = (uint32_t)rbp_take_range(r, 1, 0, ROPEBITS_MAX_POINT_BITS, "number of tables of points");
    uint64_t least = 1;
    for (uint32_t i = 0; i < n_tables && !r->failed; i++) {
        const uint64_t bits = rbp_take_range(r, 1, least, ROPEBITS_MAX_POINT_BITS, "bits of a table of points");
        if (r->failed) return; /* bits out of range must not become a shift */
        plan->points[bits] = rbp_take_f16_column(r, plan, (size_t)2 << bits, false, "coordinate of a point");
        least = bits + 1;
    }
}

static void read_levels(rbp_reader *r, ropebits_plan *plan)
{
    const uint32_t n_tables = (uint32_t)rbp_take_range(r, 1, 0, ROPEBITS_MAX_LEVEL_BITS, "number of tables of levels");
    uint64_t least = 1;
    for (uint32_t i = 0; i < n_tables && !r->failed; i++) {
        const uint64_t bits = rbp_take_range(r, 1, least, ROPEBITS_MAX_LEVEL_BITS, "bits of a table of levels");
        if (r->failed) return; /* bits out of range must not become a shift */
        plan->levels[bits] = rbp_take_f16_column(r, plan, (size_t)1 << bits, false, "level");
        least = bits + 1;
    }
}

static void read_tables(rbp_reader *r, ropebits_plan *plan)
{
    read_points(r, plan);
    if (plan->version >= PLAN_RBP_LEVELS_VERSION) read_levels(r, plan);
}

static bool is_of_block_codebook(const ropebits_head *head) { return head->family == ROPEBITS_FAMILY_BLOCK_CODEBOOK; }

/* What the version allows, and what the gain leaves of block 0's 16 bits. */
static uint32_t most_bits(const ropebits_plan *plan, const ropebits_head *head, uint32_t block)
{
    if (plan->version < PLAN_RBP_LEVELS_VERSION) return ROPEBITS_MAX_POINT_BITS;
    return block == 0 ? ROPEBITS_MAX_BLOCK_BITS - head->gain_bits : ROPEBITS_MAX_BLOCK_BITS;
}

static void set_bits(rbp_reader *r, ropebits_plan *plan, uint32_t h)
{
    ropebits_head *head = &plan->heads[h];
    uint8_t *bits = plan->bits + (size_t)h * plan->n_blocks;
    const uint8_t *stored = rbp_take(r, plan->n_blocks);
    uint32_t code_bits = 0;
    for (uint32_t block = 0; block < plan->n_blocks && !r->failed; block++) {
        bits[block] = stored[block];
        code_bits += stored[block];
        if (stored[block] > most_bits(plan, head, block))
            rbp_fail(r, "head %u: block %u has %u bits, expected 0 to %u", h, block, stored[block],
                     most_bits(plan, head, block));
        else if (stored[block] > 0 && stored[block] <= ROPEBITS_MAX_POINT_BITS && !plan->points[stored[block]])
            rbp_fail(r, "head %u: block %u has %u bits, and the plan no points of so many", h, block, stored[block]);
    }
    if (!r->failed && code_bits == 0) rbp_fail(r, "head %u: no block has bits", h);
    head->bits = bits;
    head->key_bits = (head->gain_bits + code_bits + 7) / 8 * 8;
}

/* Blocks that have levels must find theirs in the plan. */
static void check_levels(rbp_reader *r, const ropebits_plan *plan, uint32_t h)
{
    const ropebits_head *head = &plan->heads[h];
    for (uint32_t block = 0; block < plan->n_blocks && !r->failed; block++) {
        const uint32_t bits = head->bits[block];
        if (bits <= ROPEBITS_MAX_POINT_BITS) continue;
        const uint32_t first = ropebits_first_bits(head->maps + (size_t)MAP_SIZE * block, bits);
        if (!plan->levels[first] || !plan->levels[bits - first])
            rbp_fail(r, "head %u: block %u has levels of %u and %u bits, and the plan none of so many", h, block, first,
                     bits - first);
    }
}

static void read_columns(rbp_reader *r, ropebits_plan *plan)
{
    size_t n_block_codebook = 0;
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++)
        n_block_codebook += is_of_block_codebook(&plan->heads[h]);
    for (uint32_t h = 0; h < plan->n_heads; h++)
        if (is_of_block_codebook(&plan->heads[h]))
            plan->heads[h].gain_bits = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_MAX_GAIN_BITS, "gain bits");
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++)
        if (is_of_block_codebook(&plan->heads[h])) set_bits(r, plan, h);
    const float *maps =
        rbp_take_f16_column(r, plan, MAP_SIZE * n_block_codebook * plan->n_blocks, false, "number of a map");
    const float *weights = rbp_take_weights(r, plan, n_block_codebook * plan->n_blocks);
    for (uint32_t h = 0, at = 0; h < plan->n_heads && !r->failed; h++) {
        if (!is_of_block_codebook(&plan->heads[h])) continue;
        plan->heads[h].maps = maps + (size_t)MAP_SIZE * at * plan->n_blocks;
        plan->heads[h].weights = weights + (size_t)at++ * plan->n_blocks;
        check_levels(r, plan, h);
    }
}

const rbp_family rbp_family_block_codebook = {.name = "block-codebook",
                                              .since = PLAN_RBP_POINTS_VERSION,
                                              .read_tables = read_tables,
                                              .read_columns = read_columns};
