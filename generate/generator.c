/* See generate/generator.h. */
#include "generate/generator.h"

#include <stdlib.h>

#include "generate/generator_device.h"

struct generator {
    generator_request request;
    const generator_device *device;
    sequence_cache cache;
    void *state;
    int64_t n_tokens;
    bool is_decoding; /* a token went by itself */
};

rb_status generator_open(generator **out, const generator_request *request, rb_error *err)
{
    generator *g = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&g, 1, sizeof *g, "generator", err), done);
    *g = (generator){.request = *request, .device = request->is_on_gpu ? &generator_cuda : &generator_cpu};
    RB_TRY(st,
           sequence_cache_create(&g->cache, &checkpoint_config(request->model)->facts, request->plan,
                                 request->is_on_gpu, 1, request->max_tokens, request->chunk, err),
           done);
    RB_TRY(st, g->device->open(&g->state, request, &g->cache, err), done);
    *out = g;
    g = NULL;
done:
    generator_close(g);
    return st;
}

void generator_close(generator *g)
{
    if (!g) return;
    g->device->close(g->state);
    sequence_cache_free(&g->cache);
    free(g);
}

rb_status generator_add(generator *g, const int32_t *tokens, int64_t n, float *logits, rb_error *err)
{
    rb_status st = RB_OK;
    if (n > g->request.max_tokens - g->n_tokens)
        return rb_fail(err, RB_EINVAL,
                       "the cache has room for %lld tokens, and %lld are there already: %lld do not fit",
                       (long long)g->request.max_tokens, (long long)g->n_tokens, (long long)n);
    for (int64_t first = 0, n_now; first < n && st == RB_OK; first += n_now) {
        const int64_t left = n - first, most = g->is_decoding ? 1 : g->request.chunk;
        n_now = left < most ? left : most;
        g->is_decoding = g->is_decoding || n_now == 1; /* attention of chunks does not see what single tokens keep */
        st = g->device->run(g->state, tokens + first, n_now, g->n_tokens, n_now == left ? logits : NULL, err);
        g->n_tokens += n_now;
    }
    return st;
}

int64_t generator_n_tokens(const generator *g) { return g->n_tokens; }
const sequence_cache *generator_cache(const generator *g) { return &g->cache; }
