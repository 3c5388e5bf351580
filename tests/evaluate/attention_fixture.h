/* For scores of attention: a text of several sequences in several runs, with the facts of the bundled model, cut into
 * parts or not. */
#ifndef RB_TESTS_EVALUATE_ATTENTION_FIXTURE_H
#define RB_TESTS_EVALUATE_ATTENTION_FIXTURE_H

#include "tests/test_support.h"

#include "evaluate/evaluate_batch.h"
#include "model/forward.h"
#include "tests/model/float_test.h"

/* Sequences of 40, 40, 40 and 3 tokens, then a document of 5; three runs. */
enum { CONTEXT = 40, N_TEXT = 123, N_DOCUMENT = 5, N_RUNS = 3, ALL = (N_TEXT + N_DOCUMENT) * N_RUNS };

typedef struct attention_fixture {
    checkpoint *model;
    const model_facts *facts;
    int32_t text[N_TEXT];
    needle_document document;
    needle_documents documents;
    bit_plan *plan;
    evaluate_request request;
    evaluate_batch batch;
} attention_fixture;

static inline void open_attention_fixture(attention_fixture *f)
{
    static int32_t document_tokens[N_DOCUMENT];
    static answer_span answer = {4, 1};
    static bit_plan plan; /* of all runs; only its n_recent is looked at */
    static const bit_plan *plans[N_RUNS - 1];
    rb_error err = {0};
    *f = (attention_fixture){
        .document = {.n_tokens = N_DOCUMENT, .tokens = document_tokens, .n_answers = 1, .answers = &answer}};
    f->plan = &plan;
    f->plan->n_recent = 0;
    for (int p = 0; p < N_RUNS - 1; p++) plans[p] = f->plan;
    assert_ok(checkpoint_open(&f->model, "configs/demo-llama", &err));
    f->facts = &checkpoint_config(f->model)->facts;
    f->documents = (needle_documents){1, &f->document};
    f->request = (evaluate_request){.model = f->model,
                                    .plans = plans,
                                    .n_plans = N_RUNS - 1,
                                    .text = f->text,
                                    .n_text = N_TEXT,
                                    .context = CONTEXT,
                                    .documents = &f->documents,
                                    .attention_stride = 7};
    assert_ok(evaluate_batch_make(&f->batch, &f->request, &err));
    assert_int_equal(f->batch.batch.n_tokens, ALL);
    assert_int_equal(f->batch.n_parts, 1);
}

static inline void close_attention_fixture(attention_fixture *f)
{
    evaluate_batch_free(&f->batch);
    checkpoint_close(f->model);
}

/* Instead of one part: the first two sequences, the others of the text with the document. */
static inline void split_attention_fixture(attention_fixture *f)
{
    f->batch.n_parts = 2;
    f->batch.part_start[1] = 2 * N_RUNS;
    f->batch.part_start[2] = 5 * N_RUNS;
}

/* The part's tokens out of rows [n_heads][ALL][dim]: [n_heads][tokens of the part][dim]. Freed by free(). */
static inline float *part_of(const float *all, int n_heads, int64_t dim, int64_t first, int64_t n)
{
    float *out = malloc((size_t)(n_heads * n * dim) * sizeof *out);
    for (int h = 0; h < n_heads; h++)
        memcpy(out + h * n * dim, all + (h * ALL + first) * dim, (size_t)(n * dim) * sizeof *out);
    return out;
}

#endif
