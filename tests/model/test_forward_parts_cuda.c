/* What the evaluating pass takes of a GPU's memory, counted by hand; the pass itself is in
 * tests/gpu/test_evaluate_cuda.c. */
#include "tests/test_support.h"

#include "model/cuda/forward_parts_cuda.h"
#include "model/cuda/lm_head_cuda.h"

/* Parts of 7 and 5 tokens; hidden 32, 4 query and 2 KV heads of 16, MLP 48, vocabulary 100. */
static const int64_t starts[] = {0, 3, 7, 12}, part_start[] = {0, 2, 3};
static const token_batch batch = {.n_tokens = 12, .sequence_start = starts, .n_sequences = 3};
static model_config config = {
    .facts = {.n_layers = 2, .n_q_heads = 4, .n_kv_heads = 2, .head_dim = 16, .value_dim = 16, .rotary_dim = 16},
    .query_dim = 16,
    .attended_dim = 16,
    .residual_scale = 1,
    .hidden_size = 32,
    .intermediate_size = 48,
    .vocab_size = 100};

static int choose_family(void **state)
{
    (void)state;
    config.family = model_family_find("llama");
    return 0;
}

static int64_t bytes_of(layer_cuda_precision precision, int64_t n_recent, int64_t n_logits, int64_t reserved,
                        int64_t chunk)
{
    const forward_hooks host = {
        .part_start = part_start, .n_parts = 2, .n_recent = n_recent, .n_logit_tokens = n_logits, .logit_group = 1};
    const forward_parts_cuda_options options = {.precision = precision, .reserved_bytes = reserved};
    return forward_parts_cuda_bytes(&config, &batch, &host, &options, chunk);
}

static void a_chunk_takes_its_tokens_activations(void **state)
{
    (void)state;
    /* normed 32, attended 64, gate and up 96, activated 48 elements; q, k and v of 128 floats */
    assert_int_equal(bytes_of(LAYER_CUDA_BF16, 0, 1, 0, 256) - bytes_of(LAYER_CUDA_BF16, 0, 1, 0, 128),
                     128 * ((32 + 64 + 96 + 48) * 2 + 128 * 4));
    assert_int_equal(bytes_of(LAYER_CUDA_F32, 0, 1, 0, 256) - bytes_of(LAYER_CUDA_F32, 0, 1, 0, 128),
                     128 * (32 + 64 + 96 + 48 + 128) * 4);
}

static void recent_keys_and_values_are_there_twice(void **state)
{
    (void)state;
    assert_int_equal(bytes_of(LAYER_CUDA_BF16, 1, 1, 0, 128) - bytes_of(LAYER_CUDA_BF16, 0, 1, 0, 128), 2 * 7 * 32 * 2);
    assert_int_equal(bytes_of(LAYER_CUDA_F32, 9, 1, 0, 128) - bytes_of(LAYER_CUDA_F32, 0, 1, 0, 128), 2 * 7 * 32 * 4);
}

static void what_others_hold_is_counted(void **state)
{
    (void)state;
    assert_int_equal(bytes_of(LAYER_CUDA_BF16, 0, 1, 1000, 128) - bytes_of(LAYER_CUDA_BF16, 0, 1, 0, 128), 1000);
}

/* A tile: rows of 32 elements and 100 logits a token, up to 4096 tokens, in whole groups; an index a token. */
static void the_head_takes_a_tile_of_logits(void **state)
{
    (void)state;
    const int64_t one = lm_head_cuda_bytes(&config, LAYER_CUDA_BF16, 1, 1);
    assert_int_equal(lm_head_cuda_bytes(&config, LAYER_CUDA_BF16, 4000, 1) - one, 3999 * (32 * 2 + 400 + 8));
    assert_int_equal(lm_head_cuda_bytes(&config, LAYER_CUDA_BF16, 5000, 1) - one, 4095 * (32 * 2 + 400) + 4999 * 8);
    assert_int_equal(lm_head_cuda_bytes(&config, LAYER_CUDA_BF16, 6000, 3)
                         - lm_head_cuda_bytes(&config, LAYER_CUDA_BF16, 6000, 1),
                     -(32 * 2 + 400)); /* 4095 = 3 x 1365 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chunk_takes_its_tokens_activations),
        cmocka_unit_test(recent_keys_and_values_are_there_twice),
        cmocka_unit_test(what_others_hold_is_counted),
        cmocka_unit_test(the_head_takes_a_tile_of_logits),
    };
    return cmocka_run_group_tests(tests, choose_family, NULL);
}
