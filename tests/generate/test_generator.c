/* Text generated with a packed cache is what `evaluate`'s restored pass says: every new token is the most likely one of
 * that pass over prompt and text, for every family, with and without exact tokens, in fp16, and for any chunk. */
#include "tests/test_support.h"

#include "tests/generate/generated_text.h"

static void generate(const checkpoint *model, const bit_plan *plan, int64_t chunk, int32_t *text)
{
    const generator_request request = {.model = model, .plan = plan, .chunk = chunk};
    generate_on(&request, text);
}

/* The exact keys and values of the cache are fp16, those of the pass f32; tokens that leave the recent window are coded
 * from fp16. Logits of this model reach 10. */
static const float LOGIT_TIE = 0.02f;

static void check_kind(plan_kind kind, int64_t n_sink, int64_t n_recent)
{
    int32_t text[N_ALL];
    checkpoint *model = open_model();
    bit_plan *plan = make_plan(&checkpoint_config(model)->facts, kind, n_sink, n_recent);
    generate(model, plan, CHUNK, text);
    const judge j = judge_text(model, plan, text);
    if (getenv("RB_TEST_REPORT"))
        print_message("kind %d, %d sinks, %d recent: %d of %d tokens differ, by %g at most\n", (int)kind, (int)n_sink,
                      (int)n_recent, j.n_different, N_NEW, (double)j.worst);
    assert_true(j.worst <= LOGIT_TIE);
    assert_true(j.n_different <= 1);
    bit_plan_free(plan);
    checkpoint_close(model);
}

static void fp16_gives_the_text_of_the_unquantized_pass(void **state)
{
    (void)state;
    check_kind(PLAN_FP16, 0, 0);
}

static void every_family_gives_the_text_of_the_restored_pass(void **state)
{
    (void)state;
    for (int kind = PLAN_BLOCK_GTQ; kind < N_PLAN_KINDS; kind++) check_kind((plan_kind)kind, 0, 0);
}

static void exact_tokens_are_those_of_the_restored_pass(void **state)
{
    (void)state;
    for (int kind = PLAN_BLOCK_GTQ; kind < N_PLAN_KINDS; kind++) {
        check_kind((plan_kind)kind, 4, 0);
        check_kind((plan_kind)kind, 0, 33);
        check_kind((plan_kind)kind, 3, 100); /* longer than a chunk */
    }
}

/* Chunks that end within, at and after pages, the window and the sinks; single tokens; all at once. */
static void every_chunk_gives_the_same_text(void **state)
{
    (void)state;
    static const int64_t chunks[] = {100, 1, 7, 109, 512};
    checkpoint *model = open_model();
    for (int kind = 0; kind < N_PLAN_KINDS; kind++) {
        const size_t n_chunks = kind == PLAN_TRELLIS ? 1 : RB_COUNT(chunks); /* its search takes long */
        bit_plan *plan = make_plan(&checkpoint_config(model)->facts, (plan_kind)kind, 2, 40);
        int32_t text[N_ALL], other[N_ALL];
        generate(model, plan, CHUNK, text);
        for (size_t i = 0; i < n_chunks; i++) {
            generate(model, plan, chunks[i], other);
            if (memcmp(text, other, sizeof text) != 0) fail_msg("kind %d, chunk %d", kind, (int)chunks[i]);
        }
        bit_plan_free(plan);
    }
    checkpoint_close(model);
}

static void a_full_cache_is_an_error(void **state)
{
    (void)state;
    static const int32_t tokens[3] = {1, 2, 3};
    checkpoint *model = open_model();
    generator *g = NULL;
    const generator_request request = {.model = model, .max_tokens = 4, .chunk = 8};
    assert_ok(generator_open(&g, &request, &err));
    assert_ok(generator_add(g, tokens, 3, NULL, &err));
    assert_fails(generator_add(g, tokens, 2, NULL, &err), RB_EINVAL, "has room for 4 tokens, and 3 are there already");
    assert_ok(generator_add(g, tokens, 1, NULL, &err));
    generator_close(g);
    checkpoint_close(model);
}

static void a_token_outside_the_vocabulary_is_an_error(void **state)
{
    (void)state;
    const int32_t token = 4096;
    checkpoint *model = open_model();
    generator *g = NULL;
    const generator_request request = {.model = model, .max_tokens = 4, .chunk = 8};
    assert_ok(generator_open(&g, &request, &err));
    assert_fails(generator_add(g, &token, 1, NULL, &err), RB_EINVAL, "has id 4096, expected 0 to 4095");
    generator_close(g);
    checkpoint_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fp16_gives_the_text_of_the_unquantized_pass),
        cmocka_unit_test(every_family_gives_the_text_of_the_restored_pass),
        cmocka_unit_test(exact_tokens_are_those_of_the_restored_pass),
        cmocka_unit_test(every_chunk_gives_the_same_text),
        cmocka_unit_test(a_full_cache_is_an_error),
        cmocka_unit_test(a_token_outside_the_vocabulary_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
