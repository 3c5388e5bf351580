/* See vector_math.h.
 *
 * exp follows Cephes expf (Moshier, netlib.org/cephes): x = n ln2 + r with ln2 in two parts so that n * LN2_HIGH is
 * exact, a polynomial for exp(r) on |r| <= ln2 / 2, then the exponent bits for 2^n. Nothing branches, so `omp simd`
 * turns the loops into AVX-512 or AVX2. n is found by adding 1.5 * 2^23, whose unit in the last place is 1: the
 * addition rounds, and n sits in the low mantissa bits. */
#include "model/vector_math.h"

#include <math.h>

#include "core/half.h"
#include "core/threads.h"

#define EXP_LIMIT    87.0f /* 2^n stays a normal number for |x| up to here */
#define LOG2_E       1.44269504088896341f
#define LN2_HIGH     0.693359375f
#define LN2_LOW      (-2.12194440e-4f)
#define ROUND_TO_INT 12582912.0f

/* exp(x) for x clamped to +-EXP_LIMIT. The comparisons are written so that a NaN passes through. */
static inline float exp_clamped(float x)
{
    x = x < -EXP_LIMIT ? -EXP_LIMIT : x;
    x = x > EXP_LIMIT ? EXP_LIMIT : x;

    const float shifted = x * LOG2_E + ROUND_TO_INT;
    const float n = shifted - ROUND_TO_INT;
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;

    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;

    /* Shifting by 23 leaves the low bits of n + 127 in the exponent field; the rest of `shifted` falls off the top. */
    return p * rb_f32_from_bits((rb_f32_bits(shifted) + 127u) << 23);
}

RB_CPU_CLONES void rms_norm_row(float *out, const float *x, const float *weight, float eps, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];

    const float inverse = 1.0f / sqrtf(sum / (float)n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = weight[i] * (x[i] * inverse);
}

RB_CPU_CLONES void layer_norm_row(float *out, const float *x, const float *weight, const float *bias, float eps,
                                  int64_t n)
{
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    const float mean = sum / (float)n;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    const float inverse = 1.0f / sqrtf(squares / (float)n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

RB_CPU_CLONES float square_sum_row(const float *x, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum;
}

RB_CPU_CLONES void silu_row(float *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = x[i] / (1.0f + exp_clamped(-x[i]));
}

void gelu_row(float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
}

/* (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u)). */
RB_CPU_CLONES void gelu_tanh_row(float *x, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const float u = 0.79788456080286536f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exp_clamped(-2.0f * u));
    }
}

RB_CPU_CLONES void multiply_row(float *x, const float *y, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] *= y[i];
}

RB_CPU_CLONES void add_scaled_row(float *x, const float *y, float factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] += factor * y[i];
}

/* tanh(u) = 1 - 2 / (exp(2 u) + 1). */
RB_CPU_CLONES void softcap_row(float *x, float cap, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) x[i] = cap * (1.0f - 2.0f / (exp_clamped(2.0f * x[i] / cap) + 1.0f));
}

RB_CPU_CLONES void swiglu_row(float *gate, const float *up, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + exp_clamped(-gate[i])) * up[i];
}

RB_CPU_CLONES float exp_sum_row(float *x, float shift, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const float distance = x[i] - shift;
        const float e = distance < -EXP_LIMIT ? 0.0f : exp_clamped(distance);
        x[i] = e;
        sum += e;
    }
    return sum;
}

RB_CPU_CLONES float max_row(const float *x, int64_t n)
{
    float largest = x[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

RB_CPU_CLONES void scale_row(float *out, const float *x, float factor, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = factor * x[i];
}
