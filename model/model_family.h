/* What differs between model families, as data: the tensors of a checkpoint, and how config.json is read.
 *
 * A new family is a row of the table in model_family.c. Where its checkpoints name or cut the tensors in another way
 * (one matrix for q, k and v, for example), it is a list of tensors too. Where its layers compute with a weight that no
 * other family has, it is a layer_weight, and the step that uses it in layer.c and in cuda/cuda_layer.c. */
#ifndef RB_MODEL_MODEL_FAMILY_H
#define RB_MODEL_MODEL_FAMILY_H

#include <stdbool.h>

#include "core/model_facts.h"

/* ---- tensors --------------------------------------------------------------------------------- */

/* What a layer computes with. A weight is one tensor of the checkpoint, or several that lie one below the other, so
 * that projections with a common input are one product. Matrices are [n_out][n_in], as in the file. Sizes are named as
 * in model_config; E is query_dim, V attended_dim. */
typedef enum layer_weight {
    WEIGHT_INPUT_NORM, /* [hidden_size] */
    WEIGHT_INPUT_NORM_BIAS,
    WEIGHT_QKV, /* [(n_q_heads + 2 n_kv_heads) * head_dim][hidden_size] */
    WEIGHT_QKV_BIAS,
    WEIGHT_Q_NORM, /* [head_dim], or [n_q_heads * head_dim] with EXTRA_WIDE_QK_NORM */
    WEIGHT_K_NORM,
    /* In place of QKV where the cache is latent (MLA). Q_A is q too where q has no latent of its own. */
    WEIGHT_Q_A, /* [q_rank][hidden_size] */
    WEIGHT_Q_A_BIAS,
    WEIGHT_Q_A_NORM, /* [q_rank] */
    WEIGHT_Q_B,      /* [n_q_heads * E][q_rank, or hidden_size without q_rank] */
    WEIGHT_KV_A,     /* [kv_rank + head_dim][hidden_size]: latent, key */
    WEIGHT_KV_A_BIAS,
    WEIGHT_KV_A_NORM, /* [kv_rank] */
    WEIGHT_KV_B,      /* [n_q_heads * (E - head_dim + V)][kv_rank]: a head's key without RoPE, its value */
    WEIGHT_O,         /* [hidden_size][n_q_heads * V] */
    WEIGHT_O_BIAS,
    WEIGHT_ATTENTION_OUT_NORM, /* [hidden_size]: of what o_proj gives, before it is added */
    WEIGHT_MLP_NORM,           /* [hidden_size] */
    WEIGHT_MLP_NORM_BIAS,
    WEIGHT_GATE_UP, /* [2 * intermediate_size][hidden_size]; without a gate [intermediate_size][hidden_size] */
    WEIGHT_GATE_UP_BIAS,
    WEIGHT_DOWN, /* [hidden_size][intermediate_size] */
    WEIGHT_DOWN_BIAS,
    WEIGHT_MLP_OUT_NORM, /* [hidden_size]: of what the MLP gives, before it is added */
    /* In place of GATE_UP and DOWN in layers with experts. */
    WEIGHT_ROUTER,         /* [n_experts][hidden_size] */
    WEIGHT_EXPERT_GATE_UP, /* of one expert: [2 * expert_size][hidden_size] */
    WEIGHT_EXPERT_DOWN,    /* of one expert: [hidden_size][expert_size] */
    WEIGHT_SHARED_GATE_UP, /* of the experts that every token visits, as one: [2 * shared_size][hidden_size] */
    WEIGHT_SHARED_DOWN,
    N_LAYER_WEIGHTS
} layer_weight;

/* The part of a layer that reads a tensor: all that leads to q, k and v; what comes after them; one expert's share. */
typedef enum layer_step { STEP_HEADS, STEP_REST, STEP_EXPERT } layer_step;

/* Sizes that a dim of a tensor can have, in numbers of the configuration. */
typedef enum tensor_dim {
    DIM_NONE,
    DIM_HIDDEN,     /* hidden_size */
    DIM_QUERY,      /* n_q_heads * query_dim */
    DIM_KEY,        /* n_kv_heads * head_dim */
    DIM_QKV,        /* DIM_QUERY + 2 DIM_KEY */
    DIM_HEAD,       /* head_dim */
    DIM_ATTENDED,   /* n_q_heads * attended_dim */
    DIM_MLP,        /* intermediate_size */
    DIM_GATE_UP,    /* 2 * intermediate_size */
    DIM_Q_RANK,     /* latent.q_rank */
    DIM_KV_RANK,    /* latent.kv_rank */
    DIM_KV_A,       /* latent.kv_rank + head_dim */
    DIM_KV_B,       /* n_q_heads * (query_dim - head_dim + attended_dim) */
    DIM_EXPERTS,    /* experts.n */
    DIM_EXPERT_MLP, /* experts.size */
    DIM_SHARED_MLP  /* experts.shared_size */
} tensor_dim;

/* What some layers or models have and others lack. Those of a layer: layer_extras in layer_tensors.h. A tensor that
 * needs several of them is read where all are. */
typedef enum layer_extra {
    EXTRA_NONE,
    EXTRA_QKV_BIAS = 1 << 0,
    EXTRA_O_BIAS = 1 << 1,
    EXTRA_MLP_BIAS = 1 << 2,
    EXTRA_QK_NORM = 1 << 3,      /* RMSNorm over head_dim on q and k before RoPE */
    EXTRA_WIDE_QK_NORM = 1 << 4, /* the same over all heads together */
    EXTRA_DENSE_MLP = 1 << 5,    /* of a layer: one MLP for all tokens */
    EXTRA_EXPERTS = 1 << 6,      /* of a layer: a router and experts */
    EXTRA_SHARED_EXPERTS = 1 << 7,
    EXTRA_Q_LATENT = 1 << 8,    /* q comes out of a latent of its own (q_lora_rank) */
    EXTRA_Q_DIRECT = 1 << 9,    /* it does not */
    EXTRA_LATENT_BIAS = 1 << 10 /* biases of the projections to latents */
} layer_extra;

/* How the rows of a tensor lie. By heads: q, k and v of head 0, then of head 1, ...; in the weight q, k and v follow
 * each other, as everywhere. */
typedef enum tensor_rows { ROWS_IN_ORDER, ROWS_QKV_BY_HEAD } tensor_rows;

typedef struct layer_tensor {
    const char *name; /* after the layer's number; one %d for the expert's where step is STEP_EXPERT */
    layer_weight weight;
    tensor_dim rows, columns; /* columns DIM_NONE: a vector */
    layer_step step;
    unsigned extras; /* bits of layer_extra; EXTRA_NONE: every model has it */
    tensor_rows order;
} layer_tensor;

/* All tensors of a checkpoint. Those of one weight are listed in the order in which they lie below each other. */
typedef struct checkpoint_tensors {
    const char *embedding, *final_norm, *final_norm_bias, *lm_head; /* final_norm_bias may be NULL */
    const char *layer_prefix;                                       /* a layer's tensor is called PREFIX LAYER . NAME */
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

/* Sliding windows: no layer has one; every layer has the same; every layer, where use_sliding_window says so; the
 * layers that config.json names, where use_sliding_window says so; or layers take turns in a pattern of the family
 * unless config.json says which do. */
typedef enum window_rule {
    WINDOW_REFUSED,
    WINDOW_EVERY_LAYER,
    WINDOW_IF_USED,
    WINDOW_SOME_LAYERS,
    WINDOW_PATTERN
} window_rule;

typedef enum model_norm {
    MODEL_NORM_RMS,     /* weight * x / sqrt(mean(x^2) + eps) */
    MODEL_NORM_RMS_ONE, /* the same with weight + 1 (Gemma); weights are loaded with the 1 added */
    MODEL_NORM_LAYER    /* LayerNorm with bias */
} model_norm;

/* A field of config.json that a family calls otherwise than most: the value of `from`, where it is there, is that of
 * `to`, times `factor` unless that is 0. */
typedef struct config_rename {
    const char *from, *to;
    double factor;
} config_rename;

typedef struct model_family {
    const char *model_type, *architecture; /* in config.json */
    const char *other_architecture;        /* a second class with the same decoder, or NULL */
    const checkpoint_tensors *tensors;
    unsigned extras;                    /* what every model of the family has: bits of layer_extra */
    flag_rule attention_bias, mlp_bias; /* flags of config.json */
    unsigned attention_bias_extras;     /* what attention_bias means */
    /* Numbers that transformers derives from others where they are absent (false), or fills in by itself: then a model
     * that does not write them down is refused. */
    bool needs_kv_heads, needs_head_dim;
    window_rule window;
    int window_pattern; /* WINDOW_PATTERN: every n-th layer sees all keys, unless sliding_window_pattern says so */
    rope_pairing pairing;
    model_norm norm;
    const char *activations; /* those that are supported, as hidden_act has them, with spaces between */
    bool has_plain_mlp;      /* no gate: down(activation(up(x))) */
    bool scales_embedding;   /* by sqrt(hidden_size) */
    bool has_query_scalar;   /* query_pre_attn_scalar in place of head_dim in attention_scale */
    bool has_softcaps;       /* attn_logit_softcapping, final_logit_softcapping */
    bool has_multipliers;    /* embedding_, residual_ and attention_multiplier, logits_scaling */
    bool has_local_rope;     /* layers with a window have a RoPE of their own */
    bool has_partial_rope;   /* partial_rotary_factor: the first dims of a head turn */
    bool names_longrope_so;  /* "su" and "yarn" mean longrope (Phi-3) */
    bool has_parallel_flag;  /* use_parallel_residual */
    bool has_latent_cache;   /* MLA: kv_lora_rank and what goes with it */
    bool has_experts;        /* a router and experts in some layers */

    const config_rename *renames; /* ends with from NULL; may be NULL */
    const char *defaults;         /* JSON: fields that transformers documents a default of, which real models rely on */
    const char *implies;          /* JSON: the same of fields that real models of the family never write down */
    const char *expects;          /* JSON: fields that, where they are there, must have this value */
} model_family;

/* NULL for a model_type that is not supported. */
const model_family *model_family_find(const char *model_type);
/* "llama, mistral, ... or gemma3", for messages. */
void model_family_list(char *text, size_t size);

#endif
