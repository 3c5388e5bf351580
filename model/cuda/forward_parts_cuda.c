/* See model/cuda/forward_parts_cuda.h. */
#include "model/cuda/forward_parts_cuda.h"

#include <assert.h>
#include <limits.h>
#include <string.h>

#include "core/message.h"
#include "model/cuda/lm_head_cuda.h"

enum { N_ARRAYS = 7 };

/* A part for the host, which looks at it while the GPU computes the next one. Two of them take turns. Pinned memory: q,
 * k, v and, with n_recent, k_exact, each by heads; the attention's output by rows. */
typedef struct host_part {
    float *heads, *attended;
    void *sent; /* event */
    layer_heads at;
    bool is_waiting;
} host_part;

typedef struct gpu_parts {
    cuda_pass pass;
    const forward_hooks *host;
    const forward_parts_cuda_hooks *hooks;
    const forward_parts_cuda_options *options;
    /* Arrays for the largest part. k_in and v_in enter RoPE: f32 [n_kv_heads][n_tokens][dims]. The others are rows of
     * heads in the precision, as attention reads them: q and k are turned; k_exact and v_exact are as they were before
     * on_qkv (only with n_recent > 0; otherwise k and v are written twice). */
    rb_cuda_array k_in, v_in, q, k, v, k_exact, v_exact;
    host_part for_host[2];
    double host_s;
} gpu_parts;

/* ---- parts and sizes ------------------------------------------------------------------------- */

typedef struct part_tokens {
    int part;
    int64_t first, n; /* tokens of the batch */
} part_tokens;

static part_tokens find_part(const token_batch *batch, const forward_hooks *host, int part)
{
    const int64_t first = batch->sequence_start[host->part_start[part]];
    return (part_tokens){.part = part, .first = first, .n = batch->sequence_start[host->part_start[part + 1]] - first};
}

/* Tokens of the largest of the first n_parts parts. */
static int64_t largest_part(const token_batch *batch, const forward_hooks *host, int n_parts)
{
    int64_t largest = 0;
    for (int part = 0; part < n_parts; part++) {
        const int64_t n = find_part(batch, host, part).n;
        if (n > largest) largest = n;
    }
    return largest;
}

/* Bytes of each array, in the order of list_arrays. */
typedef struct part_array_sizes {
    int64_t bytes[N_ARRAYS];
} part_array_sizes;

static part_array_sizes sizes_of(const model_config *c, const token_batch *batch, const forward_hooks *host,
                                 layer_cuda_precision precision)
{
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const int64_t n = largest_part(batch, host, host->n_parts), e = cuda_pass_element_bytes(precision),
                  n_exact = host->n_recent > 0 ? n : 0;
    return (part_array_sizes){{n * cuda_pass_k_width(c) * 4, n * cuda_pass_v_width(c) * 4, n * rows.q_width * e,
                               n * rows.k_width * e, n * rows.v_width * e, n_exact * rows.k_width * e,
                               n_exact * rows.v_width * e}};
}

static void list_arrays(gpu_parts *f, rb_cuda_array *arrays[N_ARRAYS])
{
    rb_cuda_array *const all[N_ARRAYS] = {&f->k_in, &f->v_in, &f->q, &f->k, &f->v, &f->k_exact, &f->v_exact};
    memcpy(arrays, all, sizeof all);
}

int64_t forward_parts_cuda_bytes(const model_config *c, const token_batch *batch, const forward_hooks *host,
                                 const forward_parts_cuda_options *options, int64_t chunk_tokens)
{
    const part_array_sizes sizes = sizes_of(c, batch, host, options->precision);
    const int64_t head = lm_head_cuda_bytes(c, options->precision, host->n_logit_tokens, host->logit_group);
    int64_t layers = weight_stream_device_bytes(c, options->precision);
    const int64_t common = cuda_pass_bytes(c, batch, options->precision, chunk_tokens) - layers;
    for (int i = 0; i < N_ARRAYS; i++) layers += sizes.bytes[i];
    return options->reserved_bytes + common + (layers > head ? layers : head);
}

static int64_t bytes_of_chunk(const void *user, int64_t chunk)
{
    const gpu_parts *f = user;
    return forward_parts_cuda_bytes(f->pass.config, f->pass.batch, f->host, f->options, chunk);
}

/* ---- set-up ---------------------------------------------------------------------------------- */

static int64_t attended_width(const model_config *c) { return (int64_t)c->facts.n_q_heads * c->attended_dim; }

static rb_status open_host(const gpu_parts *f, host_part *h, rb_error *err)
{
    const model_config *c = f->pass.config;
    const size_t n = (size_t)largest_part(f->pass.batch, f->host, f->hooks->n_host_parts),
                 q = (size_t)cuda_pass_q_width(c), k = (size_t)cuda_pass_k_width(c),
                 width = q + (f->host->n_recent > 0 ? 2 : 1) * k + (size_t)cuda_pass_v_width(c);
    rb_status st = RB_OK;
    if (n == 0) return RB_OK;
    RB_TRY(st, rb_cuda()->event_create(&h->sent, err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&h->heads, n * width * sizeof(float), err), done);
    if (f->host->on_attended)
        st = rb_cuda()->alloc_pinned((void **)&h->attended, n * (size_t)attended_width(c) * sizeof(float), err);
done:
    return st;
}

static void close_host(host_part *h)
{
    rb_cuda()->event_destroy(h->sent);
    rb_cuda()->release_pinned(h->heads);
    rb_cuda()->release_pinned(h->attended);
}

static rb_status begin(gpu_parts *f, const checkpoint *model, const token_batch *batch, rb_error *err)
{
    const part_array_sizes sizes = sizes_of(checkpoint_config(model), batch, f->host, f->options->precision);
    rb_cuda_array *arrays[N_ARRAYS];
    rb_status st;
    list_arrays(f, arrays);
    RB_TRY(st, cuda_pass_begin(&f->pass, model, batch, f->options->precision, err), done);
    RB_TRY(st, cuda_pass_choose_chunk(&f->pass, bytes_of_chunk, f, f->options->max_bytes, err), done);
    RB_TRY(st, cuda_pass_alloc(&f->pass, false, f->host->part_start, f->host->n_parts, err), done);
    for (int i = 0; i < N_ARRAYS; i++)
        if (sizes.bytes[i] > 0)
            RB_TRY(st, rb_cuda_array_alloc(arrays[i], (size_t)sizes.bytes[i], "queries, keys and values", err), done);
    for (int i = 0; i < 2; i++) RB_TRY(st, open_host(f, &f->for_host[i], err), done);
done:
    return st;
}

/* ---- a layer of a part ----------------------------------------------------------------------- */

static void *row(const gpu_parts *f, const rb_cuda_array *array, int64_t token, int64_t width)
{
    return (char *)array->at + token * width * cuda_pass_element_bytes(f->pass.precision);
}

/* Computes queries, turned, and keys and values as they enter RoPE; for recent keys also the rows that attention reads.
 */
static rb_status project_part(const gpu_parts *f, const device_layer *w, int layer, const part_tokens *part,
                              rb_error *err)
{
    const model_config *c = f->pass.config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const bool keeps_exact = f->host->n_recent > 0;
    rb_status st = RB_OK;
    for (int64_t at = 0; at < part->n; at += f->pass.chunk) {
        const int64_t n = part->n - at < f->pass.chunk ? part->n - at : f->pass.chunk;
        RB_TRY(st, cuda_pass_project(&f->pass, w, part->first + at, n, err), done);
        layer_cuda_heads in = cuda_pass_heads(&f->pass, w, layer, part->first + at, n);
        in.q = row(f, &f->q, at, rows.q_width);
        in.capture_k = (float *)f->k_in.at + at * c->facts.head_dim;
        in.capture_v = (float *)f->v_in.at + at * c->facts.value_dim;
        in.capture_is_f32 = true;
        in.capture_stride = part->n;
        RB_TRY(st,
               cuda_pass_run_heads(&f->pass, w, &in, row(f, keeps_exact ? &f->k_exact : &f->k, at, rows.k_width),
                                   row(f, keeps_exact ? &f->v_exact : &f->v, at, rows.v_width), err),
               done);
    }
done:
    return st;
}

static rb_status turn_part(const gpu_parts *f, const device_layer *w, int layer, const part_tokens *part, rb_error *err)
{
    const model_config *c = f->pass.config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    rb_status st = RB_OK;
    for (int64_t at = 0; at < part->n && st == RB_OK; at += f->pass.chunk) {
        const int64_t n = part->n - at < f->pass.chunk ? part->n - at : f->pass.chunk;
        st = cuda_pass_turn(&f->pass, w, layer, part->first + at, n, (const float *)f->k_in.at + at * c->facts.head_dim,
                            (const float *)f->v_in.at + at * c->facts.value_dim, part->n,
                            row(f, &f->k, at, rows.k_width), row(f, &f->v, at, rows.v_width), err);
    }
    return st;
}

static rb_status attend(const gpu_parts *f, int layer, const part_tokens *part, int64_t at, int64_t n, rb_error *err)
{
    const int64_t n_recent = f->host->n_recent;
    attention_cuda_input in = cuda_pass_attention(&f->pass, layer);
    in.q = row(f, &f->q, at, in.q_token_stride);
    in.k = f->k.at;
    in.v = f->v.at;
    in.recent_k = f->k_exact.at;
    in.recent_v = f->v_exact.at;
    in.n_recent = (int)(n_recent < INT_MAX ? n_recent : INT_MAX);
    in.first_query = at;
    in.n_queries = n;
    in.token_sequence_start = (const int32_t *)f->pass.starts.at + part->first;
    return cuda_pass_attend(&f->pass, &in, err);
}

/* Rows of a part of which the host sees the last head_dim dims of n_heads heads. */
static layer_cuda_rows host_rows(const gpu_parts *f, const rb_cuda_array *array, int n_heads, int64_t width,
                                 const part_tokens *part)
{
    const model_config *c = f->pass.config;
    const int head_dim = c->facts.head_dim;
    return (layer_cuda_rows){.rows = (const char *)array->at
                                     + (c->query_dim - head_dim) * cuda_pass_element_bytes(f->pass.precision),
                             .n_heads = n_heads,
                             .head_dim = head_dim,
                             .n_tokens = part->n,
                             .token_stride = width,
                             .pitch = cuda_pass_rows_of(c).pitch,
                             .precision = f->pass.precision};
}

/* Values: those of a latent cache are what they were made of. */
static rb_status send_values(const gpu_parts *f, float *to, const part_tokens *part, rb_error *err)
{
    const model_config *c = f->pass.config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const layer_cuda_rows values = {.rows = f->v.at,
                                    .n_heads = c->facts.n_kv_heads,
                                    .head_dim = c->facts.value_dim,
                                    .n_tokens = part->n,
                                    .token_stride = rows.v_width,
                                    .pitch = rows.v_pitch,
                                    .precision = f->pass.precision};
    return c->has_latent_cache ? rb_cuda()->copy(to, f->v_in.at, (size_t)(part->n * cuda_pass_v_width(c)) * sizeof *to,
                                                 f->pass.compute, err)
                               : f->pass.api->part_heads(to, &values, f->pass.compute, err);
}

/* Kernels write to the pinned memory, without a copy on the device. */
static rb_status send_heads(const gpu_parts *f, host_part *h, int layer, const part_tokens *part, rb_error *err)
{
    const model_config *c = f->pass.config;
    const cuda_pass_rows rows = cuda_pass_rows_of(c);
    const bool keeps_exact = f->host->n_recent > 0;
    float *q = h->heads, *k = q + part->n * cuda_pass_q_width(c), *v = k + part->n * cuda_pass_k_width(c),
          *exact_k = v + part->n * cuda_pass_v_width(c);
    const struct {
        float *to;
        layer_cuda_rows from;
    } all[] = {{q, host_rows(f, &f->q, c->facts.n_q_heads, rows.q_width, part)},
               {k, host_rows(f, &f->k, c->facts.n_kv_heads, rows.k_width, part)},
               {exact_k, host_rows(f, &f->k_exact, c->facts.n_kv_heads, rows.k_width, part)}};
    rb_status st = send_values(f, v, part, err);
    for (size_t i = 0; i < (keeps_exact ? 3 : 2) && st == RB_OK; i++)
        st = f->pass.api->part_heads(all[i].to, &all[i].from, f->pass.compute, err);
    h->at = (layer_heads){.layer = layer,
                          .part = part->part,
                          .first_token = part->first,
                          .n_tokens = part->n,
                          .q = q,
                          .k = k,
                          .v = v,
                          .exact_k = keeps_exact ? exact_k : k};
    return st;
}

static rb_status send_attended(const gpu_parts *f, float *to, int64_t n, rb_error *err)
{
    const int64_t width = attended_width(f->pass.config);
    const layer_cuda_rows in = {.rows = f->pass.attended.at,
                                .n_heads = 1,
                                .head_dim = (int)width,
                                .n_tokens = n,
                                .token_stride = width,
                                .pitch = width,
                                .precision = f->pass.precision};
    return f->pass.api->part_heads(to, &in, f->pass.compute, err);
}

static rb_status finish_part(const gpu_parts *f, const device_layer *w, int layer, const part_tokens *part,
                             const host_part *h, rb_error *err)
{
    const int64_t width = attended_width(f->pass.config);
    rb_status st = RB_OK;
    for (int64_t at = 0; at < part->n; at += f->pass.chunk) {
        const int64_t n = part->n - at < f->pass.chunk ? part->n - at : f->pass.chunk;
        RB_TRY(st, attend(f, layer, part, at, n, err), done);
        if (h && h->attended) RB_TRY(st, send_attended(f, h->attended + at * width, n, err), done);
        RB_TRY(st, cuda_pass_finish(&f->pass, w, layer, part->first + at, n, NULL, err), done);
    }
done:
    return st;
}

/* Calls the host's hooks on the part that waits, if any. */
static rb_status run_host_hooks(gpu_parts *f, host_part *h, rb_error *err)
{
    const forward_hooks *host = f->host;
    double started_s;
    rb_status st = RB_OK;
    if (!h->is_waiting) return RB_OK;
    RB_TRY(st, rb_cuda()->event_wait(h->sent, err), done);
    started_s = rb_now_s();
    h->is_waiting = false;
    if (host->on_rotated) RB_TRY(st, host->on_rotated(host->user, &h->at, err), done);
    if (host->on_attended) RB_TRY(st, host->on_attended(host->user, &h->at, h->attended, err), done);
    f->host_s += rb_now_s() - started_s;
done:
    return st;
}

/* h: where the host's copy goes; NULL: the host gets none. */
static rb_status run_part(gpu_parts *f, const device_layer *w, int layer, const part_tokens *part, host_part *h,
                          rb_error *err)
{
    const device_heads changed = {.layer = layer,
                                  .part = part->part,
                                  .first_token = part->first,
                                  .n_tokens = part->n,
                                  .k = f->k_in.at,
                                  .v = f->v_in.at};
    rb_status st;
    RB_TRY(st, project_part(f, w, layer, part, err), done);
    RB_TRY(st, f->hooks->on_qkv(f->hooks->user, &changed, f->pass.compute, err), done);
    RB_TRY(st, turn_part(f, w, layer, part, err), done);
    if (h) RB_TRY(st, send_heads(f, h, layer, part, err), done);
    RB_TRY(st, finish_part(f, w, layer, part, h, err), done);
    if (!h) goto done;
    RB_TRY(st, rb_cuda()->event_record(h->sent, f->pass.compute, err), done);
    h->is_waiting = true;
done:
    return st;
}

/* The host looks at a part while the GPU computes the next one; it looks at its last part while the GPU computes all
 * that follow. */
static rb_status run_layer(gpu_parts *f, int layer, rb_error *err)
{
    const int n_host = f->hooks->n_host_parts;
    device_layer w;
    rb_status st;
    RB_TRY(st, cuda_pass_next_layer(&f->pass, layer, &w, err), done);
    for (int i = 0; i < f->host->n_parts; i++) {
        const part_tokens part = find_part(f->pass.batch, f->host, i);
        RB_TRY(st, run_part(f, &w, layer, &part, i < n_host ? &f->for_host[i % 2] : NULL, err), done);
        if (i < n_host) RB_TRY(st, run_host_hooks(f, &f->for_host[(i + 1) % 2], err), done);
    }
    RB_TRY(st, cuda_pass_finish_layer(&f->pass, layer, err), done);
    RB_TRY(st, weight_stream_release(f->pass.weights, layer, f->pass.compute, err), done);
    if (n_host > 0) RB_TRY(st, run_host_hooks(f, &f->for_host[(n_host - 1) % 2], err), done);
    RB_TRY(st, rb_cuda()->stream_wait(f->pass.compute, err), done);
    RB_TRY(st, f->hooks->on_layer_done(f->hooks->user, layer, err), done);
    if (f->host->on_layer_done) f->host->on_layer_done(f->host->user, layer);
done:
    return st;
}

/* ---- the run --------------------------------------------------------------------------------- */

static void free_arrays(gpu_parts *f)
{
    rb_cuda_array *arrays[N_ARRAYS];
    list_arrays(f, arrays);
    for (int i = 0; i < N_ARRAYS; i++) rb_cuda_array_free(arrays[i]);
}

static rb_status run_lm_head(gpu_parts *f, rb_error *err)
{
    const lm_head_cuda_request request = {.tokens = f->host->logit_tokens,
                                          .n = f->host->n_logit_tokens,
                                          .group = f->host->logit_group,
                                          .user = f->hooks->user,
                                          .on_logits = f->hooks->on_logits};
    free_arrays(f);
    weight_stream_close(f->pass.weights);
    f->pass.weights = NULL;
    return lm_head_cuda_run(&f->pass, &request, err);
}

rb_status forward_parts_cuda_run(const checkpoint *model, const token_batch *batch, const forward_hooks *host,
                                 const forward_parts_cuda_hooks *hooks, const forward_parts_cuda_options *options,
                                 forward_parts_cuda_report *report, rb_error *err)
{
    gpu_parts f = {.host = host, .hooks = hooks, .options = options};
    const double started_s = rb_now_s();
    rb_status st;
    assert(host->part_start && host->logit_tokens && host->logit_group > 0);
    RB_TRY(st, begin(&f, model, batch, err), done);
    report->set_up_s = rb_now_s() - started_s;
    for (int layer = 0; layer < f.pass.config->facts.n_layers; layer++) RB_TRY(st, run_layer(&f, layer, err), done);
    const double layers_s = rb_now_s() - started_s;
    RB_TRY(st, run_lm_head(&f, err), done);
    report->total_s = rb_now_s() - started_s;
    report->logits_s = report->total_s - layers_s;
    report->host_s = f.host_s;
    report->chunk_tokens = f.pass.chunk;
    report->gpu_bytes = (int64_t)rb_cuda_peak_bytes() + CUDA_PASS_WORKSPACE_BYTES;
done:
    if (f.pass.compute) rb_cuda()->stream_wait(f.pass.compute, NULL);
    free_arrays(&f);
    for (int i = 0; i < 2; i++) close_host(&f.for_host[i]);
    cuda_pass_end(&f.pass);
    return st;
}
