/* The model families that are supported. See model/model_family.h. */
#include "model/model_family.h"

#include <stdio.h>
#include <string.h>

/* One for each family; the tensors are in model/family_tensors.c. */
#include "model/family_tensors.h"

static const unsigned QKV_AND_O = EXTRA_QKV_BIAS | EXTRA_O_BIAS;

static const config_rename CHATGLM_NAMES[] = {
    {"num_layers", "num_hidden_layers", 0},
    {"ffn_hidden_size", "intermediate_size", 0},
    {"kv_channels", "head_dim", 0},
    {"padded_vocab_size", "vocab_size", 0},
    {"multi_query_group_num", "num_key_value_heads", 0},
    {"layernorm_epsilon", "rms_norm_eps", 0},
    {"seq_length", "max_position_embeddings", 0},
    {"rope_ratio", "rope_theta", 10000},
    {"add_qkv_bias", "attention_bias", 0},
    {NULL, NULL, 0},
};
static const config_rename GPT_NEOX_NAMES[] = {
    {"layer_norm_eps", "rms_norm_eps", 0},
    {"rotary_pct", "partial_rotary_factor", 0},
    {"rotary_emb_base", "rope_theta", 0},
    {NULL, NULL, 0},
};
static const config_rename GEMMA_NAMES[] = {{"hidden_activation", "hidden_act", 0}, {NULL, NULL, 0}};
static const config_rename QWEN3_MOE_NAMES[] = {{"num_local_experts", "num_experts", 0}, {NULL, NULL, 0}};
static const config_rename DEEPSEEK_NAMES[] = {
    {"n_routed_experts", "num_experts", 0}, {"qk_rope_head_dim", "head_dim", 0}, {NULL, NULL, 0}};

/* Gemma 3 from 4B on writes down only what differs from these. */
static const char GEMMA3_DEFAULTS[] =
    "{\"vocab_size\": 262208, \"hidden_size\": 2304, \"intermediate_size\": 9216, \"num_hidden_layers\": 26,"
    " \"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"head_dim\": 256, \"hidden_act\": \"gelu_pytorch_tanh\","
    " \"max_position_embeddings\": 131072, \"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": true,"
    " \"query_pre_attn_scalar\": 256, \"sliding_window\": 4096, \"rope_theta\": 1000000.0,"
    " \"rope_local_base_freq\": 10000.0}";

static const model_family FAMILIES[] = {
    {
        .model_type = "llama",
        .architecture = "LlamaForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .mlp_bias = FLAG_READ,
        .activations = "silu",
        .defaults = "{\"rope_theta\": 10000.0}",
    },
    {
        .model_type = "mistral",
        .architecture = "MistralForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .needs_kv_heads = true,
        .window = WINDOW_EVERY_LAYER,
        .activations = "silu",
    },
    {
        .model_type = "qwen2",
        .architecture = "Qwen2ForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .extras = EXTRA_QKV_BIAS,
        .attention_bias = FLAG_IGNORED,
        .needs_kv_heads = true,
        .window = WINDOW_SOME_LAYERS,
        .activations = "silu",
    },
    {
        .model_type = "qwen3",
        .architecture = "Qwen3ForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .extras = EXTRA_QK_NORM,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .needs_kv_heads = true,
        .needs_head_dim = true,
        .window = WINDOW_SOME_LAYERS,
        .activations = "silu",
    },
    {
        .model_type = "qwen3_moe",
        .architecture = "Qwen3MoeForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .extras = EXTRA_QK_NORM,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .needs_kv_heads = true,
        .window = WINDOW_IF_USED,
        .activations = "silu",
        .has_experts = true,
        .renames = QWEN3_MOE_NAMES,
    },
    {
        .model_type = "glm",
        .architecture = "GlmForCausalLM",
        .tensors = &GLM_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = EXTRA_QKV_BIAS,
        .needs_kv_heads = true,
        .needs_head_dim = true,
        .pairing = ROPE_INTERLEAVED,
        .activations = "silu",
        .has_partial_rope = true,
        .defaults = "{\"partial_rotary_factor\": 0.5}",
    },
    {
        .model_type = "glm4",
        .architecture = "Glm4ForCausalLM",
        .tensors = &GLM4_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = EXTRA_QKV_BIAS,
        .needs_kv_heads = true,
        .needs_head_dim = true,
        .pairing = ROPE_INTERLEAVED,
        .activations = "silu",
        .has_partial_rope = true,
        .defaults = "{\"partial_rotary_factor\": 0.5}",
    },
    {
        .model_type = "chatglm",
        .architecture = "ChatGLMModel",
        .other_architecture = "ChatGLMForConditionalGeneration",
        .tensors = &CHATGLM_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = EXTRA_QKV_BIAS,
        .needs_kv_heads = true,
        .needs_head_dim = true,
        .pairing = ROPE_INTERLEAVED,
        .activations = "silu",
        .has_partial_rope = true,
        .renames = CHATGLM_NAMES,
        .implies = "{\"hidden_act\": \"silu\", \"partial_rotary_factor\": 0.5, \"rope_theta\": 10000.0}",
        .expects = "{\"rmsnorm\": true, \"multi_query_attention\": true, \"post_layer_norm\": true,"
                   " \"apply_residual_connection_post_layernorm\": false, \"add_bias_linear\": false,"
                   " \"original_rope\": true}",
    },
    {
        .model_type = "deepseek_v2",
        .architecture = "DeepseekV2ForCausalLM",
        .tensors = &DEEPSEEK_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = EXTRA_LATENT_BIAS | EXTRA_O_BIAS,
        .pairing = ROPE_INTERLEAVED,
        .activations = "silu",
        .has_latent_cache = true,
        .has_experts = true,
        .renames = DEEPSEEK_NAMES,
        .expects =
            "{\"scoring_func\": \"softmax\", \"mlp_bias\": false, \"moe_layer_freq\": 1, \"norm_topk_prob\": false}",
    },
    {
        .model_type = "phi3",
        .architecture = "Phi3ForCausalLM",
        .tensors = &PHI3_TENSORS,
        .attention_bias = FLAG_REFUSED,
        .window = WINDOW_EVERY_LAYER,
        .activations = "silu",
        .has_partial_rope = true,
        .names_longrope_so = true,
        .implies = "{\"sliding_window\": null}",
    },
    {
        .model_type = "gemma2",
        .architecture = "Gemma2ForCausalLM",
        .tensors = &GEMMA_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .needs_kv_heads = true,
        .needs_head_dim = true,
        .window = WINDOW_PATTERN,
        .window_pattern = 2,
        .norm = MODEL_NORM_RMS_ONE,
        .activations = "gelu_pytorch_tanh",
        .scales_embedding = true,
        .has_query_scalar = true,
        .has_softcaps = true,
        .renames = GEMMA_NAMES,
        .implies = "{\"tie_word_embeddings\": true}",
    },
    {
        .model_type = "gemma3_text",
        .architecture = "Gemma3ForCausalLM",
        .tensors = &GEMMA_TENSORS,
        .extras = EXTRA_QK_NORM,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .window = WINDOW_PATTERN,
        .window_pattern = 6,
        .norm = MODEL_NORM_RMS_ONE,
        .activations = "gelu_pytorch_tanh",
        .scales_embedding = true,
        .has_query_scalar = true,
        .has_softcaps = true,
        .has_local_rope = true,
        .renames = GEMMA_NAMES,
        .defaults = GEMMA3_DEFAULTS,
        .expects = "{\"use_bidirectional_attention\": false}",
    },
    {
        .model_type = "gpt_neox",
        .architecture = "GPTNeoXForCausalLM",
        .tensors = &GPT_NEOX_TENSORS,
        .extras = EXTRA_MLP_BIAS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .norm = MODEL_NORM_LAYER,
        .activations = "gelu gelu_new gelu_fast gelu_pytorch_tanh",
        .has_plain_mlp = true,
        .has_parallel_flag = true,
        .has_partial_rope = true,
        .renames = GPT_NEOX_NAMES,
        .defaults = "{\"attention_bias\": true, \"partial_rotary_factor\": 0.25, \"rope_theta\": 10000.0,"
                    " \"use_parallel_residual\": true}",
    },
    {
        .model_type = "olmo2",
        .architecture = "Olmo2ForCausalLM",
        .tensors = &OLMO2_TENSORS,
        .extras = EXTRA_WIDE_QK_NORM,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .activations = "silu",
    },
    {
        .model_type = "granite",
        .architecture = "GraniteForCausalLM",
        .tensors = &LLAMA_TENSORS,
        .attention_bias = FLAG_READ,
        .attention_bias_extras = QKV_AND_O,
        .mlp_bias = FLAG_READ,
        .activations = "silu",
        .has_multipliers = true,
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
