/* The forward pass on the GPU, for capturing. Weights stream in layer by layer (weight_stream.h), and tokens go through
 * each layer in chunks. Queries, keys and values go out to pinned memory as they enter RoPE; from there another thread
 * hands them to the caller while the next layer runs.
 *
 *   upload stream    weights k+1        weights k+2
 *   compute stream          layer k            layer k+1
 *   copy stream                    heads k            heads k+1
 *   hand-over thread                     on_captured k       on_captured k+1
 *
 * The residual stream that a layer leaves goes the way of its heads, where it is wanted; the next layer waits for that
 * copy before it adds to the stream.
 *
 * GPU memory: two layers' weights, a ring of experts, the residual stream and the keys and values of all tokens (of
 * every head, with a latent cache), one layer's captured heads twice, scratch of a chunk. */
#ifndef RB_MODEL_CUDA_FORWARD_CUDA_H
#define RB_MODEL_CUDA_FORWARD_CUDA_H

#include "model/cuda/cuda_pass.h"

/* A layer's heads on a set of tokens, in host memory that is valid during the call. Elements are f16 or f32. */
typedef struct captured_layer {
    int layer, set;
    int64_t n_tokens;
    const void *q; /* [n_q_heads][n_tokens][head_dim] */
    const void *k; /* [n_kv_heads][n_tokens][head_dim] */
    const void *v; /* [n_kv_heads][n_tokens][value_dim]; NULL unless asked for */
    /* Sums over the set's tokens, before rounding: [n_q_heads][head_dim], [n_kv_heads][head_dim]. */
    const double *q_squares, *k_squares, *k_sums;
    const double *residual_energy; /* [n_tokens]: what on_residual of model/forward.h gets; NULL unless asked for */
} captured_layer;

typedef struct forward_cuda_options {
    layer_cuda_precision precision;
    bool capture_is_f32, with_values;
    bool with_residual;       /* residual_energy; then the last layer is computed whole */
    const int64_t *set_start; /* [n_sets + 1]: tokens of each set; sets are whole sequences */
    int n_sets;
    int64_t max_bytes; /* of GPU memory; 0: what is free */
    int first_layer;   /* as in forward_hooks (model/forward.h), with fill_stream */
} forward_cuda_options;

typedef struct forward_cuda_hooks {
    void *user;
    /* A thread of its own; layers in order, sets in order. */
    rb_status (*on_captured)(void *user, const captured_layer *captured, rb_error *err);
    /* As in forward_hooks; on_stream comes from that thread after the layer's sets, fill_stream from the caller's. */
    rb_status (*on_stream)(void *user, int layer, const float *stream, rb_error *err);
    rb_status (*fill_stream)(void *user, int64_t first, int64_t n, float *rows, rb_error *err);
    void (*on_layer_done)(void *user, int layer); /* progress, from the same thread */
} forward_cuda_hooks;

typedef struct forward_cuda_report {
    double total_s, set_up_s; /* all; of it before the first layer: cuBLAS, memory, the embedding or the stream */
    /* Median over layers of the time on the compute stream. Weights are there already, but for those of experts, whose
     * upload it includes. The last layer is left out. */
    double layer_ms;
    int64_t weight_bytes; /* read from the file */
    int64_t gpu_bytes;    /* largest amount held */
    int64_t chunk_tokens;
} forward_cuda_report;

/* Call rb_cuda_open before. Fails like forward_run, and with RB_ENOMEM when not even chunks of CUDA_PASS_MIN_CHUNK
 * tokens fit; the message names what is needed and what there is. */
rb_status forward_cuda_run(const checkpoint *model, const token_batch *batch, const forward_cuda_options *options,
                           const forward_cuda_hooks *hooks, forward_cuda_report *report, rb_error *err);

/* GPU memory that a run with this chunk takes, cuBLASLt's workspace included. */
int64_t forward_cuda_bytes(const model_config *config, const token_batch *batch, const forward_cuda_options *options,
                           int64_t chunk_tokens);

#endif
