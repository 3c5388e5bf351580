/* What is made of the scores of a text's tokens: the few numbers, the curve by position, the worst tokens. Counted by
 * hand. */
#include "tests/test_support.h"

#include "evaluate/position_curve.h"
#include "evaluate/text_summary.h"
#include "evaluate/worst_predictions.h"

/* Two runs, a text of 8 tokens in sequences of 5: predicted are tokens 1 2 3 4, then 6 7. A position of a document is
 * behind them. */
enum { CONTEXT = 5, N = 6, N_RUNS = 2 };

static scored_position positions[N + 1] = {
    {.target = 11, .target_place = 1, .document = -1}, {.target = 12, .target_place = 2, .document = -1},
    {.target = 13, .target_place = 3, .document = -1}, {.target = 14, .target_place = 4, .document = -1},
    {.target = 16, .target_place = 6, .document = -1}, {.target = 17, .target_place = 7, .document = -1},
    {.target = 99, .target_place = 3, .document = 0}};
static const evaluate_batch batch = {
    .n_runs = N_RUNS, .n_text_sequences = 2, .n_positions = N + 1, .n_text_positions = N, .positions = positions};

static const token_score scores[(N + 1) * N_RUNS] = {
    {.nll = 1.0, .is_top1_same = true}, {.nll = 2.0, .kl = 0.25, .is_top1_same = true},
    {.nll = 2.0, .is_top1_same = true}, {.nll = 2.5, .kl = 0.5},
    {.nll = 3.0, .is_top1_same = true}, {.nll = 3.5, .kl = 2.0},
    {.nll = 4.0, .is_top1_same = true}, {.nll = 4.0, .kl = 0.0, .is_top1_same = true},
    {.nll = 5.0, .is_top1_same = true}, {.nll = 6.0, .kl = 0.5, .is_top1_same = true},
    {.nll = 6.0, .is_top1_same = true}, {.nll = 9.0, .kl = 1.0},
    {.nll = 7.0, .is_top1_same = true}, {.nll = 70.0, .kl = 70.0},
};

static void a_text_is_summed_up_without_the_documents(void **state)
{
    (void)state;
    rb_error err = {0};
    text_summary s;
    assert_ok(text_summary_make(&s, &batch, scores, 0, &err));
    assert_true(s.nll == 3.5 && s.perplexity == exp(3.5) && s.kl_mean == 0.0 && s.kl_max == 0.0
                && s.top1_agreement == 1.0);
    assert_ok(text_summary_make(&s, &batch, scores, 1, &err));
    assert_true(s.nll == 4.5 && s.kl_mean == 4.25 / 6.0 && s.kl_max == 2.0 && s.kl_p99 == 2.0 && s.kl_p999 == 2.0
                && s.top1_agreement == 0.5);
}

/* 2000 tokens of KL 1, 2, .. 2000, in no order: of nearest rank, 99 % is the 1980th, 99.9 % the 1998th. */
static void quantiles_of_the_kl_are_of_the_share_that_they_are_named_for(void **state)
{
    (void)state;
    enum { MANY = 2000, STEP = 1009 }; /* no common factor: every number comes once */
    static token_score many[MANY * N_RUNS];
    static scored_position places[MANY];
    const evaluate_batch long_text = {
        .n_runs = N_RUNS, .n_text_sequences = 1, .n_positions = MANY, .n_text_positions = MANY, .positions = places};
    rb_error err = {0};
    text_summary s;
    for (int i = 0; i < MANY; i++) many[i * N_RUNS + 1].kl = 1.0 + (double)((int64_t)i * STEP % MANY);
    assert_ok(text_summary_make(&s, &long_text, many, 1, &err));
    assert_true(s.kl_p99 == 1980.0 && s.kl_p999 == 1998.0 && s.kl_max == 2000.0 && s.kl_mean == 1000.5);
}

static void without_text_there_are_no_numbers(void **state)
{
    (void)state;
    rb_error err = {0};
    text_summary s;
    position_curve curve;
    worst_predictions worst;
    const evaluate_batch empty = {.n_runs = N_RUNS};
    assert_ok(text_summary_make(&s, &empty, scores, 1, &err));
    assert_true(isnan(s.nll) && isnan(s.perplexity) && isnan(s.kl_mean) && isnan(s.kl_p99) && isnan(s.kl_p999)
                && isnan(s.kl_max) && isnan(s.top1_agreement));
    position_curve_make(&curve, &empty, scores, 1, CONTEXT);
    assert_int_equal(curve.n, 0);
    assert_ok(worst_predictions_make(&worst, 3, &empty, scores, 1, &err));
    assert_int_equal(worst.n, 0);
    worst_predictions_free(&worst);
}

static void assert_bin(const position_bin *bin, int64_t first, int64_t last, int64_t n, double kl_mean, double nll)
{
    assert_int_equal(bin->first, first);
    assert_int_equal(bin->last, last);
    assert_int_equal(bin->n, n);
    assert_true(bin->kl_mean == kl_mean && bin->nll == nll);
}

/* Behind 1 token stand tokens 1 and 6, behind 2 or 3 tokens 2, 3 and 7, behind 4 token 4. */
static void positions_are_counted_within_their_sequence_in_bins_that_double(void **state)
{
    (void)state;
    position_curve curve;
    position_curve_make(&curve, &batch, scores, 1, CONTEXT);
    assert_int_equal(curve.n, 3);
    assert_bin(&curve.at[0], 1, 1, 2, 0.375, 4.0);
    assert_bin(&curve.at[1], 2, 3, 3, 3.5 / 3.0, 5.0);
    assert_bin(&curve.at[2], 4, 4, 1, 0.0, 4.0);
}

static void the_worst_tokens_come_by_kl_and_then_by_place(void **state)
{
    (void)state;
    rb_error err = {0};
    worst_predictions worst;
    static const int64_t places[] = {3, 7, 2, 6, 1}; /* KL 2, 1, 0.5, 0.5, 0.25; the one with 0 does not suffer */
    for (int capacity = 0; capacity <= 7; capacity++) {
        assert_ok(worst_predictions_make(&worst, capacity, &batch, scores, 1, &err));
        assert_int_equal(worst.n, capacity < 5 ? capacity : 5);
        for (int i = 0; i < worst.n; i++) {
            assert_int_equal(worst.at[i].position, places[i]);
            assert_int_equal(worst.at[i].id, 10 + places[i]);
        }
        if (capacity > 0)
            assert_true(worst.at[0].kl == 2.0 && worst.at[0].nll == 3.5 && worst.at[0].unquantized_nll == 3.0);
        worst_predictions_free(&worst);
    }
    assert_ok(worst_predictions_make(&worst, 3, &batch, scores, 0, &err));
    assert_int_equal(worst.n, 0);
    worst_predictions_free(&worst);
}

/* Text before a token ends where its sequence begins. */
static void worst_tokens_are_named_with_what_stands_before_them(void **state)
{
    (void)state;
    rb_error err = {0};
    tokenizer *words = NULL;
    int32_t *ids = NULL;
    int64_t n;
    worst_prediction at[] = {{.position = 13}, {.position = 9}, {.position = 11}};
    worst_predictions worst = {3, at};
    assert_ok(tokenizer_open(&words, "configs/demo-llama/tokenizer.json", &err));
    assert_ok(tokenizer_encode(words, "0\n2\n4\n6\n8\n0\n2\n", 14, &ids, &n, &err));
    assert_int_equal(n, 14);
    for (int i = 0; i < 3; i++) at[i].id = ids[at[i].position];
    worst_predictions_name(&worst, words, ids, 10);
    assert_string_equal(at[0].text, "\\x0a");
    assert_string_equal(at[0].before, "0\\x0a2");
    assert_string_equal(at[1].before, "\\x0a4\\x0a6\\x0a8");
    assert_string_equal(at[2].before, "0");
    free(ids);
    tokenizer_close(words);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_is_summed_up_without_the_documents),
        cmocka_unit_test(quantiles_of_the_kl_are_of_the_share_that_they_are_named_for),
        cmocka_unit_test(without_text_there_are_no_numbers),
        cmocka_unit_test(positions_are_counted_within_their_sequence_in_bins_that_double),
        cmocka_unit_test(the_worst_tokens_come_by_kl_and_then_by_place),
        cmocka_unit_test(worst_tokens_are_named_with_what_stands_before_them),
    };
    return cmocka_run_group_tests_name("text_scores", tests, NULL, NULL);
}
