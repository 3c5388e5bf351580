/* The quantizer of one head, the definition that every kernel is held to: see kernels/head_codec.h.
 *
 * Vectors are taken in tiles of TILE: gather and normalise a group's dims into a tile, rotate by one dgemm (y = u R^T), search
 * codes; the way back is one dgemm more. Everything in between is double. The tile size is fixed, so a vector's bits do not depend
 * on how many threads there are. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/bit_packing.h"
#include "kernels/head_codec.h"

enum { TILE = 128, FP16_INFINITY = 0x7c00 };

typedef struct codec_group {
    int first, dims;            /* coding positions [first, first + dims) */
    const double *rotation;     /* [dims][dims] */
    const codebook *book;
} codec_group;

struct head_codec {
    int head_dim, n_groups;
    codec_group *groups;
    int *permutation;           /* [head_dim] */
    uint8_t *widths;            /* [head_dim] */
    size_t packed_bytes;
};

/* ---- life ----------------------------------------------------------------------------------------------------------------------- */

/* A head's groups hold the head's dims, no more: what follows writes [head_dim] arrays by it. */
static rb_status check_dims(const plan_head *head, int head_dim, rb_error *err)
{
    int64_t n_dims = 0;
    for (int g = 0; g < head->n_groups; g++) {
        const plan_group *group = &head->groups[g];
        if (group->n_blocks < 1 || group->rotation.dims != 2 * group->n_blocks)
            return rb_fail(err, RB_EINVAL, "group %d: rotation has %d dims for %d blocks, expected twice as many, 2 at least", g,
                           group->rotation.dims, group->n_blocks);
        n_dims += group->rotation.dims;
    }
    if (n_dims != head_dim)
        return rb_fail(err, RB_EINVAL, "a head's groups hold %lld dims, expected head_dim %d", (long long)n_dims, head_dim);
    return RB_OK;
}

static rb_status add_group(head_codec *codec, const plan_group *group, const model_facts *model, codec_tables *tables, int first,
                           rb_error *err)
{
    codec_group *out = &codec->groups[codec->n_groups];
    rb_status st;
    out->first = first;
    out->dims = group->rotation.dims;
    RB_TRY(st, codec_tables_rotation(tables, &group->rotation, &out->rotation, err), done);
    RB_TRY(st, codec_tables_codebook(tables, group->codebook, group->width, out->dims, &out->book, err), done);
    plan_group_dims(group, model, codec->permutation + first);
    memset(codec->widths + first, group->width, (size_t)out->dims);
    codec->n_groups++;
done:
    return st;
}

rb_status head_codec_create(head_codec **out, const plan_head *head, const model_facts *model, codec_tables *tables, rb_error *err)
{
    head_codec *codec = NULL;
    int first = 0;
    rb_status st;
    *out = NULL;
    RB_TRY(st, check_dims(head, model->head_dim, err), done);
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->head_dim = model->head_dim;
    RB_TRY(st, rb_alloc(&codec->groups, (size_t)head->n_groups, sizeof *codec->groups, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->permutation, (size_t)model->head_dim, sizeof *codec->permutation, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->widths, (size_t)model->head_dim, sizeof *codec->widths, "codec", err), done);
    for (int g = 0; g < head->n_groups; g++) {
        RB_TRY(st, add_group(codec, &head->groups[g], model, tables, first, err), done);
        first += codec->groups[g].dims;
    }
    codec->packed_bytes = packed_size_bytes(codec->widths, codec->head_dim);
    *out = codec;
    codec = NULL;
done:
    head_codec_free(codec);
    return st;
}

void head_codec_free(head_codec *codec)
{
    if (!codec) return;
    free(codec->groups);
    free(codec->permutation);
    free(codec->widths);
    free(codec);
}

int head_codec_n_groups(const head_codec *codec) { return codec->n_groups; }
int head_codec_dims(const head_codec *codec) { return codec->head_dim; }
const int *head_codec_permutation(const head_codec *codec) { return codec->permutation; }
const uint8_t *head_codec_widths(const head_codec *codec) { return codec->widths; }
size_t head_codec_packed_bytes(const head_codec *codec) { return codec->packed_bytes; }

/* ---- one tile --------------------------------------------------------------------------------------------------------------------- */

/* Working memory of a tile: [TILE][head_dim] each. */
typedef struct tile_memory {
    double *unit, *rotated;
} tile_memory;

static rb_status alloc_tile(tile_memory *memory, const head_codec *codec, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_alloc(&memory->unit, TILE * (size_t)codec->head_dim, sizeof(double), "codec tile", err), done);
    RB_TRY(st, rb_alloc(&memory->rotated, TILE * (size_t)codec->head_dim, sizeof(double), "codec tile", err), done);
done:
    return st;
}

static void free_tile(tile_memory *memory)
{
    free(memory->unit);
    free(memory->rotated);
}

/* Gathers the group's dims of n vectors, divides by the norm; norms [n] with a stride, as fp16 bits. */
static rb_status normalise(double *unit, uint16_t *norms, int norm_stride, const head_codec *codec, const codec_group *group,
                           const float *x, int n, int64_t first_vector, rb_error *err)
{
    const int *dims = codec->permutation + group->first;
    for (int v = 0; v < n; v++) {
        const float *vector = x + (int64_t)v * codec->head_dim;
        double *out = unit + (int64_t)v * group->dims, square = 0.0;
        for (int j = 0; j < group->dims; j++) {
            out[j] = (double)vector[dims[j]];
            square += out[j] * out[j];
        }
        const double norm = sqrt(square);
        if (!isfinite(norm))
            return rb_fail(err, RB_ENONFINITE, "vector %lld has a value that is not finite", (long long)(first_vector + v));
        const uint16_t norm_fp16 = rb_f32_to_f16((float)norm);
        if (norm_fp16 == FP16_INFINITY)
            return rb_fail(err, RB_ENONFINITE, "vector %lld: norm %.9g does not fit fp16, expected 65504 at most",
                           (long long)(first_vector + v), norm);
        norms[(int64_t)v * norm_stride] = norm_fp16;
        const double scale = norm > 0.0 ? 1.0 / norm : 0.0;
        for (int j = 0; j < group->dims; j++) out[j] *= scale;
    }
    return RB_OK;
}

/* rotated = unit R^T, or unit = rotated R. */
static void rotate(const codec_group *group, const double *in, double *out, int n, bool is_inverse)
{
    const int m = group->dims;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, is_inverse ? CblasNoTrans : CblasTrans, n, m, m, 1.0, in, m, group->rotation, m, 0.0, out, m);
}

/* Number of boundaries below each coordinate. Few boundaries: counting them all has no branches and vectorises; many: a binary search. */
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

/* Centroids of the codes, brought to norm 1: norm correction. */
static void restore_unit(double *y, const uint8_t *codes, int code_stride, const codec_group *group, int n)
{
    for (int v = 0; v < n; v++) {
        double *out = y + (int64_t)v * group->dims, square = 0.0;
        for (int j = 0; j < group->dims; j++) {
            out[j] = (double)group->book->centroid_f32[codes[(int64_t)v * code_stride + j]];
            square += out[j] * out[j];
        }
        const double scale = square > 0.0 ? 1.0 / sqrt(square) : 0.0;   /* 0 only for codes the codebook does not have */
        for (int j = 0; j < group->dims; j++) out[j] *= scale;
    }
}

/* Back to the dims of x, at the stored norm. */
static void scatter(float *x_hat, const double *unit, const uint16_t *norms, int norm_stride, const head_codec *codec,
                    const codec_group *group, int n)
{
    const int *dims = codec->permutation + group->first;
    for (int v = 0; v < n; v++) {
        const double norm = (double)rb_f16_to_f32(norms[(int64_t)v * norm_stride]);
        const double *in = unit + (int64_t)v * group->dims;
        float *vector = x_hat + (int64_t)v * codec->head_dim;
        for (int j = 0; j < group->dims; j++) vector[dims[j]] = (float)(norm * in[j]);
    }
}

/* codes: [n][head_dim] in coding order; a group's start at its `first`. */
static rb_status encode_tile(const head_codec *codec, tile_memory *memory, const float *x, int n, uint8_t *codes, uint16_t *norms,
                             int64_t first_vector, rb_error *err)
{
    for (int g = 0; g < codec->n_groups; g++) {
        const codec_group *group = &codec->groups[g];
        rb_status st = normalise(memory->unit, norms + g, codec->n_groups, codec, group, x, n, first_vector, err);
        if (st != RB_OK) return st;
        rotate(group, memory->unit, memory->rotated, n, false);
        uint8_t *out = codes + group->first;
        for (int v = 0; v < n; v++)
            search_codes(out + (int64_t)v * codec->head_dim, memory->rotated + (int64_t)v * group->dims, group->book, group->dims);
    }
    return RB_OK;
}

static void decode_tile(const head_codec *codec, tile_memory *memory, const uint8_t *codes, const uint16_t *norms, int n,
                        float *x_hat)
{
    for (int g = 0; g < codec->n_groups; g++) {
        const codec_group *group = &codec->groups[g];
        restore_unit(memory->rotated, codes + group->first, codec->head_dim, group, n);
        rotate(group, memory->rotated, memory->unit, n, true);
        scatter(x_hat, memory->unit, norms + g, codec->n_groups, codec, group, n);
    }
}

/* ---- many vectors ----------------------------------------------------------------------------------------------------------------- */

static int tile_size(int64_t at, int64_t n) { return (int)(n - at < TILE ? n - at : TILE); }

rb_status head_codec_encode(const head_codec *codec, const float *x, int64_t n, uint8_t *codes, uint16_t *norms, rb_error *err)
{
    tile_memory memory = {0};
    rb_status st = alloc_tile(&memory, codec, err);
    for (int64_t at = 0; at < n && st == RB_OK; at += TILE)
        st = encode_tile(codec, &memory, x + at * codec->head_dim, tile_size(at, n), codes + at * codec->head_dim,
                         norms + at * codec->n_groups, at, err);
    free_tile(&memory);
    return st;
}

rb_status head_codec_decode(const head_codec *codec, const uint8_t *codes, const uint16_t *norms, int64_t n, float *x_hat, rb_error *err)
{
    tile_memory memory = {0};
    rb_status st = alloc_tile(&memory, codec, err);
    for (int64_t at = 0; at < n && st == RB_OK; at += TILE)
        decode_tile(codec, &memory, codes + at * codec->head_dim, norms + at * codec->n_groups, tile_size(at, n),
                    x_hat + at * codec->head_dim);
    free_tile(&memory);
    return st;
}

rb_status head_codec_round_trip(const head_codec *codec, const float *x, int64_t n, float *x_hat, rb_error *err)
{
    tile_memory memory = {0};
    uint8_t *codes = NULL;
    uint16_t *norms = NULL;
    rb_status st;
    RB_TRY(st, alloc_tile(&memory, codec, err), done);
    RB_TRY(st, rb_alloc(&codes, TILE * (size_t)codec->head_dim, 1, "codec tile", err), done);
    RB_TRY(st, rb_alloc(&norms, TILE * (size_t)codec->n_groups, sizeof *norms, "codec tile", err), done);
    for (int64_t at = 0; at < n; at += TILE) {
        const int size = tile_size(at, n);
        RB_TRY(st, encode_tile(codec, &memory, x + at * codec->head_dim, size, codes, norms, at, err), done);
        decode_tile(codec, &memory, codes, norms, size, x_hat + at * codec->head_dim);
    }
done:
    free(codes);
    free(norms);
    free_tile(&memory);
    return st;
}
