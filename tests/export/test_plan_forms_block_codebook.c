/* What plans with heads of block-codebook say in words, in plan.safetensors, in the report, and folded. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "export/plan_folded.h"
#include "export/plan_header.h"
#include "export/plan_report.h"
#include "export/plan_safetensors.h"
#include "model/safetensors.h"
#include "plan/plan_coding.h"
#include "plan/plan_json.h"
#include "tests/plan/some_plan.h"

enum { N_BLOCKS = 4, HEAD_DIM = 8 };

static rb_error err;

/* Two layers of one head. Layer 0: of block-codebook, bits 0, 3, 6, 9, 2 of gain, a center; layer 1: of groups, blocks
 * 0 and 3 of 2 bits, block 1 of 3. */
static bit_plan *two_families(void)
{
    const model_facts model = some_model(2, 1, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF);
    return some_plan_of_block_codebook(&model);
}

static void words_say_what_a_runtime_must_do(void **state)
{
    (void)state;
    plan_coding_line lines[PLAN_CODING_MAX_LINES];
    bit_plan *plan = two_families();
    const int n = plan_coding_describe(lines, plan);
    assert_true(n >= 2);
    assert_string_equal(lines[0].label, "family");
    assert_string_equal(
        lines[0].text,
        "block-codebook in 1 of 2 heads: quantize before RoPE, one code for both dims of a block, no norm");
    assert_string_equal(lines[n - 1].label, "dropped");
    assert_string_equal(lines[n - 1].text, "2 of 8 blocks: nothing is stored of them");
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
    static block_codebook book;
    bit_plan *plan = two_families();
    const plan_block_codebook *own = &plan->heads[0].block_codebook;
    safetensors_file *file = NULL;
    const char *path = scratch_path("plan.safetensors");
    assert_ok(plan_safetensors_write(plan, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_tensor(file, "layers.0.k_families", uint8_t, 1);
    assert_tensor(file, "layers.1.k_families", uint8_t, 0);
    assert_tensor(file, "layers.0.k_gain_bits", uint8_t, 2);
    assert_tensor(file, "layers.1.k_gain_bits", uint8_t, 0);
    assert_tensor(file, "layers.0.k_bits", uint8_t, 0, 3, 6, 9);
    assert_tensor(file, "layers.1.k_bits", uint8_t, 2, 3, 0, 2);
    assert_tensor(file, "layers.0.k_permutation", int32_t, 0, 1, 2, 3, 4, 5, 6, 7);
    assert_tensor(file, "layers.1.k_permutation", int32_t, 0, 4, 3, 7, 1, 5, 2, 6);
    assert_tensor(file, "layers.0.k_groups", uint8_t, 255, 255, 255, 255, 255, 255, 255, 255);
    assert_tensor(file, "layers.1.k_groups", uint8_t, 0, 0, 0, 0, 1, 1, 255, 255);
    assert_tensor(file, "layers.0.k_widths", uint8_t, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_tensor(file, "layers.1.k_widths", uint8_t, 2, 2, 2, 2, 3, 3, 0, 0);
    assert_tensor(file, "layers.0.k_scales", float, 1, 1, 1, 1);
    assert_tensor(file, "layers.0.k_coherences", float, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_tensor(file, "layers.0.k_norms", uint8_t, 0);
    assert_tensor(file, "layers.0.k_weights", float, own->weights[0], own->weights[1], own->weights[2],
                  own->weights[3]);
    assert_tensor(file, "layers.1.k_weights", float, 0, 0, 0, 0);
    const safetensor *maps = safetensors_find(file, "layers.0.k_maps");
    assert_non_null(maps);
    assert_int_equal(maps->size_bytes, 3 * N_BLOCKS * sizeof(float));
    assert_memory_equal(maps->data, own->maps, 3 * N_BLOCKS * sizeof(float));
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_POINT_BITS; bits++) {
        char name[32];
        snprintf(name, sizeof name, "points.b%d", bits);
        const safetensor *points = safetensors_find(file, name);
        if (bits % 3 != 0) {
            assert_null(points);
            continue;
        }
        assert_ok(block_codebook_build(&book, bits, &err));
        assert_non_null(points);
        assert_int_equal(points->size_bytes, 2 * (size_t)book.size * sizeof(float));
        assert_memory_equal(points->data, book.x, (size_t)book.size * sizeof(float));
        assert_memory_equal((const float *)points->data + book.size, book.y, (size_t)book.size * sizeof(float));
    }
    safetensors_close(file);
    bit_plan_free(plan);
}

/* Layer 0 has blocks of 0, 3, 12 and 15 bits; points of 3, and levels of what the maps make of 12 and 15. */
static void levels_are_in_every_form(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 1, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF);
    const char *path = scratch_path("levels.safetensors"), *header = scratch_path("plan.h");
    bit_plan *plan = some_plan_of_levels(&model);
    const float *maps = plan->heads[0].block_codebook.maps;
    const int first[2] = {block_codebook_first_bits(maps + 6, 12), block_codebook_first_bits(maps + 9, 15)};
    safetensors_file *file = NULL;
    char *text = NULL, name[64];
    size_t size;
    assert_ok(plan_safetensors_write(plan, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_tensor(file, "layers.0.k_bits", uint8_t, 0, 3, 12, 15);
    assert_ok(plan_header_write(plan, header, &err));
    assert_ok(rb_read_file(&text, &size, header, 1 << 20, &err));
    for (int bits = 1; bits <= BLOCK_CODEBOOK_MAX_LEVEL_BITS; bits++) {
        const bool is_used = bits == first[0] || bits == 12 - first[0] || bits == first[1] || bits == 15 - first[1];
        block_levels levels;
        assert_ok(block_levels_build(&levels, bits, &err));
        snprintf(name, sizeof name, "levels.b%d", bits);
        const safetensor *tensor = safetensors_find(file, name);
        assert_int_equal(tensor != NULL, is_used);
        if (tensor) assert_memory_equal(tensor->data, levels.level, (size_t)levels.size * sizeof(float));
        snprintf(name, sizeof name, "ropebits_levels_b%d[%d] = {", bits, levels.size);
        assert_int_equal(strstr(text, name) != NULL, is_used);
    }
    assert_non_null(strstr(text, "ropebits_levels[9] = {0, "));
    assert_null(safetensors_find(file, "points.b12"));
    safetensors_close(file);
    free(text);
    bit_plan_free(plan);
}

/* A plan without such heads has none of these tensors. */
static void safetensors_of_groups_only_stay_as_they_were(void **state)
{
    (void)state;
    const model_facts model = some_model(1, 2, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    safetensors_file *file = NULL;
    const char *path = scratch_path("groups.safetensors");
    assert_ok(plan_safetensors_write(plan, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_non_null(safetensors_find(file, "layers.0.k_norms"));
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "layers.0.%s",
                 (const char *const[]){"k_families", "k_gain_bits", "k_maps", "k_weights"}[i]);
        assert_null(safetensors_find(file, name));
    }
    safetensors_close(file);
    bit_plan_free(plan);
}

static void the_report_shows_bits_of_a_block(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    bit_plan *plan = two_families();
    const char *path = scratch_path("plan.html");
    plan->heads[0].block_codebook.bits[1] = 10;
    assert_ok(plan_report_write(&(plan_report_inputs){.plan = plan, .stem = "plan"}, path, &err));
    assert_ok(rb_read_file(&text, &size, path, 1 << 20, &err));
    assert_non_null(strstr(text, "<th scope=\"row\">family</th><td>block-codebook in 1 of 2 heads"));
    assert_non_null(strstr(text, "those of both dims together"));
    assert_non_null(strstr(text, "layer 0, KV head 0: "));
    assert_non_null(strstr(text, "layer 1, KV head 0: "));
    assert_non_null(strstr(text, "<path class=\"b5\" d=\"M1 0h1")); /* 10 bits a block: the colour of 5 a dim */
    free(text);
    bit_plan_free(plan);
}

/* Such a head has no scales: folding those of the others leaves it as it is. */
static void folding_leaves_heads_of_block_codebook_as_they_are(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, HEAD_DIM, HEAD_DIM, ROPE_SPLIT_HALF);
    static const double scales[N_BLOCKS] = {1.0, 0.5, 2.0, 4.0};
    const char *path = scratch_path("folded.json");
    bit_plan *plan = some_plan_of_block_codebook(&model), *folded = NULL;
    for (int h = 2; h < 4; h++)
        assert_ok(plan_head_set_transform(&plan->heads[h], NULL, N_BLOCKS, NULL, HEAD_DIM, &err));
    assert_fails(plan_folded_write_plan(plan, path, &err), RB_EUNSUPPORTED,
                 "the plan of method block-codebook has no scales to fold");
    assert_ok(plan_head_set_transform(&plan->heads[2], scales, N_BLOCKS, NULL, HEAD_DIM, &err));
    assert_ok(plan_folded_write_plan(plan, path, &err));
    assert_ok(plan_json_read(&folded, path, &err));
    for (int h = 0; h < 2; h++) assert_true(plan_head_equal(&plan->heads[h], &folded->heads[h], &model));
    assert_null(folded->heads[2].groups.scales);
    bit_plan_free(plan);
    bit_plan_free(folded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_say_what_a_runtime_must_do),
        cmocka_unit_test(safetensors_hold_every_fact),
        cmocka_unit_test(levels_are_in_every_form),
        cmocka_unit_test(safetensors_of_groups_only_stay_as_they_were),
        cmocka_unit_test(the_report_shows_bits_of_a_block),
        cmocka_unit_test(folding_leaves_heads_of_block_codebook_as_they_are),
    };
    return cmocka_run_group_tests_name("plan_forms_block_codebook", tests, NULL, NULL);
}
