/* The packed KV cache of a model by a plan, or in fp16 without one: layouts, codecs, and on a GPU their images. What
 * pages, slots, exact areas and the structs mean: cache/library/ropebits_kv.h, which wraps this for other programs.
 *
 * Where things are: cache_layout.h the bytes of a page; cache_cpu.c encoding, decoding and attention on the CPU, in
 * double, the definition; cache_gpu.c the same on the GPU through cache/cuda/cache_cuda.h; kv_cache.c the choice. */
#ifndef RB_CACHE_KV_CACHE_H
#define RB_CACHE_KV_CACHE_H

#include "cache/cache_layout.h"
#include "cache/library/ropebits_kv.h"
#include "plan/bit_plan.h"

typedef struct kv_cache kv_cache;

/* plan NULL: a cache in fp16. is_on_gpu: rb_cuda_open first. Copies what it needs. Fails with RB_EUNSUPPORTED for a
 * latent cache (MLA: value_dim is not head_dim), and on a GPU for what its kernels do not take. */
rb_status kv_cache_create(kv_cache **out, const model_facts *model, const bit_plan *plan, bool is_on_gpu,
                          rb_error *err);
void kv_cache_free(kv_cache *cache);
const cache_layout *kv_cache_layout(const kv_cache *cache, int layer);
const model_facts *kv_cache_model(const kv_cache *cache);
bool kv_cache_is_on_gpu(const kv_cache *cache);
int64_t kv_cache_n_sink(const kv_cache *cache);
int64_t kv_cache_n_recent(const kv_cache *cache);
size_t kv_cache_exact_bytes(const kv_cache *cache);

/* Runs task(context, i) for every i < n, in any order, on any threads, and returns when all are done. */
typedef void (*kv_cache_runner)(void (*task)(void *context, int64_t i), void *context, int64_t n);
/* What shares out the work of a call on the CPU; without one it is done in turn. Results are the same for any. */
void kv_cache_set_runner(kv_cache *cache, kv_cache_runner runner);

size_t kv_cache_workspace_bytes(const kv_cache *cache, int layer, int64_t n_sequences, int32_t max_length);
size_t kv_cache_coding_bytes(const kv_cache *cache, int layer, int64_t n);

/* Arguments are checked, those on a GPU as far as the host sees them: RB_EINVAL. A cache in fp16 holds keys as they
 * leave RoPE, so encode and decode want positions there. After a failure, slots and output are as they may be. */
rb_status kv_cache_encode(kv_cache *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                          const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                          void *pages, void *workspace, void *stream, rb_error *err);
rb_status kv_cache_decode(kv_cache *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                          const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                          void *workspace, void *stream, rb_error *err);
rb_status kv_cache_append(kv_cache *cache, int layer, const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages,
                          void *workspace, void *stream, rb_error *err);
rb_status kv_cache_attend(kv_cache *cache, int layer, const ropebits_kv_queries *queries,
                          const ropebits_kv_pages *pages, void *stream, rb_error *err);

#endif
