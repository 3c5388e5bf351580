/* The packed KV cache: checks what is asked, and asks the CPU or the GPU. See kv_cache.h. */
#include "cache/kv_cache.h"

#include <stdlib.h>

#include "cache/cache_cpu.h"
#include "cache/cache_gpu.h"
#include "cache/kv_layout.h"

struct kv_cache {
    model_facts model;
    cache_layout *layouts; /* [n_layers] */
    int64_t n_sink, n_recent;
    bool is_coded;
    cache_cpu *cpu; /* one of the two */
    cache_gpu *gpu;
};

/* ---- life ------------------------------------------------------------------------------------ */

rb_status kv_cache_create(kv_cache **out, const model_facts *model, const bit_plan *plan, bool is_on_gpu, rb_error *err)
{
    kv_cache *cache = NULL;
    rb_status st;
    *out = NULL;
    if (model->value_dim != model->head_dim)
        return rb_fail(err, RB_EUNSUPPORTED, "values have %d dims and keys %d: a packed cache holds no latent vectors",
                       model->value_dim, model->head_dim);
    RB_TRY(st, rb_alloc(&cache, 1, sizeof *cache, "cache", err), done);
    cache->model = *model;
    cache->is_coded = plan != NULL;
    cache->n_sink = plan ? plan->n_sink : 0;
    cache->n_recent = plan ? plan->n_recent : 0;
    RB_TRY(st, rb_alloc(&cache->layouts, (size_t)model->n_layers, sizeof *cache->layouts, "cache", err), done);
    for (int layer = 0; layer < model->n_layers; layer++)
        RB_TRY(st, kv_layout_make(&cache->layouts[layer], model, plan, layer, err), done);
    st = is_on_gpu ? cache_gpu_create(&cache->gpu, &cache->model, plan, cache->layouts, err)
                   : cache_cpu_create(&cache->cpu, &cache->model, plan, cache->layouts, err);
    if (st != RB_OK) goto done;
    *out = cache;
    cache = NULL;
done:
    kv_cache_free(cache);
    return st;
}

void kv_cache_free(kv_cache *cache)
{
    if (!cache) return;
    cache_cpu_free(cache->cpu);
    cache_gpu_free(cache->gpu);
    for (int layer = 0; cache->layouts && layer < cache->model.n_layers; layer++)
        kv_layout_clear(&cache->layouts[layer]);
    free(cache->layouts);
    free(cache);
}

/* ---- what it is ------------------------------------------------------------------------------ */

const cache_layout *kv_cache_layout(const kv_cache *cache, int layer) { return &cache->layouts[layer]; }
const model_facts *kv_cache_model(const kv_cache *cache) { return &cache->model; }
bool kv_cache_is_on_gpu(const kv_cache *cache) { return cache->gpu != NULL; }
int64_t kv_cache_n_sink(const kv_cache *cache) { return cache->n_sink; }
int64_t kv_cache_n_recent(const kv_cache *cache) { return cache->n_recent; }

size_t kv_cache_exact_bytes(const kv_cache *cache)
{
    const size_t row = (size_t)cache->model.n_kv_heads * (size_t)(cache->model.head_dim + cache->model.value_dim);
    return (size_t)(cache->n_sink + cache->n_recent) * row * sizeof(uint16_t);
}

void kv_cache_set_runner(kv_cache *cache, kv_cache_runner runner)
{
    if (cache->cpu) cache->cpu->runner = runner;
}

size_t kv_cache_workspace_bytes(const kv_cache *cache, int layer, int64_t n_sequences, int32_t max_length)
{
    return cache->gpu ? cache_gpu_workspace_bytes(cache->gpu, layer, n_sequences, max_length) : 0;
}

size_t kv_cache_coding_bytes(const kv_cache *cache, int layer, int64_t n)
{
    return cache->gpu ? cache_gpu_coding_bytes(cache->gpu, layer, n) : 0;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static rb_status check_call(const kv_cache *cache, int layer, int64_t n, rb_error *err)
{
    if (layer < 0 || layer >= cache->model.n_layers)
        return rb_fail(err, RB_EINVAL, "layer is %d, expected 0 to %d", layer, cache->model.n_layers - 1);
    if (n < 0) return rb_fail(err, RB_EINVAL, "%lld vectors, expected 0 or more", (long long)n);
    return RB_OK;
}

static rb_status check_given(const void *pointer, const char *what, rb_error *err)
{
    return pointer ? RB_OK : rb_fail(err, RB_EINVAL, "%s is NULL", what);
}

static rb_status check_vectors(const ropebits_kv_vectors *vectors, const char *what, rb_error *err)
{
    if (!vectors || !vectors->data) return rb_fail(err, RB_EINVAL, "%s: no vectors are given", what);
    if (vectors->dtype < ROPEBITS_KV_F16 || vectors->dtype > ROPEBITS_KV_F32)
        return rb_fail(err, RB_EINVAL, "%s: dtype is %d, expected %d to %d", what, (int)vectors->dtype, ROPEBITS_KV_F16,
                       ROPEBITS_KV_F32);
    return RB_OK;
}

/* Keys that enter RoPE have no place in a cache in fp16 unless their position is known. */
static rb_status check_positions(const kv_cache *cache, const int32_t *positions, rb_error *err)
{
    if (cache->is_coded || positions) return RB_OK;
    return rb_fail(err, RB_EINVAL, "positions is NULL, expected those of the keys: a cache in fp16 holds turned keys");
}

static rb_status check_exact(const kv_cache *cache, const ropebits_kv_pages *pages, rb_error *err)
{
    const size_t bytes = kv_cache_exact_bytes(cache);
    if (bytes == 0) return RB_OK;
    if (!pages->exact)
        return rb_fail(err, RB_EINVAL, "exact is NULL, expected areas of %zu bytes: the plan keeps exact tokens",
                       bytes);
    if (pages->exact_stride_bytes < (int64_t)bytes)
        return rb_fail(err, RB_EINVAL, "exact_stride_bytes is %lld, expected %zu at least",
                       (long long)pages->exact_stride_bytes, bytes);
    return RB_OK;
}

static rb_status check_pages(const kv_cache *cache, const ropebits_kv_pages *pages, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_given(pages->pages, "pages", err), done);
    RB_TRY(st, check_given(pages->block_table, "block_table", err), done);
    RB_TRY(st, check_exact(cache, pages, err), done);
done:
    return st;
}

static rb_status check_tokens(const kv_cache *cache, const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages,
                              rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_given(tokens->token, "token", err), done);
    RB_TRY(st, check_vectors(&tokens->keys, "keys", err), done);
    RB_TRY(st, check_vectors(&tokens->values, "values", err), done);
    RB_TRY(st, check_pages(cache, pages, err), done);
done:
    return st;
}

static rb_status check_queries(const kv_cache *cache, const ropebits_kv_queries *queries,
                               const ropebits_kv_pages *pages, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_given(queries->length, "length", err), done);
    RB_TRY(st, check_vectors(&queries->queries, "queries", err), done);
    RB_TRY(st, check_vectors(&queries->out, "out", err), done);
    RB_TRY(st, check_pages(cache, pages, err), done);
    if (queries->max_length < 0 || queries->window < 0 || !(queries->softcap >= 0.0))
        st = rb_fail(err, RB_EINVAL, "max_length %d, window %d, softcap %g, expected 0 or more",
                     (int)queries->max_length, (int)queries->window, queries->softcap);
done:
    return st;
}

/* ---- calls ----------------------------------------------------------------------------------- */

rb_status kv_cache_encode(kv_cache *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                          const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                          void *pages, void *workspace, void *stream, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_call(cache, layer, n, err), done);
    if (n == 0) return RB_OK;
    RB_TRY(st, check_vectors(keys, "keys", err), done);
    RB_TRY(st, check_vectors(values, "values", err), done);
    RB_TRY(st, check_positions(cache, positions, err), done);
    RB_TRY(st, check_given(slots, "slots", err), done);
    RB_TRY(st, check_given(pages, "pages", err), done);
    st = cache->gpu
             ? cache_gpu_encode(cache->gpu, layer, n, keys, values, positions, slots, pages, workspace, stream, err)
             : cache_cpu_encode(cache->cpu, layer, n, keys, values, positions, slots, pages, err);
done:
    return st;
}

rb_status kv_cache_decode(kv_cache *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                          const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                          void *workspace, void *stream, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_call(cache, layer, n, err), done);
    if (n == 0) return RB_OK;
    if (keys) RB_TRY(st, check_vectors(keys, "keys", err), done);
    if (keys) RB_TRY(st, check_positions(cache, positions, err), done);
    if (values) RB_TRY(st, check_vectors(values, "values", err), done);
    RB_TRY(st, check_given(slots, "slots", err), done);
    RB_TRY(st, check_given(pages, "pages", err), done);
    st = cache->gpu
             ? cache_gpu_decode(cache->gpu, layer, n, slots, pages, positions, keys, values, workspace, stream, err)
             : cache_cpu_decode(cache->cpu, layer, n, slots, pages, positions, keys, values, err);
done:
    return st;
}

rb_status kv_cache_append(kv_cache *cache, int layer, const ropebits_kv_tokens *tokens, const ropebits_kv_pages *pages,
                          void *workspace, void *stream, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_call(cache, layer, tokens->n, err), done);
    if (tokens->n == 0) return RB_OK;
    RB_TRY(st, check_tokens(cache, tokens, pages, err), done);
    st = cache->gpu ? cache_gpu_append(cache->gpu, layer, tokens, pages, workspace, stream, err)
                    : cache_cpu_append(cache->cpu, layer, tokens, pages, err);
done:
    return st;
}

rb_status kv_cache_attend(kv_cache *cache, int layer, const ropebits_kv_queries *queries,
                          const ropebits_kv_pages *pages, void *stream, rb_error *err)
{
    rb_status st;
    RB_TRY(st, check_call(cache, layer, queries->n_sequences, err), done);
    if (queries->n_sequences == 0) return RB_OK;
    RB_TRY(st, check_queries(cache, queries, pages, err), done);
    st = cache->gpu ? cache_gpu_attend(cache->gpu, layer, queries, pages, stream, err)
                    : cache_cpu_attend(cache->cpu, layer, queries, pages, err);
done:
    return st;
}
