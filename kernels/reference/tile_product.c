/* See tile_product.h. Blocks of the output stay in registers: 4 vectors times 16 columns are 8 registers of AVX-512 and
 * 16 of AVX2. On one core at m = 64 and 128 that made 20 GFLOP/s, without fused multiply-adds, which round otherwise.
 */
#include "kernels/reference/tile_product.h"

#include <stdint.h>
#include <string.h>

#include "core/threads.h"

enum { ROWS = 4, COLUMNS = 16 };

RB_CPU_CLONES static void product_block(double *out, const double *in, const double *matrix, int n_inner, int m)
{
    double sums[ROWS][COLUMNS] = {{0.0}};
    for (int k = 0; k < n_inner; k++) {
        const double *row = matrix + (int64_t)k * m;
        for (int v = 0; v < ROWS; v++) {
            const double x = in[(int64_t)v * n_inner + k];
#pragma omp simd
            for (int j = 0; j < COLUMNS; j++) sums[v][j] += x * row[j];
        }
    }
    for (int v = 0; v < ROWS; v++) memcpy(out + (int64_t)v * m, sums[v], sizeof sums[v]);
}

/* Of one vector, columns [0, n_columns). */
RB_CPU_CLONES static void product_row(double *out, const double *in, const double *matrix, int n_inner, int m,
                                      int n_columns)
{
    memset(out, 0, (size_t)n_columns * sizeof *out);
    for (int k = 0; k < n_inner; k++) {
        const double *row = matrix + (int64_t)k * m, x = in[k];
#pragma omp simd
        for (int j = 0; j < n_columns; j++) out[j] += x * row[j];
    }
}

void tile_product(double *out, const double *in, const double *matrix, int n, int n_inner, int m)
{
    const int n_blocked = n / ROWS * ROWS, m_blocked = m / COLUMNS * COLUMNS;
    for (int v = 0; v < n_blocked; v += ROWS)
        for (int j = 0; j < m_blocked; j += COLUMNS)
            product_block(out + (int64_t)v * m + j, in + (int64_t)v * n_inner, matrix + j, n_inner, m);
    for (int v = 0; v < n; v++) {
        const int first = v < n_blocked ? m_blocked : 0;
        if (first < m)
            product_row(out + (int64_t)v * m + first, in + (int64_t)v * n_inner, matrix + first, n_inner, m, m - first);
    }
}
