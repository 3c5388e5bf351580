/* Rotations from numpy's random stream, haar by LAPACK's QR and hadamard by butterflies: see
 * kernels/reference/rotation.h. */
#include "kernels/reference/rotation.h"

#include <lapacke.h>
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

/* Q of G = QR in place, its columns times the signs of diag(R). The determinant of LAPACK's Q is the product of those
 * of its reflections: -1 for each that is not the identity. */
static lapack_int orthogonalise(double *matrix, double *tau, double *sign, bool *is_reflection, int m)
{
    lapack_int info = LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, m, m, matrix, m, tau);
    if (info != 0) return info;
    *is_reflection = false;
    for (int i = 0; i < m; i++) {
        sign[i] = matrix[(size_t)i * (size_t)m + (size_t)i] < 0.0 ? -1.0 : 1.0;
        *is_reflection ^= (tau[i] != 0.0) ^ (sign[i] < 0.0);
    }
    return LAPACKE_dorgqr(LAPACK_ROW_MAJOR, m, m, m, matrix, m, tau);
}

static rb_status build_haar(double *matrix, uint64_t seed, int m, rb_error *err)
{
    double *tau = NULL, *sign = NULL;
    bool is_reflection = false;
    numpy_rng rng;
    rb_status st;

    RB_TRY(st, rb_alloc(&tau, (size_t)m, sizeof *tau, "rotation", err), done);
    RB_TRY(st, rb_alloc(&sign, (size_t)m, sizeof *sign, "rotation", err), done);
    numpy_rng_seed(&rng, seed);
    numpy_rng_standard_normal(&rng, matrix, (size_t)m * (size_t)m);
    const lapack_int info = orthogonalise(matrix, tau, sign, &is_reflection, m);
    if (info != 0) {
        st = rb_fail(err, RB_EINVAL, "rotation of %d dims, seed %llu: LAPACK's QR failed with code %d", m,
                     (unsigned long long)seed, (int)info);
        goto done;
    }
    if (is_reflection) sign[0] = -sign[0];
    for (int row = 0; row < m; row++)
        for (int column = 0; column < m; column++) matrix[(size_t)row * (size_t)m + (size_t)column] *= sign[column];
done:
    free(tau);
    free(sign);
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
