/* The packed cache on the CPU: its codecs, tiles and turning. See cache_cpu.h. */
#include "cache/cache_cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cache/kv_layout.h"
#include "core/half.h"
#include "kernels/reference/bit_packing.h"
#include "model/rope_turn.h"

/* ---- life ------------------------------------------------------------------------------------ */

static rb_status create_values(cache_cpu *cache, const bit_plan *plan, int layer, int kv_head, rb_error *err)
{
    const model_facts facts = model_value_facts(&plan->model);
    const int64_t h = (int64_t)layer * facts.n_kv_heads + kv_head;
    plan_head head = {0};
    rb_status st;
    if (!bit_plan_quantizes_values(plan)) return RB_OK;
    RB_TRY(st, bit_plan_value_head(plan, layer, kv_head, &head, err), done);
    RB_TRY(st, head_codec_create(&cache->values[h], &head, &facts, cache->tables, err), done);
done:
    plan_head_clear(&head);
    return st;
}

static rb_status create_codecs(cache_cpu *cache, const bit_plan *plan, rb_error *err)
{
    const model_facts *model = &plan->model;
    rb_status st = codec_tables_create(&cache->tables, err);
    for (int h = 0; h < bit_plan_n_heads(plan) && st == RB_OK; h++) {
        const int layer = h / model->n_kv_heads, kv_head = h % model->n_kv_heads;
        st = head_codec_create(&cache->keys[h], &plan->heads[h], model, cache->tables, err);
        if (st == RB_OK) st = create_values(cache, plan, layer, kv_head, err);
        if (st != RB_OK) rb_fail_in(err, st, "layer %d kv_head %d", layer, kv_head);
    }
    return st;
}

rb_status cache_cpu_create(cache_cpu **out, const model_facts *model, const bit_plan *plan, const cache_layout *layouts,
                           rb_error *err)
{
    const size_t n_heads = (size_t)model->n_layers * (size_t)model->n_kv_heads;
    cache_cpu *cache = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&cache, 1, sizeof *cache, "cache", err), done);
    *cache = (cache_cpu){.model = model, .layouts = layouts, .is_coded = plan != NULL};
    RB_TRY(st, rb_alloc(&cache->keys, n_heads, sizeof *cache->keys, "cache", err), done);
    RB_TRY(st, rb_alloc(&cache->values, n_heads, sizeof *cache->values, "cache", err), done);
    if (plan) {
        cache->n_sink = plan->n_sink;
        cache->n_recent = plan->n_recent;
        RB_TRY(st, create_codecs(cache, plan, err), done);
    }
    *out = cache;
    cache = NULL;
done:
    cache_cpu_free(cache);
    return st;
}

void cache_cpu_free(cache_cpu *cache)
{
    if (!cache) return;
    for (int h = 0; h < cache->model->n_layers * cache->model->n_kv_heads; h++) {
        if (cache->keys) head_codec_free(cache->keys[h]);
        if (cache->values) head_codec_free(cache->values[h]);
    }
    free(cache->keys);
    free(cache->values);
    codec_tables_free(cache->tables);
    free(cache);
}

void cache_cpu_run(const cache_cpu *cache, void (*task)(void *context, int64_t i), void *context, int64_t n)
{
    if (cache->runner) cache->runner(task, context, n);
    else
        for (int64_t i = 0; i < n; i++) task(context, i);
}

/* ---- vectors --------------------------------------------------------------------------------- */

static int64_t vector_at(const ropebits_kv_vectors *vectors, int64_t i, int head)
{
    return i * vectors->token_stride + head * vectors->head_stride;
}

void cache_vector_load(float *x, const ropebits_kv_vectors *vectors, int64_t i, int head, int dims)
{
    const int64_t at = vector_at(vectors, i, head);
    const uint16_t *words = (const uint16_t *)vectors->data + (vectors->dtype == ROPEBITS_KV_F32 ? 0 : at);
    if (vectors->dtype == ROPEBITS_KV_F32) memcpy(x, (const float *)vectors->data + at, (size_t)dims * sizeof *x);
    else if (vectors->dtype == ROPEBITS_KV_F16)
        for (int d = 0; d < dims; d++) x[d] = rb_f16_to_f32(words[d]);
    else
        for (int d = 0; d < dims; d++) x[d] = rb_bf16_to_f32(words[d]);
}

void cache_vector_store(const ropebits_kv_vectors *vectors, int64_t i, int head, int dims, const float *x)
{
    const int64_t at = vector_at(vectors, i, head);
    uint16_t *words = (uint16_t *)vectors->data + (vectors->dtype == ROPEBITS_KV_F32 ? 0 : at);
    if (vectors->dtype == ROPEBITS_KV_F32) memcpy((float *)vectors->data + at, x, (size_t)dims * sizeof *x);
    else if (vectors->dtype == ROPEBITS_KV_F16)
        for (int d = 0; d < dims; d++) words[d] = rb_f32_to_f16(x[d]);
    else
        for (int d = 0; d < dims; d++) words[d] = rb_f32_to_bf16(x[d]);
}

rb_status cache_vector_check(const float *x, int dims, rb_error *err)
{
    const float too_large = 65520.0f; /* rounds to fp16's infinity */
    for (int d = 0; d < dims; d++)
        if (!(fabsf(x[d]) < too_large))
            return rb_fail(err, RB_ENONFINITE, "dim %d is %g, expected a finite number that fp16 holds", d,
                           (double)x[d]);
    return RB_OK;
}

ropebits_kv_vectors cache_exact_rows(const cache_cpu *cache, const ropebits_kv_pages *pages, int64_t sequence,
                                     bool is_value)
{
    const model_facts *model = cache->model;
    uint16_t *area = (uint16_t *)((uint8_t *)pages->exact + sequence * pages->exact_stride_bytes);
    return (ropebits_kv_vectors){.data = is_value ? area + model->n_kv_heads * model->head_dim : area,
                                 .dtype = ROPEBITS_KV_F16,
                                 .token_stride = (int64_t)model->n_kv_heads * (model->head_dim + model->value_dim),
                                 .head_stride = is_value ? model->value_dim : model->head_dim};
}

/* ---- turning --------------------------------------------------------------------------------- */

void cache_rope_row(float *cos_row, float *sin_row, const model_facts *model, int layer, int64_t position)
{
    rope_row_fill(cos_row, sin_row, model_rope(model, layer), model->rotary_dim / 2, position);
}

void cache_rope_turn(float *key, const float *cos_row, const float *sin_row, const model_facts *model, int layer)
{
    rope_turn(key, cos_row, sin_row, model->rotary_dim / 2, model_rope(model, layer)->pairing);
}

/* cos and sin have the attention factor, so the transpose is off by its square. */
void cache_rope_turn_back(float *key, const float *cos_row, const float *sin_row, const model_facts *model, int layer)
{
    const rope_facts *rope = model_rope(model, layer);
    rope_turn_transposed(key, cos_row, sin_row, model->rotary_dim / 2, rope->pairing);
    if (rope->attention_factor == 1.0) return;
    const double scale = 1.0 / (rope->attention_factor * rope->attention_factor);
    for (int d = 0; d < model->rotary_dim; d++) key[d] = (float)((double)key[d] * scale);
}

/* ---- tiles ----------------------------------------------------------------------------------- */

rb_status cache_tile_alloc(cache_tile *tile, int dims, const head_codec *codec, rb_error *err)
{
    const size_t n = CACHE_PAGE_TOKENS * (size_t)dims;
    rb_status st;
    *tile = (cache_tile){.dims = dims};
    RB_TRY(st, rb_alloc(&tile->x, n, sizeof *tile->x, "tile of a cache", err), done);
    if (!codec) goto done;
    RB_TRY(st, rb_alloc(&tile->codes, n, 1, "tile of a cache", err), done);
    RB_TRY(st,
           rb_alloc(&tile->norms, CACHE_PAGE_TOKENS * (size_t)head_codec_n_norms(codec), sizeof *tile->norms,
                    "tile of a cache", err),
           done);
done:
    if (st != RB_OK) cache_tile_free(tile);
    return st;
}

void cache_tile_free(cache_tile *tile)
{
    free(tile->x);
    free(tile->codes);
    free(tile->norms);
    *tile = (cache_tile){0};
}

/* Norms as a page has them, fp16 words or bytes, least significant byte first. */
static void pack_norms(uint8_t *out, const uint16_t *norms, int n_norms, int n_bytes)
{
    const int size = n_norms > 0 ? n_bytes / n_norms : 0;
    for (int i = 0; i < n_norms * size; i++) out[i] = (uint8_t)(norms[i / size] >> 8 * (i % size));
}

static void unpack_norms(uint16_t *norms, const uint8_t *packed, int n_norms, int n_bytes)
{
    const int size = n_norms > 0 ? n_bytes / n_norms : 0;
    for (int i = 0; i < n_norms; i++)
        norms[i] = (uint16_t)(size == 1 ? packed[i] : packed[2 * i] | packed[2 * i + 1] << 8);
}

rb_status cache_tile_pack(cache_tile *tile, void *pages, const cache_layout *layout, const cache_part *part,
                          const head_codec *codec, const int64_t *slots, int n, rb_error *err)
{
    const int n_norms = codec ? head_codec_n_norms(codec) : 0;
    const rb_status st = codec ? head_codec_encode(codec, tile->x, n, tile->codes, tile->norms, err) : RB_OK;
    if (st != RB_OK) return st;
    for (int v = 0; v < n; v++) {
        uint8_t *out = (uint8_t *)pages + kv_layout_codes_at(layout, part, slots[v]);
        if (!codec) {
            const ropebits_kv_vectors slot = {.data = out, .dtype = ROPEBITS_KV_F16};
            cache_vector_store(&slot, 0, 0, tile->dims, tile->x + v * tile->dims);
            continue;
        }
        pack_codes(out, tile->codes + v * tile->dims, head_codec_widths(codec), tile->dims);
        pack_norms((uint8_t *)pages + kv_layout_norms_at(layout, part, slots[v]), tile->norms + v * n_norms, n_norms,
                   part->norm_bytes);
    }
    return RB_OK;
}

rb_status cache_tile_unpack(cache_tile *tile, const void *pages, const cache_layout *layout, const cache_part *part,
                            const head_codec *codec, const int64_t *slots, int n, rb_error *err)
{
    const int n_norms = codec ? head_codec_n_norms(codec) : 0;
    for (int v = 0; v < n; v++) {
        const uint8_t *at = (const uint8_t *)pages + kv_layout_codes_at(layout, part, slots[v]);
        if (!codec) {
            const ropebits_kv_vectors slot = {.data = (void *)(uintptr_t)at, .dtype = ROPEBITS_KV_F16};
            cache_vector_load(tile->x + v * tile->dims, &slot, 0, 0, tile->dims);
            continue;
        }
        const rb_status st = unpack_codes(tile->codes + v * tile->dims, at, head_codec_widths(codec), tile->dims, err);
        if (st != RB_OK) return rb_fail_in(err, st, "slot %lld", (long long)slots[v]);
        unpack_norms(tile->norms + v * n_norms, (const uint8_t *)pages + kv_layout_norms_at(layout, part, slots[v]),
                     n_norms, part->norm_bytes);
    }
    return codec ? head_codec_decode(codec, tile->codes, tile->norms, n, tile->x, err) : RB_OK;
}
