/* The bytes of a page. */
#include "tests/test_support.h"

#include "cache/kv_layout.h"
#include "kernels/reference/head_codec.h"
#include "tests/cache/some_cache.h"

static void a_page_takes_what_the_plan_says(void **state)
{
    (void)state;
    for (int kind = SOME_GROUPS; kind < SOME_N_KINDS; kind++) {
        rb_error err = {0};
        const model_facts model = some_model(2, 3, 64, 64, ROPE_SPLIT_HALF);
        bit_plan *plan = some_plan_of_kind(kind, &model);
        double bytes = 0.0;
        for (int layer = 0; layer < model.n_layers; layer++) {
            cache_layout layout = {0};
            assert_ok(kv_layout_make(&layout, &model, plan, layer, &err));
            size_t of_heads = 0;
            for (int h = 0; h < model.n_kv_heads; h++) of_heads += kv_layout_token_bytes(&layout, h);
            assert_int_equal(layout.page_bytes, 64 * of_heads);
            bytes += (double)of_heads;
            kv_layout_clear(&layout);
        }
        assert_true(bytes == bit_plan_cost(plan).bytes_per_token);
        bit_plan_free(plan);
    }
}

static void parts_lie_one_after_the_other_at_multiples_of_64(void **state)
{
    (void)state;
    for (int kind = SOME_FP16; kind < SOME_N_KINDS; kind++) {
        rb_error err = {0};
        const model_facts model = some_model(2, 3, 80, 40, ROPE_INTERLEAVED);
        bit_plan *plan = some_plan_of_kind(kind, &model);
        cache_layout layout = {0};
        int64_t at = 0;
        assert_ok(kv_layout_make(&layout, &model, plan, 0, &err));
        for (int h = 0; h < model.n_kv_heads; h++) {
            const cache_part parts[] = {layout.heads[h].keys, layout.heads[h].values};
            for (int i = 0; i < 2; i++) {
                assert_int_equal(parts[i].codes_at, at);
                assert_int_equal(at % 64, 0);
                assert_int_equal(parts[i].norms_at, at += 64 * parts[i].code_bytes);
                assert_int_equal(at % 64, 0);
                at += 64 * parts[i].norm_bytes;
            }
        }
        assert_int_equal(layout.page_bytes, at);
        kv_layout_clear(&layout);
        bit_plan_free(plan);
    }
}

static void codes_have_the_bytes_of_their_codec(void **state)
{
    (void)state;
    for (int kind = SOME_GROUPS; kind < SOME_N_KINDS; kind++) {
        rb_error err = {0};
        const model_facts model = some_model(2, 3, 64, 64, ROPE_SPLIT_HALF), values = model_value_facts(&model);
        bit_plan *plan = some_plan_of_kind(kind, &model);
        cache_layout layout = {0};
        codec_tables *tables = NULL;
        assert_ok(kv_layout_make(&layout, &model, plan, 1, &err));
        assert_ok(codec_tables_create(&tables, &err));
        for (int h = 0; h < model.n_kv_heads; h++) {
            head_codec *codec = NULL;
            plan_head head;
            assert_ok(head_codec_create(&codec, bit_plan_head(plan, 1, h), &model, tables, &err));
            assert_int_equal(layout.heads[h].keys.code_bytes, head_codec_packed_bytes(codec));
            head_codec_free(codec);
            assert_ok(bit_plan_value_head(plan, 1, h, &head, &err));
            assert_ok(head_codec_create(&codec, &head, &values, tables, &err));
            assert_int_equal(layout.heads[h].values.code_bytes, head_codec_packed_bytes(codec));
            assert_int_equal(layout.heads[h].values.norm_bytes, 2 * head_codec_n_norms(codec));
            head_codec_free(codec);
            plan_head_clear(&head);
        }
        codec_tables_free(tables);
        kv_layout_clear(&layout);
        bit_plan_free(plan);
    }
}

static void values_that_are_not_quantized_are_fp16(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(1, 1, 16, 16, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_SPHERE);
    cache_layout layout = {0};
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    assert_ok(kv_layout_make(&layout, &model, plan, 0, &err));
    assert_int_equal(layout.heads[0].values.code_bytes, 32);
    assert_int_equal(layout.heads[0].values.norm_bytes, 0);
    kv_layout_clear(&layout);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_takes_what_the_plan_says),
        cmocka_unit_test(parts_lie_one_after_the_other_at_multiples_of_64),
        cmocka_unit_test(codes_have_the_bytes_of_their_codec),
        cmocka_unit_test(values_that_are_not_quantized_are_fp16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
