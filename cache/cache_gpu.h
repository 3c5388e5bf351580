/* Encoding, decoding and attention on the GPU, through cache/cuda/cache_cuda.h; arguments and results as in kv_cache.h,
 * where pointers are to device memory. rb_cuda_open first. */
#ifndef RB_CACHE_CACHE_GPU_H
#define RB_CACHE_CACHE_GPU_H

#include "cache/cache_layout.h"
#include "cache/library/ropebits_kv.h"
#include "plan/bit_plan.h"

typedef struct cache_gpu cache_gpu;

/* plan NULL: fp16. layouts [n_layers] and model live as long as the cache; of the plan it copies what it needs. Fails
 * with RB_EUNSUPPORTED for what the kernels do not take. */
rb_status cache_gpu_create(cache_gpu **out, const model_facts *model, const bit_plan *plan, const cache_layout *layouts,
                           rb_error *err);
void cache_gpu_free(cache_gpu *cache); /* NULL is fine */
size_t cache_gpu_workspace_bytes(const cache_gpu *cache, int layer, int64_t n_sequences, int32_t max_length);
size_t cache_gpu_coding_bytes(const cache_gpu *cache, int layer, int64_t n);

/* kv_cache.c has checked: layer, counts and dtypes are in range, and pointers that are needed are not NULL. */
rb_status cache_gpu_encode(cache_gpu *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                           const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                           void *pages, void *workspace, void *stream, rb_error *err);
rb_status cache_gpu_decode(cache_gpu *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                           const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                           void *workspace, void *stream, rb_error *err);
rb_status cache_gpu_append(cache_gpu *cache, int layer, const ropebits_kv_tokens *tokens,
                           const ropebits_kv_pages *pages, void *workspace, void *stream, rb_error *err);
rb_status cache_gpu_attend(cache_gpu *cache, int layer, const ropebits_kv_queries *queries,
                           const ropebits_kv_pages *pages, void *stream, rb_error *err);

#endif
