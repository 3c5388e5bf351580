/* Codebooks by name, and the published one: see kernels/reference/codebook.h. The sphere codebook is in
 * codebook_sphere.c. */
#include "kernels/reference/codebook.h"

#include <math.h>
#include <string.h>

#include "kernels/reference/codebook_sphere.h"

enum { MIN_DIMS = 2, MAX_DIMS = 4096 };

const char *const codebook_kind_names[CODEBOOK_N_KINDS + 1] = {"block-gtq", "sphere", NULL};

const char *codebook_kind_name(codebook_kind kind) { return codebook_kind_names[kind]; }

bool codebook_kind_from_name(const char *name, codebook_kind *kind)
{
    for (int i = 0; i < CODEBOOK_N_KINDS; i++)
        if (strcmp(codebook_kind_names[i], name) == 0) {
            *kind = (codebook_kind)i;
            return true;
        }
    return false;
}

/* ---- N(0, 1) --------------------------------------------------------------------------------- */

static double normal_density(double x) { return exp(-0.5 * x * x) / sqrt(2.0 * M_PI); }

/* P(X > x): accurate in the upper tail, where the codebook's last cells are. */
static double normal_upper(double x) { return 0.5 * erfc(x / M_SQRT2); }

/* x with P(X > x) = p, 0 < p < 1/2, by Newton's method on the logarithm of the tail, which is concave and nearly
 * quadratic: from the start's upper bound, 8 steps are enough for any p of a codebook. */
static double normal_upper_quantile(double p)
{
    enum { NEWTON_STEPS = 8 };
    double x = sqrt(-2.0 * log(2.0 * p));
    for (int i = 0; i < NEWTON_STEPS; i++) {
        const double tail = normal_upper(x);
        x += log(tail / p) * tail / normal_density(x);
    }
    return x;
}

/* ---- block-gtq ------------------------------------------------------------------------------- */

/* The positive half of a symmetric codebook of 2 * half centroids under N(0, 1): conditional means of 2 * half cells of
 * equal probability, then Lloyd. The lower half is the mirror image, so the innermost boundary stays 0. */
static void lloyd_upper_half(double *centroid, int half)
{
    enum { ITERATIONS = 100 }; /* as published: not converged for many levels */
    double lower = 0.0;
    for (int i = 0; i < half; i++) {
        const double upper = i + 1 < half ? normal_upper_quantile((double)(half - 1 - i) / (2.0 * half)) : INFINITY;
        centroid[i] = (normal_density(lower) - normal_density(upper)) * 2.0 * half;
        lower = upper;
    }
    for (int iteration = 0; iteration < ITERATIONS; iteration++) {
        lower = 0.0;
        for (int i = 0; i < half; i++) {
            const double upper = i + 1 < half ? 0.5 * (centroid[i] + centroid[i + 1]) : INFINITY;
            const double mass = normal_upper(lower) - normal_upper(upper);
            centroid[i] = (normal_density(lower) - normal_density(upper)) / mass;
            lower = upper;
        }
    }
}

/* The published code's constants at 1 and 2 bits, Lloyd above. */
static void block_gtq_upper_half(double *centroid, int width)
{
    switch (width) {
    case 1: centroid[0] = sqrt(2.0 / M_PI); break;
    case 2:
        centroid[0] = 0.453;
        centroid[1] = 1.51;
        break;
    default: lloyd_upper_half(centroid, 1 << (width - 1));
    }
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* Fills both halves, the f32 values and the boundaries from the upper half. */
static void complete(codebook *book, const double *upper_half)
{
    const int half = book->size / 2;
    for (int i = 0; i < half; i++) {
        book->centroid[half + i] = upper_half[i];
        book->centroid[half - 1 - i] = -upper_half[i];
    }
    for (int i = 0; i < book->size; i++) book->centroid_f32[i] = (float)book->centroid[i];
    for (int i = 0; i + 1 < book->size; i++)
        book->boundary[i] = 0.5 * ((double)book->centroid_f32[i] + (double)book->centroid_f32[i + 1]);
}

rb_status codebook_build(codebook *out, codebook_kind kind, int width, int dims, rb_error *err)
{
    double upper_half[CODEBOOK_MAX_SIZE / 2];
    if (width < 1 || width > CODEBOOK_MAX_WIDTH)
        return rb_fail(err, RB_EINVAL, "codebook width is %d, expected 1 to %d", width, CODEBOOK_MAX_WIDTH);
    if (dims < MIN_DIMS || dims > MAX_DIMS)
        return rb_fail(err, RB_EINVAL, "codebook for %d dims, expected %d to %d", dims, MIN_DIMS, MAX_DIMS);
    memset(out, 0, sizeof *out);
    out->kind = kind;
    out->width = width;
    out->dims = dims;
    out->size = 1 << width;
    switch (kind) {
    case CODEBOOK_BLOCK_GTQ:
        block_gtq_upper_half(upper_half, width);
        for (int i = 0; i < out->size / 2; i++) upper_half[i] /= sqrt((double)dims);
        break;
    case CODEBOOK_SPHERE: {
        rb_status st = sphere_upper_half(upper_half, out->size / 2, dims, err);
        if (st != RB_OK) return st;
        break;
    }
    default: return rb_fail(err, RB_EINVAL, "codebook kind is %d, expected one of %d", (int)kind, CODEBOOK_N_KINDS);
    }
    complete(out, upper_half);
    return RB_OK;
}

int codebook_code(const codebook *book, double y)
{
    /* Binary search: 2^width - 1 boundaries, so width steps. */
    int code = 0;
    for (int step = book->size / 2; step > 0; step /= 2)
        if (book->boundary[code + step - 1] < y) code += step;
    return code;
}
