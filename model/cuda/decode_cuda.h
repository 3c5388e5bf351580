/* Decoding on the GPU: the counterpart of model/decode_pass.h. Tokens of one sequence, a chunk at a time, or one token
 * of each of several sequences go through all layers. Weights lie in the GPU's memory (resident_weights.h), attention
 * is the caller's. Within a run the host waits for nothing but the logits. Steps that differ in numbers only are
 * recorded as a CUDA graph and played.
 *
 *   per layer   norm, q, k and v -> RoPE of q and k -> attend (the caller's) -> o_proj, norm, MLP */
#ifndef RB_MODEL_CUDA_DECODE_CUDA_H
#define RB_MODEL_CUDA_DECODE_CUDA_H

#include "model/cuda/resident_weights.h"

/* The heads of a layer for n tokens, on the device. Rows of heads are in the precision. */
typedef struct device_decode_heads {
    int layer;
    int64_t n;
    layer_cuda_precision precision;
    const int32_t *positions;      /* [n] */
    const int32_t *lengths;        /* [n]: positions + 1 */
    const void *q;                 /* [n][n_q_heads][head_dim], leaving RoPE */
    const float *k;                /* [n_kv_heads][n][head_dim], entering RoPE */
    const float *v;                /* [n_kv_heads][n][value_dim] */
    const void *turned_k, *rows_v; /* [n][n_kv_heads][head_dim], leaving RoPE; [n][n_kv_heads][value_dim] */
    void *attended;                /* out [n][n_q_heads][value_dim] */
    void *stream;
} device_decode_heads;

typedef struct decode_cuda_hooks {
    void *user;
    /* Keeps k and v, and attends, by work on the stream. A status other than RB_OK ends the run and is returned. */
    rb_status (*attend)(void *user, const device_decode_heads *heads, rb_error *err);
    /* Runs with the same key, number of tokens and of logits put the same work on the stream, whatever tokens and
     * positions are: the second one is recorded, and the others play it, without calling attend. 0: each is put there
     * anew. */
    int64_t same_work;
} decode_cuda_hooks;

typedef struct decode_cuda decode_cuda;

/* weights outlive it. Runs have at most max_tokens tokens, of which max_logits get logits; positions are below
 * n_positions. Call rb_cuda_open before. Fails with RB_EUNSUPPORTED for heads of other than a
 * multiple of 8 dims, and for bf16 on a GPU without it. */
rb_status decode_cuda_open(decode_cuda **out, const resident_weights *weights, int64_t max_tokens, int64_t max_logits,
                           int64_t n_positions, rb_error *err);
void decode_cuda_close(decode_cuda *decode);

/* hidden [n][hidden_size]: the tokens' embeddings (token_batch_embed), positions [n]: both on the host, free again when
 * the call returns. *logits: [n_logits][vocab_size] of the last n_logits tokens, in memory of the host that is
 * valid until the next run; n_logits 0: the call returns while the GPU is at work. */
rb_status decode_cuda_run(decode_cuda *decode, const float *hidden, const int32_t *positions, int64_t n,
                          const decode_cuda_hooks *hooks, int64_t n_logits, const float **logits, rb_error *err);
/* The stream of all runs. */
void *decode_cuda_stream(const decode_cuda *decode);

#endif
