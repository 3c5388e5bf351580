/* What the forward passes on the GPU share: the residual stream of all tokens, positions, RoPE tables, weights that
 * stream in (weight_stream.h), and the steps of a layer before the heads and after attention, for a chunk of tokens at
 * a time. Each pass decides where heads go and which keys a query meets: forward_cuda.c captures, forward_parts_cuda.c
 * evaluates. */
#ifndef RB_MODEL_CUDA_CUDA_PASS_H
#define RB_MODEL_CUDA_CUDA_PASS_H

#include "core/cuda_device.h"
#include "model/cuda/attention_cuda.h"
#include "model/cuda/layer_cuda.h"
#include "model/cuda/weight_stream.h"
#include "model/token_batch.h"

enum { CUDA_PASS_MAX_CHUNK = 4096, CUDA_PASS_MIN_CHUNK = 128 }; /* tokens that go through a layer at a time */
enum { CUDA_PASS_WORKSPACE_BYTES = 32 << 20 };                  /* cuBLASLt's */

typedef struct cuda_pass {
    const checkpoint *model;
    const model_config *config;
    const token_batch *batch;
    layer_cuda_precision precision;
    const layer_cuda_api *api;
    const attention_cuda_api *attention;
    weight_stream *weights;
    void *matmul, *compute; /* compute: the stream of everything here */
    int64_t chunk;
    /* All tokens; starts: first token of each token's sequence, counted from its part's first. */
    rb_cuda_array hidden, positions, starts, rope_cos, rope_sin;
    rb_cuda_array normed, projected, attended, gate_up, activated; /* a chunk */
} cuda_pass;

int64_t cuda_pass_q_width(const model_config *config); /* n_q_heads * head_dim */
int64_t cuda_pass_kv_width(const model_config *config);
int64_t cuda_pass_element_bytes(layer_cuda_precision precision);

/* GPU memory of all the above with this chunk. */
int64_t cuda_pass_bytes(const model_config *config, const token_batch *batch, layer_cuda_precision precision,
                        int64_t chunk);

/* Fills `pass`, which is all zero, and opens what needs no memory. Checks batch and checkpoint. Call rb_cuda_open
 * before, and cuda_pass_end at the end, also after a failure. */
rb_status cuda_pass_begin(cuda_pass *pass, const checkpoint *model, const token_batch *batch,
                          layer_cuda_precision precision, rb_error *err);
/* Chooses the largest chunk for which bytes_of(user, chunk) fits into what is free and into max_bytes (0: no limit).
 * RB_ENOMEM names what the smallest chunk would need. */
rb_status cuda_pass_choose_chunk(cuda_pass *pass, int64_t (*bytes_of)(const void *user, int64_t chunk),
                                 const void *user, int64_t max_bytes, rb_error *err);
/* Allocates memory, makes tables and embeddings, and begins to read layer 0. part_start: the sequences whose keys lie
 * in one array, [n_parts + 1]; NULL: all of them. */
rb_status cuda_pass_alloc(cuda_pass *pass, bool stops_at_heads, const int64_t *part_start, int n_parts, rb_error *err);
void cuda_pass_end(cuda_pass *pass);

/* The weights of `layer`; those of the next one are begun. Release them (weight_stream_release) after the layer's last
 * kernel. */
rb_status cuda_pass_next_layer(cuda_pass *pass, int layer, device_layer *weights, rb_error *err);

/* Steps for tokens [first, first + n) of the batch, n <= chunk. project: `projected` = q, k, v of the normalised
 * residual stream. heads and attention: the part of the kernels' input that the pass knows; the caller adds the rest.
 * finish: residual stream += o_proj(attended), then += MLP. */
rb_status cuda_pass_project(const cuda_pass *pass, const device_layer *weights, int64_t first, int64_t n,
                            rb_error *err);
layer_cuda_heads cuda_pass_heads(const cuda_pass *pass, const device_layer *weights, int64_t first, int64_t n);
attention_cuda_input cuda_pass_attention(const cuda_pass *pass, int layer);
rb_status cuda_pass_finish(const cuda_pass *pass, const device_layer *weights, int64_t first, int64_t n, rb_error *err);

/* y = x w^T on the pass's stream: m rows of k elements to rows of n. y is f32 where is_f32, otherwise in the
 * precision. */
rb_status cuda_pass_multiply(const cuda_pass *pass, void *y, bool is_f32, bool adds, const void *x, const void *w,
                             int64_t m, int64_t n, int64_t k, rb_error *err);

#endif
