/* See model/cuda/weight_reader.h. */
#include "model/cuda/weight_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/cuda_device.h"
#include "core/handover.h"

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
    const layer_tensor *tensor; /* of rows to convert, with its layer and expert; else NULL */
    int layer, expert;
    int64_t first_row, n_rows;
    int64_t n_elements;
    layer_cuda_weight type;
    bool is_same; /* no conversion */
    char *to;
    void *stream;
} piece;

typedef struct slot {
    void *pinned, *staging; /* staging: on the device, for conversion */
    void *sent;             /* event */
} slot;

typedef struct reader_thread {
    weight_reader *owner;
    pthread_t thread;
    bool is_running;
    slot slots[N_SLOTS];
    int next_slot;
} reader_thread;

typedef struct shard_fd {
    const char *path;
    int fd;
} shard_fd;

struct weight_reader {
    const checkpoint *ckpt;
    const model_config *config;
    const layer_cuda_api *api;
    layer_cuda_precision precision;
    reader_thread threads[N_READERS];
    shard_fd *shards;
    int n_shards;
    rb_handover *handover; /* pieces, from the thread that asks to the readers */
    piece *pieces;         /* [n_pieces] */
    int n_pieces;
};

static int64_t precision_bytes(layer_cuda_precision precision) { return precision == LAYER_CUDA_BF16 ? 2 : 4; }

/* A piece of whole rows is more than half of PIECE_BYTES, but for the last one of a run. */
int64_t weight_reader_pieces(const model_config *config, const layer_tensor *tensor)
{
    return 2 * layer_tensor_count(config, tensor) * (int64_t)sizeof(float) / PIECE_BYTES
           + layer_tensor_n_runs(config, tensor);
}

int64_t weight_reader_device_bytes(void) { return (int64_t)N_READERS * N_SLOTS * PIECE_BYTES; }

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

static rb_status convert_rows(const weight_reader *w, const piece *p, float *to, rb_error *err)
{
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    layer_tensor_name(name, w->config, p->tensor, p->layer, p->expert);
    const int rank = layer_tensor_shape(w->config, p->tensor, shape);
    return checkpoint_load_rows(w->ckpt, name, rank, shape, p->first_row, p->n_rows, to, err);
}

static rb_status send_piece(const weight_reader *w, const piece *p, slot *s, rb_error *err)
{
    const size_t n_bytes = p->tensor ? (size_t)p->n_elements * sizeof(float) : (size_t)p->n_bytes;
    rb_status st;
    RB_TRY(st, rb_cuda()->event_wait(s->sent, err), done);
    RB_TRY(st, p->tensor ? convert_rows(w, p, s->pinned, err) : read_piece(p, s->pinned, err), done);
    if (p->is_same) {
        RB_TRY(st, rb_cuda()->copy(p->to, s->pinned, n_bytes, p->stream, err), done);
    } else {
        RB_TRY(st, rb_cuda()->copy(s->staging, s->pinned, n_bytes, p->stream, err), done);
        RB_TRY(st, w->api->convert(p->to, s->staging, p->type, p->n_elements, w->precision, p->stream, err), done);
    }
    RB_TRY(st, rb_cuda()->event_record(s->sent, p->stream, err), done);
done:
    return st;
}

static void *reader_run(void *argument)
{
    reader_thread *r = argument;
    weight_reader *w = r->owner;
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

/* ---- requests -------------------------------------------------------------------------------- */

static rb_status find_fd(weight_reader *w, const char *path, int *fd, rb_error *err)
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

static layer_cuda_weight weight_type(tensor_dtype dtype)
{
    return dtype == TENSOR_F16    ? LAYER_CUDA_WEIGHT_F16
           : dtype == TENSOR_BF16 ? LAYER_CUDA_WEIGHT_BF16
                                  : LAYER_CUDA_WEIGHT_F32;
}

static rb_status add_piece(weight_reader *w, weight_request *request, const piece *p, rb_error *err)
{
    const int64_t index = rb_handover_claim(w->handover);
    if (index < 0) return rb_handover_status(w->handover, err);
    w->pieces[index % w->n_pieces] = *p;
    request->pieces_end = index + 1;
    request->n_bytes += p->n_bytes;
    rb_handover_give(w->handover, index);
    return RB_OK;
}

/* A matrix that is asked for. */
typedef struct matrix {
    const layer_tensor *tensor;
    int layer, expert;
    int64_t shape[2];
    tensor_place place;
    int fd;
    char *to; /* of its first row in the weight */
    void *stream;
} matrix;

static rb_status add_run(weight_reader *w, weight_request *request, const matrix *m, const tensor_run *run,
                         rb_error *err)
{
    const int64_t element = (int64_t)tensor_dtype_size(m->place.dtype), out_element = precision_bytes(w->precision),
                  most = PIECE_BYTES / element, n = run->n_rows * m->shape[1], from = run->from * m->shape[1];
    const bool is_same = m->place.dtype == (w->precision == LAYER_CUDA_BF16 ? TENSOR_BF16 : TENSOR_F32);
    rb_status st = RB_OK;
    for (int64_t at = 0; at < n && st == RB_OK; at += most) {
        const int64_t n_elements = n - at < most ? n - at : most;
        const piece p = {.fd = m->fd,
                         .path = m->place.path,
                         .offset = m->place.offset + (from + at) * element,
                         .n_bytes = n_elements * element,
                         .n_elements = n_elements,
                         .type = weight_type(m->place.dtype),
                         .is_same = is_same,
                         .to = m->to + (run->to * m->shape[1] + at) * out_element,
                         .stream = m->stream};
        st = add_piece(w, request, &p, err);
    }
    return st;
}

/* The same for a matrix whose values only the checkpoint's reader gives. */
static rb_status add_rows(weight_reader *w, weight_request *request, const matrix *m, const tensor_run *run,
                          rb_error *err)
{
    const int64_t most = PIECE_BYTES / (m->shape[1] * (int64_t)sizeof(float));
    rb_status st = RB_OK;
    if (most == 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: rows of %lld elements, expected at most %lld on a GPU", m->place.path,
                       (long long)m->shape[1], (long long)PIECE_BYTES / (long long)sizeof(float));
    for (int64_t row = 0; row < run->n_rows && st == RB_OK; row += most) {
        const int64_t n_rows = run->n_rows - row < most ? run->n_rows - row : most;
        const piece p = {.path = m->place.path,
                         .n_bytes = m->place.size_bytes / m->shape[0] * n_rows,
                         .tensor = m->tensor,
                         .layer = m->layer,
                         .expert = m->expert,
                         .first_row = run->from + row,
                         .n_rows = n_rows,
                         .n_elements = n_rows * m->shape[1],
                         .type = LAYER_CUDA_WEIGHT_F32,
                         .is_same = w->precision == LAYER_CUDA_F32,
                         .to = m->to + (run->to + row) * m->shape[1] * precision_bytes(w->precision),
                         .stream = m->stream};
        st = add_piece(w, request, &p, err);
    }
    return st;
}

rb_status weight_reader_add(weight_reader *w, weight_request *request, const layer_tensor *tensor, int layer,
                            int expert, void *weight, void *stream, rb_error *err)
{
    matrix m = {.tensor = tensor, .layer = layer, .expert = expert, .fd = -1, .stream = stream};
    char name[LAYER_TENSOR_NAME];
    rb_status st;
    layer_tensor_name(name, w->config, tensor, layer, expert);
    const int rank = layer_tensor_shape(w->config, tensor, m.shape);
    RB_TRY(st, checkpoint_place(w->ckpt, name, rank, m.shape, &m.place, err), done);
    if (m.place.is_plain) RB_TRY(st, find_fd(w, m.place.path, &m.fd, err), done);
    m.to = (char *)weight + layer_tensor_first(w->config, tensor, layer) * precision_bytes(w->precision);
    for (int i = 0; i < layer_tensor_n_runs(w->config, tensor); i++) {
        const tensor_run run = layer_tensor_run(w->config, tensor, i);
        RB_TRY(st, m.place.is_plain ? add_run(w, request, &m, &run, err) : add_rows(w, request, &m, &run, err), done);
    }
done:
    return st;
}

rb_status weight_reader_wait(weight_reader *w, const weight_request *request, rb_error *err)
{
    return rb_handover_wait(w->handover, request->pieces_end, err);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static rb_status open_thread(weight_reader *w, reader_thread *r, rb_error *err)
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

rb_status weight_reader_open(weight_reader **out, const checkpoint *ckpt, const layer_cuda_api *api,
                             layer_cuda_precision precision, int n_pieces, rb_error *err)
{
    weight_reader *w = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&w, 1, sizeof *w, "weight reader", err), done);
    *w = (weight_reader){
        .ckpt = ckpt, .config = checkpoint_config(ckpt), .api = api, .precision = precision, .n_pieces = n_pieces};
    RB_TRY(st, rb_alloc(&w->pieces, (size_t)n_pieces, sizeof *w->pieces, "list of pieces", err), done);
    RB_TRY(st, rb_handover_create(&w->handover, n_pieces, RB_HANDOVER_NO_END, err), done);
    for (int i = 0; i < N_READERS; i++) RB_TRY(st, open_thread(w, &w->threads[i], err), done);
    *out = w;
    w = NULL;
done:
    weight_reader_close(w);
    return st;
}

void weight_reader_stop(weight_reader *w)
{
    if (!w) return;
    if (w->handover) rb_handover_stop(w->handover);
    for (int i = 0; i < N_READERS; i++) {
        if (w->threads[i].is_running) pthread_join(w->threads[i].thread, NULL);
        w->threads[i].is_running = false;
    }
}

static void free_slots(reader_thread *r)
{
    for (int i = 0; i < N_SLOTS; i++) {
        rb_cuda()->release_pinned(r->slots[i].pinned);
        rb_cuda_free(r->slots[i].staging, PIECE_BYTES, 1);
        rb_cuda()->event_destroy(r->slots[i].sent);
    }
}

void weight_reader_close(weight_reader *w)
{
    if (!w) return;
    weight_reader_stop(w);
    for (int i = 0; i < N_READERS; i++) free_slots(&w->threads[i]);
    for (int i = 0; i < w->n_shards; i++) close(w->shards[i].fd);
    free(w->shards);
    rb_handover_free(w->handover);
    free(w->pieces);
    free(w);
}
