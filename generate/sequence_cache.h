/* The memory of a packed cache for a fixed number of sequences of at most max_tokens: pages and exact areas of every
 * layer, block tables, workspace; on the CPU or on the GPU that is open. Sequence s has pages s * n_pages to
 * (s + 1) * n_pages - 1 of every layer's pool, in order. So token t of sequence 0 is in slot t. */
#ifndef RB_GENERATE_SEQUENCE_CACHE_H
#define RB_GENERATE_SEQUENCE_CACHE_H

#include <stdbool.h>

#include "cache/kv_cache.h"

/* Memory of the host or the device, zeroed. */
typedef struct cache_memory {
    void *at;
    size_t size_bytes;
    bool is_on_gpu;
} cache_memory;
rb_status cache_memory_alloc(cache_memory *out, size_t size_bytes, bool is_on_gpu, const char *what, rb_error *err);
void cache_memory_free(cache_memory *memory);
/* Bytes of the host to a place in it, or back; waits until they are there. */
rb_status cache_memory_write(void *to, const void *host, size_t size_bytes, bool is_on_gpu, rb_error *err);

typedef struct sequence_cache {
    kv_cache *kv; /* owned */
    bool is_on_gpu;
    int n_layers;
    int64_t n_sequences, n_pages;                  /* pages of a sequence in a layer */
    int64_t exact_stride_bytes;                    /* 0: the plan keeps nothing exact */
    cache_memory *pages, *exact;                   /* [n_layers] */
    cache_memory block_table, sequence, workspace; /* sequence [n_sequences]: 0, 1, 2, ... */
} sequence_cache;

/* plan NULL: fp16. Up to max_new tokens are appended or decoded at a time. Fails as kv_cache_create does, and with
 * RB_ENOMEM. */
rb_status sequence_cache_create(sequence_cache *out, const model_facts *model, const bit_plan *plan, bool is_on_gpu,
                                int64_t n_sequences, int64_t max_tokens, int64_t max_new, rb_error *err);
void sequence_cache_free(sequence_cache *cache);
ropebits_kv_pages sequence_cache_layer(const sequence_cache *cache, int layer);
/* Bytes of pages and exact areas that a sequence of n_tokens takes, and of the same pages in fp16. */
int64_t sequence_cache_bytes(const sequence_cache *cache, int64_t n_tokens);
int64_t sequence_cache_fp16_bytes(const sequence_cache *cache, int64_t n_tokens);

#endif
