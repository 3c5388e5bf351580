/* The image of heads of family trellis: see kernels/cuda/trellis_image.h.
 *
 * Operand B of mma.m16n8k16, for the product of 16 coordinates and 8 dims: lane l has the rows 2 t, 2 t + 1 in its
 * first word and 2 t + 8, 2 t + 9 in its second, t = l % 4, of the column l / 4; operand A has coordinates where B has
 * rows, and the sums of columns 2 t and 2 t + 1 come out in lane l. Which coordinate is a row and which dim a column is
 * free. So rows are dealt so that a lane looks up a quad, four neighbours of the stream, and columns of four tiles so
 * that it gets eight neighbouring dims, which it stores at once:
 *
 *   coordinate of lane l's row r of 4, in step s       16 s + 4 t + r
 *   dim of column n of tile j of 4, in group g         32 g + 8 (n / 2) + 2 j + n % 2 */
#include "kernels/cuda/trellis_image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "kernels/cuda/codec_image.h"
#include "kernels/reference/trellis_codec.h"

enum { LANES = 32, NO_SHIFT = 8 /* a byte shifted by so much is 0 */ };

/* ---- where coordinates are ------------------------------------------------------------------- */

/* Bits of the stream up to the end of coordinate i's. */
static int end_of(const plan_trellis *plan, int i)
{
    int end = 0;
    for (int j = 0; j <= i; j++) end += plan->widths[j];
    return end;
}

/* Whether two neighbours are looked up together: both have no bits, or have a table. */
static bool is_pair(int first, int second) { return first == second && first <= TRELLIS_MAX_PAIR; }

static void set_pair(trellis_image_quad *quad, int pair, int width)
{
    quad->first[pair] = (uint16_t)(width > 0 ? TRELLIS_PAIRS_AT + (256 << width) - 512 : 0);
    quad->mask[pair] = (uint16_t)(width > 0 ? (256 << width) - 1 : 0);
}

static void set_quad(trellis_image_quad *quad, const plan_trellis *plan, int q)
{
    const uint8_t *widths = plan->widths + TRELLIS_QUAD * q;
    memcpy(quad->width, widths, TRELLIS_QUAD);
    if (widths[0] == 0) { /* no bit of the stream is asked for: all are pairs without bits */
        quad->third = TRELLIS_QUAD_PAIRED;
        return;
    }
    quad->bit = (uint16_t)(end_of(plan, TRELLIS_QUAD * q) - TRELLIS_STATE_BITS);
    quad->third = (uint16_t)(widths[1] + widths[2]);
    if (!is_pair(widths[0], widths[1]) || !is_pair(widths[2], widths[3])) return;
    quad->third |= TRELLIS_QUAD_PAIRED;
    set_pair(quad, 0, widths[0]);
    set_pair(quad, 1, widths[2]);
}

static void set_quads(trellis_image_quad *quads, const plan_trellis *plan)
{
    enum { QUADS = TRELLIS_STEP / TRELLIS_QUAD };
    for (int q = 0; q < plan->n_dims / TRELLIS_QUAD; q++) set_quad(&quads[q], plan, q);
    for (int first = 0; first < plan->n_dims / TRELLIS_QUAD; first += QUADS) {
        unsigned paired = TRELLIS_QUAD_PAIRED;
        for (int q = first; q < first + QUADS; q++) paired &= quads[q].third;
        for (int q = first; q < first + QUADS && paired; q++) quads[q].third |= TRELLIS_STEP_PAIRED;
    }
}

static void set_runs(trellis_image_run *runs, const plan_trellis *plan)
{
    for (int first = 0, end; first < plan->n_dims; first = end) {
        for (end = first + 1; end < plan->n_dims && plan->widths[end] == plan->widths[first];) end++;
        for (int i = first; i < end; i++)
            runs[i] = (trellis_image_run){.width = plan->widths[first], .first = (uint16_t)first, .end = (uint16_t)end};
    }
}

/* The first coordinate that ends at the byte's end or after it gives the upper bits, the one before it the lower ones.
 * The last byte may have no such coordinate. */
static void set_bytes(trellis_image_byte *bytes, const plan_trellis *plan)
{
    const int n_coded = plan_trellis_n_coded(plan);
    int i = 0, end = TRELLIS_STATE_BITS, end_before = 0;
    for (int b = 0; b < plan->n_dims; b++) {
        while (i < n_coded && end < 8 * b + 8) {
            end_before = end;
            i++;
            if (i < n_coded) end += plan->widths[i];
        }
        const int left = end - 8 - 8 * b, right = 8 * b + 8 - end_before;
        bytes[b] = (trellis_image_byte){(uint16_t)i, (uint8_t)(i < n_coded ? left : NO_SHIFT),
                                        (uint8_t)(i > 0 && right < NO_SHIFT ? right : NO_SHIFT)};
    }
}

/* ---- matrices -------------------------------------------------------------------------------- */

static uint32_t pair_of(const plan_trellis *plan, int n_coded, int coordinate, int dim)
{
    uint32_t word = 0;
    for (int i = 0; i < 2; i++)
        if (coordinate + i < n_coded && dim < plan->n_dims)
            word |= (uint32_t)rb_f32_to_f16(plan->basis[(coordinate + i) * plan->n_dims + dim]) << 16 * i;
    return word;
}

/* [n_groups][n_dims / 16][2][32][4]: of half h the words of tile 2 h, then those of tile 2 h + 1. */
static void set_fragments(uint32_t *fragments, const plan_trellis *plan)
{
    const int n_steps = plan->n_dims / TRELLIS_STEP, n_coded = plan_trellis_n_coded(plan),
              n = trellis_image_fragment_words(plan->n_dims);
    for (int at = 0; at < n; at++) {
        const int word = at % 2, tile = at / 2 % 2 + 2 * (at / (4 * LANES) % 2), lane = at / 4 % LANES,
                  step = at / (8 * LANES) % n_steps, group = at / (8 * LANES) / n_steps, column = lane / 4;
        fragments[at] = pair_of(plan, n_coded, TRELLIS_STEP * step + TRELLIS_QUAD * (lane % 4) + 2 * word,
                                TRELLIS_GROUP * group + 8 * (column / 2) + 2 * tile + column % 2);
    }
}

static bool is_diagonal(const plan_trellis *plan)
{
    const int n = plan->n_dims, n_coded = plan_trellis_n_coded(plan);
    for (int i = 0; i < n_coded; i++)
        for (int j = 0; j < n; j++)
            if (i != j && plan->basis[i * n + j] != 0.0f) return false;
    return true;
}

/* Both lie with the coordinates side by side, which neighbouring lanes take. */
static rb_status set_matrices(float *project, uint16_t *basis, const plan_trellis *plan, rb_error *err)
{
    const int n = plan->n_dims, n_coded = plan_trellis_n_coded(plan);
    double *inverse = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&inverse, (size_t)n * (size_t)n, sizeof *inverse, "codec image", err), done);
    RB_TRY(st, trellis_invert_basis(inverse, plan, err), done);
    for (int i = 0; i < n_coded; i++)
        for (int j = 0; j < n; j++) {
            project[j * n + i] = (float)(inverse[j * n + i] * trellis_stretch(plan->widths[i]));
            basis[j * n + i] = rb_f32_to_f16(plan->basis[i * n + j]);
        }
done:
    free(inverse);
    return st;
}

/* ---- a head ---------------------------------------------------------------------------------- */

/* The search of a vector takes this for each coordinate, in about the units of the other families. */
enum { COORDINATE_COST = 512 };

static void set_numbers(trellis_image *image, int h, const plan_head *head)
{
    const plan_trellis *plan = &head->trellis;
    trellis_image_head *out = &image->heads[h];
    double sum = 0.0;
    out->n_coded = plan_trellis_n_coded(plan);
    out->code_bits = end_of(plan, plan->n_dims - 1);
    out->gain_bits = plan->gain_bits;
    out->gain_zero = plan->gain_zero;
    for (int level = 0; level < 1 << plan->gain_bits; level++) {
        out->gains[level] = (float)trellis_gain(plan, level);
        out->inverse_gains[level] = (float)(1.0 / trellis_gain(plan, level));
    }
    for (int i = 0; i < plan->n_dims; i++) {
        const size_t at = (size_t)h * (size_t)plan->n_dims + (size_t)i;
        if (head->center) image->centers[at] = head->center[i];
        if (plan->widths[i] == 0) continue;
        image->scales[at] = plan->basis[i * plan->n_dims + i];
        image->roots[at] = (float)sqrt((double)plan->weights[i]);
        sum += (double)plan->weights[i];
    }
    out->inverse_weight = (float)(1.0 / sum);
}

static int larger(int a, int b) { return a > b ? a : b; }

static rb_status set_head(codec_image *all, int h, const plan_head *head, rb_error *err)
{
    trellis_image *image = &all->trellis;
    const plan_trellis *plan = &head->trellis;
    const size_t n = (size_t)image->n_dims, at = (size_t)h * n;
    set_numbers(image, h, head);
    set_quads(image->quads + at / TRELLIS_QUAD, plan);
    set_bytes(image->bytes + at, plan);
    set_runs(image->runs + at, plan);
    set_fragments(image->fragments + (size_t)h * (size_t)trellis_image_fragment_words(image->n_dims), plan);
    image->max_coded = larger(image->max_coded, image->heads[h].n_coded);
    image->is_diagonal = image->is_diagonal && is_diagonal(plan);
    for (size_t q = at / TRELLIS_QUAD; q < (at + n) / TRELLIS_QUAD; q++)
        if (image->quads[q].third & TRELLIS_QUAD_PAIRED)
            image->max_pair = larger(image->max_pair, larger(image->quads[q].width[0], image->quads[q].width[2]));
    all->heads[h] = (codec_image_head){.packed_bytes = (image->heads[h].code_bits + plan->gain_bits + 7) / 8,
                                       .norm_bytes = 2,
                                       .cost = COORDINATE_COST * image->heads[h].n_coded};
    return set_matrices(image->project + at * n, image->basis + at * n, plan, err);
}

/* ---- all ------------------------------------------------------------------------------------- */

static rb_status trellis_image_build(codec_image *all, const plan_head *heads, const model_facts *model,
                                     codec_tables *tables, rb_error *err)
{
    trellis_image *image = &all->trellis;
    const size_t n_heads = (size_t)all->n_heads, n = (size_t)model->head_dim;
    rb_status st;
    (void)tables;
    *image =
        (trellis_image){.n_dims = model->head_dim, .n_groups = trellis_image_groups(model->head_dim), .is_diagonal = 1};
#define ALLOC(list, count) RB_TRY(st, rb_alloc(&(list), count, sizeof *(list), "codec image", err), done)
    ALLOC(image->heads, n_heads);
    ALLOC(image->quads, n_heads * n / TRELLIS_QUAD);
    ALLOC(image->bytes, n_heads * n);
    ALLOC(image->runs, n_heads * n);
    ALLOC(image->centers, n_heads * n);
    ALLOC(image->scales, n_heads * n);
    ALLOC(image->roots, n_heads * n);
    ALLOC(image->project, n_heads * n * n);
    ALLOC(image->basis, n_heads * n * n);
    ALLOC(image->fragments, n_heads * (size_t)trellis_image_fragment_words(model->head_dim));
    ALLOC(image->tables, (TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES);
#undef ALLOC
    for (int i = 0; i < (TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES; i++)
        image->tables[i] = rb_f32_to_f16(trellis_tables[i / TRELLIS_STATES][i % TRELLIS_STATES]);
    for (int h = 0; h < all->n_heads; h++) {
        if (heads[h].trellis.n_dims != model->head_dim)
            return rb_fail(err, RB_EFORMAT, "kv_head %d: trellis of %d dims, expected %d", h, heads[h].trellis.n_dims,
                           model->head_dim);
        RB_TRY(st, set_head(all, h, &heads[h], err), done);
    }
done:
    return st;
}

static void trellis_image_clear(codec_image *all)
{
    trellis_image *image = &all->trellis;
    free(image->heads);
    free(image->quads);
    free(image->bytes);
    free(image->runs);
    free(image->centers);
    free(image->scales);
    free(image->roots);
    free(image->project);
    free(image->basis);
    free(image->fragments);
    free(image->tables);
    *image = (trellis_image){0};
}

static int64_t trellis_image_head_bytes(const plan_head *head, const model_facts *model)
{
    const size_t n = (size_t)model->head_dim;
    (void)head;
    return (int64_t)(sizeof(trellis_image_head) + n / TRELLIS_QUAD * sizeof(trellis_image_quad)
                     + n * (sizeof(trellis_image_byte) + sizeof(trellis_image_run) + 3 * sizeof(float))
                     + n * n * (sizeof(float) + sizeof(uint16_t))
                     + (size_t)trellis_image_fragment_words(model->head_dim) * sizeof(uint32_t)
                     + (TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES * sizeof(uint16_t));
}

static int trellis_image_list_parts(const codec_image *image, codec_image_part *parts)
{
    const size_t n = (size_t)image->n_heads, d = (size_t)image->head_dim;
    const codec_image_part all[] = {
        CODEC_IMAGE_PART(image, trellis.heads, n),
        CODEC_IMAGE_PART(image, trellis.quads, n * d / TRELLIS_QUAD),
        CODEC_IMAGE_PART(image, trellis.bytes, n * d),
        CODEC_IMAGE_PART(image, trellis.runs, n * d),
        CODEC_IMAGE_PART(image, trellis.centers, n * d),
        CODEC_IMAGE_PART(image, trellis.scales, n * d),
        CODEC_IMAGE_PART(image, trellis.roots, n * d),
        CODEC_IMAGE_PART(image, trellis.project, n * d * d),
        CODEC_IMAGE_PART(image, trellis.basis, n * d * d),
        CODEC_IMAGE_PART(image, trellis.fragments, n * (size_t)trellis_image_fragment_words(image->head_dim)),
        CODEC_IMAGE_PART(image, trellis.tables, (TRELLIS_MAX_WIDTH + 1) * TRELLIS_STATES),
    };
    static_assert(1 + sizeof all / sizeof *all <= CODEC_IMAGE_MAX_PARTS, "room for all parts");
    memcpy(parts, all, sizeof all);
    return (int)(sizeof all / sizeof *all);
}

extern const codec_image_functions trellis_image_functions;
const codec_image_functions trellis_image_functions = {
    .build = trellis_image_build,
    .clear = trellis_image_clear,
    .head_bytes = trellis_image_head_bytes,
    .list_parts = trellis_image_list_parts,
};
