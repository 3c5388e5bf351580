/* See block_codebook_cells.h. */
#include "kernels/cuda/block_codebook_cells.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/block_codebook_image.h"

/* Half of the error of the device's tanh, 2^-11, is for the rounding of u and of the cell. */
#define GRID_MARGIN 1e-3
/* A block that its map squeezes more than this has no cells: rounding would move it across them. */
#define MOST_SKEW     1000.0
#define CELLS_A_POINT 8.0
#define MOST_STRETCH  3.0 /* of columns against rows: its square, and above that points lie in rows of their own */

/* A cell's place in what the grid cuts; at the rim it is infinite. */
typedef struct cell_box {
    double from[2], to[2];
} cell_box;

static double cell_edge(double index, int n_cells)
{
    const double t = 2.0 * index / (n_cells - 1) - 1.0;
    return t <= -1.0 ? -INFINITY : t >= 1.0 ? INFINITY : atanh(t) / BLOCK_CODEBOOK_GRID_SCALE;
}

static cell_box box_of(const block_codebook_grid *grid, int cell)
{
    const int at[2] = {cell % grid->n_cells[0], cell / grid->n_cells[0]};
    cell_box box;
    for (int i = 0; i < 2; i++) {
        const double margin = GRID_MARGIN * (grid->n_cells[i] - 1) / 2.0;
        box.from[i] = at[i] == 0 ? -INFINITY : cell_edge(at[i] - 0.5 - margin, grid->n_cells[i]);
        box.to[i] = at[i] == grid->n_cells[i] - 1 ? INFINITY : cell_edge(at[i] + 0.5 + margin, grid->n_cells[i]);
    }
    return box;
}

/* What makes the cells of a block. */
typedef struct cell_builder {
    const block_codebook_grid *grid;
    double (*points)[2]; /* [size], turned */
    int size;
} cell_builder;

/* Whether a point is farther than another everywhere in the box: the difference of their squared distances is linear,
 * and least in a corner. */
static bool is_beaten(const cell_builder *b, int point, int other, const cell_box *box)
{
    const double *p = b->points[point], *q = b->points[other];
    double least = 0.0;
    for (int i = 0; i < 2; i++) {
        const double slope = b->grid->square[i] * (q[i] - p[i]);
        least -= slope * (q[i] + p[i]);
        if (slope != 0.0) least += 2.0 * slope * (slope > 0.0 ? box->from[i] : box->to[i]);
    }
    return least > 0.0;
}

static int nearest_to_middle(const cell_builder *b, const cell_box *box)
{
    static const double FAR = 8.0;
    double middle[2], least = INFINITY;
    int nearest = 0;
    for (int i = 0; i < 2; i++) middle[i] = 0.5 * (fmax(box->from[i], -FAR) + fmin(box->to[i], FAR));
    for (int c = 0; c < b->size; c++) {
        double distance = 0.0;
        for (int i = 0; i < 2; i++)
            distance += b->grid->square[i] * (middle[i] - b->points[c][i]) * (middle[i] - b->points[c][i]);
        if (distance >= least) continue;
        least = distance;
        nearest = c;
    }
    return nearest;
}

/* Points that no single other one beats everywhere in the box, ascending: all that are nearest somewhere, and few more.
 */
static int list_cell(const cell_builder *b, const cell_box *box, int16_t *list)
{
    const int middle = nearest_to_middle(b, box);
    int16_t left[BLOCK_CODEBOOK_MAX_POINTS];
    int n_left = 0, n = 0;
    for (int c = 0; c < b->size; c++)
        if (c == middle || !is_beaten(b, c, middle, box)) left[n_left++] = (int16_t)c;
    for (int i = 0; i < n_left; i++) {
        bool is_needed = true;
        for (int j = 0; j < n_left && is_needed; j++) is_needed = j == i || !is_beaten(b, left[i], left[j], box);
        if (is_needed) list[n++] = left[i];
    }
    return n;
}

static size_t words_a_cell(int bits) { return bits > BLOCK_CODEBOOK_BYTE_BITS ? 2 : 1; }

static rb_status add_long_list(block_cells *cells, const int16_t *list, int n, rb_error *err)
{
    const size_t n_words = ((size_t)n + 2) / 2;
    if (cells->n + n_words > cells->room) {
        const size_t room = 2 * (cells->n + n_words);
        uint32_t *larger = NULL;
        const rb_status st = rb_alloc(&larger, room, sizeof *larger, "cells", err);
        if (st != RB_OK) return st;
        memcpy(larger, cells->words, cells->n * sizeof *larger);
        free(cells->words);
        cells->words = larger;
        cells->room = room;
    }
    uint16_t *to = (uint16_t *)(void *)(cells->words + cells->n);
    to[0] = (uint16_t)n;
    for (int i = 0; i < n; i++) to[1 + i] = (uint16_t)list[i];
    cells->n += n_words;
    return RB_OK;
}

static rb_status store_cell(block_cells *cells, int cell, int bits, const int16_t *list, int n, rb_error *err)
{
    const uint32_t width = bits > BLOCK_CODEBOOK_BYTE_BITS ? 16 : 8;
    uint64_t all = 0;
    if (n > BLOCK_CODEBOOK_CELL_CODES) {
        if (cells->n >> 2 * width)
            return rb_fail(err, RB_EUNSUPPORTED, "cells of a block of %d bits take %zu words, the kernels take %u",
                           bits, cells->n, 1u << 2 * width);
        all = ((uint64_t)1 << width) - 1u + ((uint64_t)cells->n << width);
        const rb_status st = add_long_list(cells, list, n, err);
        if (st != RB_OK) return st;
    }
    const uint32_t shift = bits <= BLOCK_CODEBOOK_OFFSET_BITS ? 2 : 0;
    for (uint32_t i = 0; n <= BLOCK_CODEBOOK_CELL_CODES && i < BLOCK_CODEBOOK_CELL_CODES; i++)
        all |= (uint64_t)(uint16_t)list[(int)i < n ? (int)i : n - 1] << (width * i + shift);
    uint32_t *words = cells->words + (size_t)cell * words_a_cell(bits);
    words[0] = (uint32_t)all;
    if (width == 16) words[1] = (uint32_t)(all >> 32);
    return RB_OK;
}

/* Odd, so that half of them less one is a whole number. */
static int odd_from(double n)
{
    const int whole = (int)n;
    return whole + 1 - whole % 2;
}

block_codebook_grid block_codebook_grid_of(const plan_block_codebook *plan, int block)
{
    const float *map = plan->maps + BLOCK_CODEBOOK_MAP_SIZE * block;
    const double m[3] = {(double)map[0], (double)map[1], (double)map[2]};
    const double a = m[0] * m[0] + m[1] * m[1], b = m[1] * m[2], c = m[2] * m[2], mean = 0.5 * (a + c),
                 spread = hypot(0.5 * (a - c), b);
    const int bits = plan->bits[block];
    block_codebook_grid grid = {.square = {mean + spread, mean - spread}};
    if (bits < BLOCK_CODEBOOK_GRID_MIN_BITS || block_codebook_has_levels(bits) || m[0] == 0.0 || m[2] == 0.0
        || grid.square[0] > MOST_SKEW * MOST_SKEW * grid.square[1])
        return grid;
    const double angle = 0.5 * atan2(b, 0.5 * (a - c)), turn[2] = {cos(angle), sin(angle)};
    const double back[3] = {1.0 / m[0], -m[1] / (m[0] * m[2]), 1.0 / m[2]}; /* of the map: 00, 10, 11 */
    const double n = (bits > BLOCK_CODEBOOK_BYTE_BITS ? 0.5 : 1.0) * CELLS_A_POINT * (double)(1 << bits),
                 stretch = fmin(sqrt(sqrt(grid.square[0] / grid.square[1])), MOST_STRETCH);
    memcpy(grid.turn, turn, sizeof turn);
    grid.to_book[0] = turn[0] * back[0] + turn[1] * back[1];
    grid.to_book[1] = turn[1] * back[2];
    grid.to_book[2] = -turn[1] * back[0] + turn[0] * back[1];
    grid.to_book[3] = turn[0] * back[2];
    grid.n_cells[0] = odd_from(sqrt(n) * stretch);
    grid.n_cells[1] = odd_from(sqrt(n) / stretch);
    return grid;
}

size_t block_cells_words(const plan_block_codebook *plan, int block)
{
    const block_codebook_grid grid = block_codebook_grid_of(plan, block);
    return (size_t)grid.n_cells[0] * (size_t)grid.n_cells[1] * words_a_cell(plan->bits[block]);
}

rb_status block_cells_build(block_cells *cells, const plan_block_codebook *plan, int block, const block_codebook *book,
                            rb_error *err)
{
    const block_codebook_grid grid = block_codebook_grid_of(plan, block);
    cell_builder b = {.grid = &grid, .size = book->size};
    int16_t list[BLOCK_CODEBOOK_MAX_POINTS];
    rb_status st;
    cells->n = cells->room = block_cells_words(plan, block);
    RB_TRY(st, rb_alloc(&cells->words, cells->room, sizeof *cells->words, "cells", err), done);
    RB_TRY(st, rb_alloc(&b.points, (size_t)book->size, sizeof *b.points, "cells", err), done);
    for (int c = 0; c < book->size; c++) {
        const double x = (double)book->x[c], y = (double)book->y[c];
        b.points[c][0] = grid.turn[0] * x + grid.turn[1] * y;
        b.points[c][1] = grid.turn[0] * y - grid.turn[1] * x;
    }
    for (int cell = 0; cell < grid.n_cells[0] * grid.n_cells[1]; cell++) {
        const cell_box box = box_of(&grid, cell);
        RB_TRY(st, store_cell(cells, cell, book->bits, list, list_cell(&b, &box, list), err), done);
    }
done:
    free(b.points);
    return st;
}
