/* What differs between model families, as data: the tensors of a checkpoint, and how config.json is read.
 *
 * A new family is a row of the table in model_family.c. Where its checkpoints name or cut the tensors in another way
 * (one matrix for q, k and v, for example), it is a list of tensors too. Where its layers compute with a weight that no
 * other family has, it is a layer_weight, and the step that uses it in layer.c and in cuda/cuda_pass.c. */
#ifndef RB_MODEL_MODEL_FAMILY_H
#define RB_MODEL_MODEL_FAMILY_H

#include <stdbool.h>

#include "core/model_facts.h"

/* ---- tensors --------------------------------------------------------------------------------- */

/* What a layer computes with. A weight is one tensor of the checkpoint, or several that lie one below the other, so
 * that projections with a common input are one product. Matrices are [n_out][n_in], as in the file. */
typedef enum layer_weight {
    WEIGHT_INPUT_NORM, /* [hidden_size] */
    WEIGHT_QKV,        /* [(n_q_heads + 2 n_kv_heads) * head_dim][hidden_size] */
    WEIGHT_QKV_BIAS,
    WEIGHT_Q_NORM, /* [head_dim] */
    WEIGHT_K_NORM,
    WEIGHT_O, /* [hidden_size][n_q_heads * head_dim] */
    WEIGHT_O_BIAS,
    WEIGHT_MLP_NORM, /* [hidden_size] */
    WEIGHT_GATE_UP,  /* [2 * intermediate_size][hidden_size] */
    WEIGHT_GATE_UP_BIAS,
    WEIGHT_DOWN, /* [hidden_size][intermediate_size] */
    WEIGHT_DOWN_BIAS,
    N_LAYER_WEIGHTS
} layer_weight;

/* The part of a layer that reads a tensor: all that leads to q, k and v, or what comes after them. */
typedef enum layer_step { STEP_HEADS, STEP_REST } layer_step;

/* Sizes that a dim of a tensor can have, in numbers of the configuration. */
typedef enum tensor_dim {
    DIM_NONE,
    DIM_HIDDEN, /* hidden_size */
    DIM_QUERY,  /* n_q_heads * head_dim */
    DIM_KEY,    /* n_kv_heads * head_dim */
    DIM_HEAD,   /* head_dim */
    DIM_MLP     /* intermediate_size */
} tensor_dim;

/* Tensors that some models have and others lack: bits of model_config.extras. */
typedef enum layer_extra {
    EXTRA_NONE,
    EXTRA_QKV_BIAS = 1 << 0,
    EXTRA_O_BIAS = 1 << 1,
    EXTRA_MLP_BIAS = 1 << 2,
    EXTRA_QK_NORM = 1 << 3 /* RMSNorm over head_dim on q and k before RoPE */
} layer_extra;

typedef struct layer_tensor {
    const char *name; /* after the layer's number */
    layer_weight weight;
    tensor_dim rows, columns; /* columns DIM_NONE: a vector */
    layer_step step;
    layer_extra extra; /* EXTRA_NONE: every model has it */
} layer_tensor;

/* All tensors of a checkpoint. Those of one weight are listed in the order in which they lie below each other. */
typedef struct checkpoint_tensors {
    const char *embedding, *final_norm, *lm_head;
    const char *layer_prefix; /* a layer's tensor is called PREFIX LAYER . NAME */
    const layer_tensor *layer;
    int n_layer;
    /* Buffers and parts of a checkpoint that no text pass needs, NULL at the end, or NULL: how a name ends
     * ("attention.masked_bias"), or, with a dot at the end, how it starts ("vision_tower."). rotary_emb.inv_freq is
     * never needed. */
    const char *const *ignored;
} checkpoint_tensors;

/* ---- families -------------------------------------------------------------------------------- */

/* A flag of config.json: an error when it is true, without meaning, or read. */
typedef enum flag_rule { FLAG_REFUSED, FLAG_IGNORED, FLAG_READ } flag_rule;

/* Sliding windows: no layer has one, every layer has the same, or config.json says which layers do. */
typedef enum window_rule { WINDOW_REFUSED, WINDOW_EVERY_LAYER, WINDOW_SOME_LAYERS } window_rule;

typedef struct model_family {
    const char *model_type, *architecture; /* in config.json */
    const checkpoint_tensors *tensors;
    unsigned extras;                    /* what every model of the family has: bits of layer_extra */
    flag_rule attention_bias, mlp_bias; /* attention_bias is that of q, k, v and o */
    /* Numbers that transformers derives from others where they are absent (false), or fills in by itself: then a model
     * that does not write them down is refused. */
    bool needs_kv_heads, needs_head_dim;
    window_rule window;
    rope_pairing pairing;
} model_family;

/* NULL for a model_type that is not supported. */
const model_family *model_family_find(const char *model_type);
/* "llama, mistral, qwen2 or qwen3", for messages. */
void model_family_list(char *text, size_t size);

#endif
