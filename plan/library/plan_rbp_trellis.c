/* The tables and columns of family trellis in plan.rbp, of keys and of values: see plan/library/plan_rbp_library.h, and
 * docs/plan-rbp.md for the bytes. */
#include <string.h>

#include "plan/library/plan_rbp_library.h"

enum { STATE_BITS = 8, STATES = 1 << STATE_BITS };

static void read_tables(rbp_reader *r, ropebits_plan *plan)
{
    const uint32_t n_tables = (uint32_t)rbp_take_range(r, 1, 0, ROPEBITS_MAX_TRELLIS_WIDTH, "number of trellis tables");
    uint64_t least = 1;
    for (uint32_t i = 0; i < n_tables && !r->failed; i++) {
        const uint64_t width = rbp_take_range(r, 1, least, ROPEBITS_MAX_TRELLIS_WIDTH, "width of a trellis table");
        if (r->failed) return;
        plan->trellis[width] = rbp_take_f16_column(r, plan, STATES, false, "number of a trellis table");
        least = width + 1;
    }
}

/* ---- heads ----------------------------------------------------------------------------------- */

/* The heads of the family among those of keys, or all of values. */
typedef struct trellis_heads {
    const char *name; /* of one in messages: "head", "value head" */
    ropebits_head *at;
    uint32_t n, n_dims;
} trellis_heads;

static bool has_trellis(const ropebits_head *head) { return head->family == ROPEBITS_FAMILY_TRELLIS; }

static size_t count(const trellis_heads *heads)
{
    size_t n = 0;
    for (uint32_t h = 0; h < heads->n; h++) n += has_trellis(&heads->at[h]);
    return n;
}

static void read_gains(rbp_reader *r, const trellis_heads *heads)
{
    for (uint32_t h = 0; h < heads->n; h++)
        if (has_trellis(&heads->at[h]))
            heads->at[h].gain_bits = (uint8_t)rbp_take_range(r, 1, 0, ROPEBITS_MAX_GAIN_BITS, "gain bits");
    for (uint32_t h = 0; h < heads->n && !r->failed; h++)
        if (has_trellis(&heads->at[h]))
            heads->at[h].gain_zero =
                (uint8_t)rbp_take_range(r, 1, 0, (1u << heads->at[h].gain_bits) - 1, "level of the gain 1");
}

static bool check_width(rbp_reader *r, const ropebits_plan *plan, const trellis_heads *heads, uint32_t h, uint32_t i)
{
    const uint8_t *widths = heads->at[h].widths;
    if (widths[i] > ROPEBITS_MAX_TRELLIS_WIDTH)
        return rbp_fail(r, "%s %u: coordinate %u has %u bits, expected 0 to %d", heads->name, h, i, widths[i],
                        ROPEBITS_MAX_TRELLIS_WIDTH);
    if (i == 0 && widths[i] != STATE_BITS)
        return rbp_fail(r, "%s %u: coordinate 0 has %u bits, expected %d", heads->name, h, widths[i], STATE_BITS);
    if (widths[i] > 0 && i > 0 && widths[i - 1] == 0)
        return rbp_fail(r, "%s %u: coordinate %u has %u bits after one that has none", heads->name, h, i, widths[i]);
    if (widths[i] > 0 && !plan->trellis[widths[i]])
        return rbp_fail(r, "%s %u: coordinate %u has %u bits, and the plan no trellis table of that width", heads->name,
                        h, i, widths[i]);
    return true;
}

static void set_widths(rbp_reader *r, const ropebits_plan *plan, const trellis_heads *heads, uint32_t h,
                       const uint8_t *widths)
{
    ropebits_head *head = &heads->at[h];
    uint32_t code_bits = 0;
    head->widths = widths;
    for (uint32_t i = 0; i < heads->n_dims && check_width(r, plan, heads, h, i); i++) code_bits += widths[i];
    if (!r->failed && widths[heads->n_dims - 1] + head->gain_bits > STATE_BITS)
        rbp_fail(r, "%s %u: the last coordinate and the gain have %d bits, expected %d at most", heads->name, h,
                 widths[heads->n_dims - 1] + head->gain_bits, STATE_BITS);
    head->key_bits = (code_bits + head->gain_bits + 7) / 8 * 8;
}

static void read_widths(rbp_reader *r, ropebits_plan *plan, const trellis_heads *heads, size_t n_trellis)
{
    const uint8_t *stored = rbp_take(r, n_trellis * heads->n_dims);
    uint8_t *widths = rbp_own(r, plan, n_trellis * heads->n_dims);
    if (!widths) return;
    memcpy(widths, stored, n_trellis * heads->n_dims);
    for (uint32_t h = 0; h < heads->n && !r->failed; h++) {
        if (!has_trellis(&heads->at[h])) continue;
        set_widths(r, plan, heads, h, widths);
        widths += heads->n_dims;
    }
}

static void read_weights(rbp_reader *r, ropebits_plan *plan, const trellis_heads *heads, size_t n_trellis)
{
    const float *weights = rbp_take_weights(r, plan, n_trellis * heads->n_dims);
    for (uint32_t h = 0; h < heads->n && !r->failed; h++) {
        if (!has_trellis(&heads->at[h])) continue;
        heads->at[h].weights = weights;
        weights += heads->n_dims;
    }
}

static void read_bases(rbp_reader *r, ropebits_plan *plan, const trellis_heads *heads, size_t n_trellis)
{
    const size_t size = (size_t)heads->n_dims * heads->n_dims;
    const uint16_t *bases = rbp_take_f16_words(r, plan, n_trellis * size, "number of a basis");
    for (uint32_t h = 0; h < heads->n && !r->failed; h++) {
        if (!has_trellis(&heads->at[h])) continue;
        heads->at[h].basis = bases;
        bases += size;
    }
}

static void read_heads(rbp_reader *r, ropebits_plan *plan, const trellis_heads *heads)
{
    const size_t n_trellis = count(heads);
    read_gains(r, heads);
    read_widths(r, plan, heads, n_trellis);
    read_weights(r, plan, heads, n_trellis);
    read_bases(r, plan, heads, n_trellis);
}

static void read_columns(rbp_reader *r, ropebits_plan *plan)
{
    const trellis_heads heads = {"head", plan->heads, plan->n_heads, plan->info.head_dim};
    if (r->failed) return;
    for (uint32_t h = 0; h < plan->n_heads; h++)
        if (has_trellis(&plan->heads[h])) plan->heads[h].bits = NULL;
    read_heads(r, plan, &heads);
}

/* ---- values ---------------------------------------------------------------------------------- */

static void set_center(ropebits_head *head, const float *center) { head->center = center; }

void rbp_read_value_heads(rbp_reader *r, ropebits_plan *plan)
{
    static const rbp_flagged_column centers = {"center", "center of values", false, NULL, set_center};
    if (r->failed || plan->value_width != PLAN_RBP_VALUE_HEADS) return;
    plan->value_heads = rbp_allocate(r, plan->n_heads, sizeof *plan->value_heads);
    if (r->failed) return;
    for (uint32_t h = 0; h < plan->n_heads; h++) plan->value_heads[h].family = ROPEBITS_FAMILY_TRELLIS;
    const trellis_heads heads = {"value head", plan->value_heads, plan->n_heads, plan->info.value_dim};
    read_heads(r, plan, &heads);
    rbp_take_flagged_column(r, plan, plan->value_heads, plan->info.value_dim, &centers);
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++)
        plan->heads[h].value_bits = plan->value_heads[h].key_bits;
}

const rbp_family rbp_family_trellis = {
    .name = "trellis", .since = PLAN_RBP_EXACT_VERSION, .read_tables = read_tables, .read_columns = read_columns};
