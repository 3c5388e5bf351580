/* See runtime_quantizer.h. */
#include "export/runtimes/runtime_quantizer.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "export/runtimes/quantizer_blocks.h"
#include "kernels/reference/numpy_random.h"

enum { LEAST_ROTATED = 64, MAX_GROUP_TOKENS = 256, N_NORMAL_VECTORS = 256, NORMAL_SEED = 1 };
#define FP8_LARGEST 448.0f
#define FP4_LARGEST 6.0f

/* A row a kind: what it does to a group, the bits of its scales, and what the largest number of all vectors is divided
 * by to give their common scale (0: none). */
static const struct quantizer_functions {
    void (*restore)(float *x, int n, const block_context *context);
    int scale_bits;
    float largest_code;
} functions[QUANTIZER_N_KINDS] = {
    [QUANTIZER_FP16] = {block_fp16, 0, 0.0f},
    [QUANTIZER_FP8] = {block_fp8, 0, 0.0f},
    [QUANTIZER_FP8_SCALED] = {block_fp8, 0, FP8_LARGEST},
    [QUANTIZER_NVFP4] = {block_nvfp4, 8, FP8_LARGEST *FP4_LARGEST},
    [QUANTIZER_EXTREME] = {block_extreme, 16, 0.0f},
    [QUANTIZER_LARGEST] = {block_largest, 16, 0.0f},
    [QUANTIZER_RANGE] = {block_range, 32, 0.0f},
    [QUANTIZER_IQ4_NL] = {block_iq4_nl, 16, 0.0f},
    [QUANTIZER_MIDRISE] = {block_midrise, 16, 0.0f},
    [QUANTIZER_EDGE] = {block_edge, 32, 0.0f},
    [QUANTIZER_WHOLE_STEPS] = {block_whole_steps, 32, 0.0f},
    [QUANTIZER_DIRECTION] = {block_direction, 16, 0.0f},
};

static bool is_power_of_two(int n) { return n > 0 && (n & (n - 1)) == 0; }

static int group_of(const runtime_quantizer *q, int dims) { return q->group > 0 ? q->group : dims; }

int runtime_quantizer_rotated(const runtime_quantizer *q, int dims)
{
    int block = LEAST_ROTATED;
    switch (q->rotation) {
    case ROTATE_NOTHING: return 1;
    case ROTATE_GROUP: return group_of(q, dims);
    case ROTATE_64: return dims % LEAST_ROTATED == 0 ? LEAST_ROTATED : 1;
    case ROTATE_LARGEST:
        if (dims % block != 0) return 1;
        while (dims % (2 * block) == 0) block *= 2;
        return block;
    case ROTATE_POWER_OF_TWO: return is_power_of_two(dims) ? dims : 1;
    }
    return 1;
}

bool runtime_quantizer_fits(const runtime_quantizer *q, int dims)
{
    if (q->along_tokens) return true;
    return dims % group_of(q, dims) == 0 && is_power_of_two(runtime_quantizer_rotated(q, dims));
}

int runtime_quantizer_bits(const runtime_quantizer *q, int dims)
{
    return q->width * dims + functions[q->kind].scale_bits * dims / group_of(q, dims);
}

/* y = H x / sqrt(n) for every block of n dims; it is its own inverse. */
static void hadamard(float *x, int64_t n_numbers, int n)
{
    const float scale = (float)(1.0 / sqrt(n));
    for (float *block = x; n > 1 && block < x + n_numbers; block += n) {
        for (int half = 1; half < n; half *= 2)
            for (int i = 0; i < n; i++)
                if (!(i & half)) {
                    const float a = block[i], b = block[i + half];
                    block[i] = a + b;
                    block[i + half] = a - b;
                }
        for (int i = 0; i < n; i++) block[i] *= scale;
    }
}

static float largest_of(const float *x, int64_t n)
{
    float largest = 0.0f;
    for (int64_t i = 0; i < n; i++)
        if (fabsf(x[i]) > largest) largest = fabsf(x[i]);
    return largest;
}

static void restore_dims(const runtime_quantizer *q, float *x, int64_t n_tokens, int dims, const block_context *context)
{
    const int group = group_of(q, dims);
    for (float *at = x; at < x + n_tokens * dims; at += group) functions[q->kind].restore(at, group, context);
}

/* The whole groups of tokens of one sequence. */
static void restore_tokens(const runtime_quantizer *q, float *x, int64_t n_tokens, int dims,
                           const block_context *context)
{
    float group[MAX_GROUP_TOKENS];
    assert(q->group > 0 && q->group <= MAX_GROUP_TOKENS);
    for (int64_t first = 0; first + q->group <= n_tokens; first += q->group)
        for (int i = 0; i < dims; i++) {
            for (int t = 0; t < q->group; t++) group[t] = x[(first + t) * dims + i];
            functions[q->kind].restore(group, q->group, context);
            for (int t = 0; t < q->group; t++) x[(first + t) * dims + i] = group[t];
        }
}

static rb_status check_finite(const float *x, int64_t n_tokens, int dims, rb_error *err)
{
    for (int64_t i = 0; i < n_tokens * dims; i++)
        if (!isfinite(x[i]))
            return rb_fail(err, RB_ENONFINITE, "vector %lld: what comes back is not finite: beyond a scale's range",
                           (long long)(i / dims));
    return RB_OK;
}

rb_status runtime_quantizer_restore(const runtime_quantizer *q, const float *x, int64_t n_tokens, int dims,
                                    int64_t context, codec_tables *tables, float *x_hat, rb_error *err)
{
    const int rotated = runtime_quantizer_rotated(q, dims);
    const float largest_code = functions[q->kind].largest_code;
    block_context block = {.width = q->width};
    if (q->kind == QUANTIZER_DIRECTION) {
        const rb_status st = codec_tables_codebook(tables, CODEBOOK_BLOCK_GTQ, q->width, dims, &block.book, err);
        if (st != RB_OK) return st;
    }
    if (x_hat != x) memcpy(x_hat, x, (size_t)(n_tokens * dims) * sizeof *x);
    hadamard(x_hat, n_tokens * dims, rotated);
    if (largest_code > 0.0f) block.tensor_scale = largest_of(x_hat, n_tokens * dims) / largest_code;
    if (!q->along_tokens) restore_dims(q, x_hat, n_tokens, dims, &block);
    for (int64_t first = 0; q->along_tokens && first < n_tokens; first += context)
        restore_tokens(q, x_hat + first * dims, n_tokens - first < context ? n_tokens - first : context, dims, &block);
    hadamard(x_hat, n_tokens * dims, rotated);
    return check_finite(x_hat, n_tokens, dims, err);
}

rb_status runtime_quantizer_distortion(double *out, const runtime_quantizer *q, int dims, codec_tables *tables,
                                       rb_error *err)
{
    const int n = N_NORMAL_VECTORS * dims;
    double *normal = NULL, error = 0.0, size = 0.0;
    float *x = NULL, *x_hat = NULL;
    numpy_rng rng;
    rb_status st;
    RB_TRY(st, rb_alloc(&normal, (size_t)n, sizeof *normal, "normal vectors", err), done);
    RB_TRY(st, rb_alloc(&x, (size_t)n, sizeof *x, "normal vectors", err), done);
    RB_TRY(st, rb_alloc(&x_hat, (size_t)n, sizeof *x_hat, "normal vectors", err), done);
    numpy_rng_seed(&rng, NORMAL_SEED);
    numpy_rng_standard_normal(&rng, normal, (size_t)n);
    for (int i = 0; i < n; i++) x[i] = (float)normal[i];
    RB_TRY(st, runtime_quantizer_restore(q, x, N_NORMAL_VECTORS, dims, N_NORMAL_VECTORS, tables, x_hat, err), done);
    for (int i = 0; i < n; i++) {
        error += ((double)x[i] - (double)x_hat[i]) * ((double)x[i] - (double)x_hat[i]);
        size += (double)x[i] * (double)x[i];
    }
    *out = error / size;
done:
    free(normal);
    free(x);
    free(x_hat);
    return st;
}
