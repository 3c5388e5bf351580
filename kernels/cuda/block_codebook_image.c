/* The image of heads of family block-codebook: see kernels/cuda/block_codebook_image.h. */
#include "kernels/cuda/block_codebook_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/crew.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/cuda/block_codebook_cells.h"
#include "kernels/cuda/codec_image.h"
#include "kernels/reference/block_codebook_codec.h"

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
    if (block_codebook_has_levels(out->bits)) out->first_bits = block_codebook_first_bits(map, out->bits);
    const block_codebook_grid grid = block_codebook_grid_of(plan, block);
    out->n_columns = grid.n_cells[0];
    out->n_rows = grid.n_cells[1];
    out->half_columns = (float)(out->n_columns / 2);
    out->half_rows = (float)(out->n_rows / 2);
    for (int i = 0; i < 4; i++) out->to_grid[i] = (float)(BLOCK_CODEBOOK_GRID_SCALE * grid.to_book[i]);
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
 * gains, of a bit of the levels' searches. */
static int block_cost(const block_codebook_image_block *block)
{
    enum { ALL = 12, CODED = 25, CELLS = 90, POINT = 21, LEVEL_BIT = 20 };
    const int search = block->first_bits > 0  ? LEVEL_BIT * block->bits
                       : block->n_columns > 0 ? CELLS
                                              : POINT << block->bits;
    return block->bits == 0 ? ALL : ALL + CODED + search;
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

static int larger(int a, int b) { return a > b ? a : b; }

/* The head's blocks; returns the bits of a vector's stream. */
static int set_blocks(block_codebook_image *image, block_codebook_image_head *head, block_codebook_image_block *blocks,
                      const plan_head *from, const model_facts *model)
{
    int bit = from->block_codebook.gain_bits;
    for (int i = 0; i < image->n_blocks; i++) {
        set_block(&blocks[i], from, i, model);
        blocks[i].bit_first = bit;
        bit += blocks[i].bits;
        if (blocks[i].first_bits > 0) {
            image->n_levels = BLOCK_CODEBOOK_N_LEVELS;
        } else if (blocks[i].bits > 0) {
            image->max_bits = larger(image->max_bits, blocks[i].bits);
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
    if (block->bits == 0 || block->first_bits > 0) return RB_OK;
    const rb_status st = codec_tables_block_codebook(tables, block->bits, &book, err);
    if (st != RB_OK) return st;
    const int first = image->heads[h].first_point + block->first_point;
    set_points(image->points_x + first, image->points_y + first, block, book);
    return block->n_columns > 0 ? block_cells_build(cells, &head->block_codebook, i, book, err) : RB_OK;
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

/* After the points of the book; and where levels begin. */
static rb_status fill_levels(block_codebook_image *image, codec_tables *tables, rb_error *err)
{
    uint32_t *words = image->book + image->n_book - image->n_levels;
    rb_status st;
    RB_TRY(st, rb_alloc(&image->levels, (size_t)image->n_levels, sizeof *image->levels, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->edges, (size_t)image->n_levels, sizeof *image->edges, "codec image", err), done);
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_LEVEL_BITS; bits++) {
        const int first = (1 << bits) - 2;
        const block_levels *levels;
        RB_TRY(st, codec_tables_block_levels(tables, bits, &levels, err), done);
        for (int c = 0; c < levels->size; c++) {
            image->levels[first + c] = levels->level[c];
            words[first + c] = rb_f32_to_f16(levels->level[c]) * 0x10001u;
            if (c > 0)
                image->edges[first + c] = (float)(0.5 * ((double)levels->level[c - 1] + (double)levels->level[c]));
        }
    }
done:
    return st;
}

static rb_status fill_book(block_codebook_image *image, codec_tables *tables, rb_error *err)
{
    rb_status st;
    image->n_book = ((size_t)2 << image->max_bits) - 2 + (size_t)image->n_levels;
    RB_TRY(st, rb_alloc(&image->book, image->n_book, sizeof *image->book, "codec image", err), done);
    if (image->n_levels > 0) RB_TRY(st, fill_levels(image, tables, err), done);
    for (int bits = 1; bits <= image->max_bits; bits++) {
        const block_codebook *book;
        RB_TRY(st, codec_tables_block_codebook(tables, bits, &book, err), done);
        for (int c = 0; c < book->size; c++)
            image->book[(1 << bits) - 2 + c] = rb_f32_to_f16(book->x[c]) | (uint32_t)rb_f32_to_f16(book->y[c]) << 16;
    }
done:
    return st;
}

static void sum_up(block_codebook_image *image, int n_heads)
{
    for (int h = 0; h < n_heads; h++) {
        image->max_points = larger(image->max_points, image->heads[h].n_points);
        image->max_cells = larger(image->max_cells, image->heads[h].n_cells);
    }
}

typedef struct fill_job {
    block_codebook_image *image;
    const plan_head *heads;
    codec_tables *tables;
    block_cells *cells; /* [n_heads][n_blocks] */
    rb_first_failure failure;
} fill_job;

static void fill_one(void *user, int64_t i)
{
    fill_job *job = user;
    const int h = (int)(i / job->image->n_blocks), block = (int)(i % job->image->n_blocks);
    rb_error mine = {0};
    const rb_status st = fill_block(job->image, &job->cells[i], &job->heads[h], h, block, job->tables, &mine);
    rb_note_failure(&job->failure, i, st, &mine);
}

/* Points and cells of all blocks, which take time. */
static rb_status fill_blocks(block_codebook_image *image, const plan_head *heads, int n_heads, codec_tables *tables,
                             rb_error *err)
{
    const int n_all = n_heads * image->n_blocks;
    block_cells *cells = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&cells, (size_t)n_all, sizeof *cells, "codec image", err), done);
    fill_job job = {.image = image, .heads = heads, .tables = tables, .cells = cells};
    rb_crew_for_each(n_all, fill_one, &job);
    RB_TRY(st, rb_tell_failure(&job.failure, err), done);
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
    free(image->levels);
    free(image->edges);
    *image = (block_codebook_image){0};
}

static int64_t block_codebook_image_head_bytes(const plan_head *head, const model_facts *model)
{
    enum { CELLS_AND_LISTS = 3 }; /* uneven maps have long lists: at most about twice the cells on top */
    const int n_blocks = model_n_blocks(model);
    size_t total = sizeof(block_codebook_image_head) + (size_t)model->head_dim * sizeof(uint16_t)
                   + (size_t)n_blocks * sizeof(block_codebook_image_block)
                   + ((size_t)2 << BLOCK_CODEBOOK_MAX_POINT_BITS) * sizeof(uint32_t)
                   + BLOCK_CODEBOOK_N_LEVELS * (sizeof(uint32_t) + 2 * sizeof(float));
    for (int i = 0; i < n_blocks; i++)
        if (!block_codebook_has_levels(head->block_codebook.bits[i]))
            total += ((size_t)1 << head->block_codebook.bits[i]) * 2 * sizeof(float)
                     + CELLS_AND_LISTS * block_cells_words(&head->block_codebook, i) * sizeof(uint32_t);
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
        CODEC_IMAGE_PART(image, block_codebook.levels, (size_t)own->n_levels),
        CODEC_IMAGE_PART(image, block_codebook.edges, (size_t)own->n_levels),
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
