/* The image of heads of family block-codebook: see kernels/cuda/block_codebook_image.h. */
#include "kernels/cuda/block_codebook_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/cuda/block_codebook_search.h"
#include "kernels/cuda/codec_image.h"
#include "kernels/reference/block_codebook_codec.h"

/* tanh(GRID_SCALE u) follows erf(u / 2), the distribution of a universal codebook's points, whose density is the square
 * root of the normal law's. */
#define GRID_SCALE 0.6
/* Half of the error of the device's tanh, 2^-11, is for the rounding of u and of the cell. */
#define GRID_MARGIN 1e-3
/* A block that its map squeezes more than this has no cells: rounding would move it across them. */
#define MOST_SKEW     1000.0
#define CELLS_A_POINT 8.0
#define MOST_STRETCH  3.0 /* of columns against rows: its square, and above that points lie in rows of their own */

/* ---- cells ----------------------------------------------------------------------------------- */

/* A cell's place in what the grid cuts; at the rim it is infinite. */
typedef struct cell_box {
    double from[2], to[2];
} cell_box;

static double cell_edge(double index, int n_cells)
{
    const double t = 2.0 * index / (n_cells - 1) - 1.0;
    return t <= -1.0 ? -INFINITY : t >= 1.0 ? INFINITY : atanh(t) / GRID_SCALE;
}

/* How a block's two dims are cut into cells. z of gain 1 goes to u = to_book z: there points are those of the universal
 * codebook, turned, and distances are measured by `square`. */
typedef struct block_codebook_grid {
    double turn[2];   /* cos, sin: of the axis along which the map stretches most */
    double square[2]; /* what it stretches by along the axes, squared */
    double to_book[4];
    int n_cells[2]; /* columns, rows; 0: there are none */
} block_codebook_grid;

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

/* The cells of a block, then lists that have no room in theirs. */
typedef struct block_cells {
    uint32_t *words;
    size_t n, room;
} block_cells;

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

/* A block of fewer than BLOCK_CODEBOOK_GRID_MIN_BITS has no cells, nor has one whose map is singular or nearly so. */
static block_codebook_grid make_grid(const plan_block_codebook *plan, int block)
{
    const float *map = plan->maps + BLOCK_CODEBOOK_MAP_SIZE * block;
    const double m[3] = {(double)map[0], (double)map[1], (double)map[2]};
    const double a = m[0] * m[0] + m[1] * m[1], b = m[1] * m[2], c = m[2] * m[2], mean = 0.5 * (a + c),
                 spread = hypot(0.5 * (a - c), b);
    const int bits = plan->bits[block];
    block_codebook_grid grid = {.square = {mean + spread, mean - spread}};
    if (bits < BLOCK_CODEBOOK_GRID_MIN_BITS || m[0] == 0.0 || m[2] == 0.0
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

static size_t cell_words(const plan_block_codebook *plan, int block)
{
    const block_codebook_grid grid = make_grid(plan, block);
    return (size_t)grid.n_cells[0] * (size_t)grid.n_cells[1] * words_a_cell(plan->bits[block]);
}

static rb_status make_cells(block_cells *cells, const plan_block_codebook *plan, int block, const block_codebook *book,
                            rb_error *err)
{
    const block_codebook_grid grid = make_grid(plan, block);
    cell_builder b = {.grid = &grid, .size = book->size};
    int16_t list[BLOCK_CODEBOOK_MAX_POINTS];
    rb_status st;
    cells->n = cells->room = cell_words(plan, block);
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

/* ---- blocks ---------------------------------------------------------------------------------- */

static void set_block(block_codebook_image_block *out, const plan_head *head, int block, const model_facts *model)
{
    const plan_block_codebook *plan = &head->block_codebook;
    const float *map = plan->maps + BLOCK_CODEBOOK_MAP_SIZE * block;
    int dims[2];
    model_block_dims(model, block, dims);
    out->dims = dims[0] | dims[1] << 16;
    out->bits = plan->bits[block];
    for (int i = 0; head->center && i < 2; i++) out->center[i] = head->center[dims[i]];
    if (out->bits == 0) return;
    out->weight = plan->weights[block];
    memcpy(out->map, map, sizeof out->map);
    const block_codebook_grid grid = make_grid(plan, block);
    out->n_columns = grid.n_cells[0];
    out->n_rows = grid.n_cells[1];
    out->half_columns = (float)(out->n_columns / 2);
    out->half_rows = (float)(out->n_rows / 2);
    for (int i = 0; i < 4; i++) out->to_grid[i] = (float)(GRID_SCALE * grid.to_book[i]);
}

static void set_points(float *points_x, float *points_y, const block_codebook_image_block *block,
                       const block_codebook *book)
{
    for (int c = 0; c < book->size; c++) {
        const double x = (double)book->x[c], y = (double)book->y[c];
        points_x[c] = (float)((double)block->map[0] * x);
        points_y[c] = (float)((double)block->map[1] * x + (double)block->map[2] * y);
    }
}

/* About instructions a lane: of a block's loads and packing, of three searches by cells, of a point tried for three
 * gains. */
static int block_cost(const block_codebook_image_block *block)
{
    enum { ALL = 12, CODED = 25, CELLS = 90, POINT = 21 };
    return block->bits == 0 ? ALL : ALL + CODED + (block->n_columns > 0 ? CELLS : POINT << block->bits);
}

static bool is_run_of_four(const block_codebook_image_block *blocks)
{
    const int first = blocks[0].dims & 0xffff, second = blocks[0].dims >> 16;
    bool is_split = first % 4 == 0 && second % 4 == 0, is_pairs = first % 8 == 0;
    for (int i = 0; i < 4; i++) {
        is_split &= blocks[i].dims == ((first + i) | (second + i) << 16);
        is_pairs &= blocks[i].dims == ((first + 2 * i) | (first + 2 * i + 1) << 16);
    }
    return is_split || is_pairs;
}

/* Blocks in order, two places each. */
static void set_positions(uint16_t *position, int n_blocks, const model_facts *model)
{
    for (int block = 0; block < n_blocks; block++) {
        int dims[2];
        model_block_dims(model, block, dims);
        for (int i = 0; i < 2; i++) position[dims[i]] = (uint16_t)(2 * block + i);
    }
}

/* The head's blocks; returns the bits of a vector's stream. */
static int set_blocks(block_codebook_image *image, block_codebook_image_head *head, block_codebook_image_block *blocks,
                      const plan_head *from, const model_facts *model)
{
    int bit = from->block_codebook.gain_bits;
    for (int i = 0; i < image->n_blocks; i++) {
        set_block(&blocks[i], from, i, model);
        blocks[i].bit_first = bit;
        bit += blocks[i].bits;
        if (blocks[i].bits > image->max_bits) image->max_bits = blocks[i].bits;
        if (blocks[i].bits > 0) {
            blocks[i].first_point = head->n_points;
            head->n_points += 1 << blocks[i].bits;
        }
    }
    return bit;
}

/* How a head's blocks lie: what encode and decode exploit. */
static void set_orders(block_codebook_image_head *head, const block_codebook_image_block *blocks, int n_blocks)
{
    for (int i = 0; i < n_blocks; i += 4) head->is_scattered |= i + 4 > n_blocks || !is_run_of_four(&blocks[i]);
    head->is_split = 1;
    for (int i = 0; i < n_blocks; i++) head->is_split &= blocks[i].dims == (i | (i + n_blocks) << 16);
}

/* Sum w |M|^2. */
static double weighed_size(const block_codebook_image_block *blocks, int n_blocks)
{
    double size = 0.0;
    for (int i = 0; i < n_blocks; i++)
        for (int m = 0; m < BLOCK_CODEBOOK_MAP_SIZE; m++)
            size += (double)blocks[i].weight * (double)blocks[i].map[m] * (double)blocks[i].map[m];
    return size;
}

/* Places of a head's tables, and its own numbers. */
static void set_head(codec_image *all, int h, const plan_head *from, const model_facts *model)
{
    block_codebook_image *image = &all->block_codebook;
    block_codebook_image_head *head = &image->heads[h];
    block_codebook_image_block *blocks = image->blocks + (size_t)h * (size_t)image->n_blocks;
    *head =
        (block_codebook_image_head){.gain_bits = from->block_codebook.gain_bits, .first_point = (int)image->n_points};
    const int bits = set_blocks(image, head, blocks, from, model);
    const double size = weighed_size(blocks, image->n_blocks);
    head->inverse_size = size > 0.0 ? (float)(1.0 / size) : 0.0f;
    set_orders(head, blocks, image->n_blocks);
    for (int level = 0; level < 1 << head->gain_bits; level++)
        head->gains[level] = (float)block_codebook_gain(head->gain_bits, level);
    image->n_points += (size_t)head->n_points;
    all->heads[h] = (codec_image_head){.packed_bytes = (bits + 7) / 8, .n_norms = 0, .norm_bytes = 2};
    for (int i = 0; i < image->n_blocks; i++) all->heads[h].cost += block_cost(&blocks[i]);
    set_positions(image->position + h * all->head_dim, image->n_blocks, model);
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status fill_block(block_codebook_image *image, block_cells *cells, const plan_head *head, int h, int i,
                            codec_tables *tables, rb_error *err)
{
    const block_codebook_image_block *block = &image->blocks[h * image->n_blocks + i];
    const block_codebook *book;
    if (block->bits == 0) return RB_OK;
    const rb_status st = codec_tables_block_codebook(tables, block->bits, &book, err);
    if (st != RB_OK) return st;
    const int first = image->heads[h].first_point + block->first_point;
    set_points(image->points_x + first, image->points_y + first, block, book);
    return block->n_columns > 0 ? make_cells(cells, &head->block_codebook, i, book, err) : RB_OK;
}

/* cells [n_heads][n_blocks], one after the other. */
static rb_status join_cells(block_codebook_image *image, int n_heads, const block_cells *cells, rb_error *err)
{
    const int n_all = n_heads * image->n_blocks;
    for (int i = 0; i < n_all; i++) image->n_cells += cells[i].n;
    const rb_status st = rb_alloc(&image->cells, image->n_cells, sizeof *image->cells, "codec image", err);
    size_t at = 0;
    for (int i = 0; st == RB_OK && i < n_all; i++) {
        block_codebook_image_head *head = &image->heads[i / image->n_blocks];
        if (i % image->n_blocks == 0) head->first_cell = (int)at;
        image->blocks[i].first_cell = (int)at - head->first_cell;
        if (cells[i].n > 0) memcpy(image->cells + at, cells[i].words, cells[i].n * sizeof *image->cells);
        at += cells[i].n;
        head->n_cells = (int)at - head->first_cell;
    }
    return st;
}

static rb_status fill_book(block_codebook_image *image, codec_tables *tables, rb_error *err)
{
    rb_status st;
    image->n_book = ((size_t)2 << image->max_bits) - 2;
    RB_TRY(st, rb_alloc(&image->book, image->n_book, sizeof *image->book, "codec image", err), done);
    for (int bits = 1; bits <= image->max_bits; bits++) {
        const block_codebook *book;
        RB_TRY(st, codec_tables_block_codebook(tables, bits, &book, err), done);
        for (int c = 0; c < book->size; c++)
            image->book[(1 << bits) - 2 + c] = rb_f32_to_f16(book->x[c]) | (uint32_t)rb_f32_to_f16(book->y[c]) << 16;
    }
done:
    return st;
}

static int larger(int a, int b) { return a > b ? a : b; }

static void sum_up(block_codebook_image *image, int n_heads)
{
    for (int h = 0; h < n_heads; h++) {
        image->max_points = larger(image->max_points, image->heads[h].n_points);
        image->max_cells = larger(image->max_cells, image->heads[h].n_cells);
    }
}

/* Points and cells of all blocks, which take time. */
static rb_status fill_blocks(block_codebook_image *image, const plan_head *heads, int n_heads, codec_tables *tables,
                             rb_error *err)
{
    const int n_blocks = image->n_blocks, n_all = n_heads * n_blocks;
    rb_first_failure failure = {0};
    block_cells *cells = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&cells, (size_t)n_all, sizeof *cells, "codec image", err), done);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n_all; i++) {
        rb_error mine = {0};
        rb_note_failure(&failure, i,
                        fill_block(image, &cells[i], &heads[i / n_blocks], i / n_blocks, i % n_blocks, tables, &mine),
                        &mine);
    }
    RB_TRY(st, rb_tell_failure(&failure, err), done);
    st = join_cells(image, n_heads, cells, err);
done:
    for (int i = 0; cells && i < n_all; i++) free(cells[i].words);
    free(cells);
    return st;
}

static rb_status block_codebook_image_build(codec_image *all, const plan_head *heads, const model_facts *model,
                                            codec_tables *tables, rb_error *err)
{
    block_codebook_image *image = &all->block_codebook;
    const size_t n_heads = (size_t)all->n_heads, n_blocks = (size_t)model_n_blocks(model);
    rb_status st;
    image->n_blocks = (int)n_blocks;
#define ALLOC(list, count) RB_TRY(st, rb_alloc(&(list), count, sizeof *(list), "codec image", err), done)
    ALLOC(image->heads, n_heads);
    ALLOC(image->blocks, n_heads * n_blocks);
    ALLOC(image->position, n_heads * (size_t)all->head_dim);
    for (int h = 0; h < all->n_heads; h++) set_head(all, h, &heads[h], model);
    ALLOC(image->points_x, image->n_points);
    ALLOC(image->points_y, image->n_points);
#undef ALLOC
    RB_TRY(st, fill_book(image, tables, err), done);
    RB_TRY(st, fill_blocks(image, heads, all->n_heads, tables, err), done);
    sum_up(image, all->n_heads);
done:
    return st;
}

static void block_codebook_image_clear(codec_image *all)
{
    block_codebook_image *image = &all->block_codebook;
    free(image->heads);
    free(image->blocks);
    free(image->position);
    free(image->points_x);
    free(image->points_y);
    free(image->cells);
    free(image->book);
    *image = (block_codebook_image){0};
}

static int64_t block_codebook_image_head_bytes(const plan_head *head, const model_facts *model)
{
    enum { CELLS_AND_LISTS = 3 }; /* uneven maps have long lists: at most about twice the cells on top */
    const int n_blocks = model_n_blocks(model);
    size_t total = sizeof(block_codebook_image_head) + (size_t)model->head_dim * sizeof(uint16_t)
                   + (size_t)n_blocks * sizeof(block_codebook_image_block)
                   + ((size_t)2 << BLOCK_CODEBOOK_MAX_BITS) * sizeof(uint32_t);
    for (int i = 0; i < n_blocks; i++)
        total += ((size_t)1 << head->block_codebook.bits[i]) * 2 * sizeof(float)
                 + CELLS_AND_LISTS * cell_words(&head->block_codebook, i) * sizeof(uint32_t);
    return (int64_t)total;
}

static int block_codebook_image_list_parts(const codec_image *image, codec_image_part *parts)
{
    const block_codebook_image *own = &image->block_codebook;
    const size_t n = (size_t)image->n_heads;
    const codec_image_part all[] = {
        CODEC_IMAGE_PART(image, block_codebook.heads, n),
        CODEC_IMAGE_PART(image, block_codebook.blocks, n * (size_t)own->n_blocks),
        CODEC_IMAGE_PART(image, block_codebook.position, n * (size_t)image->head_dim),
        CODEC_IMAGE_PART(image, block_codebook.points_x, own->n_points),
        CODEC_IMAGE_PART(image, block_codebook.points_y, own->n_points),
        CODEC_IMAGE_PART(image, block_codebook.cells, own->n_cells),
        CODEC_IMAGE_PART(image, block_codebook.book, own->n_book),
    };
    static_assert(1 + sizeof all / sizeof *all <= CODEC_IMAGE_MAX_PARTS, "room for all parts");
    memcpy(parts, all, sizeof all);
    return (int)(sizeof all / sizeof *all);
}

extern const codec_image_functions block_codebook_image_functions;
const codec_image_functions block_codebook_image_functions = {
    .build = block_codebook_image_build,
    .clear = block_codebook_image_clear,
    .head_bytes = block_codebook_image_head_bytes,
    .list_parts = block_codebook_image_list_parts,
};
