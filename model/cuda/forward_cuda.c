/* See model/cuda/forward_cuda.h. */
#include "model/cuda/forward_cuda.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/handover.h"
#include "core/message.h"
#include "core/order.h"

enum { STATISTICS_TOKENS = 64 };

/* One layer's captured heads and sums, on the device and then on the host. Two buffers take turns. */
typedef struct capture_buffer {
    rb_cuda_array heads, sums;
    char *host_heads;
    double *host_sums;
    float *host_stream;     /* pinned, the residual stream after the layer; NULL where nobody wants it */
    void *captured, *ready; /* events: the compute stream is done with it; the host has it */
} capture_buffer;

typedef struct gpu_forward {
    cuda_pass pass;
    const forward_cuda_options *options;
    const forward_cuda_hooks *hooks;
    void *copy;               /* stream */
    rb_cuda_array k, v;       /* all tokens */
    rb_cuda_array q, scratch; /* a chunk */
    capture_buffer buffers[2];
    void **started, **finished; /* events [n_layers] */
    rb_handover *layers;        /* items count from first_layer; buffers[layer % 2] go from the calling thread to
                                   `thread`, layer by layer */
    pthread_t thread;
    bool is_running;
} gpu_forward;

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t q_width(const model_config *c) { return cuda_pass_q_width(c); }
static int64_t k_width(const model_config *c) { return cuda_pass_k_width(c); }
static int64_t capture_width(const model_config *c, const forward_cuda_options *options)
{
    return q_width(c) + k_width(c) + (options->with_values ? cuda_pass_v_width(c) : 0);
}
static int64_t capture_element(const forward_cuda_options *options) { return options->capture_is_f32 ? 4 : 2; }
static int64_t sums_width(const model_config *c) { return q_width(c) + 2 * k_width(c); }
/* Doubles of a layer: the sums of every set, then an energy of every token. */
static int64_t n_sums(const model_config *c, const forward_cuda_options *options)
{
    return options->n_sets * sums_width(c);
}
static int64_t n_doubles(const model_config *c, const token_batch *batch, const forward_cuda_options *options)
{
    return n_sums(c, options) + (options->with_residual ? batch->n_tokens : 0);
}
static size_t stream_bytes(const cuda_pass *pass)
{
    return (size_t)(pass->n_tokens * pass->config->hidden_size) * sizeof(float);
}
static int64_t keys_bytes(const model_config *c, const token_batch *batch, const forward_cuda_options *options)
{
    return batch->n_tokens * cuda_pass_rows_of(c).k_width * cuda_pass_element_bytes(options->precision);
}
static int64_t values_bytes(const model_config *c, const token_batch *batch, const forward_cuda_options *options)
{
    return batch->n_tokens * cuda_pass_rows_of(c).v_width * cuda_pass_element_bytes(options->precision);
}
static int64_t queries_bytes(const model_config *c, const forward_cuda_options *options, int64_t chunk)
{
    return chunk * cuda_pass_rows_of(c).q_width * cuda_pass_element_bytes(options->precision);
}
static int64_t scratch_bytes(const model_config *c, int64_t chunk)
{
    return (chunk + STATISTICS_TOKENS - 1) / STATISTICS_TOKENS * sums_width(c) * 8;
}

int64_t forward_cuda_bytes(const model_config *config, const token_batch *batch, const forward_cuda_options *options,
                           int64_t chunk_tokens)
{
    return cuda_pass_bytes(config, batch, options->precision, chunk_tokens) + keys_bytes(config, batch, options)
           + values_bytes(config, batch, options) + queries_bytes(config, options, chunk_tokens)
           + scratch_bytes(config, chunk_tokens)
           + 2
                 * (batch->n_tokens * capture_width(config, options) * capture_element(options)
                    + n_doubles(config, batch, options) * 8);
}

static int64_t bytes_of_chunk(const void *user, int64_t chunk)
{
    const gpu_forward *f = user;
    return forward_cuda_bytes(f->pass.config, f->pass.batch, f->options, chunk);
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static rb_status open_buffer(gpu_forward *f, capture_buffer *b, rb_error *err)
{
    const size_t heads =
        (size_t)(f->pass.batch->n_tokens * capture_width(f->pass.config, f->options) * capture_element(f->options));
    const size_t sums = (size_t)n_doubles(f->pass.config, f->pass.batch, f->options) * sizeof(double);
    rb_status st;
    RB_TRY(st, rb_cuda_array_alloc(&b->heads, heads, "captured heads", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&b->sums, sums, "sums", err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&b->host_heads, heads, err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&b->host_sums, sums, err), done);
    if (f->hooks->on_stream)
        RB_TRY(st, rb_cuda()->alloc_pinned((void **)&b->host_stream, stream_bytes(&f->pass), err), done);
    RB_TRY(st, rb_cuda()->event_create(&b->captured, err), done);
    RB_TRY(st, rb_cuda()->event_create(&b->ready, err), done);
done:
    return st;
}

static rb_status make_events(void ***events, int n, rb_error *err)
{
    rb_status st = rb_alloc(events, (size_t)n, sizeof **events, "events", err);
    for (int i = 0; i < n && st == RB_OK; i++) st = rb_cuda()->event_create(&(*events)[i], err);
    return st;
}

static rb_status begin(gpu_forward *f, const checkpoint *model, const token_batch *batch, rb_error *err)
{
    const model_config *c = checkpoint_config(model);
    rb_status st;
    RB_TRY(st, cuda_pass_begin(&f->pass, model, batch, f->options->precision, err), done);
    RB_TRY(st, cuda_pass_choose_chunk(&f->pass, bytes_of_chunk, f, f->options->max_bytes, err), done);
    f->pass.first_layer = f->options->first_layer;
    f->pass.fill_stream = f->hooks->fill_stream;
    f->pass.fill_user = f->hooks->user;
    RB_TRY(st, cuda_pass_alloc(&f->pass, !f->options->with_residual, NULL, 0, err), done);
    RB_TRY(st, rb_cuda()->stream_create(&f->copy, err), done);
    RB_TRY(st, rb_cuda_array_alloc(&f->k, (size_t)keys_bytes(c, batch, f->options), "keys", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&f->v, (size_t)values_bytes(c, batch, f->options), "values", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&f->q, (size_t)queries_bytes(c, f->options, f->pass.chunk), "queries", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&f->scratch, (size_t)scratch_bytes(c, f->pass.chunk), "sums", err), done);
    for (int i = 0; i < 2; i++) RB_TRY(st, open_buffer(f, &f->buffers[i], err), done);
    RB_TRY(st, make_events(&f->started, c->facts.n_layers, err), done);
    RB_TRY(st, make_events(&f->finished, c->facts.n_layers, err), done);
done:
    return st;
}

/* ---- the hand-over thread -------------------------------------------------------------------- */

static rb_status hand_over_layer(const gpu_forward *f, int layer, rb_error *err)
{
    const capture_buffer *b = &f->buffers[layer % 2];
    const model_config *c = f->pass.config;
    const forward_cuda_options *o = f->options;
    const double *sums = b->host_sums, *energies = b->host_sums + n_sums(c, o);
    rb_status st = rb_cuda()->event_wait(b->ready, err);
    for (int set = 0; set < o->n_sets && st == RB_OK; set++) {
        const int64_t n = o->set_start[set + 1] - o->set_start[set], element = capture_element(o);
        const char *q = b->host_heads + o->set_start[set] * capture_width(c, o) * element,
                   *k = q + n * q_width(c) * element;
        const captured_layer captured = {.layer = layer,
                                         .set = set,
                                         .n_tokens = n,
                                         .q = q,
                                         .k = k,
                                         .v = o->with_values ? k + n * k_width(c) * element : NULL,
                                         .q_squares = sums,
                                         .k_squares = sums + q_width(c),
                                         .k_sums = sums + q_width(c) + k_width(c),
                                         .residual_energy = o->with_residual ? energies + o->set_start[set] : NULL};
        st = f->hooks->on_captured(f->hooks->user, &captured, err);
        sums += sums_width(c);
    }
    if (st == RB_OK && f->hooks->on_stream)
        st = f->hooks->on_stream(f->hooks->user, layer, layer + 1 < c->facts.n_layers ? b->host_stream : NULL, err);
    if (st == RB_OK && f->hooks->on_layer_done) f->hooks->on_layer_done(f->hooks->user, layer);
    return st;
}

static void *hand_over_run(void *argument)
{
    const gpu_forward *f = argument;
    rb_error err = {0};
    rb_status st = rb_cuda()->use_device(rb_cuda_device()->index, &err);
    int64_t item = 0;
    if (st == RB_OK)
        while ((item = rb_handover_take(f->layers)) >= 0) {
            st = hand_over_layer(f, f->options->first_layer + (int)item, &err);
            if (st != RB_OK) break;
            rb_handover_release(f->layers, item);
        }
    if (st != RB_OK) rb_handover_fail(f->layers, item, st, &err);
    return NULL;
}

/* Waits until the next layer's buffer is free. A failure of the thread is the run's. */
static rb_status wait_for_buffer(const gpu_forward *f, rb_error *err)
{
    return rb_handover_claim(f->layers) >= 0 ? RB_OK : rb_handover_status(f->layers, err);
}

static rb_status send_buffer(const gpu_forward *f, const capture_buffer *b, int layer, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda()->event_record(b->captured, f->pass.compute, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(f->copy, b->captured, err), done);
    RB_TRY(st, rb_cuda()->copy(b->host_heads, b->heads.at, b->heads.size_bytes, f->copy, err), done);
    RB_TRY(st, rb_cuda()->copy(b->host_sums, b->sums.at, b->sums.size_bytes, f->copy, err), done);
    if (b->host_stream && layer + 1 < f->pass.config->facts.n_layers)
        RB_TRY(st, rb_cuda()->copy(b->host_stream, f->pass.hidden.at, stream_bytes(&f->pass), f->copy, err), done);
    RB_TRY(st, rb_cuda()->event_record(b->ready, f->copy, err), done);
    rb_handover_give(f->layers, layer - f->options->first_layer);
done:
    return st;
}

/* ---- a layer --------------------------------------------------------------------------------- */

/* Tokens [first, first + n) of one set. */
typedef struct token_chunk {
    int64_t first, n;
    int set;
} token_chunk;

static void *offset(const rb_cuda_array *array, int64_t bytes) { return (char *)array->at + bytes; }

static rb_status capture_heads(const gpu_forward *f, const device_layer *w, int layer, capture_buffer *b,
                               const token_chunk *chunk, rb_error *err)
{
    const model_config *c = f->pass.config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const forward_cuda_options *o = f->options;
    const int64_t e = cuda_pass_element_bytes(o->precision), ce = capture_element(o),
                  n_set = o->set_start[chunk->set + 1] - o->set_start[chunk->set],
                  first = (chunk->first - o->set_start[chunk->set]) * ce;
    char *q = offset(&b->heads, o->set_start[chunk->set] * capture_width(c, o) * ce), *k = q + n_set * q_width(c) * ce,
         *v = k + n_set * k_width(c) * ce;
    double *sums = (double *)b->sums.at + chunk->set * sums_width(c);
    layer_cuda_heads in = cuda_pass_heads(&f->pass, w, layer, chunk->first, chunk->n);
    in.q = f->q.at;
    in.capture_q = q + first * c->facts.head_dim;
    in.capture_k = k + first * c->facts.head_dim;
    in.capture_v = o->with_values ? v + first * c->facts.value_dim : NULL;
    in.capture_is_f32 = o->capture_is_f32;
    in.capture_stride = n_set;
    in.q_squares = sums;
    in.k_squares = sums + q_width(c);
    in.k_sums = sums + q_width(c) + k_width(c);
    in.scratch = f->scratch.at;
    return cuda_pass_run_heads(&f->pass, w, &in, offset(&f->k, chunk->first * rows.k_width * e),
                               offset(&f->v, chunk->first * rows.v_width * e), err);
}

static rb_status attend(const gpu_forward *f, int layer, const token_chunk *chunk, rb_error *err)
{
    attention_cuda_input in = cuda_pass_attention(&f->pass, layer);
    in.q = f->q.at;
    in.k = f->k.at;
    in.v = f->v.at;
    in.first_query = chunk->first;
    in.n_queries = chunk->n;
    in.token_sequence_start = f->pass.starts.at;
    return cuda_pass_attend(&f->pass, &in, err);
}

/* The layer's heads are computed beside the copy of the stream that they were made from; what adds to it waits. */
static rb_status wait_for_copy(const gpu_forward *f, int layer, rb_error *err)
{
    if (!f->hooks->on_stream || layer == f->options->first_layer) return RB_OK;
    return rb_cuda()->stream_wait_event(f->pass.compute, f->buffers[(layer - 1) % 2].ready, err);
}

static rb_status run_chunk(const gpu_forward *f, const device_layer *w, int layer, capture_buffer *b,
                           const token_chunk *chunk, rb_error *err)
{
    double *energies = (double *)b->sums.at + n_sums(f->pass.config, f->options);
    const bool with_residual = f->options->with_residual;
    rb_status st;
    RB_TRY(st, cuda_pass_project(&f->pass, w, chunk->first, chunk->n, err), done);
    RB_TRY(st, capture_heads(f, w, layer, b, chunk, err), done);
    if (layer + 1 == f->pass.config->facts.n_layers && !with_residual) goto done;
    RB_TRY(st, attend(f, layer, chunk, err), done);
    RB_TRY(st, wait_for_copy(f, layer, err), done);
    st = cuda_pass_finish(&f->pass, w, layer, chunk->first, chunk->n, with_residual ? energies + chunk->first : NULL,
                          err);
done:
    return st;
}

static rb_status run_layer(gpu_forward *f, int layer, rb_error *err)
{
    const forward_cuda_options *o = f->options;
    capture_buffer *b = &f->buffers[layer % 2];
    device_layer w;
    rb_status st;
    RB_TRY(st, cuda_pass_next_layer(&f->pass, layer, &w, err), done);
    RB_TRY(st, wait_for_buffer(f, err), done);
    RB_TRY(st, rb_cuda()->event_record(f->started[layer], f->pass.compute, err), done);
    RB_TRY(st, rb_cuda()->fill(b->sums.at, 0, b->sums.size_bytes, f->pass.compute, err), done);
    for (int set = 0; set < o->n_sets; set++)
        for (int64_t first = o->set_start[set]; first < o->set_start[set + 1]; first += f->pass.chunk) {
            const int64_t left = o->set_start[set + 1] - first;
            const token_chunk chunk = {.first = first, .n = left < f->pass.chunk ? left : f->pass.chunk, .set = set};
            RB_TRY(st, run_chunk(f, &w, layer, b, &chunk, err), done);
        }
    RB_TRY(st, cuda_pass_finish_layer(&f->pass, layer, err), done);
    RB_TRY(st, rb_cuda()->event_record(f->finished[layer], f->pass.compute, err), done);
    RB_TRY(st, weight_stream_release(f->pass.weights, layer, f->pass.compute, err), done);
    st = send_buffer(f, b, layer, err);
done:
    return st;
}

/* ---- the run --------------------------------------------------------------------------------- */

static rb_status median_layer_ms(const gpu_forward *f, double *median, rb_error *err)
{
    const int first = f->options->first_layer, n = f->pass.config->facts.n_layers - 1 - first;
    double *times = NULL;
    rb_status st;
    *median = 0.0;
    RB_TRY(st, rb_alloc(&times, (size_t)n + 1, sizeof *times, "layer times", err), done);
    for (int i = 0; i < n; i++) {
        float ms = 0.0f;
        RB_TRY(st, rb_cuda()->event_elapsed_ms(&ms, f->started[first + i], f->finished[first + i], err), done);
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
    const int first = f->options->first_layer, end = f->pass.config->facts.n_layers;
    rb_status st = RB_OK;
    for (int layer = first; layer < end && st == RB_OK; layer++) st = run_layer(f, layer, err);
    return st == RB_OK ? rb_handover_wait(f->layers, end - first, err) : st;
}

static void stop_thread(gpu_forward *f)
{
    if (!f->is_running) return;
    rb_handover_stop(f->layers);
    pthread_join(f->thread, NULL);
}

static void end(gpu_forward *f, int n_layers)
{
    stop_thread(f);
    if (f->pass.compute) rb_cuda()->stream_wait(f->pass.compute, NULL);
    if (f->copy) rb_cuda()->stream_wait(f->copy, NULL);
    rb_cuda_array_free(&f->k);
    rb_cuda_array_free(&f->v);
    rb_cuda_array_free(&f->q);
    rb_cuda_array_free(&f->scratch);
    for (int i = 0; i < 2; i++) {
        capture_buffer *b = &f->buffers[i];
        rb_cuda_array_free(&b->heads);
        rb_cuda_array_free(&b->sums);
        rb_cuda()->release_pinned(b->host_heads);
        rb_cuda()->release_pinned(b->host_sums);
        rb_cuda()->release_pinned(b->host_stream);
        rb_cuda()->event_destroy(b->captured);
        rb_cuda()->event_destroy(b->ready);
    }
    for (int i = 0; i < n_layers; i++) {
        if (f->started) rb_cuda()->event_destroy(f->started[i]);
        if (f->finished) rb_cuda()->event_destroy(f->finished[i]);
    }
    free(f->started);
    free(f->finished);
    if (f->copy) rb_cuda()->stream_destroy(f->copy);
    cuda_pass_end(&f->pass);
    rb_handover_free(f->layers);
}

rb_status forward_cuda_run(const checkpoint *model, const token_batch *batch, const forward_cuda_options *options,
                           const forward_cuda_hooks *hooks, forward_cuda_report *report, rb_error *err)
{
    gpu_forward f = {.options = options, .hooks = hooks};
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, begin(&f, model, batch, err), done);
    const double set_up_s = rb_now_s() - started_s;
    RB_TRY(st, rb_handover_create(&f.layers, 2, f.pass.config->facts.n_layers - options->first_layer, err), done);
    if (pthread_create(&f.thread, NULL, hand_over_run, &f) != 0) {
        st = rb_fail(err, RB_ENOMEM, "cannot start a thread");
        goto done;
    }
    f.is_running = true;
    RB_TRY(st, run_layers(&f, err), done);
    RB_TRY(st, rb_cuda()->stream_wait(f.pass.compute, err), done);
    *report = (forward_cuda_report){.total_s = rb_now_s() - started_s,
                                    .set_up_s = set_up_s,
                                    .weight_bytes = weight_stream_bytes_read(f.pass.weights),
                                    .gpu_bytes = (int64_t)rb_cuda_peak_bytes() + CUDA_PASS_WORKSPACE_BYTES,
                                    .chunk_tokens = f.pass.chunk};
    st = median_layer_ms(&f, &report->layer_ms, err);
done:
    end(&f, checkpoint_config(model)->facts.n_layers);
    return st;
}
