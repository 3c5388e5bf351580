/* The weights of one decoder layer in f32: one allocation, filled again for every layer. Projections that share an
 * input lie one below the other (q, k, v; gate, up), so each group is a single product. */
#ifndef RB_MODEL_LAYER_WEIGHTS_H
#define RB_MODEL_LAYER_WEIGHTS_H

#include "model/checkpoint.h"

/* Matrices are [n_out][n_in] as in the checkpoint. A bias or norm that the model lacks is NULL. */
typedef struct layer_weights {
    float *arena;                  /* owns what follows */
    float *input_norm, *mlp_norm;  /* [hidden_size]; input_layernorm, post_attention_layernorm */
    float *qkv, *qkv_bias;         /* [(n_q_heads + 2 n_kv_heads) * head_dim][hidden_size] */
    float *q_norm, *k_norm;        /* [head_dim] */
    float *o, *o_bias;             /* [hidden_size][n_q_heads * head_dim] */
    float *gate_up, *gate_up_bias; /* [2 * intermediate_size][hidden_size] */
    float *down, *down_bias;       /* [hidden_size][intermediate_size] */
} layer_weights;

rb_status layer_weights_alloc(layer_weights *weights, const model_config *config, rb_error *err);
void layer_weights_free(layer_weights *weights);
int64_t layer_weights_bytes(const model_config *config);

/* What leads to q, k and v: input_norm, qkv, q_norm, k_norm. */
rb_status layer_weights_load_qkv(layer_weights *weights, const checkpoint *model, int layer, rb_error *err);
/* The rest of the layer. */
rb_status layer_weights_load_rest(layer_weights *weights, const checkpoint *model, int layer, rb_error *err);

#endif
