/* See norm_code.h. */
#include "kernels/reference/norm_code.h"

#include <math.h>
#include <string.h>

#include "core/half.h"

enum { FP16_INFINITY = 0x7c00 };

const char *const norm_kind_names[NORM_N_KINDS + 1] = {"fp16", "log8", NULL};

bool norm_kind_from_name(const char *name, norm_kind *kind)
{
    for (int i = 0; i < NORM_N_KINDS; i++)
        if (strcmp(norm_kind_names[i], name) == 0) {
            *kind = (norm_kind)i;
            return true;
        }
    return false;
}

int norm_kind_bits(norm_kind kind) { return kind == NORM_LOG8 ? 8 : 16; }

static uint16_t encode_log8(int exponent, double norm)
{
    const double code = NORM_LOG8_LARGEST + NORM_LOG8_STEPS * (log2(norm) - exponent); /* -inf for 0 */
    if (!(code >= 0.5)) return 0;
    return code >= NORM_LOG8_LARGEST ? NORM_LOG8_LARGEST : (uint16_t)(code + 0.5);
}

rb_status norm_encode(uint16_t *stored, norm_kind kind, int exponent, double norm, rb_error *err)
{
    if (!isfinite(norm)) return rb_fail(err, RB_ENONFINITE, "a value is not finite");
    if (kind == NORM_LOG8) {
        *stored = encode_log8(exponent, norm);
        return RB_OK;
    }
    *stored = rb_f32_to_f16((float)norm);
    return *stored != FP16_INFINITY
               ? RB_OK
               : rb_fail(err, RB_ENONFINITE, "norm %.9g does not fit fp16, expected 65504 at most", norm);
}

double norm_decode(norm_kind kind, int exponent, uint16_t stored)
{
    if (kind == NORM_FP16) return (double)rb_f16_to_f32(stored);
    return stored == 0 ? 0.0 : (double)(float)exp2(exponent - (double)(NORM_LOG8_LARGEST - stored) / NORM_LOG8_STEPS);
}
