/* Scalar codebooks for a coordinate of a rotated unit vector in R^m (docs/method.md).
 *
 * block-gtq  the published code's, for the law N(0, 1/m). 1 bit: +-sqrt(2/(pi m)). 2 bits: +-0.453, +-1.51 over
 *            sqrt(m). Above: Lloyd started from the conditional means of 2^width cells of equal probability, 100
 *            iterations. That has not converged above 4 bits; it is kept as published.
 * sphere     Lloyd-Max, converged, for the true law: the density is proportional to (1 - y^2)^((m-3)/2) on [-1, 1],
 *            the arcsine law for m = 2. */
#ifndef RB_KERNELS_REFERENCE_CODEBOOK_H
#define RB_KERNELS_REFERENCE_CODEBOOK_H

#include <stdbool.h>

#include "core/status.h"

enum { CODEBOOK_MAX_WIDTH = 8, CODEBOOK_MAX_SIZE = 1 << CODEBOOK_MAX_WIDTH };

typedef enum codebook_kind {
    CODEBOOK_BLOCK_GTQ,
    CODEBOOK_SPHERE,
    CODEBOOK_N_KINDS
} codebook_kind; /* "block-gtq", "sphere" */

typedef struct codebook {
    codebook_kind kind;
    int width, dims, size;                  /* size = 1 << width */
    double centroid[CODEBOOK_MAX_SIZE];     /* ascending, antisymmetric */
    double boundary[CODEBOOK_MAX_SIZE - 1]; /* half way between neighbours, of the f32 values a runtime holds */
    float centroid_f32[CODEBOOK_MAX_SIZE];
} codebook;

extern const char *const codebook_kind_names[]; /* NULL-terminated, for option tables */
const char *codebook_kind_name(codebook_kind kind);
bool codebook_kind_from_name(const char *name, codebook_kind *kind);

/* width 1..8, dims >= 2. */
rb_status codebook_build(codebook *out, codebook_kind kind, int width, int dims, rb_error *err);

/* Number of boundaries < y: the code of a coordinate. */
int codebook_code(const codebook *book, double y);

#endif
