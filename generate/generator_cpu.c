/* A generator on the CPU: see generate/generator_device.h. */
#include <stdlib.h>

#include "generate/chunk_attention.h"
#include "generate/generator_device.h"
#include "model/decode_pass.h"

typedef struct cpu_state {
    const model_config *config;
    const sequence_cache *cache;
    decode_pass *pass;
    chunk_attention *chunks;
} cpu_state;

static void close_cpu(void *state)
{
    cpu_state *s = state;
    if (!s) return;
    decode_pass_close(s->pass);
    chunk_attention_free(s->chunks);
    free(s);
}

static rb_status open_cpu(void **out, const generator_request *request, const sequence_cache *cache, rb_error *err)
{
    cpu_state *s = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&s, 1, sizeof *s, "generator", err), done);
    *s = (cpu_state){.config = checkpoint_config(request->model), .cache = cache};
    RB_TRY(st, decode_pass_open(&s->pass, request->model, request->chunk, request->max_tokens, err), done);
    RB_TRY(st, chunk_attention_create(&s->chunks, s->config, cache, request->max_tokens, request->chunk, err), done);
    *out = s;
    s = NULL;
done:
    close_cpu(s);
    return st;
}

/* Of one token the rows of a head are one after the other. */
static ropebits_kv_vectors vectors_of(const float *data, int n_heads, int dim)
{
    return (ropebits_kv_vectors){
        .data = (void *)data, .dtype = ROPEBITS_KV_F32, .token_stride = (int64_t)n_heads * dim, .head_stride = dim};
}

static rb_status attend_token(const cpu_state *s, const decode_heads *heads, rb_error *err)
{
    const model_facts *facts = &s->config->facts;
    const int32_t token = (int32_t)heads->first_position, length = token + 1;
    const ropebits_kv_pages pages = sequence_cache_layer(s->cache, heads->layer);
    const ropebits_kv_tokens tokens = {.n = 1,
                                       .token = &token,
                                       .keys = vectors_of(heads->k, facts->n_kv_heads, facts->head_dim),
                                       .values = vectors_of(heads->v, facts->n_kv_heads, facts->value_dim)};
    const ropebits_kv_queries queries = {.n_sequences = 1,
                                         .length = &length,
                                         .max_length = length,
                                         .queries = vectors_of(heads->q, facts->n_q_heads, facts->head_dim),
                                         .out = vectors_of(heads->attended, facts->n_q_heads, facts->value_dim),
                                         .scale = facts->attention_scale,
                                         .softcap = s->config->attention_softcap,
                                         .window =
                                             s->config->layer_slides[heads->layer] ? s->config->sliding_window : 0,
                                         .workspace = s->cache->workspace.at};
    rb_status st;
    RB_TRY(st, kv_cache_append(s->cache->kv, heads->layer, &tokens, &pages, s->cache->workspace.at, NULL, err), done);
    st = kv_cache_attend(s->cache->kv, heads->layer, &queries, &pages, NULL, err);
done:
    return st;
}

static rb_status attend(void *user, const decode_heads *heads, rb_error *err)
{
    const cpu_state *s = user;
    return heads->n_tokens == 1 ? attend_token(s, heads, err) : chunk_attention_run(s->chunks, heads, err);
}

static rb_status run_cpu(void *state, const int32_t *tokens, int64_t n, int64_t first_position, float *logits,
                         rb_error *err)
{
    cpu_state *s = state;
    const decode_hooks hooks = {.user = s, .attend = attend};
    return decode_pass_run(s->pass, tokens, n, first_position, &hooks, logits, err);
}

const generator_device generator_cpu = {.open = open_cpu, .run = run_cpu, .close = close_cpu};
