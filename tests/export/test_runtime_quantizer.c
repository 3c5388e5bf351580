/* The quantizers of other runtimes against numbers that were worked out by hand from their formats. */
#include "tests/test_support.h"

#include "core/half.h"
#include "export/runtimes/quantizer_blocks.h"
#include "export/runtimes/runtime.h"
#include "tests/plan/some_plan.h"

static rb_error err;

/* Numbers that fp16 holds, so that scales and edges are exact. */
static void assert_block(void (*block)(float *, int, const block_context *), int width, const float *x,
                         const float *expected, int n)
{
    float got[64];
    memcpy(got, x, (size_t)n * sizeof *x);
    block(got, n, &(block_context){.width = width, .tensor_scale = 0.0f});
    for (int i = 0; i < n; i++)
        if (got[i] != expected[i])
            fail_msg("number %d: %g comes back as %g, expected %g", i, (double)x[i], (double)got[i],
                     (double)expected[i]);
}

static void extreme_number_is_code_0_of_ggmls_even_types(void **state)
{
    (void)state;
    assert_block(block_extreme, 4, (float[]){-8, 7, 3.25f, 0}, (float[]){-8, 7, 3, 0}, 4);
    assert_block(block_extreme, 4, (float[]){8, -8, -3.5f, 1}, (float[]){8, -7, -4, 1}, 4); /* -8 has no code */
    assert_block(block_extreme, 5, (float[]){-16, 15, 3.5f, 0}, (float[]){-16, 15, 4, 0}, 4);
    assert_block(block_extreme, 6, (float[]){-32, 31.25f, 3.25f, 0}, (float[]){-32, 31, 3, 0}, 4);
    assert_block(block_extreme, 4, (float[]){0, 0}, (float[]){0, 0}, 2);
}

static void largest_number_is_the_last_code_of_q8_0(void **state)
{
    (void)state;
    assert_block(block_largest, 8, (float[]){127, -127, 2.5f, -2.5f, 0.25f}, (float[]){127, -127, 3, -3, 0}, 5);
}

static void range_has_a_code_for_both_ends(void **state)
{
    (void)state;
    assert_block(block_range, 4, (float[]){-1, 14, 3.25f, 3.5f}, (float[]){-1, 14, 3, 4}, 4);
    assert_block(block_range, 3, (float[]){5, 5}, (float[]){5, 5}, 2); /* no range */
}

static void iq4_nl_gives_its_levels_back(void **state)
{
    (void)state;
    assert_block(block_iq4_nl, 4, (float[]){-127, 113, 1, -10, 53}, (float[]){-127, 113, 1, -10, 53}, 5);
    assert_block(block_iq4_nl, 4, (float[]){127, -113, -1}, (float[]){127, -113, -1}, 3);
}

static void midrise_has_no_zero(void **state)
{
    (void)state;
    assert_block(block_midrise, 2, (float[]){1, 0.125f, -1, -0.75f, 0}, (float[]){0.75f, 0.25f, -0.75f, -0.75f, 0.25f},
                 5);
}

static void edge_keeps_zero_and_the_larger_end(void **state)
{
    (void)state;
    assert_block(block_edge, 2, (float[]){2, -1, 0.25f, 0}, (float[]){2, -1, 0, 0}, 4);
    assert_block(block_edge, 2, (float[]){-2, 1, 0.25f, 0}, (float[]){-2, 1, 0, 0}, 4);
    assert_block(block_edge, 3, (float[]){4, -2.296875f, 1.25f}, (float[]){4, -2, 1}, 3); /* 4.45 steps become 4 */
}

static void whole_steps_put_the_least_on_the_grid(void **state)
{
    (void)state;
    assert_block(block_whole_steps, 2, (float[]){-1, 2, 0.625f, 0.25f}, (float[]){-1, 2, 1, 0}, 4);
    assert_block(block_whole_steps, 2, (float[]){-1.25f, 1.75f, 0}, (float[]){-1, 2, 0}, 3); /* a grid of whole steps */
}

static void fp8_rounds_to_three_bits(void **state)
{
    (void)state;
    assert_block(block_fp8, 8, (float[]){448, 500, -1000, 17, 19, 0.1f, 0.001f, 0},
                 (float[]){448, 448, -448, 16, 20, 0.1015625f, 0.001953125f, 0}, 8);
}

static void nvfp4_scales_by_the_block_and_by_all(void **state)
{
    float x[4] = {12, 4.75f, -5.25f, -0.5f};
    const float expected[4] = {12, 4, -6, -1}; /* a scale of 2: 6, 2.375, -2.625, -0.25 */
    (void)state;
    block_nvfp4(x, 4, &(block_context){.width = 4, .tensor_scale = 0.5f});
    for (int i = 0; i < 3; i++) assert_true(x[i] == expected[i]);
    assert_true(x[3] == -1.0f || x[3] == 0.0f); /* half way */
}

static void direction_keeps_the_norm(void **state)
{
    codebook book;
    float x[4] = {3, -1, 1, 1};
    (void)state;
    assert_ok(codebook_build(&book, CODEBOOK_BLOCK_GTQ, 1, 4, &err));
    block_direction(x, 4, &(block_context){.width = 1, .book = &book});
    const float each = rb_f16_to_f32(rb_f32_to_f16(sqrtf(12.0f))) / 2.0f;
    for (int i = 0; i < 4; i++) assert_float_equal(x[i], i == 1 ? -each : each, 1e-6);
}

/* ---- vectors --------------------------------------------------------------------------------- */

static codec_tables *tables;
static int make_tables(void **state) { return (void)state, codec_tables_create(&tables, &err) == RB_OK ? 0 : 1; }
static int free_tables(void **state) { return (void)state, codec_tables_free(tables), 0; }

/* Ones become (sqrt(32), 0, ...) by the transform, and their codes the levels 0.75 and 0.25 of 4; turned back these are
 * (0.75 + 31 / 4, 0.75 - 1 / 4, ...). */
static void hadamard_mixes_a_group(void **state)
{
    const runtime_quantizer q = {QUANTIZER_MIDRISE, 2, 32, ROTATE_GROUP, false};
    float x[64], x_hat[64];
    (void)state;
    for (int i = 0; i < 64; i++) x[i] = i < 32 ? 1.0f : -1.0f;
    assert_ok(runtime_quantizer_restore(&q, x, 1, 64, 1, tables, x_hat, &err));
    assert_float_equal(x_hat[0], 8.5, 0.01);
    for (int i = 1; i < 32; i++) assert_float_equal(x_hat[i], 0.5, 0.001);
    assert_float_equal(x_hat[32], -0.75 + 31 / 4.0, 0.01); /* -sqrt(32): code 0, and zeroes are above it */
}

static void rotation_turns_back(void **state)
{
    static const quantizer_rotation rotations[] = {ROTATE_NOTHING, ROTATE_64, ROTATE_LARGEST, ROTATE_POWER_OF_TWO};
    float x[2 * 192], x_hat[2 * 192];
    (void)state;
    for (int i = 0; i < 2 * 192; i++) x[i] = (float)((i * 37) % 101 - 50) / 64.0f;
    for (size_t r = 0; r < RB_COUNT(rotations); r++) {
        const runtime_quantizer q = {QUANTIZER_FP16, 16, 0, rotations[r], false};
        assert_ok(runtime_quantizer_restore(&q, x, 2, 192, 2, tables, x_hat, &err));
        for (int i = 0; i < 2 * 192; i++) assert_float_equal(x_hat[i], x[i], 2e-3);
    }
}

static void rotation_takes_blocks_that_divide_the_dims(void **state)
{
    runtime_quantizer q = {QUANTIZER_EXTREME, 4, 32, ROTATE_LARGEST, false};
    (void)state;
    assert_int_equal(runtime_quantizer_rotated(&q, 128), 128);
    assert_int_equal(runtime_quantizer_rotated(&q, 192), 64);
    assert_int_equal(runtime_quantizer_rotated(&q, 96), 1);
    q.rotation = ROTATE_64;
    assert_int_equal(runtime_quantizer_rotated(&q, 256), 64);
    assert_int_equal(runtime_quantizer_rotated(&q, 80), 1);
    q.rotation = ROTATE_POWER_OF_TWO;
    assert_int_equal(runtime_quantizer_rotated(&q, 256), 256);
    assert_int_equal(runtime_quantizer_rotated(&q, 96), 1);
    q.rotation = ROTATE_GROUP;
    assert_int_equal(runtime_quantizer_rotated(&q, 256), 32);
}

/* Groups of 4 tokens, of sequences of 5: a dim of the first four is coded, the fifth stays. */
static void groups_along_tokens_leave_the_rest_of_a_sequence(void **state)
{
    const runtime_quantizer q = {QUANTIZER_WHOLE_STEPS, 2, 4, ROTATE_NOTHING, true};
    const float x[5][2] = {{-1, 10}, {2, 10}, {0.625f, 40}, {0.25f, 22}, {0.3f, 0.7f}};
    const float expected[5][2] = {{-1, 10}, {2, 10}, {1, 40}, {0, 20}, {0.3f, 0.7f}};
    float x_hat[5][2];
    (void)state;
    assert_ok(runtime_quantizer_restore(&q, x[0], 5, 2, 5, tables, x_hat[0], &err));
    for (int t = 0; t < 5; t++)
        for (int i = 0; i < 2; i++) assert_float_equal(x_hat[t][i], expected[t][i], 1e-6);
}

static void a_number_beyond_fp16_is_told(void **state)
{
    const runtime_quantizer q = {QUANTIZER_LARGEST, 8, 32, ROTATE_NOTHING, false};
    float x[64] = {0}, x_hat[64];
    (void)state;
    x[40] = 1e9f;
    assert_int_equal(runtime_quantizer_restore(&q, x, 2, 32, 2, tables, x_hat, &err), RB_ENONFINITE);
    assert_non_null(strstr(err.msg, "vector 1"));
    err = (rb_error){0};
}

static void ggml_holds_llama_in_pairs(void **state)
{
    model_facts model = some_model(2, 1, 8, 6, ROPE_SPLIT_HALF);
    float k[16] = {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17};
    const float pairs[16] = {0, 3, 1, 4, 2, 5, 6, 7, 10, 13, 11, 14, 12, 15, 16, 17};
    (void)state;
    assert_true(runtime_holds_pairs(runtime_of(RUNTIME_LLAMA_CPP), &model));
    assert_true(runtime_holds_pairs(runtime_of(RUNTIME_IK_LLAMA_CPP), &model));
    assert_false(runtime_holds_pairs(runtime_of(RUNTIME_VLLM), &model));
    runtime_reorder(k, 2, &model, false);
    assert_memory_equal(k, pairs, sizeof k);
    runtime_reorder(k, 2, &model, true);
    for (int i = 0; i < 16; i++) assert_true(k[i] == (float)(i % 8 + i / 8 * 10));
    model.rope.pairing = ROPE_INTERLEAVED;
    assert_false(runtime_holds_pairs(runtime_of(RUNTIME_LLAMA_CPP), &model));
    strcpy(model.model_type, "qwen2");
    model.rope.pairing = ROPE_SPLIT_HALF;
    assert_false(runtime_holds_pairs(runtime_of(RUNTIME_LLAMA_CPP), &model));
}

/* ---- what is stored -------------------------------------------------------------------------- */

static int key_bits(runtime_id id, const char *name, int dims)
{
    const runtime *r = runtime_of(id);
    for (int type = 0; type < r->n_types; type++)
        if (strcmp(r->types[type].name, name) == 0) return runtime_quantizer_bits(&r->types[type].keys, dims);
    fail_msg("%s has no type %s", r->name, name);
    return 0;
}

/* Bytes of the formats' own structs: ggml's blocks of 32 have 18, 20, 22, 24, 26 and 34. */
static void types_store_what_their_formats_say(void **state)
{
    (void)state;
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "f16", 64), 64 * 16);
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "q4_0", 64), 2 * 18 * 8);
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "iq4_nl", 64), 2 * 18 * 8);
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "q4_1", 64), 2 * 20 * 8);
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "q5_0", 64), 2 * 22 * 8);
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "q5_1", 64), 2 * 24 * 8);
    assert_int_equal(key_bits(RUNTIME_LLAMA_CPP, "q8_0", 64), 2 * 34 * 8);
    assert_int_equal(key_bits(RUNTIME_IK_LLAMA_CPP, "q6_0", 64), 2 * 26 * 8);
    assert_int_equal(key_bits(RUNTIME_EXLLAMAV3, "3", 128), 4 * (12 + 2) * 8);
    assert_int_equal(key_bits(RUNTIME_MLX_LM, "4", 128), 2 * (32 + 4) * 8);
    assert_int_equal(key_bits(RUNTIME_KVTUNER, "2", 128), 128 * 2 + 128 * 32 / 32);
    assert_int_equal(key_bits(RUNTIME_MODELOPT, "NVFP4", 128), 8 * 9 * 8);
    assert_int_equal(key_bits(RUNTIME_VLLM, "turboquant_3bit_nc", 128), (48 + 2) * 8);
    assert_int_equal(key_bits(RUNTIME_VLLM, "turboquant_k8v4", 128), 128 * 8);
    assert_int_equal(runtime_quantizer_bits(&runtime_of(RUNTIME_VLLM)->types[1].values, 128), (48 + 4) * 8);
}

/* No code of so many bits leaves less of a normal number than 4^-bits; none of these is so bad as to lose half. */
static void no_type_beats_the_rate_of_its_bits(void **state)
{
    (void)state;
    for (int id = 0; id < RUNTIME_N; id++) {
        const runtime *r = runtime_of((runtime_id)id);
        for (int type = 0; type < r->n_types; type++) {
            const runtime_quantizer *q = &r->types[type].keys;
            double error;
            if (type == RUNTIME_FP16_TYPE) continue;
            assert_ok(runtime_quantizer_distortion(&error, q, 128, tables, &err));
            const double least = pow(4.0, -runtime_quantizer_bits(q, 128) / 128.0);
            if (!(error >= least && error < 0.5))
                fail_msg("%s %s leaves %g, expected %g to 0.5", r->name, r->types[type].name, error, least);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(extreme_number_is_code_0_of_ggmls_even_types),
        cmocka_unit_test(largest_number_is_the_last_code_of_q8_0),
        cmocka_unit_test(range_has_a_code_for_both_ends),
        cmocka_unit_test(iq4_nl_gives_its_levels_back),
        cmocka_unit_test(midrise_has_no_zero),
        cmocka_unit_test(edge_keeps_zero_and_the_larger_end),
        cmocka_unit_test(whole_steps_put_the_least_on_the_grid),
        cmocka_unit_test(fp8_rounds_to_three_bits),
        cmocka_unit_test(nvfp4_scales_by_the_block_and_by_all),
        cmocka_unit_test(direction_keeps_the_norm),
        cmocka_unit_test(hadamard_mixes_a_group),
        cmocka_unit_test(rotation_turns_back),
        cmocka_unit_test(rotation_takes_blocks_that_divide_the_dims),
        cmocka_unit_test(groups_along_tokens_leave_the_rest_of_a_sequence),
        cmocka_unit_test(a_number_beyond_fp16_is_told),
        cmocka_unit_test(ggml_holds_llama_in_pairs),
        cmocka_unit_test(types_store_what_their_formats_say),
        cmocka_unit_test(no_type_beats_the_rate_of_its_bits),
    };
    return cmocka_run_group_tests(tests, make_tables, free_tables);
}
