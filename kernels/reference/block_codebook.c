/* See block_codebook.h. */
#include "kernels/reference/block_codebook.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/reference/numpy_random.h"

enum {
    SAMPLES_PER_POINT = 64,
    LEAST_SAMPLES = 16384,
    STARTS = 12,
    MAX_BITS_OF_STARTS = 5, /* few points have poor local optima: the best of several starts */
    LLOYD_STEPS = 60,
    MANY_POINTS_STEPS = 24,
    START_SEED = 7,
    LEVEL_STEPS = 1000,
    CHUNK = 256, /* samples searched in one go */
    LANES = 16   /* points searched side by side */
};

typedef struct sample_set {
    int n;
    float *x, *y;
} sample_set;

static double fraction(double x) { return x - floor(x); }

/* Radii are quantiles of the law of |z|, angles fill the circle evenly whatever the radius: the R2 sequence (powers of
 * the plastic number's inverse), which is even in two dims, where random samples would leave a codebook that fits their
 * accidents. */
static rb_status make_samples(sample_set *out, int n, rb_error *err)
{
    static const double PLASTIC = 1.32471795724474602596, TWO_PI = 6.28318530717958647693;
    rb_status st;
    RB_TRY(st, rb_alloc(&out->x, (size_t)n, sizeof *out->x, "samples", err), done);
    RB_TRY(st, rb_alloc(&out->y, (size_t)n, sizeof *out->y, "samples", err), done);
    out->n = n;
    for (int i = 0; i < n; i++) {
        const double radius = sqrt(-2.0 * log1p(-((double)i + 0.5) / n)),
                     angle = TWO_PI * fraction(0.5 + (double)i / PLASTIC);
        out->x[i] = (float)(radius * cos(angle));
        out->y[i] = (float)(radius * sin(angle));
    }
done:
    return st;
}

/* Good density of many points: the law's square root, a normal law of twice the variance. */
static rb_status start_from_law(block_codebook *book, int start, rb_error *err)
{
    numpy_rng rng;
    double *normals = NULL;
    const rb_status st = rb_alloc(&normals, 2 * (size_t)book->size, sizeof *normals, "points", err);
    if (st != RB_OK) return st;
    numpy_rng_seed(&rng, START_SEED + (uint64_t)start);
    numpy_rng_standard_normal(&rng, normals, 2 * (size_t)book->size);
    for (int c = 0; c < book->size; c++) {
        book->x[c] = (float)(1.4142135623730951 * normals[2 * c]);
        book->y[c] = (float)(1.4142135623730951 * normals[2 * c + 1]);
    }
    free(normals);
    return RB_OK;
}

/* The same density as a sunflower: turned by the golden angle from point to point. */
static void start_from_spiral(block_codebook *book)
{
    static const double GOLDEN_ANGLE = 2.39996322972865332223;
    for (int c = 0; c < book->size; c++) {
        const double radius = 2.0 * sqrt(-log1p(-((double)c + 0.5) / book->size)), angle = GOLDEN_ANGLE * c;
        book->x[c] = (float)(radius * cos(angle));
        book->y[c] = (float)(radius * sin(angle));
    }
}

/* LANES of them, kept in registers while all points pass by. */
RB_CPU_CLONES static void search_lanes(int32_t *restrict nearest, float *restrict distance, const float *restrict x,
                                       const float *restrict y, const float *restrict book_x,
                                       const float *restrict book_y, int size)
{
    float least[LANES];
    int32_t at[LANES];
    for (int i = 0; i < LANES; i++) {
        at[i] = 0;
        least[i] = INFINITY;
    }
    for (int c = 0; c < size; c++)
        for (int i = 0; i < LANES; i++) {
            const float dx = x[i] - book_x[c], dy = y[i] - book_y[c], d = dx * dx + dy * dy;
            const int32_t is_less = -(d < least[i]); /* by bits: a choice of c or at[i] becomes a branch */
            at[i] = (at[i] & ~is_less) | (c & is_less);
            least[i] = d < least[i] ? d : least[i];
        }
    memcpy(nearest, at, sizeof at);
    memcpy(distance, least, sizeof least);
}

void block_codebook_nearest(int32_t *nearest, float *distance, const float *x, const float *y, int n,
                            const float *book_x, const float *book_y, int size)
{
    const int whole = n / LANES * LANES, rest = n - whole;
    float last[3][LANES] = {0};
    int32_t found[LANES];
    for (int at = 0; at < whole; at += LANES)
        search_lanes(nearest + at, distance + at, x + at, y + at, book_x, book_y, size);
    if (rest == 0) return;
    memcpy(last[0], x + whole, (size_t)rest * sizeof *x);
    memcpy(last[1], y + whole, (size_t)rest * sizeof *y);
    search_lanes(found, last[2], last[0], last[1], book_x, book_y, size);
    memcpy(nearest + whole, found, (size_t)rest * sizeof *nearest);
    memcpy(distance + whole, last[2], (size_t)rest * sizeof *distance);
}

/* Mean squared error a coordinate. sums [3][size]: of x, of y, and the count of each cell. */
static double assign(const sample_set *samples, const block_codebook *book, double *sums)
{
    int32_t nearest[CHUNK];
    float distance[CHUNK];
    double total = 0.0;
    memset(sums, 0, 3 * (size_t)book->size * sizeof *sums);
    for (int at = 0; at < samples->n; at += CHUNK) {
        const int n = samples->n - at < CHUNK ? samples->n - at : CHUNK;
        block_codebook_nearest(nearest, distance, samples->x + at, samples->y + at, n, book->x, book->y, book->size);
        for (int i = 0; i < n; i++) {
            total += (double)distance[i];
            sums[nearest[i]] += (double)samples->x[at + i];
            sums[book->size + nearest[i]] += (double)samples->y[at + i];
            sums[2 * book->size + nearest[i]] += 1.0;
        }
    }
    return total / (2.0 * samples->n);
}

static void move_to_means(block_codebook *book, const double *sums)
{
    for (int c = 0; c < book->size; c++) {
        const double count = sums[2 * book->size + c];
        if (count == 0.0) continue;
        book->x[c] = (float)(sums[c] / count);
        book->y[c] = (float)(sums[book->size + c] / count);
    }
}

static void round_points(block_codebook *book)
{
    for (int c = 0; c < book->size; c++) {
        book->x[c] = rb_f16_to_f32(rb_f32_to_f16(book->x[c]));
        book->y[c] = rb_f16_to_f32(rb_f32_to_f16(book->y[c]));
    }
}

static void iterate(block_codebook *book, const sample_set *samples, int n_steps, double *sums)
{
    for (int step = 0; step < n_steps; step++) {
        assign(samples, book, sums);
        move_to_means(book, sums);
    }
    round_points(book);
    book->distortion = assign(samples, book, sums);
}

static rb_status iterate_from_starts(block_codebook *book, const sample_set *samples, double *sums, rb_error *err)
{
    block_codebook *trial = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&trial, 1, sizeof *trial, "codebook", err), done);
    for (int start = 0; start < STARTS; start++) {
        *trial = (block_codebook){.bits = book->bits, .size = book->size};
        RB_TRY(st, start_from_law(trial, start, err), done);
        iterate(trial, samples, LLOYD_STEPS, sums);
        if (trial->distortion < book->distortion) *book = *trial;
    }
done:
    free(trial);
    return st;
}

rb_status block_codebook_build(block_codebook *out, int bits, rb_error *err)
{
    sample_set samples = {0};
    double *sums = NULL;
    rb_status st = RB_OK;
    if (bits < 0 || bits > BLOCK_CODEBOOK_MAX_POINT_BITS)
        return rb_fail(err, RB_EINVAL, "a codebook of the plane has %d bits, expected 0 to %d", bits,
                       BLOCK_CODEBOOK_MAX_POINT_BITS);
    *out = (block_codebook){.bits = bits, .size = 1 << bits, .distortion = 1.0};
    if (bits == 0) return RB_OK;
    const int n = SAMPLES_PER_POINT * out->size;
    RB_TRY(st, make_samples(&samples, n > LEAST_SAMPLES ? n : LEAST_SAMPLES, err), done);
    RB_TRY(st, rb_alloc(&sums, 3 * (size_t)out->size, sizeof *sums, "cells", err), done);
    if (bits <= MAX_BITS_OF_STARTS) {
        RB_TRY(st, iterate_from_starts(out, &samples, sums, err), done);
    } else {
        start_from_spiral(out);
        iterate(out, &samples, MANY_POINTS_STEPS, sums);
    }
done:
    free(samples.x);
    free(samples.y);
    free(sums);
    return st;
}

/* ---- levels ---------------------------------------------------------------------------------- */

static double density_at(double x) { return 0.39894228040143267794 * exp(-0.5 * x * x); }

static double share_above(double x) { return 0.5 * erfc(0.70710678118654752440 * x); }

/* What share_above makes a share of. Newton's method; its curve bends one way above 0, so steps from 0 do not pass. */
static double place_of(double share)
{
    double x = 0.0;
    for (int step = 0; step < 64; step++) x += (share_above(x) - share) / density_at(x);
    return x;
}

/* One step of Lloyd's iteration for the upper half of the levels, ascending from 0: the means of their cells. */
static void move_levels(double *upper, int half)
{
    double from = 0.0;
    for (int i = 0; i < half; i++) {
        const double to = i + 1 < half ? 0.5 * (upper[i] + upper[i + 1]) : INFINITY;
        const double mass = share_above(from) - (i + 1 < half ? share_above(to) : 0.0);
        upper[i] = (density_at(from) - (i + 1 < half ? density_at(to) : 0.0)) / mass;
        from = to;
    }
}

rb_status block_levels_build(block_levels *out, int bits, rb_error *err)
{
    static const double WIDER = 1.7320508075688772935; /* the law's cube root is a normal law of 3 times the variance */
    double upper[BLOCK_CODEBOOK_MAX_LEVELS / 2];
    if (bits < 1 || bits > BLOCK_CODEBOOK_MAX_LEVEL_BITS)
        return rb_fail(err, RB_EINVAL, "levels have %d bits, expected 1 to %d", bits, BLOCK_CODEBOOK_MAX_LEVEL_BITS);
    *out = (block_levels){.bits = bits, .size = 1 << bits};
    const int half = out->size / 2;
    for (int i = 0; i < half; i++) upper[i] = WIDER * place_of(0.5 * (half - i - 0.5) / half);
    for (int step = 0; step < LEVEL_STEPS; step++) move_levels(upper, half);
    for (int i = 0; i < half; i++) {
        out->level[half + i] = rb_f16_to_f32(rb_f32_to_f16((float)upper[i]));
        out->level[half - 1 - i] = -out->level[half + i];
    }
    return RB_OK;
}

int block_levels_nearest(const block_levels *levels, double x)
{
    int nearest = 0;
    for (int step = levels->size / 2; step > 0; step /= 2) {
        const double below = (double)levels->level[nearest + step - 1], above = (double)levels->level[nearest + step];
        if (x > 0.5 * (below + above)) nearest += step;
    }
    return nearest;
}

int block_codebook_first_bits(const float *map, int bits)
{
    const double first = (double)map[0] * (double)map[0], second = (double)map[2] * (double)map[2];
    int own = bits - BLOCK_CODEBOOK_MAX_LEVEL_BITS;
    while (own < BLOCK_CODEBOOK_MAX_LEVEL_BITS
           && ldexp(first, -2 * (own + 1)) + ldexp(second, -2 * (bits - own - 1))
                  < ldexp(first, -2 * own) + ldexp(second, -2 * (bits - own)))
        own++;
    return own;
}
