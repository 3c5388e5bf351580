/* See model/config_fields.h.
 *
 * What a family defines is read, or refused, by model_config.c. A value is compared as a word: numbers as %.15g, true,
 * false, strings as they are, [] and {} for empty ones. A list is neutral when all of its elements are. "=head_dim"
 * is neutral when the value equals that field of the same file. */
#include "model/config_fields.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef struct config_field {
    const char *name;     /* with a '*' at the end: every field that starts so */
    const char *neutral;  /* words, spaces between them; null always is */
    const char *families; /* that define the field, spaces between them */
} config_field;

#define NONE ""
#define OFF  "false 0 [] {}"
static const config_field FIELDS[] = {
    /* ---- RoPE ---- */
    {"no_rope_layers", "1 []", NONE},
    {"no_rope_layer_interval", "0", NONE},
    {"nope_layer_interval", "0", NONE},
    {"nope_layers", OFF, NONE},
    {"use_rope", "true", NONE},
    {"use_rotary_embedding", "true", NONE},
    {"position_embedding_type", "rope rotary RoPE ROPE", "granite"},
    {"alibi", OFF, NONE},
    {"use_alibi", OFF, NONE},
    {"use_alibi_mask", OFF, NONE},
    {"learned_pos_embeddings", OFF, NONE},
    {"partial_rotary_factor", "1", "glm glm4 phi3 gpt_neox"},
    {"rotary_pct", "1", "gpt_neox"},
    {"rope_pct", "1", NONE},
    {"rope_percent", "1", NONE},
    {"rotary_percent", "1", NONE},
    {"rotary_emb_fraction", "1", NONE},
    {"rotary_dim", "=head_dim", NONE},
    {"rope_dim", "=head_dim", NONE},
    {"rotary_emb_base", "=rope_theta", "gpt_neox"},
    {"rotary_base", "=rope_theta", NONE},
    {"rope_base", "=rope_theta", NONE},
    {"rope_ratio", "1", "chatglm"},
    {"rope_condense_ratio", "1", NONE},
    {"rope_local_base_freq", "=rope_theta", "gemma3 gemma3_text"},
    {"local_rope_theta", "=rope_theta", NONE},
    {"global_rope_theta", "=rope_theta", NONE},
    {"swa_rope_theta", "=rope_theta", NONE},
    {"rope_interleave", OFF, "deepseek_v2"},
    {"rope_interleaved", OFF, NONE},
    {"rotary_interleaved", OFF, NONE},
    {"interleaved_rope", OFF, NONE},
    {"use_interleaved_rope", OFF, NONE},
    {"rotary_emb_interleaved", OFF, NONE},
    {"original_rope", "", "chatglm"},
    {"is_neox_style", "true", NONE},
    {"use_mrope", OFF, NONE},
    {"mrope_section", OFF, NONE},
    {"mrope_interleaved", OFF, NONE},
    {"use_xpos", OFF, NONE},
    {"use_dynamic_ntk", OFF, NONE},
    {"use_logn_attn", OFF, NONE},
    {"ntk_alpha", "1", NONE},
    {"rope_alpha", "1", NONE},

    /* ---- attention ---- */
    {"use_qk_norm", OFF, "qwen3 qwen3_moe gemma3 gemma3_text olmo2"},
    {"qk_norm", OFF, "qwen3 qwen3_moe gemma3 gemma3_text olmo2"},
    {"use_query_key_norm", OFF, NONE},
    {"qk_layernorm", OFF, NONE},
    {"use_qk_layernorm", OFF, NONE},
    {"qk_layer_norm", OFF, NONE},
    {"attention_qk_norm", OFF, NONE},
    {"add_qk_norm", OFF, NONE},
    {"use_v_norm", OFF, NONE},
    {"use_qk_l2norm", OFF, NONE},
    {"use_l2_norm", OFF, NONE},
    {"normalize_qk", OFF, NONE},
    {"attention_multiplier", "1", "granite"},
    {"query_pre_attn_scalar", "=head_dim", "gemma2 gemma3 gemma3_text"},
    {"softmax_scale", "", NONE},
    {"scale_attn_weights", "true", NONE},
    {"scale_attn_by_inverse_layer_idx", OFF, NONE},
    {"attn_logit_softcapping", OFF, "gemma2 gemma3 gemma3_text"},
    {"attn_logit_softcap", OFF, NONE},
    {"attention_logit_softcapping", OFF, NONE},
    {"attention_logit_cap", OFF, NONE},
    {"attention_sink", OFF, NONE},
    {"attention_sinks", OFF, NONE},
    {"use_attention_sink", OFF, NONE},
    {"use_attention_sinks", OFF, NONE},
    {"use_sinks", OFF, NONE},
    {"sinks", OFF, NONE},
    {"attn_sinks", OFF, NONE},
    {"attention_sink_size", OFF, NONE},
    {"num_sink_tokens", OFF, NONE},
    {"add_swa_attention_sink_bias", OFF, NONE},
    {"add_full_attention_sink_bias", OFF, NONE},
    {"softmax_off_by_one", OFF, NONE},
    {"clip_qkv", OFF, NONE},
    {"attention_chunk_size", OFF, NONE},
    {"attn_temperature_tuning", OFF, NONE},
    {"temperature_tuning", OFF, NONE},
    {"use_temperature_tuning", OFF, NONE},
    {"attn_scale", "1", NONE},
    {"use_attn_scale", OFF, NONE},
    {"use_sliding_window", OFF, "qwen2 qwen3 qwen3_moe"},
    {"sliding_window_pattern", "0 1", "gemma3 gemma3_text"},
    {"_sliding_window_pattern", "0 1", "gemma3 gemma3_text"},
    {"sliding_window_layers", OFF, NONE},
    {"sliding_window_size", OFF, NONE},
    {"interleaved_sliding_window", OFF, NONE},
    {"attention_window", OFF, NONE},
    {"local_attention", OFF, NONE},
    {"local_attention_window", OFF, NONE},
    {"global_attn_every_n_layers", "0 1", NONE},
    {"use_bidirectional_attention", OFF, "gemma3 gemma3_text"},
    {"bidirectional", OFF, NONE},
    {"use_bidirectional", OFF, NONE},
    {"is_causal", "true", NONE},
    {"causal", "true", NONE},
    {"is_encoder_decoder", OFF, NONE},
    {"tie_encoder_decoder", OFF, NONE},
    {"add_cross_attention", OFF, NONE},
    {"cross_attention_layers", OFF, NONE},
    {"cross_attention_hidden_size", OFF, NONE},
    {"attn_output_gate", OFF, NONE},
    {"use_attention_gate", OFF, NONE},
    {"attention_gate", OFF, NONE},
    {"use_output_gate", OFF, NONE},
    {"elementwise_attn_output_gate", OFF, NONE},
    {"headwise_attn_output_gate", OFF, NONE},
    {"use_diff_attention", OFF, NONE},
    {"value_residual", OFF, NONE},
    {"use_value_residual", OFF, NONE},
    {"q_lora_rank", OFF, "deepseek_v2"},
    {"kv_lora_rank", OFF, "deepseek_v2"},
    {"qk_rope_head_dim", "0 =head_dim", "deepseek_v2"},
    {"qk_nope_head_dim", "0 =head_dim", "deepseek_v2"},
    {"v_head_dim", "0 =head_dim", "deepseek_v2"},
    {"num_key_value_heads_per_layer", OFF, NONE},
    {"num_kv_shared_layers", OFF, NONE},
    {"kv_shared_layers", OFF, NONE},
    {"cla_share_factor", "0 1", NONE},
    {"use_cla", OFF, NONE},
    {"blocksparse_*", OFF, NONE},
    {"dense_attention_every_n_layers", "0 1", NONE},
    {"interleaved_qkv", OFF, NONE},
    {"pruned_heads", OFF, NONE},
    {"pre_seq_len", OFF, NONE},

    /* ---- scales ---- */
    {"embedding_multiplier", "1", "granite"},
    {"residual_multiplier", "1", "granite"},
    {"logits_scaling", "1", "granite"},
    {"logit_scale", "1", NONE},
    {"logits_scale", "1", NONE},
    {"lm_head_multiplier", "1", NONE},
    {"key_multiplier", "1", NONE},
    {"attention_in_multiplier", "1", NONE},
    {"attention_out_multiplier", "1", NONE},
    {"mlp_multipliers", "1 []", NONE},
    {"final_logit_softcapping", OFF, "gemma2 gemma3 gemma3_text"},
    {"final_logit_softcap", OFF, NONE},
    {"logit_softcap", OFF, NONE},
    {"output_logit_softcapping", OFF, NONE},
    {"scale_depth", "", NONE},
    {"scale_emb", "1", NONE},
    {"scale_embedding", OFF, NONE},
    {"scale_embeddings", OFF, NONE},
    {"normalize_embeddings", OFF, NONE},
    {"normalization_in_embeddings", OFF, NONE},
    {"embed_norm", OFF, NONE},
    {"use_embed_norm", OFF, NONE},
    {"embedding_scale", "1", NONE},
    {"embed_scale", "1", NONE},
    {"dim_model_base", "=hidden_size", NONE},
    {"residual_scale", "1", NONE},
    {"use_layer_scale", OFF, NONE},
    {"layer_scale", OFF, NONE},
    {"mup_*", "0 1 false", NONE},
    {"use_mup", OFF, NONE},

    /* ---- layers ---- */
    {"use_parallel_residual", OFF, "gpt_neox"},
    {"parallel_attn", OFF, NONE},
    {"parallel_residual", OFF, NONE},
    {"parallel_block", OFF, NONE},
    {"use_parallel_block", OFF, NONE},
    {"norm_type", "rms_norm rmsnorm RMSNorm rms", NONE},
    {"normalization_type", "rms_norm rmsnorm RMSNorm rms", NONE},
    {"layernorm_type", "rms_norm rmsnorm RMSNorm rms", NONE},
    {"rmsnorm", "true", "chatglm"},
    {"use_rms_norm", "true", NONE},
    {"rms_norm_add_unit_offset", OFF, NONE},
    {"add_unit_offset", OFF, NONE},
    {"zero_centered_gamma", OFF, NONE},
    {"apply_layernorm_1p", OFF, NONE},
    {"layernorm_1p", OFF, NONE},
    {"use_post_norm", OFF, NONE},
    {"use_post_layernorm", OFF, NONE},
    {"post_layernorm", OFF, "chatglm"},
    {"post_layer_norm", "true", "chatglm"},
    {"post_norm", OFF, NONE},
    {"use_sandwich_norm", OFF, NONE},
    {"sandwich_norm", OFF, NONE},
    {"norm_after", OFF, NONE},
    {"do_layer_norm_before", "true", NONE},
    {"apply_residual_connection_post_layernorm", OFF, "chatglm"},
    {"use_sub_norm", OFF, NONE},
    {"word_embed_proj_dim", "=hidden_size", NONE},
    {"embedding_size", "=hidden_size", NONE},
    {"embedding_dim", "=hidden_size", NONE},
    {"hidden_activation", "=hidden_act", "gemma2 gemma3 gemma3_text"},
    {"mlp_hidden_act", "=hidden_act", NONE},
    {"ffn_hidden_act", "=hidden_act", NONE},
    {"use_glu", "true", NONE},
    {"gated_mlp", "true", NONE},
    {"mlp_gated", "true", NONE},
    {"gegelu_limit", OFF, NONE},
    {"swiglu_limit", OFF, NONE},
    {"activation_sparsity_pattern", OFF, NONE},
    {"layer_skip", OFF, NONE},
    {"skip_layers", OFF, NONE},
    {"layers_block_type", "attention full_attention []", NONE},
    {"block_configs", OFF, NONE},
    {"hybrid_override_pattern", OFF, NONE},
    {"attn_layer_period", "0 1", NONE},
    {"full_attention_interval", "0 1", NONE},
    {"attn_layer_indices", OFF, NONE},
    {"mamba_*", OFF, NONE},
    {"ssm_*", OFF, NONE},
    {"linear_attn_config", OFF, NONE},
    {"use_short_conv", OFF, NONE},
    {"num_loops", "0 1", NONE},
    {"loop_num", "0 1", NONE},
    {"total_ut_steps", "0 1", NONE},
    {"mean_recurrence", "0 1", NONE},
    {"num_nextn_predict_layers", OFF, NONE},
    {"num_mtp_layers", OFF, NONE},
    {"num_mtp_modules", OFF, NONE},

    /* ---- experts ---- */
    {"num_experts", "0 1 false", "qwen3_moe"},
    {"num_local_experts", "0 1 false", "qwen3_moe"},
    {"n_routed_experts", "0 false", "deepseek_v2"},
    {"n_shared_experts", OFF, "deepseek_v2"},
    {"num_shared_experts", OFF, NONE},
    {"num_moe_experts", "0 1 false", NONE},
    {"n_experts", "0 1 false", NONE},
    {"moe_*", "0 1 false [] {}", "qwen3_moe deepseek_v2"},
    {"moe", OFF, NONE},
    {"use_moe", OFF, NONE},
    {"num_experts_per_tok", "0 1", "qwen3_moe deepseek_v2"},
    {"shared_expert_intermediate_size", OFF, NONE},
    {"first_k_dense_replace", OFF, "deepseek_v2"},
    {"mlp_only_layers", OFF, "qwen3_moe"},
    {"decoder_sparse_step", "0 1", "qwen3_moe"},

    /* ---- weights and other inputs ---- */
    {"quantization", OFF, NONE},
    {"compression_config", OFF, NONE},
    {"vision_config", OFF, "gemma3 gemma3_text"},
    {"audio_config", OFF, NONE},
    {"vision_tower", OFF, NONE},
    {"mm_vision_tower", OFF, NONE},
};

/* ---- values ---------------------------------------------------------------------------------- */

enum { WORD_BYTES = 64 };

/* The word of a value; "a list" and "an object" for those that are not empty. Spaces in strings become '_'. */
static void value_word(char word[WORD_BYTES], const cJSON *value)
{
    if (cJSON_IsNumber(value)) snprintf(word, WORD_BYTES, "%.15g", value->valuedouble);
    else if (cJSON_IsBool(value)) snprintf(word, WORD_BYTES, "%s", cJSON_IsTrue(value) ? "true" : "false");
    else if (cJSON_IsString(value)) snprintf(word, WORD_BYTES, "%.40s", value->valuestring);
    else if (cJSON_IsArray(value)) snprintf(word, WORD_BYTES, "%s", value->child ? "a_list" : "[]");
    else snprintf(word, WORD_BYTES, "%s", value->child ? "an_object" : "{}");
    for (char *at = word; *at; at++)
        if (*at == ' ') *at = '_';
}

/* The next word of a list, or false at its end. */
static bool next_word(char word[WORD_BYTES], const char **list)
{
    size_t n = 0;
    while (**list == ' ') (*list)++;
    for (; **list && **list != ' '; (*list)++)
        if (n + 1 < WORD_BYTES) word[n++] = **list;
    word[n] = '\0';
    return n > 0;
}

static bool has_word(const char *list, const char *wanted)
{
    char word[WORD_BYTES];
    while (next_word(word, &list))
        if (strcmp(word, wanted) == 0) return true;
    return false;
}

/* head_dim, which need not be written down. */
static bool derived_head_dim(char word[WORD_BYTES], const cJSON *json)
{
    const cJSON *hidden = cJSON_GetObjectItemCaseSensitive(json, "hidden_size"),
                *heads = cJSON_GetObjectItemCaseSensitive(json, "num_attention_heads");
    if (!cJSON_IsNumber(hidden) || !cJSON_IsNumber(heads) || heads->valuedouble <= 0) return false;
    snprintf(word, WORD_BYTES, "%.15g", hidden->valuedouble / heads->valuedouble);
    return true;
}

/* Whether a value equals the field that a word "=field" names. */
static bool equals_field(const cJSON *json, const char *field, const char *found)
{
    char other[WORD_BYTES];
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, field);
    if (value && !cJSON_IsNull(value)) value_word(other, value);
    else if (strcmp(field, "head_dim") != 0 || !derived_head_dim(other, json)) return false;
    return strcmp(found, other) == 0;
}

static bool is_neutral(const config_field *field, const cJSON *json, const cJSON *value)
{
    char word[WORD_BYTES], found[WORD_BYTES];
    const char *list = field->neutral;
    const cJSON *item;
    if (cJSON_IsNull(value)) return true;
    if (cJSON_IsArray(value) && value->child) {
        cJSON_ArrayForEach (item, value) {
            if (!is_neutral(field, json, item)) return false;
        }
        return true;
    }
    value_word(found, value);
    while (next_word(word, &list))
        if (word[0] == '=' ? equals_field(json, word + 1, found) : strcmp(word, found) == 0) return true;
    return false;
}

/* ---- the check ------------------------------------------------------------------------------- */

static const config_field *find_field(const char *name)
{
    for (size_t i = 0; i < RB_COUNT(FIELDS); i++) {
        const size_t n = strlen(FIELDS[i].name);
        const bool is_start = FIELDS[i].name[n - 1] == '*';
        if (is_start ? strncmp(name, FIELDS[i].name, n - 1) == 0 : strcmp(name, FIELDS[i].name) == 0) return &FIELDS[i];
    }
    return NULL;
}

rb_status config_fields_check(const cJSON *json, const char *model_type, const char *name, rb_error *err)
{
    const cJSON *value;
    cJSON_ArrayForEach (value, json) {
        const config_field *field = find_field(value->string);
        char word[WORD_BYTES];
        if (!field || has_word(field->families, model_type) || is_neutral(field, json, value)) continue;
        value_word(word, value);
        for (char *at = word; *at; at++)
            if (*at == '_' && !cJSON_IsString(value)) *at = ' ';
        return rb_fail(
            err, RB_EUNSUPPORTED,
            "%s: %s is %s, which %s does not have (a fork that computes something else?); expected null or no such "
            "field",
            name, value->string, word, model_type);
    }
    return RB_OK;
}
