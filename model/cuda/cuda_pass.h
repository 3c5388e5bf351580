/* What the forward passes on the GPU share: the residual stream of all tokens, positions, RoPE tables, weights that
 * stream in (weight_stream.h), and the steps of a layer before the heads and after attention, for a chunk of tokens at
 * a time. Each pass decides where heads go and which keys a query meets: forward_cuda.c captures, forward_parts_cuda.c
 * evaluates. Latent caches are cuda_latent.c's, experts cuda_experts.c's.
 *
 *   per chunk   project, run_heads or turn, attend, finish
 *   per layer   next_layer, then the chunks, then finish_layer: the experts of all tokens
 *
 * A pass that decodes (decode_cuda.h) holds one chunk and no more, and its weights lie elsewhere. */
#ifndef RB_MODEL_CUDA_CUDA_PASS_H
#define RB_MODEL_CUDA_CUDA_PASS_H

#include "core/cuda_device.h"
#include "model/cuda/attention_cuda.h"
#include "model/cuda/layer_cuda.h"
#include "model/cuda/weight_stream.h"
#include "model/token_batch.h"

enum { CUDA_PASS_MAX_CHUNK = 4096, CUDA_PASS_MIN_CHUNK = 128 }; /* tokens that go through a layer at a time */
enum { CUDA_PASS_WORKSPACE_BYTES = 32 << 20 };                  /* cuBLASLt's */

/* A chunk's latents (MLA), in the precision: of q, after its norm; of keys and values, as the cache has them; the key
 * that heads share, turned; what kv_b_proj gives. Nothing without a latent cache. */
typedef struct cuda_latent {
    rb_cuda_array q_latent, latent, key, projected;
} cuda_latent;

/* Experts. A visit is a token and one of its experts; those of an expert lie together, in the order of tokens. */
typedef struct cuda_experts {
    rb_cuda_array input;                   /* all tokens: normalised rows, in the precision */
    rb_cuda_array chosen, weights, visits; /* all tokens times n_per_token */
    rb_cuda_array scores;                  /* a chunk */
    int32_t *host_chosen, *host_visits;    /* pinned */
    int64_t *first_visit;                  /* [n_experts + 1] */
} cuda_experts;

typedef struct cuda_pass {
    const checkpoint *model;
    const model_config *config;
    const token_batch *batch;      /* NULL while decoding */
    int64_t n_tokens, n_positions; /* rows of the residual stream; positions of the RoPE tables */
    /* Where the pass begins, set between begin and alloc: layer 0 and the embeddings, or what fill_stream of
     * model/forward.h gives. */
    int first_layer;
    rb_status (*fill_stream)(void *user, int64_t first, int64_t n, float *rows, rb_error *err);
    void *fill_user;
    bool is_decoding; /* products of few rows are this library's own, model/cuda/gemv_cuda.cu */
    layer_cuda_precision precision;
    const layer_cuda_api *api;
    const attention_cuda_api *attention;
    weight_stream *weights;
    void *matmul, *compute; /* compute: the stream of everything here */
    int64_t chunk;
    bool stops_at_heads;
    /* All tokens; starts: first token of each token's sequence, counted from its part's first. Tables of the RoPE of
     * most layers, and of local ones. */
    rb_cuda_array hidden, positions, starts, rope_cos[2], rope_sin[2];
    /* A chunk. padded: the attention's output where values have a pitch; product: what is not added at once. */
    rb_cuda_array normed, projected, attended, padded, gate_up, activated, product;
    cuda_latent latent;
    cuda_experts experts;
} cuda_pass;

/* Elements of a token's q, k and v as they are captured: n_q_heads * head_dim, n_kv_heads * head_dim, n_kv_heads *
 * value_dim. */
int64_t cuda_pass_q_width(const model_config *config);
int64_t cuda_pass_k_width(const model_config *config);
int64_t cuda_pass_v_width(const model_config *config);
int64_t cuda_pass_element_bytes(layer_cuda_precision precision);

/* Rows of heads as attention reads them: whole queries and keys of n_kv_heads heads (all, with a latent cache), heads
 * `pitch` elements apart; elements of a token. */
typedef struct cuda_pass_rows {
    int n_kv_heads, pitch, v_pitch;
    int64_t q_width, k_width, v_width;
} cuda_pass_rows;
cuda_pass_rows cuda_pass_rows_of(const model_config *config);

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
/* Allocates memory, makes tables and embeddings, and begins to read the first layer. part_start: the sequences whose
 * keys lie in one array, [n_parts + 1]; NULL: all of them. */
rb_status cuda_pass_alloc(cuda_pass *pass, bool stops_at_heads, const int64_t *part_start, int n_parts, rb_error *err);
/* In place of begin, choose_chunk and alloc: a pass that decodes, for chunks of at most max_chunk tokens at positions
 * below n_positions. */
rb_status cuda_pass_begin_decoding(cuda_pass *pass, const model_config *config, layer_cuda_precision precision,
                                   int64_t max_chunk, int64_t n_positions, rb_error *err);
void cuda_pass_end(cuda_pass *pass);

/* The weights of `layer`; those of the next one are begun. Release them (weight_stream_release) after the layer's last
 * kernel. */
rb_status cuda_pass_next_layer(cuda_pass *pass, int layer, device_layer *weights, rb_error *err);

/* ---- steps for tokens [first, first + n) of the batch, n <= chunk ------------------------------ */

/* `projected` = q, k, v of the normalised residual stream. */
rb_status cuda_pass_project(const cuda_pass *pass, const device_layer *weights, int64_t first, int64_t n,
                            rb_error *err);
/* The part of the kernel's input that the pass knows; the caller adds q and what is captured. */
layer_cuda_heads cuda_pass_heads(const cuda_pass *pass, const device_layer *weights, int layer, int64_t first,
                                 int64_t n);
/* q and what is captured out of `projected`, and rows of k and v for attention, unless the layer ends here. */
rb_status cuda_pass_run_heads(const cuda_pass *pass, const device_layer *weights, const layer_cuda_heads *in, void *k,
                              void *v, rb_error *err);
/* Rows of k and v for attention out of keys and values as they enter RoPE, f32 [n_kv_heads][in_stride][dims]. */
rb_status cuda_pass_turn(const cuda_pass *pass, const device_layer *weights, int layer, int64_t first, int64_t n,
                         const float *k_in, const float *v_in, int64_t in_stride, void *k, void *v, rb_error *err);
/* The part of attention's input that the pass knows; the caller adds the rest. attend: `attended` = attention. */
attention_cuda_input cuda_pass_attention(const cuda_pass *pass, int layer);
rb_status cuda_pass_attend(const cuda_pass *pass, const attention_cuda_input *in, rb_error *err);
/* Residual stream += o_proj(attended), then += MLP; of a layer with experts all but these. energy [n], on the device,
 * or NULL: what on_residual of model/forward.h gets. */
rb_status cuda_pass_finish(const cuda_pass *pass, const device_layer *weights, int layer, int64_t first, int64_t n,
                           double *energy, rb_error *err);

/* After all chunks of a layer: residual stream of all tokens += experts, where the layer has some. */
rb_status cuda_pass_finish_layer(cuda_pass *pass, int layer, rb_error *err);

/* ---- shared by the files of the pass ----------------------------------------------------------- */

/* y = x w^T on the pass's stream: m rows of k elements to rows of n. y is f32 where is_f32, otherwise in the
 * precision. */
rb_status cuda_pass_multiply(const cuda_pass *pass, void *y, bool is_f32, bool adds, const void *x, const void *w,
                             int64_t m, int64_t n, int64_t k, rb_error *err);
layer_cuda_norm cuda_pass_norm(const cuda_pass *pass, const void *weight, const void *bias);
/* activated = activation(rows w^T), a gated one where the family has gates; size: of `activated`. */
rb_status cuda_pass_gate_up(const cuda_pass *pass, const void *rows, const void *w, const void *bias, int64_t n,
                            int64_t size, rb_error *err);
/* Residual stream of tokens [first, first + n) += residual_scale * norm(x w^T + bias), x [n][k] in the precision; bias
 * and norm NULL for none. */
rb_status cuda_pass_add_product(const cuda_pass *pass, const void *x, const void *w, const void *bias, const void *norm,
                                int64_t first, int64_t n, int64_t k, rb_error *err);
float *cuda_pass_hidden(const cuda_pass *pass, int64_t token);

/* An array of the pass, and the bytes that it takes with some chunk. */
typedef struct cuda_array_size {
    rb_cuda_array *array;
    int64_t bytes;
} cuda_array_size;
enum { CUDA_PASS_MAX_ARRAYS = 32 };
typedef struct cuda_array_list {
    cuda_array_size at[CUDA_PASS_MAX_ARRAYS];
    int n;
} cuda_array_list;
void cuda_array_list_add(cuda_array_list *list, rb_cuda_array *array, int64_t bytes);

/* Latents: `projected` and the inputs of the heads kernel; rows of k and v out of `latent` and `key`. */
int64_t cuda_latent_projected_width(const model_config *config);
void cuda_latent_list(cuda_pass *pass, int64_t chunk, cuda_array_list *list);
rb_status cuda_latent_project(const cuda_pass *pass, const device_layer *weights, int64_t n, rb_error *err);
void cuda_latent_heads(const cuda_pass *pass, const device_layer *weights, layer_cuda_heads *in);
rb_status cuda_latent_expand(const cuda_pass *pass, const device_layer *weights, int64_t n, void *k, void *v,
                             rb_error *err);

/* Experts: begin to read the first of a layer; choose those of a chunk's tokens; run them on all tokens. */
void cuda_experts_list(cuda_pass *pass, int64_t chunk, cuda_array_list *list);
rb_status cuda_experts_open(cuda_pass *pass, rb_error *err);
void cuda_experts_close(cuda_pass *pass);
rb_status cuda_experts_begin(const cuda_pass *pass, int layer, rb_error *err);
rb_status cuda_experts_route(const cuda_pass *pass, const device_layer *weights, int64_t first, int64_t n,
                             rb_error *err);
rb_status cuda_experts_run(const cuda_pass *pass, int layer, rb_error *err);

#endif
