/* See model/forward_cuda.h. */
#include "model/forward_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/cuda_device.h"
#include "core/message.h"
#include "core/order.h"
#include "model/attention_cuda.h"
#include "model/rope_apply.h"
#include "model/weight_stream.h"

enum { WORKSPACE_BYTES = 32 << 20, MAX_SETS = 4, STATISTICS_TOKENS = 64 };

/* An array on the device that knows its size. */
typedef struct device_array {
    void *at;
    size_t size_bytes;
} device_array;

/* One layer's captured heads and sums: on the device, then on the host. Two of them take turns. */
typedef struct capture_buffer {
    device_array heads, sums;
    char *host_heads;
    double *host_sums;
    void *captured, *ready;         /* events: the compute stream is done with it; the host has it */
    int layer;
    bool is_full;                   /* waits for, or is in, the hand-over thread */
} capture_buffer;

typedef struct gpu_forward {
    const checkpoint *model;
    const model_config *config;
    const token_batch *batch;
    const forward_cuda_options *options;
    const forward_cuda_hooks *hooks;
    const layer_cuda_api *api;
    const attention_cuda_api *attention;
    weight_stream *weights;
    void *matmul, *compute, *copy;
    int64_t chunk;
    device_array hidden, k, v, positions, starts, rope_cos, rope_sin;       /* all tokens */
    device_array normed, projected, q, attended, gate_up, activated, scratch;   /* a chunk */
    capture_buffer buffers[2];
    void **started, **finished;     /* events [n_layers] */
    /* The hand-over thread. */
    pthread_t thread;
    bool is_running;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int handed_over;                /* layers */
    bool is_closing;
    rb_status status;
    rb_error error;
} gpu_forward;

/* ---- sizes -------------------------------------------------------------------------------------------------------------------------- */

static int64_t width_of(const model_config *c, int64_t heads) { return heads * c->facts.head_dim; }
static int64_t q_width(const model_config *c) { return width_of(c, c->facts.n_q_heads); }
static int64_t kv_width(const model_config *c) { return width_of(c, c->facts.n_kv_heads); }
static int64_t element_bytes(const forward_cuda_options *options) { return options->precision == LAYER_CUDA_BF16 ? 2 : 4; }
static int64_t capture_width(const model_config *c, const forward_cuda_options *options) { return q_width(c) + (options->with_values ? 2 : 1) * kv_width(c); }
static int64_t capture_element(const forward_cuda_options *options) { return options->capture_is_f32 ? 4 : 2; }
static int64_t sums_width(const model_config *c) { return q_width(c) + 2 * kv_width(c); }

/* Bytes of each array, in the order of `arrays`. */
enum { N_ARRAYS = 14 };
typedef struct array_sizes {
    int64_t bytes[N_ARRAYS];
} array_sizes;

static array_sizes sizes_of(const model_config *c, const token_batch *batch, const forward_cuda_options *options, int64_t chunk)
{
    const int64_t n = batch->n_tokens, e = element_bytes(options), rope = token_batch_longest(batch) * (c->facts.rotary_dim / 2) * 4;
    const int64_t normed = c->hidden_size, parts = (chunk + STATISTICS_TOKENS - 1) / STATISTICS_TOKENS;
    return (array_sizes){{n * c->hidden_size * 4, n * kv_width(c) * e, n * kv_width(c) * e, n * 4, n * 4, rope, rope, chunk * normed * e,
                          chunk * sums_width(c) * 4, chunk * q_width(c) * e, chunk * q_width(c) * e, 2 * chunk * c->intermediate_size * e,
                          chunk * c->intermediate_size * e, parts * sums_width(c) * 8}};
}

int64_t forward_cuda_bytes(const model_config *config, const token_batch *batch, const forward_cuda_options *options, int64_t chunk_tokens)
{
    const array_sizes sizes = sizes_of(config, batch, options, chunk_tokens);
    int64_t total = weight_stream_device_bytes(config, options->precision) + WORKSPACE_BYTES;
    for (int i = 0; i < N_ARRAYS; i++) total += sizes.bytes[i];
    return total + 2 * (batch->n_tokens * capture_width(config, options) * capture_element(options) + options->n_sets * sums_width(config) * 8);
}

static rb_status choose_chunk(gpu_forward *f, rb_error *err)
{
    const double mib = 0x1p20;
    size_t free_bytes = 0;
    const rb_status st = rb_cuda()->free_bytes(&free_bytes, err);
    if (st != RB_OK) return st;
    /* A little is left for the driver's own needs. */
    int64_t limit = (int64_t)(free_bytes - free_bytes / 32);
    if (f->options->max_bytes > 0 && f->options->max_bytes < limit) limit = f->options->max_bytes;
    for (f->chunk = FORWARD_CUDA_MAX_CHUNK; f->chunk >= FORWARD_CUDA_MIN_CHUNK; f->chunk /= 2)
        if (forward_cuda_bytes(f->config, f->batch, f->options, f->chunk) <= limit) return RB_OK;
    return rb_fail(err, RB_ENOMEM, "GPU memory: %.0f MiB are needed even in chunks of %d tokens, expected at most %.0f MiB",
                   (double)forward_cuda_bytes(f->config, f->batch, f->options, FORWARD_CUDA_MIN_CHUNK) / mib, FORWARD_CUDA_MIN_CHUNK, (double)limit / mib);
}

/* ---- set-up ------------------------------------------------------------------------------------------------------------------------- */

static rb_status alloc_array(device_array *array, int64_t size_bytes, rb_error *err)
{
    const rb_status st = rb_cuda_alloc(&array->at, (size_t)size_bytes, 1, "activations", err);
    if (st == RB_OK) array->size_bytes = (size_t)size_bytes;
    return st;
}
static void free_array(device_array *array) { rb_cuda_free(array->at, array->size_bytes, 1); }

static void list_arrays(gpu_forward *f, device_array *arrays[N_ARRAYS])
{
    device_array *const all[N_ARRAYS] = {&f->hidden, &f->k, &f->v, &f->positions, &f->starts, &f->rope_cos, &f->rope_sin,
                                         &f->normed, &f->projected, &f->q, &f->attended, &f->gate_up, &f->activated, &f->scratch};
    memcpy(arrays, all, sizeof all);
}

static rb_status open_buffer(gpu_forward *f, capture_buffer *b, rb_error *err)
{
    const size_t heads = (size_t)(f->batch->n_tokens * capture_width(f->config, f->options) * capture_element(f->options));
    const size_t sums = (size_t)(f->options->n_sets * sums_width(f->config)) * sizeof(double);
    rb_status st;
    RB_TRY(st, alloc_array(&b->heads, (int64_t)heads, err), done);
    RB_TRY(st, alloc_array(&b->sums, (int64_t)sums, err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&b->host_heads, heads, err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&b->host_sums, sums, err), done);
    RB_TRY(st, rb_cuda()->event_create(&b->captured, err), done);
    RB_TRY(st, rb_cuda()->event_create(&b->ready, err), done);
done:
    return st;
}

/* Position and first token of its sequence, of every token. */
static rb_status upload_positions(gpu_forward *f, rb_error *err)
{
    const token_batch *batch = f->batch;
    const size_t n = (size_t)batch->n_tokens;
    int32_t *positions = NULL, *starts = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&positions, n, sizeof *positions, "positions", err), done);
    RB_TRY(st, rb_alloc(&starts, n, sizeof *starts, "positions", err), done);
    for (int64_t s = 0; s < batch->n_sequences; s++)
        for (int64_t t = batch->sequence_start[s]; t < batch->sequence_start[s + 1]; t++) {
            positions[t] = (int32_t)(t - batch->sequence_start[s]);
            starts[t] = (int32_t)batch->sequence_start[s];
        }
    RB_TRY(st, rb_cuda()->copy(f->positions.at, positions, n * sizeof *positions, NULL, err), done);
    RB_TRY(st, rb_cuda()->copy(f->starts.at, starts, n * sizeof *starts, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    free(positions);
    free(starts);
    return st;
}

static rb_status upload_rope(gpu_forward *f, rb_error *err)
{
    rope_table rope = {0};
    rb_status st;
    RB_TRY(st, rope_table_init(&rope, &f->config->facts, token_batch_longest(f->batch), err), done);
    RB_TRY(st, rb_cuda()->copy(f->rope_cos.at, rope.cos, f->rope_cos.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->copy(f->rope_sin.at, rope.sin, f->rope_sin.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    rope_table_free(&rope);
    return st;
}

static rb_status upload_hidden(gpu_forward *f, rb_error *err)
{
    float *hidden = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&hidden, (size_t)f->batch->n_tokens, (size_t)f->config->hidden_size * sizeof *hidden, "hidden states", err), done);
    RB_TRY(st, token_batch_embed(f->batch, f->model, hidden, err), done);
    RB_TRY(st, rb_cuda()->copy(f->hidden.at, hidden, f->hidden.size_bytes, NULL, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(NULL, err), done);
done:
    free(hidden);
    return st;
}

static rb_status make_events(void ***events, int n, rb_error *err)
{
    rb_status st = rb_alloc(events, (size_t)n, sizeof **events, "events", err);
    for (int i = 0; i < n && st == RB_OK; i++) st = rb_cuda()->event_create(&(*events)[i], err);
    return st;
}

static rb_status find_tables(gpu_forward *f, rb_error *err)
{
    const void *layer = NULL, *attention = NULL;
    rb_status st;
    RB_TRY(st, rb_cuda_table(&layer, "rb_layer_cuda", err), done);
    RB_TRY(st, rb_cuda_table(&attention, "rb_attention_cuda", err), done);
    f->api = layer;
    f->attention = attention;
done:
    return st;
}

static rb_status begin(gpu_forward *f, rb_error *err)
{
    const int n_layers = f->config->facts.n_layers;
    device_array *arrays[N_ARRAYS];
    rb_status st;
    list_arrays(f, arrays);
    RB_TRY(st, find_tables(f, err), done);
    RB_TRY(st, f->api->matmul_open(&f->matmul, err), done);
    RB_TRY(st, choose_chunk(f, err), done);
    const array_sizes sizes = sizes_of(f->config, f->batch, f->options, f->chunk);
    RB_TRY(st, weight_stream_open(&f->weights, f->model, f->api, f->options->precision, true, err), done);
    RB_TRY(st, weight_stream_begin(f->weights, 0, err), done);
    RB_TRY(st, rb_cuda()->stream_create(&f->compute, err), done);
    RB_TRY(st, rb_cuda()->stream_create(&f->copy, err), done);
    for (int i = 0; i < N_ARRAYS; i++) RB_TRY(st, alloc_array(arrays[i], sizes.bytes[i], err), done);
    for (int i = 0; i < 2; i++) RB_TRY(st, open_buffer(f, &f->buffers[i], err), done);
    RB_TRY(st, make_events(&f->started, n_layers, err), done);
    RB_TRY(st, make_events(&f->finished, n_layers, err), done);
    RB_TRY(st, upload_positions(f, err), done);
    RB_TRY(st, upload_rope(f, err), done);
    RB_TRY(st, upload_hidden(f, err), done);
done:
    return st;
}

/* ---- the hand-over thread ------------------------------------------------------------------------------------------------------------ */

static rb_status hand_over_layer(gpu_forward *f, const capture_buffer *b, rb_error *err)
{
    const model_config *c = f->config;
    const forward_cuda_options *o = f->options;
    const double *sums = b->host_sums;
    rb_status st = rb_cuda()->event_wait(b->ready, err);
    for (int set = 0; set < o->n_sets && st == RB_OK; set++) {
        const int64_t n = o->set_start[set + 1] - o->set_start[set], element = capture_element(o);
        const char *q = b->host_heads + o->set_start[set] * capture_width(c, o) * element, *k = q + n * q_width(c) * element;
        const captured_layer captured = {.layer = b->layer, .set = set, .n_tokens = n, .q = q, .k = k,
                                         .v = o->with_values ? k + n * kv_width(c) * element : NULL,
                                         .q_squares = sums, .k_squares = sums + q_width(c), .k_sums = sums + q_width(c) + kv_width(c)};
        st = f->hooks->on_captured(f->hooks->user, &captured, err);
        sums += sums_width(c);
    }
    if (st == RB_OK && f->hooks->on_layer_done) f->hooks->on_layer_done(f->hooks->user, b->layer);
    return st;
}

static void *hand_over_run(void *argument)
{
    gpu_forward *f = argument;
    rb_error err = {0};
    rb_status st = rb_cuda()->use_device(rb_cuda_device()->index, &err);
    for (;;) {
        capture_buffer *b = &f->buffers[f->handed_over % 2];
        pthread_mutex_lock(&f->lock);
        while (!b->is_full && !f->is_closing) pthread_cond_wait(&f->changed, &f->lock);
        const bool has_layer = b->is_full;
        pthread_mutex_unlock(&f->lock);
        if (!has_layer) return NULL;
        if (st == RB_OK) st = hand_over_layer(f, b, &err);
        pthread_mutex_lock(&f->lock);
        if (st != RB_OK && f->status == RB_OK) {
            f->status = st;
            f->error = err;
        }
        b->is_full = false;
        f->handed_over++;
        pthread_cond_broadcast(&f->changed);
        pthread_mutex_unlock(&f->lock);
    }
}

/* Until the thread has done with the buffer; its failure is the run's. */
static rb_status wait_for_buffer(gpu_forward *f, const capture_buffer *b, rb_error *err)
{
    pthread_mutex_lock(&f->lock);
    while (b->is_full) pthread_cond_wait(&f->changed, &f->lock);
    const rb_status st = f->status;
    pthread_mutex_unlock(&f->lock);
    return st == RB_OK ? RB_OK : rb_fail(err, st, "%s", f->error.msg);
}

static rb_status send_buffer(gpu_forward *f, capture_buffer *b, int layer, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda()->event_record(b->captured, f->compute, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(f->copy, b->captured, err), done);
    RB_TRY(st, rb_cuda()->copy(b->host_heads, b->heads.at, b->heads.size_bytes, f->copy, err), done);
    RB_TRY(st, rb_cuda()->copy(b->host_sums, b->sums.at, b->sums.size_bytes, f->copy, err), done);
    RB_TRY(st, rb_cuda()->event_record(b->ready, f->copy, err), done);
    pthread_mutex_lock(&f->lock);
    b->layer = layer;
    b->is_full = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
done:
    return st;
}

/* ---- a layer ------------------------------------------------------------------------------------------------------------------------- */

/* Tokens [first, first + n) of one set. */
typedef struct token_chunk {
    int64_t first, n;
    int set;
} token_chunk;

static void *offset(const device_array *array, int64_t bytes) { return (char *)array->at + bytes; }

static rb_status project(const gpu_forward *f, void *y, bool is_f32, bool adds, const void *x, const void *w, int64_t m, int64_t n, int64_t k, rb_error *err)
{
    return f->api->matmul(f->matmul, y, is_f32, adds, x, w, m, n, k, f->options->precision, f->compute, err);
}

static rb_status capture_heads(const gpu_forward *f, const device_layer *w, capture_buffer *b, const token_chunk *chunk, rb_error *err)
{
    const model_config *c = f->config;
    const forward_cuda_options *o = f->options;
    const int64_t e = element_bytes(o), n_set = o->set_start[chunk->set + 1] - o->set_start[chunk->set], in_set = chunk->first - o->set_start[chunk->set];
    const int64_t ce = capture_element(o), d = c->facts.head_dim;
    char *q = offset(&b->heads, o->set_start[chunk->set] * capture_width(c, o) * ce), *k = q + n_set * q_width(c) * ce, *v = k + n_set * kv_width(c) * ce;
    double *sums = (double *)b->sums.at + chunk->set * sums_width(c);
    const layer_cuda_heads in = {
        .n_q_heads = c->facts.n_q_heads, .n_kv_heads = c->facts.n_kv_heads, .head_dim = c->facts.head_dim, .n_freqs = c->facts.rotary_dim / 2,
        .is_interleaved = c->facts.rope.pairing == ROPE_INTERLEAVED, .precision = o->precision, .n_tokens = chunk->n, .projected = f->projected.at,
        .bias = w->qkv_bias, .q_norm = w->q_norm, .k_norm = w->k_norm, .eps = (float)c->rms_norm_eps, .position = (const int32_t *)f->positions.at + chunk->first,
        .rope_cos = f->rope_cos.at, .rope_sin = f->rope_sin.at, .q = f->q.at, .k = offset(&f->k, chunk->first * kv_width(c) * e),
        .v = offset(&f->v, chunk->first * kv_width(c) * e), .capture_q = q + in_set * d * ce, .capture_k = k + in_set * d * ce,
        .capture_v = o->with_values ? v + in_set * d * ce : NULL, .capture_is_f32 = o->capture_is_f32, .capture_stride = n_set, .q_squares = sums,
        .k_squares = sums + q_width(c), .k_sums = sums + q_width(c) + kv_width(c), .scratch = f->scratch.at};
    return f->api->heads(&in, f->compute, err);
}

static rb_status attend(const gpu_forward *f, int layer, const token_chunk *chunk, rb_error *err)
{
    const model_config *c = f->config;
    const attention_cuda_input in = {
        .type = f->options->precision == LAYER_CUDA_BF16 ? ATTENTION_CUDA_BF16 : ATTENTION_CUDA_F32, .n_q_heads = c->facts.n_q_heads,
        .n_kv_heads = c->facts.n_kv_heads, .head_dim = c->facts.head_dim, .q = f->q.at, .q_token_stride = q_width(c), .k = f->k.at, .v = f->v.at,
        .kv_token_stride = kv_width(c), .out = f->attended.at, .out_token_stride = q_width(c), .first_query = chunk->first, .n_queries = chunk->n,
        .token_sequence_start = f->starts.at, .sliding_window = c->layer_slides[layer] ? c->sliding_window : 0, .scale = (float)c->facts.attention_scale};
    return f->attention->forward(&in, f->compute, err);
}

static rb_status run_mlp(const gpu_forward *f, const device_layer *w, float *hidden, int64_t n, rb_error *err)
{
    const model_config *c = f->config;
    const int64_t width = c->hidden_size, inner = c->intermediate_size;
    rb_status st;
    RB_TRY(st, f->api->rms_norm(f->normed.at, hidden, w->mlp_norm, (float)c->rms_norm_eps, n, width, f->options->precision, f->compute, err), done);
    RB_TRY(st, project(f, f->gate_up.at, false, false, f->normed.at, w->gate_up, n, 2 * inner, width, err), done);
    RB_TRY(st, f->api->swiglu(f->activated.at, f->gate_up.at, w->gate_up_bias, n, inner, f->options->precision, f->compute, err), done);
    RB_TRY(st, project(f, hidden, true, true, f->activated.at, w->down, n, width, inner, err), done);
    if (w->down_bias) RB_TRY(st, f->api->add_bias(hidden, w->down_bias, n, width, f->compute, err), done);
done:
    return st;
}

static rb_status run_chunk(const gpu_forward *f, const device_layer *w, int layer, capture_buffer *b, const token_chunk *chunk, rb_error *err)
{
    const model_config *c = f->config;
    const int64_t width = c->hidden_size;
    float *hidden = (float *)f->hidden.at + chunk->first * width;
    rb_status st;
    RB_TRY(st, f->api->rms_norm(f->normed.at, hidden, w->input_norm, (float)c->rms_norm_eps, chunk->n, width, f->options->precision, f->compute, err), done);
    RB_TRY(st, project(f, f->projected.at, true, false, f->normed.at, w->qkv, chunk->n, q_width(c) + 2 * kv_width(c), width, err), done);
    RB_TRY(st, capture_heads(f, w, b, chunk, err), done);
    if (layer + 1 == c->facts.n_layers) goto done;
    RB_TRY(st, attend(f, layer, chunk, err), done);
    RB_TRY(st, project(f, hidden, true, true, f->attended.at, w->o, chunk->n, width, q_width(c), err), done);
    if (w->o_bias) RB_TRY(st, f->api->add_bias(hidden, w->o_bias, chunk->n, width, f->compute, err), done);
    st = run_mlp(f, w, hidden, chunk->n, err);
done:
    return st;
}

static rb_status run_layer(gpu_forward *f, int layer, rb_error *err)
{
    const forward_cuda_options *o = f->options;
    capture_buffer *b = &f->buffers[layer % 2];
    device_layer w;
    rb_status st;
    if (layer + 1 < f->config->facts.n_layers) RB_TRY(st, weight_stream_begin(f->weights, layer + 1, err), done);
    RB_TRY(st, weight_stream_wait(f->weights, layer, f->compute, &w, err), done);
    RB_TRY(st, wait_for_buffer(f, b, err), done);
    RB_TRY(st, rb_cuda()->event_record(f->started[layer], f->compute, err), done);
    RB_TRY(st, rb_cuda()->fill(b->sums.at, 0, b->sums.size_bytes, f->compute, err), done);
    for (int set = 0; set < o->n_sets; set++)
        for (int64_t first = o->set_start[set]; first < o->set_start[set + 1]; first += f->chunk) {
            const int64_t left = o->set_start[set + 1] - first;
            const token_chunk chunk = {.first = first, .n = left < f->chunk ? left : f->chunk, .set = set};
            RB_TRY(st, run_chunk(f, &w, layer, b, &chunk, err), done);
        }
    RB_TRY(st, rb_cuda()->event_record(f->finished[layer], f->compute, err), done);
    RB_TRY(st, weight_stream_release(f->weights, layer, f->compute, err), done);
    st = send_buffer(f, b, layer, err);
done:
    return st;
}

/* ---- the run ------------------------------------------------------------------------------------------------------------------------- */

static rb_status median_layer_ms(const gpu_forward *f, double *median, rb_error *err)
{
    const int n = f->config->facts.n_layers - 1;
    double *times = NULL;
    rb_status st;
    *median = 0.0;
    RB_TRY(st, rb_alloc(&times, (size_t)n + 1, sizeof *times, "layer times", err), done);
    for (int i = 0; i < n; i++) {
        float ms = 0.0f;
        RB_TRY(st, rb_cuda()->event_elapsed_ms(&ms, f->started[i], f->finished[i], err), done);
        times[i] = (double)ms;
    }
    rb_sort_doubles(times, n);
    if (n > 0) *median = times[n / 2];
done:
    free(times);
    return st;
}

static rb_status run_layers(gpu_forward *f, rb_error *err)
{
    rb_status st = RB_OK;
    for (int layer = 0; layer < f->config->facts.n_layers && st == RB_OK; layer++) st = run_layer(f, layer, err);
    for (int i = 0; i < 2 && st == RB_OK; i++) st = wait_for_buffer(f, &f->buffers[i], err);
    return st;
}

static void stop_thread(gpu_forward *f)
{
    if (!f->is_running) return;
    pthread_mutex_lock(&f->lock);
    f->is_closing = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
}

static void end(gpu_forward *f)
{
    device_array *arrays[N_ARRAYS];
    const int n_layers = f->config->facts.n_layers;
    stop_thread(f);
    if (f->compute) rb_cuda()->stream_wait(f->compute, NULL);
    if (f->copy) rb_cuda()->stream_wait(f->copy, NULL);
    weight_stream_close(f->weights);
    list_arrays(f, arrays);
    for (int i = 0; i < N_ARRAYS; i++) free_array(arrays[i]);
    for (int i = 0; i < 2; i++) {
        capture_buffer *b = &f->buffers[i];
        free_array(&b->heads);
        free_array(&b->sums);
        rb_cuda()->release_pinned(b->host_heads);
        rb_cuda()->release_pinned(b->host_sums);
        rb_cuda()->event_destroy(b->captured);
        rb_cuda()->event_destroy(b->ready);
    }
    for (int i = 0; i < n_layers; i++) {
        if (f->started) rb_cuda()->event_destroy(f->started[i]);
        if (f->finished) rb_cuda()->event_destroy(f->finished[i]);
    }
    free(f->started);
    free(f->finished);
    if (f->api) f->api->matmul_close(f->matmul);
    if (f->compute) rb_cuda()->stream_destroy(f->compute);
    if (f->copy) rb_cuda()->stream_destroy(f->copy);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
}

rb_status forward_cuda_run(const checkpoint *model, const token_batch *batch, const forward_cuda_options *options, const forward_cuda_hooks *hooks,
                           forward_cuda_report *report, rb_error *err)
{
    gpu_forward f = {.model = model, .config = checkpoint_config(model), .batch = batch, .options = options, .hooks = hooks};
    const double started_s = rb_now_s();
    rb_status st;
    pthread_mutex_init(&f.lock, NULL);
    pthread_cond_init(&f.changed, NULL);
    rb_cuda_reset_peak();
    RB_TRY(st, token_batch_check(batch, f.config->vocab_size, err), done);
    RB_TRY(st, checkpoint_check(model, err), done);
    RB_TRY(st, begin(&f, err), done);
    const double set_up_s = rb_now_s() - started_s;
    if (pthread_create(&f.thread, NULL, hand_over_run, &f) != 0) {
        st = rb_fail(err, RB_ENOMEM, "cannot start a thread");
        goto done;
    }
    f.is_running = true;
    RB_TRY(st, run_layers(&f, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(f.compute, err), done);
    *report = (forward_cuda_report){.total_s = rb_now_s() - started_s, .set_up_s = set_up_s, .weight_bytes = weight_stream_bytes_read(f.weights),
                                    .gpu_bytes = (int64_t)rb_cuda_peak_bytes() + WORKSPACE_BYTES, .chunk_tokens = f.chunk};
    st = median_layer_ms(&f, &report->layer_ms, err);
done:
    end(&f);
    return st;
}
