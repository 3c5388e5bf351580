/* See generate/device_attention.h. */
#include "generate/device_attention.h"

static ropebits_kv_dtype dtype_of(layer_cuda_precision precision)
{
    return precision == LAYER_CUDA_BF16 ? ROPEBITS_KV_BF16 : ROPEBITS_KV_F32;
}

/* Rows of heads of n tokens. */
static ropebits_kv_vectors rows_of(const void *data, layer_cuda_precision precision, int n_heads, int dim)
{
    return (ropebits_kv_vectors){
        .data = (void *)data, .dtype = dtype_of(precision), .token_stride = (int64_t)n_heads * dim, .head_stride = dim};
}

/* [heads][n][dim], f32. */
static ropebits_kv_vectors parts_of(const float *data, int64_t n, int dim)
{
    return (ropebits_kv_vectors){
        .data = (void *)data, .dtype = ROPEBITS_KV_F32, .token_stride = dim, .head_stride = n * dim};
}

static rb_status append(const sequence_cache *cache, const device_decode_heads *heads, const int32_t *sequence,
                        rb_error *err)
{
    const model_facts *model = kv_cache_model(cache->kv);
    const ropebits_kv_pages pages = sequence_cache_layer(cache, heads->layer);
    const ropebits_kv_tokens tokens = {.n = heads->n,
                                       .sequence = sequence,
                                       .token = heads->positions,
                                       .keys = parts_of(heads->k, heads->n, model->head_dim),
                                       .values = parts_of(heads->v, heads->n, model->value_dim)};
    return kv_cache_append(cache->kv, heads->layer, &tokens, &pages, cache->workspace.at, heads->stream, err);
}

rb_status device_attention_append(const sequence_cache *cache, const device_decode_heads *heads, rb_error *err)
{
    return append(cache, heads, NULL, err);
}

rb_status device_attention_run(const sequence_cache *cache, const model_config *config,
                               const device_decode_heads *heads, int32_t max_length, rb_error *err)
{
    const model_facts *facts = &config->facts;
    const ropebits_kv_pages pages = sequence_cache_layer(cache, heads->layer);
    const ropebits_kv_queries queries = {
        .n_sequences = heads->n,
        .length = heads->lengths,
        .max_length = max_length,
        .queries = rows_of(heads->q, heads->precision, facts->n_q_heads, facts->head_dim),
        .out = rows_of(heads->attended, heads->precision, facts->n_q_heads, facts->value_dim),
        .scale = facts->attention_scale,
        .softcap = config->attention_softcap,
        .window = config->layer_slides[heads->layer] ? config->sliding_window : 0,
        .workspace = cache->workspace.at};
    rb_status st;
    RB_TRY(st, append(cache, heads, cache->sequence.at, err), done);
    st = kv_cache_attend(cache->kv, heads->layer, &queries, &pages, heads->stream, err);
done:
    return st;
}
