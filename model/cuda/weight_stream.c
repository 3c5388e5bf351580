/* See model/cuda/weight_stream.h. */
#include "model/cuda/weight_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cuda_device.h"

enum {
    PIECE_BYTES = 8 << 20, /* of a read, and of a slot of pinned memory */
    N_READERS = 8,
    N_SLOTS = 2, /* slots a reader: one is read into while the other is sent */
    MAX_NAME = 128,
    N_PARAMETERS = 8,
    MAX_PARTS = 10
};

/* A stretch of a tensor and where it goes. */
typedef struct piece {
    int fd;
    const char *path;
    int64_t offset, n_bytes; /* in the file */
    int64_t n_elements;
    layer_cuda_weight type;
    bool is_same; /* no conversion */
    char *to;
    int layer;
} piece;

typedef struct slot {
    void *pinned, *staging; /* staging: on the device, for conversion */
    void *sent;             /* event */
} slot;

typedef struct reader {
    weight_stream *owner;
    pthread_t thread;
    bool is_running;
    slot slots[N_SLOTS];
    int next_slot;
} reader;

typedef struct shard_fd {
    const char *path;
    int fd;
} shard_fd;

/* A layer's place on the device, its upload stream, and the readers' job for it. */
typedef struct layer_place {
    char *matrices;
    float *parameters;      /* norms and biases, one after the other */
    float *host_parameters; /* pinned */
    void *stream;
    void *uploaded, *released; /* events */
    device_layer layer;
    piece *pieces;
    int64_t n_pieces, pieces_room, next_piece, pieces_done;
} layer_place;

struct weight_stream {
    const checkpoint *ckpt;
    const model_config *config;
    const layer_cuda_api *api;
    layer_cuda_precision precision;
    bool stops_at_heads;
    size_t matrix_bytes, n_parameters;
    layer_place places[2];
    reader readers[N_READERS];
    shard_fd *shards;
    int n_shards;
    /* What the readers share: they take the pieces of layers begun, in order, so that none waits while another has the
     * last piece of a layer. */
    pthread_mutex_t lock;
    pthread_cond_t has_work, is_done;
    int n_begun, taking; /* layers; the one whose pieces are taken now */
    int64_t bytes_read;
    bool is_closing;
    rb_status status;
    rb_error error;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static size_t precision_bytes(layer_cuda_precision precision) { return precision == LAYER_CUDA_BF16 ? 2 : 4; }

typedef struct layer_shape {
    int64_t hidden, inner, q_width, kv_width, qkv_width, d;
} layer_shape;

static layer_shape shape_of(const model_config *c)
{
    const int64_t d = c->facts.head_dim, q = c->facts.n_q_heads * d, kv = c->facts.n_kv_heads * d;
    return (layer_shape){c->hidden_size, c->intermediate_size, q, kv, q + 2 * kv, d};
}

static size_t count_matrices(const model_config *config)
{
    const layer_shape s = shape_of(config);
    return (size_t)(s.qkv_width * s.hidden + s.hidden * s.q_width + 3 * s.inner * s.hidden);
}

static size_t count_parameters(const model_config *config)
{
    const layer_shape s = shape_of(config);
    return (size_t)(4 * s.hidden + s.qkv_width + 2 * s.d + 2 * s.inner);
}

int64_t weight_stream_device_bytes(const model_config *config, layer_cuda_precision precision)
{
    return (int64_t)(2
                     * (count_matrices(config) * precision_bytes(precision) + count_parameters(config) * sizeof(float)))
           + (int64_t)N_READERS * N_SLOTS * PIECE_BYTES;
}

/* ---- readers --------------------------------------------------------------------------------- */

static rb_status read_piece(const piece *p, char *to, rb_error *err)
{
    int64_t done = 0;
    while (done < p->n_bytes) {
        const ssize_t n = pread(p->fd, to + done, (size_t)(p->n_bytes - done), p->offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return rb_fail(err, RB_EIO, "%s: cannot read: %s", p->path, strerror(errno));
        if (n == 0)
            return rb_fail(err, RB_EIO, "%s: ends at byte %lld, expected more: the file was cut while it was read",
                           p->path, (long long)(p->offset + done));
        done += n;
    }
    return RB_OK;
}

static rb_status send_piece(const weight_stream *w, const piece *p, slot *s, rb_error *err)
{
    void *stream = w->places[p->layer % 2].stream;
    rb_status st;
    RB_TRY(st, rb_cuda()->event_wait(s->sent, err), done);
    RB_TRY(st, read_piece(p, s->pinned, err), done);
    if (p->is_same) {
        RB_TRY(st, rb_cuda()->copy(p->to, s->pinned, (size_t)p->n_bytes, stream, err), done);
    } else {
        RB_TRY(st, rb_cuda()->copy(s->staging, s->pinned, (size_t)p->n_bytes, stream, err), done);
        RB_TRY(st, w->api->convert(p->to, s->staging, p->type, p->n_elements, w->precision, stream, err), done);
    }
    RB_TRY(st, rb_cuda()->event_record(s->sent, stream, err), done);
done:
    return st;
}

static void finish_piece(weight_stream *w, const piece *p, rb_status st, const rb_error *err)
{
    layer_place *place = &w->places[p->layer % 2];
    pthread_mutex_lock(&w->lock);
    if (st != RB_OK && w->status == RB_OK) {
        w->status = st;
        w->error = *err;
    }
    w->bytes_read += p->n_bytes;
    place->pieces_done++;
    if (place->pieces_done == place->n_pieces) pthread_cond_broadcast(&w->is_done);
    pthread_mutex_unlock(&w->lock);
}

/* The next piece of any layer begun; the lock is held. */
static bool take_piece(weight_stream *w, piece *p)
{
    for (; w->taking < w->n_begun; w->taking++) {
        layer_place *place = &w->places[w->taking % 2];
        if (place->next_piece == place->n_pieces) continue;
        *p = place->pieces[place->next_piece++];
        return true;
    }
    return false;
}

static void *reader_run(void *argument)
{
    reader *r = argument;
    weight_stream *w = r->owner;
    rb_error err = {0};
    rb_status st = rb_cuda()->use_device(rb_cuda_device()->index, &err);
    for (;;) {
        piece p;
        bool is_over;
        pthread_mutex_lock(&w->lock);
        while (!(is_over = w->is_closing) && !take_piece(w, &p)) pthread_cond_wait(&w->has_work, &w->lock);
        if (st == RB_OK) st = w->status; /* after a failure pieces are only counted off */
        pthread_mutex_unlock(&w->lock);
        if (is_over) return NULL;
        if (st == RB_OK) st = send_piece(w, &p, &r->slots[r->next_slot], &err);
        r->next_slot = (r->next_slot + 1) % N_SLOTS;
        finish_piece(w, &p, st, &err);
    }
}

/* ---- a layer's pieces ------------------------------------------------------------------------ */

static rb_status find_fd(weight_stream *w, const char *path, int *fd, rb_error *err)
{
    for (int i = 0; i < w->n_shards; i++)
        if (w->shards[i].path == path) {
            *fd = w->shards[i].fd;
            return RB_OK;
        }
    shard_fd *more = realloc(w->shards, (size_t)(w->n_shards + 1) * sizeof *more);
    if (!more) return rb_fail(err, RB_ENOMEM, "shard list: no memory");
    w->shards = more;
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return rb_fail(err, RB_EIO, "%s: cannot open: %s", path, strerror(errno));
    more[w->n_shards++] = (shard_fd){path, *fd};
    return RB_OK;
}

static rb_status add_piece(layer_place *place, const piece *p, rb_error *err)
{
    if (place->n_pieces == place->pieces_room) {
        const int64_t room = place->pieces_room ? 2 * place->pieces_room : 64;
        piece *more = realloc(place->pieces, (size_t)room * sizeof *more);
        if (!more) return rb_fail(err, RB_ENOMEM, "list of pieces: no memory");
        place->pieces = more;
        place->pieces_room = room;
    }
    place->pieces[place->n_pieces++] = *p;
    return RB_OK;
}

static layer_cuda_weight weight_type(tensor_dtype dtype)
{
    return dtype == TENSOR_F16    ? LAYER_CUDA_WEIGHT_F16
           : dtype == TENSOR_BF16 ? LAYER_CUDA_WEIGHT_BF16
                                  : LAYER_CUDA_WEIGHT_F32;
}

/* A matrix of the layer, cut into pieces; `first`: its first element in the place. */
static rb_status add_matrix(weight_stream *w, int layer, const char *module, int64_t n_out, int64_t n_in, int64_t first,
                            rb_error *err)
{
    const int64_t shape[2] = {n_out, n_in};
    char name[MAX_NAME];
    tensor_place place = {0};
    int fd = -1;
    rb_status st;
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, module);
    RB_TRY(st, checkpoint_place(w->ckpt, name, 2, shape, &place, err), done);
    RB_TRY(st, find_fd(w, place.path, &fd, err), done);
    const int64_t element = (int64_t)tensor_dtype_size(place.dtype),
                  out_element = (int64_t)precision_bytes(w->precision);
    const bool is_same = place.dtype == (w->precision == LAYER_CUDA_BF16 ? TENSOR_BF16 : TENSOR_F32);
    for (int64_t at = 0; at < place.size_bytes; at += PIECE_BYTES) {
        const int64_t n_bytes = place.size_bytes - at < PIECE_BYTES ? place.size_bytes - at : PIECE_BYTES;
        const piece p = {.fd = fd,
                         .path = place.path,
                         .offset = place.offset + at,
                         .n_bytes = n_bytes,
                         .n_elements = n_bytes / element,
                         .type = weight_type(place.dtype),
                         .is_same = is_same,
                         .to = w->places[layer % 2].matrices + (first + at / element) * out_element,
                         .layer = layer};
        RB_TRY(st, add_piece(&w->places[layer % 2], &p, err), done);
    }
done:
    return st;
}

/* A norm or bias at `*next` of the place's parameters; on the host first, in f32. */
static rb_status add_parameter(weight_stream *w, int layer, const char *tensor, bool is_there, int64_t n, int64_t *next,
                               const float **out, rb_error *err)
{
    layer_place *place = &w->places[layer % 2];
    char name[MAX_NAME];
    *out = NULL;
    if (!is_there) return RB_OK;
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, tensor);
    const rb_status st = checkpoint_load(w->ckpt, name, 1, &n, place->host_parameters + *next, err);
    *out = place->parameters + *next;
    *next += n;
    return st;
}

static rb_status add_parameters(weight_stream *w, int layer, bool with_rest, rb_error *err)
{
    const model_config *c = w->config;
    const layer_shape s = shape_of(c);
    layer_place *place = &w->places[layer % 2];
    device_layer *out = &place->layer;
    const float *unused;
    int64_t next = 0;
    rb_status st;
    RB_TRY(st, add_parameter(w, layer, "input_layernorm.weight", true, s.hidden, &next, &out->input_norm, err), done);
    RB_TRY(st, add_parameter(w, layer, "self_attn.q_proj.bias", c->qkv_bias, s.q_width, &next, &out->qkv_bias, err),
           done);
    RB_TRY(st, add_parameter(w, layer, "self_attn.k_proj.bias", c->qkv_bias, s.kv_width, &next, &unused, err), done);
    RB_TRY(st, add_parameter(w, layer, "self_attn.v_proj.bias", c->qkv_bias, s.kv_width, &next, &unused, err), done);
    RB_TRY(st, add_parameter(w, layer, "self_attn.q_norm.weight", c->qk_norm, s.d, &next, &out->q_norm, err), done);
    RB_TRY(st, add_parameter(w, layer, "self_attn.k_norm.weight", c->qk_norm, s.d, &next, &out->k_norm, err), done);
    if (with_rest) {
        RB_TRY(st,
               add_parameter(w, layer, "post_attention_layernorm.weight", true, s.hidden, &next, &out->mlp_norm, err),
               done);
        RB_TRY(st, add_parameter(w, layer, "self_attn.o_proj.bias", c->o_bias, s.hidden, &next, &out->o_bias, err),
               done);
        RB_TRY(st, add_parameter(w, layer, "mlp.gate_proj.bias", c->mlp_bias, s.inner, &next, &out->gate_up_bias, err),
               done);
        RB_TRY(st, add_parameter(w, layer, "mlp.up_proj.bias", c->mlp_bias, s.inner, &next, &unused, err), done);
        RB_TRY(st, add_parameter(w, layer, "mlp.down_proj.bias", c->mlp_bias, s.hidden, &next, &out->down_bias, err),
               done);
    }
    RB_TRY(st,
           rb_cuda()->copy(place->parameters, place->host_parameters, (size_t)next * sizeof(float), place->stream, err),
           done);
done:
    return st;
}

static rb_status add_matrices(weight_stream *w, int layer, bool with_rest, rb_error *err)
{
    const layer_shape s = shape_of(w->config);
    const int64_t k = s.q_width * s.hidden, v = k + s.kv_width * s.hidden, o = s.qkv_width * s.hidden,
                  gate = o + s.hidden * s.q_width;
    const int64_t up = gate + s.inner * s.hidden, down = up + s.inner * s.hidden;
    const size_t element = precision_bytes(w->precision);
    layer_place *place = &w->places[layer % 2];
    rb_status st;
    place->layer.qkv = place->matrices;
    place->layer.o = place->matrices + (size_t)o * element;
    place->layer.gate_up = place->matrices + (size_t)gate * element;
    place->layer.down = place->matrices + (size_t)down * element;
    RB_TRY(st, add_matrix(w, layer, "self_attn.q_proj", s.q_width, s.hidden, 0, err), done);
    RB_TRY(st, add_matrix(w, layer, "self_attn.k_proj", s.kv_width, s.hidden, k, err), done);
    RB_TRY(st, add_matrix(w, layer, "self_attn.v_proj", s.kv_width, s.hidden, v, err), done);
    if (!with_rest) goto done;
    RB_TRY(st, add_matrix(w, layer, "self_attn.o_proj", s.hidden, s.q_width, o, err), done);
    RB_TRY(st, add_matrix(w, layer, "mlp.gate_proj", s.inner, s.hidden, gate, err), done);
    RB_TRY(st, add_matrix(w, layer, "mlp.up_proj", s.inner, s.hidden, up, err), done);
    RB_TRY(st, add_matrix(w, layer, "mlp.down_proj", s.hidden, s.inner, down, err), done);
done:
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status weight_stream_begin(weight_stream *w, int layer, rb_error *err)
{
    const bool with_rest = !w->stops_at_heads || layer + 1 < w->config->facts.n_layers;
    layer_place *place = &w->places[layer % 2];
    rb_status st;
    /* Nobody is at the place any more: wait has seen the job of the layer two back done, and the host's copy of its
     * parameters was sent then. */
    RB_TRY(st, rb_cuda()->event_wait(place->uploaded, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(place->stream, place->released, err), done);
    RB_TRY(st, add_parameters(w, layer, with_rest, err), done);
    pthread_mutex_lock(&w->lock);
    if (w->taking < layer - 1)
        w->taking = layer - 1; /* the layer two back is done, whether or not a reader has noticed */
    place->n_pieces = place->next_piece = place->pieces_done = 0;
    st = add_matrices(w, layer, with_rest, err);
    if (st == RB_OK) w->n_begun = layer + 1;
    else place->n_pieces = 0;
    pthread_cond_broadcast(&w->has_work);
    pthread_mutex_unlock(&w->lock);
done:
    return st;
}

rb_status weight_stream_wait(weight_stream *w, int layer, void *stream, device_layer *out, rb_error *err)
{
    layer_place *place = &w->places[layer % 2];
    rb_status st;
    pthread_mutex_lock(&w->lock);
    while (place->pieces_done < place->n_pieces) pthread_cond_wait(&w->is_done, &w->lock);
    st = w->status;
    pthread_mutex_unlock(&w->lock);
    if (st != RB_OK) return rb_fail(err, st, "%s", w->error.msg);
    RB_TRY(st, rb_cuda()->event_record(place->uploaded, place->stream, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(stream, place->uploaded, err), done);
    *out = place->layer;
done:
    return st;
}

rb_status weight_stream_release(weight_stream *w, int layer, void *stream, rb_error *err)
{
    return rb_cuda()->event_record(w->places[layer % 2].released, stream, err);
}

int64_t weight_stream_bytes_read(const weight_stream *weights) { return weights->bytes_read; }

static rb_status open_place(weight_stream *w, layer_place *place, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda_alloc(&place->matrices, w->matrix_bytes, 1, "weights of a layer", err), done);
    RB_TRY(st, rb_cuda_alloc(&place->parameters, w->n_parameters, sizeof(float), "norms and biases", err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&place->host_parameters, w->n_parameters * sizeof(float), err), done);
    RB_TRY(st, rb_cuda()->stream_create(&place->stream, err), done);
    RB_TRY(st, rb_cuda()->event_create(&place->uploaded, err), done);
    RB_TRY(st, rb_cuda()->event_create(&place->released, err), done);
done:
    return st;
}

static rb_status open_reader(weight_stream *w, reader *r, rb_error *err)
{
    rb_status st;
    r->owner = w;
    for (int i = 0; i < N_SLOTS; i++) {
        RB_TRY(st, rb_cuda()->alloc_pinned(&r->slots[i].pinned, PIECE_BYTES, err), done);
        RB_TRY(st, rb_cuda_alloc(&r->slots[i].staging, PIECE_BYTES, 1, "weights on their way", err), done);
        RB_TRY(st, rb_cuda()->event_create(&r->slots[i].sent, err), done);
    }
    if (pthread_create(&r->thread, NULL, reader_run, r) != 0)
        st = rb_fail(err, RB_ENOMEM, "cannot start a reader thread");
    r->is_running = st == RB_OK;
done:
    return st;
}

rb_status weight_stream_open(weight_stream **out, const checkpoint *ckpt, const layer_cuda_api *api,
                             layer_cuda_precision precision, bool stops_at_heads, rb_error *err)
{
    weight_stream *w = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&w, 1, sizeof *w, "weight stream", err), done);
    *w = (weight_stream){.ckpt = ckpt,
                         .config = checkpoint_config(ckpt),
                         .api = api,
                         .precision = precision,
                         .stops_at_heads = stops_at_heads};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->has_work, NULL);
    pthread_cond_init(&w->is_done, NULL);
    w->matrix_bytes = count_matrices(w->config) * precision_bytes(precision);
    w->n_parameters = count_parameters(w->config);
    for (int i = 0; i < 2; i++) RB_TRY(st, open_place(w, &w->places[i], err), done);
    for (int i = 0; i < N_READERS; i++) RB_TRY(st, open_reader(w, &w->readers[i], err), done);
    *out = w;
    w = NULL;
done:
    weight_stream_close(w);
    return st;
}

static void close_place(const weight_stream *w, layer_place *place)
{
    rb_cuda_free(place->matrices, w->matrix_bytes, 1);
    rb_cuda_free(place->parameters, w->n_parameters, sizeof(float));
    rb_cuda()->release_pinned(place->host_parameters);
    rb_cuda()->event_destroy(place->uploaded);
    rb_cuda()->event_destroy(place->released);
    rb_cuda()->stream_destroy(place->stream);
    free(place->pieces);
}

static void close_reader(reader *r)
{
    for (int i = 0; i < N_SLOTS; i++) {
        rb_cuda()->release_pinned(r->slots[i].pinned);
        rb_cuda_free(r->slots[i].staging, PIECE_BYTES, 1);
        rb_cuda()->event_destroy(r->slots[i].sent);
    }
}

void weight_stream_close(weight_stream *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->is_closing = true;
    pthread_cond_broadcast(&w->has_work);
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < N_READERS; i++)
        if (w->readers[i].is_running) pthread_join(w->readers[i].thread, NULL);
    for (int i = 0; i < 2; i++)
        if (w->places[i].stream) rb_cuda()->stream_wait(w->places[i].stream, NULL);
    for (int i = 0; i < N_READERS; i++) close_reader(&w->readers[i]);
    for (int i = 0; i < 2; i++) close_place(w, &w->places[i]);
    for (int i = 0; i < w->n_shards; i++) close(w->shards[i].fd);
    free(w->shards);
    pthread_cond_destroy(&w->has_work);
    pthread_cond_destroy(&w->is_done);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
