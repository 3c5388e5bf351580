/* The heads of plan.rbp: see plan/library/plan_rbp_library.h, and docs/plan-rbp.md for the bytes. */
#include "plan/library/plan_rbp_library.h"

enum { VALUE_NORM_BITS = 16 };

#define RBP_FAMILY_ROW(NAME, prefix) [ROPEBITS_FAMILY_##NAME] = &rbp_family_##prefix,
const rbp_family *const rbp_families[RBP_N_FAMILIES] = {RBP_FAMILIES(RBP_FAMILY_ROW)};
#undef RBP_FAMILY_ROW

/* The last that the version has: they came in order. */
static uint64_t newest_family(uint32_t version)
{
    uint64_t newest = 0;
    for (int f = 0; f < RBP_N_FAMILIES; f++)
        if (rbp_families[f]->since <= version) newest = (uint64_t)f;
    return newest;
}

static void read_families(rbp_reader *r, ropebits_plan *plan)
{
    const uint32_t n_kv_heads = plan->info.n_kv_heads;
    for (uint32_t h = 0; h < plan->n_heads; h++)
        plan->heads[h].family = (uint8_t)rbp_take_range(r, 1, 0, newest_family(plan->version), "family");
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        const uint8_t family = plan->heads[h].family, first = plan->heads[h - h % n_kv_heads].family;
        if (family != first)
            rbp_fail(r, "layer %u kv_head %u: codec family is %s, that of kv_head 0 is %s, expected one family a layer",
                     h / n_kv_heads, h % n_kv_heads, rbp_families[family]->name, rbp_families[first]->name);
    }
}

void rbp_take_flagged_column(rbp_reader *r, ropebits_plan *plan, ropebits_head *heads, uint32_t n,
                             const rbp_flagged_column *column)
{
    const uint8_t *has = rbp_take(r, plan->n_heads);
    uint32_t n_having = 0;
    for (uint32_t h = 0; h < plan->n_heads && has; h++) {
        const bool may_have = !column->may_have || column->may_have(&heads[h]);
        if (has[h] > may_have)
            rbp_fail(r, "head %u: flag of its %s is %u, expected 0%s", h, column->name, has[h],
                     may_have ? " or 1" : "");
        n_having += has[h];
    }
    if (r->failed) return;
    const float *next = rbp_take_f16_column(r, plan, (size_t)n_having * n, column->is_above_0, column->number_name);
    for (uint32_t h = 0; h < plan->n_heads && !r->failed; h++) {
        if (!has[h]) continue;
        column->set(&heads[h], next);
        next += n;
    }
}

static void set_center(ropebits_head *head, const float *center) { head->center = center; }

static void read_centers(rbp_reader *r, ropebits_plan *plan)
{
    static const rbp_flagged_column column = {"center", "center", false, NULL, set_center};
    rbp_take_flagged_column(r, plan, plan->heads, plan->info.head_dim, &column);
}

static void set_values(rbp_reader *r, ropebits_plan *plan)
{
    const uint32_t dim = plan->info.value_dim;
    if (plan->value_width == PLAN_RBP_VALUE_HEADS) return;
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
    if (r->failed) return;
    if (plan->version >= PLAN_RBP_POINTS_VERSION) read_families(r, plan);
    set_values(r, plan);
    /* Centers came with version 2, after the family that was there and before those that followed. */
    for (int f = 0; f < RBP_N_FAMILIES && rbp_families[f]->since <= plan->version; f++) {
        rbp_families[f]->read_columns(r, plan);
        if (f == ROPEBITS_FAMILY_GROUPS && plan->version != PLAN_RBP_PUBLISHED_VERSION) read_centers(r, plan);
    }
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
