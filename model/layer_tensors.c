/* See model/layer_tensors.h. */
#include "model/layer_tensors.h"

#include <stdio.h>
#include <string.h>

static int64_t dim_size(const model_config *config, tensor_dim dim)
{
    const model_facts *facts = &config->facts;
    const int64_t query = (int64_t)facts->n_q_heads * config->query_dim,
                  key = (int64_t)facts->n_kv_heads * facts->head_dim;
    switch (dim) {
    case DIM_HIDDEN: return config->hidden_size;
    case DIM_QUERY: return query;
    case DIM_KEY: return key;
    case DIM_QKV: return query + 2 * key;
    case DIM_HEAD: return facts->head_dim;
    case DIM_ATTENDED: return (int64_t)facts->n_q_heads * config->attended_dim;
    case DIM_MLP: return config->intermediate_size;
    case DIM_GATE_UP: return 2 * (int64_t)config->intermediate_size;
    case DIM_Q_RANK: return config->latent.q_rank;
    case DIM_KV_RANK: return config->latent.kv_rank;
    case DIM_KV_A: return config->latent.kv_rank + facts->head_dim;
    case DIM_KV_B: return (int64_t)facts->n_q_heads * (config->query_dim - facts->head_dim + config->attended_dim);
    case DIM_EXPERTS: return config->experts.n;
    case DIM_EXPERT_MLP: return config->experts.size;
    case DIM_SHARED_MLP: return config->experts.shared_size;
    case DIM_NONE: break;
    }
    return 1;
}

unsigned layer_extras(const model_config *config, int layer)
{
    return config->extras | (unsigned)(config->layer_has_experts[layer] ? EXTRA_EXPERTS : EXTRA_DENSE_MLP);
}

bool layer_tensor_is_used(const model_config *config, const layer_tensor *tensor, int layer)
{
    return (layer_extras(config, layer) & tensor->extras) == tensor->extras;
}

void layer_tensor_name(char name[LAYER_TENSOR_NAME], const model_config *config, const layer_tensor *tensor, int layer,
                       int expert)
{
    const int used = snprintf(name, LAYER_TENSOR_NAME, "%s%s%d.", config->tensor_prefix,
                              config->family->tensors->layer_prefix, layer);
    const char *place = strstr(tensor->name, "%d"), *rest = place ? place + strlen("%d") : "";
    const int before = place ? (int)(place - tensor->name) : (int)strlen(tensor->name);
    char number[16] = "";
    if (place) snprintf(number, sizeof number, "%d", expert);
    snprintf(name + used, LAYER_TENSOR_NAME - (size_t)used, "%.*s%s%s", before, tensor->name, number, rest);
}

void model_tensor_name(char name[LAYER_TENSOR_NAME], const model_config *config, const char *family_name)
{
    snprintf(name, LAYER_TENSOR_NAME, "%s%s", config->tensor_prefix, family_name);
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

int64_t layer_tensor_first(const model_config *config, const layer_tensor *tensor, int layer)
{
    int64_t first = 0;
    for (const layer_tensor *above = config->family->tensors->layer; above < tensor; above++)
        if (above->weight == tensor->weight && layer_tensor_is_used(config, above, layer))
            first += layer_tensor_count(config, above);
    return first;
}

/* ---- rows ------------------------------------------------------------------------------------ */

enum { N_PARTS = 3 }; /* q, k, v */

int layer_tensor_n_runs(const model_config *config, const layer_tensor *tensor)
{
    return tensor->order == ROWS_QKV_BY_HEAD ? N_PARTS * config->facts.n_q_heads : 1;
}

tensor_run layer_tensor_run(const model_config *config, const layer_tensor *tensor, int run)
{
    const int64_t head_dim = config->facts.head_dim;
    if (tensor->order == ROWS_IN_ORDER) return (tensor_run){0, 0, dim_size(config, tensor->rows)};
    const int head = run / N_PARTS, part = run % N_PARTS;
    return (tensor_run){run * head_dim, (part * (int64_t)config->facts.n_q_heads + head) * head_dim, head_dim};
}

/* ---- weights --------------------------------------------------------------------------------- */

int64_t layer_weight_count(const model_config *config, layer_weight weight, int layer)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    int64_t count = 0;
    for (int i = 0; i < tensors->n_layer; i++)
        if (tensors->layer[i].weight == weight && layer_tensor_is_used(config, &tensors->layer[i], layer))
            count += layer_tensor_count(config, &tensors->layer[i]);
    return count;
}

int64_t layer_weight_capacity(const model_config *config, layer_weight weight)
{
    int64_t most = 0;
    for (int layer = 0; layer < config->facts.n_layers; layer++) {
        const int64_t count = layer_weight_count(config, weight, layer);
        if (count > most) most = count;
    }
    return most;
}

/* The first tensor of a weight that some layer uses, or NULL. */
static const layer_tensor *tensor_of(const model_config *config, layer_weight weight)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    for (int i = 0; i < tensors->n_layer; i++) {
        const unsigned needed = tensors->layer[i].extras & ~(unsigned)(EXTRA_EXPERTS | EXTRA_DENSE_MLP);
        if (tensors->layer[i].weight == weight && (config->extras & needed) == needed) return &tensors->layer[i];
    }
    return NULL;
}

bool layer_weight_is_matrix(const model_config *config, layer_weight weight)
{
    const layer_tensor *tensor = tensor_of(config, weight);
    return tensor && tensor->columns != DIM_NONE;
}

layer_step layer_weight_step(const model_config *config, layer_weight weight)
{
    const layer_tensor *tensor = tensor_of(config, weight);
    return tensor ? tensor->step : STEP_REST;
}

bool layer_weight_is_norm(layer_weight weight)
{
    switch (weight) {
    case WEIGHT_INPUT_NORM:
    case WEIGHT_Q_NORM:
    case WEIGHT_K_NORM:
    case WEIGHT_Q_A_NORM:
    case WEIGHT_KV_A_NORM:
    case WEIGHT_ATTENTION_OUT_NORM:
    case WEIGHT_MLP_NORM:
    case WEIGHT_MLP_OUT_NORM: return true;
    default: return false;
    }
}
