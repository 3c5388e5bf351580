/* Error of the attention's output against plain sums in f64, head by head. */
#include "tests/evaluate/attention_fixture.h"

#include "evaluate/output_score.h"

enum { LAYER = 1 };

/* Rows [ALL][n_q_heads * dim]. */
static output_scores score(const attention_fixture *f, const float *attended)
{
    rb_error err = {0};
    output_scores scores;
    const int64_t row = f->facts->n_q_heads * f->facts->head_dim;
    assert_ok(output_scores_create(&scores, &f->request, &f->batch, &err));
    for (int part = 0; part < f->batch.n_parts; part++) {
        const int64_t first = f->batch.sequence_start[f->batch.part_start[part]],
                      n = f->batch.sequence_start[f->batch.part_start[part + 1]] - first;
        const layer_heads heads = {.layer = LAYER, .part = part, .first_token = first, .n_tokens = n};
        output_scores_add(&scores, &heads, attended + first * row);
    }
    return scores;
}

/* Sequences of the text only: 40, 40, 40, 3 tokens. */
static double expected_square(const attention_fixture *f, const float *attended, int h, int run)
{
    static const int64_t starts[] = {0, 120, 240, 360}, lengths[] = {CONTEXT, CONTEXT, CONTEXT, 3};
    const int64_t dim = f->facts->head_dim, row = f->facts->n_q_heads * dim;
    double sum = 0.0;
    for (int s = 0; s < 4; s++)
        for (int64_t t = 0; t < lengths[s]; t++)
            for (int64_t i = h * dim; i < (h + 1) * dim; i++) {
                const double base = (double)attended[(starts[s] + t) * row + i],
                             own = (double)attended[(starts[s] + run * lengths[s] + t) * row + i];
                sum += run == 0 ? base * base : (own - base) * (own - base);
            }
    return sum;
}

static void squares_are_those_of_the_texts_rows(void **state)
{
    (void)state;
    attention_fixture f;
    open_attention_fixture(&f);
    const int n_heads = f.facts->n_q_heads;
    float *attended = random_floats(ALL * n_heads * f.facts->head_dim, 5);
    output_scores scores = score(&f, attended);
    for (int h = 0; h < n_heads; h++)
        for (int run = 0; run < N_RUNS; run++) {
            const double expected = expected_square(&f, attended, h, run);
            assert_true(expected > 1.0
                        && fabs(scores.squares[(LAYER * n_heads + h) * N_RUNS + run] / expected - 1.0) < 1e-6);
        }
    for (int i = 0; i < LAYER * n_heads * N_RUNS; i++) assert_true(scores.squares[i] == 0.0);
    output_scores_free(&scores);
    free(attended);
    close_attention_fixture(&f);
}

static void parts_do_not_change_a_bit(void **state)
{
    (void)state;
    attention_fixture f;
    open_attention_fixture(&f);
    float *attended = random_floats(ALL * f.facts->n_q_heads * f.facts->head_dim, 6);
    output_scores whole = score(&f, attended);
    split_attention_fixture(&f);
    output_scores parts = score(&f, attended);
    assert_memory_equal(whole.squares, parts.squares,
                        (size_t)(f.facts->n_layers * f.facts->n_q_heads * N_RUNS) * sizeof *whole.squares);
    output_scores_free(&whole);
    output_scores_free(&parts);
    free(attended);
    close_attention_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(squares_are_those_of_the_texts_rows),
        cmocka_unit_test(parts_do_not_change_a_bit),
    };
    return cmocka_run_group_tests_name("output_score", tests, NULL, NULL);
}
