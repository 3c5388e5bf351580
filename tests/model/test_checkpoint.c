/* Checkpoint folders: single file and shards, every tensor named and shaped as the configuration says, damaged indices.
 */
#include "tests/test_support.h"

#include "core/half.h"
#include "model/checkpoint.h"

/* ---- a tiny checkpoint, spelled out ---------------------------------------------------------- */

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

static void add_tensors(tensor_set *set, const safetensor *tensors, size_t n)
{
    assert_true(set->n + n <= MAX_TENSORS);
    memcpy(&set->at[set->n], tensors, n * sizeof *tensors);
    set->n += (int)n;
}

static tensor_set plain_set(void)
{
    tensor_set set = {0};
    for (int i = 0; i < MAX_ELEMENTS; i++) values[i] = (float)i * 0.5f - 3;
    add_tensors(&set, PLAIN, RB_COUNT(PLAIN));
    return set;
}

static safetensor *in_set(tensor_set *set, const char *name)
{
    for (int i = 0; i < set->n; i++)
        if (strcmp(set->at[i].name, name) == 0) return &set->at[i];
    fail_msg("no tensor %s in the set", name);
    return NULL;
}

static void remove_tensor(tensor_set *set, const char *name)
{
    safetensor *tensor = in_set(set, name);
    memmove(tensor, tensor + 1, (size_t)(&set->at[set->n] - tensor - 1) * sizeof *tensor);
    set->n--;
}

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    fputs(text, out);
    assert_int_equal(fclose(out), 0);
}

static void write_tensors(const char *folder, const char *name, const safetensor *tensors, int64_t n)
{
    char path[1200];
    rb_error err = {0};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_ok(safetensors_write(path, tensors, n, NULL, NULL, 0, &err));
}

/* A fresh folder with config.json; weights are the caller's. */
static const char *make_folder(const char *config)
{
    static int n;
    char name[32];
    snprintf(name, sizeof name, "checkpoint-%d", n++);
    const char *folder = scratch_path(name);
    assert_int_equal(mkdir(folder, 0777), 0);
    write_text(folder, "config.json", config);
    return folder;
}

static const char *make_checkpoint(const char *config, const tensor_set *set)
{
    const char *folder = make_folder(config);
    write_tensors(folder, "model.safetensors", set->at, set->n);
    return folder;
}

/* Opens and checks; the status of the first failure. */
static rb_status open_and_check(const char *folder, rb_error *err)
{
    checkpoint *ckpt = NULL;
    rb_status st = checkpoint_open(&ckpt, folder, err);
    if (st == RB_OK) st = checkpoint_check(ckpt, err);
    checkpoint_close(ckpt);
    return st;
}

/* ---- what is accepted ------------------------------------------------------------------------ */

static void accepts_each_family_with_its_tensors(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    assert_ok(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err));
    assert_ok(open_and_check(make_checkpoint(CONFIG("mistral", ",\"sliding_window\":null"), &set), &err));
    add_tensors(&set, QK_NORMS, RB_COUNT(QK_NORMS));
    assert_ok(open_and_check(make_checkpoint(CONFIG("qwen3", ""), &set), &err));
    set = plain_set();
    add_tensors(&set, QKV_BIASES, RB_COUNT(QKV_BIASES));
    assert_ok(open_and_check(make_checkpoint(CONFIG("qwen2", ""), &set), &err));
    add_tensors(&set, OTHER_BIASES, RB_COUNT(OTHER_BIASES));
    assert_ok(
        open_and_check(make_checkpoint(CONFIG("llama", ",\"attention_bias\":true,\"mlp_bias\":true"), &set), &err));
}

static void tied_checkpoint_needs_no_lm_head(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    assert_ok(open_and_check(make_checkpoint(CONFIG("llama", ",\"tie_word_embeddings\":true"), &set), &err));
    remove_tensor(&set, "lm_head.weight");
    assert_ok(open_and_check(make_checkpoint(CONFIG("llama", ",\"tie_word_embeddings\":true"), &set), &err));
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EFORMAT,
                 "no tensor \"lm_head.weight\"");
}

static void unknown_tensors_are_left_alone(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    const safetensor old = VECTOR(LAYER "self_attn.rotary_emb.inv_freq", 3);
    add_tensors(&set, &old, 1);
    assert_ok(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err));
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void refuses_any_missing_tensor(void **state)
{
    (void)state;
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(PLAIN); i++) {
        tensor_set set = plain_set();
        remove_tensor(&set, PLAIN[i].name);
        assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EFORMAT, PLAIN[i].name);
    }
}

static void refuses_any_transposed_or_flat_tensor(void **state)
{
    (void)state;
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(PLAIN); i++) {
        tensor_set set = plain_set();
        safetensor *tensor = &set.at[i];
        if (tensor->rank == 2) {
            tensor->shape[0] = PLAIN[i].shape[1];
            tensor->shape[1] = PLAIN[i].shape[0];
        } else {
            tensor->rank = 2;
            tensor->shape[1] = 1;
        }
        assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EFORMAT, PLAIN[i].name);
    }
    tensor_set set = plain_set();
    safetensor *norm = in_set(&set, "model.norm.weight");
    norm->shape[0] = 9;
    norm->size_bytes = 9 * sizeof(float);
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EFORMAT,
                 "model.norm.weight\" has shape [9], expected [8]");
    set = plain_set();
    in_set(&set, LAYER "self_attn.k_proj.weight")->shape[0] = 8;
    in_set(&set, LAYER "self_attn.k_proj.weight")->shape[1] = 6;
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EFORMAT,
                 "k_proj.weight\" has shape [8, 6], expected [6, 8]");
}

static void refuses_integer_weights(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    in_set(&set, LAYER "mlp.up_proj.weight")->dtype = TENSOR_I32;
    const char *folder = make_checkpoint(CONFIG("llama", ""), &set);
    assert_fails(open_and_check(folder, &err), RB_EUNSUPPORTED, "up_proj.weight\" is I32");

    checkpoint *ckpt = NULL;
    float out[80];
    const int64_t shape[2] = {10, 8};
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_fails(checkpoint_load(ckpt, LAYER "mlp.up_proj.weight", 2, shape, out, &err), RB_EUNSUPPORTED, "is I32");
    checkpoint_close(ckpt);
}

static void refuses_tensors_the_configuration_does_not_use(void **state)
{
    (void)state;
    rb_error err = {0};
    const safetensor *const extra[] = {&QKV_BIASES[0], &QKV_BIASES[2], &OTHER_BIASES[0], &OTHER_BIASES[3],
                                       &QK_NORMS[1]};
    for (size_t i = 0; i < RB_COUNT(extra); i++) {
        tensor_set set = plain_set();
        add_tensors(&set, extra[i], 1);
        assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EMISMATCH, extra[i]->name);
    }
}

/* ---- loading --------------------------------------------------------------------------------- */

static void loads_values_from_every_dtype(void **state)
{
    (void)state;
    enum { N = 96 };
    rb_error err = {0};
    tensor_set set = plain_set();
    uint16_t half[N], brain[N];
    for (int i = 0; i < N; i++) {
        half[i] = rb_f32_to_f16(values[i]);
        brain[i] = (uint16_t)(rb_f32_bits(values[i]) >> 16); /* multiples of 0.5 up to 45: exact */
    }
    safetensor *q = in_set(&set, LAYER "self_attn.q_proj.weight"), *o = in_set(&set, LAYER "self_attn.o_proj.weight");
    q->dtype = TENSOR_F16, q->data = half, q->size_bytes = sizeof half;
    o->dtype = TENSOR_BF16, o->data = brain, o->size_bytes = sizeof brain;

    checkpoint *ckpt = NULL;
    const char *folder = make_checkpoint(CONFIG("llama", ""), &set);
    const int64_t q_shape[2] = {12, 8}, o_shape[2] = {8, 12}, embedding_shape[2] = {16, 8};
    float out[MAX_ELEMENTS];
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_ok(checkpoint_check(ckpt, &err));
    assert_string_equal(checkpoint_folder(ckpt), folder);
    assert_int_equal(checkpoint_config(ckpt)->hidden_size, 8);
    assert_ok(checkpoint_load(ckpt, q->name, 2, q_shape, out, &err));
    assert_memory_equal(out, values, N * sizeof *out);
    assert_ok(checkpoint_load(ckpt, o->name, 2, o_shape, out, &err));
    assert_memory_equal(out, values, N * sizeof *out);
    assert_ok(checkpoint_load(ckpt, "model.embed_tokens.weight", 2, embedding_shape, out, &err));
    assert_memory_equal(out, values, sizeof values);
    assert_fails(checkpoint_load(ckpt, o->name, 2, q_shape, out, &err), RB_EFORMAT,
                 "has shape [8, 12], expected [12, 8]");
    assert_fails(checkpoint_load(ckpt, "absent", 2, q_shape, out, &err), RB_EFORMAT, "no tensor \"absent\"");
    int64_t elements = 0;
    for (int i = 0; i < set.n; i++) elements += (int64_t)set.at[i].size_bytes;
    assert_int_equal(checkpoint_weight_bytes(ckpt), elements);
    checkpoint_close(ckpt);
    checkpoint_close(NULL);
}

static void large_tensor_loads_the_same_in_tiles(void **state)
{
    (void)state;
    rb_error err = {0};
    checkpoint *ckpt = NULL;
    const safetensor *tensor;
    const int64_t shape[2] = {4096, 192};
    const size_t n = 4096 * 192;
    float *loaded = malloc(n * sizeof *loaded), *expected = malloc(n * sizeof *expected);
    assert_true(loaded && expected);
    assert_ok(checkpoint_open(&ckpt, "configs/demo-llama", &err));
    assert_ok(checkpoint_tensor(ckpt, "model.embed_tokens.weight", 2, shape, &tensor, &err));
    assert_ok(safetensor_to_f32(tensor, 0, (int64_t)n, expected, &err));
    assert_ok(checkpoint_load(ckpt, "model.embed_tokens.weight", 2, shape, loaded, &err));
    assert_memory_equal(loaded, expected, n * sizeof *loaded);
    checkpoint_close(ckpt);
    free(loaded);
    free(expected);
}

/* ---- shards ---------------------------------------------------------------------------------- */

static const char SHARD_1[] = "model-00001-of-00002.safetensors", SHARD_2[] = "model-00002-of-00002.safetensors";

/* Index text: the first n_first tensors in shard 1, the others in shard 2; from the last tensor to the first, as no
 * order is promised. */
static void write_index(const char *folder, const tensor_set *set, int n_first)
{
    char text[4096];
    int used = snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int i = set->n - 1; i >= 0; i--)
        used += snprintf(text + used, sizeof text - (size_t)used, "%s\"%s\":\"%s\"", i < set->n - 1 ? "," : "",
                         set->at[i].name, i < n_first ? SHARD_1 : SHARD_2);
    snprintf(text + used, sizeof text - (size_t)used, "}}");
    write_text(folder, "model.safetensors.index.json", text);
}

static const char *make_sharded(const tensor_set *set, int n_first)
{
    const char *folder = make_folder(CONFIG("llama", ""));
    write_tensors(folder, SHARD_1, set->at, n_first);
    write_tensors(folder, SHARD_2, set->at + n_first, set->n - n_first);
    write_index(folder, set, n_first);
    return folder;
}

static void shards_read_as_one_checkpoint(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    checkpoint *ckpt = NULL;
    const int64_t shape[2] = {16, 8};
    float out[MAX_ELEMENTS];
    assert_ok(checkpoint_open(&ckpt, make_sharded(&set, 5), &err));
    assert_ok(checkpoint_check(ckpt, &err));
    for (int i = 0; i < set.n; i++) assert_true(checkpoint_has(ckpt, set.at[i].name));
    assert_false(checkpoint_has(ckpt, "absent"));
    assert_ok(checkpoint_load(ckpt, "model.embed_tokens.weight", 2, shape, out, &err));
    assert_memory_equal(out, values, sizeof values);
    assert_ok(checkpoint_load(ckpt, "lm_head.weight", 2, shape, out, &err));
    assert_memory_equal(out, values, sizeof values);
    checkpoint_close(ckpt);
}

static void tensor_outside_the_map_is_not_there(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    remove_tensor(&set, "lm_head.weight");
    write_index(folder, &set, 5);
    checkpoint *ckpt = NULL;
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_false(checkpoint_has(ckpt, "lm_head.weight"));
    checkpoint_close(ckpt);
}

static void single_file_wins_over_an_index(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_checkpoint(CONFIG("llama", ""), &set);
    write_text(folder, "model.safetensors.index.json", "not JSON");
    assert_ok(open_and_check(folder, &err));
}

static void refuses_missing_shard(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, SHARD_2);
    assert_int_equal(unlink(path), 0);
    assert_fails(open_and_check(folder, &err), RB_EIO, SHARD_2);
}

static void refuses_tensor_that_is_not_in_its_shard(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    write_index(folder, &set, 6);
    assert_fails(open_and_check(folder, &err), RB_EFORMAT, "self_attn.o_proj.weight\" is not in");
}

static void refuses_damaged_index(void **state)
{
    (void)state;
    static const struct {
        const char *index, *message;
    } damaged[] = {
        {"{\"weight_map\":", "index.json"},
        {"{}", "weight_map"},
        {"[]", "index.json"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"{\"weight_map\":{\"a\":1}}", "weight_map \"a\" is not a file name"},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "\"../x.safetensors\", expected a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"/tmp/x.safetensors\"}}", "expected a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"sub/x.safetensors\"}}", "expected a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"..\\\\x.safetensors\"}}", "expected a file in the same folder"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "expected a name ending in .safetensors"},
        {"{\"weight_map\":{\"a\":\"\"}}", "expected a name ending in .safetensors"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "expected a name ending in .safetensors"},
        {"{\"weight_map\":{\"a\":\"pytorch_model.bin\"}}", "expected a name ending in .safetensors"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"y.safetensors\"}}", "\"a\""},
    };
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(damaged); i++) {
        const char *folder = make_folder(CONFIG("llama", ""));
        write_text(folder, "model.safetensors.index.json", damaged[i].index);
        assert_fails(open_and_check(folder, &err), RB_EFORMAT, damaged[i].message);
    }
}

/* ---- folders --------------------------------------------------------------------------------- */

static void refuses_folder_without_weights(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *folder = make_folder(CONFIG("llama", ""));
    assert_fails(open_and_check(folder, &err), RB_EIO, "no weights, expected model.safetensors");
    write_text(folder, "pytorch_model.bin", "PK");
    assert_fails(open_and_check(folder, &err), RB_EUNSUPPORTED, "PyTorch pickles");
    folder = make_folder(CONFIG("llama", ""));
    write_text(folder, "pytorch_model.bin.index.json", "{}");
    assert_fails(open_and_check(folder, &err), RB_EUNSUPPORTED, "PyTorch pickles");
    assert_fails(open_and_check("configs/no-such-model", &err), RB_EIO, "no-such-model");
}

static void refuses_index_of_nothing(void **state)
{
    (void)state;
    rb_error err = {0};
    const char *folder = make_folder(CONFIG("llama", ""));
    write_text(folder, "model.safetensors.index.json", "{\"weight_map\":{}}");
    assert_fails(open_and_check(folder, &err), RB_EFORMAT, "no tensor \"model.embed_tokens.weight\"");
}

/* ---- identity -------------------------------------------------------------------------------- */

static void hash_covers_the_shards_in_name_order(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    checkpoint *ckpt = NULL;
    char found[RB_SHA256_HEX], expected[RB_SHA256_HEX], command[2600];
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_ok(checkpoint_weights_sha256(ckpt, found, &err));
    snprintf(command, sizeof command, "cat '%s/%s' '%s/%s' | sha256sum", folder, SHARD_1, folder, SHARD_2);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fread(expected, 1, RB_SHA256_HEX - 1, pipe), RB_SHA256_HEX - 1);
    expected[RB_SHA256_HEX - 1] = '\0';
    pclose(pipe);
    assert_string_equal(found, expected);
    checkpoint_close(ckpt);
}

static void accepts_real_checkpoints(void **state)
{
    (void)state;
    static const char *const names[] = {
        "models/small-qwen2",  "models/small-llama3", "oracle/llama", "oracle/llama-rope-llama3",
        "oracle/mistral-nemo", "oracle/qwen2",        "oracle/qwen3"};
    rb_error err = {0};
    assert_ok(open_and_check("configs/demo-llama", &err));
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        SHARED_OR_SKIP(folder, names[i]);
        assert_ok(open_and_check(folder, &err));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_each_family_with_its_tensors),
        cmocka_unit_test(tied_checkpoint_needs_no_lm_head),
        cmocka_unit_test(unknown_tensors_are_left_alone),
        cmocka_unit_test(refuses_any_missing_tensor),
        cmocka_unit_test(refuses_any_transposed_or_flat_tensor),
        cmocka_unit_test(refuses_integer_weights),
        cmocka_unit_test(refuses_tensors_the_configuration_does_not_use),
        cmocka_unit_test(loads_values_from_every_dtype),
        cmocka_unit_test(large_tensor_loads_the_same_in_tiles),
        cmocka_unit_test(shards_read_as_one_checkpoint),
        cmocka_unit_test(tensor_outside_the_map_is_not_there),
        cmocka_unit_test(single_file_wins_over_an_index),
        cmocka_unit_test(refuses_missing_shard),
        cmocka_unit_test(refuses_tensor_that_is_not_in_its_shard),
        cmocka_unit_test(refuses_damaged_index),
        cmocka_unit_test(refuses_folder_without_weights),
        cmocka_unit_test(refuses_index_of_nothing),
        cmocka_unit_test(hash_covers_the_shards_in_name_order),
        cmocka_unit_test(accepts_real_checkpoints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
