/* See profile/gram.h. */
#include "profile/gram.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/threads.h"

/* Fixed, so that sums do not depend on threads. */
enum { TILE = 64, STRETCH = 1024 };

typedef struct gram_tile {
    int row, column, n_rows, n_columns;
} gram_tile;

/* The i-th tile on or below the diagonal. */
static gram_tile tile_at(int i, int dim)
{
    int row = 0;
    while (i > row) i -= ++row;
    const gram_tile tile = {.row = row * TILE, .column = i * TILE};
    return (gram_tile){tile.row, tile.column, dim - tile.row < TILE ? dim - tile.row : TILE,
                       dim - tile.column < TILE ? dim - tile.column : TILE};
}

static void sum_tile(float *out, const gram_tile *tile, const float *x, int64_t n_rows, int dim, double scale)
{
    double sums[TILE * TILE] = {0.0};
    float part[TILE * TILE];
    for (int64_t first = 0; first < n_rows; first += STRETCH) {
        const int n = (int)(n_rows - first < STRETCH ? n_rows - first : STRETCH);
        const float *rows = x + first * dim;
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, tile->n_rows, tile->n_columns, n, 1.0f, rows + tile->row,
                    dim, rows + tile->column, dim, 0.0f, part, TILE);
        for (int i = 0; i < tile->n_rows; i++)
            for (int j = 0; j < tile->n_columns; j++) sums[i * TILE + j] += (double)part[i * TILE + j];
    }
    for (int i = 0; i < tile->n_rows; i++)
        for (int j = 0; j < tile->n_columns; j++) {
            const int64_t row = tile->row + i, column = tile->column + j;
            if (column <= row) out[row * dim + column] = out[column * dim + row] = (float)(scale * sums[i * TILE + j]);
        }
}

void gram_matrix(float *out, const float *x, int64_t n_rows, int dim, double scale)
{
    const int n = (dim + TILE - 1) / TILE;
#pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < n * (n + 1) / 2; i++) {
        const gram_tile tile = tile_at(i, dim);
        sum_tile(out, &tile, x, n_rows, dim, scale);
    }
}

/* ---- factor ---------------------------------------------------------------------------------- */

RB_CPU_CLONES static double dot(const double *a, const double *b, int n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* What is left of a pivot of a gram in f32 when the columns before it explain it. */
static const double rounding = 1e-5;

rb_status gram_factor(float *factor, const float *gram, int n, rb_error *err)
{
    const int64_t width = n;
    double *l = NULL;
    const rb_status st = rb_alloc(&l, (size_t)(width * width), sizeof *l, "factor of a metric", err);
    if (st != RB_OK) return st;
    for (int64_t j = 0; j < n; j++) {
        double *row = l + j * width;
        const double diagonal = (double)gram[j * width + j], pivot = diagonal - dot(row, row, (int)j);
        if (!(pivot > rounding * diagonal)) continue; /* the column stays zero */
        row[j] = sqrt(pivot);
#pragma omp parallel for schedule(static)
        for (int64_t i = j + 1; i < n; i++)
            l[i * width + j] = ((double)gram[i * width + j] - dot(l + i * width, row, (int)j)) / row[j];
    }
    for (int64_t i = 0; i < width * width; i++) factor[i] = (float)l[i];
    free(l);
    return RB_OK;
}
