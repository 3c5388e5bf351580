/* Causal attention on the GPU for many queries at once (prefill): softmax(scale * q k^T) v with grouped query heads,
 * or softmax(cap * tanh(scale * q k^T / cap)) v, tile by tile, no T x T matrix. model/attention.h defines the result,
 * and tests/gpu/test_attention_cuda.c compares with it.
 *
 * Query s sees keys t with max(first token of its sequence, s - sliding_window + 1) <= t <= s. Sequences lie end to
 * end. Key tiles begin at multiples of their size counted from token 0, so a query's output has the same bytes however
 * the queries are cut into calls. A NaN or infinity in k or v reaches every query whose tile (at most 128 queries, 64
 * keys) touches it, even queries that do not see that key. */
#ifndef RB_MODEL_CUDA_ATTENTION_CUDA_H
#define RB_MODEL_CUDA_ATTENTION_CUDA_H

#include <stdint.h>

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* BF16: bf16 products summed in f32, weights rounded to bf16 before they meet v; needs compute capability 8.0. F32: f32
 * throughout, any GPU. */
typedef enum attention_cuda_type { ATTENTION_CUDA_BF16, ATTENTION_CUDA_F32 } attention_cuda_type;

/* Pointers are on the device; q, k, v and out have the type `type` and are aligned to 16 bytes. Strides are in
 * elements, each a multiple of 16 bytes. */
typedef struct attention_cuda_input {
    attention_cuda_type type;
    int n_q_heads, n_kv_heads;
    int head_dim, value_dim; /* of a query or key; of a value: multiples of 8 up to 256 */
    const void *q;           /* query i, head h at q + i * q_token_stride + h * head_dim */
    int64_t q_token_stride;
    const void *k, *v; /* key t, head h at k + t * k_token_stride + h * head_dim; v likewise, with value_dim */
    int64_t k_token_stride, v_token_stride;
    /* A query meets the last n_recent keys and values that it sees, its own included, in recent_k and recent_v (laid
     * out as k and v), and earlier ones in k and v. n_recent 0: all are in k and v. */
    const void *recent_k, *recent_v;
    int n_recent;
    void *out; /* like q, with value_dim */
    int64_t out_token_stride;
    int64_t first_query, n_queries; /* query i is token first_query + i; q and out hold only these n_queries, k and v
                                     * all tokens 0 .. first_query + n_queries - 1, at most 2^31 - 65536 */
    const int32_t *token_sequence_start; /* [first_query + n_queries]: first token of each token's sequence */
    int sliding_window;                  /* keys a query sees, itself included; 0: all of its sequence up to itself */
    float scale;                         /* above 0 */
    float softcap;                       /* cap; 0: none */
} attention_cuda_input;

typedef struct attention_cuda_api {
    /* Asynchronous on the stream. Fails with RB_EINVAL on a shape, stride or alignment other than the above, and with
     * RB_EUNSUPPORTED for bf16 on a GPU without it. */
    rb_status (*forward)(const attention_cuda_input *in, void *stream, rb_error *err);
} attention_cuda_api; /* symbol rb_attention_cuda */

#ifdef __cplusplus
}
#endif

#endif
