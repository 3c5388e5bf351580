/* The tensors of a layer as a configuration has them: which are there, their names and shapes, and where each lies in
 * its weight. The table itself is in model_family.c. */
#ifndef RB_MODEL_LAYER_TENSORS_H
#define RB_MODEL_LAYER_TENSORS_H

#include "model/model_config.h"

enum { LAYER_TENSOR_NAME = 128 };

bool layer_tensor_is_used(const model_config *config, const layer_tensor *tensor);
void layer_tensor_name(char name[LAYER_TENSOR_NAME], const model_config *config, const layer_tensor *tensor, int layer);
/* Returns the rank, 1 or 2. */
int layer_tensor_shape(const model_config *config, const layer_tensor *tensor, int64_t shape[2]);
int64_t layer_tensor_count(const model_config *config, const layer_tensor *tensor); /* elements */
/* The tensor's first element in its weight: the elements of used tensors above it. */
int64_t layer_tensor_first(const model_config *config, const layer_tensor *tensor);

/* Elements of a weight, 0 where the model lacks it. */
int64_t layer_weight_count(const model_config *config, layer_weight weight);
/* Whether a weight is a matrix; false where the model lacks it. */
bool layer_weight_is_matrix(const model_config *config, layer_weight weight);

#endif
