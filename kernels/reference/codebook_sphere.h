/* The Lloyd-Max codebook for a coordinate of a uniform unit vector in R^m. */
#ifndef RB_KERNELS_REFERENCE_CODEBOOK_SPHERE_H
#define RB_KERNELS_REFERENCE_CODEBOOK_SPHERE_H

#include "core/status.h"

/* The `half` positive centroids, ascending, of 2 * half for the density proportional to (1 - y^2)^((m-3)/2) on [-1, 1];
 * half is a power of two up to 128. The residual of the fixed point (each centroid is its cell's conditional mean) is
 * below 1e-13. Fails with RB_EINVAL should it not get there. */
rb_status sphere_upper_half(double *centroid, int half, int dims, rb_error *err);

#endif
