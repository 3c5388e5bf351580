/* Fields of forks: refused by name where they change the result, accepted with neutral values and in the families that
 * define them. */
#include "tests/test_support.h"

#include <cjson/cJSON.h>

#include "model/config_fields.h"

static rb_status check(const char *model_type, const char *members, rb_error *err)
{
    char text[4096];
    snprintf(text, sizeof text, "{%s}", members);
    cJSON *json = cJSON_Parse(text);
    if (!json) fail_msg("not JSON: %s", text);
    const rb_status st = config_fields_check(json, model_type, "config.json", err);
    cJSON_Delete(json);
    return st;
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void fields_of_forks_are_refused_by_name_and_value(void **state)
{
    (void)state;
    static const struct {
        const char *model_type, *members, *message;
    } refused[] = {
        {"llama", "\"use_qk_norm\": true", "config.json: use_qk_norm is true, which llama does not have"},
        {"llama", "\"qk_layernorm\": true", "qk_layernorm is true"},
        {"llama", "\"no_rope_layers\": [1, 1, 1, 0]", "no_rope_layers is a list, which llama"},
        {"llama", "\"no_rope_layer_interval\": 4", "no_rope_layer_interval is 4"},
        {"llama", "\"attention_multiplier\": 0.0078125", "attention_multiplier is 0.0078125"},
        {"qwen2", "\"embedding_multiplier\": 12.0", "embedding_multiplier is 12, which qwen2"},
        {"mistral", "\"residual_multiplier\": 0.22", "residual_multiplier is 0.22"},
        {"llama", "\"logits_scaling\": 8", "logits_scaling is 8"},
        {"llama", "\"logit_scale\": 0.0625", "logit_scale is 0.0625"},
        {"llama", "\"attn_logit_softcapping\": 50.0", "attn_logit_softcapping is 50"},
        {"qwen3", "\"final_logit_softcapping\": 30.0", "final_logit_softcapping is 30, which qwen3"},
        {"llama", "\"attention_sink\": true", "attention_sink is true"},
        {"llama", "\"clip_qkv\": 8.0", "clip_qkv is 8"},
        {"llama", "\"use_parallel_residual\": true", "use_parallel_residual is true"},
        {"llama", "\"parallel_attn\": true", "parallel_attn is true"},
        {"llama", "\"alibi\": true", "alibi is true"},
        {"llama", "\"position_embedding_type\": \"alibi\"", "position_embedding_type is alibi"},
        {"llama", "\"use_rope\": false", "use_rope is false"},
        {"llama", "\"attention_chunk_size\": 8192", "attention_chunk_size is 8192"},
        {"llama", "\"attn_temperature_tuning\": true", "attn_temperature_tuning is true"},
        {"llama", "\"use_sliding_window\": true", "use_sliding_window is true"},
        {"llama", "\"num_local_experts\": 8", "num_local_experts is 8"},
        {"qwen3", "\"num_experts\": 128", "num_experts is 128"},
        {"llama", "\"n_routed_experts\": 64", "n_routed_experts is 64"},
        {"llama", "\"moe_intermediate_size\": 768", "moe_intermediate_size is 768"},
        {"llama", "\"moe_topk\": 2", "moe_topk is 2"},
        {"llama", "\"q_lora_rank\": 1536", "q_lora_rank is 1536"},
        {"llama", "\"kv_lora_rank\": 512", "kv_lora_rank is 512"},
        {"llama", "\"use_bidirectional_attention\": true", "use_bidirectional_attention is true"},
        {"qwen2", "\"is_causal\": false", "is_causal is false"},
        {"llama", "\"is_encoder_decoder\": true", "is_encoder_decoder is true"},
        {"llama", "\"rms_norm_add_unit_offset\": true", "rms_norm_add_unit_offset is true"},
        {"llama", "\"scale_depth\": 1.4", "scale_depth is 1.4"},
        {"llama", "\"scale_emb\": 12", "scale_emb is 12"},
        {"llama", "\"dim_model_base\": 256, \"hidden_size\": 2304", "dim_model_base is 256"},
        {"llama", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor is 0.5"},
        {"llama", "\"rotary_pct\": 0.25", "rotary_pct is 0.25"},
        {"llama", "\"query_pre_attn_scalar\": 256, \"head_dim\": 128", "query_pre_attn_scalar is 256"},
        {"llama", "\"mup_attn_multiplier\": 8.0", "mup_attn_multiplier is 8"},
        {"llama", "\"blocksparse_block_size\": 64", "blocksparse_block_size is 64"},
        {"llama", "\"use_mrope\": true", "use_mrope is true"},
        {"llama", "\"num_nextn_predict_layers\": 1", "num_nextn_predict_layers is 1"},
        {"llama", "\"first_k_dense_replace\": 3", "first_k_dense_replace is 3"},
        {"llama", "\"mlp_only_layers\": [1]", "mlp_only_layers is a list"},
        {"llama", "\"cross_attention_layers\": [3, 8]", "cross_attention_layers is a list"},
        {"llama", "\"rope_interleaved\": true", "rope_interleaved is true"},
        {"llama", "\"quantization\": {\"bits\": 4}", "quantization is an object"},
        {"llama", "\"norm_type\": \"layer norm\"", "norm_type is layer_norm"},
        {"llama", "\"mlp_hidden_act\": \"relu2\", \"hidden_act\": \"silu\"", "mlp_hidden_act is relu2"},
        {"llama", "\"use_qk_norm\": \"yes\"", "use_qk_norm is yes"},
    };
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(refused); i++) {
        assert_fails(check(refused[i].model_type, refused[i].members, &err), RB_EUNSUPPORTED, refused[i].message);
        /* null is what every one of them may be */
        char *copy = strdup(refused[i].members), *colon = strchr(copy, ':');
        char with_null[256];
        snprintf(with_null, sizeof with_null, "%.*s: null", (int)(colon - copy), copy);
        assert_ok(check(refused[i].model_type, with_null, &err));
        free(copy);
    }
}

static void neutral_values_are_accepted(void **state)
{
    (void)state;
    static const char *const neutral[] = {
        "\"use_qk_norm\": false",
        "\"no_rope_layers\": [1, 1, 1, 1]",
        "\"no_rope_layers\": []",
        "\"attention_multiplier\": 1.0",
        "\"logits_scaling\": 1",
        "\"residual_multiplier\": 1.0",
        "\"clip_qkv\": 0",
        "\"position_embedding_type\": \"rope\"",
        "\"use_rope\": true",
        "\"is_causal\": true",
        "\"use_sliding_window\": false",
        "\"num_experts\": 0",
        "\"num_local_experts\": 1",
        "\"moe_intermediate_size\": 0",
        "\"mlp_only_layers\": []",
        "\"pruned_heads\": {}",
        "\"partial_rotary_factor\": 1.0",
        "\"query_pre_attn_scalar\": 128, \"head_dim\": 128",
        "\"query_pre_attn_scalar\": 64, \"hidden_size\": 2048, \"num_attention_heads\": 32",
        "\"query_pre_attn_scalar\": 64, \"hidden_size\": 2048, \"num_attention_heads\": 32, \"head_dim\": null",
        "\"rotary_emb_base\": 10000, \"rope_theta\": 10000.0",
        "\"dim_model_base\": 2304, \"hidden_size\": 2304",
        "\"mlp_hidden_act\": \"silu\", \"hidden_act\": \"silu\"",
    };
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(neutral); i++) assert_ok(check("llama", neutral[i], &err));
}

/* ---- real models ----------------------------------------------------------------------------- */

/* What config.json of published models has beyond sizes and token ids. */
static const struct {
    const char *name, *model_type, *members;
} PUBLISHED[] = {
    {"Llama 1 7B", "llama",
     "\"max_sequence_length\": 2048, \"pad_token_id\": -1, \"rms_norm_eps\": 1e-06, \"tie_word_embeddings\": false"},
    {"Llama 2 70B", "llama", "\"pretraining_tp\": 1, \"rope_scaling\": null, \"num_key_value_heads\": 8"},
    {"Llama 2 13B", "llama", "\"pretraining_tp\": 2, \"rope_scaling\": null"},
    {"Code Llama 7B", "llama", "\"pretraining_tp\": 1, \"rope_theta\": 1000000, \"vocab_size\": 32016"},
    {"Llama 3.1 8B", "llama",
     "\"attention_bias\": false, \"attention_dropout\": 0.0, \"mlp_bias\": false, \"pretraining_tp\": 1, "
     "\"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"llama3\"}"},
    {"Llama 3.2 1B", "llama", "\"head_dim\": 64, \"tie_word_embeddings\": true, \"pretraining_tp\": 1"},
    {"SmolLM2 1.7B", "llama",
     "\"is_llama_config\": true, \"rope_interleaved\": false, \"rope_scaling\": null, \"rope_theta\": 130000, "
     "\"transformers.js_config\": {\"kv_cache_dtype\": {\"q4f16\": \"float16\"}}"},
    {"TinyLlama 1.1B", "llama", "\"attention_bias\": false, \"pretraining_tp\": 1, \"rope_scaling\": null"},
    {"Yi 6B", "llama", "\"pretraining_tp\": 1, \"rope_theta\": 5000000.0, \"attention_bias\": false"},
    {"DeepSeek-R1-Distill-Llama-8B", "llama", "\"head_dim\": 128, \"mlp_bias\": false, \"pretraining_tp\": 1"},
    {"deepseek-coder 6.7B", "llama",
     "\"rope_scaling\": {\"factor\": 4.0, \"type\": \"linear\"}, \"pretraining_tp\": 1"},
    {"LLaMA-2-7B-32K", "llama",
     "\"auto_map\": {\"AutoModelForCausalLM\": \"modeling_flash_llama.LlamaForCausalLM\"}, \"rope_scaling\": "
     "{\"factor\": 8.0, \"type\": \"linear\"}"},
    {"an old dump of every default", "llama",
     "\"add_cross_attention\": false, \"chunk_size_feed_forward\": 0, \"cross_attention_hidden_size\": null, "
     "\"is_decoder\": false, \"is_encoder_decoder\": false, \"pruned_heads\": {}, \"tie_encoder_decoder\": false, "
     "\"use_bfloat16\": false, \"problem_type\": null, \"prefix\": null"},
    {"Mistral 7B v0.1", "mistral", "\"sliding_window\": 4096, \"rope_theta\": 10000.0"},
    {"Mistral 7B v0.3", "mistral", "\"attention_dropout\": 0.0, \"sliding_window\": null"},
    {"Mistral Nemo", "mistral", "\"head_dim\": 128, \"sliding_window\": null, \"rope_theta\": 1000000.0"},
    {"Qwen2 7B", "qwen2", "\"max_window_layers\": 28, \"sliding_window\": 131072, \"use_sliding_window\": false"},
    {"Qwen2.5 Coder", "qwen2", "\"use_mrope\": false, \"use_sliding_window\": false, \"max_window_layers\": 28"},
    {"Qwen2.5 7B 1M", "qwen2",
     "\"dual_chunk_attention_config\": {\"chunk_size\": 262144, \"local_size\": 8192}, \"use_sliding_window\": false"},
    {"Qwen3 8B", "qwen3",
     "\"attention_bias\": false, \"head_dim\": 128, \"max_window_layers\": 36, \"sliding_window\": null, "
     "\"use_sliding_window\": false"},
    {"Qwen3 30B-A3B", "qwen3_moe",
     "\"decoder_sparse_step\": 1, \"head_dim\": 128, \"mlp_only_layers\": [], \"moe_intermediate_size\": 768, "
     "\"norm_topk_prob\": true, \"num_experts\": 128, \"num_experts_per_tok\": 8, \"output_router_logits\": false, "
     "\"router_aux_loss_coef\": 0.001, \"use_sliding_window\": false"},
    {"Qwen3-MoE of transformers 5", "qwen3_moe", "\"num_local_experts\": 8, \"mlp_only_layers\": [1]"},
    {"GLM-4-9B (glm)", "glm", "\"attention_bias\": true, \"head_dim\": 128, \"partial_rotary_factor\": 0.5"},
    {"GLM-4-9B-0414 (glm4)", "glm4", "\"attention_bias\": false, \"head_dim\": 128, \"partial_rotary_factor\": 0.5"},
    {"GLM-4-9B (chatglm)", "chatglm",
     "\"add_bias_linear\": false, \"add_qkv_bias\": true, \"apply_query_key_layer_scaling\": true, "
     "\"apply_residual_connection_post_layernorm\": false, \"attention_softmax_in_fp32\": true, "
     "\"bias_dropout_fusion\": true, \"ffn_hidden_size\": 13696, \"fp32_residual_connection\": false, "
     "\"kv_channels\": 128, \"multi_query_attention\": true, \"multi_query_group_num\": 2, \"num_layers\": 40, "
     "\"original_rope\": true, \"padded_vocab_size\": 151552, \"post_layer_norm\": true, \"rmsnorm\": true, "
     "\"rope_ratio\": 500, \"seq_length\": 131072"},
    {"DeepSeek-V2-Lite", "deepseek_v2",
     "\"aux_loss_alpha\": 0.001, \"ep_size\": 1, \"first_k_dense_replace\": 1, \"kv_lora_rank\": 512, "
     "\"moe_intermediate_size\": 1408, \"moe_layer_freq\": 1, \"n_group\": 1, \"n_routed_experts\": 64, "
     "\"n_shared_experts\": 2, \"norm_topk_prob\": false, \"num_experts_per_tok\": 6, \"pretraining_tp\": 1, "
     "\"q_lora_rank\": null, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"routed_scaling_factor\": 1.0, "
     "\"scoring_func\": \"softmax\", \"seq_aux\": true, \"topk_group\": 1, \"topk_method\": \"greedy\", "
     "\"v_head_dim\": 128"},
    {"DeepSeek-V2", "deepseek_v2", "\"q_lora_rank\": 1536, \"n_group\": 8, \"topk_method\": \"group_limited_greedy\""},
    {"Phi-3-mini-128k", "phi3",
     "\"attention_bias\": false, \"embd_pdrop\": 0.0, \"original_max_position_embeddings\": 4096, \"resid_pdrop\": "
     "0.0, "
     "\"rope_scaling\": {\"type\": \"longrope\"}, \"sliding_window\": 262144"},
    {"Phi-4-mini", "phi3",
     "\"full_attn_mod\": 1, \"interpolate_factor\": 1, \"lm_head_bias\": false, \"mlp_bias\": false, "
     "\"partial_rotary_factor\": 0.75, \"tie_word_embeddings\": true"},
    {"Gemma 2 2B", "gemma2",
     "\"attn_logit_softcapping\": 50.0, \"cache_implementation\": \"hybrid\", \"final_logit_softcapping\": 30.0, "
     "\"hidden_act\": \"gelu_pytorch_tanh\", \"hidden_activation\": \"gelu_pytorch_tanh\", \"query_pre_attn_scalar\": "
     "256, \"sliding_window\": 4096"},
    {"Gemma 3 270M", "gemma3_text",
     "\"_sliding_window_pattern\": 6, \"attn_logit_softcapping\": null, \"final_logit_softcapping\": null, "
     "\"hidden_activation\": \"gelu_pytorch_tanh\", \"query_pre_attn_scalar\": 256, \"rope_local_base_freq\": 10000.0, "
     "\"sliding_window\": 512, \"use_bidirectional_attention\": false"},
    {"Gemma 3 1B", "gemma3_text", "\"sliding_window_pattern\": 6, \"cache_implementation\": \"hybrid\""},
    {"Pythia 1B", "gpt_neox",
     "\"layer_norm_eps\": 1e-05, \"rotary_emb_base\": 10000, \"rotary_pct\": 0.25, \"use_parallel_residual\": true"},
    {"RedPajama 3B", "gpt_neox", "\"rotary_pct\": 1.0, \"use_parallel_residual\": false"},
    {"OLMo 2 7B", "olmo2", "\"attention_bias\": false, \"rope_theta\": 500000, \"num_key_value_heads\": 32"},
    {"Granite 3.3 2B", "granite",
     "\"attention_multiplier\": 0.015625, \"embedding_multiplier\": 12.0, \"logits_scaling\": 8.0, "
     "\"residual_multiplier\": 0.22, \"mlp_bias\": false"},
};

static void published_models_are_accepted(void **state)
{
    (void)state;
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(PUBLISHED); i++) {
        const rb_status st = check(PUBLISHED[i].model_type, PUBLISHED[i].members, &err);
        if (st != RB_OK) fail_msg("%s: %s", PUBLISHED[i].name, err.msg);
    }
}

/* The fields that make Granite, Gemma and DeepSeek what they are would change a llama. */
static void another_familys_fields_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(PUBLISHED); i++) {
        const char *type = PUBLISHED[i].model_type;
        if (strcmp(type, "granite") != 0 && strcmp(type, "gemma2") != 0 && strcmp(type, "deepseek_v2") != 0) continue;
        assert_int_equal(check("llama", PUBLISHED[i].members, &err), RB_EUNSUPPORTED);
        err.msg[0] = '\0';
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_of_forks_are_refused_by_name_and_value),
        cmocka_unit_test(neutral_values_are_accepted),
        cmocka_unit_test(published_models_are_accepted),
        cmocka_unit_test(another_familys_fields_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
