/* What a plan of more than the published form says in words, and in plan.safetensors. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "export/plan_report.h"
#include "export/plan_safetensors.h"
#include "model/safetensors.h"
#include "plan/plan_coding.h"

enum { N_BLOCKS = 4, HEAD_DIM = 8, N_HEADS = 2 };

/* One layer of two heads of four blocks. Head 0: blocks 1 and 3 in a group of 2 bits, log8, search, scales, center;
 * head 1: all blocks at 3 bits, nothing else. */
static bit_plan *general_plan(void)
{
    static const int blocks[] = {1, 3}, all[] = {0, 1, 2, 3};
    static const double scales[N_BLOCKS] = {1.0, 0.5, 2.0, 4.0},
                        center[HEAD_DIM] = {1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0};
    const model_facts model = {.model_type = "llama",
                               .n_layers = 1,
                               .n_q_heads = 2,
                               .n_kv_heads = N_HEADS,
                               .head_dim = HEAD_DIM,
                               .rotary_dim = HEAD_DIM,
                               .value_dim = HEAD_DIM,
                               .attention_scale = 0.5,
                               .config_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                               .rope = {.attention_factor = 1,
                                        .kind = ROPE_DEFAULT,
                                        .pairing = ROPE_SPLIT_HALF,
                                        .theta = 10000.0,
                                        .factor = 1.0,
                                        .inv_freq = {1.0, 0.1, 0.01, 0.001}}};
    rb_error err = {0};
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, &model, &err));
    strcpy(plan->method, "optimal-center");
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    plan->heads[0].groups.norm = NORM_LOG8;
    plan->heads[0].groups.encoder = ENCODER_SEARCH;
    assert_ok(plan_head_add_group(&plan->heads[0], 2, blocks, 2, CODEBOOK_SPHERE, 7, &err));
    plan->heads[0].groups.at[0].coherence = 1.5f;
    assert_ok(plan_head_set_transform(&plan->heads[0], scales, N_BLOCKS, center, HEAD_DIM, &err));
    assert_ok(plan_head_add_group(&plan->heads[1], 3, all, N_BLOCKS, CODEBOOK_SPHERE, 0, &err));
    return plan;
}

static void words_say_what_a_runtime_must_do(void **state)
{
    (void)state;
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    bit_plan *plan = general_plan();
    assert_int_equal(plan_coding_describe(lines, plan), 5);
    assert_string_equal(lines[0].text, "log8, one byte each, in 1 of 2 heads");
    assert_string_equal(lines[1].text, "search in 1 of 2 heads");
    assert_string_equal(lines[2].text, "scales in 1 of 2 heads: fold them into q_proj and k_proj, or apply them");
    assert_string_equal(lines[3].text,
                        "a center in 1 of 2 heads: quantize before RoPE, or add q . R_t center to the logits");
    assert_string_equal(lines[4].label, "dropped");
    assert_string_equal(lines[4].text, "2 of 8 blocks: nothing is stored of them");
    bit_plan_free(plan);
}

static void a_published_plan_needs_no_words(void **state)
{
    (void)state;
    rb_error err = {0};
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    bit_plan *plan = general_plan();
    for (int h = 0; h < N_HEADS; h++)
        assert_ok(plan_head_set_uniform(&plan->heads[h], 2, N_BLOCKS, 42, CODEBOOK_BLOCK_GTQ, &err));
    assert_int_equal(plan_coding_describe(lines, plan), 0);
    bit_plan_free(plan);
}

#define assert_tensor(file, tensor_name, type, ...)                     \
    do {                                                                \
        const type expected[] = {__VA_ARGS__};                          \
        const safetensor *tensor = safetensors_find(file, tensor_name); \
        assert_non_null(tensor);                                        \
        assert_int_equal(tensor->size_bytes, sizeof expected);          \
        assert_memory_equal(tensor->data, expected, sizeof expected);   \
    } while (0)

static void safetensors_hold_every_fact(void **state)
{
    (void)state;
    rb_error err = {0};
    bit_plan *plan = general_plan();
    safetensors_file *file = NULL;
    const char *path = scratch_path("plan.safetensors");
    assert_ok(plan_safetensors_write(plan, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_tensor(file, "layers.0.k_bits", uint8_t, 0, 2, 0, 2, 3, 3, 3, 3);
    assert_tensor(file, "layers.0.k_permutation", int32_t, 1, 5, 3, 7, 0, 2, 4, 6, 0, 4, 1, 5, 2, 6, 3, 7);
    assert_tensor(file, "layers.0.k_widths", uint8_t, 2, 2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 3, 3, 3, 3, 3);
    assert_tensor(file, "layers.0.k_groups", uint8_t, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_tensor(file, "layers.0.k_norms", uint8_t, 1, 0);
    assert_tensor(file, "layers.0.k_encoders", uint8_t, 1, 0);
    assert_tensor(file, "layers.0.k_norm_exponents", int32_t, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_tensor(file, "layers.0.k_coherences", float, 1.5f, 1.5f, 1.5f, 1.5f, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    assert_tensor(file, "layers.0.k_scales", float, 1, 0.5f, 2, 4, 1, 1, 1, 1);
    assert_tensor(file, "layers.0.k_center", float, 1, -2, 3, -4, 5, -6, 7, -8, 0, 0, 0, 0, 0, 0, 0, 0);
    safetensors_close(file);
    bit_plan_free(plan);
}

static void the_report_shows_them(void **state)
{
    (void)state;
    rb_error err = {0};
    char *text = NULL;
    size_t size;
    bit_plan *plan = general_plan();
    const char *path = scratch_path("plan.html");
    assert_ok(plan_report_write(&(plan_report_inputs){.plan = plan, .stem = "plan"}, path, &err));
    assert_ok(rb_read_file(&text, &size, path, 1 << 20, &err));
    assert_non_null(strstr(text, "<th scope=\"row\">centring</th><td>a center in 1 of 2 heads"));
    assert_non_null(strstr(text, "<th scope=\"row\">dropped</th><td>2 of 8 blocks"));
    free(text);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_say_what_a_runtime_must_do),
        cmocka_unit_test(a_published_plan_needs_no_words),
        cmocka_unit_test(safetensors_hold_every_fact),
        cmocka_unit_test(the_report_shows_them),
    };
    return cmocka_run_group_tests_name("plan_coding", tests, NULL, NULL);
}
