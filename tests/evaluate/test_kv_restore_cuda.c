/* What restoring takes of a GPU's memory is at least what the codecs need; the restoring itself is in
 * tests/gpu/test_evaluate_cuda.c. */
#include "tests/test_support.h"

#include "evaluate/kv_restore_cuda.h"
#include "kernels/cuda/codec_cuda.h"

static const int32_t text[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};

/* Bytes of the codec of two heads of head_dim `dim`: all blocks of one width, or widths from 1 to `width`. */
static int64_t codec_bytes(const model_facts *facts, int width, bool is_uniform, bit_plan *plan)
{
    rb_error err = {0};
    uint8_t bits[RB_MAX_BLOCKS];
    const int n = model_n_blocks(facts);
    codec_tables *tables = NULL;
    codec_image *image = NULL;
    for (int i = 0; i < n; i++) bits[i] = (uint8_t)(1 + i * width / n);
    for (int layer = 0; layer < facts->n_layers; layer++)
        for (int h = 0; h < facts->n_kv_heads; h++) {
            if (is_uniform)
                assert_ok(plan_head_set_uniform(bit_plan_head(plan, layer, h), width, n, 42, CODEBOOK_BLOCK_GTQ, &err));
            else
                assert_ok(plan_head_set_block_widths(bit_plan_head(plan, layer, h), bits, n, CODEBOOK_BLOCK_GTQ, &err));
        }
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(codec_image_build(&image, bit_plan_head(plan, 0, 0), facts->n_kv_heads, facts, tables, &err));
    const int64_t bytes = codec_cuda_bytes(image);
    codec_image_free(image);
    codec_tables_free(tables);
    return bytes;
}

static void the_bound_holds_for_every_width(void **state)
{
    (void)state;
    rb_error err = {0};
    checkpoint *model = NULL;
    assert_ok(checkpoint_open(&model, "configs/demo-llama", &err));
    const model_facts *facts = &checkpoint_config(model)->facts;
    for (int width = 1; width <= PLAN_MAX_WIDTH; width++)
        for (int is_uniform = 0; is_uniform < 2; is_uniform++) {
            bit_plan *plan = NULL;
            evaluate_batch batch;
            assert_ok(bit_plan_create(&plan, facts, &err));
            const int64_t bytes = codec_bytes(facts, width, is_uniform, plan);
            const evaluate_request request = {.model = model,
                                              .plans = (const bit_plan *const *)&plan,
                                              .n_plans = 1,
                                              .text = text,
                                              .n_text = 10,
                                              .context = 10};
            const evaluate_request none = {.model = model, .text = text, .n_text = 10, .context = 10};
            assert_ok(evaluate_batch_make(&batch, &request, &err));
            /* a plan's keys and its values, of one group each */
            const int64_t bound = kv_restore_cuda_bytes(&request, &batch) - kv_restore_cuda_bytes(&none, &batch);
            if (bound < 2 * bytes)
                fail_msg("%d bits, %s: tables of %lld bytes, counted %lld for keys and values", width,
                         is_uniform ? "uniform" : "mixed", (long long)bytes, (long long)bound);
            assert_true(bound < 20 * bytes);
            evaluate_batch_free(&batch);
            bit_plan_free(plan);
        }
    checkpoint_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bound_holds_for_every_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
