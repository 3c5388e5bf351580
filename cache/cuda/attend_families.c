/* See attend_families.h. */
#include "cache/cuda/attend_families.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- family trellis -------------------------------------------------------------------------- */

static rb_status make_trellis_keys(const attend_maker *m, attend_head *own, const plan_trellis *plan, rb_error *err)
{
    const int n_blocks = model_n_blocks(m->model);
    double *basis = NULL;
    attend_group group = {.first_unit = 0, .steps = (plan->n_dims + 15) / 16, .dim_steps = (n_blocks + 7) / 8};
    rb_status st;
    RB_TRY(st, attend_add_quad_units(m, own, plan, 4, err), done);
    RB_TRY(st, attend_add_blocks(m, own, group.dim_steps, err), done);
    for (int b = 0; b < n_blocks; b++) m->side->blocks[own->first_block + b] = (uint16_t)b;
    RB_TRY(st, rb_alloc(&basis, (size_t)plan->n_dims * (size_t)plan->n_dims, sizeof *basis, "basis", err), done);
    for (int i = 0; i < plan->n_dims * plan->n_dims; i++) basis[i] = (double)plan->basis[i];
    const attend_numbers matrix = {basis, plan_trellis_n_coded(plan), plan->n_dims};
    RB_TRY(st, attend_add_fragments(m, own, &group, &matrix, true, err), done);
    st = attend_add_group(m, own, &group, err);
done:
    free(basis);
    return st;
}

rb_status attend_make_trellis(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    const plan_trellis *plan = &head->trellis;
    double gains[ATTEND_GAINS];
    float *matrix = NULL;
    rb_status st;
    for (int l = 0; l < 1 << plan->gain_bits; l++) gains[l] = exp2(0.5 * (l - plan->gain_zero));
    attend_set_gains(own, plan->gain_bits, gains);
    if (!m->is_values) return make_trellis_keys(m, own, plan, err);
    RB_TRY(st, attend_add_quad_units(m, own, plan, 8, err), done);
    RB_TRY(st, attend_add_matrix(m, own, head, &matrix, err), done);
    memcpy(matrix, plan->basis, (size_t)plan_trellis_n_coded(plan) * (size_t)plan->n_dims * sizeof *matrix);
done:
    return st;
}

/* ---- family block-codebook ------------------------------------------------------------------- */

rb_status attend_make_block_codebook(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    const int n_blocks = model_n_blocks(m->model), n_units = (n_blocks + 15) / 16;
    const bool is_wide = m->side->reader == ATTEND_WIDE_PAIRS;
    attend_pair pairs[RB_MAX_BLOCKS];
    double gains[ATTEND_GAINS];
    attend_book book = {0};
    int bit = head->block_codebook.gain_bits;
    rb_status st;

    for (int l = 0; l < 1 << head->block_codebook.gain_bits; l++)
        gains[l] = exp2(0.5 * (l - (1 << head->block_codebook.gain_bits) / 4));
    attend_set_gains(own, head->block_codebook.gain_bits, gains);
    for (int b = 0; b < n_blocks; b++) {
        pairs[b] = attend_pair_of_block(head, b, bit, is_wide);
        bit += pairs[b].bits;
    }
    RB_TRY(st, attend_book_of_blocks(&book, head, n_blocks, is_wide, m->tables, err), done);
    RB_TRY(st, attend_add_book(m, own, &book, err), done);
    RB_TRY(st, attend_add_pair_units(m, own, pairs, n_blocks, 4, is_wide, err), done);
    RB_TRY(st, attend_add_blocks(m, own, 2 * n_units, err), done);
    for (int b = 0; b < n_blocks; b++)
        m->side->blocks[own->first_block + (b / 16 * 2 + b % 4 / 2) * 8 + b % 2 * 4 + b / 4 % 4] = (uint16_t)b;
done:
    free(book.halves);
    return st;
}

/* ---- family groups --------------------------------------------------------------------------- */

/* Codes of a group, two by two, in the stream from `bit` on. */
static void pairs_of_group(attend_pair *pairs, const plan_group *group, int bit, int table, bool is_wide)
{
    for (int i = 0; i < group->n_blocks; i++)
        pairs[i] =
            (attend_pair){bit + 2 * group->width * i, 2 * group->width, is_wide ? group->width : 0, table, table};
}

/* What number j of a group adds to the head's dims: row j of the rotation, over the scales. */
static rb_status group_matrix(double **out, const attend_maker *m, const plan_head *head, const plan_group *group,
                              rb_error *err)
{
    const int n = 2 * group->n_blocks, n_dims = m->model->head_dim;
    const double *rotation;
    double *matrix = NULL;
    int dims[256];
    rb_status st;
    RB_TRY(st, codec_tables_rotation(m->tables, &group->rotation, &rotation, err), done);
    RB_TRY(st, rb_alloc(&matrix, (size_t)n * (size_t)n_dims, sizeof *matrix, "attention tables", err), done);
    plan_group_dims(group, m->model, dims);
    for (int j = 0; j < n; j++)
        for (int p = 0; p < n; p++) matrix[j * n_dims + dims[p]] = rotation[j * n + p];
    for (int b = 0; head->groups.scales && b < model_n_blocks(m->model); b++) {
        model_block_dims(m->model, b, dims);
        for (int j = 0; j < n; j++)
            for (int i = 0; i < 2; i++) matrix[j * n_dims + dims[i]] /= (double)head->groups.scales[b];
    }
    *out = matrix;
done:
    return st;
}

static rb_status make_key_group(const attend_maker *m, attend_head *own, const plan_head *head, int g,
                                const attend_pair *pairs, rb_error *err)
{
    const plan_group *from = &head->groups.at[g];
    const int n = 2 * from->n_blocks;
    attend_group group = {.first_unit = own->n_units,
                          .steps = (from->n_blocks + 15) / 16 * 2,
                          .dim_steps = (from->n_blocks + 7) / 8,
                          .first_dim_step = own->n_steps,
                          .norm_exponent = from->norm_exponent,
                          .is_wide = from->width > ATTEND_PAIR_WIDTH};
    double *matrix = NULL;
    rb_status st;
    RB_TRY(st, attend_add_pair_units(m, own, pairs, from->n_blocks, 4, group.is_wide, err), done);
    RB_TRY(st, attend_add_blocks(m, own, group.dim_steps, err), done);
    for (int b = 0; b < from->n_blocks; b++)
        m->side->blocks[own->first_block + group.first_dim_step * 8 + b] = (uint16_t)from->blocks[b];
    RB_TRY(st, group_matrix(&matrix, m, head, from, err), done);
    const attend_numbers numbers = {matrix, n, m->model->head_dim};
    RB_TRY(st, attend_add_fragments(m, own, &group, &numbers, false, err), done);
    st = attend_add_group(m, own, &group, err);
done:
    free(matrix);
    return st;
}

static rb_status make_value_group(const attend_maker *m, attend_head *own, const plan_head *head,
                                  const attend_pair *pairs, rb_error *err)
{
    const int n = m->side->n_dims;
    double *numbers = NULL;
    float *matrix = NULL;
    rb_status st;
    RB_TRY(st, attend_add_pair_units(m, own, pairs, n / 2, 8, m->side->reader == ATTEND_WIDE_PAIRS, err), done);
    RB_TRY(st, attend_add_matrix(m, own, head, &matrix, err), done);
    RB_TRY(st, group_matrix(&numbers, m, head, &head->groups.at[0], err), done);
    for (int i = 0; i < n * n; i++) matrix[i] = (float)numbers[i];
done:
    free(numbers);
    return st;
}

/* They come back as their centre, so they have turns. */
static rb_status add_blocks_of_no_group(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    bool is_covered[RB_MAX_BLOCKS] = {false};
    int n = 0;
    rb_status st;
    const int first = own->n_steps, n_blocks = model_n_blocks(m->model);
    for (int g = 0; g < head->groups.n; g++)
        for (int b = 0; b < head->groups.at[g].n_blocks; b++) is_covered[head->groups.at[g].blocks[b]] = true;
    for (int b = 0; b < n_blocks; b++) n += !is_covered[b];
    RB_TRY(st, attend_add_blocks(m, own, (n + 7) / 8, err), done);
    for (int b = 0, at = 0; b < n_blocks; b++)
        if (!is_covered[b]) m->side->blocks[own->first_block + first * 8 + at++] = (uint16_t)b;
done:
    return st;
}

rb_status attend_make_groups(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    attend_book book = {0};
    attend_pair pairs[RB_MAX_BLOCKS];
    int bit = 0, table = 0;
    rb_status st = RB_OK;
    own->norm_size = norm_kind_bits(head->groups.norm) / 8;
    for (int g = 0; g < head->groups.n; g++) {
        const plan_group *group = &head->groups.at[g];
        const bool is_wide = m->is_values ? m->side->reader == ATTEND_WIDE_PAIRS : group->width > ATTEND_PAIR_WIDTH;
        const codebook *from;
        RB_TRY(st, codec_tables_codebook(m->tables, group->codebook, group->width, 2 * group->n_blocks, &from, err),
               done);
        RB_TRY(st, attend_book_add(&book, from, is_wide, &table, err), done);
        pairs_of_group(pairs, group, bit, table, is_wide);
        st = m->is_values ? make_value_group(m, own, head, pairs, err) : make_key_group(m, own, head, g, pairs, err);
        if (st != RB_OK) goto done;
        bit += 2 * group->n_blocks * group->width;
    }
    if (book.n_halves > 0) RB_TRY(st, attend_add_book(m, own, &book, err), done);
    if (!m->is_values && head->center) st = add_blocks_of_no_group(m, own, head, err);
done:
    free(book.halves);
    return st;
}
