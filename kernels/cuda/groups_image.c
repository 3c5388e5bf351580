/* The image of heads of family groups: see kernels/cuda/groups_image.h. */
#include "kernels/cuda/groups_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/codec_image.h"
#include "kernels/cuda/groups_columns.h"
#include "kernels/cuda/groups_fragments.h"
#include "kernels/cuda/groups_tables.h"

enum { STEP = GROUPS_FRAGMENT_STEP, TILE = GROUPS_FRAGMENT_TILE };
static_assert((int)GROUPS_MAX_GROUPS <= (int)CODEC_IMAGE_MAX_NORMS, "a group has a norm");
static_assert((int)GROUPS_MAX_STEPS * (int)STEP == (int)CODEC_IMAGE_MAX_DIMS, "a group can have all dims");

/* What is known while the lists are filled. */
typedef struct image_builder {
    groups_image *image;
    codec_tables *tables;
    const model_facts *model;
    size_t fragment_room, book_room, halves_room, cell_room, rotation_room;
    /* The codebooks whose tables the head has already, [n_books], and where those are. */
    const codebook **book_of;
    groups_image_group *first_with_book;
    int n_books;
    /* The rotations that the image has already, [n_rotations], and where those are. */
    const double **rotation_of;
    int *rotation_at, n_rotations;
} image_builder;

/* ---- sizes ----------------------------------------------------------------------------------- */

static rb_status check_limits(const plan_head *heads, int n_heads, rb_error *err)
{
    for (int h = 0; h < n_heads; h++)
        if (heads[h].groups.n < 1 || heads[h].groups.n > GROUPS_MAX_GROUPS)
            return rb_fail(err, RB_EUNSUPPORTED, "the CUDA kernels take 1 to %d groups a head, kv_head %d has %d",
                           GROUPS_MAX_GROUPS, h, heads[h].groups.n);
    return RB_OK;
}

static bool are_published(const plan_head *heads, int n_heads, const model_facts *model)
{
    for (int h = 0; h < n_heads; h++)
        if (!plan_head_is_published_form(&heads[h], model_n_blocks(model))) return false;
    return true;
}

static void count_tiles(groups_image_group *group)
{
    group->n_tiles = (group->dims + TILE - 1) / TILE;
    group->n_steps = groups_image_steps(group->n_tiles);
}

static int count_uncoded(const plan_groups *plan, int head_dim)
{
    for (int g = 0; g < plan->n; g++) head_dim -= 2 * plan->at[g].n_blocks;
    return head_dim;
}

/* Columns of the dims in groups, then a gap and the others. */
static int count_columns(const plan_groups *plan, int n_uncoded)
{
    int n = 0;
    for (int g = 0; g < plan->n; g++) n += (2 * plan->at[g].n_blocks + TILE - 1) / TILE * TILE;
    return n_uncoded > 0 ? n + TILE + (n_uncoded + TILE - 1) / TILE * TILE : n;
}

static int larger(int a, int b) { return a > b ? a : b; }

static void add_room(image_builder *b, const plan_groups *plan)
{
    for (int g = 0; g < plan->n; g++) {
        groups_image_group group = {.dims = 2 * plan->at[g].n_blocks};
        count_tiles(&group);
        b->fragment_room += 2 * (size_t)group.n_tiles * (size_t)group.n_steps;
        b->book_room += groups_tables_book_room(plan->at[g].width);
        b->halves_room += groups_tables_halves_room(plan->at[g].width);
        b->cell_room += 1 << GROUPS_MAX_LOG2_CELLS;
        b->rotation_room += (size_t)group.dims * (size_t)group.dims;
    }
    b->image->n += plan->n;
    b->image->max_columns = larger(b->image->max_columns, count_columns(plan, count_uncoded(plan, b->model->head_dim)));
}

static rb_status alloc_image(image_builder *b, int n_heads, rb_error *err)
{
    groups_image *image = b->image;
    const size_t n = (size_t)n_heads, d = (size_t)b->model->head_dim, n_groups = (size_t)image->n,
                 columns = n * (size_t)image->max_columns;
    rb_status st;
#define ALLOC(list, count) RB_TRY(st, rb_alloc(&(list), count, sizeof *(list), "codec image", err), done)
    ALLOC(image->heads, n);
    ALLOC(image->at, n_groups);
    ALLOC(image->column, n * d);
    ALLOC(image->position, n * d);
    ALLOC(image->pairs, n * d / 2);
    ALLOC(image->fragments, b->fragment_room * GROUPS_LANES);
    ALLOC(image->books, b->book_room);
    ALLOC(image->halves, b->halves_room);
    ALLOC(image->cells, b->cell_room);
    ALLOC(image->rotations, b->rotation_room);
    ALLOC(image->shifts, columns);
    ALLOC(image->inverse_scales, columns);
    ALLOC(image->centers, columns);
    ALLOC(b->book_of, n_groups);
    ALLOC(b->first_with_book, n_groups);
    ALLOC(b->rotation_of, n_groups);
    ALLOC(b->rotation_at, n_groups);
#undef ALLOC
done:
    return st;
}

/* ---- tables ---------------------------------------------------------------------------------- */

/* Groups of a head that have the same codebook (codec_tables hands out the same pointer) share its tables. */
static void add_book(image_builder *b, const groups_image_head *head, groups_image_group *group, const codebook *book)
{
    int i = 0;
    while (i < b->n_books && b->book_of[i] != book) i++;
    if (i == b->n_books) {
        b->book_of[b->n_books++] = book;
        b->first_with_book[i] = (groups_image_group){0};
        groups_tables_add(b->image, &b->first_with_book[i], book);
    }
    const groups_image_group *first = &b->first_with_book[i];
    group->walk = first->walk - head->first_book;
    group->n_crossed = first->n_crossed;
    group->book = first->book - head->first_book;
    group->halves = first->halves - head->first_halves;
    group->cells = first->cells - head->first_cell;
    group->log2_cells = first->log2_cells;
}

/* Rotations are shared by all heads. */
static int add_rotation(image_builder *b, const double *rotation, int dims)
{
    groups_image *image = b->image;
    for (int i = 0; i < b->n_rotations; i++)
        if (b->rotation_of[i] == rotation) return b->rotation_at[i];
    const int at = (int)image->n_rotations;
    for (int i = 0; i < dims * dims; i++) image->rotations[at + i] = (float)rotation[i];
    image->n_rotations += (size_t)dims * (size_t)dims;
    b->rotation_of[b->n_rotations] = rotation;
    b->rotation_at[b->n_rotations++] = at;
    return at;
}

static bool is_transform(const image_builder *b, const plan_group *from, int dims)
{
    return b->image->is_published && from->rotation.kind == ROTATION_HADAMARD && dims >= GROUPS_TRANSFORM_DIMS
           && (dims & (dims - 1)) == 0;
}

static rb_status add_group(image_builder *b, const groups_image_head *head, groups_image_group *group,
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
    group->is_transform = is_transform(b, from, group->dims);
done:
    return st;
}

/* ---- scales ---------------------------------------------------------------------------------- */

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
static void add_direction(image_builder *b, const groups_head_build *h, int g, bool is_encode)
{
    groups_image_group *group = &h->groups[g];
    double scales[RB_MAX_HEAD_DIM];
    if (h->plan->scales) {
        groups_scales_of(scales, h->plan, g, b->model);
        for (int j = 0; !is_encode && j < group->dims; j++) scales[j] = 1.0 / scales[j];
        const int exponent = bring_to_one(scales, group->dims);
        if (is_encode) group->encode_exponent = exponent;
        else group->decode_scale = (float)ldexp(1.0, exponent);
    }
    const int first = groups_fragments_add(b->image, group, h->plan->scales ? scales : NULL, is_encode);
    if (is_encode) group->encode = first;
    else group->decode = first;
}

static void add_fragments(image_builder *b, const groups_head_build *h)
{
    groups_image_head *head = h->head;
    for (int g = 0; g < head->n_groups; g++) add_direction(b, h, g, true);
    head->n_fragments_encode = (int)b->image->n_fragments - head->first_fragment;
    for (int g = 0; g < head->n_groups; g++) add_direction(b, h, g, false);
    head->n_fragments_decode = (int)b->image->n_fragments - head->first_fragment - head->n_fragments_encode;
}

/* ---- heads ----------------------------------------------------------------------------------- */

static void fill_pairs(const groups_head_build *h)
{
    for (int g = 0; g < h->head->n_groups; g++) {
        const groups_image_group *group = &h->groups[g];
        const uint32_t centroids = (uint32_t)(group->book + (1 << group->width) / 2);
        for (int p = 0; p < group->dims / 2; p++)
            h->pairs[group->first / 2 + p] = (uint32_t)group->width | (uint32_t)g << 8
                                             | (uint32_t)(p == group->dims / 2 - 1) << 15 | centroids << 16;
    }
}

/* Counted in the encode kernel's code: what the rows cost, each group, and each of its tiles, of 1, 2, 3 and more
 * bits. */
static int cost_of(const groups_image_head *head, const groups_image_group *groups)
{
    static const int coding[] = {0, 26, 42, 66, 80};
    enum { ALL = 500, GROUP = 160, TILE_ALL = 20, STEP_COST = 6, TRANSFORM = 26 }; /* two products, three butterflies */
    int cost = ALL;
    for (int g = 0; g < head->n_groups; g++) {
        const int rotation = groups[g].is_transform ? TRANSFORM : STEP_COST * groups[g].n_steps,
                  width = groups[g].width < GROUPS_CELL_WIDTH ? groups[g].width : GROUPS_CELL_WIDTH;
        cost += GROUP + groups[g].n_tiles * (TILE_ALL + rotation + coding[width]);
    }
    return cost;
}

static groups_image_head start_head(const groups_image *image, const plan_head *from, int first_group)
{
    return (groups_image_head){.n_groups = from->groups.n,
                               .first_group = first_group,
                               .first_fragment = (int)image->n_fragments,
                               .is_searched = from->groups.encoder == ENCODER_SEARCH,
                               .has_center = from->center != NULL,
                               .first_book = (int)image->n_books,
                               .first_halves = (int)image->n_halves,
                               .first_cell = (int)image->n_cells};
}

/* All groups, and what follows from their sizes. */
static rb_status add_groups(image_builder *b, const groups_head_build *h, rb_error *err)
{
    groups_image_head *head = h->head;
    int first = 0, bit = 0;
    rb_status st = RB_OK;
    b->n_books = 0;
    for (int g = 0; g < h->plan->n; g++) {
        groups_image_group *group = &h->groups[g];
        *group = (groups_image_group){.first = first,
                                      .dims = 2 * h->plan->at[g].n_blocks,
                                      .width = h->plan->at[g].width,
                                      .column = head->n_columns,
                                      .bit_first = bit,
                                      .decode_scale = 1.0f};
        RB_TRY(st, add_group(b, head, group, &h->plan->at[g], err), done);
        first += group->dims;
        bit += group->dims * group->width;
        head->n_columns += TILE * group->n_tiles;
    }
    const int n_uncoded = b->model->head_dim - first;
    head->n_coded = first;
    head->first_uncoded = n_uncoded > 0 ? head->n_columns + TILE : head->n_columns;
    head->n_columns = count_columns(h->plan, n_uncoded);
    head->n_books = (int)b->image->n_books - head->first_book;
    head->n_halves = (int)b->image->n_halves - head->first_halves;
    head->n_cells = (int)b->image->n_cells - head->first_cell;
    *h->streams = (codec_image_head){.packed_bytes = (bit + 7) / 8,
                                     .n_norms = head->n_groups,
                                     .norm_bytes = norm_kind_bits(h->plan->norm) / 8,
                                     .cost = cost_of(head, h->groups)};
done:
    return st;
}

static rb_status add_head(image_builder *b, codec_image *all, int index, const plan_head *from, int first_group,
                          rb_error *err)
{
    groups_image *image = b->image;
    const int d = b->model->head_dim;
    const groups_head_build h = {.from = from,
                                 .plan = &from->groups,
                                 .streams = &all->heads[index],
                                 .head = &image->heads[index],
                                 .groups = image->at + first_group,
                                 .column = image->column + index * d,
                                 .position = image->position + index * d,
                                 .pairs = image->pairs + index * d / 2,
                                 .shifts = image->shifts + index * image->max_columns,
                                 .inverse_scales = image->inverse_scales + index * image->max_columns,
                                 .centers = image->centers + index * image->max_columns};
    *h.head = start_head(image, from, first_group);
    const rb_status st = add_groups(b, &h, err);
    if (st != RB_OK) return st;
    add_fragments(b, &h);
    groups_columns_fill(&h, image, b->model);
    fill_pairs(&h);
    return RB_OK;
}

/* ---- all ------------------------------------------------------------------------------------- */

/* What is largest over heads and groups. */
static void sum_up(groups_image *image, int n_heads)
{
    for (int h = 0; h < n_heads; h++) {
        const groups_image_head *head = &image->heads[h];
        image->is_searched |= head->is_searched;
        image->max_books = larger(image->max_books, head->n_books);
        image->max_halves = larger(image->max_halves, head->n_halves);
        image->max_cells = larger(image->max_cells, head->n_cells);
        image->max_fragments_encode = larger(image->max_fragments_encode, head->n_fragments_encode);
        image->max_fragments_decode = larger(image->max_fragments_decode, head->n_fragments_decode);
    }
    for (int g = 0; g < image->n; g++) {
        const groups_image_group *group = &image->at[g];
        image->max_tiles = larger(image->max_tiles, group->n_tiles);
        image->max_steps = larger(image->max_steps, group->n_steps);
        image->has_search |= group->width >= GROUPS_CELL_WIDTH && group->log2_cells == 0;
    }
}

static rb_status groups_image_build(codec_image *all, const plan_head *heads, const model_facts *model,
                                    codec_tables *tables, rb_error *err)
{
    image_builder b = {.image = &all->groups, .tables = tables, .model = model};
    int first_group = 0;
    rb_status st;
    RB_TRY(st, check_limits(heads, all->n_heads, err), done);
    all->groups.is_published = are_published(heads, all->n_heads, model);
    for (int h = 0; h < all->n_heads; h++) add_room(&b, &heads[h].groups);
    RB_TRY(st, alloc_image(&b, all->n_heads, err), done);
    for (int h = 0; h < all->n_heads; h++) {
        RB_TRY(st, add_head(&b, all, h, &heads[h], first_group, err), done);
        first_group += heads[h].groups.n;
    }
    sum_up(&all->groups, all->n_heads);
done:
    free(b.book_of);
    free(b.first_with_book);
    free(b.rotation_of);
    free(b.rotation_at);
    return st;
}

static void groups_image_clear(codec_image *all)
{
    groups_image *image = &all->groups;
    free(image->heads);
    free(image->at);
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
    *image = (groups_image){0};
}

/* Rotations and their fragments both ways, whose steps are rounded up, and each group's codebook. */
static int64_t groups_image_head_bytes(const plan_head *head, const model_facts *model)
{
    enum { ROTATION_BYTES = 20, BOOK_BYTES = 12 << 10 }; /* of a dim squared; of a group of 8 bits */
    return ROTATION_BYTES * (int64_t)model->head_dim * model->head_dim + head->groups.n * (int64_t)BOOK_BYTES;
}

static int groups_image_list_parts(const codec_image *image, codec_image_part *parts)
{
    const groups_image *own = &image->groups;
    const size_t n = (size_t)image->n_heads, d = (size_t)image->head_dim, columns = n * (size_t)own->max_columns;
    const codec_image_part all[] = {
        CODEC_IMAGE_PART(image, groups.heads, n),
        CODEC_IMAGE_PART(image, groups.at, own->n),
        CODEC_IMAGE_PART(image, groups.column, n * d),
        CODEC_IMAGE_PART(image, groups.position, n * d),
        CODEC_IMAGE_PART(image, groups.pairs, n * d / 2),
        CODEC_IMAGE_PART(image, groups.fragments, own->n_fragments * GROUPS_LANES),
        CODEC_IMAGE_PART(image, groups.books, own->n_books),
        CODEC_IMAGE_PART(image, groups.halves, own->n_halves),
        CODEC_IMAGE_PART(image, groups.cells, own->n_cells),
        CODEC_IMAGE_PART(image, groups.rotations, own->n_rotations),
        CODEC_IMAGE_PART(image, groups.shifts, columns),
        CODEC_IMAGE_PART(image, groups.inverse_scales, columns),
        CODEC_IMAGE_PART(image, groups.centers, columns),
    };
    static_assert(1 + sizeof all / sizeof *all <= CODEC_IMAGE_MAX_PARTS, "room for all parts");
    memcpy(parts, all, sizeof all);
    return (int)(sizeof all / sizeof *all);
}

extern const codec_image_functions groups_image_functions;
const codec_image_functions groups_image_functions = {
    .build = groups_image_build,
    .clear = groups_image_clear,
    .head_bytes = groups_image_head_bytes,
    .list_parts = groups_image_list_parts,
};
