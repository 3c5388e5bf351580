/* profile/sink_evidence.h against its definition, written out in double, and what it says of sinks that were put
 * somewhere. */
#include "tests/test_support.h"

#include "core/threads.h"
#include "profile/sink_evidence.h"
#include "tests/profile/profile_test.h"

enum { DIM = 16, N_Q = 2, CONTEXT = 100, N = 230, STRIDE = 8, N_BLOCKS = DIM / 2, COMMA = 7 };

static rb_error err;

/* A layer of one KV head. Queries lean to the first dim. `size` of a planted key: its distance from the others there.
 */
typedef struct layer {
    model_facts model;
    float *q, *k, *v;
    double energy[N_BLOCKS], mean[DIM];
    int32_t ids[N];
} layer;

static layer make_layer(void)
{
    layer l = {.model = small_model(N_Q, DIM, DIM, ROPE_SPLIT_HALF)};
    l.q = random_floats(N_Q * N * DIM, 1);
    l.k = random_floats(N * DIM, 2);
    l.v = random_floats(N * DIM, 3);
    for (int64_t i = 0; i < N_Q * N; i++) l.q[i * DIM] += 2.0f;
    for (int i = 0; i < N_BLOCKS; i++) l.energy[i] = 1.0 + 0.1 * i;
    for (int i = 0; i < DIM; i++) l.mean[i] = 0.01 * i;
    for (int t = 0; t < N; t++) l.ids[t] = 100 + t;
    return l;
}

static void free_layer(layer *l) { free(l->q), free(l->k), free(l->v); }

static void plant(layer *l, int64_t t, float size) { l->k[t * DIM] += size; }

static void measure(sink_evidence *e, sink_tokens *tokens, const layer *l, bool with_values)
{
    const sink_layer in = {.k = l->k,
                           .q_turned = l->q,
                           .k_turned = l->k,
                           .v = with_values ? l->v : NULL,
                           .q_energy = l->energy,
                           .k_mean = l->mean,
                           .n_tokens = N,
                           .context = CONTEXT};
    assert_ok(sink_evidence_create(e, &l->model, with_values, &err));
    assert_ok(sink_tokens_create(tokens, N, &err));
    assert_ok(sink_evidence_add_layer(e, tokens, &l->model, 0, &in, &err));
}

/* ---- the definition -------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const double *x)
{
    double sorted[N];
    memcpy(sorted, x, sizeof sorted);
    qsort(sorted, N, sizeof *sorted, by_size);
    return sorted[N / 2];
}

static void naive_attention(double *attention, double *spread, const layer *l)
{
    double p[CONTEXT];
    int n_queries = 0;
    for (int t = 0; t < N; t++) attention[t] = spread[t] = 0.0;
    for (int g = 0; g < N_Q; g++)
        for (int s = 0; s < N; s++) {
            const int first = s / CONTEXT * CONTEXT, end = first + CONTEXT < N ? first + CONTEXT : N;
            double sum = 0.0;
            if ((s - first) % STRIDE != STRIDE - 1 && s != end - 1) continue;
            for (int t = first; t <= s; t++) {
                double dot = 0.0;
                for (int i = 0; i < DIM; i++) dot += (double)l->q[(g * N + s) * DIM + i] * (double)l->k[t * DIM + i];
                sum += p[t - first] = exp(l->model.attention_scale * dot);
            }
            for (int t = first; t <= s; t++) {
                attention[t] += p[t - first] / sum;
                spread[t] += p[t - first] / sum * (1.0 - p[t - first] / sum);
            }
            n_queries++;
        }
    for (int t = 0; t < N; t++) attention[t] /= n_queries, spread[t] /= n_queries;
}

static void naive_distances(double *d, const layer *l)
{
    for (int t = 0; t < N; t++) {
        d[t] = 0.0;
        for (int i = 0; i < DIM; i++) {
            const double x = (double)l->k[t * DIM + i] - l->mean[i];
            d[t] += l->energy[i % N_BLOCKS] * x * x;
        }
        d[t] = sqrt(d[t]);
    }
}

static void numbers_are_those_of_the_definition(void **state)
{
    (void)state;
    layer l = make_layer();
    sink_evidence e;
    sink_tokens tokens;
    double attention[N], spread[N], d[N];
    plant(&l, 0, 3.0f);
    plant(&l, 2 * CONTEXT + 5, 2.0f);
    measure(&e, &tokens, &l, true);
    naive_attention(attention, spread, &l);
    naive_distances(d, &l);
    const double median = median_of(d);
    double all = 0.0;
    for (int bin = 0; bin < SINK_BINS; bin++) {
        double share = 0.0, distance = 0.0, harm = 0.0;
        int n = 0;
        for (int t = 0; t < N; t++) {
            const int position = t % CONTEXT;
            if (position >= bin) harm += spread[t] * d[t] * d[t] / (median * median);
            if (position != bin && !(bin == SINK_POSITIONS && position >= bin)) continue;
            share += attention[t];
            distance += d[t] / median;
            n++;
        }
        assert_close(e.attention[bin], share, 1e-6);
        assert_close(e.distance[bin], distance / n, 1e-5);
        assert_close(e.harm[bin], harm, 1e-4 * harm);
        all += share;
    }
    assert_close(all, 1.0, 1e-9);
    assert_close(sink_gain(&e, 3), 0.5 * log2(e.harm[0] / e.harm[3]), 1e-12);
    assert_close(sink_cost(&e, 3), 48.0 / CONTEXT, 1e-12);
    sink_evidence_free(&e);
    sink_tokens_free(&tokens);
    free_layer(&l);
}

/* ---- the choice ------------------------------------------------------------------------------ */

/* `n` first tokens of every sequence act as sinks. */
static int choice_of(int n, int64_t context)
{
    layer l = make_layer();
    sink_evidence e;
    sink_tokens tokens;
    for (int first = 0; first < N; first += CONTEXT)
        for (int i = 0; i < n; i++) plant(&l, first + i, 12.0f);
    measure(&e, &tokens, &l, false);
    assert_null(e.value_norm);
    e.context = context;
    const int choice = sink_choose(&e);
    sink_evidence_free(&e);
    sink_tokens_free(&tokens);
    free_layer(&l);
    return choice;
}

static void as_many_as_act_so_are_chosen(void **state)
{
    (void)state;
    assert_int_equal(choice_of(1, CONTEXT), 1);
    assert_int_equal(choice_of(3, CONTEXT), 3);
}

static void none_is_chosen_where_none_pays(void **state)
{
    (void)state;
    assert_int_equal(choice_of(0, CONTEXT), 0);
    assert_int_equal(choice_of(1, 4), 0); /* 4 bits a dim for one token of 4 */
}

/* ---- other sinks ----------------------------------------------------------------------------- */

static void other_tokens_that_act_so_are_named(void **state)
{
    (void)state;
    layer l = make_layer();
    sink_evidence e;
    sink_tokens tokens;
    plant(&l, 0, 14.0f);
    plant(&l, CONTEXT + 10, 14.0f);
    plant(&l, CONTEXT + 12, 13.0f);
    plant(&l, CONTEXT + 95, 14.0f); /* too few queries see it */
    l.ids[CONTEXT + 10] = l.ids[CONTEXT + 12] = COMMA;
    measure(&e, &tokens, &l, false);
    assert_ok(sink_evidence_find_others(&e, &tokens, l.ids, N, 1, &err));
    assert_int_equal(e.others.n_tokens, 2);
    assert_int_equal(e.others.n_named, 1);
    assert_int_equal(e.others.named[0].id, COMMA);
    assert_int_equal(e.others.named[0].n, 2);
    assert_true(e.others.heads == 1.0);
    assert_close(e.others.attention, e.others.named[0].attention, 1e-12);
    assert_true(e.others.attention > 0.2 && e.others.attention < 0.5);
    assert_ok(sink_evidence_find_others(&e, &tokens, l.ids, N, 0, &err)); /* the first one is no sink of a plan */
    assert_int_equal(e.others.n_tokens, 3);
    assert_ok(sink_evidence_find_others(&e, &tokens, l.ids, N, 11, &err));
    assert_int_equal(e.others.n_tokens, 1);
    sink_evidence_free(&e);
    sink_tokens_free(&tokens);
    free_layer(&l);
}

static void keys_beyond_f32_are_refused(void **state)
{
    (void)state;
    layer l = make_layer();
    sink_evidence e;
    sink_tokens tokens;
    const sink_layer in = {.k = l.k,
                           .q_turned = l.q,
                           .k_turned = l.k,
                           .q_energy = l.energy,
                           .k_mean = l.mean,
                           .n_tokens = N,
                           .context = CONTEXT};
    l.k[3] = 3e38f;
    l.q[7 * DIM + 3] = 3e38f;
    assert_ok(sink_evidence_create(&e, &l.model, false, &err));
    assert_ok(sink_tokens_create(&tokens, N, &err));
    assert_fails(sink_evidence_add_layer(&e, &tokens, &l.model, 0, &in, &err), RB_ENONFINITE, "layer 0");
    sink_evidence_free(&e);
    sink_tokens_free(&tokens);
    free_layer(&l);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_those_of_the_definition), cmocka_unit_test(as_many_as_act_so_are_chosen),
        cmocka_unit_test(none_is_chosen_where_none_pays),      cmocka_unit_test(other_tokens_that_act_so_are_named),
        cmocka_unit_test(keys_beyond_f32_are_refused),
    };
    return cmocka_run_group_tests_name("sink_evidence", tests, NULL, NULL);
}
