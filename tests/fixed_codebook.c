/* See tests/fixed_codebook.h. */
#include "tests/fixed_codebook.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"
#include "kernels/reference/block_codebook.h"
#include "kernels/reference/numpy_random.h"

enum {
    N_SAMPLES = 20000, /* of the normal law */
    SAMPLE_SEED = 1,
    SAMPLE_STEPS = 15, /* of k-means: on samples, on keys */
    KEY_STEPS = 4,
    CHUNK = 256 /* points searched together */
};

typedef struct point_set {
    int n;
    float *x, *y;
} point_set;

struct gaussian_books {
    point_set book[FIXED_CODEBOOK_MAX_BITS + 1];
};

struct fixed_codebook {
    int head_dim, n_blocks;
    float *mean;      /* [head_dim] */
    int (*dims)[2];   /* [n_blocks] */
    point_set *books; /* [n_blocks] */
};

/* ---- points ---------------------------------------------------------------------------------- */

static rb_status alloc_points(point_set *set, int n, rb_error *err)
{
    rb_status st;
    set->n = n;
    RB_TRY(st, rb_alloc(&set->x, (size_t)n, sizeof *set->x, "points", err), done);
    RB_TRY(st, rb_alloc(&set->y, (size_t)n, sizeof *set->y, "points", err), done);
done:
    return st;
}

static void free_points(point_set *set)
{
    free(set->x);
    free(set->y);
    *set = (point_set){0};
}

/* Mean squared distance to the book. sums [3][book->n], if wanted: of x, of y, and the count of each cell. */
static double assign(const point_set *points, const point_set *book, double *sums)
{
    int32_t nearest[CHUNK];
    float distance[CHUNK];
    double total = 0.0;
    if (sums) memset(sums, 0, 3 * (size_t)book->n * sizeof *sums);
    for (int at = 0; at < points->n; at += CHUNK) {
        const int n = points->n - at < CHUNK ? points->n - at : CHUNK;
        block_codebook_nearest(nearest, distance, points->x + at, points->y + at, n, book->x, book->y, book->n);
        for (int i = 0; i < n; i++) {
            total += (double)distance[i];
            if (!sums) continue;
            sums[nearest[i]] += (double)points->x[at + i];
            sums[book->n + nearest[i]] += (double)points->y[at + i];
            sums[2 * book->n + nearest[i]] += 1.0;
        }
    }
    return total / points->n;
}

/* Lloyd's steps; a cell that nothing falls into keeps its point. */
static rb_status k_means(point_set *book, const point_set *points, int n_steps, rb_error *err)
{
    double *sums = NULL;
    rb_status st = rb_alloc(&sums, 3 * (size_t)book->n, sizeof *sums, "k-means", err);
    for (int step = 0; st == RB_OK && step < n_steps; step++) {
        assign(points, book, sums);
        for (int c = 0; c < book->n; c++) {
            const double count = sums[2 * book->n + c];
            if (count == 0.0) continue;
            book->x[c] = (float)(sums[c] / count);
            book->y[c] = (float)(sums[book->n + c] / count);
        }
    }
    free(sums);
    return st;
}

rb_status gaussian_books_create(gaussian_books **out, rb_error *err)
{
    gaussian_books *books = NULL;
    point_set samples = {0};
    double *normals = NULL;
    numpy_rng rng;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&books, 1, sizeof *books, "codebooks", err), done);
    RB_TRY(st, alloc_points(&samples, N_SAMPLES, err), done);
    RB_TRY(st, rb_alloc(&normals, 2 * N_SAMPLES, sizeof *normals, "samples", err), done);
    numpy_rng_seed(&rng, SAMPLE_SEED);
    numpy_rng_standard_normal(&rng, normals, 2 * N_SAMPLES);
    for (int i = 0; i < N_SAMPLES; i++) {
        samples.x[i] = (float)normals[2 * i];
        samples.y[i] = (float)normals[2 * i + 1];
    }
    for (int bits = 0; bits <= FIXED_CODEBOOK_MAX_BITS; bits++) {
        point_set *book = &books->book[bits];
        RB_TRY(st, alloc_points(book, 1 << bits, err), done);
        if (bits == 0) continue; /* the mean */
        memcpy(book->x, samples.x, (size_t)book->n * sizeof *book->x);
        memcpy(book->y, samples.y, (size_t)book->n * sizeof *book->y);
        RB_TRY(st, k_means(book, &samples, SAMPLE_STEPS, err), done);
    }
    *out = books;
    books = NULL;
done:
    free(normals);
    free_points(&samples);
    gaussian_books_free(books);
    return st;
}

void gaussian_books_free(gaussian_books *books)
{
    if (!books) return;
    for (int bits = 0; bits <= FIXED_CODEBOOK_MAX_BITS; bits++) free_points(&books->book[bits]);
    free(books);
}

/* ---- training -------------------------------------------------------------------------------- */

/* A block's keys around the mean. */
static void take_block(point_set *out, const fixed_codebook *book, int block, const float *k)
{
    const int *dims = book->dims[block];
    for (int t = 0; t < out->n; t++) {
        out->x[t] = k[(int64_t)t * book->head_dim + dims[0]] - book->mean[dims[0]];
        out->y[t] = k[(int64_t)t * book->head_dim + dims[1]] - book->mean[dims[1]];
    }
}

/* The normal law's book through the Cholesky factor of the points' covariance. */
static void map_book(point_set *book, const point_set *normal, const point_set *points)
{
    double xx = 1e-12, xy = 0.0, yy = 1e-12;
    for (int t = 0; t < points->n; t++) {
        xx += (double)points->x[t] * (double)points->x[t] / points->n;
        xy += (double)points->x[t] * (double)points->y[t] / points->n;
        yy += (double)points->y[t] * (double)points->y[t] / points->n;
    }
    const double a = sqrt(xx), b = xy / a, c = sqrt(fmax(yy - b * b, 0.0));
    for (int i = 0; i < book->n; i++) {
        book->x[i] = (float)(a * (double)normal->x[i]);
        book->y[i] = (float)(b * (double)normal->x[i] + c * (double)normal->y[i]);
    }
}

/* A block's books of every size, and their errors. */
static rb_status train_block(point_set *books, double *errors, const gaussian_books *normal, const fixed_codebook *book,
                             int block, const float *k, int64_t n_tokens, rb_error *err)
{
    point_set points = {0};
    rb_status st;
    RB_TRY(st, alloc_points(&points, (int)n_tokens, err), done);
    take_block(&points, book, block, k);
    for (int bits = 0; bits <= FIXED_CODEBOOK_MAX_BITS; bits++) {
        RB_TRY(st, alloc_points(&books[bits], 1 << bits, err), done);
        map_book(&books[bits], &normal->book[bits], &points);
        if (bits > 0) RB_TRY(st, k_means(&books[bits], &points, KEY_STEPS, err), done);
        errors[bits] = assign(&points, &books[bits], NULL);
    }
done:
    free_points(&points);
    return st;
}

/* What `steps` bits more take off a block's error, a bit. */
static double gain(const double *errors, double weight, int bits, int steps)
{
    return bits + steps > FIXED_CODEBOOK_MAX_BITS ? -1.0 : weight * (errors[bits] - errors[bits + steps]) / steps;
}

/* One bit at a time to the block that gains most by it, or by two: an error curve is not always convex. */
static void spend(int *bits, const double (*errors)[FIXED_CODEBOOK_MAX_BITS + 1], const double *weights, int n_blocks,
                  int budget)
{
    memset(bits, 0, (size_t)n_blocks * sizeof *bits);
    for (; budget > 0; budget--) {
        int best = 0;
        double best_gain = -1.0;
        for (int i = 0; i < n_blocks; i++) {
            const double g = fmax(gain(errors[i], weights[i], bits[i], 1), gain(errors[i], weights[i], bits[i], 2));
            if (g > best_gain) {
                best = i;
                best_gain = g;
            }
        }
        if (best_gain < 0.0) return; /* every block is full */
        bits[best]++;
    }
}

static double block_energy(const int dims[2], const float *q, int64_t n, int head_dim)
{
    double sum = 0.0;
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < 2; i++) sum += (double)q[t * head_dim + dims[i]] * (double)q[t * head_dim + dims[i]];
    return sum / (double)n;
}

static void take_mean(float *mean, const float *k, int64_t n_tokens, int head_dim)
{
    for (int i = 0; i < head_dim; i++) {
        double sum = 0.0;
        for (int64_t t = 0; t < n_tokens; t++) sum += (double)k[t * head_dim + i];
        mean[i] = (float)(sum / (double)n_tokens);
    }
}

static rb_status create(fixed_codebook **out, const model_facts *model, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_alloc(out, 1, sizeof **out, "codebook", err), done);
    (*out)->head_dim = model->head_dim;
    (*out)->n_blocks = model_n_blocks(model);
    RB_TRY(st, rb_alloc(&(*out)->mean, (size_t)model->head_dim, sizeof *(*out)->mean, "codebook", err), done);
    RB_TRY(st, rb_alloc(&(*out)->dims, (size_t)(*out)->n_blocks, sizeof *(*out)->dims, "codebook", err), done);
    RB_TRY(st, rb_alloc(&(*out)->books, (size_t)(*out)->n_blocks, sizeof *(*out)->books, "codebook", err), done);
    for (int i = 0; i < (*out)->n_blocks; i++) model_block_dims(model, i, (*out)->dims[i]);
done:
    return st;
}

rb_status fixed_codebook_train(fixed_codebook **out, const gaussian_books *normal, const model_facts *model,
                               const float *q, const float *k, int64_t n_tokens, double true_bits, rb_error *err)
{
    const int n_blocks = model_n_blocks(model);
    fixed_codebook *book = NULL;
    point_set(*books)[FIXED_CODEBOOK_MAX_BITS + 1] = NULL;
    double(*errors)[FIXED_CODEBOOK_MAX_BITS + 1] = NULL, weights[RB_MAX_BLOCKS];
    int bits[RB_MAX_BLOCKS];
    rb_first_failure failure = {0};
    rb_status st;
    *out = NULL;
    RB_TRY(st, create(&book, model, err), done);
    RB_TRY(st, rb_alloc(&books, (size_t)n_blocks, sizeof *books, "codebook", err), done);
    RB_TRY(st, rb_alloc(&errors, (size_t)n_blocks, sizeof *errors, "codebook", err), done);
    take_mean(book->mean, k, n_tokens, model->head_dim);
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n_blocks; i++) {
        rb_error mine = {0};
        weights[i] = block_energy(book->dims[i], q, n_tokens * model_q_per_kv(model), model->head_dim);
        const rb_status mine_st = train_block(books[i], errors[i], normal, book, i, k, n_tokens, &mine);
        rb_note_failure(&failure, i, mine_st, &mine);
    }
    RB_TRY(st, rb_tell_failure(&failure, err), done);
    spend(bits, (const double(*)[FIXED_CODEBOOK_MAX_BITS + 1]) errors, weights, n_blocks,
          (int)floor(true_bits * model->head_dim));
    for (int i = 0; i < n_blocks; i++) {
        book->books[i] = books[i][bits[i]];
        books[i][bits[i]] = (point_set){0};
    }
    *out = book;
    book = NULL;
done:
    for (int i = 0; books && i < n_blocks; i++)
        for (int b = 0; b <= FIXED_CODEBOOK_MAX_BITS; b++) free_points(&books[i][b]);
    free(books);
    free(errors);
    fixed_codebook_free(book);
    return st;
}

void fixed_codebook_free(fixed_codebook *book)
{
    if (!book) return;
    for (int i = 0; book->books && i < book->n_blocks; i++) free_points(&book->books[i]);
    free(book->books);
    free(book->dims);
    free(book->mean);
    free(book);
}

/* ---- use ------------------------------------------------------------------------------------- */

void fixed_codebook_restore(const fixed_codebook *book, const float *k, int64_t n_tokens, float *k_hat)
{
    const int64_t n_chunks = (n_tokens + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(dynamic)
    for (int64_t chunk = 0; chunk < n_chunks; chunk++) {
        const int64_t at = chunk * CHUNK;
        float x[CHUNK], y[CHUNK], distance[CHUNK];
        int32_t nearest[CHUNK];
        point_set points = {(int)(n_tokens - at < CHUNK ? n_tokens - at : CHUNK), x, y};
        for (int i = 0; i < book->n_blocks; i++) {
            const point_set *own = &book->books[i];
            take_block(&points, book, i, k + at * book->head_dim);
            block_codebook_nearest(nearest, distance, x, y, points.n, own->x, own->y, own->n);
            for (int t = 0; t < points.n; t++) {
                float *to = k_hat + (at + t) * book->head_dim;
                to[book->dims[i][0]] = book->mean[book->dims[i][0]] + own->x[nearest[t]];
                to[book->dims[i][1]] = book->mean[book->dims[i][1]] + own->y[nearest[t]];
            }
        }
    }
}
