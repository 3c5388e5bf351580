/* See block_codebook_codec.h. Vectors are taken in tiles and blocks one by one, so that the search for the nearest
 * point runs over a tile's vectors. */
#include "kernels/reference/block_codebook_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

enum { TILE = HEAD_CODEC_TILE };

/* A block that has bits: its points brought to its key's scale, or its two coordinates' levels and its map. */
typedef struct coded_block {
    int block, dims[2], size;
    double weight;
    double center[2];
    double *x, *y; /* [size]; NULL: it has levels */
    const block_levels *levels[2];
    double map[BLOCK_CODEBOOK_MAP_SIZE];
} coded_block;

struct block_codebook_codec {
    int head_dim, n_blocks, n_coded;
    plan_block_codebook plan; /* its bits are the codec's own; no maps, no weights */
    coded_block *coded;       /* [n_coded] */
    float *restored;          /* [head_dim]: of blocks without bits */
    double size;              /* sum of w |M|^2 over coded blocks */
};

/* ---- streams --------------------------------------------------------------------------------- */

double block_codebook_gain(int gain_bits, int code)
{
    return (double)(float)exp2(0.5 * (code - block_codebook_gain_zero(gain_bits)));
}

static int largest_gain(int gain_bits) { return (1 << gain_bits) - 1; }

int block_codebook_gain_near(int gain_bits, double level)
{
    return (int)fmin(fmax(floor(level + 0.5), 0.0), largest_gain(gain_bits));
}

static int part_bits(const plan_block_codebook *plan, int block)
{
    return plan->bits[block] + (block == 0 ? plan->gain_bits : 0);
}

void block_codebook_code_widths(uint8_t *widths, const plan_block_codebook *plan, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) {
        const int bits = part_bits(plan, i);
        widths[2 * i] = (uint8_t)(bits < 8 ? bits : 8);
        widths[2 * i + 1] = (uint8_t)(bits - widths[2 * i]);
    }
}

void block_codebook_codes_join(uint8_t *bytes, int gain, const uint16_t *codes, const plan_block_codebook *plan,
                               int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) {
        const unsigned part = i == 0 ? (unsigned)codes[i] << plan->gain_bits | (unsigned)gain : codes[i];
        bytes[2 * i] = (uint8_t)(part & 255u);
        bytes[2 * i + 1] = (uint8_t)(part >> 8);
    }
}

int block_codebook_codes_split(uint16_t *codes, const uint8_t *bytes, const plan_block_codebook *plan, int n_blocks)
{
    for (int i = 0; i < n_blocks; i++) codes[i] = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
    const int gain = codes[0] & ((1 << plan->gain_bits) - 1);
    codes[0] = (uint16_t)(codes[0] >> plan->gain_bits);
    return gain;
}

/* ---- life ------------------------------------------------------------------------------------ */

static rb_status set_points(coded_block *out, int bits, codec_tables *tables, rb_error *err)
{
    const block_codebook *book;
    rb_status st;
    RB_TRY(st, codec_tables_block_codebook(tables, bits, &book, err), done);
    RB_TRY(st, rb_alloc(&out->x, (size_t)book->size, sizeof *out->x, "codec", err), done);
    RB_TRY(st, rb_alloc(&out->y, (size_t)book->size, sizeof *out->y, "codec", err), done);
    out->size = book->size;
    for (int c = 0; c < book->size; c++) {
        out->x[c] = out->map[0] * (double)book->x[c];
        out->y[c] = out->map[1] * (double)book->x[c] + out->map[2] * (double)book->y[c];
    }
done:
    return st;
}

static rb_status set_levels(coded_block *out, int bits, int first_bits, codec_tables *tables, rb_error *err)
{
    const rb_status st = codec_tables_block_levels(tables, first_bits, &out->levels[0], err);
    return st == RB_OK ? codec_tables_block_levels(tables, bits - first_bits, &out->levels[1], err) : st;
}

static rb_status set_block(coded_block *out, const plan_block_codebook *plan, int block, codec_tables *tables,
                           rb_error *err)
{
    const float *map = plan->maps + (size_t)BLOCK_CODEBOOK_MAP_SIZE * (size_t)block;
    const int bits = plan->bits[block];
    out->block = block;
    out->weight = (double)plan->weights[block];
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE; i++) out->map[i] = (double)map[i];
    return block_codebook_has_levels(bits) ? set_levels(out, bits, block_codebook_first_bits(map, bits), tables, err)
                                           : set_points(out, bits, tables, err);
}

static void block_codebook_codec_free(void *own)
{
    block_codebook_codec *codec = own;
    if (!codec) return;
    for (int i = 0; codec->coded && i < codec->n_coded; i++) {
        free(codec->coded[i].x);
        free(codec->coded[i].y);
    }
    free(codec->coded);
    free(codec->plan.bits);
    free(codec->restored);
    free(codec);
}

static rb_status add_block(block_codebook_codec *codec, const plan_block_codebook *plan, int block,
                           const model_facts *model, codec_tables *tables, rb_error *err)
{
    coded_block *own = &codec->coded[codec->n_coded++];
    const rb_status st = set_block(own, plan, block, tables, err);
    if (st != RB_OK) return st;
    model_block_dims(model, block, own->dims);
    for (int i = 0; i < 2; i++) own->center[i] = (double)codec->restored[own->dims[i]];
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE; i++) {
        const double m = (double)plan->maps[BLOCK_CODEBOOK_MAP_SIZE * block + i];
        codec->size += own->weight * m * m;
    }
    return RB_OK;
}

/* Blocks in order, two coding positions each. */
static void set_layout(code_layout *layout, const plan_block_codebook *plan, const model_facts *model)
{
    for (int block = 0; block < model_n_blocks(model); block++)
        model_block_dims(model, block, layout->permutation + 2 * block);
    block_codebook_code_widths(layout->widths, plan, model_n_blocks(model));
}

static rb_status block_codebook_codec_create(void **own, code_layout *layout, const plan_head *head,
                                             const model_facts *model, codec_tables *tables, rb_error *err)
{
    const plan_block_codebook *plan = &head->block_codebook;
    const int n_blocks = model_n_blocks(model);
    block_codebook_codec *codec = NULL;
    rb_status st;
    set_layout(layout, plan, model);
    RB_TRY(st, rb_alloc(&codec, 1, sizeof *codec, "codec", err), done);
    codec->head_dim = model->head_dim;
    codec->n_blocks = n_blocks;
    codec->plan.gain_bits = plan->gain_bits;
    RB_TRY(st, rb_alloc(&codec->plan.bits, (size_t)n_blocks, 1, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->coded, (size_t)n_blocks, sizeof *codec->coded, "codec", err), done);
    RB_TRY(st, rb_alloc(&codec->restored, (size_t)model->head_dim, sizeof *codec->restored, "codec", err), done);
    memcpy(codec->plan.bits, plan->bits, (size_t)n_blocks);
    if (head->center) memcpy(codec->restored, head->center, (size_t)model->head_dim * sizeof *codec->restored);
    for (int block = 0; block < n_blocks; block++)
        if (plan->bits[block] > 0) RB_TRY(st, add_block(codec, plan, block, model, tables, err), done);
    *own = codec;
    codec = NULL;
done:
    block_codebook_codec_free(codec);
    return st;
}

/* ---- encode ---------------------------------------------------------------------------------- */

static double centred(const coded_block *block, const float *x, int i)
{
    return (double)x[block->dims[i]] - block->center[i];
}

/* Level of a vector whose sum w |z|^2 is square; of one at its centre, and where every map is 0, below all. */
static double level_of(const block_codebook_codec *codec, double square)
{
    return square > 0.0 && codec->size > 0.0
               ? log2(square / codec->size) + block_codebook_gain_zero(codec->plan.gain_bits)
               : -INFINITY;
}

static double weighed_square(const block_codebook_codec *codec, const float *x)
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

/* A coordinate's level: that which the map's number brings nearest to x, 0 where it is 0. */
static int nearest_level(const block_levels *levels, double map, double x)
{
    return map == 0.0 ? 0 : block_levels_nearest(levels, x / map);
}

static double level_at(const coded_block *block, int coordinate, int level)
{
    return (double)block->levels[coordinate]->level[level];
}

/* A point of a block at gain 1. */
static void point_of(double *x, double *y, const coded_block *block, int code)
{
    if (block->x) {
        *x = block->x[code];
        *y = block->y[code];
        return;
    }
    const int first_bits = block->levels[0]->bits;
    const double first = level_at(block, 0, code & ((1 << first_bits) - 1)),
                 second = level_at(block, 1, code >> first_bits);
    *x = block->map[0] * first;
    *y = block->map[1] * first + block->map[2] * second;
}

static void search_levels(double *nearest, double *distance, const double *x, const double *y, int n,
                          const coded_block *block)
{
    for (int v = 0; v < n; v++) {
        const int first = nearest_level(block->levels[0], block->map[0], x[v]);
        const double level = level_at(block, 0, first), rest = y[v] - block->map[1] * level;
        const int second = nearest_level(block->levels[1], block->map[2], rest);
        const double dx = x[v] - block->map[0] * level, dy = rest - block->map[2] * level_at(block, 1, second);
        nearest[v] = first | second << block->levels[0]->bits;
        distance[v] = dx * dx + dy * dy;
    }
}

/* Codes [n_coded][TILE] of n <= TILE vectors with a level of gain each, and their sum w |z - z^|^2. */
static void encode_at_levels(const block_codebook_codec *codec, const float *x, const double *gains, int n,
                             uint16_t *codes, double *errors)
{
    double at_x[TILE], at_y[TILE], nearest[TILE], distance[TILE];
    memset(errors, 0, (size_t)n * sizeof *errors);
    for (int i = 0; i < codec->n_coded; i++) {
        const coded_block *block = &codec->coded[i];
        for (int v = 0; v < n; v++) {
            at_x[v] = centred(block, x + (int64_t)v * codec->head_dim, 0) / gains[v];
            at_y[v] = centred(block, x + (int64_t)v * codec->head_dim, 1) / gains[v];
        }
        if (block->x) search(nearest, distance, at_x, at_y, n, block);
        else search_levels(nearest, distance, at_x, at_y, n, block);
        for (int v = 0; v < n; v++) {
            codes[i * TILE + v] = (uint16_t)nearest[v];
            errors[v] += block->weight * gains[v] * gains[v] * distance[v];
        }
    }
}

/* Working memory of a tile. trial and best are [n_coded][TILE]. */
typedef struct tile_memory {
    double gains[TILE], errors[TILE], least[TILE];
    int levels[TILE], trial_gain[TILE], best_gain[TILE];
    uint16_t trial_then_best[];
} tile_memory;

static size_t block_codebook_work_size(const void *own)
{
    const block_codebook_codec *codec = own;
    return sizeof(tile_memory) + 2 * TILE * (size_t)codec->n_coded * sizeof(uint16_t);
}

/* Tries the level `step` from each vector's own, and keeps what is better. */
static void try_level(const block_codebook_codec *codec, tile_memory *tile, const float *x, int n, int step)
{
    const int gain_bits = codec->plan.gain_bits;
    uint16_t *trial = tile->trial_then_best, *best = trial + TILE * (size_t)codec->n_coded;
    for (int v = 0; v < n; v++) {
        tile->trial_gain[v] = kept_within(tile->levels[v] + step, largest_gain(gain_bits));
        tile->gains[v] = block_codebook_gain(gain_bits, tile->trial_gain[v]);
    }
    encode_at_levels(codec, x, tile->gains, n, trial, tile->errors);
    for (int v = 0; v < n; v++) {
        if (!(tile->errors[v] < tile->least[v])) continue;
        tile->least[v] = tile->errors[v];
        tile->best_gain[v] = tile->trial_gain[v];
        for (int i = 0; i < codec->n_coded; i++) best[i * TILE + v] = trial[i * TILE + v];
    }
}

static void encode_tile(const block_codebook_codec *codec, tile_memory *tile, const float *x, int n, uint8_t *codes)
{
    const uint16_t *best = tile->trial_then_best + TILE * (size_t)codec->n_coded;
    const int around = codec->plan.gain_bits > 0 ? 1 : 0;
    for (int v = 0; v < n; v++) {
        tile->levels[v] = block_codebook_gain_near(codec->plan.gain_bits,
                                                   block_codebook_codec_level(codec, x + (int64_t)v * codec->head_dim));
        tile->least[v] = INFINITY;
    }
    for (int step = -around; step <= around; step++) try_level(codec, tile, x, n, step);
    for (int v = 0; v < n; v++) {
        uint16_t by_block[RB_MAX_BLOCKS] = {0};
        for (int i = 0; i < codec->n_coded; i++) by_block[codec->coded[i].block] = best[i * TILE + v];
        block_codebook_codes_join(codes + (int64_t)v * codec->head_dim, tile->best_gain[v], by_block, &codec->plan,
                                  codec->n_blocks);
    }
}

static rb_status check_finite(const block_codebook_codec *codec, const float *x, int n, int64_t first_vector,
                              rb_error *err)
{
    for (int v = 0; v < n; v++)
        for (int j = 0; j < codec->head_dim; j++)
            if (!isfinite(x[(int64_t)v * codec->head_dim + j]))
                return rb_fail(err, RB_ENONFINITE, "vector %lld: dim %d is %g, expected a finite number",
                               (long long)(first_vector + v), j, (double)x[(int64_t)v * codec->head_dim + j]);
    return RB_OK;
}

/* The family has no norms. */
static rb_status block_codebook_codec_encode(const void *own, void *work, const float *x, int n, uint8_t *codes,
                                             uint16_t *norms, int64_t first_vector, rb_error *err)
{
    const rb_status st = check_finite(own, x, n, first_vector, err);
    (void)norms;
    if (st == RB_OK) encode_tile(own, work, x, n, codes);
    return st;
}

/* ---- decode ---------------------------------------------------------------------------------- */

static void block_codebook_codec_decode(const void *own, void *work, const uint8_t *codes, const uint16_t *norms, int n,
                                        float *x_hat)
{
    const block_codebook_codec *codec = own;
    uint16_t by_block[RB_MAX_BLOCKS];
    (void)work;
    (void)norms;
    for (int64_t v = 0; v < n; v++) {
        const double gain =
            block_codebook_gain(codec->plan.gain_bits, block_codebook_codes_split(by_block, codes + v * codec->head_dim,
                                                                                  &codec->plan, codec->n_blocks));
        float *out = x_hat + v * codec->head_dim;
        memcpy(out, codec->restored, (size_t)codec->head_dim * sizeof *out);
        for (int i = 0; i < codec->n_coded; i++) {
            const coded_block *block = &codec->coded[i];
            double x, y;
            point_of(&x, &y, block, by_block[block->block]);
            out[block->dims[0]] = (float)(block->center[0] + gain * x);
            out[block->dims[1]] = (float)(block->center[1] + gain * y);
        }
    }
}

/* ---- for judges ------------------------------------------------------------------------------ */

double block_codebook_codec_level(const block_codebook_codec *codec, const float *x)
{
    return level_of(codec, weighed_square(codec, x));
}

static double distance_to(const coded_block *block, const float *x, double gain, int code)
{
    double at_x, at_y;
    point_of(&at_x, &at_y, block, code);
    const double a = centred(block, x, 0) - gain * at_x, b = centred(block, x, 1) - gain * at_y;
    return block->weight * (a * a + b * b);
}

/* Of the best code at a gain: of points the nearest, of levels the rule's. */
static double least_distance_to(const coded_block *block, const float *x, double gain)
{
    double least = INFINITY;
    if (!block->x) {
        const double at_x = centred(block, x, 0) / gain, at_y = centred(block, x, 1) / gain;
        double code, distance;
        search_levels(&code, &distance, &at_x, &at_y, 1, block);
        return block->weight * gain * gain * distance;
    }
    for (int c = 0; c < block->size; c++) least = fmin(least, distance_to(block, x, gain, c));
    return least;
}

double block_codebook_codec_error(const block_codebook_codec *codec, const float *x, int gain_code,
                                  const uint16_t *codes)
{
    const double gain = block_codebook_gain(codec->plan.gain_bits, gain_code);
    double error = 0.0;
    for (int i = 0; i < codec->n_coded; i++)
        error += distance_to(&codec->coded[i], x, gain, codes[codec->coded[i].block]);
    return error;
}

double block_codebook_codec_least_error(const block_codebook_codec *codec, const float *x, int gain_code)
{
    const double gain = block_codebook_gain(codec->plan.gain_bits, gain_code);
    double error = 0.0;
    for (int i = 0; i < codec->n_coded; i++) error += least_distance_to(&codec->coded[i], x, gain);
    return error;
}

extern const head_codec_functions block_codebook_codec_functions;
const head_codec_functions block_codebook_codec_functions = {
    .create = block_codebook_codec_create,
    .free = block_codebook_codec_free,
    .work_size = block_codebook_work_size,
    .encode = block_codebook_codec_encode,
    .decode = block_codebook_codec_decode,
};
