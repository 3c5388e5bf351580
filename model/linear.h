/* y = x W^T + bias on fixed tiles. The grid of tiles depends only on the shape, and each tile is one sgemm in one
 * thread. */
#ifndef RB_MODEL_LINEAR_H
#define RB_MODEL_LINEAR_H

#include <stdint.h>

/* x [n][n_in] row stride x_stride, weight [n_out][n_in], bias [n_out] or NULL, y [n][n_out] row stride y_stride;
 * accumulate: y += instead of y =. */
void linear_forward(const float *x, int64_t x_stride, const float *weight, const float *bias, float *y,
                    int64_t y_stride, int64_t n, int64_t n_in, int64_t n_out, int accumulate);

/* The same product with the outputs laid out by head, as attention wants them: weight [n_heads * head_dim][n_in], bias
 * [n_heads * head_dim] or NULL, y [n_heads][n][head_dim]. */
void linear_forward_heads(const float *x, int64_t x_stride, const float *weight, const float *bias, float *y, int64_t n,
                          int64_t n_in, int64_t n_heads, int64_t head_dim);

#endif
