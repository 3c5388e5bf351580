/* See model/layer_tensors.h. */
#include "model/layer_tensors.h"

#include <stdio.h>

static int64_t dim_size(const model_config *config, tensor_dim dim)
{
    const model_facts *facts = &config->facts;
    switch (dim) {
    case DIM_HIDDEN: return config->hidden_size;
    case DIM_QUERY: return (int64_t)facts->n_q_heads * facts->head_dim;
    case DIM_KEY: return (int64_t)facts->n_kv_heads * facts->head_dim;
    case DIM_HEAD: return facts->head_dim;
    case DIM_MLP: return config->intermediate_size;
    case DIM_NONE: break;
    }
    return 1;
}

bool layer_tensor_is_used(const model_config *config, const layer_tensor *tensor)
{
    return tensor->extra == EXTRA_NONE || (config->extras & (unsigned)tensor->extra);
}

void layer_tensor_name(char name[LAYER_TENSOR_NAME], const model_config *config, const layer_tensor *tensor, int layer)
{
    snprintf(name, LAYER_TENSOR_NAME, "%s%d.%s", config->family->tensors->layer_prefix, layer, tensor->name);
}

int layer_tensor_shape(const model_config *config, const layer_tensor *tensor, int64_t shape[2])
{
    shape[0] = dim_size(config, tensor->rows);
    shape[1] = dim_size(config, tensor->columns);
    return tensor->columns == DIM_NONE ? 1 : 2;
}

int64_t layer_tensor_count(const model_config *config, const layer_tensor *tensor)
{
    return dim_size(config, tensor->rows) * dim_size(config, tensor->columns);
}

int64_t layer_tensor_first(const model_config *config, const layer_tensor *tensor)
{
    int64_t first = 0;
    for (const layer_tensor *above = config->family->tensors->layer; above < tensor; above++)
        if (above->weight == tensor->weight && layer_tensor_is_used(config, above))
            first += layer_tensor_count(config, above);
    return first;
}

int64_t layer_weight_count(const model_config *config, layer_weight weight)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t count = 0;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].weight == weight && layer_tensor_is_used(config, &tensors->layer[i]))
            count += layer_tensor_count(config, &tensors->layer[i]);
    return count;
}

bool layer_weight_is_matrix(const model_config *config, layer_weight weight)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].weight == weight && layer_tensor_is_used(config, &tensors->layer[i]))
            return tensors->layer[i].columns != DIM_NONE;
    return false;
}
