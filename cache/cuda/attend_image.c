/* See attend_image.h. */
#include "cache/cuda/attend_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cuda/attend_units.h"
#include "core/half.h"

/* What is being made, and of what. */
typedef struct side_maker {
    attend_side *side;
    const plan_head *heads;
    const model_facts *model;
    int layer;
    bool is_values;
    codec_tables *tables;
} side_maker;

static uint16_t f16(double x) { return rb_f32_to_f16((float)x); }
static uint32_t f16_pair(double x, double y) { return f16(x) | (uint32_t)f16(y) << 16; }

/* n elements more at the end of an array of the side; *first is where they start. */
static rb_status append(void *array, uint64_t *count, uint64_t n, size_t elem_size, int64_t *first, rb_error *err)
{
    void *grown = NULL, *before;
    rb_status st;
    memcpy(&before, array, sizeof before);
    RB_TRY(st, rb_alloc(&grown, *count + n, elem_size, "attention tables", err), done);
    if (*count > 0) memcpy(grown, before, *count * elem_size);
    free(before);
    memcpy(array, &grown, sizeof grown);
    *first = (int64_t)*count;
    *count += n;
done:
    return st;
}

static int larger(int a, int b) { return a > b ? a : b; }

/* ---- turning: R_b M, R_b c ------------------------------------------------------------------- */

/* (x, y) turned by row b of a tile, in a block. */
static void turn(double out[2], const side_maker *m, int block, int row, double x, double y)
{
    const double angle = row * model_block_freq(m->model, m->layer, block), c = cos(angle), s = sin(angle),
                 gain = model_block_gain(m->model, m->layer, block);
    out[0] = gain * (x * c - y * s);
    out[1] = gain * (x * s + y * c);
}

/* The RoPE blocks of column i and c of a head's step: blocks [n_steps][2][4]. */
static int block_at(const attend_side *side, const attend_head *head, int step, int i, int c)
{
    return side->blocks[head->first_block + step * 8 + i * 4 + c];
}

static void set_turn(const side_maker *m, const attend_head *own, const plan_head *head, int step, int i, int lane)
{
    const int block = block_at(m->side, own, step, i, lane % 4), row = lane / 4;
    uint32_t *turns = m->side->turns + own->first_turn + ((step * 2 + i) * 32 + lane) * 4;
    uint32_t *centers = m->side->centers + own->first_center + (step * 32 + lane) * 4;
    if (block >= model_n_blocks(m->model)) return;
    const float *map = m->side->is_product ? NULL : head->block_codebook.maps + block * BLOCK_CODEBOOK_MAP_SIZE;
    int dims[2];
    model_block_dims(m->model, block, dims);
    for (int half = 0; half < 2; half++) {
        double column[2];
        turn(column, m, block, row + 8 * half, map ? (double)map[0] : 1.0, map ? (double)map[1] : 0.0);
        turns[2 * half] = f16_pair(column[0], column[1]);
        turn(column, m, block, row + 8 * half, 0.0, map ? (double)map[2] : 1.0);
        turns[2 * half + 1] = f16_pair(column[0], column[1]);
        if (!head->center) continue;
        turn(column, m, block, row + 8 * half, (double)head->center[dims[0]], (double)head->center[dims[1]]);
        centers[2 * i + half] = f16_pair(column[0], column[1]);
    }
}

/* After the head's blocks are known. */
static rb_status make_turns(const side_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    attend_side *side = m->side;
    const uint64_t lanes = (uint64_t)own->n_steps * 32;
    rb_status st;
    RB_TRY(st, append(&side->turns, &side->n_turns, lanes * 8, sizeof *side->turns, &own->first_turn, err), done);
    RB_TRY(st, append(&side->centers, &side->n_centers, lanes * 4, sizeof *side->centers, &own->first_center, err),
           done);
    own->has_center = head->center != NULL;
    for (int step = 0; step < own->n_steps; step++)
        for (int i = 0; i < 2; i++)
            for (int lane = 0; lane < 32; lane++) set_turn(m, own, head, step, i, lane);
done:
    return st;
}

static rb_status add_blocks(const side_maker *m, attend_head *own, int n_steps, rb_error *err)
{
    attend_side *side = m->side;
    int64_t first;
    rb_status st;
    RB_TRY(st, append(&side->blocks, &side->n_blocks, (uint64_t)n_steps * 8, sizeof *side->blocks, &first, err), done);
    if (own->n_steps == 0) own->first_block = first;
    own->n_steps += n_steps;
    for (int i = 0; i < n_steps * 8; i++) side->blocks[first + i] = UINT16_MAX;
    side->max_dim_steps = larger(side->max_dim_steps, own->n_steps);
done:
    return st;
}

/* ---- units ----------------------------------------------------------------------------------- */

static rb_status add_units(const side_maker *m, attend_head *own, int n, attend_unit **units, rb_error *err)
{
    attend_side *side = m->side;
    int64_t first;
    const rb_status st = append(&side->units, &side->n_units, (uint64_t)n, sizeof *side->units, &first, err);
    if (st != RB_OK) return st;
    if (own->n_units == 0) own->first_unit = (int)first;
    own->n_units += n;
    side->max_units = larger(side->max_units, own->n_units);
    *units = side->units + first;
    return RB_OK;
}

/* Pairs four by four: unit u of lane l has those from 4 (u n_lanes + l) on. */
static rb_status add_pair_units(const side_maker *m, attend_head *own, const attend_pair *pairs, int n, int n_lanes,
                                bool is_wide, rb_error *err)
{
    const int n_units = (n + 4 * n_lanes - 1) / (4 * n_lanes);
    attend_unit *units = NULL;
    const rb_status st = add_units(m, own, n_units * n_lanes, &units, err);
    for (int i = 0; st == RB_OK && i < n_units * n_lanes; i++) {
        const int left = n - 4 * i < 0 ? 0 : n - 4 * i > 4 ? 4 : n - 4 * i;
        attend_unit_of_pairs(&units[i], pairs + (left > 0 ? 4 * i : 0), left, is_wide);
        if (!is_wide && i % n_lanes == n_lanes - 1) attend_units_agree(&units[i + 1 - n_lanes], n_lanes);
    }
    return st;
}

/* Quads in order: unit u of lane l is quad u * n_lanes + l. */
static rb_status add_quad_units(const side_maker *m, attend_head *own, const plan_trellis *plan, int n_lanes,
                                rb_error *err)
{
    const int n_quads = (plan->n_dims + 3) / 4, n = (n_quads + n_lanes - 1) / n_lanes * n_lanes;
    int starts[256], bit = 0;
    attend_unit *units = NULL;
    rb_status st;
    own->plane_widths = attend_plane_widths(plan, &own->n_planes);
    m->side->max_planes = larger(m->side->max_planes, own->n_planes);
    for (int i = 0; i < plan->n_dims; i++) {
        starts[i] = bit;
        bit += plan->widths[i];
    }
    own->gain_at = bit;
    RB_TRY(st, add_units(m, own, n, &units, err), done);
    for (int q = 0; q < n; q++) attend_unit_of_quad(&units[q], plan, starts, q, own->plane_widths);
    for (int q = 0; q < n; q += n_lanes) attend_units_agree(&units[q], n_lanes);
done:
    return st;
}

/* ---- products -------------------------------------------------------------------------------- */

/* What numbers add to dims. */
typedef struct number_matrix {
    const double *at; /* [n_numbers][n_dims] */
    int n_numbers, n_dims;
} number_matrix;

static double entry(const number_matrix *matrix, int number, int dim)
{
    return number >= matrix->n_numbers ? 0.0 : matrix->at[(size_t)number * (size_t)matrix->n_dims + dim];
}

/* The number at column 2 c (of 16; i 1: 8 more) of a step, whose unit has four numbers of a trellis, or eight of pairs
 * for two steps. */
static int number_at(bool is_trellis, int step, int i, int c)
{
    return is_trellis ? 4 * (4 * step + c) + 2 * i : 8 * (4 * (step / 2) + c) + 4 * (step % 2) + 2 * i;
}

static rb_status add_fragments(const side_maker *m, attend_head *own, attend_group *group, const number_matrix *matrix,
                               bool is_trellis, rb_error *err)
{
    attend_side *side = m->side;
    const int n = group->dim_steps * 2 * group->steps * 64;
    int64_t first;
    rb_status st;
    RB_TRY(st, append(&side->fragments, &side->n_fragments, (uint64_t)n, sizeof *side->fragments, &first, err), done);
    if (own->n_fragment_words == 0) own->first_fragment = first;
    group->first_fragment = (int)(first - own->first_fragment);
    own->n_fragment_words += n;
    side->max_fragment_words = larger(side->max_fragment_words, own->n_fragment_words);
    for (int at = 0; at < n; at++) {
        const int word = at % 2, lane = at / 2 % 32, step = at / 64 % group->steps, tile = at / 64 / group->steps,
                  column = lane / 4;
        const int block = block_at(side, own, group->first_dim_step + tile / 2, tile % 2, column / 2);
        const int number = number_at(is_trellis, step, word, lane % 4);
        if (block >= model_n_blocks(m->model)) continue;
        int dims[2];
        model_block_dims(m->model, block, dims);
        side->fragments[first + at] =
            f16_pair(entry(matrix, number, dims[column % 2]), entry(matrix, number + 1, dims[column % 2]));
    }
done:
    return st;
}

static rb_status add_group(const side_maker *m, attend_head *own, const attend_group *group, rb_error *err)
{
    attend_side *side = m->side;
    int64_t first;
    const rb_status st = append(&side->groups, &side->n_groups, 1, sizeof *side->groups, &first, err);
    if (st != RB_OK) return st;
    side->groups[first] = *group;
    if (own->n_groups == 0) own->first_group = (int)first;
    own->n_groups++;
    side->max_groups = larger(side->max_groups, own->n_groups);
    side->max_steps = larger(side->max_steps, group->steps);
    return RB_OK;
}

/* ---- family trellis -------------------------------------------------------------------------- */

static void set_gains(attend_head *own, int gain_bits, const double *gains)
{
    own->gain_mask = (1 << gain_bits) - 1;
    own->largest_gain = 1.0f;
    for (int l = 0; l < 1 << gain_bits; l++) {
        own->gains[l] = (float)gains[l];
        if (l == 0 || own->gains[l] > own->largest_gain) own->largest_gain = own->gains[l];
    }
}

static rb_status make_trellis_keys(const side_maker *m, attend_head *own, const plan_trellis *plan, rb_error *err)
{
    const int n_blocks = model_n_blocks(m->model);
    double *basis = NULL;
    attend_group group = {.first_unit = 0, .steps = (plan->n_dims + 15) / 16, .dim_steps = (n_blocks + 7) / 8};
    rb_status st;
    RB_TRY(st, add_quad_units(m, own, plan, 4, err), done);
    RB_TRY(st, add_blocks(m, own, group.dim_steps, err), done);
    for (int b = 0; b < n_blocks; b++) m->side->blocks[own->first_block + b] = (uint16_t)b;
    RB_TRY(st, rb_alloc(&basis, (size_t)plan->n_dims * (size_t)plan->n_dims, sizeof *basis, "basis", err), done);
    for (int i = 0; i < plan->n_dims * plan->n_dims; i++) basis[i] = (double)plan->basis[i];
    const number_matrix matrix = {basis, plan_trellis_n_coded(plan), plan->n_dims};
    RB_TRY(st, add_fragments(m, own, &group, &matrix, true, err), done);
    st = add_group(m, own, &group, err);
done:
    free(basis);
    return st;
}

static rb_status add_matrix(const side_maker *m, attend_head *own, const plan_head *head, float **matrix, rb_error *err)
{
    attend_side *side = m->side;
    const int n = side->n_dims;
    const rb_status st = append(&side->matrix, &side->n_matrix, (uint64_t)(n + 1) * (uint64_t)n, sizeof *side->matrix,
                                &own->first_matrix, err);
    if (st != RB_OK) return st;
    *matrix = side->matrix + own->first_matrix;
    for (int d = 0; head->center && d < n; d++) (*matrix)[n * n + d] = head->center[d];
    own->has_center = head->center != NULL;
    return RB_OK;
}

static rb_status make_trellis(const side_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    const plan_trellis *plan = &head->trellis;
    double gains[ATTEND_GAINS];
    float *matrix = NULL;
    rb_status st;
    for (int l = 0; l < 1 << plan->gain_bits; l++) gains[l] = exp2(0.5 * (l - plan->gain_zero));
    set_gains(own, plan->gain_bits, gains);
    if (!m->is_values) return make_trellis_keys(m, own, plan, err);
    RB_TRY(st, add_quad_units(m, own, plan, 8, err), done);
    RB_TRY(st, add_matrix(m, own, head, &matrix, err), done);
    memcpy(matrix, plan->basis, (size_t)plan_trellis_n_coded(plan) * (size_t)plan->n_dims * sizeof *matrix);
done:
    return st;
}

/* ---- family block-codebook ------------------------------------------------------------------- */

static rb_status add_book(const side_maker *m, attend_head *own, attend_book *book, rb_error *err)
{
    attend_side *side = m->side;
    const int n = book->n_halves / 2, room = (n + 3) / 4 * 4; /* blocks copy whole 16 bytes */
    const rb_status st = append(&side->books, &side->n_books, (uint64_t)room, sizeof *side->books, &own->first_book, err);
    if (st != RB_OK) return st;
    memcpy(side->books + own->first_book, book->halves, (size_t)n * sizeof *side->books);
    own->book_words = n;
    side->max_book_words = larger(side->max_book_words, room);
    return RB_OK;
}

static rb_status make_block_codebook(const side_maker *m, attend_head *own, const plan_head *head, rb_error *err)
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
    set_gains(own, head->block_codebook.gain_bits, gains);
    for (int b = 0; b < n_blocks; b++) {
        pairs[b] = attend_pair_of_block(head, b, bit, is_wide);
        bit += pairs[b].bits;
    }
    RB_TRY(st, attend_book_of_blocks(&book, head, n_blocks, is_wide, m->tables, err), done);
    RB_TRY(st, add_book(m, own, &book, err), done);
    RB_TRY(st, add_pair_units(m, own, pairs, n_blocks, 4, is_wide, err), done);
    RB_TRY(st, add_blocks(m, own, 2 * n_units, err), done);
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
static rb_status group_matrix(double **out, const side_maker *m, const plan_head *head, const plan_group *group,
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

static rb_status make_key_group(const side_maker *m, attend_head *own, const plan_head *head, int g,
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
    RB_TRY(st, add_pair_units(m, own, pairs, from->n_blocks, 4, group.is_wide, err), done);
    RB_TRY(st, add_blocks(m, own, group.dim_steps, err), done);
    for (int b = 0; b < from->n_blocks; b++)
        m->side->blocks[own->first_block + group.first_dim_step * 8 + b] = (uint16_t)from->blocks[b];
    RB_TRY(st, group_matrix(&matrix, m, head, from, err), done);
    const number_matrix numbers = {matrix, n, m->model->head_dim};
    RB_TRY(st, add_fragments(m, own, &group, &numbers, false, err), done);
    st = add_group(m, own, &group, err);
done:
    free(matrix);
    return st;
}

static rb_status make_value_group(const side_maker *m, attend_head *own, const plan_head *head,
                                  const attend_pair *pairs, rb_error *err)
{
    const int n = m->side->n_dims;
    double *numbers = NULL;
    float *matrix = NULL;
    rb_status st;
    RB_TRY(st, add_pair_units(m, own, pairs, n / 2, 8, m->side->reader == ATTEND_WIDE_PAIRS, err), done);
    RB_TRY(st, add_matrix(m, own, head, &matrix, err), done);
    RB_TRY(st, group_matrix(&numbers, m, head, &head->groups.at[0], err), done);
    for (int i = 0; i < n * n; i++) matrix[i] = (float)numbers[i];
done:
    free(numbers);
    return st;
}

/* They come back as their centre, so they have turns. */
static rb_status add_blocks_of_no_group(const side_maker *m, attend_head *own, const plan_head *head, rb_error *err)
{
    bool is_covered[RB_MAX_BLOCKS] = {false};
    int n = 0;
    rb_status st;
    const int first = own->n_steps, n_blocks = model_n_blocks(m->model);
    for (int g = 0; g < head->groups.n; g++)
        for (int b = 0; b < head->groups.at[g].n_blocks; b++) is_covered[head->groups.at[g].blocks[b]] = true;
    for (int b = 0; b < n_blocks; b++) n += !is_covered[b];
    RB_TRY(st, add_blocks(m, own, (n + 7) / 8, err), done);
    for (int b = 0, at = 0; b < n_blocks; b++)
        if (!is_covered[b]) m->side->blocks[own->first_block + first * 8 + at++] = (uint16_t)b;
done:
    return st;
}

static rb_status make_groups(const side_maker *m, attend_head *own, const plan_head *head, rb_error *err)
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
    if (book.n_halves > 0) RB_TRY(st, add_book(m, own, &book, err), done);
    if (!m->is_values && head->center) st = add_blocks_of_no_group(m, own, head, err);
done:
    free(book.halves);
    return st;
}

/* ---- a layer --------------------------------------------------------------------------------- */

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

static rb_status make_head(const side_maker *m, int h, const cache_layout *layout, rb_error *err)
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
    case FAMILY_GROUPS: RB_TRY(st, make_groups(m, own, head, err), done); break;
    case FAMILY_BLOCK_CODEBOOK: RB_TRY(st, make_block_codebook(m, own, head, err), done); break;
    case FAMILY_TRELLIS: RB_TRY(st, make_trellis(m, own, head, err), done); break;
    case FAMILY_N_KINDS: break;
    }
    if (!m->is_values) st = make_turns(m, own, head, err);
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
    side_maker m = {.heads = heads, .model = model, .layer = layer, .is_values = is_values, .tables = tables};
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
