/* IEEE fp16 and bfloat16 as uint16_t bit patterns: exact conversions, round to nearest even on the way down. */
#ifndef RB_CORE_HALF_H
#define RB_CORE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float rb_f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t rb_f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float rb_bf16_to_f32(uint16_t bits) { return rb_f32_from_bits((uint32_t)bits << 16); }

static inline uint16_t rb_f32_to_bf16(float x)
{
    const uint32_t bits = rb_f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u); /* NaN, quiet */
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float rb_f16_to_f32(uint16_t bits)
{
    /* Shift exponent and mantissa into place, then scale by 2^112 to move the bias from 15 to 127; subnormals come out
     * exact. Infinity and NaN would come out as finite numbers of 2^16 and up: give them their exponent back. */
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const float scaled = rb_f32_from_bits((uint32_t)(bits & 0x7fffu) << 13) * 0x1p112f;
    uint32_t out = rb_f32_bits(scaled);
    if ((bits & 0x7c00u) == 0x7c00u) out |= 0x7f800000u;
    return rb_f32_from_bits(out | sign);
}

static inline uint16_t rb_f32_to_f16(float x)
{
    const uint32_t bits = rb_f32_bits(x);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);  /* NaN, quiet */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up round to infinity */
    if (magnitude < 0x38800000u) {
        /* Below 2^-14: adding 0.5 makes the FPU align and round the subnormal into the low mantissa bits. */
        const float shifted = rb_f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (rb_f32_bits(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

#endif
