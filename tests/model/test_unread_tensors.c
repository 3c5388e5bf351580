/* Tensors and files that a run would not read: each is refused as what it is, in one line. */
#include "tests/model/tiny_checkpoint.h"

/* ---- tensors --------------------------------------------------------------------------------- */

/* The plain checkpoint with one more tensor. */
static rb_status check_with(const char *name, rb_error *err)
{
    tensor_set set = plain_set();
    const safetensor extra = VECTOR(name, 3);
    add_tensors(&set, &extra, 1);
    return open_and_check(make_checkpoint(CONFIG("llama", ""), &set), err);
}

static void any_other_tensor_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {
        LAYER "self_attn.query_layernorm.weight",
        LAYER "self_attn.q_norm2.weight",
        LAYER "self_attn.sinks",
        LAYER "post_feedforward_layernorm.weight",
        LAYER "mlp.gate_weight",
        LAYER "mlp.experts.0.up_proj.weight",
        LAYER "self_attn.xrotary_emb.inv_freq",
        LAYER "input_layernorm.bias",
        "model.norm.bias",
        "model.norm2.weight",
        "model.embed_positions.weight",
        "lm_head.bias",
        "score.weight",
        "vision_tower.patch.weight",
        "model.layers.weight",
    };
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        char message[256];
        snprintf(message, sizeof message, "1 tensor is not read (model_type llama): \"%s\"; expected none", names[i]);
        assert_fails(check_with(names[i], &err), RB_EMISMATCH, message);
    }
}

static void many_tensors_are_counted_and_the_first_are_named(void **state)
{
    (void)state;
    rb_error err = {0};
    tensor_set set = plain_set();
    const safetensor extra[] = {VECTOR(LAYER "a", 1), VECTOR(LAYER "b", 1), VECTOR(LAYER "c", 1), VECTOR(LAYER "d", 1)};
    add_tensors(&set, extra, 4);
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EMISMATCH,
                 "4 tensors are not read (model_type llama): \"model.layers.0.a\", \"model.layers.0.b\", "
                 "\"model.layers.0.c\", ...; expected none");
}

static void layers_past_the_last_are_refused_by_number(void **state)
{
    (void)state;
    rb_error err = {0};
    assert_fails(check_with("model.layers.1.self_attn.k_proj.weight", &err), RB_EMISMATCH,
                 "1 layer past the last one (1 to 1, 1 tensors: \"model.layers.1.self_attn.k_proj.weight\")");
    tensor_set set = plain_set();
    const safetensor extra[] = {VECTOR("model.layers.1.a", 1), VECTOR("model.layers.11.b", 1)};
    add_tensors(&set, extra, 2);
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EMISMATCH,
                 "11 layers past the last one (1 to 11, 2 tensors");
}

static void adapters_and_quantized_weights_are_named_as_such(void **state)
{
    (void)state;
    static const char *const adapters[] = {
        LAYER "self_attn.q_proj.lora_A.weight",
        LAYER "self_attn.q_proj.lora_B.default.weight",
        LAYER "self_attn.q_proj.base_layer.weight",
    };
    static const char *const quantized[] = {
        LAYER "mlp.up_proj.weight_scale",  LAYER "mlp.up_proj.weight_scale_inv",
        LAYER "mlp.up_proj.qweight",       LAYER "mlp.up_proj.SCB",
        LAYER "mlp.up_proj.weight.absmax", LAYER "mlp.up_proj.weight.quant_state.bitsandbytes__nf4",
        LAYER "mlp.up_proj.scales",        LAYER "self_attn.k_scale",
        LAYER "mlp.up_proj.weight_packed",
    };
    rb_error err = {0};
    for (size_t i = 0; i < RB_COUNT(adapters); i++)
        assert_fails(check_with(adapters[i], &err), RB_EUNSUPPORTED, "1 tensor is of an adapter that is not merged");
    for (size_t i = 0; i < RB_COUNT(quantized); i++)
        assert_fails(check_with(quantized[i], &err), RB_EUNSUPPORTED, "1 tensor is of quantized weights");
    /* Also where the weight itself is missing for it. */
    tensor_set set = plain_set();
    in_set(&set, LAYER "mlp.up_proj.weight")->name = LAYER "mlp.up_proj.qweight";
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err), RB_EUNSUPPORTED, "quantized");
}

static void a_tied_lm_head_must_equal_the_embedding(void **state)
{
    (void)state;
    rb_error err = {0};
    static float other[MAX_ELEMENTS];
    tensor_set set = plain_set();
    memcpy(other, values, sizeof other);
    in_set(&set, "lm_head.weight")->data = other;
    assert_ok(open_and_check(make_checkpoint(CONFIG("llama", ",\"tie_word_embeddings\":true"), &set), &err));
    other[MAX_ELEMENTS - 1]++;
    assert_fails(open_and_check(make_checkpoint(CONFIG("llama", ",\"tie_word_embeddings\":true"), &set), &err),
                 RB_EMISMATCH, "\"lm_head.weight\" differs from \"model.embed_tokens.weight\"");
    assert_ok(open_and_check(make_checkpoint(CONFIG("llama", ""), &set), &err));
}

static void uses_tell_what_a_capture_reads(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    checkpoint *ckpt = NULL;
    tensor_use *uses = NULL;
    int n[3] = {0};
    assert_ok(checkpoint_open(&ckpt, make_checkpoint(CONFIG("llama", ""), &set), &err));
    assert_ok(checkpoint_uses(&uses, ckpt, &err));
    for (int64_t i = 0; i < checkpoint_n_tensors(ckpt); i++) n[uses[i]]++;
    assert_int_equal(n[TENSOR_UNREAD], 0);
    assert_int_equal(n[TENSOR_FOR_HEADS], 5); /* embedding, norm, q, k, v of the only layer */
    assert_int_equal(n[TENSOR_FOR_LOGITS], 7);
    assert_int_equal(uses[checkpoint_tensor_index(ckpt, "lm_head.weight")], TENSOR_FOR_LOGITS);
    assert_int_equal(checkpoint_tensor_index(ckpt, "absent"), -1);
    free(uses);
    checkpoint_close(ckpt);
}

/* ---- files ----------------------------------------------------------------------------------- */

#define LFS "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"

/* A checkpoint folder with the files that a case adds, puts in place of others, or takes away. */
typedef struct folder_case {
    const char *add[3]; /* names; with `text` in each */
    const char *text;
    const char *remove[2];
    rb_status status;
    const char *message;
} folder_case;

static void folder_is_named_as_what_it_is(void **state)
{
    const folder_case *wanted = *state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_checkpoint(CONFIG("llama", ""), &set);
    char path[1200];
    for (int i = 0; i < 2 && wanted->remove[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, wanted->remove[i]);
        assert_int_equal(unlink(path), 0);
    }
    for (int i = 0; i < 3 && wanted->add[i]; i++) write_text(folder, wanted->add[i], wanted->text);
    const rb_status st = open_and_check(folder, &err);
    if (st != wanted->status) fail_msg("status %d, expected %d: %s", (int)st, (int)wanted->status, err.msg);
    if (wanted->message && !strstr(err.msg, wanted->message))
        fail_msg("message \"%s\" does not contain \"%s\"", err.msg, wanted->message);
    assert_null(strchr(err.msg, '\n'));
}

#define WEIGHTS     "model.safetensors"
#define CONFIG_FILE "config.json"
static const folder_case FOLDERS[] = {
    {{"README.md", "tokenizer.json", "generation_config.json"}, "x", {0}, RB_OK, NULL},
    {{"consolidated.safetensors", "params.json", "model.Q8_0.gguf"}, "x", {0}, RB_OK, NULL},
    {{"pytorch_model.bin", "training_args.bin", "optimizer.pt"}, "x", {0}, RB_OK, NULL},
    {{"adapter_config.json"}, "{}", {0}, RB_EUNSUPPORTED, "an adapter (adapter_config.json) beside the weights"},
    {{"adapter_model.bin"}, "x", {0}, RB_EUNSUPPORTED, "an adapter (adapter_model.bin) beside the weights"},
    {{"pytorch_lora_weights.safetensors"}, "x", {0}, RB_EUNSUPPORTED, "an adapter (pytorch_lora_weights.safetensors)"},
    {{"adapter_config.json", "adapter_model.safetensors"},
     "{}",
     {WEIGHTS, CONFIG_FILE},
     RB_EUNSUPPORTED,
     "only an adapter (adapter_config.json), without the weights of a model"},
    {{"adapter_model.safetensors"}, "{}", {WEIGHTS}, RB_EUNSUPPORTED, "only an adapter"},
    {{WEIGHTS}, LFS, {0}, RB_EFORMAT, "model.safetensors: expected safetensors, found a Git LFS pointer"},
    {{CONFIG_FILE}, LFS, {0}, RB_EFORMAT, "config.json: expected JSON, found a Git LFS pointer"},
    {{WEIGHTS}, "<!DOCTYPE html>\n<html><body>404", {0}, RB_EFORMAT, "found an HTML or XML page"},
    {{CONFIG_FILE}, "\n<html>\n", {0}, RB_EFORMAT, "config.json: expected JSON, found an HTML or XML page"},
    {{WEIGHTS}, "", {0}, RB_EFORMAT, "model.safetensors: expected safetensors, found an empty file"},
    {{CONFIG_FILE}, "", {0}, RB_EFORMAT, "config.json: line 1: the JSON ends too early"},
    {{WEIGHTS}, "PK\003\004xxxxxxxxxxx", {0}, RB_EFORMAT, "found a zip archive, as PyTorch writes its pickles"},
    {{WEIGHTS}, "\200\002}q\001xxxxxxxx", {0}, RB_EFORMAT, "found a Python pickle"},
    {{WEIGHTS}, "GGUF\003xxxxxxxxxxx", {0}, RB_EFORMAT, "found a GGUF file"},
    {{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"},
     "x",
     {WEIGHTS},
     RB_EFORMAT,
     "2 shards (model-00001-of-00003.safetensors, ...) without an index, expected model.safetensors.index.json"},
    {{"model-00001-of-00002.safetensors"},
     "x",
     {0},
     RB_EMISMATCH,
     "model.safetensors beside 1 shards (model-00001-of-00002.safetensors, ...)"},
    {{"consolidated.00.pth", "params.json"},
     "x",
     {WEIGHTS, CONFIG_FILE},
     RB_EUNSUPPORTED,
     "no config.json, but weights in the original format of Meta or Mistral (consolidated.00.pth)"},
    {{"consolidated.safetensors"}, "x", {WEIGHTS}, RB_EUNSUPPORTED, "original format of Meta or Mistral"},
    {{"x.Q8_0.gguf"}, "x", {WEIGHTS, CONFIG_FILE}, RB_EUNSUPPORTED, "weights as GGUF (x.Q8_0.gguf)"},
    {{"pytorch_model.bin"}, "x", {WEIGHTS}, RB_EUNSUPPORTED, "PyTorch pickles; convert them with transformers"},
    {{"pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"},
     "x",
     {WEIGHTS},
     RB_EUNSUPPORTED,
     "PyTorch pickles"},
    {{"model.onnx"}, "x", {WEIGHTS}, RB_EUNSUPPORTED, "an ONNX model (model.onnx)"},
    {{"tf_model.h5"}, "x", {WEIGHTS}, RB_EUNSUPPORTED, "TensorFlow weights (tf_model.h5)"},
    {{"flax_model.msgpack"}, "x", {WEIGHTS}, RB_EUNSUPPORTED, "Flax weights (flax_model.msgpack)"},
    {{"weights.safetensors"}, "x", {WEIGHTS}, RB_EUNSUPPORTED, "safetensors under another name (weights.safetensors)"},
    {{"model_index.json"}, "x", {WEIGHTS, CONFIG_FILE}, RB_EUNSUPPORTED, "a pipeline of diffusers"},
    {{0}, NULL, {WEIGHTS}, RB_EIO, "no weights, expected model.safetensors or model.safetensors.index.json"},
    {{0}, NULL, {CONFIG_FILE}, RB_EIO, "no config.json, expected a Hugging Face checkpoint"},
};

static void a_folder_that_is_not_there_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    assert_fails(open_and_check("absent/model", &err), RB_EIO, "absent/model: cannot open the folder: No such file");
}

static void a_shard_that_is_a_pointer_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    write_text(folder, SHARD_2, LFS);
    assert_fails(open_and_check(folder, &err), RB_EFORMAT,
                 "model-00002-of-00002.safetensors: expected safetensors, found a Git LFS pointer");
}

static void a_shard_that_the_index_does_not_name_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    const tensor_set set = plain_set();
    const char *folder = make_sharded(&set, 5);
    write_text(folder, "model-00001-of-00003.safetensors", "x");
    assert_fails(open_and_check(folder, &err), RB_EMISMATCH,
                 "model-00001-of-00003.safetensors: not named by model.safetensors.index.json");
}

int main(void)
{
    enum { N_FOLDERS = RB_COUNT(FOLDERS) };
    struct CMUnitTest folders[N_FOLDERS];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_other_tensor_is_refused_by_name),
        cmocka_unit_test(many_tensors_are_counted_and_the_first_are_named),
        cmocka_unit_test(layers_past_the_last_are_refused_by_number),
        cmocka_unit_test(adapters_and_quantized_weights_are_named_as_such),
        cmocka_unit_test(a_tied_lm_head_must_equal_the_embedding),
        cmocka_unit_test(uses_tell_what_a_capture_reads),
        cmocka_unit_test(a_folder_that_is_not_there_is_named),
        cmocka_unit_test(a_shard_that_is_a_pointer_is_named),
        cmocka_unit_test(a_shard_that_the_index_does_not_name_is_named),
    };
    for (size_t i = 0; i < N_FOLDERS; i++)
        folders[i] = (struct CMUnitTest){
            .name = FOLDERS[i].message ? FOLDERS[i].message : "files that are no weights are left alone",
            .test_func = folder_is_named_as_what_it_is,
            .initial_state = (void *)(uintptr_t)&FOLDERS[i],
        };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("folders", folders, NULL, NULL);
}
