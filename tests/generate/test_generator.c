/* Text generated with a packed cache is what `evaluate`'s restored pass says: every new token is the most likely one of
 * that pass over prompt and text, for every family, with and without exact tokens, in fp16, and for any chunk. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "evaluate/kv_restore.h"
#include "generate/generator.h"
#include "generate/sampler.h"
#include "model/forward.h"
#include "tests/plan/some_plan.h"

enum { N_PROMPT = 110, N_NEW = 24, N_ALL = N_PROMPT + N_NEW, CHUNK = 64 };

static rb_error err;

/* ---- plans ----------------------------------------------------------------------------------- */

typedef enum plan_kind { PLAN_FP16, PLAN_BLOCK_GTQ, PLAN_BLOCK_CODEBOOK, PLAN_TRELLIS, N_PLAN_KINDS } plan_kind;

/* A block of the model's keys has a variance near 1; block i gets 3 to 5 bits, and every map leans a little. */
static void make_block_codebook(plan_head *head, int n_blocks, int h)
{
    double maps[BLOCK_CODEBOOK_MAP_SIZE * RB_MAX_BLOCKS], weights[RB_MAX_BLOCKS];
    uint8_t bits[RB_MAX_BLOCKS];
    for (int b = 0; b < n_blocks; b++) {
        bits[b] = (uint8_t)(3 + (b + h) % 3);
        maps[BLOCK_CODEBOOK_MAP_SIZE * b] = 1.0 + 0.01 * b;
        maps[BLOCK_CODEBOOK_MAP_SIZE * b + 1] = 0.1 * (b % 3 - 1);
        maps[BLOCK_CODEBOOK_MAP_SIZE * b + 2] = 0.9 + 0.01 * h;
        weights[b] = 1.0 + 0.1 * b;
    }
    assert_ok(plan_head_set_block_codebook(head, bits, maps, weights, 3, n_blocks, &err));
}

static bit_plan *make_plan(const model_facts *model, plan_kind kind, int64_t n_sink, int64_t n_recent)
{
    bit_plan *plan = NULL;
    if (kind == PLAN_FP16) return NULL;
    assert_ok(bit_plan_create(&plan, model, &err));
    plan->n_sink = n_sink;
    plan->n_recent = n_recent;
    if (kind == PLAN_TRELLIS) assert_ok(bit_plan_create_value_heads(plan, &err));
    else bit_plan_set_value_width(plan, 3);
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        plan_head *head = &plan->heads[h];
        if (kind == PLAN_BLOCK_GTQ)
            assert_ok(plan_head_set_uniform(head, 3, model_n_blocks(model), 42, CODEBOOK_BLOCK_GTQ, &err));
        if (kind == PLAN_BLOCK_CODEBOOK) make_block_codebook(head, model_n_blocks(model), h);
        if (kind == PLAN_TRELLIS) {
            make_trellis(head, model->head_dim, h);
            make_trellis(&plan->value_heads[h], model->value_dim, h + 3);
        }
    }
    return plan;
}

/* ---- the judge ------------------------------------------------------------------------------- */

/* How far a token's logit is below the largest, at most, over the new tokens. */
typedef struct judge {
    kv_restore *restore;
    const evaluate_batch *batch;
    const int32_t *text;
    int run, vocab_size;
    float worst;
    int n_different;
} judge;

static rb_status restore_heads(void *user, layer_heads *heads, rb_error *error)
{
    return kv_restore_part(((judge *)user)->restore, heads, error);
}

static rb_status judge_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *error)
{
    judge *j = user;
    (void)error;
    for (int64_t i = 0; i < n; i++) {
        const int64_t position = (first + i) / j->batch->n_runs;
        const int32_t next = j->text[position + 1];
        const float *row = logits + i * j->vocab_size;
        float largest = row[0];
        if ((first + i) % j->batch->n_runs != j->run || position + 1 < N_PROMPT) continue;
        for (int t = 0; t < j->vocab_size; t++) largest = fmaxf(largest, row[t]);
        j->worst = fmaxf(j->worst, largest - row[next]);
        j->n_different += row[next] < largest;
    }
    return RB_OK;
}

static judge judge_text(const checkpoint *model, const bit_plan *plan, const int32_t *text)
{
    const bit_plan *const plans[] = {plan};
    const evaluate_request request = {.model = model,
                                      .plans = plans,
                                      .n_plans = plan != NULL,
                                      .text = text,
                                      .n_text = N_ALL,
                                      .context = N_ALL,
                                      .with_keys = true,
                                      .with_values = true};
    evaluate_batch batch;
    judge j = {.batch = &batch, .text = text, .run = plan ? 1 : 0, .vocab_size = checkpoint_config(model)->vocab_size};
    assert_ok(evaluate_batch_make(&batch, &request, &err));
    assert_int_equal(batch.n_positions, N_ALL - 1);
    assert_ok(kv_restore_create(&j.restore, &request, &batch, &err));
    const forward_hooks hooks = {.user = &j,
                                 .on_qkv = restore_heads,
                                 .on_logits = judge_logits,
                                 .part_start = batch.part_start,
                                 .n_parts = batch.n_parts,
                                 .n_recent = plan ? plan->n_recent : 0,
                                 .logit_tokens = batch.logit_tokens,
                                 .n_logit_tokens = batch.n_positions * batch.n_runs,
                                 .logit_group = batch.n_runs};
    assert_ok(forward_run(model, &batch.batch, &hooks, &err));
    kv_restore_free(j.restore);
    evaluate_batch_free(&batch);
    return j;
}

/* ---- generating ------------------------------------------------------------------------------ */

static void fill_prompt(int32_t *text, int vocab_size)
{
    for (int i = 0; i < N_PROMPT; i++) text[i] = (int32_t)((1 + i * 37 + i * i * 11 / 7) % vocab_size);
}

/* The N_NEW most likely tokens after the prompt, into text. */
static void generate(const checkpoint *model, const bit_plan *plan, int64_t chunk, int32_t *text)
{
    const int vocab_size = checkpoint_config(model)->vocab_size;
    const generator_request request = {.model = model, .plan = plan, .max_tokens = N_ALL, .chunk = chunk};
    float *logits = malloc((size_t)vocab_size * sizeof *logits);
    generator *g = NULL;
    sampler greedy;
    fill_prompt(text, vocab_size);
    assert_ok(sampler_create(&greedy, &(sampler_options){0}, vocab_size, &err));
    assert_ok(generator_open(&g, &request, &err));
    assert_ok(generator_add(g, text, N_PROMPT, logits, &err));
    for (int i = N_PROMPT; i < N_ALL; i++) {
        assert_ok(sampler_next(&greedy, logits, &text[i], &err));
        assert_ok(generator_add(g, &text[i], 1, logits, &err));
    }
    assert_int_equal(generator_n_tokens(g), N_ALL);
    generator_close(g);
    sampler_free(&greedy);
    free(logits);
}

static checkpoint *open_model(void)
{
    checkpoint *model = NULL;
    rb_threads_init(1);
    assert_ok(checkpoint_open(&model, "configs/demo-llama", &err));
    assert_ok(checkpoint_set_longest(model, N_ALL, &err));
    return model;
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
