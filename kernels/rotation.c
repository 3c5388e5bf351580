/* Haar rotations from numpy's random stream and LAPACK's QR: see kernels/rotation.h. */
#include "kernels/rotation.h"

#include <lapacke.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/numpy_random.h"

enum { MAX_DIMS = 4096 };

static const char *const kind_names[ROTATION_N_KINDS] = {"haar"};

const char *rotation_kind_name(rotation_kind kind) { return kind_names[kind]; }

bool rotation_kind_from_name(const char *name, rotation_kind *kind)
{
    for (int i = 0; i < ROTATION_N_KINDS; i++)
        if (strcmp(kind_names[i], name) == 0) {
            *kind = (rotation_kind)i;
            return true;
        }
    return false;
}

/* Q of G = QR in place, its columns times the signs of diag(R). The determinant of LAPACK's Q is the product of those of its reflections: -1 for
 * each that is not the identity. */
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

rb_status rotation_build(double *matrix, const rotation_spec *spec, rb_error *err)
{
    const int m = spec->dims;
    double *tau = NULL, *sign = NULL;
    bool is_reflection = false;
    numpy_rng rng;
    rb_status st;

    if (spec->kind != ROTATION_HAAR) return rb_fail(err, RB_EINVAL, "rotation kind is %d, expected one of %d", (int)spec->kind, ROTATION_N_KINDS);
    if (m < 1 || m > MAX_DIMS) return rb_fail(err, RB_EINVAL, "rotation of %d dims, expected 1 to %d", m, MAX_DIMS);
    RB_TRY(st, rb_alloc(&tau, (size_t)m, sizeof *tau, "rotation", err), done);
    RB_TRY(st, rb_alloc(&sign, (size_t)m, sizeof *sign, "rotation", err), done);
    numpy_rng_seed(&rng, spec->seed);
    numpy_rng_standard_normal(&rng, matrix, (size_t)m * (size_t)m);
    const lapack_int info = orthogonalise(matrix, tau, sign, &is_reflection, m);
    if (info != 0) {
        st = rb_fail(err, RB_EINVAL, "rotation of %d dims, seed %llu: LAPACK's QR failed with code %d", m, (unsigned long long)spec->seed, (int)info);
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
