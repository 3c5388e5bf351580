/* See trellis_basis.h. */
#include "methods/trellis_basis.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

/* Rows of `a` become its eigenvectors, values [n] its eigenvalues, largest first. */
static rb_status eigen(double *a, double *values, int n, const char *what, rb_error *err)
{
    for (int i = 0; i < n * n; i++)
        if (!isfinite(a[i])) return rb_fail(err, RB_ENONFINITE, "%s is not finite", what);
    if (LAPACKE_dsyev(LAPACK_COL_MAJOR, 'V', 'U', n, a, n, values) != 0)
        return rb_fail(err, RB_ENONFINITE, "%s has no eigenvalues", what);
    for (int i = 0; i < n / 2; i++) {
        const double kept = values[i];
        values[i] = values[n - 1 - i];
        values[n - 1 - i] = kept;
        cblas_dswap(n, a + (size_t)i * (size_t)n, 1, a + (size_t)(n - 1 - i) * (size_t)n, 1);
    }
    return values[0] > 0.0 ? RB_OK : rb_fail(err, RB_ENONFINITE, "%s is 0", what);
}

static void raise_to(double *values, int n, double floor)
{
    for (int i = 0; i < n; i++) values[i] = fmax(values[i], floor * values[0]);
}

/* root = A, inverse = A^-1: sums over the eigenvectors of sqrt(value) v v^T and of v v^T / sqrt(value). */
static void make_roots(double *root, double *inverse, const double *vectors, const double *values, int n)
{
    for (int i = 0; i < n * n; i++) root[i] = inverse[i] = 0.0;
    for (int i = 0; i < n; i++) {
        const double *v = vectors + (size_t)i * (size_t)n;
        cblas_dger(CblasRowMajor, n, n, sqrt(values[i]), v, 1, v, 1, root, n);
        cblas_dger(CblasRowMajor, n, n, 1.0 / sqrt(values[i]), v, 1, v, 1, inverse, n);
    }
}

static void multiply(double *out, const double *a, const double *b, int n)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1.0, a, n, b, n, 0.0, out, n);
}

rb_status trellis_basis_find(double *basis, double *harm, const float *metric, const float *moment, int n,
                             rb_error *err)
{
    const size_t size = (size_t)n * (size_t)n;
    double *work = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&work, 4 * size, sizeof *work, "basis", err), done);
    double *vectors = work, *root = work + size, *inverse = work + 2 * size, *product = work + 3 * size;
    for (size_t i = 0; i < size; i++) vectors[i] = (double)metric[i];
    RB_TRY(st, eigen(vectors, harm, n, "metric of errors", err), done);
    raise_to(harm, n, TRELLIS_METRIC_FLOOR);
    make_roots(root, inverse, vectors, harm, n);
    for (size_t i = 0; i < size; i++) vectors[i] = (double)moment[i];
    multiply(product, root, vectors, n);
    multiply(vectors, product, root, n);
    RB_TRY(st, eigen(vectors, harm, n, "moment of vectors", err), done);
    raise_to(harm, n, TRELLIS_VARIANCE_FLOOR);
    multiply(basis, vectors, inverse, n);
    for (int i = 0; i < n; i++) cblas_dscal(n, sqrt(harm[i]), basis + (size_t)i * (size_t)n, 1);
done:
    free(work);
    return st;
}
