/* How a group's norm is stored.
 *
 * fp16  16 bits, as published (docs/method.md).
 * log8  8 bits: code 0 is norm 0, code c = 1..255 is 2^(exponent - (255 - c) / 16). A step is 4.4 %, so rounding leaves
 *       1.3 % (rms) of the norm as error, less than a group's codes leave up to 6 bits. Codes cover 16 octaves below
 *       2^exponent; smaller norms become 0, larger ones the largest. */
#ifndef RB_KERNELS_REFERENCE_NORM_CODE_H
#define RB_KERNELS_REFERENCE_NORM_CODE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef enum norm_kind { NORM_FP16, NORM_LOG8, NORM_N_KINDS } norm_kind; /* "fp16", "log8" */
extern const char *const norm_kind_names[];                              /* NULL-terminated, for option tables */
bool norm_kind_from_name(const char *name, norm_kind *kind);

enum { NORM_LOG8_STEPS = 16, NORM_LOG8_LARGEST = 255, NORM_MIN_EXPONENT = -126, NORM_MAX_EXPONENT = 126 };

int norm_kind_bits(norm_kind kind);

/* norm >= 0 as it is stored. Fails with RB_ENONFINITE on a norm that is not finite, or that rounds to more than fp16's
 * 65504. */
rb_status norm_encode(uint16_t *stored, norm_kind kind, int exponent, double norm, rb_error *err);
/* The norm that is stored: an f32 value. */
double norm_decode(norm_kind kind, int exponent, uint16_t stored);

#endif
