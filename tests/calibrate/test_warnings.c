/* Warnings: which layers they name, and that sinks, few blocks and a large bias are found where they were put. */
#include "tests/model/tiny_checkpoint.h"

#include "calibrate/capture_watch.h"
#include "core/half.h"

/* ---- names of layers ------------------------------------------------------------------------- */

static void layers_are_named_in_ranges(void **state)
{
    (void)state;
    const bool some[8] = {true, false, true, true, true, false, false, true}, all[2] = {true, true};
    char text[64];
    warnings_name_layers(text, sizeof text, some, 8);
    assert_string_equal(text, "5 of 8 layers (0, 2 to 4, 7)");
    warnings_name_layers(text, sizeof text, all, 2);
    assert_string_equal(text, "2 of 2 layers (0 to 1)");
    char small[16];
    warnings_name_layers(small, sizeof small, some, 8);
    assert_memory_equal(small, "5 of 8 layers (", 16);
}

static void a_full_list_drops_the_rest(void **state)
{
    (void)state;
    static warning_list list;
    for (int i = 0; i < MAX_WARNINGS + 3; i++) warnings_add(&list, "warning %d", i);
    assert_int_equal(list.n, MAX_WARNINGS);
    assert_string_equal(list.text[MAX_WARNINGS - 1], "warning 15");
}

/* ---- sinks ----------------------------------------------------------------------------------- */

enum { DIM = 8, N_Q = 2, N_KV = 1, LAYERS = 2, TOKENS = 200, SEQUENCE = 128 };

/* A model whose RoPE hardly turns, so that attention can be told by hand. */
static const model_config *still_model(void)
{
    static model_config config;
    config = (model_config){.facts = {.n_layers = LAYERS,
                                      .n_q_heads = N_Q,
                                      .n_kv_heads = N_KV,
                                      .head_dim = DIM,
                                      .rotary_dim = DIM,
                                      .value_dim = DIM,
                                      .attention_scale = 0.5}};
    config.facts.rope.factor = config.facts.rope.attention_factor = 1;
    for (int i = 0; i < DIM / 2; i++) config.facts.rope.inv_freq[i] = 1e-12;
    return &config;
}

/* Queries are 1 in the first dim; the key at `sink` is `size` there, all others are 0. */
static void fill_heads(float *q, float *k, int sink, float size)
{
    memset(q, 0, N_Q * TOKENS * DIM * sizeof *q);
    memset(k, 0, N_KV * TOKENS * DIM * sizeof *k);
    for (int i = 0; i < N_Q * TOKENS; i++) q[i * DIM] = 1;
    k[sink * DIM] = size;
}

static block_statistics even_blocks(void)
{
    static double q_energy[DIM / 2], k_energy[DIM / 2], k_mean[DIM];
    for (int i = 0; i < DIM / 2; i++) q_energy[i] = k_energy[i] = 1;
    return (block_statistics){.n_kv_heads = N_KV,
                              .n_blocks = DIM / 2,
                              .head_dim = DIM,
                              .q_energy = q_energy,
                              .k_energy = k_energy,
                              .k_mean = k_mean};
}

static void the_attention_on_a_key_is_as_computed_by_hand(void **state)
{
    (void)state;
    static float q[N_Q * TOKENS * DIM], k[N_KV * TOKENS * DIM];
    const block_statistics statistics = even_blocks();
    rb_error err = {0};
    capture_watch watch;
    assert_ok(capture_watch_create(&watch, still_model(), SEQUENCE, &err));
    fill_heads(q, k, 1, 8);
    assert_ok(capture_watch_layer(&watch, 0, q, k, false, TOKENS, &statistics, &err));
    /* Logit 8 * 0.5 for key 1 and 0 for the `position` others of each of 32 queries from 64 to 126. */
    double wanted = 0, other = 0;
    for (int i = 0; i < 32; i++) {
        const double position = 64 + 2 * i;
        wanted += exp(4) / (exp(4) + position) / 32;
        other += 1 / (exp(4) + position) / 32;
    }
    assert_true(fabs(watch.layers[0].sink[1] - wanted) < 1e-9);
    assert_true(fabs(watch.layers[0].sink[0] - other) < 1e-9);
    assert_true(fabs(watch.layers[0].sink[3] - other) < 1e-9);

    warning_list list = {0};
    capture_watch_warn(&watch, &list);
    assert_int_equal(list.n, 1);
    if (!strstr(list.text[0], "attention sink: position 1 takes 37 % of the attention in 1 of 2 layers (0)"))
        fail_msg("%s", list.text[0]);
    capture_watch_free(&watch);
}

static void f16_and_f32_give_the_same(void **state)
{
    (void)state;
    static float q[N_Q * TOKENS * DIM], k[N_KV * TOKENS * DIM];
    static uint16_t half_q[N_Q * TOKENS * DIM], half_k[N_KV * TOKENS * DIM];
    const block_statistics statistics = even_blocks();
    rb_error err = {0};
    capture_watch watch;
    assert_ok(capture_watch_create(&watch, still_model(), SEQUENCE, &err));
    fill_heads(q, k, 0, 8);
    for (int i = 0; i < N_Q * TOKENS * DIM; i++) half_q[i] = rb_f32_to_f16(q[i]);
    for (int i = 0; i < N_KV * TOKENS * DIM; i++) half_k[i] = rb_f32_to_f16(k[i]);
    assert_ok(capture_watch_layer(&watch, 0, q, k, false, TOKENS, &statistics, &err));
    assert_ok(capture_watch_layer(&watch, 1, half_q, half_k, true, TOKENS, &statistics, &err));
    assert_true(watch.layers[0].sink[0] > 0.3);
    assert_memory_equal(&watch.layers[0], &watch.layers[1], sizeof watch.layers[0]);
    capture_watch_free(&watch);
}

static void even_attention_and_short_sequences_give_no_warning(void **state)
{
    (void)state;
    static float q[N_Q * TOKENS * DIM], k[N_KV * TOKENS * DIM];
    const block_statistics statistics = even_blocks();
    rb_error err = {0};
    capture_watch watch;
    warning_list list = {0};
    assert_ok(capture_watch_create(&watch, still_model(), SEQUENCE, &err));
    fill_heads(q, k, 0, 0);
    assert_ok(capture_watch_layer(&watch, 0, q, k, false, TOKENS, &statistics, &err));
    capture_watch_warn(&watch, &list);
    assert_int_equal(list.n, 0);
    capture_watch_free(&watch);

    assert_ok(capture_watch_create(&watch, still_model(), 32, &err));
    fill_heads(q, k, 0, 100);
    assert_ok(capture_watch_layer(&watch, 0, q, k, false, TOKENS, &statistics, &err));
    capture_watch_warn(&watch, &list);
    assert_int_equal(list.n, 0);
    capture_watch_free(&watch);
}

/* ---- blocks ---------------------------------------------------------------------------------- */

static void energy_in_one_block_is_told(void **state)
{
    (void)state;
    static float q[N_Q * TOKENS * DIM], k[N_KV * TOKENS * DIM];
    block_statistics statistics = even_blocks();
    rb_error err = {0};
    capture_watch watch;
    warning_list list = {0};
    assert_ok(capture_watch_create(&watch, still_model(), SEQUENCE, &err));
    fill_heads(q, k, 0, 0);
    statistics.k_energy[2] = 100 - 7; /* with the query's 1: 94 of 100 */
    assert_ok(capture_watch_layer(&watch, 1, q, k, false, TOKENS, &statistics, &err));
    capture_watch_warn(&watch, &list);
    assert_int_equal(list.n, 1);
    assert_string_equal(list.text[0], "energy in few blocks: 1 of 4 RoPE blocks of a head hold 94 % of the energy of "
                                      "queries and keys in 1 of 2 layers (1)");
    capture_watch_free(&watch);
}

/* ---- the bias of the keys -------------------------------------------------------------------- */

/* A qwen2 whose k_proj has the given weight and bias everywhere, after a norm of weight 2. */
static void warn_of_bias(warning_list *list, const char *model_type, float weight, float bias)
{
    static float norm[8], k_weight[48], k_bias[6];
    rb_error err = {0};
    checkpoint *ckpt = NULL;
    tensor_set set = plain_set();
    if (strcmp(model_type, "qwen2") == 0) add_tensors(&set, QKV_BIASES, RB_COUNT(QKV_BIASES));
    for (int i = 0; i < 48; i++) k_weight[i] = weight;
    for (int i = 0; i < 8; i++) norm[i] = 2;
    for (int i = 0; i < 6; i++) k_bias[i] = bias;
    in_set(&set, LAYER "input_layernorm.weight")->data = norm;
    in_set(&set, LAYER "self_attn.k_proj.weight")->data = k_weight;
    if (strcmp(model_type, "qwen2") == 0) in_set(&set, LAYER "self_attn.k_proj.bias")->data = k_bias;
    const char *folder = strcmp(model_type, "qwen2") == 0 ? make_checkpoint(CONFIG("qwen2", ""), &set)
                                                          : make_checkpoint(CONFIG("llama", ""), &set);
    assert_ok(checkpoint_open(&ckpt, folder, &err));
    assert_ok(warnings_add_key_bias(list, ckpt, &err));
    checkpoint_close(ckpt);
}

static void a_large_bias_of_the_keys_is_told(void **state)
{
    (void)state;
    warning_list list = {0};
    /* Projected: 8 * (2 * 0.75)^2 = 18 a dim; bias 6^2 = 36: two thirds. */
    warn_of_bias(&list, "qwen2", 0.75f, 6);
    assert_int_equal(list.n, 1);
    if (!strstr(list.text[0], "50 % of the energy of the keys in 1 of 1 layers (0), 66.7 % in layer 0"))
        fail_msg("%s", list.text[0]);
}

static void a_small_bias_and_none_are_not_told(void **state)
{
    (void)state;
    warning_list list = {0};
    warn_of_bias(&list, "qwen2", 0.75f, 3);
    warn_of_bias(&list, "llama", 0.5f, 0);
    assert_int_equal(list.n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_are_named_in_ranges),
        cmocka_unit_test(a_full_list_drops_the_rest),
        cmocka_unit_test(the_attention_on_a_key_is_as_computed_by_hand),
        cmocka_unit_test(f16_and_f32_give_the_same),
        cmocka_unit_test(even_attention_and_short_sequences_give_no_warning),
        cmocka_unit_test(energy_in_one_block_is_told),
        cmocka_unit_test(a_large_bias_of_the_keys_is_told),
        cmocka_unit_test(a_small_bias_and_none_are_not_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
