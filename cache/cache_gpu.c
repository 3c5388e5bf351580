/* See cache_gpu.h. */
#include "cache/cache_gpu.h"

rb_status cache_gpu_create(cache_gpu **out, const model_facts *model, const bit_plan *plan, const cache_layout *layouts,
                           rb_error *err)
{
    (void)model;
    (void)plan;
    (void)layouts;
    *out = NULL;
    return rb_fail(err, RB_EUNSUPPORTED, "packed caches on a GPU are not in this build");
}

void cache_gpu_free(cache_gpu *cache) { (void)cache; }

size_t cache_gpu_workspace_bytes(const cache_gpu *cache, int layer, int64_t n_sequences, int32_t max_length)
{
    (void)cache;
    (void)layer;
    (void)n_sequences;
    (void)max_length;
    return 0;
}

size_t cache_gpu_coding_bytes(const cache_gpu *cache, int layer, int64_t n)
{
    (void)cache;
    (void)layer;
    (void)n;
    return 0;
}

rb_status cache_gpu_encode(cache_gpu *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                           const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                           void *pages, void *workspace, void *stream, rb_error *err)
{
    (void)cache, (void)layer, (void)n, (void)keys, (void)values, (void)positions, (void)slots, (void)pages;
    (void)workspace, (void)stream;
    return rb_fail(err, RB_EUNSUPPORTED, "packed caches on a GPU are not in this build");
}

rb_status cache_gpu_decode(cache_gpu *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                           const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                           void *workspace, void *stream, rb_error *err)
{
    (void)cache, (void)layer, (void)n, (void)keys, (void)values, (void)positions, (void)slots, (void)pages;
    (void)workspace, (void)stream;
    return rb_fail(err, RB_EUNSUPPORTED, "packed caches on a GPU are not in this build");
}

rb_status cache_gpu_append(cache_gpu *cache, int layer, const ropebits_kv_tokens *tokens,
                           const ropebits_kv_pages *pages, void *workspace, void *stream, rb_error *err)
{
    (void)cache, (void)layer, (void)tokens, (void)pages, (void)workspace, (void)stream;
    return rb_fail(err, RB_EUNSUPPORTED, "packed caches on a GPU are not in this build");
}

rb_status cache_gpu_attend(cache_gpu *cache, int layer, const ropebits_kv_queries *queries,
                           const ropebits_kv_pages *pages, void *stream, rb_error *err)
{
    (void)cache, (void)layer, (void)queries, (void)pages, (void)stream;
    return rb_fail(err, RB_EUNSUPPORTED, "packed caches on a GPU are not in this build");
}
