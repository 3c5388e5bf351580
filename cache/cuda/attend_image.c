/* See attend_image.h. */
#include "cache/cuda/attend_image.h"

#include <stdlib.h>
#include <string.h>

#include "cache/cuda/attend_families.h"
#include "cache/cuda/attend_units.h"
#include "core/half.h"

static int larger(int a, int b) { return a > b ? a : b; }

static bool is_wide_head(const plan_head *head, int n_blocks)
{
    bool is_wide = false;
    if (head->family == FAMILY_BLOCK_CODEBOOK)
        for (int b = 0; b < n_blocks; b++) is_wide |= block_codebook_has_levels(head->block_codebook.bits[b]);
    if (head->family == FAMILY_GROUPS)
        for (int g = 0; g < head->groups.n; g++) is_wide |= head->groups.at[g].width > ATTEND_PAIR_WIDTH;
    return is_wide;
}

/* Groups of keys say each for itself whether they are wide. */
static attend_reader find_reader(const plan_head *heads, int n_heads, int n_blocks, bool is_values)
{
    if (!heads) return ATTEND_F16;
    if (heads[0].family == FAMILY_TRELLIS) return ATTEND_TRELLIS;
    if (heads[0].family == FAMILY_GROUPS && !is_values) return ATTEND_PAIRS;
    for (int h = 0; h < n_heads; h++)
        if (is_wide_head(&heads[h], n_blocks)) return ATTEND_WIDE_PAIRS;
    return ATTEND_PAIRS;
}

static rb_status make_head(const attend_maker *m, int h, const cache_layout *layout, rb_error *err)
{
    attend_head *own = &m->side->heads[h];
    rb_status st = RB_OK;
    own->part = m->is_values ? layout->heads[h].values : layout->heads[h].keys;
    own->gains[0] = own->largest_gain = 1.0f;
    m->side->max_code_bytes = larger(m->side->max_code_bytes, own->part.code_bytes);
    m->side->max_norm_bytes = larger(m->side->max_norm_bytes, own->part.norm_bytes);
    if (!m->heads) return RB_OK;
    const plan_head *head = &m->heads[h];
    switch (head->family) {
    case FAMILY_GROUPS: RB_TRY(st, attend_make_groups(m, own, head, err), done); break;
    case FAMILY_BLOCK_CODEBOOK: RB_TRY(st, attend_make_block_codebook(m, own, head, err), done); break;
    case FAMILY_TRELLIS: RB_TRY(st, attend_make_trellis(m, own, head, err), done); break;
    case FAMILY_N_KINDS: break;
    }
    if (!m->is_values) st = attend_add_turns(m, own, head, err);
done:
    return st;
}

static rb_status copy_tables(attend_side *side, rb_error *err)
{
    enum { N = (TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES };
    const rb_status st = rb_alloc(&side->tables, N, sizeof *side->tables, "attention tables", err);
    for (int i = 0; st == RB_OK && i < N; i++)
        side->tables[i] = rb_f32_to_f16(trellis_tables[i / TRELLIS_STATES][i % TRELLIS_STATES]);
    side->n_tables = st == RB_OK ? N : 0;
    return st;
}

static rb_status copy_dims(attend_side *side, const model_facts *model, rb_error *err)
{
    const int n = model_n_blocks(model);
    const rb_status st = rb_alloc(&side->dims, 2 * (size_t)n, sizeof *side->dims, "attention tables", err);
    for (int b = 0; st == RB_OK && b < n; b++) {
        int dims[2];
        model_block_dims(model, b, dims);
        for (int i = 0; i < 2; i++) side->dims[2 * b + i] = (uint16_t)dims[i];
    }
    side->n_block_dims = st == RB_OK ? 2 * (uint64_t)n : 0;
    return st;
}

rb_status attend_side_build(attend_side **out, const plan_head *heads, const model_facts *model, int layer,
                            bool is_values, const cache_layout *layout, codec_tables *tables, rb_error *err)
{
    attend_side *side = NULL;
    attend_maker m = {.heads = heads, .model = model, .layer = layer, .is_values = is_values, .tables = tables};
    rb_status st;
    *out = NULL;
    if (model->head_dim % ATTEND_STEP != 0 || model->head_dim > ATTEND_STEP * ATTEND_MAX_STEPS)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "attention over packed pages: head_dim is %d, expected a multiple of %d "
                       "up to %d",
                       model->head_dim, ATTEND_STEP, ATTEND_STEP * ATTEND_MAX_STEPS);
    RB_TRY(st, rb_alloc(&side, 1, sizeof *side, "attention tables", err), done);
    m.side = side;
    side->n_heads = model->n_kv_heads;
    side->n_dims = model->head_dim;
    side->reader = find_reader(heads, model->n_kv_heads, model_n_blocks(model), is_values);
    side->is_product = !is_values && heads && heads[0].family != FAMILY_BLOCK_CODEBOOK;
    RB_TRY(st, rb_alloc(&side->heads, (size_t)side->n_heads, sizeof *side->heads, "attention tables", err), done);
    RB_TRY(st, copy_dims(side, model, err), done);
    if (side->reader == ATTEND_TRELLIS) RB_TRY(st, copy_tables(side, err), done);
    for (int h = 0; h < side->n_heads; h++) RB_TRY(st, make_head(&m, h, layout, err), done);
    *out = side;
    side = NULL;
done:
    attend_side_free(side);
    return st;
}

void attend_side_list_parts(attend_side *side, attend_side_part parts[ATTEND_SIDE_PARTS])
{
    const attend_side_part all[ATTEND_SIDE_PARTS] = {
        {(void **)&side->heads, (uint64_t)side->n_heads * sizeof *side->heads},
        {(void **)&side->units, side->n_units * sizeof *side->units},
        {(void **)&side->groups, side->n_groups * sizeof *side->groups},
        {(void **)&side->books, side->n_books * sizeof *side->books},
        {(void **)&side->tables, side->n_tables * sizeof *side->tables},
        {(void **)&side->turns, side->n_turns * sizeof *side->turns},
        {(void **)&side->centers, side->n_centers * sizeof *side->centers},
        {(void **)&side->blocks, side->n_blocks * sizeof *side->blocks},
        {(void **)&side->dims, side->n_block_dims * sizeof *side->dims},
        {(void **)&side->fragments, side->n_fragments * sizeof *side->fragments},
        {(void **)&side->matrix, side->n_matrix * sizeof *side->matrix}};
    memcpy(parts, all, sizeof all);
}

void attend_side_free(attend_side *side)
{
    attend_side_part parts[ATTEND_SIDE_PARTS];
    if (!side) return;
    attend_side_list_parts(side, parts);
    for (int i = 0; i < ATTEND_SIDE_PARTS; i++) free(*parts[i].pointer);
    free(side);
}
