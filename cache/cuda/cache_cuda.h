/* The packed KV cache on the GPU: what its kernels take (cache/cuda/attend_image.h has the tables). Everything is in
 * the device's memory but the structs themselves. Asynchronous on the stream.
 *
 * Attention runs as three kernels over all sequences, KV heads and splits. A split is a run of pages.
 *   scores  packed keys -> weights of every token, over the largest of its page
 *   values  weights and packed values -> each split's weighed sum, in numbers of the value codec
 *   merge   splits, and exact tokens -> output; multiplies by the matrix that makes dims of numbers
 * Weights are fp16, times 8192 so that small ones keep their bits; logits never leave the multiprocessor. */
#ifndef RB_CACHE_CUDA_CACHE_CUDA_H
#define RB_CACHE_CUDA_CACHE_CUDA_H

#include "cache/cuda/attend_image.h"
#include "cache/library/ropebits_kv.h"
#include "core/cuda_device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of one call. */
typedef struct attend_call {
    attend_side keys, values; /* on the device */
    ropebits_kv_queries queries;
    ropebits_kv_pages pages;
    int64_t page_bytes;
    const uint32_t *positions; /* [n_tiles][n_blocks][2]: fill_positions */
    int n_kv_heads, n_q_heads, head_dim, value_dim;
    int n_sink, n_recent;
    double scale;
    void *workspace;
} attend_call;

/* How a layer's keys turn. */
typedef struct turn_call {
    const double *inv_freq; /* [n_blocks] on the device: radians a token, 0 for blocks that do not turn */
    const float *gain;      /* [n_blocks] on the device: what RoPE multiplies by */
    const uint16_t *dims;   /* [n_blocks][2] on the device */
    int n_kv_heads, head_dim, value_dim;
} turn_call;

/* What leaves the exact area, or never enters it, when tokens are appended: vector i makes one token leave at most.
 * Arrays on the device. */
typedef struct cache_route {
    int64_t *source;   /* [n]: the vector of the call, or -1 - row of the exact area */
    int64_t *slot;     /* [n]: where its codes go; -1: nothing leaves */
    int32_t *position; /* [n] */
} cache_route;

typedef struct cache_cuda_api {
    int64_t (*attend_bytes)(int n_kv_heads, int n_q_heads, int value_dim, int64_t n_sequences, int32_t max_length);
    rb_status (*attend)(const attend_call *call, void *stream, rb_error *err);
    /* How a tile's first position turns every block back: with its cosine c and sine s the fp16 pairs (c, -s) and
     * (s, c), positions [n_tiles][n_blocks][2]. */
    rb_status (*fill_positions)(uint32_t *positions, const turn_call *turn, int64_t n_tiles, void *stream,
                                rb_error *err);
    /* n keys of every head, turned by positions [n] (sign 1), or turned back (sign -1); positions NULL: as they are. */
    rb_status (*turn)(const turn_call *turn, const ropebits_kv_vectors *to, const ropebits_kv_vectors *from, int64_t n,
                      const int32_t *positions, int sign, void *stream, rb_error *err);
    /* Codes and norms of n tokens between streams (kernels/cuda/codec_image.h) and slots. Slots below 0: skipped. */
    rb_status (*copy_codes)(const attend_side *side, uint8_t *streams, uint8_t *norms, int64_t n, const int64_t *slots,
                            void *pages, int64_t page_bytes, int to_pages, void *stream, rb_error *err);
    /* fp16 vectors between the caller's and slots, for sides that code nothing. */
    rb_status (*copy_halves)(const attend_side *side, const ropebits_kv_vectors *vectors, int64_t n,
                             const int64_t *slots, void *pages, int64_t page_bytes, int to_pages, void *stream,
                             rb_error *err);
    rb_status (*route)(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, int n_sink, int n_recent,
                       const cache_route *route, void *stream, rb_error *err);
    /* keys [n][n_kv_heads][head_dim] and values [n][n_kv_heads][value_dim], f32, of the routed tokens; keys as they
     * enter RoPE. */
    rb_status (*gather)(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, const cache_route *route,
                        const turn_call *turn, float *keys, float *values, void *stream, rb_error *err);
    /* New tokens that are exact now, into the exact area. */
    rb_status (*keep_exact)(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, const turn_call *turn,
                            int n_sink, int n_recent, void *stream, rb_error *err);
} cache_cuda_api;

#ifdef __cplusplus
}
#endif

#endif
