/* config.json of published models, with the fields that matter as they stand there: what each becomes. */
#include "tests/test_support.h"

#include "model/model_config.h"

static model_config config;

static void parse(const char *text)
{
    rb_error err = {0};
    assert_ok(model_config_parse(&config, text, strlen(text), "config.json", &err));
}

static void check_geometry(int n_layers, int n_q_heads, int n_kv_heads, int head_dim, int rotary_dim)
{
    assert_int_equal(config.facts.n_layers, n_layers);
    assert_int_equal(config.facts.n_q_heads, n_q_heads);
    assert_int_equal(config.facts.n_kv_heads, n_kv_heads);
    assert_int_equal(config.facts.head_dim, head_dim);
    assert_int_equal(config.facts.rotary_dim, rotary_dim);
}

static void check_close(double found, double expected) { assert_true(fabs(found / expected - 1) < 1e-12); }

static void llama_2_7b(void **state)
{
    (void)state;
    parse("{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_act\": \"silu\", \"hidden_size\": 4096,"
          " \"intermediate_size\": 11008, \"max_position_embeddings\": 4096, \"model_type\": \"llama\","
          " \"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 32, \"pretraining_tp\": 1,"
          " \"rms_norm_eps\": 1e-05, \"rope_scaling\": null, \"tie_word_embeddings\": false, \"vocab_size\": 32000}");
    check_geometry(32, 32, 32, 128, 128);
    assert_true(config.facts.rope.theta == 10000);
    assert_string_equal(config.defaults, "rope_theta 10000");
}

static void qwen3_30b_a3b(void **state)
{
    (void)state;
    parse("{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"attention_bias\": false, \"decoder_sparse_step\": 1,"
          " \"head_dim\": 128, \"hidden_act\": \"silu\", \"hidden_size\": 2048, \"intermediate_size\": 6144,"
          " \"max_position_embeddings\": 40960, \"max_window_layers\": 48, \"mlp_only_layers\": [],"
          " \"model_type\": \"qwen3_moe\", \"moe_intermediate_size\": 768, \"norm_topk_prob\": true,"
          " \"num_attention_heads\": 32, \"num_experts\": 128, \"num_experts_per_tok\": 8, \"num_hidden_layers\": 48,"
          " \"num_key_value_heads\": 4, \"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000.0,"
          " \"sliding_window\": null, \"tie_word_embeddings\": false, \"use_sliding_window\": false,"
          " \"vocab_size\": 151936}");
    check_geometry(48, 32, 4, 128, 128);
    assert_int_equal(config.experts.n, 128);
    assert_int_equal(config.experts.n_per_token, 8);
    assert_int_equal(config.experts.size, 768);
    assert_true(config.experts.normalizes && config.experts.scale == 1 && config.experts.n_groups == 1);
    for (int layer = 0; layer < 48; layer++) assert_true(config.layer_has_experts[layer]);
    assert_int_equal(config.extras, EXTRA_QK_NORM);
}

static void deepseek_v2_lite(void **state)
{
    (void)state;
    parse(
        "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"attention_bias\": false, \"aux_loss_alpha\": 0.001,"
        " \"first_k_dense_replace\": 1, \"hidden_act\": \"silu\", \"hidden_size\": 2048, \"intermediate_size\": 10944,"
        " \"kv_lora_rank\": 512, \"max_position_embeddings\": 163840, \"model_type\": \"deepseek_v2\","
        " \"moe_intermediate_size\": 1408, \"moe_layer_freq\": 1, \"n_group\": 1, \"n_routed_experts\": 64,"
        " \"n_shared_experts\": 2, \"norm_topk_prob\": false, \"num_attention_heads\": 16,"
        " \"num_experts_per_tok\": 6, \"num_hidden_layers\": 27, \"num_key_value_heads\": 16, \"q_lora_rank\": null,"
        " \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"rms_norm_eps\": 1e-06, \"rope_scaling\":"
        " {\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 40, \"mscale\": 0.707, \"mscale_all_dim\": 0.707,"
        " \"original_max_position_embeddings\": 4096, \"type\": \"yarn\"}, \"rope_theta\": 10000,"
        " \"routed_scaling_factor\": 1.0, \"scoring_func\": \"softmax\", \"tie_word_embeddings\": false,"
        " \"topk_group\": 1, \"topk_method\": \"greedy\", \"v_head_dim\": 128, \"vocab_size\": 102400}");
    check_geometry(27, 16, 1, 64, 64);
    assert_int_equal(config.facts.value_dim, 512);
    assert_int_equal(config.query_dim, 192);
    assert_int_equal(config.attended_dim, 128);
    assert_int_equal(config.facts.rope.pairing, ROPE_INTERLEAVED);
    assert_true(config.facts.rope.attention_factor == 1);
    const double mscale = 0.1 * 0.707 * log(40) + 1;
    check_close(config.facts.attention_scale, mscale * mscale / sqrt(192));
    assert_int_equal(config.extras, EXTRA_Q_DIRECT | EXTRA_SHARED_EXPERTS);
    assert_int_equal(config.experts.shared_size, 2816);
    assert_true(!config.layer_has_experts[0] && config.layer_has_experts[1]);
}

static void glm_4_9b_as_published(void **state)
{
    (void)state;
    parse("{\"model_type\": \"chatglm\", \"architectures\": [\"ChatGLMModel\"], \"add_bias_linear\": false,"
          " \"add_qkv_bias\": true, \"apply_query_key_layer_scaling\": true,"
          " \"apply_residual_connection_post_layernorm\": false, \"attention_dropout\": 0.0,"
          " \"attention_softmax_in_fp32\": true, \"ffn_hidden_size\": 13696, \"fp32_residual_connection\": false,"
          " \"hidden_size\": 4096, \"kv_channels\": 128, \"layernorm_epsilon\": 1.5625e-07,"
          " \"multi_query_attention\": true, \"multi_query_group_num\": 2, \"num_attention_heads\": 32,"
          " \"num_layers\": 40, \"original_rope\": true, \"padded_vocab_size\": 151552, \"post_layer_norm\": true,"
          " \"rmsnorm\": true, \"seq_length\": 131072, \"rope_ratio\": 500, \"tie_word_embeddings\": false}");
    check_geometry(40, 32, 2, 128, 64);
    assert_int_equal(config.facts.rope.pairing, ROPE_INTERLEAVED);
    assert_true(config.facts.rope.theta == 5e6);
    assert_int_equal(config.extras, EXTRA_QKV_BIAS);
    assert_int_equal(config.max_position, 131072);
}

static void gemma_3_4b(void **state)
{
    (void)state;
    parse("{\"architectures\": [\"Gemma3ForConditionalGeneration\"], \"boi_token_index\": 255999,"
          " \"model_type\": \"gemma3\", \"text_config\": {\"hidden_size\": 2560, \"intermediate_size\": 10240,"
          " \"model_type\": \"gemma3_text\", \"num_hidden_layers\": 34, \"rope_scaling\": {\"factor\": 8.0,"
          " \"rope_type\": \"linear\"}, \"sliding_window\": 1024}, \"vision_config\": {\"hidden_size\": 1152,"
          " \"model_type\": \"siglip_vision_model\"}}");
    check_geometry(34, 8, 4, 256, 256);
    assert_string_equal(config.tensor_prefix, "language_model.");
    assert_true(config.tied_embeddings);
    assert_true(config.facts.has_local_rope);
    assert_true(config.facts.rope.kind == ROPE_LINEAR && config.facts.rope.factor == 8
                && config.facts.rope.theta == 1e6);
    assert_true(config.facts.local_rope.kind == ROPE_DEFAULT && config.facts.local_rope.theta == 1e4);
    for (int layer = 0; layer < 34; layer++) {
        assert_int_equal(config.layer_slides[layer], layer % 6 != 5);
        assert_int_equal(config.facts.layer_is_local[layer], layer % 6 != 5);
    }
    check_close(config.facts.attention_scale, 1.0 / 16);
    check_close(config.embedding_scale, sqrt(2560));
    assert_non_null(strstr(config.defaults, "head_dim 256"));
}

static void gemma_2_2b(void **state)
{
    (void)state;
    parse("{\"architectures\": [\"Gemma2ForCausalLM\"], \"attention_bias\": false, \"attn_logit_softcapping\": 50.0,"
          " \"final_logit_softcapping\": 30.0, \"head_dim\": 256, \"hidden_act\": \"gelu_pytorch_tanh\","
          " \"hidden_activation\": \"gelu_pytorch_tanh\", \"hidden_size\": 2304, \"intermediate_size\": 9216,"
          " \"max_position_embeddings\": 8192, \"model_type\": \"gemma2\", \"num_attention_heads\": 8,"
          " \"num_hidden_layers\": 26, \"num_key_value_heads\": 4, \"query_pre_attn_scalar\": 256,"
          " \"rms_norm_eps\": 1e-06, \"rope_theta\": 10000.0, \"sliding_window\": 4096, \"vocab_size\": 256000}");
    check_geometry(26, 8, 4, 256, 256);
    assert_true(config.tied_embeddings && config.attention_softcap == 50 && config.logit_softcap == 30);
    assert_true(config.layer_slides[0] && !config.layer_slides[1]);
    assert_int_equal(config.activation, ACTIVATION_GELU_TANH);
}

static void phi_3_mini_128k(void **state)
{
    (void)state;
    char text[2400], factors[480] = "";
    for (int i = 0; i < 48; i++)
        snprintf(factors + strlen(factors), sizeof factors - strlen(factors), "%s1.%02d", i ? "," : "", i);
    snprintf(text, sizeof text,
             "{\"architectures\": [\"Phi3ForCausalLM\"], \"attention_bias\": false, \"hidden_act\": \"silu\","
             " \"hidden_size\": 3072, \"intermediate_size\": 8192, \"max_position_embeddings\": 131072,"
             " \"model_type\": \"phi3\", \"num_attention_heads\": 32, \"num_hidden_layers\": 32,"
             " \"num_key_value_heads\": 32, \"original_max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-05,"
             " \"rope_scaling\": {\"long_factor\": [%s], \"short_factor\": [%s], \"type\": \"su\"},"
             " \"rope_theta\": 10000.0, \"sliding_window\": 262144, \"tie_word_embeddings\": false,"
             " \"vocab_size\": 32064}",
             factors, factors);
    parse(text);
    check_geometry(32, 32, 32, 96, 96);
    assert_int_equal(config.facts.rope.kind, ROPE_LONGROPE);
    check_close(config.facts.rope.attention_factor, sqrt(1 + log(32) / log(4096)));
    assert_int_equal(config.sliding_window, 262144);
}

static void pythia_160m(void **state)
{
    (void)state;
    parse("{\"architectures\": [\"GPTNeoXForCausalLM\"], \"hidden_act\": \"gelu\", \"hidden_size\": 768,"
          " \"intermediate_size\": 3072, \"layer_norm_eps\": 1e-05, \"max_position_embeddings\": 2048,"
          " \"model_type\": \"gpt_neox\", \"num_attention_heads\": 12, \"num_hidden_layers\": 12,"
          " \"rotary_emb_base\": 10000, \"rotary_pct\": 0.25, \"tie_word_embeddings\": false,"
          " \"use_parallel_residual\": true, \"vocab_size\": 50304}");
    check_geometry(12, 12, 12, 64, 16);
    assert_true(config.has_parallel_residual && config.norm_eps == 1e-5);
    assert_int_equal(config.extras, EXTRA_QKV_BIAS | EXTRA_O_BIAS | EXTRA_MLP_BIAS);
    assert_int_equal(config.activation, ACTIVATION_GELU);
}

static void granite_3_8b(void **state)
{
    (void)state;
    parse(
        "{\"architectures\": [\"GraniteForCausalLM\"], \"attention_bias\": false, \"attention_multiplier\": 0.0078125,"
        " \"embedding_multiplier\": 12.0, \"hidden_act\": \"silu\", \"hidden_size\": 4096, \"intermediate_size\":"
        " 12800, \"logits_scaling\": 16.0, \"max_position_embeddings\": 4096, \"mlp_bias\": false, \"model_type\":"
        " \"granite\", \"num_attention_heads\": 32, \"num_hidden_layers\": 40, \"num_key_value_heads\": 8,"
        " \"residual_multiplier\": 0.22, \"rms_norm_eps\": 1e-05, \"rope_scaling\": null, \"rope_theta\": 10000,"
        " \"tie_word_embeddings\": true, \"vocab_size\": 49155}");
    check_geometry(40, 32, 8, 128, 128);
    assert_true(config.facts.attention_scale == 0.0078125 && config.logit_scale == 1.0 / 16);
    assert_true(config.embedding_scale == 12 && config.residual_scale == 0.22);
}

/* What a family does not define is refused where its value means something. */
static void values_that_a_family_does_not_define(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } refused[] = {
        {"{\"model_type\": \"chatglm\", \"rmsnorm\": false}", "rmsnorm is false, expected true in chatglm"},
        {"{\"model_type\": \"deepseek_v2\", \"scoring_func\": \"sigmoid\"}", "scoring_func is \"sigmoid\""},
        {"{\"model_type\": \"deepseek_v2\", \"norm_topk_prob\": true}", "norm_topk_prob is true"},
        {"{\"model_type\": \"gemma3_text\", \"use_bidirectional_attention\": true}", "use_bidirectional_attention"},
        {"{\"model_type\": \"mllama\", \"text_config\": {}}", "multimodal model (model_type \"mllama\")"},
    };
    for (size_t i = 0; i < RB_COUNT(refused); i++) {
        rb_error err = {0};
        const char *text = refused[i].text;
        assert_fails(model_config_parse(&config, text, strlen(text), "config.json", &err), RB_EUNSUPPORTED,
                     refused[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_2_7b),       cmocka_unit_test(qwen3_30b_a3b),
        cmocka_unit_test(deepseek_v2_lite), cmocka_unit_test(glm_4_9b_as_published),
        cmocka_unit_test(gemma_3_4b),       cmocka_unit_test(gemma_2_2b),
        cmocka_unit_test(phi_3_mini_128k),  cmocka_unit_test(pythia_160m),
        cmocka_unit_test(granite_3_8b),     cmocka_unit_test(values_that_a_family_does_not_define),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
