/* Rotations from numpy's random stream, haar by Householder's QR and hadamard by butterflies: see
 * kernels/reference/rotation.h. */
#include "kernels/reference/rotation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/reference/numpy_random.h"

enum { MAX_DIMS = 4096 };

const char *const rotation_kind_names[ROTATION_N_KINDS + 1] = {"haar", "hadamard", NULL};

const char *rotation_kind_name(rotation_kind kind) { return rotation_kind_names[kind]; }

bool rotation_kind_from_name(const char *name, rotation_kind *kind)
{
    for (int i = 0; i < ROTATION_N_KINDS; i++)
        if (strcmp(rotation_kind_names[i], name) == 0) {
            *kind = (rotation_kind)i;
            return true;
        }
    return false;
}

/* ---- haar ------------------------------------------------------------------------------------ */

/* Householder's QR, with LAPACK's conventions (dgeqrf, dorgqr), which numpy has: reflection i is I - tau v v^T with
 * v[i] = 1, it brings column i to a multiple of unit vector i whose sign is against the column's own number there, and
 * Q is the product of all. A library differs in last bits from machine to machine, and rotations with it; these loops,
 * whose order is fixed, do not.
 *
 * Both matrices are [m][m], row by row. */

/* Makes reflection i out of column i: v below the diagonal, the multiple on it. Returns tau, 0 where nothing is to be
 * reflected. */
static double make_reflection(double *a, int m, int i)
{
    double square = 0.0;
    for (int row = i + 1; row < m; row++)
        square += a[(size_t)row * (size_t)m + (size_t)i] * a[(size_t)row * (size_t)m + (size_t)i];
    if (square == 0.0) return 0.0;
    double *diagonal = a + (size_t)i * (size_t)m + (size_t)i;
    const double alpha = *diagonal, beta = -copysign(sqrt(alpha * alpha + square), alpha);
    for (int row = i + 1; row < m; row++) a[(size_t)row * (size_t)m + (size_t)i] /= alpha - beta;
    *diagonal = beta;
    return (beta - alpha) / beta;
}

/* x <- (I - tau v v^T) x for columns [first, m) of x, v as make_reflection left it in column i of a. sums [m]. */
static void reflect(double *x, const double *a, double tau, int m, int i, int first, double *sums)
{
    memcpy(sums + first, x + (size_t)i * (size_t)m + (size_t)first, (size_t)(m - first) * sizeof *sums);
    for (int row = i + 1; row < m; row++) {
        const double v = a[(size_t)row * (size_t)m + (size_t)i], *at = x + (size_t)row * (size_t)m;
        for (int column = first; column < m; column++) sums[column] += v * at[column];
    }
    for (int row = i; row < m; row++) {
        const double v = tau * (row == i ? 1.0 : a[(size_t)row * (size_t)m + (size_t)i]);
        double *at = x + (size_t)row * (size_t)m;
        for (int column = first; column < m; column++) at[column] -= v * sums[column];
    }
}

/* q <- Q of a = QR, its columns times the signs of diag(R), and the first by -1 more where Q is a reflection: every
 * step that is not the identity is one, and so is every sign. a is lost. */
static void orthogonalise(double *q, double *a, int m, double *tau, double *sums)
{
    bool is_reflection = false;
    for (int i = 0; i < m; i++) {
        tau[i] = make_reflection(a, m, i);
        if (tau[i] != 0.0) reflect(a, a, tau[i], m, i, i + 1, sums);
        is_reflection ^= (tau[i] != 0.0) ^ (a[(size_t)i * (size_t)m + (size_t)i] < 0.0);
    }
    memset(q, 0, (size_t)m * (size_t)m * sizeof *q);
    for (int i = m - 1; i >= 0; i--) {
        q[(size_t)i * (size_t)m + (size_t)i] = 1.0;
        if (tau[i] != 0.0) reflect(q, a, tau[i], m, i, i, sums);
    }
    for (int column = 0; column < m; column++) {
        const bool is_negative =
            (a[(size_t)column * (size_t)m + (size_t)column] < 0.0) ^ (column == 0 && is_reflection);
        for (int row = 0; is_negative && row < m; row++)
            q[(size_t)row * (size_t)m + (size_t)column] = -q[(size_t)row * (size_t)m + (size_t)column];
    }
}

static rb_status build_haar(double *matrix, uint64_t seed, int m, rb_error *err)
{
    double *normals = NULL, *tau = NULL, *sums = NULL;
    numpy_rng rng;
    rb_status st;
    RB_TRY(st, rb_alloc(&normals, (size_t)m * (size_t)m, sizeof *normals, "rotation", err), done);
    RB_TRY(st, rb_alloc(&tau, (size_t)m, sizeof *tau, "rotation", err), done);
    RB_TRY(st, rb_alloc(&sums, (size_t)m, sizeof *sums, "rotation", err), done);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, (size_t)m * (size_t)m);
    orthogonalise(matrix, normals, m, tau, sums);
done:
    free(normals);
    free(tau);
    free(sums);
    return st;
}

/* ---- hadamard -------------------------------------------------------------------------------- */

static int power_of_two_up_to(int m)
{
    int p = 1;
    while (p <= m / 2) p *= 2;
    return p;
}

/* Rows first .. first + p - 1 of the matrix become H_p times them. */
static void butterflies(double *matrix, int m, int first, int p)
{
    for (int half = 1; half < p; half *= 2)
        for (int i = 0; i < p; i++) {
            if (i & half) continue;
            double *a = matrix + (size_t)(first + i) * (size_t)m, *b = a + (size_t)half * (size_t)m;
            for (int column = 0; column < m; column++) {
                const double sum = a[column] + b[column], difference = a[column] - b[column];
                a[column] = sum;
                b[column] = difference;
            }
        }
}

/* Every row whose normal is below 0. Subtracting keeps a zero a plain zero. */
static void change_signs(double *matrix, int m, const double *normals)
{
    for (int row = 0; row < m; row++) {
        if (normals[row] >= 0.0) continue;
        double *at = matrix + (size_t)row * (size_t)m;
        for (int column = 0; column < m; column++) at[column] = 0.0 - at[column];
    }
}

/* Whole numbers all the way, so exact; how often 1 / sqrt(p) applies to an element follows from the steps it took part
 * in. */
static rb_status build_hadamard(double *matrix, uint64_t seed, int m, rb_error *err)
{
    const int p = power_of_two_up_to(m);
    const bool is_overlapped = p < m;
    const double scale[3] = {1.0, 1.0 / sqrt(p), 1.0 / p}; /* by the number of steps */
    double *normals = NULL;
    numpy_rng rng;
    rb_status st = rb_alloc(&normals, 2 * (size_t)m, sizeof *normals, "rotation", err);
    if (st != RB_OK) return st;
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, normals, (is_overlapped ? 2 : 1) * (size_t)m);
    memset(matrix, 0, (size_t)m * (size_t)m * sizeof *matrix);
    for (int i = 0; i < m; i++) matrix[(size_t)i * (size_t)m + (size_t)i] = 1.0;
    change_signs(matrix, m, normals);
    butterflies(matrix, m, 0, p);
    if (is_overlapped) {
        change_signs(matrix, m, normals + m);
        butterflies(matrix, m, m - p, p);
    }
    for (int row = 0; row < m; row++)
        for (int column = 0; column < m; column++)
            matrix[(size_t)row * (size_t)m + (size_t)column] *= scale[(column < p) + (is_overlapped && row >= m - p)];
    free(normals);
    return RB_OK;
}

/* ---- either ---------------------------------------------------------------------------------- */

rb_status rotation_build(double *matrix, const rotation_spec *spec, rb_error *err)
{
    if (spec->dims < 1 || spec->dims > MAX_DIMS)
        return rb_fail(err, RB_EINVAL, "rotation of %d dims, expected 1 to %d", spec->dims, MAX_DIMS);
    switch (spec->kind) {
    case ROTATION_HAAR: return build_haar(matrix, spec->seed, spec->dims, err);
    case ROTATION_HADAMARD: return build_hadamard(matrix, spec->seed, spec->dims, err);
    case ROTATION_N_KINDS: break;
    }
    return rb_fail(err, RB_EINVAL, "rotation kind is %d, expected 0 to %d", (int)spec->kind, ROTATION_N_KINDS - 1);
}
