/* See generate/sequence_cache.h. */
#include "generate/sequence_cache.h"

#include <stdlib.h>
#include <string.h>

#include "core/cuda_device.h"

enum { ALIGNMENT = 128 }; /* of pages and of exact areas */

static size_t align(size_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* ---- memory ---------------------------------------------------------------------------------- */

static rb_status alloc_on_host(cache_memory *m, const char *what, rb_error *err)
{
    m->at = aligned_alloc(ALIGNMENT, align(m->size_bytes));
    if (!m->at) return rb_fail(err, RB_ENOMEM, "%s: no memory for %zu bytes", what, m->size_bytes);
    memset(m->at, 0, m->size_bytes);
    return RB_OK;
}

static rb_status alloc_on_gpu(cache_memory *m, const char *what, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda_alloc(&m->at, m->size_bytes, 1, what, err), done);
    RB_TRY(st, rb_cuda()->fill(m->at, 0, m->size_bytes, NULL, err), done);
    st = rb_cuda()->stream_wait(NULL, err); /* other streams do not wait for this one */
done:
    return st;
}

rb_status cache_memory_alloc(cache_memory *m, size_t size_bytes, bool is_on_gpu, const char *what, rb_error *err)
{
    *m = (cache_memory){.size_bytes = size_bytes, .is_on_gpu = is_on_gpu};
    if (size_bytes == 0) return RB_OK;
    return is_on_gpu ? alloc_on_gpu(m, what, err) : alloc_on_host(m, what, err);
}

void cache_memory_free(cache_memory *m)
{
    if (m->is_on_gpu && m->at) rb_cuda_free(m->at, m->size_bytes, 1);
    else free(m->at);
    *m = (cache_memory){0};
}

rb_status cache_memory_write(void *to, const void *host, size_t size_bytes, bool is_on_gpu, rb_error *err)
{
    if (!is_on_gpu) {
        memcpy(to, host, size_bytes);
        return RB_OK;
    }
    const rb_status st = rb_cuda()->copy(to, host, size_bytes, NULL, err);
    return st == RB_OK ? rb_cuda()->stream_wait(NULL, err) : st;
}

/* ---- the cache ------------------------------------------------------------------------------- */

static size_t largest(size_t a, size_t b) { return a > b ? a : b; }

static size_t workspace_bytes(const sequence_cache *c, int64_t max_tokens, int64_t max_new)
{
    size_t n = 0;
    for (int layer = 0; layer < c->n_layers; layer++) {
        n = largest(n, kv_cache_workspace_bytes(c->kv, layer, c->n_sequences, (int32_t)max_tokens));
        n = largest(n, kv_cache_coding_bytes(c->kv, layer, max_new));
    }
    return n;
}

/* Numbers 0, 1, 2, ...: the sequences, and all pages as the block table has them. */
static rb_status write_numbers(cache_memory *m, int64_t n, bool is_on_gpu, rb_error *err)
{
    int32_t *numbers = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&numbers, (size_t)n, sizeof *numbers, "block table", err), done);
    for (int64_t i = 0; i < n; i++) numbers[i] = (int32_t)i;
    RB_TRY(st, cache_memory_alloc(m, (size_t)n * sizeof *numbers, is_on_gpu, "block table", err), done);
    st = cache_memory_write(m->at, numbers, (size_t)n * sizeof *numbers, is_on_gpu, err);
done:
    free(numbers);
    return st;
}

/* On all threads. */
static void run_tasks(void (*task)(void *context, int64_t i), void *context, int64_t n)
{
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) task(context, i);
}

static rb_status alloc_layer(sequence_cache *c, int layer, rb_error *err)
{
    const size_t page = (size_t)kv_cache_layout(c->kv, layer)->page_bytes, n = (size_t)(c->n_sequences * c->n_pages);
    const rb_status st = cache_memory_alloc(&c->pages[layer], page * n, c->is_on_gpu, "pages of the cache", err);
    if (st != RB_OK) return st;
    return cache_memory_alloc(&c->exact[layer], (size_t)(c->exact_stride_bytes * c->n_sequences), c->is_on_gpu,
                              "exact tokens of the cache", err);
}

rb_status sequence_cache_create(sequence_cache *out, const model_facts *model, const bit_plan *plan, bool is_on_gpu,
                                int64_t n_sequences, int64_t max_tokens, int64_t max_new, rb_error *err)
{
    const size_t n_layers = (size_t)model->n_layers;
    sequence_cache *c = out;
    rb_status st;
    *c = (sequence_cache){.is_on_gpu = is_on_gpu,
                          .n_layers = model->n_layers,
                          .n_sequences = n_sequences,
                          .n_pages = (max_tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS};
    RB_TRY(st, kv_cache_create(&c->kv, model, plan, is_on_gpu, err), done);
    if (!is_on_gpu) kv_cache_set_runner(c->kv, run_tasks);
    c->exact_stride_bytes = (int64_t)align(kv_cache_exact_bytes(c->kv));
    RB_TRY(st, rb_alloc(&c->pages, n_layers, sizeof *c->pages, "pages", err), done);
    RB_TRY(st, rb_alloc(&c->exact, n_layers, sizeof *c->exact, "pages", err), done);
    for (int layer = 0; layer < c->n_layers; layer++) RB_TRY(st, alloc_layer(c, layer, err), done);
    RB_TRY(st, write_numbers(&c->block_table, n_sequences * c->n_pages, is_on_gpu, err), done);
    RB_TRY(st, write_numbers(&c->sequence, n_sequences, is_on_gpu, err), done);
    st = cache_memory_alloc(&c->workspace, workspace_bytes(c, max_tokens, max_new), is_on_gpu, "cache workspace", err);
done:
    if (st != RB_OK) sequence_cache_free(c);
    return st;
}

void sequence_cache_free(sequence_cache *c)
{
    for (int layer = 0; layer < c->n_layers; layer++) {
        if (c->pages) cache_memory_free(&c->pages[layer]);
        if (c->exact) cache_memory_free(&c->exact[layer]);
    }
    free(c->pages);
    free(c->exact);
    cache_memory_free(&c->block_table);
    cache_memory_free(&c->sequence);
    cache_memory_free(&c->workspace);
    kv_cache_free(c->kv);
    *c = (sequence_cache){0};
}

ropebits_kv_pages sequence_cache_layer(const sequence_cache *c, int layer)
{
    return (ropebits_kv_pages){.pages = c->pages[layer].at,
                               .block_table = c->block_table.at,
                               .block_stride = c->n_pages,
                               .exact = c->exact[layer].at,
                               .exact_stride_bytes = c->exact_stride_bytes};
}

int64_t sequence_cache_bytes(const sequence_cache *c, int64_t n_tokens)
{
    const int64_t n_pages = (n_tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    int64_t total = c->n_layers * (int64_t)kv_cache_exact_bytes(c->kv);
    for (int layer = 0; layer < c->n_layers; layer++) total += n_pages * kv_cache_layout(c->kv, layer)->page_bytes;
    return total;
}

int64_t sequence_cache_fp16_bytes(const sequence_cache *c, int64_t n_tokens)
{
    const model_facts *model = kv_cache_model(c->kv);
    const int64_t n_pages = (n_tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    return n_pages * CACHE_PAGE_TOKENS * model->n_layers * model->n_kv_heads * (model->head_dim + model->value_dim)
           * (int64_t)sizeof(uint16_t);
}
