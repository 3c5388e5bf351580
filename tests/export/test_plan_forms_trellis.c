/* What plans with heads of trellis, of keys and of values, say in words, in plan.safetensors, in plan.h and in the
 * report. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/half.h"
#include "export/plan_header.h"
#include "export/plan_report.h"
#include "export/plan_safetensors.h"
#include "model/safetensors.h"
#include "plan/plan_coding.h"
#include "tests/plan/some_plan.h"

enum { DIMS = 8 };

static rb_error err;

/* Two layers of one head: layer 0 of trellis, layer 1 of groups; values of trellis, the second with a center. */
static bit_plan *two_families(void)
{
    const model_facts model = some_model(2, 1, DIMS, DIMS, ROPE_SPLIT_HALF);
    return some_plan_of_trellis(&model);
}

static void words_say_what_a_runtime_must_do(void **state)
{
    (void)state;
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    bit_plan *plan = two_families();
    const int n = plan_coding_describe(lines, plan);
    assert_true(n >= 2);
    assert_string_equal(lines[0].label, "family");
    assert_string_equal(lines[0].text,
                        "trellis in 1 of 2 heads: quantize before RoPE, in a basis of the head's own, by "
                        "a bit-shift trellis, no norm");
    /* One of the four blocks of layer 1; coordinates belong to no block. */
    assert_string_equal(lines[n - 1].label, "dropped");
    assert_string_equal(lines[n - 1].text, "1 of 8 blocks: nothing is stored of them");
    bit_plan_free(plan);
}

static void assert_tensor(const safetensors_file *file, const char *name, tensor_dtype dtype, const void *expected,
                          size_t size)
{
    const safetensor *tensor = safetensors_find(file, name);
    if (!tensor) fail_msg("no tensor %s", name);
    assert_int_equal(tensor->dtype, dtype);
    assert_int_equal(tensor->size_bytes, size);
    assert_memory_equal(tensor->data, expected, size);
}

static void assert_basis(const safetensors_file *file, const char *name, const plan_head *head)
{
    uint16_t words[DIMS * DIMS] = {0};
    const safetensor *tensor = safetensors_find(file, name);
    for (int i = 0; head && i < DIMS * DIMS; i++) words[i] = rb_f32_to_f16(head->trellis.basis[i]);
    assert_tensor(file, name, TENSOR_F16, words, sizeof words);
    assert_int_equal(tensor->rank, 3);
    assert_true(tensor->shape[0] == 1 && tensor->shape[1] == DIMS && tensor->shape[2] == DIMS);
}

static void safetensors_hold_every_fact(void **state)
{
    (void)state;
    bit_plan *plan = two_families();
    safetensors_file *file = NULL;
    const char *path = scratch_path("plan.safetensors");
    static const uint8_t nothing[DIMS] = {0};
    static const float no_center[DIMS] = {0};
    assert_ok(plan_safetensors_write(plan, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    const plan_trellis *key = &plan->heads[0].trellis, *value = &plan->value_heads[1].trellis;
    const uint8_t gain_bits = (uint8_t)value->gain_bits, gain_zero = (uint8_t)value->gain_zero;
    assert_tensor(file, "layers.0.k_families", TENSOR_U8, &(uint8_t){2}, 1);
    assert_tensor(file, "layers.1.k_families", TENSOR_U8, &(uint8_t){0}, 1);
    assert_tensor(file, "layers.0.k_trellis_widths", TENSOR_U8, key->widths, DIMS);
    assert_tensor(file, "layers.1.k_trellis_widths", TENSOR_U8, nothing, DIMS);
    assert_tensor(file, "layers.0.k_trellis_weights", TENSOR_F32, key->weights, DIMS * sizeof(float));
    assert_tensor(file, "layers.0.k_widths", TENSOR_U8, nothing, DIMS);
    assert_tensor(file, "layers.0.k_center", TENSOR_F32, plan->heads[0].center, DIMS * sizeof(float));
    assert_basis(file, "layers.0.k_trellis_basis", &plan->heads[0]);
    assert_basis(file, "layers.1.k_trellis_basis", NULL);
    assert_tensor(file, "layers.1.v_widths", TENSOR_U8, nothing, 1);
    assert_tensor(file, "layers.1.v_trellis_gain_bits", TENSOR_U8, &gain_bits, 1);
    assert_tensor(file, "layers.1.v_trellis_gain_zero", TENSOR_U8, &gain_zero, 1);
    assert_tensor(file, "layers.1.v_trellis_widths", TENSOR_U8, value->widths, DIMS);
    assert_tensor(file, "layers.1.v_trellis_weights", TENSOR_F32, value->weights, DIMS * sizeof(float));
    assert_basis(file, "layers.1.v_trellis_basis", &plan->value_heads[1]);
    assert_tensor(file, "layers.0.v_center", TENSOR_F32, no_center, sizeof no_center);
    assert_tensor(file, "layers.1.v_center", TENSOR_F32, plan->value_heads[1].center, DIMS * sizeof(float));
    assert_tensor(file, "trellis.w3", TENSOR_F32, trellis_tables[3], sizeof trellis_tables[3]);
    assert_null(safetensors_find(file, "trellis.w0"));
    safetensors_close(file);
    bit_plan_free(plan);
}

static void plans_without_them_have_none_of_it(void **state)
{
    (void)state;
    const model_facts model = some_model(1, 2, DIMS, DIMS, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    safetensors_file *file = NULL;
    char *text = NULL;
    size_t size;
    const char *path = scratch_path("groups.safetensors"), *header = scratch_path("groups.h");
    plan->n_sink = 4;
    assert_ok(plan_safetensors_write(plan, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        assert_null(strstr(safetensors_at(file, i)->name, "trellis"));
        assert_null(strstr(safetensors_at(file, i)->name, "v_center"));
    }
    safetensors_close(file);
    assert_ok(plan_header_write(plan, header, &err));
    assert_ok(rb_read_file(&text, &size, header, 1 << 20, &err));
    assert_null(strstr(text, "trellis"));
    assert_null(strstr(text, "ropebits_v_center"));
    free(text);
    bit_plan_free(plan);
}

/* A program that includes the header, printed on standard output: the sum of all widths, a word of the last basis, a
 * number of a table. */
static void the_header_compiles_and_holds_the_plan(void **state)
{
    (void)state;
    static const char source[] =
        "#include <stdio.h>\n#include \"plan.h\"\nint main(void)\n{\n    int sum = 0;\n"
        "    for (int i = 0; i < ROPEBITS_VALUE_DIM; i++) sum += ropebits_v_trellis_widths[1][0][i];\n"
        "    printf(\"%d %d %d %.9g %.9g\\n\", sum, (int)ropebits_v_trellis_basis[1][0][7][6],\n"
        "           (int)ropebits_k_trellis_basis[0][0][0][1], ropebits_trellis[3][17], ropebits_v_center[1][0][0]);\n"
        "    return ropebits_trellis[0] != 0;\n}\n";
    bit_plan *plan = two_families();
    const plan_trellis *key = &plan->heads[0].trellis, *value = &plan->value_heads[1].trellis;
    char expected[200], found[200] = "", command[3000];
    const char *folder = scratch_path("header");
    char path[1000];
    int sum = 0;
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/plan.h", folder);
    assert_ok(plan_header_write(plan, path, &err));
    snprintf(path, sizeof path, "%s/app.c", folder);
    assert_ok(rb_atomic_write(path, source, sizeof source - 1, &err));
    for (int i = 0; i < DIMS; i++) sum += value->widths[i];
    snprintf(expected, sizeof expected, "%d %d %d %.9g %.9g\n", sum, rb_f32_to_f16(value->basis[7 * DIMS + 6]),
             rb_f32_to_f16(key->basis[1]), (double)trellis_tables[3][17], (double)plan->value_heads[1].center[0]);
    snprintf(command, sizeof command, "cc -std=c99 -Wall -Wextra -Werror -o %s/app %s && %s/app", folder, path, folder);
    FILE *program = popen(command, "r");
    assert_non_null(program);
    assert_non_null(fgets(found, sizeof found, program));
    assert_int_equal(pclose(program), 0);
    assert_string_equal(found, expected);
    bit_plan_free(plan);
}

/* Above 2^20 numbers the bases are left to plan.rbp: 17 layers of 4 heads of 128 x 128, of values, are 1114112. */
static void a_header_leaves_large_bases_out_and_says_so(void **state)
{
    (void)state;
    const char *path = scratch_path("large.h");
    for (int n_layers = 16; n_layers < 18; n_layers++) {
        const model_facts model = some_model(n_layers, 4, 128, 128, ROPE_SPLIT_HALF);
        bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
        char *text = NULL;
        size_t size;
        assert_ok(bit_plan_create_value_heads(plan, &err));
        for (int h = 0; h < bit_plan_n_heads(plan); h++) make_trellis(&plan->value_heads[h], 128, h);
        assert_ok(plan_header_write(plan, path, &err));
        assert_ok(rb_read_file(&text, &size, path, 1 << 24, &err));
        assert_int_equal(strstr(text, "const uint16_t ropebits_v_trellis_basis[") != NULL, n_layers == 16);
        assert_int_equal(strstr(text, "#define ROPEBITS_TRELLIS_BASIS_IN_PLAN_RBP 1\n") != NULL, n_layers == 17);
        assert_non_null(strstr(text, "ropebits_v_trellis_widths["));
        free(text);
        bit_plan_free(plan);
    }
}

/* Coordinates in place of blocks: 8 cells in the row of layer 0, and a map of the values. */
static void the_report_shows_bits_of_coordinates(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    bit_plan *plan = two_families();
    const char *path = scratch_path("plan.html");
    assert_ok(plan_report_write(&(plan_report_inputs){.plan = plan, .stem = "plan"}, path, &err));
    assert_ok(rb_read_file(&text, &size, path, 1 << 20, &err));
    assert_non_null(strstr(text, "every coordinate in order, in place of blocks"));
    assert_non_null(strstr(text, "<h3>Bits of the values</h3>"));
    assert_non_null(strstr(text, "<span>coordinate</span><span>7</span>"));
    /* Key head 0: its first coordinate has 8 bits, its last two store nothing. */
    assert_non_null(strstr(text, "<path class=\"b8\" d=\"M0 0h1"));
    assert_non_null(strstr(text, "<path class=\"b0\" d=\"M6 0h2"));
    free(text);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_say_what_a_runtime_must_do),
        cmocka_unit_test(safetensors_hold_every_fact),
        cmocka_unit_test(plans_without_them_have_none_of_it),
        cmocka_unit_test(the_header_compiles_and_holds_the_plan),
        cmocka_unit_test(a_header_leaves_large_bases_out_and_says_so),
        cmocka_unit_test(the_report_shows_bits_of_coordinates),
    };
    return cmocka_run_group_tests_name("plan_forms_trellis", tests, NULL, NULL);
}
