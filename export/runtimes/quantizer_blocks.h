/* What the quantizers of other runtimes do to the numbers that share a scale: n numbers in place become what the
 * runtime would give back. Written from the formats' descriptions, in f32 as the runtimes compute, with scales rounded
 * as they are stored. export/runtimes/runtime_quantizer.h says which runtime does which. */
#ifndef RB_EXPORT_RUNTIMES_QUANTIZER_BLOCKS_H
#define RB_EXPORT_RUNTIMES_QUANTIZER_BLOCKS_H

#include <stdint.h>

#include "kernels/reference/codebook.h"

/* What a block may use besides its numbers. */
typedef struct block_context {
    int width;            /* bits of a code */
    float tensor_scale;   /* one scale for all vectors, or 0 */
    const codebook *book; /* of the whole vector's dims; NULL where the quantizer has none */
} block_context;

void block_fp16(float *x, int n, const block_context *context);

/* e4m3 to the nearest, ties to even, up to 448; scaled by tensor_scale where there is one. */
void block_fp8(float *x, int n, const block_context *context);

/* NVFP4: numbers of e2m1 (0, 0.5, 1, 1.5, 2, 3, 4, 6) times a scale of e4m3, the largest number over 6, times
 * tensor_scale. */
void block_nvfp4(float *x, int n, const block_context *context);

/* ggml's q4_0, q5_0, q6_0: the number of largest magnitude is code 0, d = it / -2^(width - 1), stored as fp16. */
void block_extreme(float *x, int n, const block_context *context);

/* ggml's q8_0: d = the largest magnitude / (2^(width - 1) - 1), stored as fp16. */
void block_largest(float *x, int n, const block_context *context);

/* ggml's q4_1 and q5_1, and values of vLLM's turboquant_*: d = (largest - least) / (2^width - 1) and the least, stored
 * as fp16; the code is by the scale before its rounding. */
void block_range(float *x, int n, const block_context *context);

/* ggml's iq4_nl: 16 levels that are not evenly spaced, of a scale that is fitted to the codes, stored as fp16. */
void block_iq4_nl(float *x, int n, const block_context *context);

/* exllamav3: 2^width levels (2 c + 1) / 2^width - 1 of the largest magnitude, stored as fp16. */
void block_midrise(float *x, int n, const block_context *context);

/* mlx, affine: the scale is such that zero and the edge, the end of the range of larger magnitude, are on the grid.
 * Scale and edge are stored as fp16. */
void block_edge(float *x, int n, const block_context *context);

/* KVTuner's own quantizer, asymmetric: d = (largest - least) / (2^width - 1), and the least in whole steps; both stored
 * as fp16. */
void block_whole_steps(float *x, int n, const block_context *context);

/* TurboQuant with norm correction: the direction by the codebook, brought to norm 1, times the norm, stored as fp16. x
 * is the whole vector, rotated. */
void block_direction(float *x, int n, const block_context *context);

/* e4m3 to the nearest, ties to even; beyond 448 it is 448. */
float fp8_e4m3_round(float x);

#endif
