/* Errors of restored keys on the GPU: what profile/logit_error.h, attention_error.h and tail_error.h define, for all KV
 * heads and candidates of a layer at once. */
#ifndef RB_PROFILE_ERROR_CUDA_H
#define RB_PROFILE_ERROR_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct error_cuda_input { /* all pointers on the device, f32 */
    int n_kv_heads, q_per_kv, head_dim, n_blocks, n_candidates;
    int64_t n_tokens, context; /* sequences of `context` tokens, the last may be shorter; context <= n_tokens */
    float scale;               /* attention_scale */
    const float *q;            /* [n_kv_heads * q_per_kv][n_tokens][head_dim], entering RoPE */
    const float *k;            /* [n_kv_heads][n_tokens][head_dim] */
    const float *k_hat;        /* [n_candidates][n_kv_heads][n_tokens][head_dim] */
    const int *block_dims;     /* [n_blocks][2] */
    const float *turn;         /* [2 * n_blocks][n_offsets]: as offset_table of profile/logit_error.c */
    int n_offsets;
    const float *rope_cos, *rope_sin; /* [context][n_freqs]; n_freqs blocks turn, the rest stand still */
    int n_freqs;
} error_cuda_input;

typedef struct error_cuda_api {
    /* out [n_candidates][n_kv_heads]: sum over query heads, tokens, offsets of |error|. */
    rb_status (*offset_sums)(const error_cuda_input *in, double *out, void *stream, rb_error *err);
    /* out [n_candidates][n_kv_heads][3]: sum over query heads and causal pairs of |q.(k - k^)| after RoPE; sum over
     * query heads and queries of KL(p || p^); sum over query heads and queries of sum_t p_t |q.(k_t - k^_t)|. */
    rb_status (*attention_sums)(const error_cuda_input *in, double *out, void *scratch, void *stream, rb_error *err);
    size_t (*attention_scratch_bytes)(const error_cuda_input *in);
    /* out [n_candidates][n_kv_heads][n_blocks]: mean over tokens of |k_i - k^_i|^2 of each block; norms
     * [n_candidates][n_kv_heads][2]: sums of (k - k^)^2 and k^2. */
    rb_status (*block_errors)(const error_cuda_input *in, double *out, double *norms, void *stream, rb_error *err);
    /* out [1 + n_candidates][n_kv_heads][n_tokens], f32: sizes of the keys, then errors of every candidate
     * (profile/tail_error.h); weights [n_kv_heads][head_dim]. */
    rb_status (*token_errors)(const error_cuda_input *in, const float *weights, float *out, void *stream,
                              rb_error *err);
} error_cuda_api; /* symbol rb_error_cuda */

#ifdef __cplusplus
}
#endif

#endif
