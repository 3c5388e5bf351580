/* The quantizer of a head of groups, the definition: TurboQuant-MSE a group (arXiv 2504.19874),
 *   norm = |x|;  u = x / norm (0 stays 0);  y = R u;  code[j] = number of boundaries < y[j];
 *   y^[j] = centroid[code[j]];  y^ /= |y^|;  x^ = fp16(norm) * R^T y^,
 * on (x - center) * scale where the head has them.
 *
 * Vectors are taken in tiles: gather and normalise a group's dims into a tile, rotate by one product (y = u R^T),
 * search codes; the way back is one product more. Everything in between is double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/reference/encoder_stretches.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/tile_product.h"

typedef struct codec_group {
    int first, dims;        /* coding positions [first, first + dims) */
    const double *rotation; /* [2][dims][dims]: it, and its transpose */
    const codebook *book;
    int norm_exponent;
    double coherence;
} codec_group;

typedef struct groups_codec {
    int head_dim, n_groups;
    int n_coded; /* dims in groups; the coding positions after them hold dims of no group, at width 0 */
    codec_group *groups;
    norm_kind norm;
    plan_encoder encoder;
    const int *permutation; /* [head_dim], the head_codec's */
    double *scale, *center; /* [head_dim] by coding position; NULL: 1, 0 */
} groups_codec;

/* ---- life ------------------------------------------------------------------------------------ */

/* A head's groups hold dims of the head, each once at most: what follows writes [head_dim] arrays by it. */
static rb_status check_dims(const plan_groups *groups, int head_dim, rb_error *err)
{
    int64_t n_dims = 0;
    if (groups->n < 1) return rb_fail(err, RB_EINVAL, "a head has no groups, expected one at least");
    for (int g = 0; g < groups->n; g++) {
        const plan_group *group = &groups->at[g];
        if (group->n_blocks < 1 || group->rotation.dims != 2 * group->n_blocks)
            return rb_fail(err, RB_EINVAL,
                           "group %d: rotation has %d dims for %d blocks, expected twice as many, 2 at least", g,
                           group->rotation.dims, group->n_blocks);
        n_dims += group->rotation.dims;
    }
    if (n_dims > head_dim)
        return rb_fail(err, RB_EINVAL, "a head's groups hold %lld dims, expected head_dim %d at most",
                       (long long)n_dims, head_dim);
    return RB_OK;
}

static rb_status add_group(groups_codec *codec, code_layout *layout, const plan_group *group, const model_facts *model,
                           codec_tables *tables, rb_error *err)
{
    codec_group *out = &codec->groups[codec->n_groups];
    rb_status st;
    out->first = codec->n_coded;
    out->dims = group->rotation.dims;
    RB_TRY(st, codec_tables_rotation(tables, &group->rotation, &out->rotation, err), done);
    RB_TRY(st, codec_tables_codebook(tables, group->codebook, group->width, out->dims, &out->book, err), done);
    plan_group_dims(group, model, layout->permutation + out->first);
    memset(layout->widths + out->first, group->width, (size_t)out->dims);
    out->norm_exponent = group->norm_exponent;
    out->coherence = (double)group->coherence;
    codec->n_groups++;
    codec->n_coded += out->dims;
done:
    return st;
}

/* Dims of no group, ascending, after those of the groups. */
static void add_uncoded(const groups_codec *codec, int *permutation)
{
    bool is_coded[RB_MAX_HEAD_DIM] = {false};
    for (int i = 0; i < codec->n_coded; i++) is_coded[permutation[i]] = true;
    for (int dim = 0, at = codec->n_coded; dim < codec->head_dim; dim++)
        if (!is_coded[dim]) permutation[at++] = dim;
}

static rb_status set_transform(groups_codec *codec, const plan_head *head, const model_facts *model, rb_error *err)
{
    double by_dim[RB_MAX_HEAD_DIM];
    rb_status st = RB_OK;
    if (head->groups.scales) {
        RB_TRY(st, rb_alloc(&codec->scale, (size_t)model->head_dim, sizeof *codec->scale, "codec", err), done);
        for (int block = 0; block < model_n_blocks(model); block++) {
            int dims[2];
            model_block_dims(model, block, dims);
            by_dim[dims[0]] = by_dim[dims[1]] = (double)head->groups.scales[block];
        }
        for (int i = 0; i < model->head_dim; i++) codec->scale[i] = by_dim[codec->permutation[i]];
    }
    if (head->center) {
        RB_TRY(st, rb_alloc(&codec->center, (size_t)model->head_dim, sizeof *codec->center, "codec", err), done);
        for (int i = 0; i < model->head_dim; i++) codec->center[i] = (double)head->center[codec->permutation[i]];
    }
done:
    return st;
}

static void groups_codec_free(void *own)
{
    groups_codec *codec = own;
    if (!codec) return;
    free(codec->groups);
    free(codec->scale);
    free(codec->center);
    free(codec);
}

static rb_status groups_codec_create(void **own, code_layout *layout, const plan_head *head, const model_facts *model,
                                     codec_tables *tables, rb_error *err)
{
    const plan_groups *groups = &head->groups;
    groups_codec *codec = NULL;
    rb_status st;
    RB_TRY(st, check_dims(groups, model->head_dim, err), done);
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->head_dim = model->head_dim;
    codec->norm = groups->norm;
    codec->encoder = groups->encoder;
    codec->permutation = layout->permutation;
    RB_TRY(st, rb_alloc(&codec->groups, (size_t)groups->n, sizeof *codec->groups, "codec", err), done);
    for (int g = 0; g < groups->n; g++) RB_TRY(st, add_group(codec, layout, &groups->at[g], model, tables, err), done);
    add_uncoded(codec, layout->permutation);
    layout->n_norms = groups->n;
    RB_TRY(st, set_transform(codec, head, model, err), done);
    *own = codec;
    codec = NULL;
done:
    groups_codec_free(codec);
    return st;
}

/* ---- one tile -------------------------------------------------------------------------------- */

/* Working memory of a tile: unit and rotated [HEAD_CODEC_TILE][head_dim], norms [HEAD_CODEC_TILE], trial [head_dim]. */
typedef struct tile_memory {
    double *unit, *rotated, *norms;
    uint8_t *trial;
} tile_memory;

static size_t groups_work_size(const void *own)
{
    const groups_codec *codec = own;
    return (2 * HEAD_CODEC_TILE * (size_t)codec->head_dim + HEAD_CODEC_TILE) * sizeof(double) + (size_t)codec->head_dim;
}

static tile_memory share_work(void *work, const groups_codec *codec)
{
    const size_t n = HEAD_CODEC_TILE * (size_t)codec->head_dim;
    double *numbers = work;
    return (tile_memory){numbers, numbers + n, numbers + 2 * n, (uint8_t *)(numbers + 2 * n + HEAD_CODEC_TILE)};
}

/* Gathers the group's dims of n vectors, transformed, divides by the norm. */
static void normalise(double *unit, double *norms, const groups_codec *codec, const codec_group *group, const float *x,
                      int n)
{
    const int *dims = codec->permutation + group->first;
    const double *center = codec->center ? codec->center + group->first : NULL,
                 *scale = codec->scale ? codec->scale + group->first : NULL;
    for (int v = 0; v < n; v++) {
        const float *vector = x + (int64_t)v * codec->head_dim;
        double *out = unit + (int64_t)v * group->dims, square = 0.0;
        for (int j = 0; j < group->dims; j++) out[j] = (double)vector[dims[j]];
        for (int j = 0; center && j < group->dims; j++) out[j] -= center[j];
        for (int j = 0; scale && j < group->dims; j++) out[j] *= scale[j];
        for (int j = 0; j < group->dims; j++) square += out[j] * out[j];
        norms[v] = sqrt(square);
        const double to_unit = norms[v] > 0.0 ? 1.0 / norms[v] : 0.0;
        for (int j = 0; j < group->dims; j++) out[j] *= to_unit;
    }
}

/* rotated = unit R^T, or unit = rotated R. */
static void rotate(const codec_group *group, const double *in, double *out, int n, bool is_inverse)
{
    const int64_t m = group->dims;
    tile_product(out, in, is_inverse ? group->rotation : group->rotation + m * m, n, group->dims, group->dims);
}

/* Number of boundaries below each coordinate. Few boundaries: counting them all has no branches and vectorises; many: a
 * binary search. */
RB_CPU_CLONES static void search_codes(uint8_t *codes, const double *y, const codebook *book, int n)
{
    enum { COUNTED = 15 };
    const int n_boundaries = book->size - 1;
    if (n_boundaries > COUNTED) {
        for (int i = 0; i < n; i++) codes[i] = (uint8_t)codebook_code(book, y[i]);
        return;
    }
    memset(codes, 0, (size_t)n);
    for (int b = 0; b < n_boundaries; b++) {
        const double boundary = book->boundary[b];
        for (int i = 0; i < n; i++) codes[i] = (uint8_t)(codes[i] + (boundary < y[i]));
    }
}

/* cos of the angle between y, of norm 1, and the centroids of its codes. */
static double cosine(const double *y, const uint8_t *codes, const codebook *book, int n)
{
    double product = 0.0, square = 0.0;
    for (int i = 0; i < n; i++) {
        const double c = (double)book->centroid_f32[codes[i]];
        product += c * y[i];
        square += c * c;
    }
    return square > 0.0 ? product / sqrt(square) : 0.0;
}

/* A decoder brings centroids to norm 1, so what counts of them is the direction: a stretched vector's codes may lie
 * closer in angle than its own. The first of equals stays. codes [dims] are the vector's own and become the best ones;
 * returns their cosine. `stretched` and `trial` hold dims values. */
static double search_stretches(uint8_t *codes, const double *y, const codebook *book, int dims, double *stretched,
                               uint8_t *trial)
{
    static const double stretches[] = ENCODER_STRETCHES;
    double best = cosine(y, codes, book, dims);
    if (book->width == 1) return best; /* signs do not change */
    for (size_t s = 0; s < sizeof stretches / sizeof *stretches; s++) {
        for (int j = 0; j < dims; j++) stretched[j] = y[j] * stretches[s];
        search_codes(trial, stretched, book, dims);
        const double angle = cosine(y, trial, book, dims);
        if (angle <= best) continue;
        best = angle;
        memcpy(codes, trial, (size_t)dims);
    }
    return best;
}

/* Centroids of the codes, brought to norm 1: norm correction. */
static void restore_unit(double *y, const uint8_t *codes, int code_stride, const codec_group *group, int n)
{
    for (int v = 0; v < n; v++) {
        double *out = y + (int64_t)v * group->dims, square = 0.0;
        for (int j = 0; j < group->dims; j++) {
            out[j] = (double)group->book->centroid_f32[codes[(int64_t)v * code_stride + j]];
            square += out[j] * out[j];
        }
        const double scale = square > 0.0 ? 1.0 / sqrt(square) : 0.0; /* 0 only for codes the codebook does not have */
        for (int j = 0; j < group->dims; j++) out[j] *= scale;
    }
}

/* Back to the dims of x, at the stored norm. */
static void scatter(float *x_hat, const double *unit, const uint16_t *norms, const groups_codec *codec,
                    const codec_group *group, int n)
{
    const int *dims = codec->permutation + group->first;
    const double *center = codec->center ? codec->center + group->first : NULL,
                 *scale = codec->scale ? codec->scale + group->first : NULL;
    for (int v = 0; v < n; v++) {
        const double norm = norm_decode(codec->norm, group->norm_exponent, norms[(int64_t)v * codec->n_groups]);
        const double *in = unit + (int64_t)v * group->dims;
        float *vector = x_hat + (int64_t)v * codec->head_dim;
        if (!center && !scale)
            for (int j = 0; j < group->dims; j++) vector[dims[j]] = (float)(norm * in[j]);
        else
            for (int j = 0; j < group->dims; j++)
                vector[dims[j]] = (float)(norm * in[j] / (scale ? scale[j] : 1.0) + (center ? center[j] : 0.0));
    }
}

static rb_status encode_norm(uint16_t *stored, const groups_codec *codec, const codec_group *group, double norm,
                             int64_t vector, rb_error *err)
{
    const rb_status st = norm_encode(stored, codec->norm, group->norm_exponent, norm, err);
    return st == RB_OK ? RB_OK : rb_fail_in(err, st, "vector %lld", (long long)vector);
}

static rb_status encode_group(const groups_codec *codec, const tile_memory *memory, int g, const float *x, int n,
                              uint8_t *codes, uint16_t *norms, int64_t first_vector, rb_error *err)
{
    const codec_group *group = &codec->groups[g];
    normalise(memory->unit, memory->norms, codec, group, x, n);
    rotate(group, memory->unit, memory->rotated, n, false);
    for (int v = 0; v < n; v++) {
        uint8_t *out = codes + group->first + (int64_t)v * codec->head_dim;
        const double *y = memory->rotated + (int64_t)v * group->dims;
        double norm = memory->norms[v];
        search_codes(out, y, group->book, group->dims);
        if (codec->encoder == ENCODER_SEARCH)
            norm *= plan_encoder_gain(search_stretches(out, y, group->book, group->dims, memory->unit, memory->trial),
                                      group->coherence);
        const rb_status st =
            encode_norm(&norms[(int64_t)v * codec->n_groups + g], codec, group, norm, first_vector + v, err);
        if (st != RB_OK) return st;
    }
    return RB_OK;
}

static rb_status groups_codec_encode(const void *own, void *work, const float *x, int n, uint8_t *codes,
                                     uint16_t *norms, int64_t first_vector, rb_error *err)
{
    const groups_codec *codec = own;
    const tile_memory memory = share_work(work, codec);
    for (int g = 0; g < codec->n_groups; g++) {
        const rb_status st = encode_group(codec, &memory, g, x, n, codes, norms, first_vector, err);
        if (st != RB_OK) return st;
    }
    for (int v = 0; v < n; v++)
        memset(codes + (int64_t)v * codec->head_dim + codec->n_coded, 0, (size_t)(codec->head_dim - codec->n_coded));
    return RB_OK;
}

static void groups_codec_decode(const void *own, void *work, const uint8_t *codes, const uint16_t *norms, int n,
                                float *x_hat)
{
    const groups_codec *codec = own;
    const tile_memory memory = share_work(work, codec);
    for (int g = 0; g < codec->n_groups; g++) {
        const codec_group *group = &codec->groups[g];
        restore_unit(memory.rotated, codes + group->first, codec->head_dim, group, n);
        rotate(group, memory.rotated, memory.unit, n, true);
        scatter(x_hat, memory.unit, norms + g, codec, group, n);
    }
    for (int i = codec->n_coded; i < codec->head_dim; i++)
        for (int v = 0; v < n; v++)
            x_hat[(int64_t)v * codec->head_dim + codec->permutation[i]] =
                codec->center ? (float)codec->center[i] : 0.0f;
}

extern const head_codec_functions groups_codec_functions;
const head_codec_functions groups_codec_functions = {
    .create = groups_codec_create,
    .free = groups_codec_free,
    .work_size = groups_work_size,
    .encode = groups_codec_encode,
    .decode = groups_codec_decode,
};
