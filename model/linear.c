/* See linear.h. Output columns come in blocks: a plain linear layer has one block, linear_forward_heads one for each
 * head. A tile lies inside one block, so both are the same grid of sgemm calls, and nothing needs to be transposed. */
#include "model/linear.h"

#include <assert.h>
#include <cblas.h>
#include <limits.h>
#include <stddef.h>

/* 256 x 256 outputs: operands of a usual n_in and the result stay in a 1 MiB L2, and OpenBLAS reaches its full rate
 * (Zen 4: 128 x 256 loses 15 %). Columns are cut in multiples of 16, the width of OpenBLAS' AVX-512 kernel. */
enum { TILE_ROWS = 256, TILE_COLUMNS = 256, COLUMN_STEP = 16 };

typedef struct linear_job {
    const float *x, *weight, *bias;
    int64_t x_stride, n, n_in;
    float *y;
    int64_t y_stride;
    int64_t n_blocks, block_width, block_stride; /* column c of block b is y[b * block_stride + row * y_stride + c] */
    int accumulate;
} linear_job;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

/* Extent of equal tiles, at most `largest` each up to rounding: 384 columns become 2 x 192, not 256 + 128. */
static int64_t tile_extent(int64_t total, int64_t largest, int64_t step)
{
    const int64_t n_tiles = ceil_div(total, largest);
    return ceil_div(ceil_div(total, n_tiles), step) * step;
}

static void run_tile(const linear_job *job, int64_t block, int64_t row, int64_t n_rows, int64_t column,
                     int64_t n_columns)
{
    const int64_t first_out = block * job->block_width + column;
    float *y = job->y + block * job->block_stride + row * job->y_stride + column;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_rows, (int)n_columns, (int)job->n_in, 1.0f,
                job->x + row * job->x_stride, (int)job->x_stride, job->weight + first_out * job->n_in, (int)job->n_in,
                job->accumulate ? 1.0f : 0.0f, y, (int)job->y_stride);
    if (!job->bias) return;
    for (int64_t r = 0; r < n_rows; r++) {
        float *out = y + r * job->y_stride;
        for (int64_t c = 0; c < n_columns; c++) out[c] += job->bias[first_out + c];
    }
}

static void run_job(const linear_job *job)
{
    if (job->n <= 0 || job->n_blocks <= 0 || job->block_width <= 0) return;
    assert(job->n_in > 0 && job->n_in <= INT_MAX && job->x_stride <= INT_MAX && job->y_stride <= INT_MAX);

    const int64_t tile_rows = tile_extent(job->n, TILE_ROWS, 1);
    const int64_t tile_columns = tile_extent(job->block_width, TILE_COLUMNS, COLUMN_STEP);
    const int64_t n_row_tiles = ceil_div(job->n, tile_rows);
    const int64_t n_column_tiles = ceil_div(job->block_width, tile_columns);

#pragma omp parallel for collapse(3) schedule(dynamic)
    for (int64_t block = 0; block < job->n_blocks; block++) {
        for (int64_t i = 0; i < n_row_tiles; i++) {
            for (int64_t j = 0; j < n_column_tiles; j++) {
                const int64_t row = i * tile_rows, column = j * tile_columns;
                run_tile(job, block, row, min_i64(tile_rows, job->n - row), column,
                         min_i64(tile_columns, job->block_width - column));
            }
        }
    }
}

void linear_forward(const float *x, int64_t x_stride, const float *weight, const float *bias, float *y,
                    int64_t y_stride, int64_t n, int64_t n_in, int64_t n_out, int accumulate)
{
    const linear_job job = {.x = x,
                            .weight = weight,
                            .bias = bias,
                            .x_stride = x_stride,
                            .n = n,
                            .n_in = n_in,
                            .y = y,
                            .y_stride = y_stride,
                            .n_blocks = 1,
                            .block_width = n_out,
                            .accumulate = accumulate};
    run_job(&job);
}

void linear_forward_heads(const float *x, int64_t x_stride, const float *weight, const float *bias, float *y, int64_t n,
                          int64_t n_in, int64_t n_heads, int64_t head_dim)
{
    const linear_job job = {.x = x,
                            .weight = weight,
                            .bias = bias,
                            .x_stride = x_stride,
                            .n = n,
                            .n_in = n_in,
                            .y = y,
                            .y_stride = head_dim,
                            .n_blocks = n_heads,
                            .block_width = head_dim,
                            .block_stride = n * head_dim};
    run_job(&job);
}
