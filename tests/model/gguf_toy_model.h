/* A llama of two layers as a GGUF, and the Hugging Face folder that it must be read as: same values, other names, other
 * order of the rows of q and k. Weights are Q8_0, F16 and F32. */
#ifndef RB_TESTS_GGUF_TOY_MODEL_H
#define RB_TESTS_GGUF_TOY_MODEL_H

#include "tests/model/gguf_writer.h"

#include "core/half.h"
#include "model/safetensors.h"

enum {
    TOY_HIDDEN = 64,
    TOY_HEADS = 4,
    TOY_KV_HEADS = 2,
    TOY_HEAD_DIM = 16,
    TOY_MLP = 96,
    TOY_TOKENS = 10,
    TOY_LAYERS = 2,
    TOY_MAX_TENSORS = 32
};

static const char *const TOY_VOCABULARY[TOY_TOKENS] = {"<s>",      "a",  "b",   "c",   "\xc4\xa0",
                                                       "\xc4\x8a", "ab", "abc", "<t>", "bc"};
static const int32_t TOY_TYPES[TOY_TOKENS] = {3, 1, 1, 1, 1, 1, 1, 1, 4, 1};
static const char *const TOY_MERGES[] = {"a b", "ab c", "b c"};

#define TOY_CONFIG                                                                                      \
    "{\"model_type\":\"llama\",\"hidden_act\":\"silu\",\"hidden_size\":64,\"intermediate_size\":96,"    \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,"      \
    "\"vocab_size\":10,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-05,\"rope_theta\":100000.0," \
    "\"tie_word_embeddings\":true}"

typedef struct toy_model {
    gguf_made gguf;
    safetensor tensors[TOY_MAX_TENSORS];
    int n;
    uint64_t seed;
} toy_model;

/* A code of 8 bits; the step of Knuth's MMIX. */
static inline int toy_code(toy_model *m)
{
    m->seed = m->seed * 6364136223846793005u + 1442695040888963407u;
    return (int)(m->seed >> 56) - 128;
}

static inline char *toy_copy(const char *text)
{
    char *copy = strdup(text);
    assert_non_null(copy);
    return copy;
}

static inline void toy_add(toy_model *m, const char *name, int64_t rows, int64_t columns, float *values)
{
    assert_true(m->n < TOY_MAX_TENSORS);
    m->tensors[m->n++] = (safetensor){.name = toy_copy(name),
                                      .dtype = TENSOR_F32,
                                      .rank = columns ? 2 : 1,
                                      .shape = {rows, columns},
                                      .data = values,
                                      .size_bytes = (size_t)(rows * (columns ? columns : 1)) * sizeof(float)};
}

/* A matrix in blocks of 32 codes with scale 2^-11 (1 + row % 3); head_dim > 0: the GGUF has the rows of a head in
 * pairs. */
static inline void toy_matrix(toy_model *m, const char *gguf_name, const char *name, int64_t rows, int64_t columns,
                              int64_t head_dim)
{
    gguf_bytes blocks = {0};
    float *values = calloc((size_t)(rows * columns), sizeof *values);
    assert_non_null(values);
    for (int64_t row = 0; row < rows; row++) { /* in the order of the GGUF */
        const float scale = 0x1p-11f * (float)(1 + row % 3);
        const uint16_t half = rb_f32_to_f16(scale);
        int64_t to = row;
        if (head_dim) {
            const int64_t pair = row % head_dim / 2, second = row % 2;
            to = row / head_dim * head_dim + second * (head_dim / 2) + pair;
        }
        for (int64_t i = 0; i < columns; i++) {
            const int8_t code = (int8_t)toy_code(m);
            if (i % 32 == 0) g_put(&blocks, &half, sizeof half);
            g_put(&blocks, &code, 1);
            values[to * columns + i] = (float)code * scale;
        }
    }
    g_tensor(&m->gguf, gguf_name, (uint64_t)rows, (uint64_t)columns, G_TYPE_Q8_0, blocks.at, blocks.n);
    free(blocks.at);
    toy_add(m, name, rows, columns, values);
}

static inline void toy_vector(toy_model *m, const char *gguf_name, const char *name, int64_t n)
{
    float *values = calloc((size_t)n, sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < n; i++) values[i] = 1 + (float)toy_code(m) / 512;
    g_tensor(&m->gguf, gguf_name, (uint64_t)n, 0, G_TYPE_F32, values, (size_t)n * sizeof *values);
    toy_add(m, name, n, 0, values);
}

static inline void toy_layer(toy_model *m, int layer)
{
    static const struct {
        const char *gguf, *hf;
        int rows, columns, head_dim; /* columns 0: a vector */
    } parts[] = {
        {"attn_norm", "input_layernorm", TOY_HIDDEN, 0, 0},
        {"attn_q", "self_attn.q_proj", TOY_HEADS * TOY_HEAD_DIM, TOY_HIDDEN, TOY_HEAD_DIM},
        {"attn_k", "self_attn.k_proj", TOY_KV_HEADS * TOY_HEAD_DIM, TOY_HIDDEN, TOY_HEAD_DIM},
        {"attn_v", "self_attn.v_proj", TOY_KV_HEADS * TOY_HEAD_DIM, TOY_HIDDEN, 0},
        {"attn_output", "self_attn.o_proj", TOY_HIDDEN, TOY_HEADS * TOY_HEAD_DIM, 0},
        {"ffn_norm", "post_attention_layernorm", TOY_HIDDEN, 0, 0},
        {"ffn_gate", "mlp.gate_proj", TOY_MLP, TOY_HIDDEN, 0},
        {"ffn_up", "mlp.up_proj", TOY_MLP, TOY_HIDDEN, 0},
        {"ffn_down", "mlp.down_proj", TOY_HIDDEN, TOY_MLP, 0},
    };
    for (size_t i = 0; i < RB_COUNT(parts); i++) {
        char gguf_name[64], name[96];
        snprintf(gguf_name, sizeof gguf_name, "blk.%d.%s.weight", layer, parts[i].gguf);
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, parts[i].hf);
        if (parts[i].columns) toy_matrix(m, gguf_name, name, parts[i].rows, parts[i].columns, parts[i].head_dim);
        else toy_vector(m, gguf_name, name, parts[i].rows);
    }
}

static inline void toy_metadata(gguf_made *g)
{
    g_key_string(g, "general.architecture", "llama");
    g_key_string(g, "general.name", "toy");
    g_key_u32(g, "llama.block_count", TOY_LAYERS);
    g_key_u32(g, "llama.context_length", 512);
    g_key_u32(g, "llama.embedding_length", TOY_HIDDEN);
    g_key_u32(g, "llama.feed_forward_length", TOY_MLP);
    g_key_u32(g, "llama.attention.head_count", TOY_HEADS);
    g_key_u32(g, "llama.attention.head_count_kv", TOY_KV_HEADS);
    g_key_u32(g, "llama.rope.dimension_count", TOY_HEAD_DIM);
    g_key_f32(g, "llama.rope.freq_base", 100000);
    g_key_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    g_key_string(g, "tokenizer.ggml.model", "gpt2");
    g_key_string(g, "tokenizer.ggml.pre", "smollm");
    g_key_strings(g, "tokenizer.ggml.tokens", TOY_VOCABULARY, TOY_TOKENS);
    g_key_items(g, "tokenizer.ggml.token_type", G_I32, TOY_TYPES, TOY_TOKENS);
    g_key_strings(g, "tokenizer.ggml.merges", TOY_MERGES, RB_COUNT(TOY_MERGES));
}

/* All of it but what a test adds; toy_free afterwards. */
static inline void toy_make(toy_model *m)
{
    *m = (toy_model){.gguf = g_begin(), .seed = 7};
    toy_metadata(&m->gguf);
    toy_matrix(m, "token_embd.weight", "model.embed_tokens.weight", TOY_TOKENS, TOY_HIDDEN, 0);
    for (int layer = 0; layer < TOY_LAYERS; layer++) toy_layer(m, layer);
    toy_vector(m, "output_norm.weight", "model.norm.weight", TOY_HIDDEN);
}

static inline void toy_free(toy_model *m)
{
    for (int i = 0; i < m->n; i++) {
        free((char *)m->tensors[i].name);
        free((void *)m->tensors[i].data);
    }
}

#endif
