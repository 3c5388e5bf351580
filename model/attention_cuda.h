/* Prefill attention on the GPU: flash-style, causal, with grouped query heads and a sliding window; no T x T matrix. */
#ifndef RB_MODEL_ATTENTION_CUDA_H
#define RB_MODEL_ATTENTION_CUDA_H

#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum attention_cuda_type { ATTENTION_CUDA_BF16, ATTENTION_CUDA_F32 } attention_cuda_type;

typedef struct attention_cuda_input {   /* pointers on the device; q, k, v, out all of `type` */
    attention_cuda_type type;
    int n_q_heads, n_kv_heads, head_dim;        /* head_dim a multiple of 16 up to 256 */
    const void *q;
    int64_t q_token_stride;                     /* query i, head h at q + i * q_token_stride + h * head_dim; elements */
    const void *k, *v;
    int64_t kv_token_stride;                    /* key t, head h at k + t * kv_token_stride + h * head_dim */
    void *out;
    int64_t out_token_stride;                   /* like q */
    int64_t first_query, n_queries;             /* query i is token first_query + i of the batch; q and out hold only these n_queries; k and v hold ALL tokens */
    const int32_t *token_sequence_start;        /* [first_query + n_queries], device: first token of each token's sequence */
    int sliding_window;                         /* keys a query sees, itself included; 0: all of its sequence up to itself */
    float scale;
} attention_cuda_input;

typedef struct attention_cuda_api {
    rb_status (*forward)(const attention_cuda_input *in, void *stream, rb_error *err);
} attention_cuda_api;   /* symbol rb_attention_cuda */

#ifdef __cplusplus
}
#endif

#endif
