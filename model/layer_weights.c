/* See layer_weights.h. */
#include "model/layer_weights.h"

#include <stdlib.h>
#include <string.h>

/* Weights start on cache lines. */
enum { LINE_FLOATS = 16 };

/* Points every weight into the arena; returns the floats needed. */
static int64_t lay_out(layer_weights *w, const model_config *config, float *arena)
{
    int64_t used = 0;
    *w = (layer_weights){.arena = arena};
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++) {
        const int64_t n = layer_weight_capacity(config, (layer_weight)weight);
        if (n > 0 && arena) w->place[weight] = arena + used;
        used += (n + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS;
    }
    return used;
}

int64_t layer_weights_bytes(const model_config *config)
{
    layer_weights unused;
    return lay_out(&unused, config, NULL) * (int64_t)sizeof(float);
}

rb_status layer_weights_alloc(layer_weights *weights, const model_config *config, rb_error *err)
{
    float *arena = NULL;
    const rb_status st = rb_alloc(&arena, (size_t)layer_weights_bytes(config), 1, "weights of a layer", err);
    if (st == RB_OK) lay_out(weights, config, arena);
    return st;
}

void layer_weights_free(layer_weights *weights)
{
    free(weights->arena);
    *weights = (layer_weights){0};
}

/* ---- loading --------------------------------------------------------------------------------- */

static void add_one(const model_config *config, float *norm, int64_t n)
{
    if (config->family->norm != MODEL_NORM_RMS_ONE) return;
    for (int64_t i = 0; i < n; i++) norm[i] += 1.0f;
}

/* Puts rows into the weight's order. */
static rb_status order_rows(const model_config *config, const layer_tensor *tensor, float *values, rb_error *err)
{
    const int64_t n = layer_tensor_count(config, tensor);
    int64_t shape[2];
    float *copy = NULL;
    const rb_status st = rb_alloc(&copy, (size_t)n, sizeof *copy, "rows of a tensor", err);
    if (st != RB_OK) return st;
    layer_tensor_shape(config, tensor, shape);
    memcpy(copy, values, (size_t)n * sizeof *copy);
    for (int i = 0; i < layer_tensor_n_runs(config, tensor); i++) {
        const tensor_run run = layer_tensor_run(config, tensor, i);
        memcpy(values + run.to * shape[1], copy + run.from * shape[1],
               (size_t)(run.n_rows * shape[1]) * sizeof *values);
    }
    free(copy);
    return RB_OK;
}

rb_status layer_tensor_load(const checkpoint *model, const layer_tensor *tensor, int layer, int expert, float *out,
                            rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    char name[LAYER_TENSOR_NAME];
    int64_t shape[2];
    layer_tensor_name(name, config, tensor, layer, expert);
    const int rank = layer_tensor_shape(config, tensor, shape);
    const rb_status st = checkpoint_load(model, name, rank, shape, out, err);
    if (st != RB_OK) return st;
    if (layer_weight_is_norm(tensor->weight)) add_one(config, out, shape[0]);
    return layer_tensor_n_runs(config, tensor) > 1 ? order_rows(config, tensor, out, err) : RB_OK;
}

rb_status layer_weights_load(layer_weights *weights, const checkpoint *model, int layer, layer_step step, int expert,
                             rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const checkpoint_tensors *tensors = config->family->tensors;
    rb_status st = RB_OK;
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++)
        if (layer_weight_step(config, (layer_weight)weight) == step)
            weights->at[weight] =
                layer_weight_count(config, (layer_weight)weight, layer) > 0 ? weights->place[weight] : NULL;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        if (tensor->step != step || !layer_tensor_is_used(config, tensor, layer)) continue;
        float *out = weights->at[tensor->weight] + layer_tensor_first(config, tensor, layer);
        st = layer_tensor_load(model, tensor, layer, expert, out, err);
    }
    return st;
}

rb_status final_norm_load(const checkpoint *model, float *weight, float *bias, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const checkpoint_tensors *tensors = config->family->tensors;
    const int64_t shape[1] = {config->hidden_size};
    char name[LAYER_TENSOR_NAME];
    rb_status st;
    model_tensor_name(name, config, tensors->final_norm);
    RB_TRY(st, checkpoint_load(model, name, 1, shape, weight, err), done);
    add_one(config, weight, shape[0]);
    if (!tensors->final_norm_bias) return RB_OK;
    model_tensor_name(name, config, tensors->final_norm_bias);
    st = checkpoint_load(model, name, 1, shape, bias, err);
done:
    return st;
}
