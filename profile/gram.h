/* Sums of x x^T over the rows x of a matrix, and a factor of such a sum. */
#ifndef RB_PROFILE_GRAM_H
#define RB_PROFILE_GRAM_H

#include <stdint.h>

#include "core/status.h"

/* out [dim][dim] = scale * sum over rows of x x^T, x [n_rows][dim]: products in f32 over stretches of rows, sums of
 * them in double. Symmetric bit for bit; the same for any number of threads. */
void gram_matrix(float *out, const float *x, int64_t n_rows, int dim, double scale);

/* factor [n][n], zero above the diagonal: factor factor^T = gram up to rounding, gram [n][n] symmetric and positive
 * semidefinite up to rounding. Cholesky's, in double; a column whose pivot is rounding only is zero, so that a gram of
 * less than full rank has a factor too. */
rb_status gram_factor(float *factor, const float *gram, int n, rb_error *err);

#endif
