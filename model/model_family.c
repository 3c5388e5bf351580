/* The model families that are supported. See model/model_family.h. */
#include "model/model_family.h"

#include <stdio.h>
#include <string.h>

/* ---- tensors --------------------------------------------------------------------------------- */

/* The names of transformers' Llama, which most families after it kept. */
static const layer_tensor LLAMA_LAYER[] = {
    {"input_layernorm.weight", WEIGHT_INPUT_NORM, DIM_HIDDEN, DIM_NONE, STEP_HEADS, EXTRA_NONE},
    {"self_attn.q_proj.weight", WEIGHT_QKV, DIM_QUERY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE},
    {"self_attn.k_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE},
    {"self_attn.v_proj.weight", WEIGHT_QKV, DIM_KEY, DIM_HIDDEN, STEP_HEADS, EXTRA_NONE},
    {"self_attn.o_proj.weight", WEIGHT_O, DIM_HIDDEN, DIM_QUERY, STEP_REST, EXTRA_NONE},
    {"self_attn.q_proj.bias", WEIGHT_QKV_BIAS, DIM_QUERY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS},
    {"self_attn.k_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS},
    {"self_attn.v_proj.bias", WEIGHT_QKV_BIAS, DIM_KEY, DIM_NONE, STEP_HEADS, EXTRA_QKV_BIAS},
    {"self_attn.o_proj.bias", WEIGHT_O_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_O_BIAS},
    {"self_attn.q_norm.weight", WEIGHT_Q_NORM, DIM_HEAD, DIM_NONE, STEP_HEADS, EXTRA_QK_NORM},
    {"self_attn.k_norm.weight", WEIGHT_K_NORM, DIM_HEAD, DIM_NONE, STEP_HEADS, EXTRA_QK_NORM},
    {"post_attention_layernorm.weight", WEIGHT_MLP_NORM, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_NONE},
    {"mlp.gate_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_NONE},
    {"mlp.up_proj.weight", WEIGHT_GATE_UP, DIM_MLP, DIM_HIDDEN, STEP_REST, EXTRA_NONE},
    {"mlp.down_proj.weight", WEIGHT_DOWN, DIM_HIDDEN, DIM_MLP, STEP_REST, EXTRA_NONE},
    {"mlp.gate_proj.bias", WEIGHT_GATE_UP_BIAS, DIM_MLP, DIM_NONE, STEP_REST, EXTRA_MLP_BIAS},
    {"mlp.up_proj.bias", WEIGHT_GATE_UP_BIAS, DIM_MLP, DIM_NONE, STEP_REST, EXTRA_MLP_BIAS},
    {"mlp.down_proj.bias", WEIGHT_DOWN_BIAS, DIM_HIDDEN, DIM_NONE, STEP_REST, EXTRA_MLP_BIAS},
};

static const checkpoint_tensors LLAMA_TENSORS = {
    .embedding = "model.embed_tokens.weight",
    .final_norm = "model.norm.weight",
    .lm_head = "lm_head.weight",
    .layer_prefix = "model.layers.",
    .layer = LLAMA_LAYER,
    .n_layer = RB_COUNT(LLAMA_LAYER),
};

/* ---- families -------------------------------------------------------------------------------- */

static const model_family FAMILIES[] = {
    {
        .model_type = "llama",
        .architecture = "LlamaForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .attention_bias = FLAG_READ,
        .mlp_bias = FLAG_READ,
    },
    {
        .model_type = "mistral",
        .architecture = "MistralForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .needs_kv_heads = true,
        .window = WINDOW_EVERY_LAYER,
    },
    {
        .model_type = "qwen2",
        .architecture = "Qwen2ForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .extras = EXTRA_QKV_BIAS,
        .attention_bias = FLAG_IGNORED,
        .needs_kv_heads = true,
        .window = WINDOW_SOME_LAYERS,
    },
    {
        .model_type = "qwen3",
        .architecture = "Qwen3ForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .extras = EXTRA_QK_NORM,
        .attention_bias = FLAG_READ,
        .needs_kv_heads = true,
        .needs_head_dim = true,
        .window = WINDOW_SOME_LAYERS,
    },
};

const model_family *model_family_find(const char *model_type)
{
    for (size_t i = 0; i < RB_COUNT(FAMILIES); i++)
        if (strcmp(FAMILIES[i].model_type, model_type) == 0) return &FAMILIES[i];
    return NULL;
}

void model_family_list(char *text, size_t size)
{
    const size_t n = RB_COUNT(FAMILIES);
    size_t used = 0;
    for (size_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", FAMILIES[i].model_type,
                                 i + 2 < n    ? ", "
                                 : i + 2 == n ? " or "
                                              : "");
}
