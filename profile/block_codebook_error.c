/* See block_codebook_error.h. */
#include "profile/block_codebook_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/block_codebook_codec.h"

enum { ROUNDS = 4, ALL_MEASURED_BITS = 8 };

/* The keys that are looked at, block by block. */
typedef struct key_sample {
    int n, n_blocks;
    float *x, *y;                  /* [n_blocks][n]: blocks less their mean */
    double *covariance;            /* [n_blocks][3]: xx, xy, yy */
    double *square, *gain;         /* [n] */
    float *at_x, *at_y, *distance; /* [n] */
    int32_t *nearest;
    float *points_x, *points_y; /* [BLOCK_CODEBOOK_MAX_POINTS] */
} key_sample;

static void free_sample(key_sample *sample)
{
    free(sample->x);
    free(sample->y);
    free(sample->covariance);
    free(sample->square);
    free(sample->gain);
    free(sample->at_x);
    free(sample->at_y);
    free(sample->distance);
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
    RB_TRY(st, rb_alloc(&sample->x, (size_t)n_blocks * n, sizeof *sample->x, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->y, (size_t)n_blocks * n, sizeof *sample->y, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->covariance, 3 * (size_t)n_blocks, sizeof *sample->covariance, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->square, n, sizeof *sample->square, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->gain, n, sizeof *sample->gain, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->at_x, n, sizeof *sample->at_x, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->at_y, n, sizeof *sample->at_y, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->distance, n, sizeof *sample->distance, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->nearest, n, sizeof *sample->nearest, "keys", err), done);
    RB_TRY(st, rb_alloc(&sample->points_x, BLOCK_CODEBOOK_MAX_POINTS, sizeof *sample->points_x, "points", err), done);
    RB_TRY(st, rb_alloc(&sample->points_y, BLOCK_CODEBOOK_MAX_POINTS, sizeof *sample->points_y, "points", err), done);
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

/* The gain of every key by the codec's rule for maps of the covariances times `scale`; returns the mean of its square.
 */
static double find_gains(key_sample *sample, double scale)
{
    const int zero = block_codebook_gain_zero(BLOCK_CODEBOOK_MAX_GAIN_BITS);
    double mean_square = 0.0;
    for (int v = 0; v < sample->n; v++) {
        const double level = sample->square[v] > 0.0 ? log2(sample->square[v] / scale) + zero : zero;
        sample->gain[v] = block_codebook_gain(BLOCK_CODEBOOK_MAX_GAIN_BITS,
                                              block_codebook_gain_near(BLOCK_CODEBOOK_MAX_GAIN_BITS, level));
        mean_square += sample->gain[v] * sample->gain[v] / sample->n;
    }
    return mean_square;
}

/* The Cholesky factor of a covariance times `scale`; a direction without energy has length 0. */
static void factor(float *map, const double *covariance, double scale)
{
    const double m0 = sqrt(scale * covariance[0]), m1 = m0 > 0.0 ? scale * covariance[1] / m0 : 0.0;
    map[0] = (float)m0;
    map[1] = (float)m1;
    map[2] = (float)sqrt(fmax(0.0, scale * covariance[2] - m1 * m1));
}

static double error_of(key_sample *sample, int block, const float *map, const block_codebook *book)
{
    const int stride = book->bits > ALL_MEASURED_BITS ? 1 << (book->bits - ALL_MEASURED_BITS) : 1;
    const size_t row = (size_t)block * (size_t)sample->n;
    double total = 0.0;
    int n = 0;
    for (int c = 0; c < book->size; c++) {
        sample->points_x[c] = map[0] * book->x[c];
        sample->points_y[c] = map[1] * book->x[c] + map[2] * book->y[c];
    }
    for (int v = 0; v < sample->n; v += stride, n++) {
        sample->at_x[n] = (float)((double)sample->x[row + (size_t)v] / sample->gain[v]);
        sample->at_y[n] = (float)((double)sample->y[row + (size_t)v] / sample->gain[v]);
    }
    block_codebook_nearest(sample->nearest, sample->distance, sample->at_x, sample->at_y, n, sample->points_x,
                           sample->points_y, book->size);
    for (int i = 0; i < n; i++)
        total += sample->gain[i * stride] * sample->gain[i * stride] * (double)sample->distance[i];
    return total / n;
}

rb_status block_codebook_error_measure(float *maps, float *error, const model_facts *model, const float *k,
                                       int64_t n_tokens, const double *mean, const double *weights,
                                       codec_tables *tables, rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    key_sample sample = {0};
    double scale = 1.0;
    rb_status st;
    RB_TRY(st, alloc_sample(&sample, n_blocks, n_tokens, err), done);
    take_keys(&sample, model, k, n_tokens, mean);
    find_squares(&sample, weights);
    RB_TRY(st, usual_square(&scale, &sample, err), done);
    for (int round = 0; round < ROUNDS; round++) scale = 1.0 / find_gains(&sample, scale);
    for (int block = 0; block < n_blocks; block++) {
        factor(maps + BLOCK_CODEBOOK_MAP_SIZE * block, sample.covariance + 3 * block, scale);
        for (int bits = 0; bits < BLOCK_CODEBOOK_N_BITS; bits++) {
            const block_codebook *book;
            RB_TRY(st, codec_tables_block_codebook(tables, bits, &book, err), done);
            error[BLOCK_CODEBOOK_N_BITS * block + bits] =
                (float)error_of(&sample, block, maps + BLOCK_CODEBOOK_MAP_SIZE * block, book);
        }
    }
done:
    free_sample(&sample);
    return st;
}
