/* Codecs as the CUDA kernels read them: see kernels/cuda/codec_image.h. */
#include "kernels/cuda/codec_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "kernels/cuda/groups_fragments.h"
#include "kernels/reference/encoder_stretches.h"

enum { STREAM_ALIGNMENT = 128, STEP = CODEC_FRAGMENT_STEP, TILE = CODEC_FRAGMENT_TILE };

/* What is known of the lists before they are filled. */
typedef struct image_builder {
    codec_image *image;
    codec_tables *tables;
    const model_facts *model;
    size_t fragment_room, book_room, halves_room, cell_room, rotation_room;
    /* what the head's tables, and rotations, hold already */
    const codebook **book_of;
    codec_image_group *first_with_book; /* [n_books]: where the tables are */
    int n_books;
    const double **rotation_of;
    int *rotation_at, n_rotations;
} image_builder;

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t align_stream(int64_t size_bytes)
{
    return (size_bytes + STREAM_ALIGNMENT - 1) / STREAM_ALIGNMENT * STREAM_ALIGNMENT;
}

int64_t codec_image_packed_offset(const codec_image *image, int head, int64_t n)
{
    int64_t offset = 0;
    for (int h = 0; h < head; h++) offset += align_stream(n * image->heads[h].packed_bytes);
    return offset;
}

int64_t codec_image_norms_offset(const codec_image *image, int head, int64_t n)
{
    int64_t offset = 0;
    for (int h = 0; h < head; h++) offset += align_stream(n * image->heads[h].n_groups * image->heads[h].norm_bytes);
    return offset;
}

void codec_image_read_norms(uint16_t *norms, const codec_image *image, int head, const uint8_t *streams, int64_t n)
{
    const uint8_t *from = streams + codec_image_norms_offset(image, head, n);
    const int64_t n_norms = n * image->heads[head].n_groups;
    if (image->heads[head].norm_bytes == 1)
        for (int64_t i = 0; i < n_norms; i++) norms[i] = from[i];
    else memcpy(norms, from, (size_t)n_norms * sizeof *norms);
}

void codec_image_write_norms(uint8_t *streams, const codec_image *image, int head, const uint16_t *norms, int64_t n)
{
    uint8_t *to = streams + codec_image_norms_offset(image, head, n);
    const int64_t n_norms = n * image->heads[head].n_groups;
    if (image->heads[head].norm_bytes == 1)
        for (int64_t i = 0; i < n_norms; i++) to[i] = (uint8_t)norms[i];
    else memcpy(to, norms, (size_t)n_norms * sizeof *norms);
}

static rb_status check_limits(const plan_head *heads, int n_heads, const model_facts *model, rb_error *err)
{
    if (model->head_dim % STEP != 0 || model->head_dim > CODEC_IMAGE_MAX_DIMS)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "the CUDA kernels take a head_dim that is a multiple of %d up to %d, found %d", STEP,
                       CODEC_IMAGE_MAX_DIMS, model->head_dim);
    for (int h = 0; h < n_heads; h++)
        if (heads[h].family == FAMILY_GROUPS
            && (plan_head_groups(&heads[h])->n < 1 || plan_head_groups(&heads[h])->n > CODEC_IMAGE_MAX_GROUPS))
            return rb_fail(err, RB_EUNSUPPORTED, "the CUDA kernels take 1 to %d groups a head, kv_head %d has %d",
                           CODEC_IMAGE_MAX_GROUPS, h, plan_head_groups(&heads[h])->n);
    return RB_OK;
}

static bool are_published(const plan_head *heads, int n_heads, const model_facts *model)
{
    for (int h = 0; h < n_heads; h++)
        if (heads[h].family == FAMILY_GROUPS && !plan_head_is_published_form(&heads[h], model_n_blocks(model)))
            return false;
    return true;
}

static void count_tiles(codec_image_group *group)
{
    group->n_tiles = (group->dims + TILE - 1) / TILE;
    group->n_steps = codec_image_steps(group->n_tiles);
}

static size_t halves_of(int width) { return (size_t)1 << (width <= CODEC_IMAGE_PAIR_WIDTH ? 2 * width : width); }

static int count_uncoded(const plan_head *head, int head_dim)
{
    for (int g = 0; g < plan_head_groups(head)->n; g++) head_dim -= 2 * plan_head_groups(head)->at[g].n_blocks;
    return head_dim;
}

/* Columns of the dims in groups, and the gap before the others. */
static int count_columns(const plan_head *head, int n_uncoded)
{
    int n = 0;
    for (int g = 0; g < plan_head_groups(head)->n; g++)
        n += (2 * plan_head_groups(head)->at[g].n_blocks + TILE - 1) / TILE * TILE;
    return n_uncoded > 0 ? n + TILE + (n_uncoded + TILE - 1) / TILE * TILE : n;
}

static rb_status alloc_image(image_builder *b, const plan_head *heads, int n_heads, rb_error *err)
{
    codec_image *image = b->image;
    const size_t n = (size_t)n_heads, d = (size_t)b->model->head_dim;
    rb_status st;
    image->head_dim = b->model->head_dim;
    image->n_heads = n_heads;
    for (int h = 0; h < n_heads; h++) {
        for (int g = 0; g < plan_head_groups(&heads[h])->n; g++) {
            codec_image_group group = {.dims = 2 * plan_head_groups(&heads[h])->at[g].n_blocks};
            count_tiles(&group);
            b->fragment_room += 2 * (size_t)group.n_tiles * (size_t)group.n_steps;
            b->book_room += 5 * ((size_t)1 << plan_head_groups(&heads[h])->at[g].width) / 2 + 1;
            b->halves_room += halves_of(plan_head_groups(&heads[h])->at[g].width);
            b->cell_room += 1 << CODEC_IMAGE_MAX_LOG2_CELLS;
            b->rotation_room += (size_t)group.dims * (size_t)group.dims;
        }
        image->n_groups += plan_head_groups(&heads[h])->n;
        image->n_grouped += heads[h].family == FAMILY_GROUPS;
        if (heads[h].family == FAMILY_BLOCK_CODEBOOK) continue;
        const int n_columns = count_columns(&heads[h], count_uncoded(&heads[h], b->model->head_dim));
        if (n_columns > image->max_columns) image->max_columns = n_columns;
    }
    const size_t columns = n * (size_t)image->max_columns;
    RB_TRY(st, rb_alloc(&image->shifts, columns, sizeof *image->shifts, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->inverse_scales, columns, sizeof *image->inverse_scales, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->centers, columns, sizeof *image->centers, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->heads, n, sizeof *image->heads, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->groups, (size_t)image->n_groups, sizeof *image->groups, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->column, n * d, sizeof *image->column, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->position, n * d, sizeof *image->position, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->pairs, n * d / 2, sizeof *image->pairs, "codec image", err), done);
    RB_TRY(
        st,
        rb_alloc(&image->fragments, b->fragment_room * CODEC_IMAGE_LANES, sizeof *image->fragments, "codec image", err),
        done);
    RB_TRY(st, rb_alloc(&image->books, b->book_room, sizeof *image->books, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->cells, b->cell_room, sizeof *image->cells, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->halves, b->halves_room, sizeof *image->halves, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->rotations, b->rotation_room, sizeof *image->rotations, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->book_of, (size_t)image->n_groups, sizeof *b->book_of, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->first_with_book, (size_t)image->n_groups, sizeof *b->first_with_book, "codec image", err),
           done);
    RB_TRY(st, rb_alloc(&b->rotation_of, (size_t)image->n_groups, sizeof *b->rotation_of, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->rotation_at, (size_t)image->n_groups, sizeof *b->rotation_at, "codec image", err), done);
done:
    return st;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static void add_halves(codec_image *image, const codebook *book)
{
    uint16_t half[CODEBOOK_MAX_SIZE];
    uint32_t *out = image->halves + image->n_halves;
    for (int i = 0; i < book->size; i++)
        half[i] = rb_f32_to_f16(book->centroid_f32[i] * (float)CODEC_IMAGE_CENTROID_SCALE);
    if (book->width > CODEC_IMAGE_PAIR_WIDTH)
        for (int i = 0; i < book->size; i++) out[i] = half[i];
    else
        for (int i = 0; i < book->size * book->size; i++)
            out[i] = codec_pack_halves(half[i % book->size], half[i / book->size]);
    image->n_halves += halves_of(book->width);
}

static double cell_width(int log2_cells)
{
    return 1.0 / ((double)CODEC_IMAGE_CELL_RANGE * (ldexp(1.0, log2_cells - 1) - 1.0));
}

static bool cells_hold_one_boundary(const codebook *book, int log2_cells)
{
    for (int i = 0; i + 1 < book->size - 1; i++)
        if (book->boundary[i + 1] - book->boundary[i] <= 1.01 * cell_width(log2_cells)) return false;
    return true;
}

static float edge_of(double boundary) { return -(float)boundary * CODEC_IMAGE_STEEP; }

/* The number of boundaries below the cell's lower edge, and the boundary in it, if any. */
static codec_image_cell make_cell(const codebook *book, int cell, int log2_cells)
{
    const double width = cell_width(log2_cells), lower = (cell - ldexp(1.0, log2_cells - 1) - 0.5) * width;
    int code = 0;
    while (code < book->size - 1 && book->boundary[code] < lower) code++;
    const bool has_boundary = code < book->size - 1 && book->boundary[code] < lower + width;
    return (codec_image_cell){has_boundary ? edge_of(book->boundary[code]) : -INFINITY, (float)code};
}

static void add_cells(codec_image *image, codec_image_group *group, const codebook *book)
{
    int log2_cells = book->width + 1;
    while (log2_cells <= CODEC_IMAGE_MAX_LOG2_CELLS && !cells_hold_one_boundary(book, log2_cells)) log2_cells++;
    /* A unit vector's coordinates end at 1, stretched ones do not: then no boundary may lie behind the cells. */
    const bool is_left_out = !image->is_published && book->boundary[book->size - 2] >= 1.0;
    group->log2_cells =
        book->width < CODEC_IMAGE_CELL_WIDTH || log2_cells > CODEC_IMAGE_MAX_LOG2_CELLS || is_left_out ? 0 : log2_cells;
    group->cells = (int)image->n_cells;
    for (int i = 0; group->log2_cells > 0 && i < 1 << log2_cells; i++)
        image->cells[image->n_cells++] = make_cell(book, i, log2_cells);
}

static void add_boundaries_and_centroids(codec_image *image, const codebook *book)
{
    const int half = book->size / 2;
    float *out = image->books + image->n_books;
    for (int j = 0; j < half; j++) out[j] = j < half - 1 ? edge_of(book->boundary[half + j]) : -INFINITY;
    memcpy(out + half, book->centroid_f32, (size_t)book->size * sizeof *out);
    image->n_books += (size_t)(half + book->size);
}

/* For a search: levels of coordinates above 0, and how many boundaries a step from one stretch to the next can cross.
 */
static void add_walk(codec_image *image, codec_image_group *group, const codebook *book)
{
    static const double stretches[] = {ENCODER_STRETCHES_DOWN, 1.0, ENCODER_STRETCHES_UP};
    const int half = book->size / 2;
    image->n_books += image->n_books % 2; /* pairs are read at once */
    group->walk = (int)image->n_books;
    for (int j = 0; j < half; j++) {
        image->books[image->n_books++] = j < half - 1 ? (float)book->boundary[half + j] : INFINITY;
        image->books[image->n_books++] = book->centroid_f32[half + j];
    }
    for (size_t s = 0; s + 1 < sizeof stretches / sizeof *stretches; s++)
        for (int low = half; low < book->size - 1; low++) {
            int high = low; /* those up to the lowest one's reach, rounding included */
            while (high < book->size - 1
                   && book->boundary[high] <= book->boundary[low] * (stretches[s + 1] / stretches[s] + 1e-6))
                high++;
            if (high - low > group->n_crossed) group->n_crossed = high - low;
        }
}

/* Groups of a head that have the same codebook (codec_tables hands out the same pointer) share its tables. */
static void add_book(image_builder *b, const codec_image_head *head, codec_image_group *group, const codebook *book)
{
    codec_image *image = b->image;
    int i = 0;
    while (i < b->n_books && b->book_of[i] != book) i++;
    if (i == b->n_books) {
        b->book_of[b->n_books++] = book;
        b->first_with_book[i] = (codec_image_group){.book = (int)image->n_books, .halves = (int)image->n_halves};
        add_cells(image, &b->first_with_book[i], book);
        add_boundaries_and_centroids(image, book);
        if (!image->is_published) add_walk(image, &b->first_with_book[i], book);
        add_halves(image, book);
    }
    group->walk = b->first_with_book[i].walk - head->first_book;
    group->n_crossed = b->first_with_book[i].n_crossed;
    group->book = b->first_with_book[i].book - head->first_book;
    group->halves = b->first_with_book[i].halves - head->first_halves;
    group->cells = b->first_with_book[i].cells - head->first_cell;
    group->log2_cells = b->first_with_book[i].log2_cells;
}

/* Rotations are shared by all heads. */
static int add_rotation(image_builder *b, const double *rotation, int dims)
{
    codec_image *image = b->image;
    for (int i = 0; i < b->n_rotations; i++)
        if (b->rotation_of[i] == rotation) return b->rotation_at[i];
    const int at = (int)image->n_rotations;
    for (int i = 0; i < dims * dims; i++) image->rotations[at + i] = (float)rotation[i];
    image->n_rotations += (size_t)dims * (size_t)dims;
    b->rotation_of[b->n_rotations] = rotation;
    b->rotation_at[b->n_rotations++] = at;
    return at;
}

/* ---- scales ---------------------------------------------------------------------------------- */

/* Of the group's dims, in its order. */
static void group_scales(double *scales, const plan_head *head, int g, const model_facts *model)
{
    const plan_group *group = &plan_head_groups(head)->at[g];
    double by_dim[RB_MAX_HEAD_DIM];
    int dims[RB_MAX_HEAD_DIM];
    for (int block = 0; block < model_n_blocks(model); block++) {
        model_block_dims(model, block, dims);
        by_dim[dims[0]] = by_dim[dims[1]] =
            plan_head_groups(head)->scales ? (double)plan_head_groups(head)->scales[block] : 1.0;
    }
    plan_group_dims(group, model, dims);
    for (int j = 0; j < 2 * group->n_blocks; j++) scales[j] = by_dim[dims[j]];
}

/* Divides them by the power of two that brings all to 1 at most; returns its exponent. */
static int bring_to_one(double *scales, int n)
{
    double largest = 0.0;
    int exponent;
    for (int j = 0; j < n; j++) largest = fmax(largest, scales[j]);
    (void)frexp(largest, &exponent);
    for (int j = 0; j < n; j++) scales[j] = ldexp(scales[j], -exponent);
    return exponent;
}

/* A group's fragments of one direction. */
static void add_direction(image_builder *b, const plan_head *from, codec_image_group *group, int g, bool is_encode)
{
    double scales[RB_MAX_HEAD_DIM];
    if (plan_head_groups(from)->scales) {
        group_scales(scales, from, g, b->model);
        for (int j = 0; !is_encode && j < group->dims; j++) scales[j] = 1.0 / scales[j];
        const int exponent = bring_to_one(scales, group->dims);
        if (is_encode) group->encode_exponent = exponent;
        else group->decode_scale = (float)ldexp(1.0, exponent);
    }
    const int first = codec_fragments_add(b->image, group, plan_head_groups(from)->scales ? scales : NULL, is_encode);
    if (is_encode) group->encode = first;
    else group->decode = first;
}

/* ---- heads ----------------------------------------------------------------------------------- */

static int order_of(const uint16_t *column, int head_dim)
{
    bool is_natural = true, is_split = true;
    for (int dim = 0; dim < head_dim; dim++) is_natural &= column[dim] == dim;
    for (int dim = 0; dim < head_dim / 2; dim++)
        is_split &= column[dim] % 2 == 0 && column[dim + head_dim / 2] == column[dim] + 1;
    return is_natural ? CODEC_ORDER_NATURAL : is_split ? CODEC_ORDER_SPLIT_PAIRS : CODEC_ORDER_ANY;
}

static rb_status add_group(image_builder *b, const codec_image_head *head, codec_image_group *group,
                           const plan_group *from, rb_error *err)
{
    const double *rotation;
    const codebook *book;
    rb_status st;
    RB_TRY(st, codec_tables_rotation(b->tables, &from->rotation, &rotation, err), done);
    RB_TRY(st, codec_tables_codebook(b->tables, from->codebook, from->width, group->dims, &book, err), done);
    count_tiles(group);
    add_book(b, head, group, book);
    group->rotation = add_rotation(b, rotation, group->dims);
    group->norm_exponent = from->norm_exponent;
    group->coherence = from->coherence;
    group->is_transform = b->image->is_published && from->rotation.kind == ROTATION_HADAMARD
                          && group->dims >= CODEC_IMAGE_TRANSFORM_DIMS && (group->dims & (group->dims - 1)) == 0;
done:
    return st;
}

/* Dims of no group: ascending, behind the others, as head_codec.h has them; their columns block by block, so that pairs
 * stay together. */
static void fill_uncoded(image_builder *b, int h, const plan_head *from)
{
    const codec_image_head *head = &b->image->heads[h];
    uint16_t *position = b->image->position + h * b->model->head_dim,
             *column = b->image->column + h * b->model->head_dim;
    uint8_t bits[RB_MAX_BLOCKS];
    bool is_uncoded[RB_MAX_HEAD_DIM] = {false};
    int at = head->first_uncoded, next = head->n_coded, dims[2];
    plan_head_bits(from, bits, model_n_blocks(b->model));
    for (int block = 0; block < model_n_blocks(b->model); block++) {
        if (bits[block] > 0) continue;
        model_block_dims(b->model, block, dims);
        for (int i = 0; i < 2; i++) {
            is_uncoded[dims[i]] = true;
            column[dims[i]] = (uint16_t)at++;
        }
    }
    for (int dim = 0; dim < b->model->head_dim; dim++)
        if (is_uncoded[dim]) position[dim] = (uint16_t)next++;
}

/* Centres and scales by column, and what each coordinate starts from, which needs the rotation: after add_group. */
static void fill_transform(image_builder *b, int h, const plan_head *from, const codec_image_group *groups)
{
    codec_image *image = b->image;
    codec_image_head *head = &image->heads[h];
    const int d = image->head_dim;
    const uint16_t *column = image->column + h * d;
    float *shifts = image->shifts + h * image->max_columns,
          *inverse_scales = image->inverse_scales + h * image->max_columns;
    float *centers = image->centers + h * image->max_columns;
    int dims[RB_MAX_HEAD_DIM];
    for (int i = 0; i < image->max_columns; i++) {
        inverse_scales[i] = 1.0f;
        centers[i] = -0.0f;
    }
    for (int dim = 0; dim < d; dim++) {
        const float center = from->center ? from->center[dim] : 0.0f;
        const bool is_coded = column[dim] < head->first_uncoded;
        if (from->center || !is_coded) centers[column[dim]] = center;
        if (is_coded) head->largest_center = fmaxf(head->largest_center, fabsf(center));
    }
    for (int block = 0; plan_head_groups(from)->scales && block < model_n_blocks(b->model); block++) {
        model_block_dims(b->model, block, dims);
        for (int i = 0; i < 2; i++) inverse_scales[column[dims[i]]] = 1.0f / plan_head_groups(from)->scales[block];
    }
    for (int g = 0; from->center && g < plan_head_groups(from)->n; g++) {
        const codec_image_group *group = &groups[g];
        double scales[RB_MAX_HEAD_DIM];
        group_scales(scales, from, g, b->model);
        plan_group_dims(&plan_head_groups(from)->at[g], b->model, dims);
        for (int row = 0; row < group->dims; row++) {
            const float *rotation = image->rotations + group->rotation + row * group->dims;
            double sum = 0.0;
            for (int j = 0; j < group->dims; j++)
                sum += (double)rotation[j] * scales[j] * (double)from->center[dims[j]];
            shifts[group->column + row] =
                (float)-ldexp(sum * (double)CODEC_IMAGE_FRAGMENT_SCALE, -group->encode_exponent);
        }
    }
}

static void fill_positions(image_builder *b, int h, const plan_head *from, const codec_image_group *groups)
{
    uint16_t *position = b->image->position + h * b->model->head_dim,
             *column = b->image->column + h * b->model->head_dim;
    int dims[RB_MAX_HEAD_DIM];
    for (int g = 0; g < plan_head_groups(from)->n; g++) {
        plan_group_dims(&plan_head_groups(from)->at[g], b->model, dims);
        for (int j = 0; j < groups[g].dims; j++) {
            position[dims[j]] = (uint16_t)(groups[g].first + j);
            column[dims[j]] = (uint16_t)(groups[g].column + j);
        }
    }
    fill_uncoded(b, h, from);
}

static void fill_pairs(image_builder *b, int h, const codec_image_head *head, const codec_image_group *groups)
{
    uint32_t *pairs = b->image->pairs + h * b->model->head_dim / 2;
    for (int g = 0; g < head->n_groups; g++) {
        const uint32_t centroids = (uint32_t)(groups[g].book + (1 << groups[g].width) / 2);
        for (int p = 0; p < groups[g].dims / 2; p++)
            pairs[groups[g].first / 2 + p] = (uint32_t)groups[g].width | (uint32_t)g << 8
                                             | (uint32_t)(p == groups[g].dims / 2 - 1) << 15 | centroids << 16;
    }
}

/* Counted in the encode kernel's code: what the rows cost, each group, and each of its tiles, of 1, 2, 3 and more bits.
 */
static int cost_of(const codec_image_head *head, const codec_image_group *groups)
{
    static const int coding[] = {0, 26, 42, 66, 80};
    enum { TRANSFORM = 26 }; /* two products and three butterflies */
    int cost = 500;
    for (int g = 0; g < head->n_groups; g++) {
        const int rotation = groups[g].is_transform ? TRANSFORM : 6 * groups[g].n_steps;
        cost += 160
                + groups[g].n_tiles
                      * (20 + rotation
                         + coding[groups[g].width < CODEC_IMAGE_CELL_WIDTH ? groups[g].width : CODEC_IMAGE_CELL_WIDTH]);
    }
    return cost;
}

static rb_status add_head(image_builder *b, int h, const plan_head *from, int first_group, rb_error *err)
{
    codec_image *image = b->image;
    codec_image_head *head = &image->heads[h];
    codec_image_group *groups = image->groups + first_group;
    int first = 0, bit = 0;
    *head = (codec_image_head){.n_groups = plan_head_groups(from)->n,
                               .first_group = first_group,
                               .first_fragment = (int)image->n_fragments,
                               .norm_bytes = norm_kind_bits(plan_head_groups(from)->norm) / 8,
                               .is_searched = plan_head_groups(from)->encoder == ENCODER_SEARCH,
                               .has_scales = plan_head_groups(from)->scales != NULL,
                               .has_center = from->center != NULL,
                               .first_book = (int)image->n_books,
                               .first_halves = (int)image->n_halves,
                               .first_cell = (int)image->n_cells};
    b->n_books = 0;
    for (int g = 0; g < plan_head_groups(from)->n; g++) {
        groups[g] = (codec_image_group){.first = first,
                                        .dims = 2 * plan_head_groups(from)->at[g].n_blocks,
                                        .width = plan_head_groups(from)->at[g].width,
                                        .column = head->n_columns,
                                        .bit_first = bit,
                                        .decode_scale = 1.0f};
        const rb_status st = add_group(b, head, &groups[g], &plan_head_groups(from)->at[g], err);
        if (st != RB_OK) return st;
        first += groups[g].dims;
        bit += groups[g].dims * groups[g].width;
        head->n_columns += TILE * groups[g].n_tiles;
    }
    const int n_uncoded = image->head_dim - first;
    head->n_coded = first;
    head->first_uncoded = n_uncoded > 0 ? head->n_columns + TILE : count_columns(from, 0);
    head->n_columns = count_columns(from, n_uncoded);
    head->packed_bytes = (bit + 7) / 8;
    head->cost = cost_of(head, groups);
    head->cost_before = h > 0 ? image->heads[h - 1].cost_before + image->heads[h - 1].cost : 0;
    head->n_books = (int)image->n_books - head->first_book;
    head->n_halves = (int)image->n_halves - head->first_halves;
    head->n_cells = (int)image->n_cells - head->first_cell;
    for (int g = 0; g < plan_head_groups(from)->n; g++) add_direction(b, from, &groups[g], g, true);
    head->n_fragments_encode = (int)image->n_fragments - head->first_fragment;
    for (int g = 0; g < plan_head_groups(from)->n; g++) add_direction(b, from, &groups[g], g, false);
    head->n_fragments_decode = (int)image->n_fragments - head->first_fragment - head->n_fragments_encode;
    fill_positions(b, h, from, groups);
    fill_transform(b, h, from, groups);
    head->order = order_of(image->column + h * image->head_dim, image->head_dim);
    fill_pairs(b, h, head, groups);
    return RB_OK;
}

/* Blocks in order, two coding positions each. */
static void add_block_codebook_head(image_builder *b, int h, const plan_head *from)
{
    codec_image *image = b->image;
    const int n_blocks = model_n_blocks(b->model);
    int bits = from->block_codebook.gain_bits, dims[2];
    for (int block = 0; block < n_blocks; block++) {
        model_block_dims(b->model, block, dims);
        for (int i = 0; i < 2; i++) image->position[h * image->head_dim + dims[i]] = (uint16_t)(2 * block + i);
        bits += from->block_codebook.bits[block];
    }
    image->heads[h] =
        (codec_image_head){.packed_bytes = (bits + 7) / 8,
                           .norm_bytes = norm_kind_bits(plan_head_groups(from)->norm) / 8,
                           .cost_before = h > 0 ? image->heads[h - 1].cost_before + image->heads[h - 1].cost : 0};
}

static rb_status add_block_codebook(image_builder *b, const plan_head *heads, int n_heads, rb_error *err)
{
    codec_image *image = b->image;
    const rb_status st = block_codebook_image_build(&image->block_codebook, heads, n_heads, b->model, b->tables, err);
    for (int h = 0; st == RB_OK && h < n_heads; h++) {
        image->block_codebook.heads[h].packed_bytes = image->heads[h].packed_bytes;
        image->block_codebook.heads[h].n_groups = image->heads[h].n_groups;
        image->block_codebook.heads[h].norm_bytes = image->heads[h].norm_bytes;
    }
    return st;
}

rb_status codec_image_build(codec_image **out, const plan_head *heads, int n_heads, const model_facts *model,
                            codec_tables *tables, rb_error *err)
{
    codec_image *image = NULL;
    image_builder b = {.tables = tables, .model = model};
    int first_group = 0;
    rb_status st;
    *out = NULL;
    RB_TRY(st, check_limits(heads, n_heads, model, err), done);
    RB_TRY(st, rb_alloc(&image, 1, sizeof *image, "codec image", err), done);
    b.image = image;
    image->is_published = are_published(heads, n_heads, model);
    RB_TRY(st, alloc_image(&b, heads, n_heads, err), done);
    for (int h = 0; h < n_heads; h++) {
        if (heads[h].family == FAMILY_BLOCK_CODEBOOK) add_block_codebook_head(&b, h, &heads[h]);
        else RB_TRY(st, add_head(&b, h, &heads[h], first_group, err), done);
        first_group += plan_head_groups(&heads[h])->n;
    }
    RB_TRY(st, add_block_codebook(&b, heads, n_heads, err), done);
    *out = image;
    image = NULL;
done:
    free(b.book_of);
    free(b.first_with_book);
    free(b.rotation_of);
    free(b.rotation_at);
    codec_image_free(image);
    return st;
}

void codec_image_free(codec_image *image)
{
    if (!image) return;
    free(image->heads);
    free(image->groups);
    free(image->column);
    free(image->position);
    free(image->pairs);
    free(image->fragments);
    free(image->books);
    free(image->halves);
    free(image->cells);
    free(image->rotations);
    free(image->shifts);
    free(image->inverse_scales);
    free(image->centers);
    block_codebook_image_clear(&image->block_codebook);
    free(image);
}
