/* See cache_gpu.h. A layer has, on the device: the tables of attention for keys and for values (attend_image.h), and
 * the images of their codecs (kernels/cuda/codec_cuda.h). A RoPE has its frequencies, and a table of turns that grows
 * with the longest sequence seen. */
#include "cache/cache_gpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cache/cuda/cache_cuda.h"
#include "kernels/cuda/codec_cuda.h"

/* ---- tables on the device -------------------------------------------------------------------- */

typedef struct side_on_device {
    attend_side side; /* its pointers are the device's */
    rb_cuda_array arrays[ATTEND_SIDE_PARTS];
    codec_cuda *codec; /* NULL: fp16 */
} side_on_device;

static void free_side(side_on_device *side)
{
    for (int i = 0; i < ATTEND_SIDE_PARTS; i++) rb_cuda_array_free(&side->arrays[i]);
    codec_cuda_free(side->codec);
}

/* Frees `from`, which was made on the host. */
static rb_status upload_side(side_on_device *to, attend_side *from, rb_error *err)
{
    attend_side_part host[ATTEND_SIDE_PARTS], device[ATTEND_SIDE_PARTS];
    rb_status st = RB_OK;
    to->side = *from;
    attend_side_list_parts(from, host);
    attend_side_list_parts(&to->side, device);
    for (int i = 0; i < ATTEND_SIDE_PARTS; i++) *device[i].pointer = NULL;
    for (int i = 0; i < ATTEND_SIDE_PARTS; i++) {
        if (host[i].size_bytes == 0) continue;
        RB_TRY(st, rb_cuda_array_alloc(&to->arrays[i], host[i].size_bytes, "attention tables", err), done);
        *device[i].pointer = to->arrays[i].at;
        RB_TRY(st, rb_cuda()->copy(to->arrays[i].at, *host[i].pointer, host[i].size_bytes, NULL, err), done);
    }
    st = rb_cuda()->stream_wait(NULL, err);
done:
    attend_side_free(from);
    return st;
}

/* heads NULL: fp16. */
static rb_status make_side(side_on_device *to, const plan_head *heads, const model_facts *model, int layer,
                           bool is_values, const cache_layout *layout, codec_tables *tables, rb_error *err)
{
    attend_side *side = NULL;
    codec_image *image = NULL;
    rb_status st;
    RB_TRY(st, attend_side_build(&side, heads, model, layer, is_values, layout, tables, err), done);
    RB_TRY(st, upload_side(to, side, err), done);
    if (!heads) return RB_OK;
    RB_TRY(st, codec_image_build(&image, heads, model->n_kv_heads, model, tables, err), done);
    st = codec_cuda_create(&to->codec, image, err);
done:
    codec_image_free(image);
    return st;
}

/* How keys turn in some layers. */
typedef struct rope_on_device {
    turn_call turn;
    rb_cuda_array inv_freq, gain, dims, positions;
    int64_t n_tiles; /* of positions */
} rope_on_device;

typedef struct gpu_layer {
    side_on_device keys, values;
    rope_on_device *rope;
} gpu_layer;

struct cache_gpu {
    model_facts model;
    const cache_layout *layouts;
    int n_sink, n_recent;
    const cache_cuda_api *api;
    const codec_cuda_api *codec;
    gpu_layer *layers; /* [n_layers] */
    rope_on_device ropes[2];
    pthread_mutex_t lock; /* of the ropes' positions */
    bool has_lock;
};

/* ---- life ------------------------------------------------------------------------------------ */

static rb_status upload(rb_cuda_array *to, const void *from, size_t size_bytes, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda_array_alloc(to, size_bytes, "RoPE tables", err), done);
    RB_TRY(st, rb_cuda()->copy(to->at, from, size_bytes, NULL, err), done);
    st = rb_cuda()->stream_wait(NULL, err);
done:
    return st;
}

static rb_status make_rope(rope_on_device *rope, const model_facts *model, int layer, rb_error *err)
{
    const int n = model_n_blocks(model);
    double inv_freq[RB_MAX_BLOCKS];
    float gain[RB_MAX_BLOCKS];
    uint16_t dims[RB_MAX_BLOCKS][2];
    rb_status st;
    for (int b = 0; b < n; b++) {
        int of_block[2];
        model_block_dims(model, b, of_block);
        for (int i = 0; i < 2; i++) dims[b][i] = (uint16_t)of_block[i];
        inv_freq[b] = model_block_freq(model, layer, b);
        gain[b] = (float)model_block_gain(model, layer, b);
    }
    RB_TRY(st, upload(&rope->inv_freq, inv_freq, (size_t)n * sizeof *inv_freq, err), done);
    RB_TRY(st, upload(&rope->gain, gain, (size_t)n * sizeof *gain, err), done);
    RB_TRY(st, upload(&rope->dims, dims, (size_t)n * sizeof *dims, err), done);
    rope->turn = (turn_call){rope->inv_freq.at, rope->gain.at,   rope->dims.at,
                             model->n_kv_heads, model->head_dim, model->value_dim};
done:
    return st;
}

/* The value heads of a layer, to be cleared by the caller; NULL where values are fp16. */
static rb_status make_value_heads(plan_head **out, const bit_plan *plan, int layer, rb_error *err)
{
    plan_head *heads = NULL;
    rb_status st = RB_OK;
    *out = NULL;
    if (!plan || !bit_plan_quantizes_values(plan)) return RB_OK;
    RB_TRY(st, rb_alloc(&heads, (size_t)plan->model.n_kv_heads, sizeof *heads, "value heads", err), done);
    *out = heads;
    for (int h = 0; h < plan->model.n_kv_heads; h++)
        RB_TRY(st, bit_plan_value_head(plan, layer, h, &heads[h], err), done);
done:
    return st;
}

static rb_status make_layer(cache_gpu *cache, int layer, const bit_plan *plan, codec_tables *tables, rb_error *err)
{
    const model_facts values = model_value_facts(&cache->model);
    const bool is_local = cache->model.layer_is_local[layer];
    gpu_layer *own = &cache->layers[layer];
    plan_head *value_heads = NULL;
    rb_status st;
    own->rope = &cache->ropes[is_local];
    if (!own->rope->inv_freq.at) RB_TRY(st, make_rope(own->rope, &cache->model, layer, err), done);
    RB_TRY(st,
           make_side(&own->keys, plan ? bit_plan_head(plan, layer, 0) : NULL, &cache->model, layer, false,
                     &cache->layouts[layer], tables, err),
           done);
    RB_TRY(st, make_value_heads(&value_heads, plan, layer, err), done);
    st = make_side(&own->values, value_heads, &values, layer, true, &cache->layouts[layer], tables, err);
done:
    for (int h = 0; value_heads && h < cache->model.n_kv_heads; h++) plan_head_clear(&value_heads[h]);
    free(value_heads);
    return st;
}

rb_status cache_gpu_create(cache_gpu **out, const model_facts *model, const bit_plan *plan, const cache_layout *layouts,
                           rb_error *err)
{
    cache_gpu *cache = NULL;
    codec_tables *tables = NULL;
    const void *api = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&cache, 1, sizeof *cache, "cache", err), done);
    cache->model = *model;
    cache->layouts = layouts;
    cache->n_sink = plan ? (int)plan->n_sink : 0;
    cache->n_recent = plan ? (int)plan->n_recent : 0;
    RB_TRY(st, rb_cuda_table(&api, "rb_cache_cuda", err), done);
    cache->api = api;
    RB_TRY(st, codec_cuda_functions(&cache->codec, err), done);
    if (pthread_mutex_init(&cache->lock, NULL) != 0) {
        st = rb_fail(err, RB_ENOMEM, "cache: no memory for a lock");
        goto done;
    }
    cache->has_lock = true;
    RB_TRY(st, rb_alloc(&cache->layers, (size_t)model->n_layers, sizeof *cache->layers, "cache", err), done);
    RB_TRY(st, codec_tables_create(&tables, err), done);
    for (int layer = 0; layer < model->n_layers; layer++) RB_TRY(st, make_layer(cache, layer, plan, tables, err), done);
    *out = cache;
    cache = NULL;
done:
    codec_tables_free(tables);
    cache_gpu_free(cache);
    return st;
}

void cache_gpu_free(cache_gpu *cache)
{
    if (!cache) return;
    for (int layer = 0; cache->layers && layer < cache->model.n_layers; layer++) {
        free_side(&cache->layers[layer].keys);
        free_side(&cache->layers[layer].values);
    }
    for (int i = 0; i < 2; i++) {
        rope_on_device *rope = &cache->ropes[i];
        rb_cuda_array *arrays[] = {&rope->inv_freq, &rope->gain, &rope->dims, &rope->positions};
        for (size_t j = 0; j < RB_COUNT(arrays); j++) rb_cuda_array_free(arrays[j]);
    }
    if (cache->has_lock) pthread_mutex_destroy(&cache->lock);
    free(cache->layers);
    free(cache);
}

/* ---- working memory -------------------------------------------------------------------------- */

size_t cache_gpu_workspace_bytes(const cache_gpu *cache, int layer, int64_t n_sequences, int32_t max_length)
{
    const model_facts *model = &cache->model;
    (void)layer;
    return (size_t)cache->api->attend_bytes(model->n_kv_heads, model->n_q_heads, model->value_dim, n_sequences,
                                            max_length);
}

/* Codes of a side in streams, as kernels/cuda/codec_image.h has them. */
typedef struct code_streams {
    uint8_t *codes, *norms;
} code_streams;

/* What encode, decode and append work with; a part may be NULL. */
typedef struct coding_work {
    float *keys, *values; /* [n][n_kv_heads][dims] */
    code_streams key_codes, value_codes;
    cache_route route;
    uint64_t *first_bad;
} coding_work;

/* size_bytes at the end of what was taken so far, from a multiple of 128 on. */
static void *take(uint8_t *base, size_t *used, size_t size_bytes)
{
    void *at = base ? base + *used : NULL;
    *used += (size_bytes + 127) / 128 * 128;
    return at;
}

static void take_streams(code_streams *out, uint8_t *base, size_t *used, const cache_layout *layout, bool is_values,
                         int64_t n)
{
    size_t codes = 0, norms = 0;
    for (int h = 0; h < layout->n_kv_heads; h++) {
        const cache_part *part = is_values ? &layout->heads[h].values : &layout->heads[h].keys;
        codes += ((size_t)n * (size_t)part->code_bytes + 127) / 128 * 128;
        norms += ((size_t)n * (size_t)part->norm_bytes + 127) / 128 * 128;
    }
    out->codes = take(base, used, codes);
    out->norms = take(base, used, norms);
}

static size_t lay_out(coding_work *work, const cache_gpu *cache, int layer, int64_t n, void *workspace)
{
    const cache_layout *layout = &cache->layouts[layer];
    const size_t vectors = (size_t)n * (size_t)layout->n_kv_heads;
    size_t used = 0;
    work->keys = take(workspace, &used, vectors * (size_t)layout->head_dim * sizeof(float));
    work->values = take(workspace, &used, vectors * (size_t)layout->value_dim * sizeof(float));
    take_streams(&work->key_codes, workspace, &used, layout, false, n);
    take_streams(&work->value_codes, workspace, &used, layout, true, n);
    work->route.source = take(workspace, &used, (size_t)n * sizeof *work->route.source);
    work->route.slot = take(workspace, &used, (size_t)n * sizeof *work->route.slot);
    work->route.position = take(workspace, &used, (size_t)n * sizeof *work->route.position);
    work->first_bad = take(workspace, &used, sizeof *work->first_bad);
    return used;
}

size_t cache_gpu_coding_bytes(const cache_gpu *cache, int layer, int64_t n)
{
    coding_work work;
    return lay_out(&work, cache, layer, n, NULL);
}

/* ---- coding ---------------------------------------------------------------------------------- */

static ropebits_kv_vectors packed_vectors(float *data, int n_heads, int n_dims)
{
    return (ropebits_kv_vectors){data, ROPEBITS_KV_F32, (int64_t)n_heads * n_dims, n_dims};
}

static codec_vectors as_codec_vectors(const ropebits_kv_vectors *from)
{
    static_assert((int)CODEC_F16 == (int)ROPEBITS_KV_F16 && (int)CODEC_BF16 == (int)ROPEBITS_KV_BF16
                      && (int)CODEC_F32 == (int)ROPEBITS_KV_F32,
                  "vectors are the codec's");
    return (codec_vectors){from->data, (codec_dtype)from->dtype, from->head_stride, from->token_stride};
}

/* Vectors, keys as they enter RoPE, or of an fp16 side as they are, into slots. */
static rb_status encode_side(const cache_gpu *cache, int layer, bool is_values, int64_t n,
                             const ropebits_kv_vectors *vectors, const int64_t *slots, void *pages,
                             const coding_work *work, void *stream, rb_error *err)
{
    const side_on_device *side = is_values ? &cache->layers[layer].values : &cache->layers[layer].keys;
    const code_streams *streams = is_values ? &work->value_codes : &work->key_codes;
    const int64_t page_bytes = cache->layouts[layer].page_bytes;
    rb_status st;
    if (!side->codec) return cache->api->copy_halves(&side->side, vectors, n, slots, pages, page_bytes, 1, stream, err);
    const codec_vectors from = as_codec_vectors(vectors);
    RB_TRY(st, rb_cuda()->fill(work->first_bad, 0xff, sizeof *work->first_bad, stream, err), done);
    RB_TRY(st,
           cache->codec->encode(codec_cuda_image(side->codec), &from, n, streams->codes, streams->norms,
                                work->first_bad, stream, err),
           done);
    st = cache->api->copy_codes(&side->side, streams->codes, streams->norms, n, slots, pages, page_bytes, 1, stream,
                                err);
done:
    return st;
}

rb_status cache_gpu_encode(cache_gpu *cache, int layer, int64_t n, const ropebits_kv_vectors *keys,
                           const ropebits_kv_vectors *values, const int32_t *positions, const int64_t *slots,
                           void *pages, void *workspace, void *stream, rb_error *err)
{
    const gpu_layer *own = &cache->layers[layer];
    const model_facts *model = &cache->model;
    coding_work work;
    rb_status st;
    lay_out(&work, cache, layer, n, workspace);
    ropebits_kv_vectors plain = *keys;
    if (own->keys.codec && positions) {
        plain = packed_vectors(work.keys, model->n_kv_heads, model->head_dim);
        RB_TRY(st, cache->api->turn(&own->rope->turn, &plain, keys, n, positions, -1, stream, err), done);
    }
    RB_TRY(st, encode_side(cache, layer, false, n, &plain, slots, pages, &work, stream, err), done);
    st = encode_side(cache, layer, true, n, values, slots, pages, &work, stream, err);
done:
    return st;
}

/* The inverse of encode_side, of vectors that have no codec's strides too. */
static rb_status decode_side(const cache_gpu *cache, int layer, bool is_values, int64_t n,
                             const ropebits_kv_vectors *vectors, const int64_t *slots, const void *pages,
                             const coding_work *work, void *stream, rb_error *err)
{
    const side_on_device *side = is_values ? &cache->layers[layer].values : &cache->layers[layer].keys;
    const code_streams *streams = is_values ? &work->value_codes : &work->key_codes;
    const int64_t page_bytes = cache->layouts[layer].page_bytes;
    void *from = (void *)(uintptr_t)pages; /* one function copies both ways */
    rb_status st;
    if (!side->codec) return cache->api->copy_halves(&side->side, vectors, n, slots, from, page_bytes, 0, stream, err);
    const codec_vectors to = as_codec_vectors(vectors);
    RB_TRY(
        st,
        cache->api->copy_codes(&side->side, streams->codes, streams->norms, n, slots, from, page_bytes, 0, stream, err),
        done);
    st = cache->codec->decode(codec_cuda_image(side->codec), streams->codes, streams->norms, n, &to, stream, err);
done:
    return st;
}

rb_status cache_gpu_decode(cache_gpu *cache, int layer, int64_t n, const int64_t *slots, const void *pages,
                           const int32_t *positions, const ropebits_kv_vectors *keys, const ropebits_kv_vectors *values,
                           void *workspace, void *stream, rb_error *err)
{
    const gpu_layer *own = &cache->layers[layer];
    const model_facts *model = &cache->model;
    coding_work work;
    rb_status st = RB_OK;
    lay_out(&work, cache, layer, n, workspace);
    if (keys && own->keys.codec && positions) {
        const ropebits_kv_vectors plain = packed_vectors(work.keys, model->n_kv_heads, model->head_dim);
        RB_TRY(st, decode_side(cache, layer, false, n, &plain, slots, pages, &work, stream, err), done);
        RB_TRY(st, cache->api->turn(&own->rope->turn, keys, &plain, n, positions, 1, stream, err), done);
    } else if (keys) {
        RB_TRY(st, decode_side(cache, layer, false, n, keys, slots, pages, &work, stream, err), done);
    }
    if (values) st = decode_side(cache, layer, true, n, values, slots, pages, &work, stream, err);
done:
    return st;
}

/* ---- appending ------------------------------------------------------------------------------- */

/* A cache in fp16 holds turned keys, and keeps no token apart. */
static rb_status append_halves(const cache_gpu *cache, int layer, const ropebits_kv_tokens *tokens,
                               const ropebits_kv_pages *pages, const coding_work *work, void *stream, rb_error *err)
{
    const model_facts *model = &cache->model;
    ropebits_kv_vectors keys = tokens->keys;
    rb_status st;
    if (!tokens->keys_are_turned) {
        keys = packed_vectors(work->keys, model->n_kv_heads, model->head_dim);
        RB_TRY(st,
               cache->api->turn(&cache->layers[layer].rope->turn, &keys, &tokens->keys, tokens->n, tokens->token, 1,
                                stream, err),
               done);
    }
    RB_TRY(st, encode_side(cache, layer, false, tokens->n, &keys, work->route.slot, pages->pages, work, stream, err),
           done);
    st = encode_side(cache, layer, true, tokens->n, &tokens->values, work->route.slot, pages->pages, work, stream, err);
done:
    return st;
}

rb_status cache_gpu_append(cache_gpu *cache, int layer, const ropebits_kv_tokens *tokens,
                           const ropebits_kv_pages *pages, void *workspace, void *stream, rb_error *err)
{
    const gpu_layer *own = &cache->layers[layer];
    const model_facts *model = &cache->model;
    coding_work work;
    rb_status st;
    lay_out(&work, cache, layer, tokens->n, workspace);
    RB_TRY(st, cache->api->route(tokens, pages, cache->n_sink, cache->n_recent, &work.route, stream, err), done);
    if (!own->keys.codec) return append_halves(cache, layer, tokens, pages, &work, stream, err);
    RB_TRY(st, cache->api->gather(tokens, pages, &work.route, &own->rope->turn, work.keys, work.values, stream, err),
           done);
    const ropebits_kv_vectors keys = packed_vectors(work.keys, model->n_kv_heads, model->head_dim),
                              values = packed_vectors(work.values, model->n_kv_heads, model->value_dim);
    RB_TRY(st, encode_side(cache, layer, false, tokens->n, &keys, work.route.slot, pages->pages, &work, stream, err),
           done);
    RB_TRY(st, encode_side(cache, layer, true, tokens->n, &values, work.route.slot, pages->pages, &work, stream, err),
           done);
    st = cache->api->keep_exact(tokens, pages, &own->rope->turn, cache->n_sink, cache->n_recent, stream, err);
done:
    return st;
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Turns of the first tokens of all tiles that sequences of max_length have. They grow by doubling: the old ones are
 * freed when all that the device was given before is done. */
static rb_status reserve_positions(const cache_gpu *cache, rope_on_device *rope, int32_t max_length, void *stream,
                                   rb_error *err)
{
    const int64_t needed =
        ((int64_t)max_length + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS * (CACHE_PAGE_TOKENS / ATTEND_TILE);
    rb_cuda_array grown = {0};
    int64_t n = rope->n_tiles > 0 ? rope->n_tiles : 256;
    rb_status st = RB_OK;
    if (needed <= rope->n_tiles) return RB_OK;
    while (n < needed) n *= 2;
    const size_t size_bytes = (size_t)n * (size_t)cache->model.head_dim * sizeof(uint32_t);
    RB_TRY(st, rb_cuda_array_alloc(&grown, size_bytes, "RoPE tables", err), done);
    RB_TRY(st, cache->api->fill_positions(grown.at, &rope->turn, n, stream, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(stream, err), done);
    rb_cuda_array_free(&rope->positions); /* waits for the device */
    rope->positions = grown;
    rope->n_tiles = n;
    grown = (rb_cuda_array){0};
done:
    rb_cuda_array_free(&grown);
    return st;
}

rb_status cache_gpu_attend(cache_gpu *cache, int layer, const ropebits_kv_queries *queries,
                           const ropebits_kv_pages *pages, void *stream, rb_error *err)
{
    const gpu_layer *own = &cache->layers[layer];
    const model_facts *model = &cache->model;
    attend_call call = {.keys = own->keys.side,
                        .values = own->values.side,
                        .queries = *queries,
                        .pages = *pages,
                        .page_bytes = cache->layouts[layer].page_bytes,
                        .n_kv_heads = model->n_kv_heads,
                        .n_q_heads = model->n_q_heads,
                        .head_dim = model->head_dim,
                        .value_dim = model->value_dim,
                        .n_sink = cache->n_sink,
                        .n_recent = cache->n_recent,
                        .scale = queries->scale > 0.0 ? queries->scale : model->attention_scale,
                        .workspace = queries->workspace};
    if (own->keys.codec) {
        pthread_mutex_lock(&cache->lock);
        const rb_status st = reserve_positions(cache, own->rope, queries->max_length, stream, err);
        call.positions = own->rope->positions.at;
        pthread_mutex_unlock(&cache->lock);
        if (st != RB_OK) return st;
    }
    return cache->api->attend(&call, stream, err);
}
