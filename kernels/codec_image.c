/* Codecs as the CUDA kernels read them: see kernels/codec_image.h. */
#include "kernels/codec_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"

enum { STREAM_ALIGNMENT = 128, STEP = 16, TILE = 8, WINDOW_ALIGNMENT = 8, CODEC_IMAGE_MAX_BOOK_FLOATS = 1 << 16 };

/* Small numbers keep their bits in fp16 when brought up by this first: low parts stay above its subnormals. */
static const double DEFAULT_SCALE = 256.0;

/* What is known of the lists before they are filled. */
typedef struct image_builder {
    codec_image *image;
    codec_tables *tables;
    const model_facts *model;
    size_t fragment_room, book_room, rotation_room;
    /* what books and rotations hold already */
    const codebook **book_of;
    int *book_at, n_books;
    const double **rotation_of;
    int *rotation_at, n_rotations;
} image_builder;

/* ---- sizes ------------------------------------------------------------------------------------------------------------------- */

static int64_t align_stream(int64_t size_bytes) { return (size_bytes + STREAM_ALIGNMENT - 1) / STREAM_ALIGNMENT * STREAM_ALIGNMENT; }

int64_t codec_image_packed_offset(const codec_image *image, int head, int64_t n)
{
    int64_t offset = 0;
    for (int h = 0; h < head; h++) offset += align_stream(n * image->heads[h].packed_bytes);
    return offset;
}

int64_t codec_image_norm_offset(const codec_image *image, int head, int64_t n)
{
    int64_t offset = 0;
    for (int h = 0; h < head; h++) offset += align_stream(n * image->heads[h].n_groups * (int64_t)sizeof(uint16_t));
    return offset / (int64_t)sizeof(uint16_t);
}

static rb_status check_limits(const plan_head *heads, int n_heads, const model_facts *model, rb_error *err)
{
    if (model->head_dim % STEP != 0 || model->head_dim > CODEC_IMAGE_MAX_DIMS)
        return rb_fail(err, RB_EUNSUPPORTED, "the CUDA kernels take a head_dim that is a multiple of %d up to %d, found %d", STEP, CODEC_IMAGE_MAX_DIMS,
                       model->head_dim);
    for (int h = 0; h < n_heads; h++)
        if (heads[h].n_groups < 1 || heads[h].n_groups > CODEC_IMAGE_MAX_GROUPS)
            return rb_fail(err, RB_EUNSUPPORTED, "the CUDA kernels take 1 to %d groups a head, kv_head %d has %d", CODEC_IMAGE_MAX_GROUPS, h, heads[h].n_groups);
    return RB_OK;
}

static void place_window(codec_image_group *group)
{
    group->k_begin = group->first / WINDOW_ALIGNMENT * WINDOW_ALIGNMENT;
    group->n_steps = (group->first + group->dims - group->k_begin + STEP - 1) / STEP;
    group->n_tiles = (group->dims + TILE - 1) / TILE;
}

static rb_status alloc_image(image_builder *b, const plan_head *heads, int n_heads, rb_error *err)
{
    codec_image *image = b->image;
    const size_t n = (size_t)n_heads, d = (size_t)b->model->head_dim;
    rb_status st;
    image->head_dim = b->model->head_dim;
    image->n_heads = n_heads;
    for (int h = 0; h < n_heads; h++) {
        int first = 0;
        for (int g = 0; g < heads[h].n_groups; g++) {
            codec_image_group group = {.first = first, .dims = 2 * heads[h].groups[g].n_blocks};
            place_window(&group);
            b->fragment_room += 2 * (size_t)group.n_tiles * (size_t)group.n_steps;
            b->book_room += 3 * ((size_t)1 << heads[h].groups[g].width) / 2;
            b->rotation_room += (size_t)group.dims * (size_t)group.dims;
            first += group.dims;
        }
        image->n_groups += heads[h].n_groups;
    }
    RB_TRY(st, rb_alloc(&image->heads, n, sizeof *image->heads, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->groups, (size_t)image->n_groups, sizeof *image->groups, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->position, n * d, sizeof *image->position, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->pairs, n * d / 2, sizeof *image->pairs, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->fragments, b->fragment_room * CODEC_IMAGE_LANES, sizeof *image->fragments, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->books, b->book_room, sizeof *image->books, "codec image", err), done);
    RB_TRY(st, rb_alloc(&image->rotations, b->rotation_room, sizeof *image->rotations, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->book_of, (size_t)image->n_groups, sizeof *b->book_of, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->book_at, (size_t)image->n_groups, sizeof *b->book_at, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->rotation_of, (size_t)image->n_groups, sizeof *b->rotation_of, "codec image", err), done);
    RB_TRY(st, rb_alloc(&b->rotation_at, (size_t)image->n_groups, sizeof *b->rotation_at, "codec image", err), done);
done:
    return st;
}

/* ---- tables ------------------------------------------------------------------------------------------------------------------ */

/* Heads share tables (codec_tables hands out the same pointer): each is stored once. */
static int add_book(image_builder *b, const codebook *book)
{
    codec_image *image = b->image;
    const int half = book->size / 2;
    for (int i = 0; i < b->n_books; i++)
        if (b->book_of[i] == book) return b->book_at[i];
    const int at = (int)image->n_books;
    float *out = image->books + at;
    for (int i = 0; i < half; i++) out[i] = i < half - 1 ? (float)book->boundary[half + i] : INFINITY;
    memcpy(out + half, book->centroid_f32, (size_t)book->size * sizeof *out);
    image->n_books += (size_t)(half + book->size);
    b->book_of[b->n_books] = book;
    b->book_at[b->n_books++] = at;
    return at;
}

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

/* ---- fragments --------------------------------------------------------------------------------------------------------------- */

/* All entries fp16 numbers after scaling, but for the rounding of R to f32? */
static bool is_exact(const float *rotation, int dims, double scale)
{
    for (int i = 0; i < dims * dims; i++) {
        const double scaled = (double)rotation[i] * scale, rounded = (double)rb_f16_to_f32(rb_f32_to_f16((float)scaled));
        if (fabs(scaled - rounded) > 0x1p-23 * fabs(scaled)) return false;
    }
    return true;
}

static void choose_scale(codec_image_group *group, const float *rotation)
{
    const double own = rotation[0] != 0.0f ? 1.0 / fabs((double)rotation[0]) : 1.0;
    group->has_low = !is_exact(rotation, group->dims, own);
    group->inverse_scale = (float)(group->has_low ? 1.0 / DEFAULT_SCALE : 1.0 / own);
}

/* A fragment's entry (k, n), k 0..15 of a step, n 0..7 of a tile: row and column of R, or false where B is 0. */
typedef struct fragment_source {
    const codec_image_group *group;
    const float *rotation;
    bool is_encode;
    int tile, step;
} fragment_source;

/* y = R x: the columns of tile j are positions such that each lane's results, tile after tile, are neighbours: lane t (of the four that share a row) has
 * positions [t * 2 n_tiles, (t + 1) * 2 n_tiles) of the group, two a tile. It can pack them without asking another lane.
 * x = R^T y: the columns of tile j are the dims 8 j .. 8 j + 7 of the group. */
static double fragment_entry(const fragment_source *from, int k, int n)
{
    const codec_image_group *group = from->group;
    const int inner = group->k_begin + STEP * from->step + k - group->first;
    const int outer = from->is_encode ? n / 2 * 2 * group->n_tiles + 2 * from->tile + n % 2 : TILE * from->tile + n;
    if (inner < 0 || inner >= group->dims || outer >= group->dims) return 0.0;
    const int row = from->is_encode ? outer : inner, column = from->is_encode ? inner : outer;
    return (double)from->rotation[row * group->dims + column] / (double)group->inverse_scale;
}

static uint32_t pack_halves(uint16_t low, uint16_t high) { return (uint32_t)low | (uint32_t)high << 16; }

/* The layout of B in mma.m16n8k16 (PTX ISA): register r of a lane holds rows 2 t + 8 r and the next, column lane / 4, with t = lane % 4. */
static codec_image_lane fragment_lane(const fragment_source *from, int lane)
{
    codec_image_lane out;
    for (int r = 0; r < 2; r++) {
        uint16_t high[2], low[2];
        for (int i = 0; i < 2; i++) {
            const double value = fragment_entry(from, lane % 4 * 2 + 8 * r + i, lane / 4);
            high[i] = rb_f32_to_f16((float)value);
            low[i] = rb_f32_to_f16((float)(value - (double)rb_f16_to_f32(high[i])));
        }
        out.at[r] = pack_halves(high[0], high[1]);
        out.at[2 + r] = pack_halves(low[0], low[1]);
    }
    return out;
}

static int add_fragments(codec_image *image, const codec_image_group *group, bool is_encode)
{
    const int first = (int)image->n_fragments;
    for (int tile = 0; tile < group->n_tiles; tile++)
        for (int step = 0; step < group->n_steps; step++) {
            const fragment_source from = {group, image->rotations + group->rotation, is_encode, tile, step};
            codec_image_lane *lanes = image->fragments + image->n_fragments++ * CODEC_IMAGE_LANES;
            for (int lane = 0; lane < CODEC_IMAGE_LANES; lane++) lanes[lane] = fragment_lane(&from, lane);
        }
    return first;
}

/* ---- heads ------------------------------------------------------------------------------------------------------------------- */

static int order_of(const uint16_t *position, int head_dim)
{
    bool is_natural = true, is_split = true;
    for (int dim = 0; dim < head_dim; dim++) is_natural &= position[dim] == dim;
    for (int dim = 0; dim < head_dim / 2; dim++) is_split &= position[dim] % 2 == 0 && position[dim + head_dim / 2] == position[dim] + 1;
    return is_natural ? CODEC_ORDER_NATURAL : is_split ? CODEC_ORDER_SPLIT_PAIRS : CODEC_ORDER_ANY;
}

static rb_status add_group(image_builder *b, codec_image_group *group, const plan_group *from, rb_error *err)
{
    const double *rotation;
    const codebook *book;
    rb_status st;
    RB_TRY(st, codec_tables_rotation(b->tables, &from->rotation, &rotation, err), done);
    RB_TRY(st, codec_tables_codebook(b->tables, from->codebook, from->width, group->dims, &book, err), done);
    place_window(group);
    group->book = add_book(b, book);
    group->rotation = add_rotation(b, rotation, group->dims);
    choose_scale(group, b->image->rotations + group->rotation);
    if (b->image->n_books > CODEC_IMAGE_MAX_BOOK_FLOATS)
        st = rb_fail(err, RB_EUNSUPPORTED, "the CUDA kernels take codebooks of %d numbers in all, found more", CODEC_IMAGE_MAX_BOOK_FLOATS);
done:
    return st;
}

static void fill_positions(image_builder *b, int h, const plan_head *from, const codec_image_group *groups)
{
    uint16_t *position = b->image->position + h * b->model->head_dim;
    int dims[RB_MAX_HEAD_DIM];
    for (int g = 0; g < from->n_groups; g++) {
        plan_group_dims(&from->groups[g], b->model, dims);
        for (int j = 0; j < groups[g].dims; j++) position[dims[j]] = (uint16_t)(groups[g].first + j);
    }
}

static void fill_pairs(image_builder *b, int h, const codec_image_head *head, const codec_image_group *groups)
{
    uint32_t *pairs = b->image->pairs + h * b->model->head_dim / 2;
    for (int g = 0; g < head->n_groups; g++) {
        const uint32_t centroids = (uint32_t)(groups[g].book + (1 << groups[g].width) / 2);
        for (int p = 0; p < groups[g].dims / 2; p++)
            pairs[groups[g].first / 2 + p] =
                (uint32_t)groups[g].width | (uint32_t)g << 8 | (uint32_t)(p == groups[g].dims / 2 - 1) << 15 | centroids << 16;
    }
}

static rb_status add_head(image_builder *b, int h, const plan_head *from, int first_group, rb_error *err)
{
    codec_image *image = b->image;
    codec_image_head *head = &image->heads[h];
    codec_image_group *groups = image->groups + first_group;
    int first = 0, bit = 0;
    *head = (codec_image_head){.n_groups = from->n_groups, .first_group = first_group, .first_fragment = (int)image->n_fragments};
    for (int g = 0; g < from->n_groups; g++) {
        groups[g] = (codec_image_group){.first = first, .dims = 2 * from->groups[g].n_blocks, .width = from->groups[g].width, .bit_first = bit};
        const rb_status st = add_group(b, &groups[g], &from->groups[g], err);
        if (st != RB_OK) return st;
        first += groups[g].dims;
        bit += groups[g].dims * groups[g].width;
    }
    head->packed_bytes = (bit + 7) / 8;
    for (int g = 0; g < from->n_groups; g++) groups[g].encode = add_fragments(image, &groups[g], true);
    head->n_fragments_encode = (int)image->n_fragments - head->first_fragment;
    for (int g = 0; g < from->n_groups; g++) groups[g].decode = add_fragments(image, &groups[g], false);
    head->n_fragments_decode = (int)image->n_fragments - head->first_fragment - head->n_fragments_encode;
    fill_positions(b, h, from, groups);
    head->order = order_of(image->position + h * image->head_dim, image->head_dim);
    fill_pairs(b, h, head, groups);
    return RB_OK;
}

rb_status codec_image_build(codec_image **out, const plan_head *heads, int n_heads, const model_facts *model, codec_tables *tables, rb_error *err)
{
    codec_image *image = NULL;
    image_builder b = {.tables = tables, .model = model};
    int first_group = 0;
    rb_status st;
    *out = NULL;
    RB_TRY(st, check_limits(heads, n_heads, model, err), done);
    RB_TRY(st, rb_alloc(&image, 1, sizeof *image, "codec image", err), done);
    b.image = image;
    RB_TRY(st, alloc_image(&b, heads, n_heads, err), done);
    for (int h = 0; h < n_heads; h++) {
        RB_TRY(st, add_head(&b, h, &heads[h], first_group, err), done);
        first_group += heads[h].n_groups;
    }
    *out = image;
    image = NULL;
done:
    free(b.book_of);
    free(b.book_at);
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
    free(image->position);
    free(image->pairs);
    free(image->fragments);
    free(image->books);
    free(image->rotations);
    free(image);
}
