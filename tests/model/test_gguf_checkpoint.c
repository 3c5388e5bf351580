/* A GGUF as a checkpoint: tensors, configuration and tokenizer are those of the folder that it stands for.
 *
 *   test_gguf_checkpoint --write FILE.gguf FOLDER    the toy model in both forms, for tests of programs
 *   test_gguf_checkpoint --convert FILE.gguf FOLDER  what is read of a GGUF, as a folder in f32 */
#include "tests/model/gguf_toy_model.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/message.h"
#include "model/checkpoint.h"
#include "model/gguf/gguf_config.h"
#include "model/gguf/gguf_merges.h"
#include "model/gguf/gguf_names.h"
#include "model/gguf/gguf_tokenizer.h"
#include "model/gguf/gguf_weights.h"
#include "model/model_tokenizer.h"

/* ---- tensors --------------------------------------------------------------------------------- */

static void every_tensor_has_its_name_and_values(void **state)
{
    rb_error err = {0};
    toy_model m;
    checkpoint *ckpt;
    (void)state;
    toy_make(&m);
    assert_ok(checkpoint_open(&ckpt, g_end(&m.gguf, scratch_path("toy.gguf")), &err));
    assert_ok(checkpoint_check(ckpt, &err));
    for (int i = 0; i < m.n; i++) {
        const safetensor *t = &m.tensors[i];
        float *values = malloc(t->size_bytes);
        assert_non_null(values);
        assert_ok(checkpoint_load(ckpt, t->name, t->rank, t->shape, values, &err));
        if (memcmp(values, t->data, t->size_bytes) != 0) fail_msg("%s has other values", t->name);
        free(values);
    }
    assert_false(checkpoint_has(ckpt, "lm_head.weight"));
    checkpoint_close(ckpt);
    toy_free(&m);
}

static void rows_are_those_of_the_whole(void **state)
{
    static const char *const names[] = {"model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.k_proj.weight"};
    rb_error err = {0};
    toy_model m;
    checkpoint *ckpt;
    (void)state;
    toy_make(&m);
    assert_ok(checkpoint_open(&ckpt, g_end(&m.gguf, scratch_path("toy.gguf")), &err));
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        const safetensor *t = m.tensors;
        while (strcmp(t->name, names[i]) != 0) t++;
        for (int64_t first = 0; first < t->shape[0]; first += 3) {
            const int64_t n = t->shape[0] - first < 5 ? t->shape[0] - first : 5;
            float rows[5 * TOY_HIDDEN];
            assert_ok(checkpoint_load_rows(ckpt, t->name, 2, t->shape, first, n, rows, &err));
            assert_memory_equal(rows, (const float *)t->data + first * TOY_HIDDEN, (size_t)(n * TOY_HIDDEN) * 4);
        }
    }
    checkpoint_close(ckpt);
    toy_free(&m);
}

static void a_place_says_whether_its_bytes_are_elements(void **state)
{
    rb_error err = {0};
    toy_model m;
    checkpoint *ckpt;
    tensor_place place;
    const int64_t norm[1] = {TOY_HIDDEN}, q[2] = {TOY_HEADS * TOY_HEAD_DIM, TOY_HIDDEN};
    float value;
    (void)state;
    toy_make(&m);
    const char *path = g_end(&m.gguf, scratch_path("toy.gguf"));
    assert_ok(checkpoint_open(&ckpt, path, &err));
    assert_ok(checkpoint_place(ckpt, "model.layers.0.self_attn.q_proj.weight", 2, q, &place, &err));
    assert_false(place.is_plain);
    assert_ok(checkpoint_place(ckpt, "model.norm.weight", 1, norm, &place, &err));
    assert_true(place.is_plain);
    assert_string_equal(place.path, path);
    FILE *in = fopen(place.path, "rb");
    assert_non_null(in);
    assert_int_equal(fseek(in, (long)place.offset, SEEK_SET), 0);
    assert_int_equal(fread(&value, sizeof value, 1, in), 1);
    assert_memory_equal(&value, m.tensors[m.n - 1].data, sizeof value);
    fclose(in);
    checkpoint_close(ckpt);
    toy_free(&m);
}

static void a_tensor_that_nothing_reads_is_named(void **state)
{
    static const char *const names[] = {"blk.0.attn_sinks.weight", "blk.00.attn_q.weight", "blk.x.attn_q.weight",
                                        "blk.0.attn_q.scale",      "token_types.weight",   "blk.0.attn_q_norm.weight",
                                        "rope_factors_long.weight"};
    static const float zeros[TOY_HIDDEN];
    rb_error err = {0};
    (void)state;
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        toy_model m;
        checkpoint *ckpt;
        toy_make(&m);
        g_tensor(&m.gguf, names[i], TOY_HIDDEN, 0, G_TYPE_F32, zeros, sizeof zeros);
        assert_fails(checkpoint_open(&ckpt, g_end(&m.gguf, scratch_path("more.gguf")), &err), RB_EUNSUPPORTED,
                     names[i]);
        assert_null(ckpt);
        toy_free(&m);
    }
}

/* Norms of gemma3 have 1 added; its family is not needed to see that its names say so. */
static void names_and_storage_follow_the_architecture(void **state)
{
    static const struct {
        const char *architecture, *gguf, *hf;
        weight_storage storage;
    } cases[] = {
        {"llama", "blk.31.attn_k.weight", "model.layers.31.self_attn.k_proj.weight", WEIGHT_KEY_ROWS_INTERLEAVED},
        {"llama", "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", WEIGHT_QUERY_ROWS_INTERLEAVED},
        {"llama", "output_norm.weight", "model.norm.weight", WEIGHT_AS_IS},
        {"qwen2", "blk.2.attn_q.bias", "model.layers.2.self_attn.q_proj.bias", WEIGHT_AS_IS},
        {"qwen2", "blk.2.ffn_norm.weight", "model.layers.2.post_attention_layernorm.weight", WEIGHT_AS_IS},
        {"qwen3", "blk.2.attn_q_norm.weight", "model.layers.2.self_attn.q_norm.weight", WEIGHT_AS_IS},
        {"qwen3", "output.weight", "lm_head.weight", WEIGHT_AS_IS},
        {"gemma3", "blk.7.ffn_norm.weight", "model.layers.7.pre_feedforward_layernorm.weight", WEIGHT_ONE_ADDED},
        {"gemma3", "blk.7.post_ffw_norm.weight", "model.layers.7.post_feedforward_layernorm.weight", WEIGHT_ONE_ADDED},
        {"gemma3", "blk.7.attn_k_norm.weight", "model.layers.7.self_attn.k_norm.weight", WEIGHT_ONE_ADDED},
        {"gemma3", "output_norm.weight", "model.norm.weight", WEIGHT_ONE_ADDED},
        {"gemma3", "blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight", WEIGHT_AS_IS},
    };
    rb_error err = {0};
    (void)state;
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        static const float zeros[TOY_HIDDEN];
        gguf_made made = g_begin();
        gguf_file *file;
        weight_map map = {0};
        g_key_string(&made, "general.architecture", cases[i].architecture);
        g_tensor(&made, cases[i].gguf, TOY_HIDDEN, 0, G_TYPE_F32, zeros, sizeof zeros);
        assert_ok(gguf_open(&file, g_end(&made, scratch_path("name.gguf")), &err));
        assert_ok(gguf_weights_open(&map, file, &err));
        const weight_entry *entry = weight_map_find(&map, cases[i].hf);
        if (!entry) fail_msg("%s: no %s", cases[i].gguf, cases[i].hf);
        assert_int_equal(entry->storage, cases[i].storage);
        weight_map_close(&map);
        gguf_close(file);
    }
}

/* ---- configuration --------------------------------------------------------------------------- */

/* Metadata of an architecture without its own keys, and an embedding of 8 rows. */
static gguf_made plain_metadata(const char *architecture, uint32_t n_layers)
{
    static const float embedding[8 * 64];
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"context_length", 4096}, {"embedding_length", 64}, {"feed_forward_length", 96}, {"attention.head_count", 4}};
    gguf_made made = g_begin();
    char key[64];
    g_key_string(&made, "general.architecture", architecture);
    snprintf(key, sizeof key, "%s.block_count", architecture);
    g_key_u32(&made, key, n_layers);
    for (size_t i = 0; i < RB_COUNT(numbers); i++) {
        snprintf(key, sizeof key, "%s.%s", architecture, numbers[i].key);
        g_key_u32(&made, key, numbers[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", architecture);
    g_key_f32(&made, key, 1e-6f);
    g_tensor(&made, "token_embd.weight", 8, 64, G_TYPE_F32, embedding, sizeof embedding);
    return made;
}

static rb_status config_of(gguf_made *made, cJSON **json, rb_error *err)
{
    gguf_file *file = NULL;
    char *text = NULL;
    rb_status st = gguf_open(&file, g_end(made, scratch_path("config.gguf")), err);
    if (st == RB_OK) st = gguf_config_text(&text, file, err);
    if (st == RB_OK) st = rb_json_parse(json, text, strlen(text), "config", err);
    free(text);
    gguf_close(file);
    return st;
}

static double number_of(const cJSON *json, const char *key)
{
    const cJSON *item = rb_json_find(json, key);
    if (!item) fail_msg("no %s", key);
    return item->valuedouble;
}

static void a_llama_is_described_as_its_config_would(void **state)
{
    rb_error err = {0};
    toy_model m;
    cJSON *json;
    (void)state;
    toy_make(&m);
    assert_ok(config_of(&m.gguf, &json, &err));
    assert_string_equal(rb_json_find(json, "model_type")->valuestring, "llama");
    assert_true(number_of(json, "rms_norm_eps") == 1e-5); /* not 9.99999974e-06, the f32 */
    assert_true(number_of(json, "rope_theta") == 100000);
    assert_int_equal(number_of(json, "vocab_size"), TOY_TOKENS);
    assert_int_equal(number_of(json, "num_key_value_heads"), TOY_KV_HEADS);
    assert_int_equal(number_of(json, "head_dim"), TOY_HEAD_DIM);
    assert_true(cJSON_IsTrue(rb_json_find(json, "tie_word_embeddings")));
    assert_null(rb_json_find(json, "rope_scaling"));
    cJSON_Delete(json);
    toy_free(&m);
}

static void gemma3_gets_what_llama_cpp_has_in_its_code(void **state)
{
    rb_error err = {0};
    cJSON *json;
    (void)state;
    for (uint32_t n_layers = 8; n_layers <= 62; n_layers += 54) {
        gguf_made made = plain_metadata("gemma3", n_layers);
        g_key_u32(&made, "gemma3.attention.key_length", 32);
        g_key_u32(&made, "gemma3.attention.sliding_window", 512);
        g_key_f32(&made, "gemma3.rope.freq_base", 1e6f);
        g_key_string(&made, "gemma3.rope.scaling.type", "linear");
        g_key_f32(&made, "gemma3.rope.scaling.factor", 8);
        assert_ok(config_of(&made, &json, &err));
        assert_string_equal(rb_json_find(json, "model_type")->valuestring, "gemma3_text");
        assert_string_equal(rb_json_find(json, "hidden_activation")->valuestring, "gelu_pytorch_tanh");
        /* 27B has 62 layers and scales by hidden_size / heads, the others by head_dim. */
        assert_int_equal(number_of(json, "query_pre_attn_scalar"), n_layers == 62 ? 64 / 4 : 32);
        assert_true(number_of(json, "rope_local_base_freq") == 10000);
        const cJSON *types = rb_json_find(json, "layer_types"), *scaling = rb_json_find(json, "rope_scaling");
        assert_int_equal(cJSON_GetArraySize(types), n_layers);
        for (int i = 0; i < 8; i++)
            assert_string_equal(cJSON_GetArrayItem(types, i)->valuestring,
                                i == 5 ? "full_attention" : "sliding_attention");
        assert_string_equal(rb_json_find(scaling, "rope_type")->valuestring, "linear");
        assert_int_equal(number_of(scaling, "factor"), 8);
        cJSON_Delete(json);
    }
}

static void rope_factors_divide_each_frequency(void **state)
{
    static const float factors[8] = {1, 1, 1.5f, 2, 4, 8, 8, 8};
    rb_error err = {0};
    cJSON *json;
    (void)state;
    gguf_made made = plain_metadata("llama", 2);
    g_tensor(&made, "rope_freqs.weight", 8, 0, G_TYPE_F32, factors, sizeof factors);
    assert_ok(config_of(&made, &json, &err));
    const cJSON *scaling = rb_json_find(json, "rope_scaling");
    assert_string_equal(rb_json_find(scaling, "rope_type")->valuestring, "longrope");
    assert_int_equal(number_of(scaling, "attention_factor"), 1);
    assert_int_equal(number_of(scaling, "original_max_position_embeddings"), 4096);
    for (int i = 0; i < 8; i++) {
        assert_true(cJSON_GetArrayItem(rb_json_find(scaling, "short_factor"), i)->valuedouble == (double)factors[i]);
        assert_true(cJSON_GetArrayItem(rb_json_find(scaling, "long_factor"), i)->valuedouble == (double)factors[i]);
    }
    cJSON_Delete(json);

    made = plain_metadata("llama", 2);
    g_tensor(&made, "rope_freqs.weight", 7, 0, G_TYPE_F32, factors, 28);
    assert_fails(config_of(&made, &json, &err), RB_EFORMAT,
                 "tensor \"rope_freqs.weight\": 7 factors in F32, expected 8");
    made = plain_metadata("llama", 2);
    g_tensor(&made, "rope_freqs.weight", 8, 0, G_TYPE_F32, (const float[8]){1, 1, 0, 1, 1, 1, 1, 1}, 32);
    assert_fails(config_of(&made, &json, &err), RB_ENONFINITE, "factor 2 is 0, expected a number above 0");
    made = plain_metadata("llama", 2);
    g_tensor(&made, "rope_freqs.weight", 8, 0, G_TYPE_F32, factors, sizeof factors);
    g_key_string(&made, "llama.rope.scaling.type", "yarn");
    assert_fails(config_of(&made, &json, &err), RB_EUNSUPPORTED, "expected one of them");
}

static void yarn_and_old_linear_scaling_are_written_down(void **state)
{
    rb_error err = {0};
    cJSON *json;
    (void)state;
    gguf_made made = plain_metadata("qwen3", 2);
    g_key_string(&made, "qwen3.rope.scaling.type", "yarn");
    g_key_f32(&made, "qwen3.rope.scaling.factor", 4);
    g_key_u32(&made, "qwen3.rope.scaling.original_context_length", 1024);
    assert_ok(config_of(&made, &json, &err));
    assert_string_equal(rb_json_find(rb_json_find(json, "rope_scaling"), "rope_type")->valuestring, "yarn");
    assert_int_equal(number_of(rb_json_find(json, "rope_scaling"), "original_max_position_embeddings"), 1024);
    cJSON_Delete(json);
    made = plain_metadata("llama", 2);
    g_key_f32(&made, "llama.rope.scale_linear", 2);
    assert_ok(config_of(&made, &json, &err));
    assert_string_equal(rb_json_find(rb_json_find(json, "rope_scaling"), "rope_type")->valuestring, "linear");
    assert_int_equal(number_of(rb_json_find(json, "rope_scaling"), "factor"), 2);
    cJSON_Delete(json);
}

static void what_is_not_understood_is_named(void **state)
{
    static const struct {
        const char *key;
        uint32_t value;
        const char *message;
    } numbers[] = {
        {"llama.expert_count", 8, "metadata \"llama.expert_count\" is 8, which is not understood here"},
        {"llama.attention.sliding_window", 4096, "metadata \"llama.attention.sliding_window\" is 4096"},
        {"llama.new_idea", 1, "metadata \"llama.new_idea\" is 1"},
        {"llama.rope.dimension_count", 8, "\"llama.rope.dimension_count\" is 8, expected 16, the head dim"},
        {"llama.attention.value_length", 32, "\"llama.attention.value_length\" is 32, expected 16"},
        {"llama.attention.head_count_kv", 0, "is 0, expected a whole number from 1"},
    };
    static const struct {
        const char *key, *value, *message;
    } words[] = {
        {"llama.rope.scaling.type", "longrope", "is \"longrope\", expected none, linear or yarn"},
        {"general.type", "adapter", "general.type is \"adapter\", expected \"model\""},
        {"llama.tensor_layout_of_tomorrow", "x", "is \"x\", which is not understood here"},
    };
    rb_error err = {0};
    cJSON *json;
    (void)state;
    for (size_t i = 0; i < RB_COUNT(numbers); i++) {
        gguf_made made = plain_metadata("llama", 2);
        g_key_u32(&made, numbers[i].key, numbers[i].value);
        memset(&err, 0, sizeof err);
        assert_int_not_equal(config_of(&made, &json, &err), RB_OK);
        if (!strstr(err.msg, numbers[i].message)) fail_msg("%s: \"%s\"", numbers[i].message, err.msg);
    }
    for (size_t i = 0; i < RB_COUNT(words); i++) {
        gguf_made made = plain_metadata("llama", 2);
        g_key_string(&made, words[i].key, words[i].value);
        assert_fails(config_of(&made, &json, &err), RB_EUNSUPPORTED, words[i].message);
    }
    gguf_made made = plain_metadata("falcon", 2);
    assert_fails(config_of(&made, &json, &err), RB_EUNSUPPORTED,
                 "general.architecture is \"falcon\", expected llama, qwen2, qwen3 or gemma3");
    made = g_begin();
    assert_fails(config_of(&made, &json, &err), RB_EFORMAT, "no metadata \"general.architecture\"");
    made = plain_metadata("llama", 2);
    g_key_u32(&made, "llama.expert_count", 0); /* written by old converters */
    assert_ok(config_of(&made, &json, &err));
    cJSON_Delete(json);
}

/* ---- tokenizer ------------------------------------------------------------------------------- */

static void assert_tokens(const char *path, const char *text, const int32_t *expected, int64_t n_expected)
{
    rb_error err = {0};
    tokenizer *t;
    int32_t *ids;
    int64_t n;
    assert_ok(tokenizer_open_model(&t, path, &err));
    assert_ok(tokenizer_encode(t, text, strlen(text), &ids, &n, &err));
    assert_int_equal(n, n_expected);
    assert_memory_equal(ids, expected, (size_t)n * sizeof *ids);
    free(ids);
    tokenizer_close(t);
}
#define TOKENS(path, text, ...) \
    assert_tokens(path, text, (const int32_t[]){__VA_ARGS__}, (int64_t)RB_COUNT(((const int32_t[]){__VA_ARGS__})))

static void byte_level_merges_and_added_tokens_work(void **state)
{
    toy_model m;
    (void)state;
    toy_make(&m);
    const char *path = g_end(&m.gguf, scratch_path("toy.gguf"));
    TOKENS(path, "abc a\nbc", 7, 4, 1, 5, 9);
    TOKENS(path, "ab<t>c<s>", 6, 8, 3, 0);
    toy_free(&m);
}

#define UNDER "\xe2\x96\x81"

/* Pieces of sentencepiece: "abc" can be cut into "ab" "c" or "a" "bc"; the better score of "bc" decides. */
static gguf_made sentencepiece(int space_prefix, int bos)
{
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "<0x41>", UNDER, "a",
                                         "b",     "c",   "ab",   "bc",     "cab", UNDER "a"};
    static const int32_t types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1};
    static const float scores[] = {0, 0, 0, 0, -9, -9, -9, -9, -2, -1, -3, -4};
    enum { N = RB_COUNT(pieces) };
    gguf_made made = g_begin();
    g_key_string(&made, "general.architecture", "llama");
    g_key_string(&made, "tokenizer.ggml.model", "llama");
    g_key_strings(&made, "tokenizer.ggml.tokens", pieces, N);
    g_key_items(&made, "tokenizer.ggml.token_type", G_I32, types, N);
    g_key_items(&made, "tokenizer.ggml.scores", G_F32, scores, N);
    if (space_prefix >= 0) g_key_bool(&made, "tokenizer.ggml.add_space_prefix", space_prefix);
    if (bos >= 0) g_key_bool(&made, "tokenizer.ggml.add_bos_token", bos);
    return made;
}

static void sentencepiece_scores_order_the_merges(void **state)
{
    (void)state;
    gguf_made made = sentencepiece(0, 1);
    const char *path = g_end(&made, scratch_path("sp.gguf"));
    TOKENS(path, "abc", 5, 9);      /* bc is better than ab */
    TOKENS(path, "cab", 10);        /* ab first, then c ab */
    TOKENS(path, "ab a", 8, 11);    /* U+2581 a */
    TOKENS(path, "A<s>a", 3, 1, 5); /* a byte, an added token */
    made = sentencepiece(1, 1);
    TOKENS(g_end(&made, scratch_path("sp.gguf")), "bca", 4, 9, 5); /* a space in front */
    made = sentencepiece(-1, 1);
    TOKENS(g_end(&made, scratch_path("sp.gguf")), "bca", 4, 9, 5); /* as llama.cpp by default */
}

static void a_tokenizer_with_any_byte_changed_is_read_or_refused(void **state)
{
    gguf_made made = sentencepiece(1, 1);
    const gguf_bytes file = g_file(&made);
    const char *path = scratch_path("flip.gguf");
    (void)state;
    for (size_t at = 0; at < 2 * file.n; at++) {
        const unsigned char change = at < file.n ? 0x80 : 0x01;
        rb_error err = {0};
        tokenizer *t = NULL;
        file.at[at % file.n] ^= change;
        g_write_bytes(path, file.at, file.n);
        if (tokenizer_open_model(&t, path, &err) != RB_OK) {
            assert_true(err.msg[0] != '\0');
            assert_null(strchr(err.msg, '\n'));
        }
        tokenizer_close(t);
        file.at[at % file.n] ^= change;
    }
    free(file.at);
    g_free(&made);
}

/* The document, and whether it puts a token in front of every text. */
static bool adds_bos(gguf_made *made, int32_t *id)
{
    rb_error err = {0};
    gguf_file *file;
    char *text;
    size_t length;
    cJSON *json;
    assert_ok(gguf_open(&file, g_end(made, scratch_path("bos.gguf")), &err));
    assert_ok(gguf_tokenizer_text(&text, &length, file, &err));
    assert_int_equal(strlen(text), length);
    assert_ok(rb_json_parse(&json, text, length, "tokenizer", &err));
    const cJSON *post = rb_json_find(json, "post_processor");
    if (post) {
        const cJSON *token = rb_json_find(post, "special_tokens")->child;
        *id = rb_json_find(token, "ids")->child->valueint;
        assert_string_equal(rb_json_find(rb_json_find(post, "single")->child, "SpecialToken")->child->valuestring,
                            token->string);
    }
    cJSON_Delete(json);
    free(text);
    gguf_close(file);
    return post != NULL;
}

static void beginning_of_text_is_as_the_file_or_llama_cpp_says(void **state)
{
    int32_t id = -1;
    (void)state;
    gguf_made made = sentencepiece(0, -1);
    assert_true(adds_bos(&made, &id));
    assert_int_equal(id, 1);
    made = sentencepiece(0, 0);
    assert_false(adds_bos(&made, &id));
    made = sentencepiece(0, 1);
    g_key_u32(&made, "tokenizer.ggml.bos_token_id", 2);
    assert_true(adds_bos(&made, &id));
    assert_int_equal(id, 2);
    for (int is_llama3 = 0; is_llama3 < 2; is_llama3++) {
        made = g_begin();
        g_key_string(&made, "general.architecture", "llama");
        g_key_string(&made, "tokenizer.ggml.model", "gpt2");
        g_key_string(&made, "tokenizer.ggml.pre", is_llama3 ? "llama-bpe" : "qwen2");
        g_key_strings(&made, "tokenizer.ggml.tokens", TOY_VOCABULARY, TOY_TOKENS);
        g_key_strings(&made, "tokenizer.ggml.merges", TOY_MERGES, RB_COUNT(TOY_MERGES));
        g_key_u32(&made, "tokenizer.ggml.bos_token_id", 8);
        assert_int_equal(adds_bos(&made, &id), is_llama3);
    }
    assert_int_equal(id, 8);
}

static void refuses_tokenizers_that_are_not_known(void **state)
{
    static const char *const twice[] = {"a", "b", "a"};
    rb_error err = {0};
    tokenizer *t;
    (void)state;
    gguf_made made = g_begin();
    g_key_string(&made, "tokenizer.ggml.model", "bert");
    assert_fails(tokenizer_open_model(&t, g_end(&made, scratch_path("a.gguf")), &err), RB_EUNSUPPORTED,
                 "tokenizer.ggml.model is \"bert\", expected gpt2 or llama");
    made = g_begin();
    g_key_string(&made, "tokenizer.ggml.model", "gpt2");
    g_key_string(&made, "tokenizer.ggml.pre", "viking");
    g_key_strings(&made, "tokenizer.ggml.tokens", TOY_VOCABULARY, TOY_TOKENS);
    assert_fails(tokenizer_open_model(&t, g_end(&made, scratch_path("a.gguf")), &err), RB_EUNSUPPORTED,
                 "tokenizer.ggml.pre is \"viking\"");
    made = g_begin();
    g_key_string(&made, "tokenizer.ggml.model", "gpt2");
    g_key_strings(&made, "tokenizer.ggml.tokens", twice, 3);
    assert_fails(tokenizer_open_model(&t, g_end(&made, scratch_path("a.gguf")), &err), RB_EFORMAT,
                 "tokens 0 and 2 are the same: \"a\"");
    made = g_begin();
    g_key_string(&made, "tokenizer.ggml.model", "gpt2");
    g_key_strings(&made, "tokenizer.ggml.tokens", TOY_VOCABULARY, TOY_TOKENS);
    g_key_items(&made, "tokenizer.ggml.token_type", G_I32, TOY_TYPES, 3);
    assert_fails(tokenizer_open_model(&t, g_end(&made, scratch_path("a.gguf")), &err), RB_EFORMAT,
                 "tokenizer.ggml.token_type has 3 items, expected 10, one a token");
    made = g_begin();
    assert_fails(tokenizer_open_model(&t, g_end(&made, scratch_path("a.gguf")), &err), RB_EFORMAT,
                 "no metadata \"tokenizer.ggml.model\"");
}

/* ---- for tests of programs ------------------------------------------------------------------- */

static rb_status write_text(const char *folder, const char *name, const char *text, size_t length, rb_error *err)
{
    char *path = NULL;
    rb_status st = rb_join_path(&path, folder, name, err);
    if (st == RB_OK) st = rb_atomic_write(path, text, length, err);
    free(path);
    return st;
}

/* The tokenizer.json of the toy model, as its GGUF says it. */
static rb_status write_tokenizer(const char *gguf, const char *folder, rb_error *err)
{
    gguf_file *file = NULL;
    char *text = NULL;
    size_t length = 0;
    rb_status st = gguf_open(&file, gguf, err);
    if (st == RB_OK) st = gguf_tokenizer_text(&text, &length, file, err);
    if (st == RB_OK) st = write_text(folder, "tokenizer.json", text, length, err);
    free(text);
    gguf_close(file);
    return st;
}

static rb_status write_toy(const char *gguf, const char *folder, rb_error *err)
{
    char *path = NULL;
    toy_model m;
    rb_status st;
    toy_make(&m);
    g_end(&m.gguf, gguf);
    RB_TRY(st, rb_make_folder(folder, err), done);
    RB_TRY(st, write_text(folder, "config.json", TOY_CONFIG, strlen(TOY_CONFIG), err), done);
    RB_TRY(st, write_tokenizer(gguf, folder, err), done);
    RB_TRY(st, rb_join_path(&path, folder, "model.safetensors", err), done);
    st = safetensors_write(path, m.tensors, m.n, NULL, NULL, 0, err);
done:
    free(path);
    toy_free(&m);
    return st;
}

typedef struct conversion {
    checkpoint *ckpt;
    const safetensor *tensors;
    float *values;
} conversion;

static rb_status give_tensor(void *user, int64_t index, const void **data, rb_error *err)
{
    conversion *c = user;
    const safetensor *t = &c->tensors[index];
    c->values = realloc(c->values, t->size_bytes);
    *data = c->values;
    return checkpoint_load(c->ckpt, t->name, t->rank, t->shape, c->values, err);
}

static rb_status convert(const char *gguf, const char *folder, rb_error *err)
{
    gguf_file *file = NULL;
    weight_map map = {0};
    char *config = NULL, *path = NULL;
    safetensor *tensors = NULL;
    conversion c = {0};
    rb_status st;
    RB_TRY(st, rb_make_folder(folder, err), done);
    RB_TRY(st, gguf_open(&file, gguf, err), done);
    RB_TRY(st, gguf_config_text(&config, file, err), done);
    RB_TRY(st, write_text(folder, "config.json", config, strlen(config), err), done);
    RB_TRY(st, write_tokenizer(gguf, folder, err), done);
    RB_TRY(st, gguf_weights_open(&map, file, err), done);
    RB_TRY(st, checkpoint_open(&c.ckpt, gguf, err), done);
    RB_TRY(st, rb_alloc(&tensors, (size_t)map.n_entries, sizeof *tensors, "tensors", err), done);
    for (int64_t i = 0; i < map.n_entries; i++) {
        tensors[i] = *map.entries[i].tensor;
        tensors[i].dtype = TENSOR_F32;
        tensor_shape_bytes(TENSOR_F32, tensors[i].rank, tensors[i].shape, &tensors[i].size_bytes);
    }
    c.tensors = tensors;
    RB_TRY(st, rb_join_path(&path, folder, "model.safetensors", err), done);
    st = safetensors_write_from(path, tensors, map.n_entries, give_tensor, &c, NULL, NULL, 0, err);
done:
    checkpoint_close(c.ckpt);
    weight_map_close(&map);
    gguf_close(file);
    free(tensors);
    free(c.values);
    free(config);
    free(path);
    return st;
}

/* A million pieces of 4096 bytes would take days to cut. */
static void pieces_that_take_too_long_to_cut_are_refused(void **state)
{
    enum { N = 65, LENGTH = 4096 };
    static char text[LENGTH];
    gguf_token tokens[N];
    const gguf_vocabulary vocabulary = {.tokens = tokens, .n_tokens = N};
    gguf_merge *merges = NULL;
    int64_t n_merges;
    rb_error err;
    (void)state;
    for (int i = 0; i < N; i++) tokens[i] = (gguf_token){.text = {text, LENGTH}, .kind = GGUF_TOKEN_NORMAL, .score = 0};
    assert_fails(gguf_merges_of_scores(&merges, &n_merges, &vocabulary, &err), RB_EUNSUPPORTED,
                 "takes 1090519040 steps, expected at most 1073741824");
    free(merges);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_has_its_name_and_values),
        cmocka_unit_test(rows_are_those_of_the_whole),
        cmocka_unit_test(a_place_says_whether_its_bytes_are_elements),
        cmocka_unit_test(a_tensor_that_nothing_reads_is_named),
        cmocka_unit_test(names_and_storage_follow_the_architecture),
        cmocka_unit_test(a_llama_is_described_as_its_config_would),
        cmocka_unit_test(gemma3_gets_what_llama_cpp_has_in_its_code),
        cmocka_unit_test(rope_factors_divide_each_frequency),
        cmocka_unit_test(yarn_and_old_linear_scaling_are_written_down),
        cmocka_unit_test(what_is_not_understood_is_named),
        cmocka_unit_test(byte_level_merges_and_added_tokens_work),
        cmocka_unit_test(sentencepiece_scores_order_the_merges),
        cmocka_unit_test(pieces_that_take_too_long_to_cut_are_refused),
        cmocka_unit_test(a_tokenizer_with_any_byte_changed_is_read_or_refused),
        cmocka_unit_test(beginning_of_text_is_as_the_file_or_llama_cpp_says),
        cmocka_unit_test(refuses_tokenizers_that_are_not_known),
    };
    rb_error err = {0};
    rb_messages_init("test_gguf_checkpoint", RB_QUIET);
    if (argc == 4) {
        const rb_status st =
            strcmp(argv[1], "--write") == 0 ? write_toy(argv[2], argv[3], &err) : convert(argv[2], argv[3], &err);
        if (st != RB_OK) fprintf(stderr, "test_gguf_checkpoint: %s\n", err.msg);
        return st != RB_OK;
    }
    return cmocka_run_group_tests_name("gguf_checkpoint", tests, NULL, NULL);
}
