/* The kernels of one decoder layer on the GPU, between the matrix products and attention: what model/cuda/cuda_pass.c
 * and the passes over it call. All pointers are on the device, all calls asynchronous on a stream. Activations are bf16
 * or f32 ("the precision"), the residual stream and all sums f32, statistics f64. */
#ifndef RB_MODEL_CUDA_LAYER_CUDA_H
#define RB_MODEL_CUDA_LAYER_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum layer_cuda_precision { LAYER_CUDA_BF16, LAYER_CUDA_F32 } layer_cuda_precision;
typedef enum layer_cuda_weight {
    LAYER_CUDA_WEIGHT_F16,
    LAYER_CUDA_WEIGHT_BF16,
    LAYER_CUDA_WEIGHT_F32
} layer_cuda_weight;

/* From the projections of n_tokens tokens to queries, keys and values: bias, q/k norm, capture, statistics, RoPE. */
typedef struct layer_cuda_heads {
    int n_q_heads, n_kv_heads, head_dim, n_freqs;
    bool is_interleaved;
    layer_cuda_precision precision;
    int64_t n_tokens;
    float *projected; /* [n_tokens][(n_q_heads + 2 n_kv_heads) * head_dim]: q, k, v of a token; with bias and norm after
                         the call */
    const float *bias;            /* of a row of `projected`; NULL */
    const float *q_norm, *k_norm; /* [head_dim]; NULL */
    float eps;
    const int32_t *position;          /* [n_tokens] */
    const float *rope_cos, *rope_sin; /* [positions][n_freqs] */
    void *q;                          /* out: [n_tokens][n_q_heads * head_dim], turned */
    void *k, *v;                      /* out: rows of [n_kv_heads * head_dim] */
    /* Capture, as they enter RoPE: element (head, token, dim) at capture_x[(head * capture_stride + token) * head_dim +
     * dim]; NULL: none. */
    void *capture_q, *capture_k, *capture_v;
    bool capture_is_f32;    /* false: f16, where values beyond 65504 become infinite */
    int64_t capture_stride; /* tokens of a head */
    /* Sums of squares and of values are added to these, in an order that depends only on n_tokens; NULL: none. */
    double *q_squares, *k_squares, *k_sums; /* [n_q_heads][head_dim], [n_kv_heads][head_dim] twice */
    double *scratch;                        /* layer_cuda_scratch doubles */
} layer_cuda_heads;

/* Turns keys and values as they enter RoPE, [n_kv_heads][n_tokens][head_dim] f32, into what attention reads: rows of
 * [n_kv_heads * head_dim] in the precision, k turned. */
typedef struct layer_cuda_turn {
    int n_kv_heads, head_dim, n_freqs;
    bool is_interleaved;
    layer_cuda_precision precision;
    int64_t n_tokens;
    const float *k_in, *v_in;
    const int32_t *position;          /* [n_tokens] */
    const float *rope_cos, *rope_sin; /* [positions][n_freqs] */
    void *k, *v;                      /* out */
} layer_cuda_turn;

typedef struct layer_cuda_api {
    /* out = x / rms(x) * weight, for n rows of `width`; out in the precision. Row i of out is made from row rows[i] of
     * x; rows NULL: from row i. */
    rb_status (*rms_norm)(void *out, const float *x, const int64_t *rows, const float *weight, float eps, int64_t n,
                          int64_t width, layer_cuda_precision precision, void *stream, rb_error *err);
    rb_status (*heads)(const layer_cuda_heads *in, void *stream, rb_error *err);
    size_t (*heads_scratch)(const layer_cuda_heads *in); /* doubles */
    rb_status (*turn)(const layer_cuda_turn *in, void *stream, rb_error *err);
    /* out [n_heads][n][head_dim] f32 = rows [n][n_heads * head_dim] in the precision; out may be pinned host memory. */
    rb_status (*part_heads)(float *out, const void *rows, int n_heads, int64_t n, int64_t head_dim,
                            layer_cuda_precision precision, void *stream, rb_error *err);
    /* out [n][width] = silu(gate) * up in the precision. A row of gate_up holds gate and up, `width` each; bias [2 *
     * width] or NULL. */
    rb_status (*swiglu)(void *out, const void *gate_up, const float *bias, int64_t n, int64_t width,
                        layer_cuda_precision precision, void *stream, rb_error *err);
    /* x [n][width] += bias. */
    rb_status (*add_bias)(float *x, const float *bias, int64_t n, int64_t width, void *stream, rb_error *err);
    /* Converts weights of the file's type to the precision. */
    rb_status (*convert)(void *out, const void *from, layer_cuda_weight type, int64_t n, layer_cuda_precision precision,
                         void *stream, rb_error *err);

    /* y [m][n] = x [m][k] w[n][k]^T, or += where `adds`, with sums in f32. y is f32 where is_f32, otherwise in the
     * precision. Done by cuBLASLt, which matmul_open opens. */
    rb_status (*matmul_open)(void **matmul, rb_error *err);
    void (*matmul_close)(void *matmul);
    rb_status (*matmul)(void *matmul, void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m,
                        int64_t n, int64_t k, layer_cuda_precision precision, void *stream, rb_error *err);
} layer_cuda_api; /* symbol rb_layer_cuda */

#ifdef __cplusplus
}
#endif

#endif
