/* See quantizer_blocks.h. */
#include "export/runtimes/quantizer_blocks.h"

#include <math.h>

#include "core/half.h"

enum { N_IQ4_NL = 16, N_E2M1 = 8 };
#define FP8_MAX  448.0f
#define E2M1_MAX 6.0f

static float fp16(float x) { return rb_f16_to_f32(rb_f32_to_f16(x)); }

static float largest_magnitude(const float *x, int n)
{
    float largest = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    return largest;
}

/* The number of largest magnitude, the first of equals. */
static float extreme_of(const float *x, int n)
{
    float extreme = 0.0f;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    return extreme;
}

static void range_of(const float *x, int n, float *least, float *largest)
{
    *least = *largest = x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < *least) *least = x[i];
        if (x[i] > *largest) *largest = x[i];
    }
}

static float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

static float inverse(float x) { return x != 0.0f ? 1.0f / x : 0.0f; }

/* ---- floating point -------------------------------------------------------------------------- */

void block_fp16(float *x, int n, const block_context *context)
{
    (void)context;
    for (int i = 0; i < n; i++) x[i] = fp16(x[i]);
}

float fp8_e4m3_round(float x)
{
    int exponent;
    if (x == 0.0f) return x;
    frexpf(x, &exponent);                                                 /* |x| in [2^(exponent-1), 2^exponent) */
    const float step = ldexpf(1.0f, (exponent < -5 ? -5 : exponent) - 4); /* 3 bits below the leading one, from 2^-6 */
    return clamp(rintf(x / step) * step, -FP8_MAX, FP8_MAX);
}

void block_fp8(float *x, int n, const block_context *context)
{
    const float scale = context->tensor_scale != 0.0f ? context->tensor_scale : 1.0f;
    for (int i = 0; i < n; i++) x[i] = fp8_e4m3_round(x[i] / scale) * scale;
}

static float e2m1_round(float x)
{
    static const float levels[N_E2M1] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
    int best = 0;
    for (int i = 1; i < N_E2M1; i++)
        if (fabsf(fabsf(x) - levels[i]) < fabsf(fabsf(x) - levels[best])) best = i;
    return copysignf(levels[best], x);
}

void block_nvfp4(float *x, int n, const block_context *context)
{
    const float whole = context->tensor_scale,
                scale = whole * fp8_e4m3_round(largest_magnitude(x, n) / E2M1_MAX * inverse(whole)),
                inverse_scale = inverse(scale);
    for (int i = 0; i < n; i++) x[i] = e2m1_round(x[i] * inverse_scale) * scale;
}

/* ---- ggml ------------------------------------------------------------------------------------ */

void block_extreme(float *x, int n, const block_context *context)
{
    const float half = (float)(1 << (context->width - 1)), d = extreme_of(x, n) / -half, stored = fp16(d),
                inverse_d = inverse(d);
    for (int i = 0; i < n; i++) {
        const float code = truncf(x[i] * inverse_d + half + 0.5f);
        x[i] = (clamp(code, 0.0f, 2.0f * half - 1.0f) - half) * stored;
    }
}

void block_largest(float *x, int n, const block_context *context)
{
    const float d = largest_magnitude(x, n) / (float)((1 << (context->width - 1)) - 1), stored = fp16(d),
                inverse_d = inverse(d);
    for (int i = 0; i < n; i++) x[i] = roundf(x[i] * inverse_d) * stored;
}

void block_range(float *x, int n, const block_context *context)
{
    const float steps = (float)((1 << context->width) - 1);
    float least, largest;
    range_of(x, n, &least, &largest);
    const float d = (largest - least) / steps, stored = fp16(d), stored_least = fp16(least), inverse_d = inverse(d);
    for (int i = 0; i < n; i++)
        x[i] = clamp(truncf((x[i] - least) * inverse_d + 0.5f), 0.0f, steps) * stored + stored_least;
}

/* The levels of iq4_nl, a fact of its format. */
static const float iq4_nl_levels[N_IQ4_NL] = {-127.0f, -104.0f, -83.0f, -65.0f, -49.0f, -35.0f, -22.0f, -10.0f,
                                              1.0f,    13.0f,   25.0f,  38.0f,  53.0f,  69.0f,  89.0f,  113.0f};

static float nearest_iq4_nl(float x)
{
    int best = 0;
    for (int i = 1; i < N_IQ4_NL; i++)
        if (fabsf(x - iq4_nl_levels[i]) < fabsf(x - iq4_nl_levels[best])) best = i;
    return iq4_nl_levels[best];
}

/* The scale that errs least with these codes, the numbers weighed by their squares. */
void block_iq4_nl(float *x, int n, const block_context *context)
{
    const float first = extreme_of(x, n) / iq4_nl_levels[0], inverse_first = inverse(first);
    float with_x = 0.0f, with_itself = 0.0f;
    (void)context;
    for (int i = 0; i < n; i++) {
        const float level = nearest_iq4_nl(x[i] * inverse_first), weight = x[i] * x[i];
        with_x += weight * level * x[i];
        with_itself += weight * level * level;
    }
    const float stored = fp16(with_itself > 0.0f ? with_x / with_itself : first);
    for (int i = 0; i < n; i++) x[i] = nearest_iq4_nl(x[i] * inverse_first) * stored;
}

/* ---- the others ------------------------------------------------------------------------------ */

void block_midrise(float *x, int n, const block_context *context)
{
    const float half = (float)(1 << (context->width - 1)), largest = largest_magnitude(x, n) + 1e-10f,
                step = fp16(largest) / half, inverse_largest = 1.0f / largest;
    for (int i = 0; i < n; i++) {
        const float code = floorf(x[i] * inverse_largest * half + half);
        x[i] = (clamp(code, 0.0f, 2.0f * half - 1.0f) - half + 0.5f) * step;
    }
}

void block_edge(float *x, int n, const block_context *context)
{
    const float steps = (float)((1 << context->width) - 1);
    float least, largest, scale, bias = 0.0f;
    range_of(x, n, &least, &largest);
    const bool is_least = fabsf(least) > fabsf(largest);
    const float edge = is_least ? least : largest;
    scale = fmaxf((largest - least) / steps, 1e-7f);
    if (!is_least) scale = -scale;
    const float whole = rintf(edge / scale); /* steps from zero to the edge */
    if (whole != 0.0f) {
        scale = edge / whole;
        bias = edge;
    }
    const float stored = fp16(scale), stored_bias = fp16(bias);
    for (int i = 0; i < n; i++) x[i] = clamp(rintf((x[i] - bias) / scale), 0.0f, steps) * stored + stored_bias;
}

void block_whole_steps(float *x, int n, const block_context *context)
{
    const float steps = (float)((1 << context->width) - 1);
    float least, largest;
    range_of(x, n, &least, &largest);
    const float scale = fp16(fmaxf(largest - least, 1e-5f) / steps), zero = fp16(rintf(least / scale));
    for (int i = 0; i < n; i++) x[i] = (clamp(rintf(x[i] / scale - zero), 0.0f, steps) + zero) * scale;
}

void block_direction(float *x, int n, const block_context *context)
{
    double norm = 0.0, of_centroids = 0.0;
    for (int i = 0; i < n; i++) norm += (double)x[i] * (double)x[i];
    norm = sqrt(norm);
    for (int i = 0; i < n; i++) {
        x[i] = context->book->centroid_f32[codebook_code(context->book, (double)x[i] / (norm + 1e-8))];
        of_centroids += (double)x[i] * (double)x[i];
    }
    const float scale = fp16((float)norm) / (float)sqrt(of_centroids);
    for (int i = 0; i < n; i++) x[i] *= scale;
}
