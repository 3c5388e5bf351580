/* See layer_weights.h. */
#include "model/layer_weights.h"

#include <stdlib.h>

#include "model/layer_tensors.h"

/* Weights start on cache lines. */
enum { LINE_FLOATS = 16 };

/* Points every weight into the arena; returns the floats needed. */
static int64_t lay_out(layer_weights *w, const model_config *config, float *arena)
{
    int64_t used = 0;
    *w = (layer_weights){.arena = arena};
    for (int weight = 0; weight < N_LAYER_WEIGHTS; weight++) {
        const int64_t n = layer_weight_capacity(config, (layer_weight)weight);
        if (n > 0 && arena) w->at[weight] = arena + used;
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

rb_status layer_weights_load(layer_weights *weights, const checkpoint *model, int layer, layer_step step, rb_error *err)
{
    const model_config *config = checkpoint_config(model);
    const checkpoint_tensors *tensors = config->family->tensors;
    rb_status st = RB_OK;
    for (int i = 0; i < tensors->n_layer && st == RB_OK; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        char name[LAYER_TENSOR_NAME];
        int64_t shape[2];
        if (tensor->step != step || !layer_tensor_is_used(config, tensor, layer)) continue;
        layer_tensor_name(name, config, tensor, layer, 0);
        const int rank = layer_tensor_shape(config, tensor, shape);
        float *out = weights->at[tensor->weight] + layer_tensor_first(config, tensor, layer);
        st = checkpoint_load(model, name, rank, shape, out, err);
    }
    return st;
}
