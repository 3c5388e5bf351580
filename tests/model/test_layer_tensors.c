/* The table of a layer's tensors: what a configuration makes of it, counted by hand. */
#include "tests/test_support.h"

#include "model/cuda/weight_stream.h"
#include "model/layer_tensors.h"
#include "model/layer_weights.h"

/* hidden 32, 4 query heads and 2 KV heads of 16, MLP 48. */
static model_config config_of(const char *model_type, unsigned extras)
{
    model_config config = {.family = model_family_find(model_type),
                           .tensor_prefix = "",
                           .query_dim = 16,
                           .attended_dim = 16,
                           .facts = {.n_layers = 2, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 16, .rotary_dim = 16},
                           .hidden_size = 32,
                           .intermediate_size = 48,
                           .vocab_size = 100,
                           .extras = extras};
    assert_non_null(config.family);
    return config;
}

static const layer_tensor *tensor_of(const model_config *config, const char *name)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    for (int i = 0; i < tensors->n_layer; i++)
        if (strcmp(tensors->layer[i].name, name) == 0) return &tensors->layer[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void the_families_are_found_by_their_model_type(void **state)
{
    (void)state;
    static const char *const types[] = {"llama", "mistral", "qwen2",       "qwen3",    "qwen3_moe",
                                        "glm",   "glm4",    "chatglm",     "phi3",     "gemma2",
                                        "olmo2", "granite", "gemma3_text", "gpt_neox", "deepseek_v2"};
    char list[200], cut[10];
    for (size_t i = 0; i < RB_COUNT(types); i++) {
        assert_non_null(model_family_find(types[i]));
        assert_string_equal(model_family_find(types[i])->model_type, types[i]);
    }
    assert_null(model_family_find("qwen"));
    assert_null(model_family_find(""));
    model_family_list(list, sizeof list);
    assert_string_equal(list, "llama, mistral, qwen2, qwen3, qwen3_moe, glm, glm4, chatglm, deepseek_v2, phi3, gemma2, "
                              "gemma3_text, gpt_neox, olmo2 or granite");
    model_family_list(cut, sizeof cut);
    assert_string_equal(cut, "llama, mi");
}

static void tensors_have_the_shapes_of_the_configuration(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int rank;
        int64_t shape[2], first; /* first: of the tensor in its weight */
    } expected[] = {
        {"input_layernorm.weight", 1, {32, 1}, 0},
        {"self_attn.q_proj.weight", 2, {64, 32}, 0},
        {"self_attn.k_proj.weight", 2, {32, 32}, 64 * 32},
        {"self_attn.v_proj.weight", 2, {32, 32}, 96 * 32},
        {"self_attn.o_proj.weight", 2, {32, 64}, 0},
        {"self_attn.q_proj.bias", 1, {64, 1}, 0},
        {"self_attn.k_proj.bias", 1, {32, 1}, 64},
        {"self_attn.v_proj.bias", 1, {32, 1}, 96},
        {"self_attn.o_proj.bias", 1, {32, 1}, 0},
        {"self_attn.q_norm.weight", 1, {16, 1}, 0},
        {"self_attn.k_norm.weight", 1, {16, 1}, 0},
        {"post_attention_layernorm.weight", 1, {32, 1}, 0},
        {"mlp.gate_proj.weight", 2, {48, 32}, 0},
        {"mlp.up_proj.weight", 2, {48, 32}, 48 * 32},
        {"mlp.down_proj.weight", 2, {32, 48}, 0},
        {"mlp.gate_proj.bias", 1, {48, 1}, 0},
        {"mlp.up_proj.bias", 1, {48, 1}, 48},
        {"mlp.down_proj.bias", 1, {32, 1}, 0},
    };
    const model_config config = config_of("llama", EXTRA_QKV_BIAS | EXTRA_O_BIAS | EXTRA_MLP_BIAS | EXTRA_QK_NORM);
    for (size_t i = 0; i < RB_COUNT(expected); i++) {
        const layer_tensor *tensor = tensor_of(&config, expected[i].name);
        int64_t shape[2];
        assert_int_equal(layer_tensor_shape(&config, tensor, shape), expected[i].rank);
        assert_memory_equal(shape, expected[i].shape, sizeof shape);
        assert_int_equal(layer_tensor_count(&config, tensor), shape[0] * shape[1]);
        assert_int_equal(layer_tensor_first(&config, tensor, 0), expected[i].first);
        assert_true(layer_tensor_is_used(&config, tensor, 0));
        assert_int_equal(layer_weight_is_matrix(&config, tensor->weight), expected[i].rank == 2);
    }
}

static void extras_say_which_tensors_are_there(void **state)
{
    (void)state;
    const model_config plain = config_of("llama", EXTRA_NONE), normed = config_of("qwen3", EXTRA_QK_NORM),
                       biased = config_of("qwen2", EXTRA_QKV_BIAS);
    assert_false(layer_tensor_is_used(&plain, tensor_of(&plain, "self_attn.q_norm.weight"), 0));
    assert_true(layer_tensor_is_used(&normed, tensor_of(&normed, "self_attn.q_norm.weight"), 0));
    assert_false(layer_tensor_is_used(&normed, tensor_of(&normed, "self_attn.q_proj.bias"), 0));
    assert_true(layer_tensor_is_used(&biased, tensor_of(&biased, "self_attn.v_proj.bias"), 0));
    assert_false(layer_tensor_is_used(&biased, tensor_of(&biased, "self_attn.o_proj.bias"), 0));
    assert_int_equal(layer_weight_count(&plain, WEIGHT_QKV_BIAS, 0), 0);
    assert_int_equal(layer_weight_count(&biased, WEIGHT_QKV_BIAS, 0), 128);
    assert_int_equal(layer_weight_count(&plain, WEIGHT_QKV, 0), 128 * 32);
    assert_int_equal(layer_weight_count(&plain, WEIGHT_GATE_UP, 0), 96 * 32);
    assert_false(layer_weight_is_matrix(&plain, WEIGHT_Q_NORM));
}

static void names_have_the_layer_in_them(void **state)
{
    (void)state;
    const model_config config = config_of("mistral", EXTRA_NONE);
    char name[LAYER_TENSOR_NAME];
    layer_tensor_name(name, &config, tensor_of(&config, "mlp.up_proj.weight"), 17, 0);
    assert_string_equal(name, "model.layers.17.mlp.up_proj.weight");
    model_config inner = config_of("qwen3_moe", EXTRA_NONE);
    inner.tensor_prefix = "language_model.";
    layer_tensor_name(name, &inner, tensor_of(&inner, "mlp.experts.%d.up_proj.weight"), 3, 127);
    assert_string_equal(name, "language_model.model.layers.3.mlp.experts.127.up_proj.weight");
    model_tensor_name(name, &inner, "lm_head.weight");
    assert_string_equal(name, "language_model.lm_head.weight");
}

/* A layer has one MLP or experts; an expert's weights have room for one. */
static void experts_take_the_place_of_an_mlp(void **state)
{
    (void)state;
    model_config config = config_of("qwen3_moe", EXTRA_NONE);
    config.experts = (expert_config){.n = 8, .n_per_token = 2, .size = 24, .n_groups = 1, .n_groups_per_token = 1};
    config.layer_has_experts[1] = true;
    assert_int_equal(layer_weight_count(&config, WEIGHT_GATE_UP, 0), 96 * 32);
    assert_int_equal(layer_weight_count(&config, WEIGHT_GATE_UP, 1), 0);
    assert_int_equal(layer_weight_count(&config, WEIGHT_ROUTER, 0), 0);
    assert_int_equal(layer_weight_count(&config, WEIGHT_ROUTER, 1), 8 * 32);
    assert_int_equal(layer_weight_count(&config, WEIGHT_EXPERT_GATE_UP, 1), 48 * 32);
    assert_int_equal(layer_weight_capacity(&config, WEIGHT_GATE_UP), 96 * 32);
    assert_int_equal(layer_weight_capacity(&config, WEIGHT_EXPERT_DOWN), 32 * 24);
    assert_int_equal(layer_weight_step(&config, WEIGHT_EXPERT_DOWN), STEP_EXPERT);
}

/* q, k and v of head 1 follow those of head 0 in the file; in the weight all q come first. */
static void fused_heads_are_taken_apart(void **state)
{
    (void)state;
    model_config config = config_of("gpt_neox", EXTRA_QKV_BIAS);
    config.facts.n_kv_heads = 4;
    const layer_tensor *tensor = tensor_of(&config, "attention.query_key_value.weight");
    assert_int_equal(layer_tensor_n_runs(&config, tensor), 12);
    const tensor_run k1 = layer_tensor_run(&config, tensor, 4);
    assert_int_equal(k1.from, 4 * 16);
    assert_int_equal(k1.to, (4 + 1) * 16);
    assert_int_equal(k1.n_rows, 16);
    assert_int_equal(layer_tensor_n_runs(&config, tensor_of(&config, "attention.dense.weight")), 1);
}

/* Norms 2 x 32, qkv 128 x 32, o 32 x 64, gate and up 96 x 32, down 32 x 48; all are multiples of a cache line. */
static void a_layer_takes_its_weights(void **state)
{
    (void)state;
    const model_config plain = config_of("llama", EXTRA_NONE), normed = config_of("qwen3", EXTRA_QK_NORM);
    const int64_t matrices = 128 * 32 + 32 * 64 + 96 * 32 + 32 * 48;
    assert_int_equal(layer_weights_bytes(&plain), (matrices + 2 * 32) * 4);
    assert_int_equal(layer_weights_bytes(&normed), (matrices + 2 * 32 + 2 * 16) * 4);
    /* On a GPU: two layers, each weight on a multiple of 256 bytes, and 16 slots of 8 MiB. */
    const int64_t vector = 256, slots = 16 * (8 << 20);
    assert_int_equal(weight_stream_device_bytes(&plain, LAYER_CUDA_BF16), 2 * (matrices * 2 + 2 * vector) + slots);
    assert_int_equal(weight_stream_device_bytes(&normed, LAYER_CUDA_F32), 2 * (matrices * 4 + 4 * vector) + slots);
}

static void weights_that_are_there_do_not_overlap(void **state)
{
    (void)state;
    const model_config config = config_of("llama", EXTRA_QKV_BIAS | EXTRA_MLP_BIAS);
    layer_weights weights = {0};
    rb_error err = {0};
    assert_ok(layer_weights_alloc(&weights, &config, &err));
    const float *end = weights.arena;
    for (int i = 0; i < N_LAYER_WEIGHTS; i++) {
        const int64_t n = layer_weight_count(&config, (layer_weight)i, 0);
        assert_int_equal(weights.place[i] != NULL, n > 0);
        if (n == 0) continue;
        assert_true(weights.place[i] >= end);
        end = weights.place[i] + n;
    }
    assert_true((char *)end <= (char *)weights.arena + layer_weights_bytes(&config));
    layer_weights_free(&weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_families_are_found_by_their_model_type),
        cmocka_unit_test(tensors_have_the_shapes_of_the_configuration),
        cmocka_unit_test(extras_say_which_tensors_are_there),
        cmocka_unit_test(names_have_the_layer_in_them),
        cmocka_unit_test(experts_take_the_place_of_an_mlp),
        cmocka_unit_test(fused_heads_are_taken_apart),
        cmocka_unit_test(a_layer_takes_its_weights),
        cmocka_unit_test(weights_that_are_there_do_not_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
