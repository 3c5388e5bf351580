/* See plane_codec.h. Vectors are taken in tiles and blocks one by one, so that the search for the nearest point runs
 * over a tile's vectors. */
#include "kernels/reference/block_codebook_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

enum { TILE = 128 };

/* A block that has bits, its points brought to its key's scale. */
typedef struct coded_block {
    int block, dims[2], size;
    double weight;
    double center[2];
    double *x, *y; /* [size] */
} coded_block;

struct plane_codec {
    int head_dim, n_blocks, n_coded;
    plan_planes planes; /* its bits are the codec's own; no maps, no weights */
    coded_block *coded; /* [n_coded] */
    float *restored;    /* [head_dim]: of blocks without bits */
    double size;        /* sum of w |M|^2 over coded blocks */
};

/* ---- streams --------------------------------------------------------------------------------- */

double plane_gain(int gain_bits, int code) { return (double)(float)exp2(0.5 * (code - plane_gain_zero(gain_bits))); }

static int largest_gain(int gain_bits) { return (1 << gain_bits) - 1; }

int plane_gain_near(int gain_bits, double level)
{
    return (int)fmin(fmax(floor(level + 0.5), 0.0), largest_gain(gain_bits));
}

static int part_bits(const plan_planes *planes, int block)
{
    return planes->bits[block] + (block == 0 ? planes->gain_bits : 0);
}

void plane_code_widths(uint8_t *widths, const plan_planes *planes, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) {
        const int bits = part_bits(planes, i);
        widths[2 * i] = (uint8_t)(bits < 8 ? bits : 8);
        widths[2 * i + 1] = (uint8_t)(bits - widths[2 * i]);
    }
}

void plane_codes_join(uint8_t *bytes, int gain, const uint16_t *codes, const plan_planes *planes, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) {
        const unsigned part = i == 0 ? (unsigned)codes[i] << planes->gain_bits | (unsigned)gain : codes[i];
        bytes[2 * i] = (uint8_t)(part & 255u);
        bytes[2 * i + 1] = (uint8_t)(part >> 8);
    }
}

int plane_codes_split(uint16_t *codes, const uint8_t *bytes, const plan_planes *planes, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) codes[i] = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
    const int gain = codes[0] & ((1 << planes->gain_bits) - 1);
    codes[0] = (uint16_t)(codes[0] >> planes->gain_bits);
    return gain;
}

/* ---- life ------------------------------------------------------------------------------------ */

static rb_status set_block(coded_block *out, const plan_planes *planes, int block, codec_tables *tables, rb_error *err)
{
    const float *map = planes->maps + (size_t)PLAN_MAP_SIZE * (size_t)block;
    const plane_codebook *book;
    rb_status st;
    RB_TRY(st, codec_tables_plane(tables, planes->bits[block], &book, err), done);
    RB_TRY(st, rb_alloc(&out->x, (size_t)book->size, sizeof *out->x, "codec", err), done);
    RB_TRY(st, rb_alloc(&out->y, (size_t)book->size, sizeof *out->y, "codec", err), done);
    out->block = block;
    out->size = book->size;
    out->weight = (double)planes->weights[block];
    for (int c = 0; c < book->size; c++) {
        out->x[c] = (double)map[0] * (double)book->x[c];
        out->y[c] = (double)map[1] * (double)book->x[c] + (double)map[2] * (double)book->y[c];
    }
done:
    return st;
}

rb_status plane_codec_create(plane_codec **out, const plan_head *head, const model_facts *model, codec_tables *tables,
                             rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    plane_codec *codec = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->head_dim = model->head_dim;
    codec->n_blocks = n_blocks;
    codec->planes.gain_bits = head->planes->gain_bits;
    RB_TRY(st, rb_alloc(&codec->planes.bits, (size_t)n_blocks, 1, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->coded, (size_t)n_blocks, sizeof *codec->coded, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->restored, (size_t)model->head_dim, sizeof *codec->restored, "codec", err), done);
    memcpy(codec->planes.bits, head->planes->bits, (size_t)n_blocks);
    if (head->center) memcpy(codec->restored, head->center, (size_t)model->head_dim * sizeof *codec->restored);
    for (int block = 0; block < n_blocks; block++) {
        if (head->planes->bits[block] == 0) continue;
        coded_block *own = &codec->coded[codec->n_coded++];
        RB_TRY(st, set_block(own, head->planes, block, tables, err), done);
        model_block_dims(model, block, own->dims);
        for (int i = 0; i < 2; i++) own->center[i] = (double)codec->restored[own->dims[i]];
        for (int i = 0; i < PLAN_MAP_SIZE; i++) {
            const double m = (double)head->planes->maps[PLAN_MAP_SIZE * block + i];
            codec->size += own->weight * m * m;
        }
    }
    *out = codec;
    codec = NULL;
done:
    plane_codec_free(codec);
    return st;
}

void plane_codec_free(plane_codec *codec)
{
    if (!codec) return;
    for (int i = 0; codec->coded && i < codec->n_coded; i++) {
        free(codec->coded[i].x);
        free(codec->coded[i].y);
    }
    free(codec->coded);
    free(codec->planes.bits);
    free(codec->restored);
    free(codec);
}

/* ---- encode ---------------------------------------------------------------------------------- */

static double centred(const coded_block *block, const float *x, int i)
{
    return (double)x[block->dims[i]] - block->center[i];
}

/* Level of a vector whose sum w |z|^2 is square; of one at its centre, and where every map is 0, below all. */
static double level_of(const plane_codec *codec, double square)
{
    return square > 0.0 && codec->size > 0.0 ? log2(square / codec->size) + plane_gain_zero(codec->planes.gain_bits)
                                             : -INFINITY;
}

static double weighed_square(const plane_codec *codec, const float *x)
{
    double square = 0.0;
    for (int i = 0; i < codec->n_coded; i++) {
        const double a = centred(&codec->coded[i], x, 0), b = centred(&codec->coded[i], x, 1);
        square += codec->coded[i].weight * (a * a + b * b);
    }
    return square;
}

static int kept_within(int value, int most) { return value < 0 ? 0 : value > most ? most : value; }

/* nearest [n]: the index of the nearest of the block's points to each (x, y), the lowest of equals, and its squared
 * distance. Indices are doubles: one width for all that is selected. */
RB_CPU_CLONES static void search(double *restrict nearest, double *restrict distance, const double *restrict x,
                                 const double *restrict y, int n, const coded_block *restrict block)
{
    for (int v = 0; v < n; v++) {
        nearest[v] = 0.0;
        distance[v] = INFINITY;
    }
    for (int c = 0; c < block->size; c++) {
        const double at_x = block->x[c], at_y = block->y[c], index = c;
        for (int v = 0; v < n; v++) {
            const double dx = x[v] - at_x, dy = y[v] - at_y, d = dx * dx + dy * dy;
            nearest[v] = d < distance[v] ? index : nearest[v];
            distance[v] = d < distance[v] ? d : distance[v];
        }
    }
}

/* Of n <= TILE vectors with a level of gain each: codes [n_coded][TILE] and sum w |z - z^|^2. */
static void encode_at_levels(const plane_codec *codec, const float *x, const double *gains, int n, uint16_t *codes,
                             double *errors)
{
    double at_x[TILE], at_y[TILE], nearest[TILE], distance[TILE];
    memset(errors, 0, (size_t)n * sizeof *errors);
    for (int i = 0; i < codec->n_coded; i++) {
        const coded_block *block = &codec->coded[i];
        for (int v = 0; v < n; v++) {
            at_x[v] = centred(block, x + (int64_t)v * codec->head_dim, 0) / gains[v];
            at_y[v] = centred(block, x + (int64_t)v * codec->head_dim, 1) / gains[v];
        }
        search(nearest, distance, at_x, at_y, n, block);
        for (int v = 0; v < n; v++) {
            codes[i * TILE + v] = (uint16_t)nearest[v];
            errors[v] += block->weight * gains[v] * gains[v] * distance[v];
        }
    }
}

/* Working memory of a tile. */
typedef struct tile_memory {
    uint16_t *trial, *best; /* [n_coded][TILE] */
    double gains[TILE], errors[TILE], least[TILE];
    int levels[TILE], trial_gain[TILE], best_gain[TILE];
} tile_memory;

static void encode_tile(const plane_codec *codec, tile_memory *tile, const float *x, int n, uint8_t *codes)
{
    const int gain_bits = codec->planes.gain_bits, largest = largest_gain(gain_bits);
    for (int v = 0; v < n; v++) {
        tile->levels[v] = plane_gain_near(gain_bits, plane_codec_level(codec, x + (int64_t)v * codec->head_dim));
        tile->least[v] = INFINITY;
    }
    for (int step = gain_bits > 0 ? -1 : 0; step <= (gain_bits > 0 ? 1 : 0); step++) {
        for (int v = 0; v < n; v++) {
            tile->trial_gain[v] = kept_within(tile->levels[v] + step, largest);
            tile->gains[v] = plane_gain(gain_bits, tile->trial_gain[v]);
        }
        encode_at_levels(codec, x, tile->gains, n, tile->trial, tile->errors);
        for (int v = 0; v < n; v++) {
            if (!(tile->errors[v] < tile->least[v])) continue;
            tile->least[v] = tile->errors[v];
            tile->best_gain[v] = tile->trial_gain[v];
            for (int i = 0; i < codec->n_coded; i++) tile->best[i * TILE + v] = tile->trial[i * TILE + v];
        }
    }
    for (int v = 0; v < n; v++) {
        uint16_t by_block[RB_MAX_BLOCKS] = {0};
        for (int i = 0; i < codec->n_coded; i++) by_block[codec->coded[i].block] = tile->best[i * TILE + v];
        plane_codes_join(codes + (int64_t)v * codec->head_dim, tile->best_gain[v], by_block, &codec->planes,
                         codec->n_blocks);
    }
}

static rb_status check_finite(const plane_codec *codec, const float *x, int64_t n, int64_t first_vector, rb_error *err)
{
    for (int64_t v = 0; v < n; v++)
        for (int j = 0; j < codec->head_dim; j++)
            if (!isfinite(x[v * codec->head_dim + j]))
                return rb_fail(err, RB_ENONFINITE, "vector %lld: dim %d is %g, expected a finite number",
                               (long long)(first_vector + v), j, (double)x[v * codec->head_dim + j]);
    return RB_OK;
}

rb_status plane_codec_encode(const plane_codec *codec, const float *x, int64_t n, uint8_t *codes, int64_t first_vector,
                             rb_error *err)
{
    tile_memory *tile = NULL;
    uint16_t *both = NULL;
    rb_status st;
    RB_TRY(st, check_finite(codec, x, n, first_vector, err), done);
    RB_TRY(st, rb_alloc(&tile, 1, sizeof *tile, "codec tile", err), done);
    RB_TRY(st, rb_alloc(&both, 2 * TILE * (size_t)codec->n_coded, sizeof *both, "codec tile", err), done);
    tile->trial = both;
    tile->best = both + TILE * (size_t)codec->n_coded;
    for (int64_t at = 0; at < n; at += TILE) {
        const int size = n - at < TILE ? (int)(n - at) : TILE;
        encode_tile(codec, tile, x + at * codec->head_dim, size, codes + at * codec->head_dim);
    }
done:
    free(both);
    free(tile);
    return st;
}

/* ---- decode ---------------------------------------------------------------------------------- */

void plane_codec_decode(const plane_codec *codec, const uint8_t *codes, int64_t n, float *x_hat)
{
    uint16_t by_block[RB_MAX_BLOCKS];
    for (int64_t v = 0; v < n; v++) {
        const double gain = plane_gain(codec->planes.gain_bits, plane_codes_split(by_block, codes + v * codec->head_dim,
                                                                                  &codec->planes, codec->n_blocks));
        float *out = x_hat + v * codec->head_dim;
        memcpy(out, codec->restored, (size_t)codec->head_dim * sizeof *out);
        for (int i = 0; i < codec->n_coded; i++) {
            const coded_block *block = &codec->coded[i];
            const int code = by_block[block->block];
            out[block->dims[0]] = (float)(block->center[0] + gain * block->x[code]);
            out[block->dims[1]] = (float)(block->center[1] + gain * block->y[code]);
        }
    }
}

/* ---- for judges ------------------------------------------------------------------------------ */

double plane_codec_level(const plane_codec *codec, const float *x) { return level_of(codec, weighed_square(codec, x)); }

static double distance_to(const coded_block *block, const float *x, double gain, int code)
{
    const double a = centred(block, x, 0) - gain * block->x[code], b = centred(block, x, 1) - gain * block->y[code];
    return block->weight * (a * a + b * b);
}

double plane_codec_error(const plane_codec *codec, const float *x, int gain_code, const uint16_t *codes)
{
    const double gain = plane_gain(codec->planes.gain_bits, gain_code);
    double error = 0.0;
    for (int i = 0; i < codec->n_coded; i++)
        error += distance_to(&codec->coded[i], x, gain, codes[codec->coded[i].block]);
    return error;
}

double plane_codec_least_error(const plane_codec *codec, const float *x, int gain_code)
{
    const double gain = plane_gain(codec->planes.gain_bits, gain_code);
    double error = 0.0;
    for (int i = 0; i < codec->n_coded; i++) {
        double least = INFINITY;
        for (int c = 0; c < codec->coded[i].size; c++) least = fmin(least, distance_to(&codec->coded[i], x, gain, c));
        error += least;
    }
    return error;
}
