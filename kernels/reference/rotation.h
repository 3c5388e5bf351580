/* Orthogonal transforms before the codebook: y = R u, u = R^T y, R row-major [m][m].
 *
 * haar: G = default_rng(seed).standard_normal((m, m)), QR by Householder's reflections with the signs of LAPACK, as
 * numpy has it, columns of Q times the signs of diag(R), and the first column negated when det < 0 (docs/method.md).
 * m = 1 gives [[1]].
 *
 * hadamard: the randomized Hadamard transform, m log m steps where one does not multiply by the matrix. With
 *      H_p[i][j] = (-1)^popcount(i & j)
 * and signs s[j] = -1 where default_rng(seed).standard_normal(n)[j] < 0, else 1:
 *   m = p, a power of two      n = m,   R = H_p / sqrt(p) * diag(s)
 *   else, p the largest below  n = 2m,  R = B2 * diag(s[m..2m)) * B1 * diag(s[0..m)),
 *                              B1 is H_p / sqrt(p) on the first p dims, B2 on the last p
 * The determinant may be 1 or -1. Every element is a whole number over p, or 0, or +-1 / sqrt(p), so any program gets
 * the same bits. */
#ifndef RB_KERNELS_REFERENCE_ROTATION_H
#define RB_KERNELS_REFERENCE_ROTATION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef enum rotation_kind {
    ROTATION_HAAR,
    ROTATION_HADAMARD,
    ROTATION_N_KINDS
} rotation_kind;                                /* "haar", "hadamard" */
extern const char *const rotation_kind_names[]; /* NULL-terminated, for option tables */

typedef struct rotation_spec {
    rotation_kind kind;
    uint64_t seed;
    int dims;
} rotation_spec;

const char *rotation_kind_name(rotation_kind kind);
bool rotation_kind_from_name(const char *name, rotation_kind *kind);

/* matrix [dims][dims], caller's. */
rb_status rotation_build(double *matrix, const rotation_spec *spec, rb_error *err);

#endif
