/* core/model_facts.h: blocks, checks, comparison, and the way through JSON and HDF5 and back. */
#include "tests/test_support.h"

#include "core/hdf5/hdf5_file.h"
#include "core/json.h"
#include "core/model_facts.h"

static rb_error err;

static model_facts make_facts(rope_kind kind)
{
    model_facts facts = {
        .model_type = "qwen2",
        .n_layers = 28,
        .n_q_heads = 12,
        .n_kv_heads = 2,
        .head_dim = 80,
        .rotary_dim = 32,
        .value_dim = 80,
        .attention_scale = 0.11180339887498948,
        .rope = {.kind = kind, .pairing = ROPE_INTERLEAVED, .theta = 1e6, .factor = 1, .attention_factor = 1}};
    memset(facts.config_sha256, 'c', RB_SHA256_HEX - 1);
    if (kind != ROPE_DEFAULT) facts.rope.factor = 1.0 / 3;
    if (kind == ROPE_LLAMA3) {
        facts.rope.low_freq_factor = 1;
        facts.rope.high_freq_factor = 4;
    }
    if (rope_kind_has_original(kind)) facts.rope.original_max_position = 8192;
    if (kind == ROPE_YARN || kind == ROPE_LONGROPE) facts.rope.attention_factor = 1.2;
    for (int i = 0; i < 16; i++) facts.rope.inv_freq[i] = pow(1e6, -i / 16.0) / 3;
    if (kind == ROPE_PROPORTIONAL) facts.rope.inv_freq[15] = 0;
    return facts;
}

/* A latent cache as MLA has it, and two layers that turn by a rope of their own as in Gemma 3. */
static model_facts make_local_facts(void)
{
    model_facts facts = make_facts(ROPE_YARN);
    facts.value_dim = 512;
    facts.has_local_rope = true;
    facts.local_rope = make_facts(ROPE_DEFAULT).rope;
    facts.local_rope.theta = 10000;
    for (int i = 0; i < 16; i++) facts.local_rope.inv_freq[i] = pow(1e4, -i / 16.0);
    facts.layer_is_local[3] = facts.layer_is_local[27] = true;
    return facts;
}

/* Every pair of dims of a head of 8 with rotary_dim 4: two blocks that turn, two past them. */
static void blocks_pair_the_dims_of_a_head(void **state)
{
    (void)state;
    static const int expected[2][4][2] = {{{0, 2}, {1, 3}, {4, 5}, {6, 7}}, {{0, 1}, {2, 3}, {4, 5}, {6, 7}}};
    model_facts facts = {.head_dim = 8,
                         .rotary_dim = 4,
                         .rope = {.inv_freq = {1, 0.5, 0.25}, .attention_factor = 1.2},
                         .local_rope = {.inv_freq = {2, 3, 4}, .attention_factor = 1.5},
                         .layer_is_local = {[1] = true}};
    for (int pairing = 0; pairing < 2; pairing++) {
        facts.rope.pairing = (rope_pairing)pairing;
        for (int block = 0; block < model_n_blocks(&facts); block++) {
            int dims[2];
            model_block_dims(&facts, block, dims);
            assert_memory_equal(dims, expected[pairing][block], sizeof dims);
        }
    }
    assert_true(model_block_freq(&facts, 0, 1) == 0.5 && model_block_freq(&facts, 1, 1) == 3);
    assert_true(model_block_freq(&facts, 0, 2) == 0 && model_block_freq(&facts, 1, 2) == 0);
    assert_true(model_block_gain(&facts, 0, 1) == 1.2 && model_block_gain(&facts, 1, 1) == 1.5);
    assert_true(model_block_gain(&facts, 0, 2) == 1 && model_block_gain(&facts, 1, 2) == 1);
}

/* Writes facts in both forms and reads them back; *text is the JSON, freed by the caller. */
static void assert_come_back(const model_facts *facts, char **text)
{
    const char *path = scratch_path("facts.h5");
    model_facts from_json, from_h5;
    cJSON *json = NULL, *parsed = NULL;
    rb_h5_file file;
    assert_ok(model_facts_check(facts, "made", &err));
    assert_ok(model_facts_to_json(&json, facts, &err));
    assert_ok(rb_json_print(text, json, &err));
    assert_ok(rb_json_parse(&parsed, *text, strlen(*text), "text", &err));
    assert_ok(model_facts_from_json(&from_json, parsed, "text", &err));
    assert_memory_equal(&from_json, facts, sizeof *facts);
    assert_ok(rb_h5_create(&file, path, &err));
    assert_ok(model_facts_write_h5(file.id, facts, &err));
    assert_ok(rb_h5_publish(&file, &err));
    assert_ok(rb_h5_open(&file, path, &err));
    assert_ok(model_facts_read_h5(&from_h5, file.contents, path, &err));
    assert_memory_equal(&from_h5, facts, sizeof *facts);
    rb_h5_close(&file);
    cJSON_Delete(json);
    cJSON_Delete(parsed);
}

static void facts_come_back_from_json_and_hdf5(void **state)
{
    (void)state;
    char *text;
    for (int kind = ROPE_DEFAULT; kind < ROPE_N_KINDS; kind++) {
        model_facts facts = make_facts((rope_kind)kind);
        if (kind == ROPE_LINEAR) memset(facts.weights_sha256, 'd', RB_SHA256_HEX - 1);
        if (kind == ROPE_YARN) memset(facts.weights_sample_sha256, 'e', RB_SHA256_HEX - 1);
        assert_come_back(&facts, &text);
        /* Files of models that were known before have no member more. */
        assert_null(strstr(text, "value_dim"));
        assert_null(strstr(text, "local_rope"));
        assert_int_equal(strstr(text, "attention_factor") != NULL, facts.rope.attention_factor != 1);
        free(text);
    }
}

static void a_local_rope_and_other_values_come_back(void **state)
{
    (void)state;
    const model_facts facts = make_local_facts();
    char *text;
    assert_come_back(&facts, &text);
    assert_non_null(strstr(text, "\"value_dim\": 512"));
    assert_non_null(strstr(text, "\"attention_factor\": 1.2"));
    free(text);
}

static void values_have_facts_of_their_own(void **state)
{
    (void)state;
    model_facts facts = make_local_facts();
    assert_int_equal(model_value_facts(&facts).head_dim, 512);
    assert_int_equal(model_value_facts(&facts).rotary_dim, 32);
    facts.value_dim = 16; /* RoPE cannot turn more dims than there are */
    assert_int_equal(model_value_facts(&facts).rotary_dim, 16);
}

static void check_names_what_cannot_be_true(void **state)
{
    (void)state;
    model_facts facts;
#define REFUSED(change, text)                                                            \
    do {                                                                                 \
        facts = make_facts(ROPE_LLAMA3);                                                 \
        change;                                                                          \
        assert_fails(model_facts_check(&facts, "here", &err), RB_EINVAL, "here: " text); \
    } while (0)
    REFUSED(facts.model_type[0] = '\0', "model_type is \"\", expected a name of letters");
    REFUSED(strcpy(facts.model_type, "*/"), "model_type is \"*/\"");
    REFUSED(facts.config_sha256[3] = 'C', "config_sha256 is \"cccC");
    REFUSED(facts.weights_sha256[0] = 'a', "weights_sha256 is \"a\"");
    REFUSED(facts.weights_sample_sha256[0] = 'a', "weights_sample_sha256 is \"a\"");
    REFUSED(facts.n_layers = 0, "n_layers is 0, expected 1 to 1024");
    REFUSED(facts.n_kv_heads = 13, "n_kv_heads is 13, expected 1 to 12");
    REFUSED(facts.n_kv_heads = 5, "12 query heads do not divide among 5 KV heads");
    REFUSED(facts.head_dim = 1026, "head_dim is 1026, expected 2 to 1024");
    REFUSED(facts.head_dim = 81, "head_dim 81 and rotary_dim 32, expected even ones");
    REFUSED(facts.rotary_dim = 82, "rotary_dim is 82, expected 2 to 80");
    REFUSED(facts.attention_scale = -1, "attention_scale is -1, expected a positive number");
    REFUSED(facts.rope.theta = NAN, "rope theta is nan");
    REFUSED(facts.rope.factor = 0, "rope factor is 0");
    REFUSED(facts.rope.high_freq_factor = INFINITY, "rope high_freq_factor is inf");
    REFUSED(facts.rope.original_max_position = 0, "rope original_max_position is 0");
    REFUSED(facts.rope.inv_freq[15] = 0, "inv_freq[15] is 0");
    REFUSED(facts.rope.kind = ROPE_N_KINDS, "rope kind is 7");
    REFUSED(facts.rope.attention_factor = 0, "rope attention_factor is 0");
    REFUSED(facts.value_dim = 0, "value_dim is 0, expected 2 to 1024");
    REFUSED(facts.value_dim = 81, "value_dim 81, expected an even number");
    REFUSED(facts.layer_is_local[1] = true, "layer 1 of 28 turns by a local rope, expected none without one");
    REFUSED((facts = make_local_facts(), facts.layer_is_local[28] = true),
            "layer 28 of 28 turns by a local rope, expected a layer of the model");
    REFUSED((facts = make_local_facts(), facts.layer_is_local[3] = facts.layer_is_local[27] = false),
            "no layer turns by the local rope");
    REFUSED((facts = make_local_facts(), facts.local_rope.pairing = ROPE_SPLIT_HALF),
            "local rope has pairing split-half, expected that of the other layers, interleaved");
    REFUSED((facts = make_local_facts(), facts.local_rope.inv_freq[3] = 0), "local rope: inv_freq[3] is 0");
#undef REFUSED
}

static void facts_of_two_files_must_be_the_same(void **state)
{
    (void)state;
    const model_facts a = make_facts(ROPE_LLAMA3);
    model_facts b = a;
    assert_ok(model_facts_same(&a, "a.h5", &b, "b.json", &err));
#define DIFFERS(change, text)                                                                                   \
    do {                                                                                                        \
        b = a;                                                                                                  \
        change;                                                                                                 \
        assert_fails(model_facts_same(&a, "a.h5", &b, "b.json", &err), RB_EMISMATCH, "a.h5 and b.json: " text); \
    } while (0)
    DIFFERS(strcpy(b.model_type, "llama"), "model_type qwen2 and llama");
    DIFFERS(b.n_layers = 24, "n_layers 28 and 24");
    DIFFERS(b.n_q_heads = 14, "n_q_heads 12 and 14");
    DIFFERS(b.n_kv_heads = 4, "n_kv_heads 2 and 4");
    DIFFERS(b.head_dim = 128, "head_dim 80 and 128");
    DIFFERS(b.rotary_dim = 64, "rotary_dim 32 and 64");
    DIFFERS(b.attention_scale = 0.125, "attention_scale 0.11180339887498948 and 0.125");
    DIFFERS(b.rope.kind = ROPE_LINEAR, "rope kind llama3 and linear");
    DIFFERS(b.rope.pairing = ROPE_SPLIT_HALF, "rope pairing interleaved and split-half");
    DIFFERS(b.rope.theta = 10000, "rope theta 1000000 and 10000");
    DIFFERS(b.rope.factor = 8, "rope factor 0.33333333333333331 and 8");
    DIFFERS(b.rope.low_freq_factor = 2, "rope low_freq_factor 1 and 2");
    DIFFERS(b.rope.high_freq_factor = 2, "rope high_freq_factor 4 and 2");
    DIFFERS(b.rope.original_max_position = 1, "rope original_max_position 8192 and 1");
    DIFFERS(b.rope.inv_freq[0] = nextafter(a.rope.inv_freq[0], 1), "inv_freq[0] 0.3333333333333333");
    DIFFERS(b.value_dim = 128, "value_dim 80 and 128");
    DIFFERS(b.rope.attention_factor = 1.25, "rope attention_factor 1 and 1.25");
    DIFFERS(b.has_local_rope = true, "local rope absent and there");
    DIFFERS(memset(b.config_sha256, 'e', 64), "config_sha256 cccc");
#undef DIFFERS
    const model_facts local = make_local_facts();
    b = local;
    b.layer_is_local[4] = true;
    assert_fails(model_facts_same(&local, "a", &b, "b", &err), RB_EMISMATCH, "a and b: layer 4 not local and local");
    b = local;
    b.local_rope.theta = 20000;
    assert_fails(model_facts_same(&local, "a", &b, "b", &err), RB_EMISMATCH,
                 "a and b: local rope: rope theta 10000 and 20000");
    /* weights count when both were hashed; frequencies past rotary_dim never do */
    b = a;
    memset(b.weights_sha256, '1', 64);
    b.rope.inv_freq[16] = 5;
    assert_ok(model_facts_same(&a, "a.h5", &b, "b.json", &err));
    model_facts hashed = a;
    memset(hashed.weights_sha256, '2', 64);
    assert_fails(model_facts_same(&hashed, "a.h5", &b, "b.json", &err), RB_EMISMATCH, "weights_sha256 2222");
    hashed = b = a;
    memset(b.weights_sample_sha256, '1', 64);
    assert_ok(model_facts_same(&hashed, "a.h5", &b, "b.json", &err));
    memset(hashed.weights_sample_sha256, '2', 64);
    assert_fails(model_facts_same(&hashed, "a.h5", &b, "b.json", &err), RB_EMISMATCH,
                 "other weights under the same config.json: weights_sample_sha256 2222");
}

/* The document of `facts` with one line of text replaced, through the reader. */
static rb_status read_changed(const model_facts *facts, const char *from, const char *to)
{
    model_facts found;
    cJSON *json = NULL, *parsed = NULL;
    char *text = NULL, changed[8192];
    memset(&err, 0, sizeof err);
    assert_ok(model_facts_to_json(&json, facts, &err));
    text = cJSON_PrintUnformatted(json);
    char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_ok(rb_json_parse(&parsed, changed, strlen(changed), "plan.json", &err));
    const rb_status st = model_facts_from_json(&found, parsed, "plan.json: model", &err);
    cJSON_Delete(json);
    cJSON_Delete(parsed);
    free(text);
    return st;
}

static void json_of_another_form_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"n_layers\":28", "\"n_layers\":\"28\"", "plan.json: model.n_layers"},
        {"\"n_layers\":28", "\"n_layers\":28.5", "plan.json: model.n_layers"},
        {"\"n_layers\":28,", "", "plan.json: model.n_layers"},
        {"\"head_dim\":80", "\"head_dim\":4096", "plan.json: model.head_dim"},
        {"\"rotary_dim\":32", "\"rotary_dim\":34", "16 frequencies, expected 17"},
        {"\"kind\":\"llama3\"", "\"kind\":\"su\"",
         "rope kind su, expected default, linear, llama3, dynamic, yarn, longrope or proportional"},
        {"\"pairing\":\"interleaved\"", "\"pairing\":\"half\"",
         "rope pairing half, expected split-half or interleaved"},
        {"\"inv_freq\":[", "\"inv_freq\":[\"x\",", "17 frequencies, expected 16"},
        {"\"model_type\":\"qwen2\"", "\"model_type\":\"a model type of more than thirty-one letters\"",
         "44 characters, at most 31"},
        {"\"n_kv_heads\":2", "\"n_kv_heads\":7", "12 query heads do not divide among 7"},
        {"\"theta\":1000000", "\"theta\":0", "theta"},
    };
    static const struct {
        const char *from, *to, *message;
    } local_cases[] = {
        {"\"layers\":[3,27]", "\"layers\":[3,28]", "local_rope.layers: expected ascending layers from 0 to 27"},
        {"\"layers\":[3,27]", "\"layers\":[27,3]", "local_rope.layers: expected ascending layers from 0 to 27"},
        {"\"layers\":[3,27]", "\"layers\":[]", "no layer turns by the local rope"},
        {",\"layers\":[3,27]", "", "local_rope.layers"},
        {"\"value_dim\":512", "\"value_dim\":0", "model.value_dim"},
        {"\"attention_factor\":1.2", "\"attention_factor\":-1", "attention_factor"},
    };
    const model_facts facts = make_facts(ROPE_LLAMA3), local = make_local_facts();
    assert_int_equal(read_changed(&facts, "qwen2", "qwen3"), RB_OK);
    for (size_t i = 0; i < RB_COUNT(local_cases); i++) {
        const rb_status st = read_changed(&local, local_cases[i].from, local_cases[i].to);
        if (st == RB_OK || !strstr(err.msg, local_cases[i].message))
            fail_msg("%s: status %d: %s", local_cases[i].to, (int)st, err.msg);
    }
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        const rb_status st = read_changed(&facts, cases[i].from, cases[i].to);
        if (st == RB_OK || !strstr(err.msg, cases[i].message))
            fail_msg("%s: status %d: %s", cases[i].to, (int)st, err.msg);
    }
}

static void text_facts_come_back_and_may_be_absent(void **state)
{
    (void)state;
    text_facts text = {.n_tokens = 2048, .context = 1024}, found;
    cJSON *json = NULL;
    memset(text.tokens_sha256, 'f', RB_SHA256_HEX - 1);
    assert_ok(text_facts_to_json(&json, &text, &err));
    assert_ok(text_facts_from_json(&found, json, "plan.json: test", &err));
    assert_memory_equal(&found, &text, sizeof text);
    cJSON_ReplaceItemInObject(json, "tokens_sha256", cJSON_CreateString("ff"));
    assert_fails(text_facts_from_json(&found, json, "plan.json: test", &err), RB_EFORMAT,
                 "plan.json: test.tokens_sha256: \"ff\"");
    cJSON_Delete(json);
    text = (text_facts){0};
    assert_ok(text_facts_to_json(&json, &text, &err));
    assert_true(cJSON_IsNull(json));
    assert_ok(text_facts_from_json(&found, json, "plan.json: test", &err));
    assert_memory_equal(&found, &text, sizeof text);
    assert_ok(text_facts_from_json(&found, NULL, "plan.json: test", &err));
    assert_memory_equal(&found, &text, sizeof text);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_pair_the_dims_of_a_head),
        cmocka_unit_test(facts_come_back_from_json_and_hdf5),
        cmocka_unit_test(check_names_what_cannot_be_true),
        cmocka_unit_test(facts_of_two_files_must_be_the_same),
        cmocka_unit_test(a_local_rope_and_other_values_come_back),
        cmocka_unit_test(values_have_facts_of_their_own),
        cmocka_unit_test(json_of_another_form_is_refused),
        cmocka_unit_test(text_facts_come_back_and_may_be_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
