/* Perplexity of the unquantized model against a forward pass in numpy, on the same token ids. Expected values:
 * tests/evaluate/numpy_perplexity.py, whose head tells the command. */
#include "tests/test_support.h"

#include "core/json.h"
#include "core/sha256.h"
#include "core/threads.h"
#include "evaluate/evaluate_run.h"
#include "tests/texts/folder_tokens.h"

static rb_error err;

static void the_perplexity_of_demo_llama_is_that_of_numpy(void **state)
{
    (void)state;
    const char *fixture = "tests/fixtures/demo-llama-perplexity.json", *text, *sha256;
    cJSON *numpy = NULL;
    checkpoint *model = NULL;
    token_list tokens = {0};
    evaluate_result result;
    char hex[RB_SHA256_HEX];
    int64_t n_tokens, context;
    double perplexity;
    assert_ok(rb_json_read(&numpy, fixture, 0, &err));
    assert_ok(rb_json_get_string(numpy, "text", fixture, &text, &err));
    assert_ok(rb_json_get_string(numpy, "tokens_sha256", fixture, &sha256, &err));
    assert_ok(rb_json_get_int(numpy, "n_tokens", fixture, 2, 1 << 20, &n_tokens, &err));
    assert_ok(rb_json_get_int(numpy, "context", fixture, 2, 1 << 20, &context, &err));
    assert_ok(rb_json_get_number(numpy, "perplexity", fixture, 1, 1e6, &perplexity, &err));

    assert_ok(checkpoint_open(&model, "configs/demo-llama", &err));
    assert_ok(folder_tokens(&tokens, text, "configs/demo-llama", n_tokens, &err));
    assert_true(tokens.n >= n_tokens);
    assert_ok(rb_sha256_bytes(hex, tokens.ids, (size_t)n_tokens * sizeof *tokens.ids, &err));
    assert_string_equal(hex, sha256);
    const evaluate_request request = {.model = model,
                                      .text = tokens.ids,
                                      .n_text = n_tokens,
                                      .context = context,
                                      .with_keys = true,
                                      .with_values = true,
                                      .attention_stride = 1024};
    assert_ok(evaluate_plans(&result, &request, &err));
    assert_int_equal(result.n_runs, 1);
    if (getenv("RB_TEST_REPORT"))
        fprintf(stderr, "perplexity %.9f, numpy %.9f\n", result.runs[0].text.perplexity, perplexity);
    /* The issue allows 0.1 %; two f32 passes differ by their rounding alone, which the mean over all tokens makes
     * smaller still. */
    assert_true(fabs(result.runs[0].text.perplexity / perplexity - 1.0) < 1e-5);
    evaluate_result_free(&result);
    token_list_free(&tokens);
    checkpoint_close(model);
    cJSON_Delete(numpy);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_perplexity_of_demo_llama_is_that_of_numpy)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
