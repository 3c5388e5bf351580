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
enum { LAYER_CUDA_FEW_ROWS = 8 };
typedef enum layer_cuda_weight {
    LAYER_CUDA_WEIGHT_F16,
    LAYER_CUDA_WEIGHT_BF16,
    LAYER_CUDA_WEIGHT_F32
} layer_cuda_weight;
typedef enum layer_cuda_activation { LAYER_CUDA_SILU, LAYER_CUDA_GELU, LAYER_CUDA_GELU_TANH } layer_cuda_activation;

/* RMSNorm, or LayerNorm: weight, bias [width], bias NULL for none. weight NULL: rows stay as they are. */
typedef struct layer_cuda_norm {
    bool is_layer_norm;
    const float *weight, *bias;
    float eps;
} layer_cuda_norm;

/* From the projections of n_tokens tokens to queries, keys and values: bias, norm, capture, statistics, RoPE. */
typedef struct layer_cuda_heads {
    int n_q_heads, n_kv_heads;
    int head_dim, value_dim; /* of a key or query in RoPE; of a value */
    int query_dim;           /* of a whole query: its last head_dim dims enter RoPE, and only they are captured */
    int n_freqs;
    bool is_interleaved;
    layer_cuda_precision precision;
    int64_t n_tokens;
    /* A token's q, k and v, heads one after the other; with bias and norm after the call. Tokens lie *_in_stride floats
     * apart. */
    float *q_in, *k_in, *v_in;
    int64_t q_in_stride, k_in_stride, v_in_stride;
    const float *q_bias, *k_bias, *v_bias; /* of a token's; NULL */
    const float *q_norm, *k_norm, *v_norm; /* of a head; NULL */
    bool is_norm_wide;                     /* q_norm and k_norm are of all heads together */
    float eps;
    const int32_t *position;          /* [n_tokens] */
    const float *rope_cos, *rope_sin; /* [positions][n_freqs] */
    /* out: rows of heads, q and k turned. Heads lie *_pitch elements apart, and what a pitch has more than the head has
     * dims is zero. */
    void *q, *k, *v;
    int q_pitch, k_pitch, v_pitch;
    /* Capture, as they enter RoPE: element (head, token, dim) at capture_x[(head * capture_stride + token) * dims +
     * dim]; NULL: none. */
    void *capture_q, *capture_k, *capture_v;
    bool capture_is_f32;    /* false: f16, where values beyond 65504 become infinite */
    int64_t capture_stride; /* tokens of a head */
    /* Sums of squares and of values are added to these, in an order that depends only on n_tokens; NULL: none. */
    double *q_squares, *k_squares, *k_sums; /* [n_q_heads][head_dim], [n_kv_heads][head_dim] twice */
    double *scratch;                        /* heads_scratch doubles */
} layer_cuda_heads;

/* Turns keys and values as they enter RoPE, f32 [n_kv_heads][in_stride][dims], n_tokens of each head, into rows of
 * heads in the precision, k turned. */
typedef struct layer_cuda_turn {
    int n_kv_heads, head_dim, value_dim, n_freqs;
    bool is_interleaved;
    layer_cuda_precision precision;
    int64_t n_tokens, in_stride;
    const float *k_in, *v_in;
    const int32_t *position;          /* [n_tokens] */
    const float *rope_cos, *rope_sin; /* [positions][n_freqs] */
    void *k, *v;                      /* out */
    int k_pitch, v_pitch;             /* as in layer_cuda_heads */
} layer_cuda_turn;

/* Keys and values of every head out of what a latent was projected to, and the key that heads share. */
typedef struct layer_cuda_expand {
    int n_heads;
    int plain_dim, rope_dim, value_dim; /* of a key: without RoPE, with it; of a value */
    layer_cuda_precision precision;
    int64_t n_tokens;
    const void *projected; /* [n_tokens][n_heads][plain_dim + value_dim] */
    const void *key;       /* [n_tokens][rope_dim], turned */
    void *k, *v;           /* out: rows of heads; a key is plain_dim, rope_dim dims */
    int k_pitch, v_pitch;  /* as in layer_cuda_heads */
} layer_cuda_expand;

/* Rows of heads in the precision, element (token, head, dim) at rows[token * token_stride + head * pitch + dim]. */
typedef struct layer_cuda_rows {
    const void *rows;
    int n_heads, head_dim;
    int64_t n_tokens, token_stride, pitch;
    layer_cuda_precision precision;
} layer_cuda_rows;

/* Which experts a token visits: see expert_config in model/model_config.h. */
typedef struct layer_cuda_router {
    int n_experts, n_per_token, n_groups, n_groups_per_token;
    bool normalizes;
    float scale;
    int64_t n_tokens;
    float *scores;   /* [n_tokens][n_experts]: of the router; overwritten */
    int32_t *chosen; /* out [n_tokens][n_per_token] */
    float *weights;  /* out: the same */
} layer_cuda_router;

/* Visits of one expert. Visit i is that of token visits[i] / n_per_token, whose result counts weights[visits[i]]. */
typedef struct layer_cuda_visits {
    const int32_t *visits;
    const float *weights;
    int n_per_token;
    int64_t n, width;
} layer_cuda_visits;

typedef struct layer_cuda_api {
    /* out = norm(x), for n rows of `width`; out in the precision. Row i of out is made from row rows[i] of x; rows
     * NULL: from row i. */
    rb_status (*norm)(void *out, const float *x, const int64_t *rows, const layer_cuda_norm *norm, int64_t n,
                      int64_t width, layer_cuda_precision precision, void *stream, rb_error *err);
    /* hidden += scale * norm(x + bias), for n rows of `width`, all f32; bias NULL for none. */
    rb_status (*add_normed)(float *hidden, const float *x, const float *bias, const layer_cuda_norm *norm, float scale,
                            int64_t n, int64_t width, void *stream, rb_error *err);
    /* squares [n] = factor * |row|^2 of rows of x [n][width], or *= where `multiplies`. */
    rb_status (*row_squares)(double *squares, const float *x, bool multiplies, double factor, int64_t n, int64_t width,
                             void *stream, rb_error *err);
    /* x [n][width] += bias. */
    rb_status (*add_bias)(float *x, const float *bias, int64_t n, int64_t width, void *stream, rb_error *err);

    rb_status (*heads)(const layer_cuda_heads *in, void *stream, rb_error *err);
    size_t (*heads_scratch)(const layer_cuda_heads *in); /* doubles */
    rb_status (*turn)(const layer_cuda_turn *in, void *stream, rb_error *err);
    rb_status (*expand)(const layer_cuda_expand *in, void *stream, rb_error *err);
    /* out [n_heads][n_tokens][head_dim] f32; it may be pinned host memory. */
    rb_status (*part_heads)(float *out, const layer_cuda_rows *in, void *stream, rb_error *err);
    /* out [n_tokens][n_heads * head_dim] in the precision. */
    rb_status (*pack_heads)(void *out, const layer_cuda_rows *in, void *stream, rb_error *err);

    /* out [n][width] = activation(gate) * up in the precision. A row of gate_up holds gate and up, `width` each; bias
     * [2 * width] or NULL. Not gated: out = activation(gate_up), rows and bias of `width`. */
    rb_status (*activate)(void *out, const void *gate_up, const float *bias, layer_cuda_activation activation,
                          bool is_gated, int64_t n, int64_t width, layer_cuda_precision precision, void *stream,
                          rb_error *err);
    rb_status (*route)(const layer_cuda_router *in, void *stream, rb_error *err);
    /* out [n_rows][width] = rows of the visits' tokens, both in the precision; zero from row visits->n on. */
    rb_status (*gather)(void *out, const void *rows, const layer_cuda_visits *visits, int64_t n_rows,
                        layer_cuda_precision precision, void *stream, rb_error *err);
    /* hidden of the visits' tokens += scale * weight * x; x [visits->n][width] f32. */
    rb_status (*scatter)(float *hidden, const float *x, const layer_cuda_visits *visits, float scale, void *stream,
                         rb_error *err);
    /* x = cap * tanh(scale * x / cap), or scale * x where cap is 0, n of them. */
    rb_status (*finish_logits)(float *x, float scale, float cap, int64_t n, void *stream, rb_error *err);

    /* Converts weights of the file's type to the precision. */
    rb_status (*convert)(void *out, const void *from, layer_cuda_weight type, int64_t n, layer_cuda_precision precision,
                         void *stream, rb_error *err);

    /* y [m][n] = x [m][k] w[n][k]^T, or += where `adds`, with sums in f32. y is f32 where is_f32, otherwise in the
     * precision. Done by cuBLASLt, which matmul_open opens. */
    rb_status (*matmul_open)(void **matmul, rb_error *err);
    void (*matmul_close)(void *matmul);
    rb_status (*matmul)(void *matmul, void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m,
                        int64_t n, int64_t k, layer_cuda_precision precision, void *stream, rb_error *err);
    /* The same for at most LAYER_CUDA_FEW_ROWS rows in bf16, k a multiple of 8, by a kernel that reads w once at the
     * speed of memory: x and w aligned to 16 bytes. Needs compute capability 8.0. */
    rb_status (*few_rows)(void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m, int64_t n,
                          int64_t k, void *stream, rb_error *err);
} layer_cuda_api; /* symbol rb_layer_cuda */

#ifdef __cplusplus
}
#endif

#endif
