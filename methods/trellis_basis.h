/* The basis of a head of family trellis, from what is known of its vectors and of the harm that errors do.
 *
 * Let C be the second moment of the vectors x and d^T M d the harm of an error d. With A = M^(1/2) and E, L the
 * eigenvectors and eigenvalues of A C A, largest first, the coordinates y = L^(-1/2) E^T A x are uncorrelated and of
 * variance 1, and x = sum_i y_i b_i with b_i = sqrt(L_i) A^-1 e_i. An error c_i of coordinate i does the harm L_i c_i,
 * and harms of coordinates add up: b_i^T M b_j = L_i if i = j, else 0. So bits are given as to independent variables of
 * variance L_i (reverse water-filling), and no other linear transform does better for normal vectors. */
#ifndef RB_METHODS_TRELLIS_BASIS_H
#define RB_METHODS_TRELLIS_BASIS_H

#include "core/status.h"

/* basis [n][n]: row i is b_i; harm [n]: L_i, falling. metric, moment [n][n], symmetric. What is near to 0 in the metric
 * counts as TRELLIS_METRIC_FLOOR of its largest eigenvalue: an error there is not free, only not seen by this text.
 * Variances below TRELLIS_VARIANCE_FLOOR of the largest count as so much: fp16 holds their vectors. Fails with
 * RB_ENONFINITE on numbers that are not finite or a metric or moment of zeroes, RB_ENOMEM. */
rb_status trellis_basis_find(double *basis, double *harm, const float *metric, const float *moment, int n,
                             rb_error *err);

#define TRELLIS_METRIC_FLOOR   1e-4
#define TRELLIS_VARIANCE_FLOOR 1e-8

#endif
