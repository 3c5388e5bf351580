/* config.json: what each family's fields become, and what is refused. Every case is a complete configuration with one
 * thing changed. */
#include "tests/test_support.h"

#include <cjson/cJSON.h>

#include "model/model_config.h"
#include "model/safetensors.h"

/* ---- configurations with changes ------------------------------------------------------------- */

#define COMMON                                                                                                    \
    "\"hidden_act\":\"silu\",\"hidden_size\":96,\"intermediate_size\":160,\"max_position_embeddings\":512,\"num_" \
    "attention_heads\":4,"                                                                                        \
    "\"num_hidden_layers\":3,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-6,\"vocab_size\":320"
#define NEW_ROPE  "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}"
#define LLAMA_OLD "{\"model_type\":\"llama\"," COMMON ",\"rope_theta\":10000.0}"

static const char LLAMA[] = "{\"model_type\":\"llama\"," COMMON "," NEW_ROPE "}";
static const char MISTRAL[] = "{\"model_type\":\"mistral\"," COMMON ",\"sliding_window\":null," NEW_ROPE "}";
static const char QWEN2[] = "{\"model_type\":\"qwen2\"," COMMON "," NEW_ROPE "}";
static const char QWEN3[] = "{\"model_type\":\"qwen3\",\"head_dim\":32," COMMON "," NEW_ROPE "}";

enum { MAX_CHANGES = 4 };
typedef struct change {
    const char *key, *value; /* value as JSON; NULL removes the key */
} change;

static rb_status parse_changed(model_config *config, const char *base, const change *changes, rb_error *err)
{
    cJSON *json = cJSON_Parse(base);
    assert_non_null(json);
    for (int i = 0; i < MAX_CHANGES && changes[i].key; i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(json, changes[i].key);
        if (!changes[i].value) continue;
        cJSON *value = cJSON_Parse(changes[i].value);
        assert_non_null(value);
        cJSON_AddItemToObject(json, changes[i].key, value);
    }
    char *text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    const rb_status st = model_config_parse(config, text, strlen(text), "config.json", err);
    cJSON_free(text);
    return st;
}

#define PARSE(config, base, ...) parse_changed(config, base, (change[MAX_CHANGES + 1]){__VA_ARGS__}, &err)

/* Table cases: what is refused, and with which words. */
typedef struct refused_config {
    const char *base;
    change changes[MAX_CHANGES + 1];
    rb_status status;
    const char *message;
} refused_config;

static void is_refused(void **state)
{
    const refused_config *refused = *state;
    static model_config config;
    rb_error err = {0};
    assert_fails(parse_changed(&config, refused->base, refused->changes, &err), refused->status, refused->message);
}

#define REFUSES(name, base, status, message, ...)                                                 \
    {                                                                                             \
#name, is_refused, NULL, NULL, &(refused_config) { base, {__VA_ARGS__}, status, message } \
    }

/* ---- families -------------------------------------------------------------------------------- */

static void reads_llama(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(PARSE(&config, LLAMA, {0}));
    assert_string_equal(config.family->model_type, "llama");
    assert_string_equal(config.facts.model_type, "llama");
    assert_int_equal(strlen(config.facts.config_sha256), 64);
    assert_string_equal(config.facts.weights_sha256, "");
    assert_int_equal(config.facts.n_layers, 3);
    assert_int_equal(config.facts.n_q_heads, 4);
    assert_int_equal(config.facts.n_kv_heads, 2);
    assert_int_equal(config.facts.head_dim, 24); /* 96 / 4 */
    assert_int_equal(config.facts.rotary_dim, 24);
    assert_true(fabs(config.facts.attention_scale * config.facts.attention_scale * 24 - 1) < 1e-15);
    assert_int_equal(config.facts.rope.kind, ROPE_DEFAULT);
    assert_int_equal(config.facts.rope.pairing, ROPE_SPLIT_HALF);
    assert_true(config.facts.rope.theta == 10000);
    assert_int_equal(config.hidden_size, 96);
    assert_int_equal(config.intermediate_size, 160);
    assert_int_equal(config.vocab_size, 320);
    assert_int_equal(config.max_position, 512);
    assert_true(config.norm_eps == 1e-6);
    assert_int_equal(config.extras, EXTRA_NONE);
    assert_false(config.tied_embeddings);
    assert_int_equal(config.sliding_window, 0);
}

static void reads_llama_options(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(PARSE(&config, LLAMA, {"attention_bias", "true"}, {"mlp_bias", "true"}, {"tie_word_embeddings", "true"},
                    {"head_dim", "48"}));
    assert_int_equal(config.extras, EXTRA_QKV_BIAS | EXTRA_O_BIAS | EXTRA_MLP_BIAS);
    assert_true(config.tied_embeddings);
    assert_int_equal(config.facts.head_dim, 48);
    assert_ok(PARSE(&config, LLAMA, {"num_key_value_heads", NULL}));
    assert_int_equal(config.facts.n_kv_heads, 4);
    assert_ok(PARSE(&config, MISTRAL, {"num_key_value_heads", "null"}));
    assert_int_equal(config.facts.n_kv_heads, 4);
    assert_ok(PARSE(&config, LLAMA, {"architectures", "[\"LlamaForCausalLM\"]"}));
}

static void biases_and_norms_follow_the_family(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(PARSE(&config, MISTRAL, {0}));
    assert_int_equal(config.extras, EXTRA_NONE);
    assert_ok(PARSE(&config, QWEN2, {0}));
    assert_int_equal(config.extras, EXTRA_QKV_BIAS);
    assert_ok(PARSE(&config, QWEN3, {0}));
    assert_int_equal(config.extras, EXTRA_QK_NORM);
    assert_ok(PARSE(&config, QWEN3, {"attention_bias", "true"}));
    assert_int_equal(config.extras, EXTRA_QKV_BIAS | EXTRA_O_BIAS | EXTRA_QK_NORM);
}

/* ---- sliding windows ------------------------------------------------------------------------- */

static void assert_slides(const model_config *config, int window, const char *pattern)
{
    assert_int_equal(config->sliding_window, window);
    assert_int_equal(strlen(pattern), config->facts.n_layers);
    for (int layer = 0; layer < MODEL_MAX_LAYERS; layer++)
        assert_int_equal(config->layer_slides[layer], layer < config->facts.n_layers && pattern[layer] == 's');
}

static void windows_follow_the_family(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(PARSE(&config, MISTRAL, {0}));
    assert_slides(&config, 0, "...");
    assert_ok(PARSE(&config, MISTRAL, {"sliding_window", "16"}));
    assert_slides(&config, 16, "sss");
    /* Qwen: off unless use_sliding_window, whatever else is there. */
    assert_ok(PARSE(&config, QWEN2, {"sliding_window", "16"}, {"max_window_layers", "0"}));
    assert_slides(&config, 0, "...");
    assert_ok(
        PARSE(&config, QWEN2, {"sliding_window", "16"}, {"max_window_layers", "1"}, {"use_sliding_window", "true"}));
    assert_slides(&config, 16, ".ss");
    assert_ok(
        PARSE(&config, QWEN2, {"sliding_window", "16"}, {"max_window_layers", "28"}, {"use_sliding_window", "true"}));
    assert_slides(&config, 16, "...");
    assert_ok(PARSE(&config, QWEN3, {"sliding_window", "7"}, {"use_sliding_window", "true"},
                    {"layer_types", "[\"sliding_attention\",\"full_attention\",\"sliding_attention\"]"}));
    assert_slides(&config, 7, "s.s");
    assert_ok(PARSE(&config, LLAMA, {"layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\"]"},
                    {"sliding_window", "null"}));
    assert_slides(&config, 0, "...");
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

static void assert_close(double found, double expected, double relative)
{
    if (!(fabs(found - expected) <= relative * fabs(expected))) fail_msg("%.17g, expected %.17g", found, expected);
}

static void default_rope_is_a_geometric_series(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(PARSE(&config, LLAMA, {"head_dim", "8"}));
    /* theta^(-2i/8) for theta = 10^4 */
    static const double expected[] = {1, 0.1, 0.01, 0.001};
    for (int i = 0; i < 4; i++) assert_close(config.facts.rope.inv_freq[i], expected[i], 1e-15);
    assert_true(config.facts.rope.factor == 1 && config.facts.rope.low_freq_factor == 0
                && config.facts.rope.original_max_position == 0);
}

static void linear_rope_divides_by_its_factor(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    static const double expected[] = {0.25, 0.025, 0.0025, 0.00025};
    assert_ok(PARSE(&config, LLAMA, {"head_dim", "8"},
                    {"rope_parameters", "{\"rope_type\":\"linear\",\"factor\":4.0,\"rope_theta\":1e4}"}));
    assert_int_equal(config.facts.rope.kind, ROPE_LINEAR);
    for (int i = 0; i < 4; i++) assert_close(config.facts.rope.inv_freq[i], expected[i], 1e-15);
    assert_ok(PARSE(&config, LLAMA_OLD, {"head_dim", "8"}, {"rope_scaling", "{\"type\":\"linear\",\"factor\":4}"}));
    for (int i = 0; i < 4; i++) assert_close(config.facts.rope.inv_freq[i], expected[i], 1e-15);
}

/* Llama 3.1's own formula, by wavelengths (transformers words it so; rope_resolve counts turns). */
static double llama3_by_wavelength(double theta, int i, int head_dim, double factor, double low, double high,
                                   double context)
{
    const double pi = acos(-1), inv_freq = exp(-log(theta) * 2 * i / head_dim), wavelength = 2 * pi / inv_freq;
    if (wavelength < context / high) return inv_freq;
    if (wavelength > context / low) return inv_freq / factor;
    const double smooth = (context / wavelength - low) / (high - low);
    return inv_freq * ((1 - smooth) / factor + smooth);
}

static void llama3_rope_blends_by_wavelength(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    /* Llama 3.1 8B. */
    const char *parameters = "{\"rope_type\":\"llama3\",\"rope_theta\":500000.0,\"factor\":8.0,\"low_freq_factor\":1.0,"
                             "\"high_freq_factor\":4.0,"
                             "\"original_max_position_embeddings\":8192}";
    assert_ok(PARSE(&config, LLAMA, {"head_dim", "128"}, {"rope_parameters", parameters}));
    const rope_facts *rope = &config.facts.rope;
    assert_int_equal(rope->kind, ROPE_LLAMA3);
    assert_int_equal(rope->original_max_position, 8192);
    int n_kept = 0, n_divided = 0;
    for (int i = 0; i < 64; i++) {
        assert_close(rope->inv_freq[i], llama3_by_wavelength(500000, i, 128, 8, 1, 4, 8192), 1e-13);
        const double plain = pow(500000, -i / 64.0);
        n_kept += fabs(rope->inv_freq[i] / plain - 1) < 1e-12;
        n_divided += fabs(rope->inv_freq[i] * 8 / plain - 1) < 1e-12;
    }
    /* Wavelength 2048 is passed at block 28.2, wavelength 8192 at block 34.98. */
    assert_int_equal(n_kept, 29);
    assert_int_equal(n_divided, 29);
}

static void old_and_new_settings_give_the_same_rope(void **state)
{
    (void)state;
    static model_config a, b;
    rb_error err = {0};
    assert_ok(PARSE(&a, LLAMA, {0}));
    assert_ok(PARSE(&b, LLAMA_OLD, {"rope_scaling", "null"}));
    assert_memory_equal(&a.facts.rope, &b.facts.rope, sizeof a.facts.rope);
    const char *llama3 = "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                         "\"original_max_position_embeddings\":64}";
    assert_ok(PARSE(&a, LLAMA, {"rope_parameters", llama3}, {"rope_theta", "10000"}));
    assert_ok(PARSE(&b, LLAMA_OLD, {"rope_scaling", llama3}));
    assert_memory_equal(&a.facts.rope, &b.facts.rope, sizeof a.facts.rope);
    assert_ok(PARSE(&a, LLAMA_OLD, {"rope_scaling", "{\"rope_type\":\"linear\",\"type\":\"linear\",\"factor\":2.5}"}));
    assert_ok(PARSE(&b, LLAMA, {"rope_theta", "1e4"},
                    {"partial_rotary_factor", "1.0"})); /* the same base twice is no contradiction */
}

/* The angles that transformers turned by: q_rot = q_rope turned by position * inv_freq, in its own f32. Tested where
 * the position is small, so that an angle in f32 is exact to 1e-6 or so. */
static void check_golden_rope(const char *folder, const char *golden_path)
{
    enum { N_POSITIONS = 16 };
    static model_config config;
    safetensors_file *golden = NULL;
    rb_error err = {0};
    assert_ok(model_config_read(&config, folder, &err));
    assert_ok(safetensors_open(&golden, golden_path, &err));
    const safetensor *before = safetensors_find(golden, "k_rope.0"), *after = safetensors_find(golden, "k_rot.0");
    assert_true(before && after && before->rank == 3 && before->shape[2] == config.facts.head_dim
                && before->shape[1] >= N_POSITIONS);
    const int d = config.facts.head_dim, n_blocks = d / 2;
    float *x = malloc((size_t)d * sizeof *x), *y = malloc((size_t)d * sizeof *y);
    assert_true(x && y);
    for (int64_t head = 0; head < before->shape[0]; head++)
        for (int position = 0; position < N_POSITIONS; position++) {
            const int64_t first = (head * before->shape[1] + position) * d;
            assert_ok(safetensor_to_f32(before, first, d, x, &err));
            assert_ok(safetensor_to_f32(after, first, d, y, &err));
            for (int i = 0; i < n_blocks; i++) {
                const double angle = position * config.facts.rope.inv_freq[i], c = cos(angle), s = sin(angle);
                const double re = x[i] * c - x[i + n_blocks] * s, im = x[i + n_blocks] * c + x[i] * s;
                /* 16 positions at half an ulp of inv_freq in f32 (2^-24), and the products in f32. */
                const double tolerance = (hypot(x[i], x[i + n_blocks]) + 1e-30) * (N_POSITIONS + 4) * 0x1p-23;
                assert_true(fabs(y[i] - re) <= tolerance && fabs(y[i + n_blocks] - im) <= tolerance);
            }
        }
    free(x);
    free(y);
    safetensors_close(golden);
}

static void rope_turns_keys_as_transformers_does_in_the_demo(void **state)
{
    (void)state;
    check_golden_rope("configs/demo-llama", "tests/fixtures/demo-llama-golden.safetensors");
}

static void rope_turns_keys_as_transformers_does(void **state)
{
    (void)state;
    static const char *const folders[] = {
        "models/small-qwen2",  "models/small-llama3", "oracle/llama", "oracle/llama-rope-llama3",
        "oracle/mistral-nemo", "oracle/qwen2",        "oracle/qwen3"};
    for (size_t i = 0; i < RB_COUNT(folders); i++) {
        char golden_name[64];
        snprintf(golden_name, sizeof golden_name, "%s/golden.safetensors", folders[i]);
        SHARED_OR_SKIP(folder, folders[i]);
        SHARED_OR_SKIP(golden, golden_name);
        check_golden_rope(folder, golden);
    }
}

static void rope_resolve_checks_what_it_is_given(void **state)
{
    (void)state;
    rb_error err = {0};
    static rope_settings settings = {.kind = ROPE_DEFAULT, .theta = 1e4, .rotary_factor = 1};
    static rope_facts rope;
    assert_ok(rope_resolve(&rope, &settings, 2, 64, 64, "here", &err));
    assert_true(rope.inv_freq[0] == 1 && rope.factor == 1 && rope.attention_factor == 1);
    assert_fails(rope_resolve(&rope, &settings, 7, 64, 64, "here", &err), RB_EINVAL, "here: rotary dim 7");
    assert_fails(rope_resolve(&rope, &settings, 0, 64, 64, "here", &err), RB_EINVAL, "rotary dim 0");
    assert_fails(rope_resolve(&rope, &settings, RB_MAX_HEAD_DIM + 2, 64, 64, "here", &err), RB_EINVAL, "rotary dim");
    settings.theta = INFINITY;
    assert_fails(rope_resolve(&rope, &settings, 8, 64, 64, "here", &err), RB_EINVAL, "rope_theta");
}

/* What transformers fills in: no type is default, a llama without a base has 10000, scaling without the context that
 * the model was trained on means its max_position_embeddings. */
static void reads_what_transformers_reads(void **state)
{
    (void)state;
    static model_config a, b;
    rb_error err = {0};
    assert_ok(PARSE(&a, LLAMA, {0}));
    assert_string_equal(a.defaults, "");
    static const char *const absent[] = {NULL, "null", "{}", "{\"rope_type\":\"default\"}",
                                         "{\"type\":\"default\",\"factor\":1.0}"};
    for (size_t i = 0; i < RB_COUNT(absent); i++) {
        assert_ok(PARSE(&b, LLAMA, {"rope_parameters", absent[i]}));
        assert_memory_equal(&a.facts.rope, &b.facts.rope, sizeof a.facts.rope);
        assert_string_equal(b.defaults, "rope_theta 10000");
    }
    assert_ok(PARSE(&b, LLAMA, {"rope_parameters", "{\"rope_theta\":10000}"}));
    assert_memory_equal(&a.facts.rope, &b.facts.rope, sizeof a.facts.rope);
    assert_string_equal(b.defaults, "");
    assert_ok(PARSE(&a, LLAMA_OLD, {"rope_scaling", "{\"type\":\"linear\",\"factor\":2}"}, {"rope_theta", NULL}));
    assert_true(a.facts.rope.kind == ROPE_LINEAR && a.facts.rope.theta == 10000);
    assert_ok(PARSE(&a, LLAMA,
                    {"rope_parameters", "{\"rope_theta\":10000,\"rope_type\":\"llama3\",\"factor\":8,"
                                        "\"low_freq_factor\":1,\"high_freq_factor\":4}"}));
    assert_int_equal(a.facts.rope.original_max_position, 512);
}

/* Dynamic scaling turns by the longest sequence; longrope has two sets of factors. */
static void rope_follows_the_length_of_the_text(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(PARSE(&config, LLAMA, {"head_dim", "8"},
                    {"rope_parameters", "{\"rope_theta\":1e4,\"rope_type\":\"dynamic\",\"factor\":2}"}));
    assert_close(config.facts.rope.inv_freq[1], 0.1, 1e-15);
    assert_ok(model_config_resolve_rope(&config, 100, "config.json", &err));
    assert_close(config.facts.rope.inv_freq[1], 0.1, 1e-15);
    assert_ok(model_config_resolve_rope(&config, 1024, "config.json", &err));
    assert_close(config.facts.rope.inv_freq[1], pow(1e4 * pow(3, 8.0 / 6), -0.25), 1e-15); /* 2 * 1024 / 512 - 1 = 3 */

    assert_ok(PARSE(&config, LLAMA, {"head_dim", "8"},
                    {"rope_parameters", "{\"rope_theta\":1e4,\"rope_type\":\"longrope\",\"short_factor\":[1,1,1,1],"
                                        "\"long_factor\":[1,2,4,8],\"original_max_position_embeddings\":128}"}));
    assert_close(config.facts.rope.attention_factor, sqrt(1 + log(4) / log(128)), 1e-15);
    assert_ok(model_config_resolve_rope(&config, 128, "config.json", &err));
    assert_close(config.facts.rope.inv_freq[3], 0.001, 1e-15);
    assert_ok(model_config_resolve_rope(&config, 129, "config.json", &err));
    assert_close(config.facts.rope.inv_freq[3], 0.001 / 8, 1e-15);
}

/* ---- real files ------------------------------------------------------------------------------ */

static void reads_the_demo_model(void **state)
{
    (void)state;
    static model_config config;
    rb_error err = {0};
    assert_ok(model_config_read(&config, "configs/demo-llama", &err));
    assert_int_equal(config.facts.n_q_heads, 6);
    assert_int_equal(config.facts.head_dim, 64);
    assert_true(config.tied_embeddings);
    assert_fails(model_config_read(&config, "configs/no-such-model", &err), RB_EIO, "no-such-model/config.json");
}

static void survives_text_cut_at_any_byte(void **state)
{
    (void)state;
    static model_config config;
    for (size_t n = 0; n < sizeof QWEN3 - 1; n++) {
        rb_error err = {0};
        assert_int_equal(model_config_parse(&config, QWEN3, n, "config.json", &err), RB_EFORMAT);
        assert_true(strstr(err.msg, "config.json") != NULL);
    }
}

#define ROPE(text)                                           \
    {                                                        \
        "rope_parameters", "{\"rope_theta\":10000," text "}" \
    }
#define LLAMA3(rest) ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4" rest)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_llama),
        cmocka_unit_test(reads_llama_options),
        cmocka_unit_test(biases_and_norms_follow_the_family),
        cmocka_unit_test(windows_follow_the_family),
        cmocka_unit_test(default_rope_is_a_geometric_series),
        cmocka_unit_test(linear_rope_divides_by_its_factor),
        cmocka_unit_test(llama3_rope_blends_by_wavelength),
        cmocka_unit_test(old_and_new_settings_give_the_same_rope),
        cmocka_unit_test(rope_turns_keys_as_transformers_does_in_the_demo),
        cmocka_unit_test(rope_turns_keys_as_transformers_does),
        cmocka_unit_test(rope_resolve_checks_what_it_is_given),
        cmocka_unit_test(reads_the_demo_model),
        cmocka_unit_test(reads_what_transformers_reads),
        cmocka_unit_test(rope_follows_the_length_of_the_text),
        cmocka_unit_test(survives_text_cut_at_any_byte),

        REFUSES(refuses_document_that_is_no_object, "[1]", RB_EFORMAT, "not a JSON object", {0}),
        REFUSES(refuses_missing_model_type, LLAMA, RB_EFORMAT, "model_type", {"model_type", NULL}),
        REFUSES(refuses_unknown_model_type, LLAMA, RB_EUNSUPPORTED, "model_type \"mamba\" is not supported",
                {"model_type", "\"mamba\""}),
        REFUSES(refuses_multimodal_model, LLAMA, RB_EUNSUPPORTED, "multimodal", {"text_config", "{}"}),
        REFUSES(refuses_classifier, LLAMA, RB_EUNSUPPORTED, "LlamaForSequenceClassification",
                {"architectures", "[\"LlamaForSequenceClassification\"]"}),
        REFUSES(refuses_empty_architectures, LLAMA, RB_EUNSUPPORTED, "LlamaForCausalLM", {"architectures", "[]"}),
        REFUSES(refuses_quantized_weights, LLAMA, RB_EUNSUPPORTED, "gptq",
                {"quantization_config", "{\"quant_method\":\"gptq\"}"}),
        REFUSES(refuses_unnamed_quantization, LLAMA, RB_EUNSUPPORTED, "unnamed", {"quantization_config", "3"}),
        REFUSES(refuses_gelu, LLAMA, RB_EUNSUPPORTED, "hidden_act is \"gelu\"", {"hidden_act", "\"gelu\""}),
        REFUSES(refuses_missing_activation, LLAMA, RB_EFORMAT, "hidden_act", {"hidden_act", NULL}),

        REFUSES(refuses_missing_layers, LLAMA, RB_EFORMAT, "num_hidden_layers", {"num_hidden_layers", NULL}),
        REFUSES(refuses_zero_layers, LLAMA, RB_EINVAL, "num_hidden_layers", {"num_hidden_layers", "0"}),
        REFUSES(refuses_too_many_layers, LLAMA, RB_EINVAL, "num_hidden_layers", {"num_hidden_layers", "1025"}),
        REFUSES(refuses_fractional_heads, LLAMA, RB_EINVAL, "num_attention_heads", {"num_attention_heads", "4.5"}),
        REFUSES(refuses_heads_as_string, LLAMA, RB_EFORMAT, "num_attention_heads", {"num_attention_heads", "\"4\""}),
        REFUSES(refuses_negative_hidden_size, LLAMA, RB_EINVAL, "hidden_size", {"hidden_size", "-96"}),
        REFUSES(refuses_huge_intermediate_size, LLAMA, RB_EINVAL, "intermediate_size", {"intermediate_size", "1e10"}),
        REFUSES(refuses_huge_vocabulary, LLAMA, RB_EINVAL, "vocab_size", {"vocab_size", "16777217"}),
        REFUSES(refuses_heads_that_do_not_divide, LLAMA, RB_EINVAL,
                "num_attention_heads 4 is not a multiple of num_key_value_heads 3", {"num_key_value_heads", "3"}),
        REFUSES(refuses_hidden_size_that_does_not_divide, LLAMA, RB_EINVAL, "hidden_size 98 is not a multiple",
                {"hidden_size", "98"}),
        REFUSES(refuses_odd_head_dim, LLAMA, RB_EINVAL, "head_dim 33", {"head_dim", "33"}),
        REFUSES(refuses_wide_head_dim, LLAMA, RB_EINVAL, "head_dim", {"head_dim", "1026"}),
        REFUSES(refuses_wide_derived_head_dim, LLAMA, RB_EINVAL, "head_dim 2048", {"hidden_size", "8192"}),
        REFUSES(refuses_qwen3_without_head_dim, QWEN3, RB_EFORMAT, "head_dim is missing", {"head_dim", NULL}),
        REFUSES(refuses_mistral_without_kv_heads, MISTRAL, RB_EFORMAT, "num_key_value_heads is missing",
                {"num_key_value_heads", NULL}),
        REFUSES(refuses_missing_eps, LLAMA, RB_EFORMAT, "rms_norm_eps", {"rms_norm_eps", NULL}),
        REFUSES(refuses_zero_eps, LLAMA, RB_EINVAL, "rms_norm_eps", {"rms_norm_eps", "0"}),
        REFUSES(refuses_missing_max_position, LLAMA, RB_EFORMAT, "max_position_embeddings",
                {"max_position_embeddings", NULL}),
        REFUSES(refuses_tying_that_is_no_bool, LLAMA, RB_EFORMAT, "tie_word_embeddings", {"tie_word_embeddings", "1"}),
        REFUSES(refuses_mistral_with_attention_bias, MISTRAL, RB_EUNSUPPORTED, "attention_bias",
                {"attention_bias", "true"}),
        REFUSES(refuses_qwen2_with_mlp_bias, QWEN2, RB_EUNSUPPORTED, "mlp_bias", {"mlp_bias", "true"}),

        REFUSES(refuses_mistral_without_word_on_its_window, MISTRAL, RB_EFORMAT, "sliding_window is missing",
                {"sliding_window", NULL}),
        REFUSES(refuses_zero_window, MISTRAL, RB_EINVAL, "sliding_window", {"sliding_window", "0"}),
        REFUSES(refuses_llama_with_window, LLAMA, RB_EUNSUPPORTED, "sliding_window", {"sliding_window", "16"}),
        REFUSES(refuses_qwen_window_without_size, QWEN2, RB_EFORMAT, "sliding_window", {"use_sliding_window", "true"}),
        REFUSES(refuses_qwen_window_without_layers, QWEN2, RB_EFORMAT, "max_window_layers",
                {"use_sliding_window", "true"}, {"sliding_window", "16"}),
        REFUSES(refuses_sliding_layers_with_the_window_off, QWEN2, RB_EUNSUPPORTED,
                "layer_types[1] is \"sliding_attention\"",
                {"layer_types", "[\"full_attention\",\"sliding_attention\",\"full_attention\"]"}),
        REFUSES(refuses_unknown_layer_type, LLAMA, RB_EUNSUPPORTED, "layer_types[0] is \"chunked_attention\"",
                {"layer_types", "[\"chunked_attention\",\"full_attention\",\"full_attention\"]"}),
        REFUSES(refuses_layer_type_that_is_a_number, LLAMA, RB_EUNSUPPORTED, "layer_types[0]",
                {"layer_types", "[1,2,3]"}),
        REFUSES(refuses_too_few_layer_types, QWEN3, RB_EINVAL, "layer_types has 1 entries, num_hidden_layers is 3",
                {"layer_types", "[\"full_attention\"]"}),
        REFUSES(refuses_too_many_layer_types, QWEN3, RB_EINVAL, "layer_types has 4 entries",
                {"use_sliding_window", "true"}, {"sliding_window", "16"},
                {"layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]"}),

        REFUSES(refuses_missing_rope, MISTRAL, RB_EFORMAT, "no rope_theta", {"rope_parameters", NULL}),
        REFUSES(refuses_null_rope, MISTRAL, RB_EFORMAT, "no rope_theta", {"rope_parameters", "null"}),
        REFUSES(refuses_rope_without_base, MISTRAL, RB_EFORMAT, "no rope_theta",
                {"rope_parameters", "{\"rope_type\":\"default\"}"}),
        REFUSES(refuses_rope_that_is_a_number, LLAMA, RB_EFORMAT, "rope_parameters", {"rope_parameters", "3"}),
        REFUSES(refuses_two_bases, LLAMA, RB_EINVAL, "rope_theta is 10000, but 500000", {"rope_theta", "500000"}),
        REFUSES(refuses_both_generations, LLAMA, RB_EINVAL, "both rope_parameters and rope_scaling",
                {"rope_scaling", "{\"type\":\"linear\",\"factor\":2}"}),
        REFUSES(refuses_two_types, LLAMA, RB_EINVAL, "rope_type is \"default\" and type is \"mrope\"",
                ROPE("\"rope_type\":\"default\",\"type\":\"mrope\"")),
        REFUSES(refuses_mrope, LLAMA, RB_EUNSUPPORTED, "rope_type \"mrope\" is not supported",
                ROPE("\"rope_type\":\"mrope\"")),
        REFUSES(refuses_dynamic_without_factor, LLAMA, RB_EFORMAT, "factor", ROPE("\"rope_type\":\"dynamic\"")),
        REFUSES(refuses_longrope_without_factors, LLAMA, RB_EFORMAT, "short_factor",
                ROPE("\"rope_type\":\"longrope\"")),
        REFUSES(refuses_longrope_with_few_factors, LLAMA, RB_EINVAL, "1 short and 1 long factors, expected 12",
                ROPE("\"rope_type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[2]")),
        REFUSES(refuses_negative_factors, LLAMA, RB_EINVAL, "long_factor[0]",
                ROPE("\"rope_type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[-2]")),
        REFUSES(refuses_yarn_with_slow_above_fast, LLAMA, RB_EINVAL, "beta_slow 40 and beta_fast 32",
                ROPE("\"rope_type\":\"yarn\",\"factor\":4,\"beta_slow\":40")),
        REFUSES(refuses_rope_per_layer_type, LLAMA, RB_EUNSUPPORTED, "llama has no settings per layer type",
                {"rope_parameters",
                 "{\"rope_theta\":1e4,\"full_attention\":{\"rope_type\":\"default\",\"rope_theta\":1e6}}"}),
        REFUSES(refuses_unread_rope_setting, LLAMA, RB_EUNSUPPORTED, "\"attention_factor\"",
                LLAMA3(",\"original_max_position_embeddings\":64,\"attention_factor\":2")),
        REFUSES(refuses_factor_without_scaling, LLAMA, RB_EUNSUPPORTED,
                "\"factor\" is not a setting of rope_type default", ROPE("\"rope_type\":\"default\",\"factor\":8")),
        REFUSES(refuses_partial_rope, LLAMA, RB_EUNSUPPORTED, "partial_rotary_factor is 0.5",
                ROPE("\"rope_type\":\"default\",\"partial_rotary_factor\":0.5")),
        REFUSES(refuses_more_than_the_whole_head, LLAMA, RB_EINVAL,
                "partial_rotary_factor 1e+300, expected a number above 0 and up to 1",
                ROPE("\"rope_type\":\"proportional\",\"partial_rotary_factor\":1e300")),
        REFUSES(refuses_partial_rope_at_the_top, LLAMA, RB_EUNSUPPORTED, "partial_rotary_factor is 0.25",
                {"partial_rotary_factor", "0.25"}),
        REFUSES(refuses_linear_without_factor, LLAMA, RB_EFORMAT, "factor", ROPE("\"rope_type\":\"linear\"")),
        REFUSES(refuses_factor_below_one, LLAMA, RB_EINVAL, "rope factor 0.5",
                ROPE("\"rope_type\":\"linear\",\"factor\":0.5")),
        REFUSES(refuses_negative_base, LLAMA, RB_EINVAL, "rope_theta -1",
                {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":-1}"}),
        REFUSES(refuses_base_as_string, LLAMA, RB_EFORMAT, "rope_theta",
                {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":\"1e4\"}"}),
        REFUSES(refuses_llama3_with_equal_factors, LLAMA, RB_EINVAL, "low_freq_factor 4 and high_freq_factor 4",
                ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_"
                     "max_position_embeddings\":64")),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
