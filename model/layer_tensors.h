/* The tensors of a layer as a configuration has them: which are there, their names and shapes, and where each lies in
 * its weight. The table itself is in model/family_tensors.c. */
#ifndef RB_MODEL_LAYER_TENSORS_H
#define RB_MODEL_LAYER_TENSORS_H

#include "model/model_config.h"

enum { LAYER_TENSOR_NAME = 160 };

/* Bits of layer_extra: those of the model and those of the layer. */
unsigned layer_extras(const model_config *config, int layer);
bool layer_tensor_is_used(const model_config *config, const layer_tensor *tensor, int layer);
/* expert: which one's, where the tensor's step is STEP_EXPERT; otherwise 0. */
void layer_tensor_name(char name[LAYER_TENSOR_NAME], const model_config *config, const layer_tensor *tensor, int layer,
                       int expert);
/* Of a tensor outside the layers: the family's name for it with the prefix of the model around it. */
void model_tensor_name(char name[LAYER_TENSOR_NAME], const model_config *config, const char *family_name);
/* Returns the rank, 1 or 2. */
int layer_tensor_shape(const model_config *config, const layer_tensor *tensor, int64_t shape[2]);
int64_t layer_tensor_count(const model_config *config, const layer_tensor *tensor); /* elements */
/* The tensor's first element in its weight: the elements of tensors above it that the layer uses. */
int64_t layer_tensor_first(const model_config *config, const layer_tensor *tensor, int layer);

/* A tensor lies in its weight in runs of rows: one, or more where the weight has them in another order. The run's rows
 * are n_rows from `from` on in the tensor; its first row in the weight, counted from the tensor's first, is `to`. A
 * vector has rows of one element. */
typedef struct tensor_run {
    int64_t from, to, n_rows;
} tensor_run;
int layer_tensor_n_runs(const model_config *config, const layer_tensor *tensor);
tensor_run layer_tensor_run(const model_config *config, const layer_tensor *tensor, int run);

/* Elements of a weight in a layer, 0 where the layer lacks it; those of one expert for an expert's weight. */
int64_t layer_weight_count(const model_config *config, layer_weight weight, int layer);
/* The most that any layer has. */
int64_t layer_weight_capacity(const model_config *config, layer_weight weight);
/* Whether a weight is a matrix; false where the model lacks it. */
bool layer_weight_is_matrix(const model_config *config, layer_weight weight);
/* The step that reads a weight. */
layer_step layer_weight_step(const model_config *config, layer_weight weight);
/* Whether a weight is the weight of a norm. */
bool layer_weight_is_norm(layer_weight weight);

#endif
