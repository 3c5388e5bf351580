/* A tiny checkpoint, spelled out tensor by tensor, that tests change and write as a folder. */
#ifndef RB_TESTS_MODEL_TINY_CHECKPOINT_H
#define RB_TESTS_MODEL_TINY_CHECKPOINT_H

#include "tests/test_support.h"

#include "model/checkpoint.h"

/* hidden 8, 2 query heads and 1 KV head of 6 dims, MLP 10, vocabulary 16, 1 layer. */
#define CONFIG(model_type, rest)                                                                                      \
    "{\"model_type\":\"" model_type                                                                                   \
    "\",\"hidden_act\":\"silu\",\"hidden_size\":8,\"intermediate_size\":10,\"max_position_embeddings\":64,"           \
    "\"num_attention_heads\":2,\"num_hidden_layers\":1,\"num_key_value_heads\":1,\"head_dim\":6,\"rms_norm_eps\":1e-" \
    "6,\"vocab_size\":16,"                                                                                            \
    "\"rope_theta\":10000.0" rest "}"

enum { MAX_TENSORS = 24, MAX_ELEMENTS = 16 * 8 };

static float values[MAX_ELEMENTS];

#define LAYER "model.layers.0."
#define VECTOR(n, d0)                                                                                                \
    {                                                                                                                \
        .name = n, .dtype = TENSOR_F32, .rank = 1, .shape = {d0}, .data = values, .size_bytes = (d0) * sizeof(float) \
    }
#define MATRIX(n, d0, d1)                                                             \
    {                                                                                 \
        .name = n, .dtype = TENSOR_F32, .rank = 2, .shape = {d0, d1}, .data = values, \
        .size_bytes = (d0) * (d1) * sizeof(float)                                     \
    }

static const safetensor PLAIN[] = {
    MATRIX("model.embed_tokens.weight", 16, 8),
    VECTOR(LAYER "input_layernorm.weight", 8),
    MATRIX(LAYER "self_attn.q_proj.weight", 12, 8),
    MATRIX(LAYER "self_attn.k_proj.weight", 6, 8),
    MATRIX(LAYER "self_attn.v_proj.weight", 6, 8),
    MATRIX(LAYER "self_attn.o_proj.weight", 8, 12),
    VECTOR(LAYER "post_attention_layernorm.weight", 8),
    MATRIX(LAYER "mlp.gate_proj.weight", 10, 8),
    MATRIX(LAYER "mlp.up_proj.weight", 10, 8),
    MATRIX(LAYER "mlp.down_proj.weight", 8, 10),
    VECTOR("model.norm.weight", 8),
    MATRIX("lm_head.weight", 16, 8),
};
static const safetensor QKV_BIASES[] = {
    VECTOR(LAYER "self_attn.q_proj.bias", 12),
    VECTOR(LAYER "self_attn.k_proj.bias", 6),
    VECTOR(LAYER "self_attn.v_proj.bias", 6),
};
static const safetensor OTHER_BIASES[] = {
    VECTOR(LAYER "self_attn.o_proj.bias", 8),
    VECTOR(LAYER "mlp.gate_proj.bias", 10),
    VECTOR(LAYER "mlp.up_proj.bias", 10),
    VECTOR(LAYER "mlp.down_proj.bias", 8),
};
static const safetensor QK_NORMS[] = {
    VECTOR(LAYER "self_attn.q_norm.weight", 6),
    VECTOR(LAYER "self_attn.k_norm.weight", 6),
};

typedef struct tensor_set {
    safetensor at[MAX_TENSORS];
    int n;
} tensor_set;

static inline void add_tensors(tensor_set *set, const safetensor *tensors, size_t n)
{
    assert_true(set->n + n <= MAX_TENSORS);
    memcpy(&set->at[set->n], tensors, n * sizeof *tensors);
    set->n += (int)n;
}

static inline tensor_set plain_set(void)
{
    tensor_set set = {0};
    for (int i = 0; i < MAX_ELEMENTS; i++) values[i] = (float)i * 0.5f - 3;
    add_tensors(&set, PLAIN, RB_COUNT(PLAIN));
    return set;
}

static inline safetensor *in_set(tensor_set *set, const char *name)
{
    for (int i = 0; i < set->n; i++)
        if (strcmp(set->at[i].name, name) == 0) return &set->at[i];
    fail_msg("no tensor %s in the set", name);
    return NULL;
}

static inline void remove_tensor(tensor_set *set, const char *name)
{
    safetensor *tensor = in_set(set, name);
    memmove(tensor, tensor + 1, (size_t)(&set->at[set->n] - tensor - 1) * sizeof *tensor);
    set->n--;
}

static inline void write_text(const char *folder, const char *name, const char *text)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fputs(text, out);
    assert_int_equal(fclose(out), 0);
}

static inline void write_tensors(const char *folder, const char *name, const safetensor *tensors, int64_t n)
{
    char path[1200];
    rb_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(safetensors_write(path, tensors, n, NULL, NULL, 0, &err));
}

/* A fresh folder with config.json; weights are the caller's. */
static inline const char *make_folder(const char *config)
{
    static int n;
    char name[32];
    snprintf(name, sizeof name, "checkpoint-%d", n++);
    const char *folder = scratch_path(name);
    assert_int_equal(mkdir(folder, 0777), 0);
    write_text(folder, "config.json", config);
    return folder;
}

static inline const char *make_checkpoint(const char *config, const tensor_set *set)
{
    const char *folder = make_folder(config);
    write_tensors(folder, "model.safetensors", set->at, set->n);
    return folder;
}

/* Opens and checks; the status of the first failure. */
static inline rb_status open_and_check(const char *folder, rb_error *err)
{
    checkpoint *ckpt = NULL;
    rb_status st = checkpoint_open(&ckpt, folder, err);
    if (st == RB_OK) st = checkpoint_check(ckpt, err);
    checkpoint_close(ckpt);
    return st;
}

static const char SHARD_1[] = "model-00001-of-00002.safetensors", SHARD_2[] = "model-00002-of-00002.safetensors";

/* Index text: the first n_first tensors in the first file, the others in the second; from the last tensor to the first,
 * as no order is promised. */
static inline void write_index_of(const char *folder, const tensor_set *set, int n_first, const char *first,
                                  const char *second)
{
    char text[4096];
    int used = snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int i = set->n - 1; i >= 0; i--)
        used += snprintf(text + used, sizeof text - (size_t)used, "%s\"%s\":\"%s\"", i < set->n - 1 ? "," : "",
                         set->at[i].name, i < n_first ? first : second);
    snprintf(text + used, sizeof text - (size_t)used, "}}");
    write_text(folder, "model.safetensors.index.json", text);
}

static inline void write_index(const char *folder, const tensor_set *set, int n_first)
{
    write_index_of(folder, set, n_first, SHARD_1, SHARD_2);
}

static inline const char *make_sharded(const tensor_set *set, int n_first)
{
    const char *folder = make_folder(CONFIG("llama", ""));
    write_tensors(folder, SHARD_1, set->at, n_first);
    write_tensors(folder, SHARD_2, set->at + n_first, set->n - n_first);
    write_index(folder, set, n_first);
    return folder;
}

#endif
