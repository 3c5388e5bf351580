/* The tensors of each family's checkpoints, by the names of its class in transformers. See model/model_family.h. */
#include "model/family_tensors.h"

#include <stddef.h>

#define PLAIN_NAMES                                                                                           \
    .embedding = "model.embed_tokens.weight", .final_norm = "model.norm.weight", .lm_head = "lm_head.weight", \
    .layer_prefix = "model.layers."

/* The names of transformers' Llama, which most families after it kept; experts as Qwen3-MoE has them. */
static const layer_tensor LLAMA_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.weight", WEIGHT_QKV, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.k_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.v_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.bias", WEIGHT_QKV_BIAS, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.k_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.v_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.o_proj.bias", WEIGHT_O_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_O_BIAS, ROWS_IN_ORDER},
    {"self_attn.q_norm.weight", WEIGHT_Q_NORM, DIM_HEAD, DIM_NONE, STEP_HEADS, EXTRA_QK_NORM, ROWS_IN_ORDER},
    {"self_attn.k_norm.weight", WEIGHT_K_NORM, DIM_HEAD, DIM_NONE, STEP_HEADS, EXTRA_QK_NORM, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.gate_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.up_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.gate_proj.bias", WEIGHT_GATE_UP_BIAS, DIM_MLP, DIM_NONE, STEP_REST, EXTRA_DENSE_MLP | EXTRA_MLP_BIAS,
     ROWS_IN_ORDER},
    {"mlp.up_proj.bias", WEIGHT_GATE_UP_BIAS, DIM_MLP, DIM_NONE, STEP_REST, EXTRA_DENSE_MLP | EXTRA_MLP_BIAS,
     ROWS_IN_ORDER},
    {"mlp.down_proj.bias", WEIGHT_DOWN_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_DENSE_MLP | EXTRA_MLP_BIAS,
     ROWS_IN_ORDER},
    {"mlp.gate.weight", WEIGHT_ROUTER, DIM_EXPERTS, DIM_HIDDEN, STEP_REST, EXTRA_EXPERTS, ROWS_IN_ORDER},
    {"mlp.experts.%d.gate_proj.weight", WEIGHT_EXPERT_GATE_UP, DIM_EXPERT_MLP, DIM_HIDDEN, STEP_EXPERT, EXTRA_EXPERTS,
     ROWS_IN_ORDER},
    {"mlp.experts.%d.up_proj.weight", WEIGHT_EXPERT_GATE_UP, DIM_EXPERT_MLP, DIM_HIDDEN, STEP_EXPERT, EXTRA_EXPERTS,
     ROWS_IN_ORDER},
    {"mlp.experts.%d.down_proj.weight", WEIGHT_EXPERT_DOWN, DIM_HIDDEN, DIM_EXPERT_MLP, STEP_EXPERT, EXTRA_EXPERTS,
     ROWS_IN_ORDER},
};

const checkpoint_tensors LLAMA_TENSORS = {
    PLAIN_NAMES,
    .layer = LLAMA_LAYER,
    .n_layer = RB_COUNT(LLAMA_LAYER),
};

/* GLM-4-9B as transformers has it: gate and up are one matrix. */
static const layer_tensor GLM_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.weight", WEIGHT_QKV, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.k_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.v_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.bias", WEIGHT_QKV_BIAS, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.k_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.v_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.gate_up_proj.weight", WEIGHT_GATE_UP, DIM_GATE_UP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
};

const checkpoint_tensors GLM_TENSORS = {
    PLAIN_NAMES,
    .layer = GLM_LAYER,
    .n_layer = RB_COUNT(GLM_LAYER),
};

/* GLM-4-0414: the same with a norm of what attention and MLP give. */
static const layer_tensor GLM4_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.weight", WEIGHT_QKV, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.k_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.v_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.bias", WEIGHT_QKV_BIAS, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.k_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.v_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"post_self_attn_layernorm.weight", WEIGHT_ATTENTION_OUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE,
     ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.gate_up_proj.weight", WEIGHT_GATE_UP, DIM_GATE_UP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"post_mlp_layernorm.weight", WEIGHT_MLP_OUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
};

const checkpoint_tensors GLM4_TENSORS = {
    PLAIN_NAMES,
    .layer = GLM4_LAYER,
    .n_layer = RB_COUNT(GLM4_LAYER),
};

/* GLM-4-9B as it was published: q, k and v are one matrix too. */
static const layer_tensor CHATGLM_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attention.query_key_value.weight", WEIGHT_QKV, DIM_QKV, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attention.query_key_value.bias", WEIGHT_QKV_BIAS, DIM_QKV, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS,
     ROWS_IN_ORDER},
    {"self_attention.dense.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.dense_h_to_4h.weight", WEIGHT_GATE_UP, DIM_GATE_UP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.dense_4h_to_h.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
};

/* A buffer of the published repository. */
static const char *const CHATGLM_IGNORED[] = {"rotary_pos_emb.inv_freq", NULL};

const checkpoint_tensors CHATGLM_TENSORS = {
    .embedding = "transformer.embedding.word_embeddings.weight",
    .final_norm = "transformer.encoder.final_layernorm.weight",
    .lm_head = "transformer.output_layer.weight",
    .layer_prefix = "transformer.encoder.layers.",
    .ignored = CHATGLM_IGNORED,
    .layer = CHATGLM_LAYER,
    .n_layer = RB_COUNT(CHATGLM_LAYER),
};

/* DeepSeek-V2: latents in place of keys and values. */
static const layer_tensor DEEPSEEK_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.weight", WEIGHT_Q_B, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_Q_DIRECT, ROWS_IN_ORDER},
    {"self_attn.q_a_proj.weight", WEIGHT_Q_A, DIM_Q_RANK, DIM_HIDDEN, STEP_HEADS, EXTRA_Q_LATENT, ROWS_IN_ORDER},
    {"self_attn.q_a_proj.bias", WEIGHT_Q_A_BIAS, DIM_Q_RANK, DIM_NONE, STEP_HEADS, EXTRA_Q_LATENT | EXTRA_LATENT_BIAS,
     ROWS_IN_ORDER},
    {"self_attn.q_a_layernorm.weight", WEIGHT_Q_A_NORM, DIM_Q_RANK, DIM_NONE, STEP_HEADS, EXTRA_Q_LATENT,
     ROWS_IN_ORDER},
    {"self_attn.q_b_proj.weight", WEIGHT_Q_B, DIM_QUERY, DIM_Q_RANK, STEP_HEADS, EXTRA_Q_LATENT, ROWS_IN_ORDER},
    {"self_attn.kv_a_proj_with_mqa.weight", WEIGHT_KV_A, DIM_KV_A, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.kv_a_proj_with_mqa.bias", WEIGHT_KV_A_BIAS, DIM_KV_A, DIM_NONE, STEP_HEADS, EXTRA_LATENT_BIAS,
     ROWS_IN_ORDER},
    {"self_attn.kv_a_layernorm.weight", WEIGHT_KV_A_NORM, DIM_KV_RANK, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.kv_b_proj.weight", WEIGHT_KV_B, DIM_KV_B, DIM_KV_RANK, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.bias", WEIGHT_O_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_O_BIAS, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.gate_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.up_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.gate.weight", WEIGHT_ROUTER, DIM_EXPERTS, DIM_HIDDEN, STEP_REST, EXTRA_EXPERTS, ROWS_IN_ORDER},
    {"mlp.experts.%d.gate_proj.weight", WEIGHT_EXPERT_GATE_UP, DIM_EXPERT_MLP, DIM_HIDDEN, STEP_EXPERT, EXTRA_EXPERTS,
     ROWS_IN_ORDER},
    {"mlp.experts.%d.up_proj.weight", WEIGHT_EXPERT_GATE_UP, DIM_EXPERT_MLP, DIM_HIDDEN, STEP_EXPERT, EXTRA_EXPERTS,
     ROWS_IN_ORDER},
    {"mlp.experts.%d.down_proj.weight", WEIGHT_EXPERT_DOWN, DIM_HIDDEN, DIM_EXPERT_MLP, STEP_EXPERT, EXTRA_EXPERTS,
     ROWS_IN_ORDER},
    {"mlp.shared_experts.gate_proj.weight", WEIGHT_SHARED_GATE_UP, DIM_SHARED_MLP, DIM_HIDDEN, STEP_REST,
     EXTRA_EXPERTS | EXTRA_SHARED_EXPERTS, ROWS_IN_ORDER},
    {"mlp.shared_experts.up_proj.weight", WEIGHT_SHARED_GATE_UP, DIM_SHARED_MLP, DIM_HIDDEN, STEP_REST,
     EXTRA_EXPERTS | EXTRA_SHARED_EXPERTS, ROWS_IN_ORDER},
    {"mlp.shared_experts.down_proj.weight", WEIGHT_SHARED_DOWN, DIM_HIDDEN, DIM_SHARED_MLP, STEP_REST,
     EXTRA_EXPERTS | EXTRA_SHARED_EXPERTS, ROWS_IN_ORDER},
};

const checkpoint_tensors DEEPSEEK_TENSORS = {
    PLAIN_NAMES,
    .layer = DEEPSEEK_LAYER,
    .n_layer = RB_COUNT(DEEPSEEK_LAYER),
};

/* Phi-3 and Phi-4: q, k and v are one matrix, gate and up another. */
static const layer_tensor PHI3_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.qkv_proj.weight", WEIGHT_QKV, DIM_QKV, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.gate_up_proj.weight", WEIGHT_GATE_UP, DIM_GATE_UP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
};

const checkpoint_tensors PHI3_TENSORS = {
    PLAIN_NAMES,
    .layer = PHI3_LAYER,
    .n_layer = RB_COUNT(PHI3_LAYER),
};

/* Gemma 2 and 3: a norm before and after attention and MLP. */
static const layer_tensor GEMMA_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.weight", WEIGHT_QKV, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.k_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.v_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.bias", WEIGHT_QKV_BIAS, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.k_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.v_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.o_proj.bias", WEIGHT_O_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_O_BIAS, ROWS_IN_ORDER},
    {"self_attn.q_norm.weight", WEIGHT_Q_NORM, DIM_HEAD, DIM_NONE, STEP_HEADS, EXTRA_QK_NORM, ROWS_IN_ORDER},
    {"self_attn.k_norm.weight", WEIGHT_K_NORM, DIM_HEAD, DIM_NONE, STEP_HEADS, EXTRA_QK_NORM, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_ATTENTION_OUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE,
     ROWS_IN_ORDER},
    {"pre_feedforward_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.gate_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.up_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"post_feedforward_layernorm.weight", WEIGHT_MLP_OUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE,
     ROWS_IN_ORDER},
};

const checkpoint_tensors GEMMA_TENSORS = {
    PLAIN_NAMES,
    .layer = GEMMA_LAYER,
    .n_layer = RB_COUNT(GEMMA_LAYER),
};

/* GPT-NeoX and Pythia: LayerNorm with bias, q, k and v of a head below each other, an MLP without a gate. */
static const layer_tensor GPT_NEOX_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"input_layernorm.bias", WEIGHT_INPUT_NORM_BIAS, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"attention.query_key_value.weight", WEIGHT_QKV, DIM_QKV, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_QKV_BY_HEAD},
    {"attention.query_key_value.bias", WEIGHT_QKV_BIAS, DIM_QKV, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS,
     ROWS_QKV_BY_HEAD},
    {"attention.dense.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"attention.dense.bias", WEIGHT_O_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_O_BIAS, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"post_attention_layernorm.bias", WEIGHT_MLP_NORM_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"mlp.dense_h_to_4h.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.dense_h_to_4h.bias", WEIGHT_GATE_UP_BIAS, DIM_MLP, DIM_NONE, STEP_REST, EXTRA_DENSE_MLP | EXTRA_MLP_BIAS,
     ROWS_IN_ORDER},
    {"mlp.dense_4h_to_h.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.dense_4h_to_h.bias", WEIGHT_DOWN_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_DENSE_MLP | EXTRA_MLP_BIAS,
     ROWS_IN_ORDER},
};

/* Buffers that old checkpoints hold. */
static const char *const GPT_NEOX_IGNORED[] = {"attention.bias", "attention.masked_bias", NULL};

const checkpoint_tensors GPT_NEOX_TENSORS = {
    .embedding = "gpt_neox.embed_in.weight",
    .final_norm = "gpt_neox.final_layer_norm.weight",
    .final_norm_bias = "gpt_neox.final_layer_norm.bias",
    .lm_head = "embed_out.weight",
    .layer_prefix = "gpt_neox.layers.",
    .ignored = GPT_NEOX_IGNORED,
    .layer = GPT_NEOX_LAYER,
    .n_layer = RB_COUNT(GPT_NEOX_LAYER),
};

/* OLMo 2: norms only of what attention and MLP give, and of q and k over all heads together. */
static const layer_tensor OLMO2_LAYER[] = {
    {"self_attn.q_proj.weight", WEIGHT_QKV, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.k_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.v_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_ATTENDED, STEP_REST, EXTRA_NONE, ROWS_IN_ORDER},
    {"self_attn.q_proj.bias", WEIGHT_QKV_BIAS, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.k_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.v_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS, ROWS_IN_ORDER},
    {"self_attn.o_proj.bias", WEIGHT_O_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_O_BIAS, ROWS_IN_ORDER},
    {"self_attn.q_norm.weight", WEIGHT_Q_NORM, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_WIDE_QK_NORM, ROWS_IN_ORDER},
    {"self_attn.k_norm.weight", WEIGHT_K_NORM, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_WIDE_QK_NORM, ROWS_IN_ORDER},
    {"post_attention_layernorm.weight", WEIGHT_ATTENTION_OUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE,
     ROWS_IN_ORDER},
    {"mlp.gate_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.up_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_DENSE_MLP, ROWS_IN_ORDER},
    {"post_feedforward_layernorm.weight", WEIGHT_MLP_OUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE,
     ROWS_IN_ORDER},
};

const checkpoint_tensors OLMO2_TENSORS = {
    PLAIN_NAMES,
    .layer = OLMO2_LAYER,
    .n_layer = RB_COUNT(OLMO2_LAYER),
};
