/* See model/cuda/resident_weights.h. */
#include "model/cuda/resident_weights.h"

#include <stdlib.h>

#include "model/cuda/cuda_pass.h"
#include "model/cuda/lm_head_cuda.h"
#include "model/cuda/weight_reader.h"
#include "model/layer_tensors.h"
#include "model/layer_weights.h"

enum { ALIGNMENT = 256 }; /* bytes: what cuBLASLt's fastest products ask for */

/* ---- places ---------------------------------------------------------------------------------- */

static int64_t align(int64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* What was laid out so far. */
typedef struct layout {
    int64_t matrices, parameters; /* bytes */
} layout;

/* The place of n numbers, or NULL while the memory is not there. */
static void *take(const resident_weights *w, layout *used, bool is_matrix, int64_t n)
{
    const rb_cuda_array *memory = is_matrix ? &w->matrices : &w->parameters;
    int64_t *bytes = is_matrix ? &used->matrices : &used->parameters;
    void *place = memory->at ? (char *)memory->at + *bytes : NULL;
    *bytes += align(n * (is_matrix ? cuda_pass_element_bytes(w->precision) : (int64_t)sizeof(float)));
    return place;
}

static layout lay_out(resident_weights *w)
{
    const model_config *c = w->config;
    layout used = {0};
    for (int layer = 0; layer < c->facts.n_layers; layer++) {
        for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++) {
            const int64_t n = layer_weight_count(c, (layer_weight)weight, layer);
            if (n > 0) w->layers[layer].at[weight] = take(w, &used, layer_weight_is_matrix(c, (layer_weight)weight), n);
        }
    }
    w->lm_head = take(w, &used, true, (int64_t)c->vocab_size * c->hidden_size);
    w->final_norm = take(w, &used, false, c->hidden_size);
    w->final_norm_bias = take(w, &used, false, c->hidden_size);
    return used;
}

static rb_status check_room(const layout *needed, rb_error *err)
{
    const double gib = 0x1p30;
    const size_t total = (size_t)(needed->matrices + needed->parameters);
    size_t free_bytes = 0;
    const rb_status st = rb_cuda()->free_bytes(&free_bytes, err);
    if (st != RB_OK || total <= free_bytes) return st;
    return rb_fail(err, RB_ENOMEM,
                   "the weights take %.1f GiB of GPU memory, and %.1f GiB are free: decoding keeps all of them there",
                   (double)total / gib, (double)free_bytes / gib);
}

rb_status resident_weights_alloc(resident_weights *w, const model_config *config, layer_cuda_precision precision,
                                 rb_error *err)
{
    const char *type = config->facts.model_type;
    rb_status st;
    *w = (resident_weights){.config = config, .precision = precision};
    if (config->has_latent_cache)
        return rb_fail(err, RB_EUNSUPPORTED, "a %s keeps latents in its cache, and decoding takes keys and values",
                       type);
    if (config->experts.n > 0)
        return rb_fail(err, RB_EUNSUPPORTED, "a %s has experts, which decoding on a GPU does not run: try --device cpu",
                       type);
    RB_TRY(st, rb_alloc(&w->layers, (size_t)config->facts.n_layers, sizeof *w->layers, "layers", err), done);
    const layout needed = lay_out(w);
    RB_TRY(st, check_room(&needed, err), done);
    RB_TRY(st, rb_cuda_array_alloc(&w->matrices, (size_t)needed.matrices, "weights", err), done);
    RB_TRY(st, rb_cuda_array_alloc(&w->parameters, (size_t)needed.parameters, "norms and biases", err), done);
    lay_out(w);
done:
    if (st != RB_OK) resident_weights_free(w);
    return st;
}

void resident_weights_free(resident_weights *w)
{
    rb_cuda_array_free(&w->matrices);
    rb_cuda_array_free(&w->parameters);
    free(w->layers);
    *w = (resident_weights){0};
}

/* ---- reading --------------------------------------------------------------------------------- */

static int64_t count_pieces(const model_config *config)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t n = 0;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].columns != DIM_NONE)
            n += config->facts.n_layers * weight_reader_pieces(config, &tensors->layer[i]);
    return n;
}

static rb_status add_matrices(const resident_weights *w, weight_reader *reader, weight_request *request, void *stream,
                              rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    rb_status st = RB_OK;
    for (int layer = 0; layer < w->config->facts.n_layers; layer++) {
        for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
            const layer_tensor *tensor = &tensors->layer[i];
            if (tensor->columns == DIM_NONE || !layer_tensor_is_used(w->config, tensor, layer)) continue;
            st = weight_reader_add(reader, request, tensor, layer, 0, (void *)w->layers[layer].at[tensor->weight],
                                   stream, err);
        }
    }
    return st;
}

static rb_status read_matrices(const resident_weights *w, const checkpoint *ckpt, const cuda_pass *pass, rb_error *err)
{
    weight_reader *reader = NULL;
    weight_request request = {0};
    rb_status st;
    RB_TRY(st, weight_reader_open(&reader, ckpt, pass->api, w->precision, (int)count_pieces(w->config) + 1, err), done);
    RB_TRY(st, add_matrices(w, reader, &request, pass->compute, err), done);
    st = weight_reader_wait(reader, &request, err);
done:
    weight_reader_stop(reader);
    rb_cuda()->stream_wait(pass->compute, NULL);
    weight_reader_close(reader);
    return st;
}

/* One norm or bias of a layer. */
static rb_status read_parameter(const resident_weights *w, const checkpoint *ckpt, const layer_tensor *tensor,
                                int layer, void *stream, rb_error *err)
{
    const size_t n = (size_t)layer_tensor_count(w->config, tensor);
    float *to = (float *)w->layers[layer].at[tensor->weight] + layer_tensor_first(w->config, tensor, layer);
    float *values = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&values, n, sizeof *values, "norms and biases", err), done);
    RB_TRY(st, layer_tensor_load(ckpt, tensor, layer, 0, values, err), done);
    RB_TRY(st, rb_cuda()->copy(to, values, n * sizeof *values, stream, err), done);
    st = rb_cuda()->stream_wait(stream, err);
done:
    free(values);
    return st;
}

static rb_status read_parameters(const resident_weights *w, const checkpoint *ckpt, void *stream, rb_error *err)
{
    const checkpoint_tensors *tensors = w->config->family->tensors;
    rb_status st = RB_OK;
    for (int layer = 0; layer < w->config->facts.n_layers; layer++)
        for (int i = 0; i < tensors->n_layer && st == RB_OK; i++)
            if (tensors->layer[i].columns == DIM_NONE && layer_tensor_is_used(w->config, &tensors->layer[i], layer))
                st = read_parameter(w, ckpt, &tensors->layer[i], layer, stream, err);
    return st;
}

rb_status resident_weights_read(resident_weights *w, const checkpoint *ckpt, rb_error *err)
{
    cuda_pass pass = {.model = ckpt, .config = w->config, .precision = w->precision}; /* for the LM head's reader */
    const void *api = NULL;
    rb_status st;
    RB_TRY(st, checkpoint_check(ckpt, err), done);
    RB_TRY(st, rb_cuda_table(&api, "rb_layer_cuda", err), done);
    pass.api = api;
    RB_TRY(st, rb_cuda()->stream_create(&pass.compute, err), done);
    RB_TRY(st, read_matrices(w, ckpt, &pass, err), done);
    RB_TRY(st, read_parameters(w, ckpt, pass.compute, err), done);
    st = lm_head_cuda_load(&pass, w->lm_head, w->final_norm, w->final_norm_bias, err);
    rb_cuda()->stream_wait(pass.compute, NULL);
done:
    if (pass.compute) rb_cuda()->stream_destroy(pass.compute);
    return st;
}
