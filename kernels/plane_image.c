/* See plane_image.h. */
#include "kernels/plane_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/plane_codec.h"
#include "kernels/plane_search.h"

/* tanh(GRID_SCALE u) follows erf(u / 2), the distribution of a universal codebook's points, whose density is the square root of the normal law's. */
#define GRID_SCALE 0.6
/* Half of the error of the device's tanh, 2^-11, is for the rounding of u and of the cell. */
#define GRID_MARGIN 1e-3
/* A block that its map squeezes more than this has no cells: rounding would move it across them. */
#define MOST_SKEW 1000.0
#define CELLS_A_POINT 8.0

/* ---- cells ------------------------------------------------------------------------------------------------------------------------------ */

/* A cell's place in u, that an infinite rim belongs to. */
typedef struct cell_box {
    double from[2], to[2];
} cell_box;

static double cell_edge(double index, int n_cells)
{
    const double t = 2.0 * index / (n_cells - 1) - 1.0;
    return t <= -1.0 ? -INFINITY : t >= 1.0 ? INFINITY : atanh(t) / GRID_SCALE;
}

static cell_box box_of(int column, int row, int n_cells)
{
    const int at[2] = {column, row};
    const double margin = GRID_MARGIN * (n_cells - 1) / 2.0;
    cell_box box;
    for (int i = 0; i < 2; i++) {
        box.from[i] = at[i] == 0 ? -INFINITY : cell_edge(at[i] - 0.5 - margin, n_cells);
        box.to[i] = at[i] == n_cells - 1 ? INFINITY : cell_edge(at[i] + 0.5 + margin, n_cells);
    }
    return box;
}

/* What makes the cells of a block. */
typedef struct cell_builder {
    const plane_codebook *book;
    const float *map;
    double metric[3];           /* M^T M: 00, 01, 11 */
    int n_cells;
} cell_builder;

/* Whether a point is farther than another everywhere in the box: |M (u - p)|^2 - |M (u - other)|^2 is linear in u, and least in a corner. */
static bool is_beaten(const cell_builder *b, int point, int other, const cell_box *box)
{
    const double p[2] = {(double)b->book->x[point], (double)b->book->y[point]}, q[2] = {(double)b->book->x[other], (double)b->book->y[other]};
    const double d[2] = {q[0] - p[0], q[1] - p[1]}, s[2] = {q[0] + p[0], q[1] + p[1]};
    const double slope[2] = {b->metric[0] * d[0] + b->metric[1] * d[1], b->metric[1] * d[0] + b->metric[2] * d[1]};
    double least = -(slope[0] * s[0] + slope[1] * s[1]);
    for (int i = 0; i < 2; i++)
        if (slope[i] != 0.0) least += 2.0 * slope[i] * (slope[i] > 0.0 ? box->from[i] : box->to[i]);
    return least > 0.0;
}

static int nearest_to_middle(const cell_builder *b, const cell_box *box)
{
    double middle[2], least = INFINITY;
    int nearest = 0;
    for (int i = 0; i < 2; i++) {
        const double from = fmax(box->from[i], -8.0), to = fmin(box->to[i], 8.0);
        middle[i] = 0.5 * (from + to);
    }
    for (int c = 0; c < b->book->size; c++) {
        const double e[2] = {middle[0] - (double)b->book->x[c], middle[1] - (double)b->book->y[c]};
        const double distance = b->metric[0] * e[0] * e[0] + 2.0 * b->metric[1] * e[0] * e[1] + b->metric[2] * e[1] * e[1];
        if (distance >= least) continue;
        least = distance;
        nearest = c;
    }
    return nearest;
}

/* Points that no single other one beats everywhere in the box, ascending: all that are nearest somewhere, and few more. */
static int list_cell(const cell_builder *b, const cell_box *box, int16_t *list)
{
    const int middle = nearest_to_middle(b, box);
    int16_t left[PLANE_MAX_POINTS];
    int n_left = 0, n = 0;
    for (int c = 0; c < b->book->size; c++)
        if (c == middle || !is_beaten(b, c, middle, box)) left[n_left++] = (int16_t)c;
    for (int i = 0; i < n_left; i++) {
        bool is_needed = true;
        for (int j = 0; j < n_left && is_needed; j++) is_needed = j == i || !is_beaten(b, left[i], left[j], box);
        if (is_needed) list[n++] = left[i];
    }
    return n;
}

static size_t words_a_cell(int bits) { return bits > PLANE_BYTE_BITS ? 2 : 1; }

static void store_cell(uint32_t *words, int bits, const int16_t *list, int n)
{
    const uint32_t width = bits > PLANE_BYTE_BITS ? 16 : 8;
    uint64_t all = n > PLANE_CELL_CODES ? (1u << width) - 1u : 0;      /* the first above the last: all points are tried */
    for (uint32_t i = 0; n <= PLANE_CELL_CODES && i < PLANE_CELL_CODES; i++) all |= (uint64_t)(uint16_t)list[(int)i < n ? (int)i : n - 1] << width * i;
    words[0] = (uint32_t)all;
    if (width == 16) words[1] = (uint32_t)(all >> 32);
}

/* Odd, so that half of them less one is a whole number. */
static int count_cells(int bits)
{
    const int n = (int)sqrt((bits > PLANE_BYTE_BITS ? 0.5 : 1.0) * CELLS_A_POINT * (double)(1 << bits));
    return n + 1 - n % 2;
}

static bool has_cells(const plan_planes *planes, int block)
{
    const float *map = planes->maps + PLAN_MAP_SIZE * block;
    return planes->bits[block] >= PLANE_GRID_MIN_BITS && map[0] != 0.0f && map[2] != 0.0f && fabs((double)map[1]) <= MOST_SKEW * fabs((double)map[2]);
}

static size_t cell_words(const plan_planes *planes, int block)
{
    const size_t n = has_cells(planes, block) ? (size_t)count_cells(planes->bits[block]) : 0;
    return n * n * words_a_cell(planes->bits[block]);
}

static void fill_cells(uint32_t *words, const plan_planes *planes, int block, const plane_codebook *book)
{
    const float *map = planes->maps + PLAN_MAP_SIZE * block;
    const double m[3] = {(double)map[0], (double)map[1], (double)map[2]};
    const cell_builder b = {book, map, {m[0] * m[0] + m[1] * m[1], m[1] * m[2], m[2] * m[2]}, count_cells(book->bits)};
    int16_t list[PLANE_MAX_POINTS];
    for (int row = 0; row < b.n_cells; row++)
        for (int column = 0; column < b.n_cells; column++) {
            const cell_box box = box_of(column, row, b.n_cells);
            store_cell(words, book->bits, list, list_cell(&b, &box, list));
            words += words_a_cell(book->bits);
        }
}

/* ---- blocks ----------------------------------------------------------------------------------------------------------------------------- */

static void set_block(plane_image_block *out, const plan_head *head, int block, const model_facts *model)
{
    const plan_planes *planes = head->planes;
    const float *map = planes->maps + PLAN_MAP_SIZE * block;
    int dims[2];
    model_block_dims(model, block, dims);
    out->dims = dims[0] | dims[1] << 16;
    out->bits = planes->bits[block];
    for (int i = 0; head->center && i < 2; i++) out->center[i] = head->center[dims[i]];
    if (out->bits == 0) return;
    out->weight = planes->weights[block];
    memcpy(out->map, map, sizeof out->map);
    if (!has_cells(planes, block)) return;
    out->n_cells = count_cells(out->bits);
    out->half_cells = (float)((out->n_cells - 1) / 2);
    out->to_grid[0] = (float)(GRID_SCALE / (double)map[0]);
    out->to_grid[1] = (float)(-GRID_SCALE * (double)map[1] / ((double)map[0] * (double)map[2]));
    out->to_grid[2] = (float)(GRID_SCALE / (double)map[2]);
}

static void set_points(plane_point *out, const plane_image_block *block, const plane_codebook *book)
{
    for (int c = 0; c < book->size; c++) {
        const double x = (double)book->x[c], y = (double)book->y[c];
        out[c] = (plane_point){(float)((double)block->map[0] * x), (float)((double)block->map[1] * x + (double)block->map[2] * y)};
    }
}

/* About instructions a lane: of a block's loads and packing, of three searches by cells, of a point tried for three gains. */
static int block_cost(const plane_image_block *block)
{
    enum { ALL = 12, CODED = 25, CELLS = 90, POINT = 21 };
    return block->bits == 0 ? ALL : ALL + CODED + (block->n_cells > 0 ? CELLS : POINT << block->bits);
}

static bool is_run_of_four(const plane_image_block *blocks)
{
    const int first = blocks[0].dims & 0xffff, second = blocks[0].dims >> 16;
    bool is_split = first % 4 == 0 && second % 4 == 0, is_pairs = first % 8 == 0;
    for (int i = 0; i < 4; i++) {
        is_split &= blocks[i].dims == ((first + i) | (second + i) << 16);
        is_pairs &= blocks[i].dims == ((first + 2 * i) | (first + 2 * i + 1) << 16);
    }
    return is_split || is_pairs;
}

/* Places of a head's tables, and its own numbers. */
static void set_head(plane_image *image, int h, const plan_head *from, const model_facts *model)
{
    plane_image_head *head = &image->heads[h];
    plane_image_block *blocks = image->blocks + (size_t)h * (size_t)image->n_blocks;
    double size = 0.0;
    int bit = from->planes->gain_bits;
    *head = (plane_image_head){.is_planes = 1, .gain_bits = from->planes->gain_bits, .first_point = (int)image->n_points, .first_cell = (int)image->n_cells};
    for (int i = 0; i < image->n_blocks; i++) {
        set_block(&blocks[i], from, i, model);
        blocks[i].bit_first = bit;
        bit += blocks[i].bits;
        if (blocks[i].bits > image->max_bits) image->max_bits = blocks[i].bits;
        if (blocks[i].bits > 0) {
            blocks[i].first_point = head->n_points;
            blocks[i].first_cell = head->n_cells;
            head->n_points += 1 << blocks[i].bits;
            head->n_cells += (int)cell_words(from->planes, i);
        }
        for (int m = 0; m < PLAN_MAP_SIZE; m++) size += (double)blocks[i].weight * (double)blocks[i].map[m] * (double)blocks[i].map[m];
        head->cost += block_cost(&blocks[i]);
    }
    for (int i = 0; i < image->n_blocks; i += 4) head->is_scattered |= i + 4 > image->n_blocks || !is_run_of_four(&blocks[i]);
    head->is_split = 1;
    for (int i = 0; i < image->n_blocks; i++) head->is_split &= blocks[i].dims == (i | (i + image->n_blocks) << 16);
    for (int level = 0; level < 1 << head->gain_bits; level++) head->gains[level] = (float)plane_gain(head->gain_bits, level);
    head->inverse_size = size > 0.0 ? (float)(1.0 / size) : 0.0f;
    image->n_points += (size_t)head->n_points;
    image->n_cells += (size_t)head->n_cells;
    image->list[image->n_planes++] = h;
}

/* ---- all -------------------------------------------------------------------------------------------------------------------------------- */

static rb_status fill_block(plane_image *image, const plan_head *head, int h, int i, codec_tables *tables, rb_error *err)
{
    const plane_image_block *block = &image->blocks[h * image->n_blocks + i];
    const plane_codebook *book;
    if (block->bits == 0) return RB_OK;
    const rb_status st = codec_tables_plane(tables, block->bits, &book, err);
    if (st != RB_OK) return st;
    set_points(image->points + image->heads[h].first_point + block->first_point, block, book);
    if (block->n_cells > 0) fill_cells(image->cells + image->heads[h].first_cell + block->first_cell, head->planes, i, book);
    return RB_OK;
}

static rb_status fill_book(plane_image *image, codec_tables *tables, rb_error *err)
{
    rb_status st;
    image->n_book = ((size_t)2 << image->max_bits) - 2;
    RB_TRY(st, rb_alloc(&image->book, image->n_book, sizeof *image->book, "codec image", err), done);
    for (int bits = 1; bits <= image->max_bits; bits++) {
        const plane_codebook *book;
        RB_TRY(st, codec_tables_plane(tables, bits, &book, err), done);
        for (int c = 0; c < book->size; c++) image->book[(1 << bits) - 2 + c] = rb_f32_to_f16(book->x[c]) | (uint32_t)rb_f32_to_f16(book->y[c]) << 16;
    }
done:
    return st;
}

rb_status plane_image_build(plane_image *out, const plan_head *heads, int n_heads, const model_facts *model, codec_tables *tables, rb_error *err)
{
    const int n_blocks = model_n_blocks(model), n_all = n_heads * n_blocks;
    rb_first_failure failure = {0};
    rb_status st;
    *out = (plane_image){.n_heads = n_heads, .n_blocks = n_blocks};
    RB_TRY(st, rb_alloc(&out->heads, (size_t)n_heads, sizeof *out->heads, "codec image", err), done);
    RB_TRY(st, rb_alloc(&out->list, (size_t)n_heads, sizeof *out->list, "codec image", err), done);
    RB_TRY(st, rb_alloc(&out->blocks, (size_t)n_all, sizeof *out->blocks, "codec image", err), done);
    for (int h = 0; h < n_heads; h++) {
        if (heads[h].planes) set_head(out, h, &heads[h], model);
        out->heads[h].cost_before = h > 0 ? out->heads[h - 1].cost_before + out->heads[h - 1].cost : 0;
    }
    if (out->n_planes == 0) goto done;
    RB_TRY(st, rb_alloc(&out->points, out->n_points, sizeof *out->points, "codec image", err), done);
    RB_TRY(st, rb_alloc(&out->cells, out->n_cells, sizeof *out->cells, "codec image", err), done);
    RB_TRY(st, fill_book(out, tables, err), done);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n_all; i++) {
        rb_error mine = {0};
        rb_note_failure(&failure, i, fill_block(out, &heads[i / n_blocks], i / n_blocks, i % n_blocks, tables, &mine), &mine);
    }
    st = rb_tell_failure(&failure, err);
done:
    if (st != RB_OK) plane_image_clear(out);
    return st;
}

void plane_image_clear(plane_image *image)
{
    free(image->heads);
    free(image->list);
    free(image->blocks);
    free(image->points);
    free(image->cells);
    free(image->book);
    *image = (plane_image){0};
}

int64_t plane_image_head_bytes(const plan_head *head, int n_blocks)
{
    size_t total = sizeof(plane_image_head) + sizeof(int32_t) + (size_t)n_blocks * sizeof(plane_image_block) + ((size_t)2 << PLANE_MAX_BITS) * sizeof(uint32_t);
    for (int i = 0; head->planes && i < n_blocks; i++)
        total += ((size_t)1 << head->planes->bits[i]) * sizeof(plane_point) + cell_words(head->planes, i) * sizeof(uint32_t);
    return (int64_t)total;
}
