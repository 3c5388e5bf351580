/* A tile of vectors times a matrix, in double, without a library: sums are taken in one order on every machine, where a
 * BLAS differs in last bits and codes with it, and the codec runs inside programs that have no BLAS. */
#ifndef RB_KERNELS_REFERENCE_TILE_PRODUCT_H
#define RB_KERNELS_REFERENCE_TILE_PRODUCT_H

/* out [n][m] = in [n][n_inner] matrix [n_inner][m], all row by row; out is neither of the others. Element (v, j) is the
 * sum over k = 0, 1, .. of in[v][k] matrix[k][j]. */
void tile_product(double *out, const double *in, const double *matrix, int n, int n_inner, int m);

#endif
