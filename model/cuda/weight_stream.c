/* See model/cuda/weight_stream.h. */
#include "model/cuda/weight_stream.h"

#include <assert.h>
#include <stdlib.h>

#include "core/cuda_device.h"
#include "model/cuda/weight_reader.h"
#include "model/layer_tensors.h"
#include "model/layer_weights.h"

enum {
    ALIGNMENT = 256,        /* bytes: what cuBLASLt's fastest products ask for */
    RING_BYTES = 256 << 20, /* of the ring, where four experts take less */
    MIN_SLOTS = 4,
    MAX_SLOTS = 256,
    N_RING_STREAMS = 4 /* slots take turns */
};

/* A layer's place on the device and its upload stream. */
typedef struct layer_place {
    char *matrices;
    float *parameters;      /* norms and biases, one after the other */
    float *host_parameters; /* pinned */
    void *stream;
    void *uploaded, *released; /* events */
    weight_request request;    /* of the layer being read */
} layer_place;

/* An expert's place. */
typedef struct expert_slot {
    int expert;
    char *gate_up, *down;      /* in the ring's memory */
    void *stream;              /* one of ring_streams */
    void *uploaded, *released; /* events */
    weight_request request;
} expert_slot;

struct weight_stream {
    const checkpoint *ckpt;
    const model_config *config;
    layer_cuda_precision precision;
    bool stops_at_heads;
    weight_reader *reader;
    size_t matrix_bytes, n_parameters;
    int64_t first[N_LAYER_WEIGHTS]; /* of each weight: byte in matrices, or float in parameters */
    layer_place places[2];
    char *ring;
    size_t ring_bytes;
    void *ring_streams[N_RING_STREAMS];
    expert_slot *slots;
    int n_slots;
    int64_t n_begun, n_released; /* experts; expert i has slot i % n_slots */
    int64_t bytes_read;
};

/* ---- sizes ----------------------------------------------------------------------------------- */

static int64_t precision_bytes(layer_cuda_precision precision) { return precision == LAYER_CUDA_BF16 ? 2 : 4; }
static int64_t align(int64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static bool is_of_layer(const model_config *config, int weight)
{
    return layer_weight_capacity(config, (layer_weight)weight) > 0
           && layer_weight_step(config, (layer_weight)weight) != STEP_EXPERT;
}

/* Bytes that a weight takes, in the file's order of layer_weight. */
static int64_t weight_bytes(const model_config *config, int weight, layer_cuda_precision precision)
{
    const int64_t n = layer_weight_capacity(config, (layer_weight)weight);
    return align(
        n
        * (layer_weight_is_matrix(config, (layer_weight)weight) ? precision_bytes(precision) : (int64_t)sizeof(float)));
}

/* Of a layer's place: all its matrices, or all its norms and biases. */
static int64_t place_bytes(const model_config *config, layer_cuda_precision precision, bool are_matrices)
{
    int64_t total = 0;
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++)
        if (is_of_layer(config, weight) && layer_weight_is_matrix(config, (layer_weight)weight) == are_matrices)
            total += weight_bytes(config, weight, precision);
    return total;
}

static int64_t slot_bytes(const model_config *config, layer_cuda_precision precision)
{
    return weight_bytes(config, WEIGHT_EXPERT_GATE_UP, precision) + weight_bytes(config, WEIGHT_EXPERT_DOWN, precision);
}

static int count_slots(const model_config *config, layer_cuda_precision precision)
{
    const int64_t bytes = slot_bytes(config, precision);
    if (bytes == 0) return 0;
    int64_t n = RING_BYTES / bytes;
    if (n < MIN_SLOTS) n = MIN_SLOTS;
    if (n > MAX_SLOTS) n = MAX_SLOTS;
    return (int)(n < config->experts.n ? n : config->experts.n);
}

int64_t weight_stream_device_bytes(const model_config *config, layer_cuda_precision precision)
{
    return 2 * (place_bytes(config, precision, true) + place_bytes(config, precision, false))
           + count_slots(config, precision) * slot_bytes(config, precision) + weight_reader_device_bytes();
}

/* Pieces of two layers and of the ring. */
static int64_t count_pieces(const model_config *config, int n_slots)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t n = 0;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].columns != DIM_NONE)
            n += (tensors->layer[i].step == STEP_EXPERT ? n_slots : 2)
                 * weight_reader_pieces(config, &tensors->layer[i]);
    return n;
}

static void lay_out(weight_stream *w)
{
    int64_t used[2] = {0};
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++) {
        const bool is_matrix = layer_weight_is_matrix(w->config, (layer_weight)weight);
        if (!is_of_layer(w->config, weight)) continue;
        w->first[weight] = is_matrix ? used[1] : used[0] / (int64_t)sizeof(float);
        used[is_matrix] += weight_bytes(w->config, weight, w->precision);
    }
}

/* ---- layers ---------------------------------------------------------------------------------- */

/* Whether a step of the layer is run; not that of experts, which have places of their own. */
static bool is_run(const weight_stream *w, int layer, layer_step step)
{
    const bool with_rest = !w->stops_at_heads || layer + 1 < w->config->facts.n_layers;
    return step == STEP_HEADS || (step == STEP_REST && with_rest);
}

static bool is_read(const weight_stream *w, int layer, const layer_tensor *tensor)
{
    return is_run(w, layer, tensor->step) && layer_tensor_is_used(w->config, tensor, layer);
}

/* A norm or bias, into the host's copy of the place's parameters; *end: the element after the last one so far. */
static rb_status load_parameter(const weight_stream *w, int layer, const layer_tensor *tensor, int64_t *end,
                                rb_error *err)
{
    const int64_t first = w->first[tensor->weight] + layer_tensor_first(w->config, tensor, layer),
                  after = first + layer_tensor_count(w->config, tensor);
    if (after > *end) *end = after;
    return layer_tensor_load(w->ckpt, tensor, layer, 0, w->places[layer % 2].host_parameters + first, err);
}

static rb_status send_parameters(const weight_stream *w, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    const layer_place *place = &w->places[layer % 2];
    int64_t end = 0;
    rb_status st = RB_OK;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].columns == DIM_NONE && is_read(w, layer, &tensors->layer[i]))
            RB_TRY(st, load_parameter(w, layer, &tensors->layer[i], &end, err), done);
    if (end > 0)
        st =
            rb_cuda()->copy(place->parameters, place->host_parameters, (size_t)end * sizeof(float), place->stream, err);
done:
    return st;
}

static rb_status add_matrices(weight_stream *w, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    layer_place *place = &w->places[layer % 2];
    rb_status st = RB_OK;
    place->request = (weight_request){0};
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++)
        if (tensors->layer[i].columns != DIM_NONE && is_read(w, layer, &tensors->layer[i]))
            st = weight_reader_add(w->reader, &place->request, &tensors->layer[i], layer, 0,
                                   place->matrices + w->first[tensors->layer[i].weight], place->stream, err);
    return st;
}

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

/* Points at what was read. */
static void point_at(const weight_stream *w, int layer, device_layer *out)
{
    const layer_place *place = &w->places[layer % 2];
    *out = (device_layer){0};
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++) {
        if (layer_weight_count(w->config, (layer_weight)weight, layer) == 0
            || !is_run(w, layer, layer_weight_step(w->config, (layer_weight)weight)))
            continue;
        if (layer_weight_is_matrix(w->config, (layer_weight)weight))
            out->at[weight] = place->matrices + w->first[weight];
        else out->at[weight] = place->parameters + w->first[weight];
    }
}

rb_status weight_stream_wait(weight_stream *w, int layer, void *stream, device_layer *out, rb_error *err)
{
    const layer_place *place = &w->places[layer % 2];
    rb_status st;
    RB_TRY(st, weight_reader_wait(w->reader, &place->request, err), done);
    w->bytes_read += place->request.n_bytes;
    RB_TRY(st, rb_cuda()->event_record(place->uploaded, place->stream, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(stream, place->uploaded, err), done);
    point_at(w, layer, out);
done:
    return st;
}

rb_status weight_stream_release(weight_stream *w, int layer, void *stream, rb_error *err)
{
    return rb_cuda()->event_record(w->places[layer % 2].released, stream, err);
}

int64_t weight_stream_bytes_read(const weight_stream *weights) { return weights->bytes_read; }

/* ---- experts --------------------------------------------------------------------------------- */

int weight_stream_n_slots(const weight_stream *weights) { return weights->n_slots; }

rb_status weight_stream_begin_expert(weight_stream *w, int layer, int expert, rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    expert_slot *slot = &w->slots[w->n_begun % w->n_slots];
    rb_status st;
    assert(w->n_begun - w->n_released < w->n_slots);
    slot->expert = expert;
    slot->request = (weight_request){0};
    w->n_begun++;
    RB_TRY(st, rb_cuda()->stream_wait_event(slot->stream, slot->released, err), done);
    for (int i = 0; i < tensors->n_layer; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        if (tensor->step != STEP_EXPERT || !layer_tensor_is_used(w->config, tensor, layer)) continue;
        RB_TRY(st,
               weight_reader_add(w->reader, &slot->request, tensor, layer, expert,
                                 tensor->weight == WEIGHT_EXPERT_DOWN ? slot->down : slot->gate_up, slot->stream, err),
               done);
    }
done:
    return st;
}

rb_status weight_stream_wait_expert(weight_stream *w, void *stream, device_expert *out, rb_error *err)
{
    const expert_slot *slot = &w->slots[w->n_released % w->n_slots];
    rb_status st;
    assert(w->n_released < w->n_begun);
    RB_TRY(st, weight_reader_wait(w->reader, &slot->request, err), done);
    w->bytes_read += slot->request.n_bytes;
    RB_TRY(st, rb_cuda()->event_record(slot->uploaded, slot->stream, err), done);
    RB_TRY(st, rb_cuda()->stream_wait_event(stream, slot->uploaded, err), done);
    *out = (device_expert){slot->expert, slot->gate_up, slot->down};
done:
    return st;
}

rb_status weight_stream_release_expert(weight_stream *w, void *stream, rb_error *err)
{
    const expert_slot *slot = &w->slots[w->n_released % w->n_slots];
    w->n_released++;
    return rb_cuda()->event_record(slot->released, stream, err);
}

/* ---- opening and closing --------------------------------------------------------------------- */

static rb_status open_place(const weight_stream *w, layer_place *place, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_cuda_alloc(&place->matrices, w->matrix_bytes, 1, "weights of a layer", err), done);
    if (w->n_parameters > 0) {
        RB_TRY(st, rb_cuda_alloc(&place->parameters, w->n_parameters, sizeof(float), "norms and biases", err), done);
        RB_TRY(st, rb_cuda()->alloc_pinned((void **)&place->host_parameters, w->n_parameters * sizeof(float), err),
               done);
    }
    RB_TRY(st, rb_cuda()->stream_create(&place->stream, err), done);
    RB_TRY(st, rb_cuda()->event_create(&place->uploaded, err), done);
    RB_TRY(st, rb_cuda()->event_create(&place->released, err), done);
done:
    return st;
}

static rb_status open_ring(weight_stream *w, rb_error *err)
{
    const int64_t gate_up_bytes = weight_bytes(w->config, WEIGHT_EXPERT_GATE_UP, w->precision),
                  bytes = slot_bytes(w->config, w->precision);
    rb_status st = RB_OK;
    if (w->n_slots == 0) return RB_OK;
    RB_TRY(st, rb_alloc(&w->slots, (size_t)w->n_slots, sizeof *w->slots, "ring of experts", err), done);
    RB_TRY(st, rb_cuda_alloc(&w->ring, w->ring_bytes, 1, "ring of experts", err), done);
    for (int i = 0; i < N_RING_STREAMS; i++) RB_TRY(st, rb_cuda()->stream_create(&w->ring_streams[i], err), done);
    for (int i = 0; i < w->n_slots; i++) {
        expert_slot *slot = &w->slots[i];
        slot->gate_up = w->ring + i * bytes;
        slot->down = slot->gate_up + gate_up_bytes;
        slot->stream = w->ring_streams[i % N_RING_STREAMS];
        RB_TRY(st, rb_cuda()->event_create(&slot->uploaded, err), done);
        RB_TRY(st, rb_cuda()->event_create(&slot->released, err), done);
    }
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
    *w = (weight_stream){
        .ckpt = ckpt, .config = checkpoint_config(ckpt), .precision = precision, .stops_at_heads = stops_at_heads};
    w->matrix_bytes = (size_t)place_bytes(w->config, precision, true);
    w->n_parameters = (size_t)place_bytes(w->config, precision, false) / sizeof(float);
    w->n_slots = count_slots(w->config, precision);
    w->ring_bytes = (size_t)(w->n_slots * slot_bytes(w->config, precision));
    lay_out(w);
    for (int i = 0; i < 2; i++) RB_TRY(st, open_place(w, &w->places[i], err), done);
    RB_TRY(st, open_ring(w, err), done);
    RB_TRY(st, weight_reader_open(&w->reader, ckpt, api, precision, (int)count_pieces(w->config, w->n_slots), err),
           done);
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

static void close_ring(weight_stream *w)
{
    for (int i = 0; i < w->n_slots && w->slots; i++) {
        rb_cuda()->event_destroy(w->slots[i].uploaded);
        rb_cuda()->event_destroy(w->slots[i].released);
    }
    for (int i = 0; i < N_RING_STREAMS; i++) rb_cuda()->stream_destroy(w->ring_streams[i]);
    rb_cuda_free(w->ring, w->ring_bytes, 1);
    free(w->slots);
}

void weight_stream_close(weight_stream *w)
{
    if (!w) return;
    weight_reader_stop(w->reader);
    for (int i = 0; i < 2; i++)
        if (w->places[i].stream) rb_cuda()->stream_wait(w->places[i].stream, NULL);
    for (int i = 0; i < N_RING_STREAMS; i++)
        if (w->ring_streams[i]) rb_cuda()->stream_wait(w->ring_streams[i], NULL);
    weight_reader_close(w->reader);
    for (int i = 0; i < 2; i++) close_place(w, &w->places[i]);
    close_ring(w);
    free(w);
}
