/* See model/cuda/decode_cuda.h. */
#include "model/cuda/decode_cuda.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "model/cuda/cuda_pass.h"

/* Runs that put the same work on the stream. */
typedef struct run_work {
    int64_t key, n, n_logits; /* key 0: none */
} run_work;

struct decode_cuda {
    const resident_weights *weights;
    cuda_pass pass;
    int64_t max_tokens, max_logits;
    rb_cuda_array q, k, v, turned_k, rows_v; /* of device_decode_heads */
    rb_cuda_array lengths, logits;
    float *host_hidden, *host_logits; /* pinned */
    int32_t *host_numbers;            /* pinned [2][max_tokens]: positions, lengths */
    run_work last_work;               /* of the run before */
    void *recording;                  /* of last_work, or NULL */
    bool cannot_record;
};

/* ---- opening --------------------------------------------------------------------------------- */

static rb_status alloc_device(decode_cuda *d, rb_error *err)
{
    const model_config *c = d->weights->config;
    const int64_t n = d->max_tokens, e = cuda_pass_element_bytes(d->weights->precision);
    const struct {
        rb_cuda_array *array;
        int64_t bytes;
    } arrays[] = {{&d->q, n * cuda_pass_q_width(c) * e},
                  {&d->k, n * cuda_pass_k_width(c) * (int64_t)sizeof(float)},
                  {&d->v, n * cuda_pass_v_width(c) * (int64_t)sizeof(float)},
                  {&d->turned_k, n * cuda_pass_k_width(c) * e},
                  {&d->rows_v, n * cuda_pass_v_width(c) * e},
                  {&d->lengths, n * (int64_t)sizeof(int32_t)},
                  {&d->logits, d->max_logits * c->vocab_size * (int64_t)sizeof(float)}};
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(arrays) && st == RB_OK; i++)
        if (arrays[i].bytes > 0) st = rb_cuda_array_alloc(arrays[i].array, (size_t)arrays[i].bytes, "activations", err);
    return st;
}

static rb_status alloc_host(decode_cuda *d, rb_error *err)
{
    const model_config *c = d->weights->config;
    const size_t hidden = (size_t)(d->max_tokens * c->hidden_size) * sizeof(float),
                 logits = (size_t)(d->max_logits * c->vocab_size) * sizeof(float),
                 numbers = 2 * (size_t)d->max_tokens * sizeof(int32_t);
    rb_status st;
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&d->host_hidden, hidden, err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&d->host_numbers, numbers, err), done);
    if (logits > 0) st = rb_cuda()->alloc_pinned((void **)&d->host_logits, logits, err);
done:
    return st;
}

rb_status decode_cuda_open(decode_cuda **out, const resident_weights *weights, int64_t max_tokens, int64_t max_logits,
                           int64_t n_positions, rb_error *err)
{
    const model_facts *facts = &weights->config->facts;
    decode_cuda *d = NULL;
    rb_status st;
    *out = NULL;
    if (facts->head_dim % 8 != 0 || facts->value_dim % 8 != 0)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "heads have %d dims, expected a multiple of 8 for decoding on a GPU: try --device cpu",
                       facts->head_dim);
    if (weights->precision == LAYER_CUDA_BF16 && rb_cuda_device()->major < 8)
        return rb_fail(
            err, RB_EUNSUPPORTED,
            "%s has compute capability %d.%d, expected 8.0 or more for decoding in bf16: try --precision f32",
            rb_cuda_device()->name, rb_cuda_device()->major, rb_cuda_device()->minor);
    RB_TRY(st, rb_alloc(&d, 1, sizeof *d, "decode pass", err), done);
    *d = (decode_cuda){.weights = weights, .max_tokens = max_tokens, .max_logits = max_logits};
    RB_TRY(st, cuda_pass_begin_decoding(&d->pass, weights->config, weights->precision, max_tokens, n_positions, err),
           done);
    RB_TRY(st, alloc_device(d, err), done);
    RB_TRY(st, alloc_host(d, err), done);
    *out = d;
    d = NULL;
done:
    decode_cuda_close(d);
    return st;
}

void decode_cuda_close(decode_cuda *d)
{
    if (!d) return;
    rb_cuda_array *const arrays[] = {&d->q, &d->k, &d->v, &d->turned_k, &d->rows_v, &d->lengths, &d->logits};
    if (d->pass.compute) rb_cuda()->stream_wait(d->pass.compute, NULL);
    rb_cuda()->recording_destroy(d->recording);
    cuda_pass_end(&d->pass);
    for (size_t i = 0; i < RB_COUNT(arrays); i++) rb_cuda_array_free(arrays[i]);
    rb_cuda()->release_pinned(d->host_hidden);
    rb_cuda()->release_pinned(d->host_logits);
    rb_cuda()->release_pinned(d->host_numbers);
    free(d);
}

void *decode_cuda_stream(const decode_cuda *d) { return d->pass.compute; }

/* ---- a run ----------------------------------------------------------------------------------- */

/* The pinned memory is written again only after the run before has read it. */
static rb_status send_inputs(decode_cuda *d, const float *hidden, const int32_t *positions, int64_t n, rb_error *err)
{
    const cuda_pass *p = &d->pass;
    const size_t hidden_bytes = (size_t)(n * p->config->hidden_size) * sizeof(float),
                 number_bytes = (size_t)n * sizeof(int32_t);
    int32_t *lengths = d->host_numbers + d->max_tokens;
    rb_status st;
    RB_TRY(st, rb_cuda()->stream_wait(p->compute, err), done);
    memcpy(d->host_hidden, hidden, hidden_bytes);
    memcpy(d->host_numbers, positions, number_bytes);
    for (int64_t i = 0; i < n; i++) lengths[i] = positions[i] + 1;
    RB_TRY(st, rb_cuda()->copy(p->hidden.at, d->host_hidden, hidden_bytes, p->compute, err), done);
    RB_TRY(st, rb_cuda()->copy(p->positions.at, d->host_numbers, number_bytes, p->compute, err), done);
    st = rb_cuda()->copy(d->lengths.at, lengths, number_bytes, p->compute, err);
done:
    return st;
}

static rb_status run_heads(decode_cuda *d, int layer, int64_t n, rb_error *err)
{
    const cuda_pass *p = &d->pass;
    const device_layer *w = &d->weights->layers[layer];
    layer_cuda_heads in = cuda_pass_heads(p, w, layer, 0, n);
    in.q = d->q.at;
    in.capture_k = d->k.at;
    in.capture_v = d->v.at;
    in.capture_is_f32 = true;
    in.capture_stride = n;
    return cuda_pass_run_heads(p, w, &in, d->turned_k.at, d->rows_v.at, err);
}

static rb_status run_layer(decode_cuda *d, int layer, int64_t n, const decode_cuda_hooks *hooks, rb_error *err)
{
    const cuda_pass *p = &d->pass;
    const device_layer *w = &d->weights->layers[layer];
    const device_decode_heads heads = {.layer = layer,
                                       .n = n,
                                       .precision = p->precision,
                                       .positions = p->positions.at,
                                       .lengths = d->lengths.at,
                                       .q = d->q.at,
                                       .k = d->k.at,
                                       .v = d->v.at,
                                       .turned_k = d->turned_k.at,
                                       .rows_v = d->rows_v.at,
                                       .attended = p->attended.at,
                                       .stream = p->compute};
    rb_status st;
    RB_TRY(st, cuda_pass_project(p, w, 0, n, err), done);
    RB_TRY(st, run_heads(d, layer, n, err), done);
    RB_TRY(st, hooks->attend(hooks->user, &heads, err), done);
    st = cuda_pass_finish(p, w, layer, 0, n, NULL, err);
done:
    return st;
}

/* Logits of the last n_logits of n tokens, on their way to the host. */
static rb_status run_lm_head(decode_cuda *d, int64_t n, int64_t n_logits, rb_error *err)
{
    const cuda_pass *p = &d->pass;
    const model_config *c = p->config;
    const bool has_bias = c->family->tensors->final_norm_bias != NULL;
    const layer_cuda_norm norm =
        cuda_pass_norm(p, d->weights->final_norm, has_bias ? d->weights->final_norm_bias : NULL);
    const int64_t n_numbers = n_logits * c->vocab_size;
    rb_status st;
    RB_TRY(st,
           p->api->norm(p->normed.at, cuda_pass_hidden(p, n - n_logits), NULL, &norm, n_logits, c->hidden_size,
                        p->precision, p->compute, err),
           done);
    RB_TRY(st,
           cuda_pass_multiply(p, d->logits.at, true, false, p->normed.at, d->weights->lm_head, n_logits, c->vocab_size,
                              c->hidden_size, err),
           done);
    if (c->logit_scale != 1 || c->logit_softcap > 0)
        RB_TRY(st,
               p->api->finish_logits(d->logits.at, (float)c->logit_scale, (float)c->logit_softcap, n_numbers,
                                     p->compute, err),
               done);
    st = rb_cuda()->copy(d->host_logits, d->logits.at, (size_t)n_numbers * sizeof(float), p->compute, err);
done:
    return st;
}

/* Puts all work of a run on the stream, but for its inputs. */
static rb_status put_work(decode_cuda *d, const run_work *work, const decode_cuda_hooks *hooks, rb_error *err)
{
    rb_status st = RB_OK;
    for (int layer = 0; layer < d->weights->config->facts.n_layers; layer++)
        RB_TRY(st, run_layer(d, layer, work->n, hooks, err), done);
    if (work->n_logits > 0) st = run_lm_head(d, work->n, work->n_logits, err);
done:
    return st;
}

/* Where the work cannot be recorded, it is put on the stream anew each time: slower, and the same. */
static void record(decode_cuda *d, const run_work *work, const decode_cuda_hooks *hooks)
{
    rb_error why = {0}, after = {0};
    rb_status st = rb_cuda()->record_begin(d->pass.compute, &why);
    if (st == RB_OK) {
        const rb_status put = put_work(d, work, hooks, &why);
        st = rb_cuda()->record_end(&d->recording, d->pass.compute, put == RB_OK ? &why : &after);
        if (put != RB_OK) st = put;
    }
    if (st == RB_OK) return;
    rb_cuda()->recording_destroy(d->recording);
    d->recording = NULL;
    d->cannot_record = true;
    rb_message_verbose("the work of a token is not recorded: %s", why.msg);
}

static bool is_same_work(const run_work *a, const run_work *b)
{
    return a->key != 0 && a->key == b->key && a->n == b->n && a->n_logits == b->n_logits;
}

static rb_status do_work(decode_cuda *d, const run_work *work, const decode_cuda_hooks *hooks, rb_error *err)
{
    const bool is_repeated = is_same_work(work, &d->last_work);
    if (!is_repeated) {
        rb_cuda()->recording_destroy(d->recording);
        d->recording = NULL;
    }
    d->last_work = *work;
    if (is_repeated && !d->recording && !d->cannot_record) record(d, work, hooks);
    if (d->recording) return rb_cuda()->recording_play(d->recording, d->pass.compute, err);
    return put_work(d, work, hooks, err);
}

rb_status decode_cuda_run(decode_cuda *d, const float *hidden, const int32_t *positions, int64_t n,
                          const decode_cuda_hooks *hooks, int64_t n_logits, const float **logits, rb_error *err)
{
    const run_work work = {.key = hooks->same_work, .n = n, .n_logits = n_logits};
    rb_status st;
    assert(n > 0 && n <= d->max_tokens && n_logits <= d->max_logits && n_logits <= n);
    RB_TRY(st, send_inputs(d, hidden, positions, n, err), done);
    RB_TRY(st, do_work(d, &work, hooks, err), done);
    if (n_logits == 0) return RB_OK;
    RB_TRY(st, rb_cuda()->stream_wait(d->pass.compute, err), done);
    *logits = d->host_logits;
done:
    return st;
}
