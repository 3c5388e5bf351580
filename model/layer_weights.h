/* The weights of one decoder layer in f32: one allocation, filled again for every layer, with room for one expert. */
#ifndef RB_MODEL_LAYER_WEIGHTS_H
#define RB_MODEL_LAYER_WEIGHTS_H

#include "model/checkpoint.h"
#include "model/layer_tensors.h"

typedef struct layer_weights {
    float *arena;                  /* owns what follows */
    float *place[N_LAYER_WEIGHTS]; /* where a weight is loaded to; NULL where no layer has it */
    float *at[N_LAYER_WEIGHTS];    /* shapes: model/model_family.h; NULL where the current layer lacks the weight */
} layer_weights;

rb_status layer_weights_alloc(layer_weights *weights, const model_config *config, rb_error *err);
void layer_weights_free(layer_weights *weights);
int64_t layer_weights_bytes(const model_config *config);

/* The tensors that one step of the layer reads; expert: which one, for STEP_EXPERT. */
rb_status layer_weights_load(layer_weights *weights, const checkpoint *model, int layer, layer_step step, int expert,
                             rb_error *err);

/* One tensor of a layer as its weight has it, [layer_tensor_count] floats: rows in the weight's order, norms with the 1
 * that MODEL_NORM_RMS_ONE adds. */
rb_status layer_tensor_load(const checkpoint *model, const layer_tensor *tensor, int layer, int expert, float *out,
                            rb_error *err);

/* The norm after the last layer, weight and bias [hidden_size]; bias stays as it is where the family has none. */
rb_status final_norm_load(const checkpoint *model, float *weight, float *bias, rb_error *err);

#endif
