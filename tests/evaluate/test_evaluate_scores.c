/* From the sums of a pass to the numbers of a run: means over queries and layers, norm ratios, right answers, and what
 * is NaN. */
#include "tests/evaluate/attention_fixture.h"

#include "evaluate/evaluate_scores.h"

static void sums_become_means_and_ratios(void **state)
{
    (void)state;
    rb_error err = {0};
    attention_fixture f;
    evaluate_scores scores;
    evaluate_result result;
    open_attention_fixture(&f);
    const int n_layers = f.facts->n_layers, n_heads = f.facts->n_q_heads;
    assert_ok(evaluate_scores_create(&scores, &f.request, &f.batch, &err));
    for (int layer = 0; layer < n_layers; layer++) {
        scores.attention.n_queries[layer] = 8;
        scores.attention.n_overlap_queries[layer] = 4;
        for (int run = 0; run < N_RUNS; run++) {
            scores.attention.kl[layer * N_RUNS + run] = run * (layer + 1);
            scores.attention.overlap[layer * N_RUNS + run] = 4 - run;
            for (int h = 0; h < n_heads; h++)
                scores.outputs.squares[(layer * n_heads + h) * N_RUNS + run] =
                    run == 0 ? 4 * (h + 1) : run * run * (h + 1);
        }
        for (int run = 0; run < N_RUNS; run++)
            scores.outputs.squares[layer * n_heads * N_RUNS + run] = 0; /* a head that gives nothing */
    }
    scores.tokens[f.batch.n_text_positions * N_RUNS + 1].is_target_first = true;
    assert_ok(evaluate_scores_finish(&result, &scores, &err));
    assert_int_equal(result.n_runs, N_RUNS);
    for (int run = 0; run < N_RUNS; run++) {
        const evaluate_score *score = &result.runs[run];
        for (int layer = 0; layer < n_layers; layer++) {
            assert_true(score->attention_kl_by_layer[layer] == run * (layer + 1) / 8.0
                        && score->attention_overlap_by_layer[layer] == 1 - run / 4.0);
            assert_true(isnan(score->output_error_by_head[layer * n_heads]));
            for (int h = 1; h < n_heads; h++)
                assert_true(score->output_error_by_head[layer * n_heads + h] == run / 2.0);
            assert_true(score->output_error_by_layer[layer] == run / 2.0);
        }
        assert_true(score->attention_kl == run * (n_layers + 1) / 16.0 && score->attention_overlap == 1 - run / 4.0
                    && score->output_error == run / 2.0);
        assert_int_equal(score->n_right, run == 1);
    }
    evaluate_result_free(&result);
    evaluate_scores_free(&scores);
    close_attention_fixture(&f);
}

static void nothing_sampled_is_not_a_number(void **state)
{
    (void)state;
    rb_error err = {0};
    attention_fixture f;
    evaluate_scores scores;
    evaluate_result result;
    open_attention_fixture(&f);
    assert_ok(evaluate_scores_create(&scores, &f.request, &f.batch, &err));
    scores.attention.n_queries[0] = 1; /* the other layers have none */
    assert_ok(evaluate_scores_finish(&result, &scores, &err));
    assert_true(result.runs[1].attention_kl_by_layer[0] == 0.0 && isnan(result.runs[1].attention_kl_by_layer[1])
                && isnan(result.runs[1].attention_kl));
    assert_true(isnan(result.runs[1].attention_overlap) && isnan(result.runs[1].output_error));
    evaluate_result_free(&result);
    evaluate_scores_free(&scores);
    close_attention_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_become_means_and_ratios),
        cmocka_unit_test(nothing_sampled_is_not_a_number),
    };
    return cmocka_run_group_tests_name("evaluate_scores", tests, NULL, NULL);
}
