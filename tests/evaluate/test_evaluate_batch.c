/* The sequences of an evaluation: which copy lies where, and which positions are scored. Counted by hand. */
#include "tests/test_support.h"

#include "evaluate/evaluate_batch.h"

static const int32_t text[] = {10, 11, 12, 13, 14};
static int32_t document_tokens[] = {20, 21, 22, 23};

/* 5 tokens of text in sequences of 3, one document of 4 tokens, one plan: two runs. */
static evaluate_batch make(const needle_documents *documents)
{
    static const bit_plan *plan = NULL;
    rb_error err = {0};
    evaluate_batch batch;
    const evaluate_request request = {
        .plans = &plan, .n_plans = 1, .text = text, .n_text = 5, .context = 3, .documents = documents};
    if (evaluate_batch_make(&batch, &request, &err) != RB_OK) fail_msg("%s", err.msg);
    return batch;
}

static void copies_of_a_sequence_lie_side_by_side(void **state)
{
    (void)state;
    static const int32_t tokens[] = {10, 11, 12, 10, 11, 12, 13, 14, 13, 14};
    static const int64_t starts[] = {0, 3, 6, 8, 10}, logit_tokens[] = {0, 3, 1, 4, 6, 8};
    evaluate_batch batch = make(NULL);
    assert_int_equal(batch.batch.n_tokens, 10);
    assert_int_equal(batch.batch.n_sequences, 4);
    assert_memory_equal(batch.tokens, tokens, sizeof tokens);
    assert_memory_equal(batch.sequence_start, starts, sizeof starts);
    assert_int_equal(batch.n_parts, 1);
    assert_int_equal(batch.part_start[0], 0);
    assert_int_equal(batch.part_start[1], 4);
    /* the last token of a sequence has none behind it */
    assert_int_equal(batch.n_positions, 3);
    assert_int_equal(batch.n_text_positions, 3);
    assert_memory_equal(batch.logit_tokens, logit_tokens, sizeof logit_tokens);
    assert_int_equal(batch.positions[0].target, 11);
    assert_int_equal(batch.positions[2].target, 14);
    assert_int_equal(batch.positions[2].document, -1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(batch.positions[i].target_place, i < 2 ? i + 1 : 4); /* token 3 begins a sequence */
    evaluate_batch_free(&batch);
}

/* What begins a sequence is seen and not predicted, however many tokens it is; the first token after it is. */
static void the_beginning_of_a_sequence_is_no_target(void **state)
{
    (void)state;
    static const int32_t with_bos[] = {1, 2, 10, 11, 1, 2, 12, 1};
    const struct {
        bos_mode mode;
        int n_bos;
        int64_t n_positions;
        int32_t first, last;
    } cases[] = {{BOS_SEQUENCE, 2, 4, 10, 1}, {BOS_SEQUENCE, 1, 6, 2, 1}, {BOS_TEXT, 2, 5, 10, 1}};
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        rb_error err = {0};
        evaluate_batch batch;
        const evaluate_request request = {.text = with_bos,
                                          .n_text = RB_COUNT(with_bos),
                                          .context = 4,
                                          .bos = {cases[i].mode, {cases[i].n_bos, {1, 2}}}};
        if (evaluate_batch_make(&batch, &request, &err) != RB_OK) fail_msg("%s", err.msg);
        assert_int_equal(batch.n_positions, cases[i].n_positions);
        assert_int_equal(batch.positions[0].target, cases[i].first);
        assert_int_equal(batch.positions[0].target_place, cases[i].n_bos);
        assert_int_equal(batch.logit_tokens[0], cases[i].n_bos - 1);
        assert_int_equal(batch.positions[batch.n_positions - 1].target, cases[i].last);
        evaluate_batch_free(&batch);
    }
}

/* Nothing says that the answers of a documents file are apart: more positions than tokens. */
static void answers_that_overlap_are_all_scored(void **state)
{
    (void)state;
    answer_span answers[] = {{1, 3}, {1, 3}, {2, 2}};
    needle_document document = {.n_tokens = 4, .tokens = document_tokens, .n_answers = 3, .answers = answers};
    const needle_documents documents = {1, &document};
    evaluate_batch batch = make(&documents);
    assert_int_equal(batch.n_text_positions, 3);
    assert_int_equal(batch.n_positions, 3 + 3 + 3 + 2);
    assert_int_equal(batch.positions[3].target, 21);
    assert_int_equal(batch.positions[3].document, 0);
    assert_int_equal(batch.positions[3].target_place, 1);
    assert_int_equal(batch.positions[10].target_place, 3);
    assert_int_equal(batch.positions[10].target, 23);
    assert_int_equal(batch.logit_tokens[2 * 10],
                     10 + 2); /* behind the text's 10: token 2 of the first copy, then of the second */
    assert_int_equal(batch.logit_tokens[2 * 10 + 1], 10 + 4 + 2);
    evaluate_batch_free(&batch);
}

static void the_text_of_a_part_ends_where_documents_begin(void **state)
{
    (void)state;
    answer_span answer = {1, 1};
    needle_document document = {.n_tokens = 4, .tokens = document_tokens, .n_answers = 1, .answers = &answer};
    const needle_documents documents = {1, &document};
    evaluate_batch batch = make(&documents);
    assert_int_equal(batch.n_parts, 1);
    assert_int_equal(evaluate_batch_text_end(&batch, 0), 4);
    batch.n_parts = 2; /* the first sequence; the second and the document */
    batch.part_start[1] = 2, batch.part_start[2] = 6;
    assert_int_equal(evaluate_batch_text_end(&batch, 0), 2);
    assert_int_equal(evaluate_batch_text_end(&batch, 1), 4);
    evaluate_batch_free(&batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_of_a_sequence_lie_side_by_side),
        cmocka_unit_test(the_beginning_of_a_sequence_is_no_target),
        cmocka_unit_test(answers_that_overlap_are_all_scored),
        cmocka_unit_test(the_text_of_a_part_ends_where_documents_begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
