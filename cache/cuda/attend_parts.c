/* See attend_parts.h. */
#include "cache/cuda/attend_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"

static uint16_t f16(double x) { return rb_f32_to_f16((float)x); }
static uint32_t f16_pair(double x, double y) { return f16(x) | (uint32_t)f16(y) << 16; }
static int larger(int a, int b) { return a > b ? a : b; }

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

/* ---- turning: R_b M, R_b c ------------------------------------------------------------------- */

/* (x, y) turned by row b of a tile, in a block. */
static void turn(double out[2], const attend_maker *m, int block, int row, double x, double y)
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

static void set_turn(const attend_maker *m, const attend_head *own, const plan_head *head, int step, int i, int lane)
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

rb_status attend_add_turns(const attend_maker *m, attend_head *own, const plan_head *head, rb_error *err)
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

rb_status attend_add_blocks(const attend_maker *m, attend_head *own, int n_steps, rb_error *err)
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

static rb_status add_units(const attend_maker *m, attend_head *own, int n, attend_unit **units, rb_error *err)
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

rb_status attend_add_pair_units(const attend_maker *m, attend_head *own, const attend_pair *pairs, int n, int n_lanes,
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

rb_status attend_add_quad_units(const attend_maker *m, attend_head *own, const plan_trellis *plan, int n_lanes,
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

/* ---- books, gains, matrices ------------------------------------------------------------------ */

rb_status attend_add_book(const attend_maker *m, attend_head *own, const attend_book *book, rb_error *err)
{
    attend_side *side = m->side;
    const int n = book->n_halves / 2, room = (n + 3) / 4 * 4; /* blocks copy whole 16 bytes */
    const rb_status st =
        append(&side->books, &side->n_books, (uint64_t)room, sizeof *side->books, &own->first_book, err);
    if (st != RB_OK) return st;
    memcpy(side->books + own->first_book, book->halves, (size_t)n * sizeof *side->books);
    own->book_words = n;
    side->max_book_words = larger(side->max_book_words, room);
    return RB_OK;
}

void attend_set_gains(attend_head *own, int gain_bits, const double *gains)
{
    own->gain_mask = (1 << gain_bits) - 1;
    own->largest_gain = 1.0f;
    for (int l = 0; l < 1 << gain_bits; l++) {
        own->gains[l] = (float)gains[l];
        if (l == 0 || own->gains[l] > own->largest_gain) own->largest_gain = own->gains[l];
    }
}

rb_status attend_add_matrix(const attend_maker *m, attend_head *own, const plan_head *head, float **matrix,
                            rb_error *err)
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

/* ---- products -------------------------------------------------------------------------------- */

static double entry(const attend_numbers *matrix, int number, int dim)
{
    return number >= matrix->n_numbers ? 0.0 : matrix->at[(size_t)number * (size_t)matrix->n_dims + dim];
}

/* The number at column 2 c (of 16; i 1: 8 more) of a step, whose unit has four numbers of a trellis, or eight of pairs
 * for two steps. */
static int number_at(bool is_trellis, int step, int i, int c)
{
    return is_trellis ? 4 * (4 * step + c) + 2 * i : 8 * (4 * (step / 2) + c) + 4 * (step % 2) + 2 * i;
}

rb_status attend_add_fragments(const attend_maker *m, attend_head *own, attend_group *group,
                               const attend_numbers *matrix, bool is_trellis, rb_error *err)
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

rb_status attend_add_group(const attend_maker *m, attend_head *own, const attend_group *group, rb_error *err)
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
