/* The weights of one decoder layer in f32: one allocation, filled again for every layer. */
#ifndef RB_MODEL_LAYER_WEIGHTS_H
#define RB_MODEL_LAYER_WEIGHTS_H

#include "model/checkpoint.h"

typedef struct layer_weights {
    float *arena;               /* owns what follows */
    float *at[N_LAYER_WEIGHTS]; /* shapes: model/model_family.h; NULL where the model lacks the weight */
} layer_weights;

rb_status layer_weights_alloc(layer_weights *weights, const model_config *config, rb_error *err);
void layer_weights_free(layer_weights *weights);
int64_t layer_weights_bytes(const model_config *config);

/* The tensors that one step of the layer reads. */
rb_status layer_weights_load(layer_weights *weights, const checkpoint *model, int layer, layer_step step,
                             rb_error *err);

#endif
