/* See block_codebook_error.h. */
#include "profile/block_codebook_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/block_codebook_codec.h"

enum { ROUNDS = 4, N_LEVELS = 3, FEWEST_BITS = -24 };

/* The keys that are looked at, block by block. */
typedef struct key_sample {
    int n, n_blocks;
    float *x, *y;       /* [n_blocks][n]: blocks less their mean */
    double *covariance; /* [n_blocks][3]: xx, xy, yy */
    double *square;     /* [n] */
    double *gain;       /* [N_LEVELS][n]: of the level that the size points to, after those of the levels beside it */
    float *error;       /* [n_blocks][N_LEVELS][n]: |z - z^|^2 of the bits at hand */
    double *total;      /* [N_LEVELS][n]: weighed, over blocks */
    float *at_x, *at_y; /* [n] */
    int32_t *nearest;   /* [n] */
    float *points_x, *points_y; /* [BLOCK_CODEBOOK_MAX_POINTS] */
} key_sample;

static void free_sample(key_sample *sample)
{
    free(sample->x);
    free(sample->y);
    free(sample->covariance);
    free(sample->square);
    free(sample->gain);
    free(sample->error);
    free(sample->total);
    free(sample->at_x);
    free(sample->at_y);
    free(sample->nearest);
    free(sample->points_x);
    free(sample->points_y);
}

static rb_status alloc_sample(key_sample *sample, int n_blocks, int64_t n_tokens, rb_error *err)
{
    rb_status st;
    sample->n = n_tokens < BLOCK_CODEBOOK_ERROR_KEYS ? (int)n_tokens : BLOCK_CODEBOOK_ERROR_KEYS;
    sample->n_blocks = n_blocks;
    const size_t n = (size_t)sample->n;
#define ALLOC(list, count) RB_TRY(st, rb_alloc(&sample->list, count, sizeof *sample->list, "keys", err), done)
    ALLOC(x, (size_t)n_blocks * n);
    ALLOC(y, (size_t)n_blocks * n);
    ALLOC(covariance, 3 * (size_t)n_blocks);
    ALLOC(square, n);
    ALLOC(gain, N_LEVELS * n);
    ALLOC(error, N_LEVELS * (size_t)n_blocks * n);
    ALLOC(total, N_LEVELS * n);
    ALLOC(at_x, n);
    ALLOC(at_y, n);
    ALLOC(nearest, n);
    ALLOC(points_x, BLOCK_CODEBOOK_MAX_POINTS);
    ALLOC(points_y, BLOCK_CODEBOOK_MAX_POINTS);
#undef ALLOC
done:
    return st;
}

static void take_keys(key_sample *sample, const model_facts *model, const float *k, int64_t n_tokens,
                      const double *mean)
{
    for (int block = 0; block < sample->n_blocks; block++) {
        double *covariance = sample->covariance + 3 * block;
        float *x = sample->x + (size_t)block * (size_t)sample->n, *y = sample->y + (size_t)block * (size_t)sample->n;
        int dims[2];
        model_block_dims(model, block, dims);
        for (int v = 0; v < sample->n; v++) {
            const float *key = k + (int64_t)v * n_tokens / sample->n * model->head_dim;
            const double a = (double)key[dims[0]] - mean[dims[0]], b = (double)key[dims[1]] - mean[dims[1]];
            x[v] = (float)a;
            y[v] = (float)b;
            covariance[0] += a * a / sample->n;
            covariance[1] += a * b / sample->n;
            covariance[2] += b * b / sample->n;
        }
    }
}

/* Weighed squares of the keys over their mean. */
static void find_squares(key_sample *sample, const double *weights)
{
    double size = 0.0;
    for (int block = 0; block < sample->n_blocks; block++)
        size += weights[block] * (sample->covariance[3 * block] + sample->covariance[3 * block + 2]);
    for (int v = 0; v < sample->n; v++) {
        double square = 0.0;
        for (int block = 0; block < sample->n_blocks; block++) {
            const size_t at = (size_t)block * (size_t)sample->n + (size_t)v;
            square += weights[block]
                      * ((double)sample->x[at] * (double)sample->x[at] + (double)sample->y[at] * (double)sample->y[at]);
        }
        sample->square[v] = size > 0.0 ? square / size : 0.0;
    }
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median square, 1 where it is 0: the usual key then has gain 1. More than one scale agrees with its gains, half
 * octaves apart. */
static rb_status usual_square(double *out, const key_sample *sample, rb_error *err)
{
    double *sorted = NULL;
    const rb_status st = rb_alloc(&sorted, (size_t)sample->n, sizeof *sorted, "keys", err);
    if (st != RB_OK) return st;
    memcpy(sorted, sample->square, (size_t)sample->n * sizeof *sorted);
    qsort(sorted, (size_t)sample->n, sizeof *sorted, by_size);
    *out = sorted[sample->n / 2] > 0.0 ? sorted[sample->n / 2] : 1.0;
    free(sorted);
    return RB_OK;
}

/* The level that a key's size points to, for maps of the covariances times `scale`. */
static int level_of(const key_sample *sample, int v, double scale)
{
    const int zero = block_codebook_gain_zero(BLOCK_CODEBOOK_MAX_GAIN_BITS);
    return block_codebook_gain_near(BLOCK_CODEBOOK_MAX_GAIN_BITS,
                                    sample->square[v] > 0.0 ? log2(sample->square[v] / scale) + zero : zero);
}

/* Mean of the square of the gain by the codec's rule. */
static double mean_square_gain(const key_sample *sample, double scale)
{
    double mean = 0.0;
    for (int v = 0; v < sample->n; v++)
        mean += pow(block_codebook_gain(BLOCK_CODEBOOK_MAX_GAIN_BITS, level_of(sample, v, scale)), 2.0) / sample->n;
    return mean;
}

static void set_gains(key_sample *sample, double scale)
{
    for (int v = 0; v < sample->n; v++)
        for (int k = 0; k < N_LEVELS; k++)
            sample->gain[(size_t)k * (size_t)sample->n + (size_t)v] = block_codebook_gain(
                BLOCK_CODEBOOK_MAX_GAIN_BITS,
                block_codebook_gain_near(BLOCK_CODEBOOK_MAX_GAIN_BITS, level_of(sample, v, scale) + k - N_LEVELS / 2));
}

/* The Cholesky factor of a covariance times `scale`; a direction without energy has length 0. */
static void factor(float *map, const double *covariance, double scale)
{
    const double m0 = sqrt(scale * covariance[0]), m1 = m0 > 0.0 ? scale * covariance[1] / m0 : 0.0;
    map[0] = (float)m0;
    map[1] = (float)m1;
    map[2] = (float)sqrt(fmax(0.0, scale * covariance[2] - m1 * m1));
}

/* The block's keys at a level of the gain each, brought to gain 1. */
static void divide_by_gain(key_sample *sample, int block, const double *gain)
{
    const float *x = sample->x + (size_t)block * (size_t)sample->n, *y = sample->y + (size_t)block * (size_t)sample->n;
    for (int v = 0; v < sample->n; v++) {
        sample->at_x[v] = (float)((double)x[v] / gain[v]);
        sample->at_y[v] = (float)((double)y[v] / gain[v]);
    }
}

static void measure_points(float *distance, key_sample *sample, const float *map, const block_codebook *book)
{
    for (int c = 0; c < book->size; c++) {
        sample->points_x[c] = map[0] * book->x[c];
        sample->points_y[c] = map[1] * book->x[c] + map[2] * book->y[c];
    }
    block_codebook_nearest(sample->nearest, distance, sample->at_x, sample->at_y, sample->n, sample->points_x,
                           sample->points_y, book->size);
}

/* What the nearest level leaves of x; sets `level`. */
static float rest_of(float *level, const block_levels *levels, float map, float x)
{
    *level = levels->level[map != 0.0f ? block_levels_nearest(levels, (double)(x / map)) : 0];
    return x - map * *level;
}

static void measure_levels(float *distance, const key_sample *sample, const float *map, const block_levels *first,
                           const block_levels *second)
{
    for (int v = 0; v < sample->n; v++) {
        float level, unused;
        const float dx = rest_of(&level, first, map[0], sample->at_x[v]),
                    dy = rest_of(&unused, second, map[2], sample->at_y[v] - map[1] * level);
        distance[v] = dx * dx + dy * dy;
    }
}

/* A block's errors at all levels of the gain. */
static rb_status measure_block(key_sample *sample, int block, const float *map, int bits, codec_tables *tables,
                               rb_error *err)
{
    const block_codebook *book = NULL;
    const block_levels *first = NULL, *second = NULL;
    rb_status st;
    if (block_codebook_has_levels(bits)) {
        const int first_bits = block_codebook_first_bits(map, bits);
        RB_TRY(st, codec_tables_block_levels(tables, first_bits, &first, err), done);
        RB_TRY(st, codec_tables_block_levels(tables, bits - first_bits, &second, err), done);
    } else {
        RB_TRY(st, codec_tables_block_codebook(tables, bits, &book, err), done);
    }
    for (int k = 0; k < N_LEVELS; k++) {
        const double *gain = sample->gain + (size_t)k * (size_t)sample->n;
        float *error = sample->error + ((size_t)N_LEVELS * (size_t)block + (size_t)k) * (size_t)sample->n;
        divide_by_gain(sample, block, gain);
        if (book) measure_points(error, sample, map, book);
        else measure_levels(error, sample, map, first, second);
        for (int v = 0; v < sample->n; v++) error[v] *= (float)(gain[v] * gain[v]);
    }
done:
    return st;
}

static void add_to_total(key_sample *sample, int block, double weight)
{
    const float *error = sample->error + (size_t)N_LEVELS * (size_t)block * (size_t)sample->n;
    for (int i = 0; i < N_LEVELS * sample->n; i++) sample->total[i] += weight * (double)error[i];
}

/* Mean error of a block at the level of the least total, the lowest of equals. */
static double mean_error(const key_sample *sample, int block)
{
    const float *error = sample->error + (size_t)N_LEVELS * (size_t)block * (size_t)sample->n;
    double sum = 0.0;
    for (int v = 0; v < sample->n; v++) {
        int best = 0;
        for (int k = 1; k < N_LEVELS; k++)
            if (sample->total[k * sample->n + v] < sample->total[best * sample->n + v]) best = k;
        sum += (double)error[best * sample->n + v];
    }
    return sum / sample->n;
}

/* The bits that a block has where the block of most weight |z|^2 has none; they rise together. A block without weight
 * gets the most, so that others have none beside it. */
static void find_offsets(int *offsets, const key_sample *sample, const double *weights)
{
    double size[RB_MAX_BLOCKS], most = 0.0;
    for (int i = 0; i < sample->n_blocks; i++) {
        size[i] = weights[i] * (sample->covariance[3 * i] + sample->covariance[3 * i + 2]);
        most = fmax(most, size[i]);
    }
    for (int i = 0; i < sample->n_blocks; i++)
        offsets[i] = size[i] > 0.0 ? (int)fmax(floor(log2(size[i] / most) + 0.5), FEWEST_BITS) : 0;
}

/* Errors of every block that has bits where the first has so many. */
static rb_status measure_errors(float *error, key_sample *sample, const float *maps, const int *offsets, int most_bits,
                                const double *weights, codec_tables *tables, rb_error *err)
{
    rb_status st = RB_OK;
    memset(sample->total, 0, N_LEVELS * (size_t)sample->n * sizeof *sample->total);
    for (int i = 0; i < sample->n_blocks; i++) {
        const int bits = most_bits + offsets[i];
        if (bits < 1 || bits > BLOCK_CODEBOOK_MAX_BITS) continue;
        RB_TRY(st, measure_block(sample, i, maps + BLOCK_CODEBOOK_MAP_SIZE * i, bits, tables, err), done);
        add_to_total(sample, i, weights[i]);
    }
    for (int i = 0; i < sample->n_blocks; i++) {
        const int bits = most_bits + offsets[i];
        if (bits >= 1 && bits <= BLOCK_CODEBOOK_MAX_BITS)
            error[BLOCK_CODEBOOK_N_BITS * i + bits] = (float)mean_error(sample, i);
    }
done:
    return st;
}

rb_status block_codebook_error_measure(float *maps, float *error, const model_facts *model, const float *k,
                                       int64_t n_tokens, const double *mean, const double *weights,
                                       codec_tables *tables, rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    int offsets[RB_MAX_BLOCKS];
    key_sample sample = {0};
    double scale = 1.0;
    rb_status st;
    RB_TRY(st, alloc_sample(&sample, n_blocks, n_tokens, err), done);
    take_keys(&sample, model, k, n_tokens, mean);
    find_squares(&sample, weights);
    RB_TRY(st, usual_square(&scale, &sample, err), done);
    for (int round = 0; round < ROUNDS; round++) scale = 1.0 / mean_square_gain(&sample, scale);
    set_gains(&sample, scale);
    for (int i = 0; i < n_blocks; i++) {
        factor(maps + BLOCK_CODEBOOK_MAP_SIZE * i, sample.covariance + 3 * i, scale);
        error[BLOCK_CODEBOOK_N_BITS * i] = (float)(sample.covariance[3 * i] + sample.covariance[3 * i + 2]);
    }
    find_offsets(offsets, &sample, weights);
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_BITS - FEWEST_BITS; bits++)
        RB_TRY(st, measure_errors(error, &sample, maps, offsets, bits, weights, tables, err), done);
done:
    free_sample(&sample);
    return st;
}
