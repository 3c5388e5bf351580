/* The forward pass on the GPU, for evaluating. It does what forward.h describes for the CPU: whole sequences go through
 * a layer part by part, keys and values are changed as they enter RoPE, recent ones are met as they were, and logits of
 * chosen tokens come out. Keys, values and logits stay on the device. Queries, keys, values and the attention's output
 * of the first parts also go to the host, to hooks as in forward.h, while the device computes what follows.
 *
 *   per layer and part: project, heads (chunks) -> on_qkv -> RoPE -> attention, o_proj, MLP (chunks)
 *   host:                                              on_rotated, on_attended of the part before
 *
 * GPU memory: two layers' weights, a ring of experts, the residual stream of all tokens, queries, keys and values of
 * the largest part, scratch of a chunk; then, in place of the weights and the part, the LM head and a tile of logits.
 */
#ifndef RB_MODEL_CUDA_FORWARD_PARTS_CUDA_H
#define RB_MODEL_CUDA_FORWARD_PARTS_CUDA_H

#include "model/cuda/cuda_pass.h"
#include "model/forward.h"

/* Keys and values of a part as they enter RoPE, on the device, f32: k [n_kv_heads][n_tokens][head_dim], v
 * [n_kv_heads][n_tokens][value_dim]. */
typedef struct device_heads {
    int layer, part;
    int64_t first_token, n_tokens; /* of the batch */
    float *k, *v;
} device_heads;

typedef struct forward_parts_cuda_hooks {
    void *user;
    /* May change k and v by work on the stream. */
    rb_status (*on_qkv)(void *user, const device_heads *heads, void *stream, rb_error *err);
    rb_status (*on_layer_done)(void *user, int layer, rb_error *err); /* the GPU has done with the layer */
    /* logits [n][vocab_size] of logit_tokens[first] on. They stay on the device until the work is done that the stream
     * has at the end of the call. */
    rb_status (*on_logits)(void *user, int64_t first, int64_t n, const float *logits, void *stream, rb_error *err);
    int n_host_parts; /* the first parts of each layer are handed to the host */
} forward_parts_cuda_hooks;

typedef struct forward_parts_cuda_options {
    layer_cuda_precision precision;
    int64_t max_bytes, reserved_bytes; /* of GPU memory: limit, 0: what is free; what the hooks take of it themselves */
} forward_parts_cuda_options;

typedef struct forward_parts_cuda_report {
    double total_s, set_up_s, host_s, logits_s; /* all; before the first layer; in hooks of the host; in the LM head */
    int64_t gpu_bytes, chunk_tokens;
} forward_parts_cuda_report;

/* host: its parts, n_recent and logit_tokens (not NULL) are used, and on_rotated, on_attended and on_layer_done, which
 * are called from the calling thread; its on_qkv and on_logits are not used. Call rb_cuda_open before. Fails like
 * forward_run, and with RB_ENOMEM when not even chunks of CUDA_PASS_MIN_CHUNK tokens fit. */
rb_status forward_parts_cuda_run(const checkpoint *model, const token_batch *batch, const forward_hooks *host,
                                 const forward_parts_cuda_hooks *hooks, const forward_parts_cuda_options *options,
                                 forward_parts_cuda_report *report, rb_error *err);

/* GPU memory that a run with this chunk takes. */
int64_t forward_parts_cuda_bytes(const model_config *config, const token_batch *batch, const forward_hooks *host,
                                 const forward_parts_cuda_options *options, int64_t chunk_tokens);

#endif
