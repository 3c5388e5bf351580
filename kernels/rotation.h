/* Orthogonal transforms ahead of the codebook.
 *
 * haar: G = default_rng(seed).standard_normal((m, m)), QR by LAPACK, columns of Q times the signs of diag(R), first column negated when
 * det < 0 (design.md, section 2). y = R u, u = R^T y, R row-major [m][m]. m = 1 gives [[1]]. */
#ifndef RB_KERNELS_ROTATION_H
#define RB_KERNELS_ROTATION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef enum rotation_kind { ROTATION_HAAR, ROTATION_N_KINDS } rotation_kind;   /* "haar" */

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
