/* The judge of family block-codebook: see kernels/check/codec_check.h.
 *
 * S of a block is |x| + |c| + g max |M p|: x - c, g M p and their difference each err by a share of it in f32.
 *
 * A block's code is right if it is the reference's, or if at the stored gain its point is no farther than the nearest,
 * but for block_codebook_tie times S. Where it is two levels each must be no farther than the nearest, the second where
 * the first has left it.
 *
 * A gain other than the reference's is right if both hold. It is one of the three next to the level that the vector's
 * size points to, but for what block_codebook_tie makes of that level. And the root of its least weighed error is no
 * more than the least, but for block_codebook_tie times the root of sum w S^2: that error is a sum of squares of
 * distances, which err by block_codebook_tie S.
 *
 * Both are counted, as codes_tied and searches_tied; a wrong gain is one wrong code. A restored dim is held to
 * |c| + g max |M p| of its block. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check/codec_check.h"
#include "kernels/reference/block_codebook_codec.h"

/* A block as the judge sees it. */
typedef struct judged_block {
    int dims[2], size; /* size: points, or 1 where there are levels; 0 without bits */
    double center[2], weight;
    double reach;        /* largest |M p| */
    double (*points)[2]; /* [size]: M p; NULL: it has levels */
    const block_levels *levels[2];
    double map[BLOCK_CODEBOOK_MAP_SIZE];
} judged_block;

typedef struct block_codebook_judge {
    const block_codebook_codec *codec;
    const plan_block_codebook *plan;
    int n_blocks, n_codes;
    judged_block *blocks; /* [n_blocks] */
} block_codebook_judge;

/* ---- life ------------------------------------------------------------------------------------ */

static rb_status set_points(judged_block *out, int bits, const codec_checked *on, rb_error *err)
{
    const block_codebook *book;
    rb_status st;
    RB_TRY(st, codec_tables_block_codebook(on->tables, bits, &book, err), done);
    RB_TRY(st, rb_alloc(&out->points, (size_t)book->size, sizeof *out->points, "points", err), done);
    out->size = book->size;
    for (int c = 0; c < book->size; c++) {
        out->points[c][0] = out->map[0] * (double)book->x[c];
        out->points[c][1] = out->map[1] * (double)book->x[c] + out->map[2] * (double)book->y[c];
        out->reach = fmax(out->reach, hypot(out->points[c][0], out->points[c][1]));
    }
done:
    return st;
}

static double largest_level(const block_levels *levels) { return (double)levels->level[levels->size - 1]; }

static rb_status set_levels(judged_block *out, int bits, int first_bits, const codec_checked *on, rb_error *err)
{
    rb_status st;
    RB_TRY(st, codec_tables_block_levels(on->tables, first_bits, &out->levels[0], err), done);
    RB_TRY(st, codec_tables_block_levels(on->tables, bits - first_bits, &out->levels[1], err), done);
    out->size = 1;
    const double first = largest_level(out->levels[0]), second = largest_level(out->levels[1]);
    out->reach = hypot(out->map[0] * first, fabs(out->map[1]) * first + fabs(out->map[2]) * second);
done:
    return st;
}

static rb_status set_block(judged_block *out, const codec_checked *on, int block, rb_error *err)
{
    const plan_block_codebook *plan = &on->head->block_codebook;
    const float *map = plan->maps + BLOCK_CODEBOOK_MAP_SIZE * block;
    const int bits = plan->bits[block];
    model_block_dims(on->model, block, out->dims);
    for (int i = 0; on->head->center && i < 2; i++) out->center[i] = (double)on->head->center[out->dims[i]];
    if (bits == 0) return RB_OK;
    out->weight = (double)plan->weights[block];
    for (int i = 0; i < BLOCK_CODEBOOK_MAP_SIZE; i++) out->map[i] = (double)map[i];
    return block_codebook_has_levels(bits) ? set_levels(out, bits, block_codebook_first_bits(map, bits), on, err)
                                           : set_points(out, bits, on, err);
}

static void free_judge(void *own)
{
    block_codebook_judge *judge = own;
    if (!judge) return;
    for (int i = 0; judge->blocks && i < judge->n_blocks; i++) free(judge->blocks[i].points);
    free(judge->blocks);
    free(judge);
}

static rb_status create_judge(void **own, const codec_checked *on, rb_error *err)
{
    const int n_blocks = model_n_blocks(on->model);
    block_codebook_judge *judge = NULL;
    rb_status st;
    *own = NULL;
    RB_TRY(st, rb_alloc(&judge, 1, sizeof *judge, "judge", err), done);
    *judge = (block_codebook_judge){.codec = head_codec_block_codebook(on->codec),
                                    .plan = &on->head->block_codebook,
                                    .n_blocks = n_blocks,
                                    .n_codes = on->head->block_codebook.gain_bits > 0};
    RB_TRY(st, rb_alloc(&judge->blocks, (size_t)n_blocks, sizeof *judge->blocks, "judge", err), done);
    for (int i = 0; i < n_blocks; i++) {
        RB_TRY(st, set_block(&judge->blocks[i], on, i, err), done);
        judge->n_codes += judge->blocks[i].size > 0;
    }
    *own = judge;
    judge = NULL;
done:
    free_judge(judge);
    return st;
}

/* Blocks with bits, and the gain. */
static int n_codes(const codec_checked *on, const void *own)
{
    (void)on;
    return ((const block_codebook_judge *)own)->n_codes;
}

/* ---- codes ----------------------------------------------------------------------------------- */

static double distance_to(const judged_block *block, const float *x, double gain, int code)
{
    return hypot((double)x[block->dims[0]] - block->center[0] - gain * block->points[code][0],
                 (double)x[block->dims[1]] - block->center[1] - gain * block->points[code][1]);
}

/* How much farther a level is than the nearest to x. */
static double level_excess(const block_levels *levels, double scale, double x, int level)
{
    double least = INFINITY;
    for (int c = 0; c < levels->size; c++) least = fmin(least, fabs(x - scale * (double)levels->level[c]));
    return fabs(x - scale * (double)levels->level[level]) - least;
}

static double levels_excess(const judged_block *block, const float *x, double gain, int code)
{
    const int first_bits = block->levels[0]->bits, first = code & ((1 << first_bits) - 1), second = code >> first_bits;
    const double a = (double)x[block->dims[0]] - block->center[0],
                 b = (double)x[block->dims[1]] - block->center[1]
                     - gain * block->map[1] * (double)block->levels[0]->level[first];
    return fmax(level_excess(block->levels[0], gain * block->map[0], a, first),
                level_excess(block->levels[1], gain * block->map[2], b, second));
}

/* How much farther a code is than the nearest. */
static double excess_of(const judged_block *block, const float *x, double gain, int code)
{
    double least = INFINITY;
    if (!block->points) return levels_excess(block, x, gain, code);
    for (int c = 0; c < block->size; c++) least = fmin(least, distance_to(block, x, gain, c));
    return distance_to(block, x, gain, code) - least;
}

/* S. */
static double block_scale(const judged_block *block, const float *x, double gain)
{
    return hypot((double)x[block->dims[0]], (double)x[block->dims[1]]) + hypot(block->center[0], block->center[1])
           + gain * block->reach;
}

static void judge_code(codec_report *report, const judged_block *block, const float *x, double gain, int code,
                       const codec_bounds *bounds)
{
    const double excess = excess_of(block, x, gain, code), scale = block_scale(block, x, gain);
    if (!(excess <= bounds->block_codebook_tie * scale)) {
        report->codes_wrong++;
        return;
    }
    report->codes_tied++;
    if (scale > 0.0) report->worst_tie = fmax(report->worst_tie, excess / scale);
}

/* ---- gains ----------------------------------------------------------------------------------- */

/* Root of sum w S^2, and of sum w |z|^2. */
static double weighed_scale(const block_codebook_judge *judge, const float *x, double gain, double *size)
{
    double square = 0.0, own = 0.0;
    for (int i = 0; i < judge->n_blocks; i++) {
        const judged_block *block = &judge->blocks[i];
        if (block->size == 0) continue;
        const double scale = block_scale(block, x, gain), z = hypot((double)x[block->dims[0]] - block->center[0],
                                                                    (double)x[block->dims[1]] - block->center[1]);
        square += block->weight * scale * scale;
        own += block->weight * z * z;
    }
    *size = sqrt(own);
    return sqrt(square);
}

static void judge_gain(codec_report *report, const block_codebook_judge *judge, const float *x, int gain, int reference,
                       const codec_bounds *bounds)
{
    static const double LOGARITHM = 1e-5,
                        LEVELS_A_SHARE =
                            2.885390081777927; /* of the level in f32; d log2(s^2) / (d s / s) = 2 / ln 2 */
    double size;
    const double scale = weighed_scale(
        judge, x, block_codebook_gain(judge->plan->gain_bits, gain > reference ? gain : reference), &size);
    const double level = block_codebook_codec_level(judge->codec, x),
                 tie = bounds->block_codebook_tie > 0.0 && size > 0.0
                           ? LOGARITHM + LEVELS_A_SHARE * bounds->block_codebook_tie * scale / size
                           : 0.0;
    const bool is_next = gain >= block_codebook_gain_near(judge->plan->gain_bits, level - tie) - 1
                         && gain <= block_codebook_gain_near(judge->plan->gain_bits, level + tie) + 1;
    const double excess = sqrt(block_codebook_codec_least_error(judge->codec, x, gain))
                          - sqrt(block_codebook_codec_least_error(judge->codec, x, reference));
    if (!is_next || !(excess <= bounds->block_codebook_tie * scale)) {
        report->codes_wrong++;
        return;
    }
    report->searches_tied++;
    if (scale > 0.0) report->worst_cosine = fmax(report->worst_cosine, excess / scale);
}

static rb_status judge_vector(codec_report *report, const codec_checked *on, const void *own,
                              const codec_checked_vector *vector, const codec_bounds *bounds, rb_error *err)
{
    const block_codebook_judge *judge = own;
    uint16_t codes[RB_MAX_BLOCKS], expected[RB_MAX_BLOCKS];
    const int gain = block_codebook_codes_split(codes, vector->codes, judge->plan, judge->n_blocks),
              best = block_codebook_codes_split(expected, vector->codes_reference, judge->plan, judge->n_blocks);
    const double value = block_codebook_gain(judge->plan->gain_bits, gain);
    (void)on;
    (void)err;
    if (gain != best) judge_gain(report, judge, vector->x, gain, best, bounds);
    for (int i = 0; i < judge->n_blocks; i++) {
        const judged_block *block = &judge->blocks[i];
        if (block->size == 0 || (gain == best && codes[i] == expected[i])) continue;
        /* At another gain codes are others; a code that is the nearest is no tie. */
        if (gain != best && excess_of(block, vector->x, value, codes[i]) <= 0.0) continue;
        judge_code(report, block, vector->x, value, codes[i], bounds);
    }
    return RB_OK;
}

/* ---- restored -------------------------------------------------------------------------------- */

static double restore_bound(const codec_bounds *bounds) { return bounds->block_codebook_restore; }

/* |c| + g max |M p| of each dim's block: every dim is in one. */
static void find_shares(double *shares, const codec_checked *on, const void *own, const float *restored,
                        const uint8_t *codes)
{
    const block_codebook_judge *judge = own;
    uint16_t unused[RB_MAX_BLOCKS];
    const double gain = block_codebook_gain(judge->plan->gain_bits,
                                            block_codebook_codes_split(unused, codes, judge->plan, judge->n_blocks));
    (void)on;
    (void)restored;
    for (int i = 0; i < judge->n_blocks; i++)
        for (int j = 0; j < 2; j++)
            shares[judge->blocks[i].dims[j]] = fabs(judge->blocks[i].center[j]) + gain * judge->blocks[i].reach;
}

static void find_scales(double *scales, const codec_checked *on)
{
    for (int j = 0; j < on->model->head_dim; j++) scales[j] = 1.0;
}

extern const codec_judge_functions block_codebook_judge_functions;
const codec_judge_functions block_codebook_judge_functions = {
    .create = create_judge,
    .free = free_judge,
    .n_codes = n_codes,
    .judge_vector = judge_vector,
    .restore_bound = restore_bound,
    .find_shares = find_shares,
    .find_scales = find_scales,
};
