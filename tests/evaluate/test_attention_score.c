/* KL and top-k overlap of attention weights against plain softmaxes in f64: every run, sampled query and head; with
 * windows, recent keys and short sequences. */
#include "tests/evaluate/attention_fixture.h"

#include "evaluate/attention_score.h"

enum { LAYER = 2 };

typedef struct arrays {
    float *q, *k, *exact_k; /* [heads][ALL][dim] */
} arrays;

static arrays make_arrays(const attention_fixture *f)
{
    const int64_t dim = f->facts->head_dim;
    arrays a = {.q = random_floats(f->facts->n_q_heads * ALL * dim, 1),
                .k = random_floats(f->facts->n_kv_heads * ALL * dim, 2),
                .exact_k = random_floats(f->facts->n_kv_heads * ALL * dim, 3)};
    return a;
}

static void free_arrays(arrays *a) { free(a->q), free(a->k), free(a->exact_k); }

/* ---- the reference --------------------------------------------------------------------------- */

static void reference_weights(double *p, const attention_fixture *f, const arrays *a, int head, int64_t first,
                              int64_t t, int64_t window)
{
    const int64_t dim = f->facts->head_dim, kv_head = head / (f->facts->n_q_heads / f->facts->n_kv_heads);
    double sum = 0.0;
    for (int64_t s = 0; s <= t; s++) {
        const float *k = t - s < f->plan->n_recent ? a->exact_k : a->k;
        double logit = 0.0;
        for (int64_t i = 0; i < dim; i++)
            logit +=
                (double)a->q[(head * ALL + first + t) * dim + i] * (double)k[(kv_head * ALL + first + s) * dim + i];
        p[s] = window > 0 && t - s >= window ? 0.0 : exp(f->facts->attention_scale * logit);
        sum += p[s];
    }
    for (int64_t s = 0; s <= t; s++) p[s] /= sum;
}

/* How many weights are larger: below ATTENTION_TOP_K for the largest ones. */
static int rank_of(const double *p, int64_t n, int64_t s)
{
    int rank = 0;
    for (int64_t other = 0; other < n; other++) rank += p[other] > p[s];
    return rank;
}

typedef struct expectation {
    double kl[N_RUNS], overlap[N_RUNS];
    int64_t n, n_overlap;
} expectation;

static void expect_query(expectation *e, const attention_fixture *f, const arrays *a, int64_t first, int64_t n,
                         int head, int64_t t, int64_t window)
{
    double p[N_RUNS][CONTEXT];
    const int64_t seen = window > 0 && window < t + 1 ? window : t + 1;
    for (int run = 0; run < N_RUNS; run++) reference_weights(p[run], f, a, head, first + run * n, t, window);
    for (int run = 0; run < N_RUNS; run++)
        for (int64_t s = 0; s <= t; s++) {
            if (p[0][s] > 0.0) e->kl[run] += p[0][s] * log(p[0][s] / p[run][s]);
            if (seen > ATTENTION_TOP_K && rank_of(p[0], t + 1, s) < ATTENTION_TOP_K
                && rank_of(p[run], t + 1, s) < ATTENTION_TOP_K)
                e->overlap[run] += 1.0 / 16.0;
        }
    e->n++;
    e->n_overlap += seen > ATTENTION_TOP_K;
}

/* Sequences of 40, 40, 40 and 3 tokens; stride 7: queries 6, 13, 20, 27, 34; of the last sequence its last token. */
static expectation expect(const attention_fixture *f, const arrays *a, int64_t window)
{
    static const int64_t starts[] = {0, 120, 240, 360};
    expectation e = {0};
    for (int s = 0; s < 3; s++)
        for (int64_t t = 6; t < CONTEXT; t += 7)
            for (int h = 0; h < f->facts->n_q_heads; h++) expect_query(&e, f, a, starts[s], CONTEXT, h, t, window);
    for (int h = 0; h < f->facts->n_q_heads; h++) expect_query(&e, f, a, starts[3], 3, h, 2, window);
    return e;
}

/* ---- the scores ------------------------------------------------------------------------------ */

static attention_scores score(const attention_fixture *f, const arrays *a)
{
    rb_error err = {0};
    attention_scores scores;
    const int64_t dim = f->facts->head_dim;
    assert_ok(attention_scores_create(&scores, &f->request, &f->batch, &err));
    for (int part = 0; part < f->batch.n_parts; part++) {
        const int64_t first = f->batch.sequence_start[f->batch.part_start[part]],
                      n = f->batch.sequence_start[f->batch.part_start[part + 1]] - first;
        const arrays own = {part_of(a->q, f->facts->n_q_heads, dim, first, n),
                            part_of(a->k, f->facts->n_kv_heads, dim, first, n),
                            part_of(a->exact_k, f->facts->n_kv_heads, dim, first, n)};
        const layer_heads heads = {.layer = LAYER,
                                   .part = part,
                                   .first_token = first,
                                   .n_tokens = n,
                                   .q = own.q,
                                   .k = own.k,
                                   .exact_k = own.exact_k};
        assert_ok(attention_scores_add(&scores, &heads, &err));
        free_arrays(&(arrays){own.q, own.k, own.exact_k});
    }
    return scores;
}

static void check(int64_t n_recent, int window)
{
    attention_fixture f;
    open_attention_fixture(&f);
    model_config *config =
        (model_config *)checkpoint_config(f.model); /* ours alone: this model has no window of its own */
    config->layer_slides[LAYER] = window > 0;
    config->sliding_window = window;
    f.plan->n_recent = n_recent;
    arrays a = make_arrays(&f);
    const expectation e = expect(&f, &a, window);
    attention_scores scores = score(&f, &a);
    assert_int_equal(scores.n_queries[LAYER], e.n);
    assert_int_equal(scores.n_overlap_queries[LAYER], e.n_overlap);
    assert_true(e.n == 16 * f.facts->n_q_heads && e.n_overlap < e.n);
    for (int run = 0; run < N_RUNS; run++) {
        assert_true(fabs(scores.kl[LAYER * N_RUNS + run] - e.kl[run]) <= 1e-5 * fabs(e.kl[run]) + 1e-9);
        assert_true(fabs(scores.overlap[LAYER * N_RUNS + run] - e.overlap[run]) < 1e-9);
        assert_true(run == 0 || e.kl[run] > 0.1);
    }
    assert_true(scores.kl[0] == 0.0 && scores.n_queries[0] == 0); /* other layers */
    attention_scores_free(&scores);
    free_arrays(&a);
    close_attention_fixture(&f);
}

static void scores_are_those_of_the_weights(void **state)
{
    (void)state;
    check(0, 0);
}

static void recent_keys_are_met_as_they_were(void **state)
{
    (void)state;
    check(5, 0);
}

static void keys_outside_the_window_do_not_count(void **state)
{
    (void)state;
    check(0, 20);
}

static void half_of_the_largest_in_common_is_half(void **state)
{
    (void)state;
    attention_fixture f;
    open_attention_fixture(&f);
    arrays a = make_arrays(&f);
    const int64_t dim = f.facts->head_dim;
    f.request.attention_stride = CONTEXT; /* query 39: keys 0 .. 39 */
    for (int64_t i = 0; i < f.facts->n_q_heads * ALL * dim; i++) a.q[i] = i % dim == 0;
    /* Logits of run 0 fall from key to key; run 1 has 8 of its 16 first keys at the end, run 2 is run 0. */
    for (int h = 0; h < f.facts->n_kv_heads; h++)
        for (int64_t run = 0; run < N_RUNS; run++)
            for (int64_t s = 0; s < CONTEXT; s++)
                for (int sequence = 0; sequence < 3; sequence++)
                    a.k[(h * ALL + (sequence * N_RUNS + run) * CONTEXT + s) * dim] =
                        (float)(run == 1 && s < 8 ? -100 - s : -s);
    attention_scores scores = score(&f, &a);
    const double n = (double)scores.n_overlap_queries[LAYER];
    assert_int_equal(scores.n_overlap_queries[LAYER], 3 * f.facts->n_q_heads);
    assert_true(scores.overlap[LAYER * N_RUNS + 1] == 0.5 * n && scores.overlap[LAYER * N_RUNS + 2] == n
                && scores.overlap[LAYER * N_RUNS] == n);
    attention_scores_free(&scores);
    free_arrays(&a);
    close_attention_fixture(&f);
}

static void parts_do_not_change_a_bit(void **state)
{
    (void)state;
    attention_fixture f;
    open_attention_fixture(&f);
    arrays a = make_arrays(&f);
    attention_scores whole = score(&f, &a);
    split_attention_fixture(&f);
    attention_scores parts = score(&f, &a);
    assert_memory_equal(whole.kl, parts.kl, (size_t)(f.facts->n_layers * N_RUNS) * sizeof *whole.kl);
    assert_memory_equal(whole.overlap, parts.overlap, (size_t)(f.facts->n_layers * N_RUNS) * sizeof *whole.overlap);
    assert_int_equal(whole.n_queries[LAYER], parts.n_queries[LAYER]);
    attention_scores_free(&whole);
    attention_scores_free(&parts);
    free_arrays(&a);
    close_attention_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_the_weights),
        cmocka_unit_test(recent_keys_are_met_as_they_were),
        cmocka_unit_test(keys_outside_the_window_do_not_count),
        cmocka_unit_test(half_of_the_largest_in_common_is_half),
        cmocka_unit_test(parts_do_not_change_a_bit),
    };
    return cmocka_run_group_tests_name("attention_score", tests, NULL, NULL);
}
