/* What the tests of the generator share, on the CPU and on the GPU: plans of every family, a text that is generated,
 * and the judge of it: the pass of `evaluate` that restores keys and values. Include after tests/test_support.h. */
#ifndef RB_TESTS_GENERATE_GENERATED_TEXT_H
#define RB_TESTS_GENERATE_GENERATED_TEXT_H

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
static inline void make_block_codebook(plan_head *head, int n_blocks, int h)
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

static inline bit_plan *make_plan(const model_facts *model, plan_kind kind, int64_t n_sink, int64_t n_recent)
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

/* How far the new tokens' logits are below the largest, at most and in the mean. */
typedef struct judge {
    kv_restore *restore;
    const evaluate_batch *batch;
    const int32_t *text;
    int run, vocab_size;
    float worst;
    double mean;
    int n_different;
} judge;

static inline rb_status restore_heads(void *user, layer_heads *heads, rb_error *error)
{
    return kv_restore_part(((judge *)user)->restore, heads, error);
}

static inline rb_status judge_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *error)
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
        j->mean += (double)(largest - row[next]) / N_NEW;
        j->n_different += row[next] < largest;
    }
    return RB_OK;
}

static inline judge judge_text(const checkpoint *model, const bit_plan *plan, const int32_t *text)
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

static inline void fill_prompt(int32_t *text, int vocab_size)
{
    for (int i = 0; i < N_PROMPT; i++) text[i] = (int32_t)((1 + i * 37 + i * i * 11 / 7) % vocab_size);
}

/* The N_NEW most likely tokens after the prompt, into text. */
static inline void generate_on(const generator_request *given, int32_t *text)
{
    const int vocab_size = checkpoint_config(given->model)->vocab_size;
    generator_request request = *given;
    request.max_tokens = N_ALL;
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

static inline checkpoint *open_model(void)
{
    checkpoint *model = NULL;
    rb_threads_init(1);
    assert_ok(checkpoint_open(&model, "configs/demo-llama", &err));
    assert_ok(checkpoint_set_longest(model, N_ALL, &err));
    return model;
}

#endif
