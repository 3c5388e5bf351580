/* See model/cuda/weight_stream.h. */
#include "model/cuda/weight_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cuda_device.h"
#include "core/handover.h"
#include "model/layer_tensors.h"

enum {
    PIECE_BYTES = 8 << 20, /* size of a read and of a slot of pinned memory */
    N_READERS = 8,
    N_SLOTS = 2 /* slots of a reader: one is read into while the other is sent */
};

/* A stretch of a tensor and where it goes. Where the file does not hold plain elements (a block type of GGUF, rows in
 * another order), it is whole rows, which the reader's thread converts to f32. */
typedef struct piece {
    int fd;
    const char *path;
    int64_t offset, n_bytes;    /* in the file */
    const layer_tensor *tensor; /* of rows to convert; else NULL */
    int64_t first_row, n_rows;
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

/* A layer's place on the device and its upload stream. */
typedef struct layer_place {
    char *matrices;
    float *parameters;      /* norms and biases, one after the other */
    float *host_parameters; /* pinned */
    void *stream;
    void *uploaded, *released; /* events */
    device_layer layer;
    int64_t pieces_end, n_bytes; /* of the layer being read: the piece after its last one; bytes of its pieces */
} layer_place;

struct weight_stream {
    const checkpoint *ckpt;
    const model_config *config;
    const layer_cuda_api *api;
    layer_cuda_precision precision;
    bool stops_at_heads;
    size_t matrix_bytes, n_parameters;
    int64_t first[N_LAYER_WEIGHTS]; /* element of each weight in matrices or parameters */
    layer_place places[2];
    reader readers[N_READERS];
    shard_fd *shards;
    int n_shards;
    rb_handover *handover; /* pieces, from the thread that begins a layer to the readers */
    piece *pieces;         /* [n_pieces]; two layers' pieces have room, so that begin need not wait */
    int n_pieces;
    int64_t bytes_read;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static size_t precision_bytes(layer_cuda_precision precision) { return precision == LAYER_CUDA_BF16 ? 2 : 4; }

/* Elements of all matrices or of all vectors, those that this model lacks included. */
static size_t count_elements(const model_config *config, bool are_matrices)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t count = 0;
    for (int i = 0; i < tensors->n_layer; i++)
        if ((tensors->layer[i].columns != DIM_NONE) == are_matrices)
            count += layer_tensor_count(config, &tensors->layer[i]);
    return (size_t)count;
}

/* Pieces of a layer, at most: a piece of whole rows is more than half of PIECE_BYTES. */
static int count_pieces(const model_config *config)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t count = 0;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].columns != DIM_NONE)
            count += 2 * layer_tensor_count(config, &tensors->layer[i]) * (int64_t)sizeof(float) / PIECE_BYTES + 1;
    return (int)count;
}

int64_t weight_stream_device_bytes(const model_config *config, layer_cuda_precision precision)
{
    return (int64_t)(2
                     * (count_elements(config, true) * precision_bytes(precision)
                        + count_elements(config, false) * sizeof(float)))
           + (int64_t)N_READERS * N_SLOTS * PIECE_BYTES;
}

/* Weights lie one after the other in the order of layer_weight. */
static void lay_out(weight_stream *w)
{
    int64_t used[2] = {0};
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++) {
        int64_t *end = &used[layer_weight_is_matrix(w->config, (layer_weight)weight)];
        w->first[weight] = *end;
        *end += layer_weight_capacity(w->config, (layer_weight)weight);
    }
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

static rb_status convert_rows(const weight_stream *w, const piece *p, float *to, rb_error *err)
{
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    layer_tensor_name(name, w->config, p->tensor, p->layer, 0);
    const int rank = layer_tensor_shape(w->config, p->tensor, shape);
    return checkpoint_load_rows(w->ckpt, name, rank, shape, p->first_row, p->n_rows, to, err);
}

static rb_status send_piece(const weight_stream *w, const piece *p, slot *s, rb_error *err)
{
    void *stream = w->places[p->layer % 2].stream;
    const size_t n_bytes = p->tensor ? (size_t)p->n_elements * sizeof(float) : (size_t)p->n_bytes;
    rb_status st;
    RB_TRY(st, rb_cuda()->event_wait(s->sent, err), done);
    RB_TRY(st, p->tensor ? convert_rows(w, p, s->pinned, err) : read_piece(p, s->pinned, err), done);
    if (p->is_same) {
        RB_TRY(st, rb_cuda()->copy(p->to, s->pinned, n_bytes, stream, err), done);
    } else {
        RB_TRY(st, rb_cuda()->copy(s->staging, s->pinned, n_bytes, stream, err), done);
        RB_TRY(st, w->api->convert(p->to, s->staging, p->type, p->n_elements, w->precision, stream, err), done);
    }
    RB_TRY(st, rb_cuda()->event_record(s->sent, stream, err), done);
done:
    return st;
}

static void *reader_run(void *argument)
{
    reader *r = argument;
    weight_stream *w = r->owner;
    rb_error err = {0};
    rb_status st = rb_cuda()->use_device(rb_cuda_device()->index, &err);
    int64_t index = 0;
    if (st == RB_OK)
        while ((index = rb_handover_take(w->handover)) >= 0) {
            st = send_piece(w, &w->pieces[index % w->n_pieces], &r->slots[r->next_slot], &err);
            if (st != RB_OK) break;
            r->next_slot = (r->next_slot + 1) % N_SLOTS;
            rb_handover_release(w->handover, index);
        }
    if (st != RB_OK) rb_handover_fail(w->handover, index, st, &err);
    return NULL;
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

static rb_status add_piece(weight_stream *w, const piece *p, rb_error *err)
{
    const int64_t index = rb_handover_claim(w->handover);
    if (index < 0) return rb_handover_status(w->handover, err);
    w->pieces[index % w->n_pieces] = *p;
    w->places[p->layer % 2].pieces_end = index + 1;
    w->places[p->layer % 2].n_bytes += p->n_bytes;
    rb_handover_give(w->handover, index);
    return RB_OK;
}

static layer_cuda_weight weight_type(tensor_dtype dtype)
{
    return dtype == TENSOR_F16    ? LAYER_CUDA_WEIGHT_F16
           : dtype == TENSOR_BF16 ? LAYER_CUDA_WEIGHT_BF16
                                  : LAYER_CUDA_WEIGHT_F32;
}

/* The same for a matrix whose values only the checkpoint's reader gives. */
static rb_status add_rows(weight_stream *w, int layer, const layer_tensor *tensor, const int64_t shape[2],
                          const tensor_place *place, rb_error *err)
{
    const int64_t row_bytes = shape[1] * (int64_t)sizeof(float), rows = PIECE_BYTES / row_bytes,
                  first = w->first[tensor->weight] + layer_tensor_first(w->config, tensor, layer);
    rb_status st = RB_OK;
    if (rows == 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: rows of %lld elements, expected at most %lld on a GPU", place->path,
                       (long long)shape[1], (long long)PIECE_BYTES / (long long)sizeof(float));
    for (int64_t row = 0; row < shape[0] && st == RB_OK; row += rows) {
        const int64_t n_rows = shape[0] - row < rows ? shape[0] - row : rows;
        st = add_piece(w,
                       &(piece){.path = place->path,
                                .n_bytes = place->size_bytes / shape[0] * n_rows,
                                .tensor = tensor,
                                .first_row = row,
                                .n_rows = n_rows,
                                .n_elements = n_rows * shape[1],
                                .type = LAYER_CUDA_WEIGHT_F32,
                                .is_same = w->precision == LAYER_CUDA_F32,
                                .to = w->places[layer % 2].matrices
                                      + (first + row * shape[1]) * (int64_t)precision_bytes(w->precision),
                                .layer = layer},
                       err);
    }
    return st;
}

/* A matrix of the layer, cut into pieces. */
static rb_status add_matrix(weight_stream *w, int layer, const layer_tensor *tensor, rb_error *err)
{
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    tensor_place place = {0};
    int fd = -1;
    rb_status st;
    layer_tensor_name(name, w->config, tensor, layer, 0);
    const int rank = layer_tensor_shape(w->config, tensor, shape);
    RB_TRY(st, checkpoint_place(w->ckpt, name, rank, shape, &place, err), done);
    if (!place.is_plain) return add_rows(w, layer, tensor, shape, &place, err);
    RB_TRY(st, find_fd(w, place.path, &fd, err), done);
    const int64_t element = (int64_t)tensor_dtype_size(place.dtype),
                  out_element = (int64_t)precision_bytes(w->precision),
                  first = w->first[tensor->weight] + layer_tensor_first(w->config, tensor, layer);
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
        RB_TRY(st, add_piece(w, &p, err), done);
    }
done:
    return st;
}

/* A norm or bias, into the host's copy of the place's parameters; *end: the element after the last one so far. */
static rb_status load_parameter(const weight_stream *w, int layer, const layer_tensor *tensor, int64_t *end,
                                rb_error *err)
{
    const int64_t first = w->first[tensor->weight] + layer_tensor_first(w->config, tensor, layer),
                  after = first + layer_tensor_count(w->config, tensor);
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    layer_tensor_name(name, w->config, tensor, layer, 0);
    const int rank = layer_tensor_shape(w->config, tensor, shape);
    if (after > *end) *end = after;
    return checkpoint_load(w->ckpt, name, rank, shape, w->places[layer % 2].host_parameters + first, err);
}

static bool is_read(const weight_stream *w, int layer, const layer_tensor *tensor)
{
    const bool with_rest = !w->stops_at_heads || layer + 1 < w->config->facts.n_layers;
    return layer_tensor_is_used(w->config, tensor, layer) && (with_rest || tensor->step == STEP_HEADS);
}

static rb_status send_parameters(const weight_stream *w, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    const layer_place *place = &w->places[layer % 2];
    int64_t end = 0;
    rb_status st;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].columns == DIM_NONE && is_read(w, layer, &tensors->layer[i]))
            RB_TRY(st, load_parameter(w, layer, &tensors->layer[i], &end, err), done);
    RB_TRY(st,
           rb_cuda()->copy(place->parameters, place->host_parameters, (size_t)end * sizeof(float), place->stream, err),
           done);
done:
    return st;
}

static rb_status add_matrices(weight_stream *w, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    rb_status st = RB_OK;
    w->places[layer % 2].n_bytes = 0;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++)
        if (tensors->layer[i].columns != DIM_NONE && is_read(w, layer, &tensors->layer[i]))
            st = add_matrix(w, layer, &tensors->layer[i], err);
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status weight_stream_begin(weight_stream *w, int layer, rb_error *err)
{
    const layer_place *place = &w->places[layer % 2];
    rb_status st;
    /* Nobody uses the place any more: wait has seen that all pieces of the layer before the last were sent, and with
     * them the host's copy of its parameters. */
    RB_TRY(st, rb_cuda()->event_wait(place->uploaded, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(place->stream, place->released, err), done);
    RB_TRY(st, send_parameters(w, layer, err), done);
    st = add_matrices(w, layer, err);
done:
    return st;
}

rb_status weight_stream_wait(weight_stream *w, int layer, void *stream, device_layer *out, rb_error *err)
{
    const layer_place *place = &w->places[layer % 2];
    rb_status st;
    RB_TRY(st, rb_handover_wait(w->handover, place->pieces_end, err), done);
    w->bytes_read += place->n_bytes;
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

static rb_status open_place(const weight_stream *w, layer_place *place, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda_alloc(&place->matrices, w->matrix_bytes, 1, "weights of a layer", err), done);
    RB_TRY(st, rb_cuda_alloc(&place->parameters, w->n_parameters, sizeof(float), "norms and biases", err), done);
    RB_TRY(st, rb_cuda()->alloc_pinned((void **)&place->host_parameters, w->n_parameters * sizeof(float), err), done);
    RB_TRY(st, rb_cuda()->stream_create(&place->stream, err), done);
    RB_TRY(st, rb_cuda()->event_create(&place->uploaded, err), done);
    RB_TRY(st, rb_cuda()->event_create(&place->released, err), done);
    for (int i = 0; i < N_LAYER_WEIGHTS; i++) {
        if (layer_weight_capacity(w->config, (layer_weight)i) == 0) continue;
        if (layer_weight_is_matrix(w->config, (layer_weight)i))
            place->layer.at[i] = place->matrices + (size_t)w->first[i] * precision_bytes(w->precision);
        else place->layer.at[i] = place->parameters + w->first[i];
    }
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
    w->matrix_bytes = count_elements(w->config, true) * precision_bytes(precision);
    w->n_parameters = count_elements(w->config, false);
    w->n_pieces = 2 * count_pieces(w->config);
    lay_out(w);
    RB_TRY(st, rb_alloc(&w->pieces, (size_t)w->n_pieces, sizeof *w->pieces, "list of pieces", err), done);
    RB_TRY(st, rb_handover_create(&w->handover, w->n_pieces, RB_HANDOVER_NO_END, err), done);
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
    if (w->handover) rb_handover_stop(w->handover);
    for (int i = 0; i < N_READERS; i++)
        if (w->readers[i].is_running) pthread_join(w->readers[i].thread, NULL);
    for (int i = 0; i < 2; i++)
        if (w->places[i].stream) rb_cuda()->stream_wait(w->places[i].stream, NULL);
    for (int i = 0; i < N_READERS; i++) close_reader(&w->readers[i]);
    for (int i = 0; i < 2; i++) close_place(w, &w->places[i]);
    for (int i = 0; i < w->n_shards; i++) close(w->shards[i].fd);
    free(w->shards);
    rb_handover_free(w->handover);
    free(w->pieces);
    free(w);
}
