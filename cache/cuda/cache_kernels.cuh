/* The functions of cache_cuda_api that move tokens: see cache/cuda/cache_cuda.h. */
#ifndef RB_CACHE_CUDA_CACHE_KERNELS_CUH
#define RB_CACHE_CUDA_CACHE_KERNELS_CUH

#include "core/cuda_check.cuh"

#include "cache/cuda/cache_cuda.h"

rb_status cache_fill_positions(uint32_t *positions, const turn_call *turn, int64_t n_tiles, void *stream,
                               rb_error *err);
rb_status cache_turn(const turn_call *turn, const ropebits_kv_vectors *to, const ropebits_kv_vectors *from, int64_t n,
                     const int32_t *positions, int sign, void *stream, rb_error *err);
rb_status cache_copy_codes(const attend_side *side, uint8_t *streams, uint8_t *norms, int64_t n, const int64_t *slots,
                           void *pages, int64_t page_bytes, int to_pages, void *stream, rb_error *err);
rb_status cache_copy_halves(const attend_side *side, const ropebits_kv_vectors *vectors, int64_t n,
                            const int64_t *slots, void *pages, int64_t page_bytes, int to_pages, void *stream,
                            rb_error *err);
rb_status cache_route_tokens(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, int n_sink, int n_recent,
                             const cache_route *route, void *stream, rb_error *err);
rb_status cache_gather(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, const cache_route *route,
                       const turn_call *turn, float *keys, float *values, void *stream, rb_error *err);
rb_status cache_keep_exact(const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages, const turn_call *turn,
                           int n_sink, int n_recent, void *stream, rb_error *err);

#endif
