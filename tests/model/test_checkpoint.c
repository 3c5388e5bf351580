/* Checkpoint folders: single file and shards, every tensor named and shaped as the configuration says, damaged indices.
 */
#include "tests/model/tiny_checkpoint.h"

#include "core/half.h"

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

static void old_inv_freq_is_left_alone(void **state)
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

static void refuses_a_tensor_that_the_index_does_not_name(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    remove_tensor(&set, "lm_head.weight");
    write_index(folder, &set, 5);
    assert_fails(open_and_check(folder, &err), RB_EFORMAT, "does not name 1 tensor of its shards: \"lm_head.weight\"");
}

static void refuses_a_single_file_beside_an_index_of_others(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    write_tensors(folder, "model.safetensors", set.at, set.n);
    assert_fails(open_and_check(folder, &err), RB_EMISMATCH, "model.safetensors: beside model.safetensors.index.json");
    folder = make_checkpoint(CONFIG("llama", ""), &set);
    write_text(folder, "model.safetensors.index.json", "not JSON");
    assert_fails(open_and_check(folder, &err), RB_EFORMAT, "index.json: line 1, column 1: not valid JSON");
}

static void an_index_may_name_the_single_file(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_checkpoint(CONFIG("llama", ""), &set);
    write_index_of(folder, &set, set.n, "model.safetensors", SHARD_2);
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
        cmocka_unit_test(old_inv_freq_is_left_alone),
        cmocka_unit_test(refuses_any_missing_tensor),
        cmocka_unit_test(refuses_any_transposed_or_flat_tensor),
        cmocka_unit_test(refuses_integer_weights),
        cmocka_unit_test(refuses_tensors_the_configuration_does_not_use),
        cmocka_unit_test(loads_values_from_every_dtype),
        cmocka_unit_test(large_tensor_loads_the_same_in_tiles),
        cmocka_unit_test(shards_read_as_one_checkpoint),
        cmocka_unit_test(refuses_a_tensor_that_the_index_does_not_name),
        cmocka_unit_test(refuses_a_single_file_beside_an_index_of_others),
        cmocka_unit_test(an_index_may_name_the_single_file),
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
