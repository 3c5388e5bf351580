/* profile/value_error.h against its definition, written out in double. */
#include "tests/profile/profile_test.h"

#include "core/threads.h"
#include "plan/bit_plan.h"
#include "profile/value_error.h"

static rb_error err;

/* sum_t p_st x_t for t <= s of the sequence, p the softmax of scale * q . k. */
static void attend(double *out, const model_facts *facts, const float *q, const float *k, const float *x, int64_t n)
{
    const int d = facts->head_dim, value_dim = facts->value_dim;
    double *p = malloc((size_t)n * sizeof *p), largest = -INFINITY, sum = 0.0;
    for (int64_t t = 0; t < n; t++) {
        p[t] = 0.0;
        for (int i = 0; i < d; i++) p[t] += facts->attention_scale * (double)q[i] * (double)k[t * d + i];
        largest = fmax(largest, p[t]);
    }
    for (int64_t t = 0; t < n; t++) sum += p[t] = exp(p[t] - largest);
    for (int i = 0; i < value_dim; i++) {
        out[i] = 0.0;
        for (int64_t t = 0; t < n; t++) out[i] += p[t] / sum * (double)x[t * value_dim + i];
    }
    free(p);
}

/* Mean of |attended x|^2 over query heads and every query that value_error.h looks at. */
static double naive_energy(const model_facts *facts, const value_vectors *in, const float *x)
{
    const int64_t d = facts->head_dim, value_dim = facts->value_dim;
    double sum = 0.0, out[RB_MAX_HEAD_DIM];
    int64_t n = 0;
    for (int head = 0; head < in->n_q; head++)
        for (int64_t at = 0; at < in->n_tokens; at++) {
            const int64_t first = at / in->context * in->context, place = at - first;
            const bool is_last = at + 1 == in->n_tokens || place + 1 == in->context;
            if (place % VALUE_ERROR_STRIDE != VALUE_ERROR_STRIDE - 1 && !is_last) continue;
            attend(out, facts, in->q + (head * in->n_tokens + at) * d, in->k + first * d, x + first * value_dim,
                   place + 1);
            for (int i = 0; i < value_dim; i++) sum += out[i] * out[i];
            n++;
        }
    return sum / (double)n;
}

/* v - v^ by the codec of a plan with these values. */
static void value_differences(float *out, const model_facts *facts, int kv_head, int width, const float *v, int64_t n,
                              codec_tables *tables)
{
    const model_facts values = model_value_facts(facts);
    model_facts wide = *facts;
    bit_plan *plan = NULL;
    plan_head head;
    head_codec *codec = NULL;
    wide.n_kv_heads = wide.n_q_heads = kv_head + 1;
    assert_ok(bit_plan_create(&plan, &wide, &err));
    bit_plan_set_value_width(plan, width);
    assert_ok(bit_plan_value_head(plan, 0, kv_head, &head, &err));
    assert_ok(head_codec_create(&codec, &head, &values, tables, &err));
    assert_ok(head_codec_round_trip(codec, v, n, out, &err));
    for (int64_t i = 0; i < n * facts->value_dim; i++) out[i] = v[i] - out[i];
    head_codec_free(codec);
    plan_head_clear(&head);
    bit_plan_free(plan);
}

static const struct {
    int n_q, head_dim, value_dim, kv_head;
    int64_t n_tokens, context;
} cases[] = {
    {1, 2, 2, 0, 1, 1},      {1, 64, 64, 3, 5, 100},   {3, 64, 64, 1, 63, 20},
    {3, 80, 80, 0, 129, 64}, {2, 66, 66, 2, 130, 130}, {1, 16, 16, 0, 1100, 1040},
    {3, 64, 64, 0, 97, 1},   {3, 16, 96, 0, 77, 40},   {2, 64, 10, 1, 33, 33},
};

static model_facts case_model(size_t c)
{
    model_facts facts = small_model(cases[c].n_q, cases[c].head_dim, cases[c].head_dim, ROPE_SPLIT_HALF);
    facts.value_dim = cases[c].value_dim;
    return facts;
}

static value_vectors make_vectors(size_t c, const model_facts *facts)
{
    const size_t n = (size_t)cases[c].n_tokens * (size_t)facts->head_dim;
    float *q = random_floats(n * (size_t)cases[c].n_q, 1), *k = random_floats(n, 2),
          *v = random_floats((size_t)cases[c].n_tokens * (size_t)facts->value_dim, 3);
    for (size_t i = 0; i < n * (size_t)cases[c].n_q; i++) q[i] *= 4.0f; /* weights far from equal */
    return (value_vectors){q, k, v, cases[c].n_q, cases[c].n_tokens, cases[c].context, 0};
}

static void free_vectors(const value_vectors *in)
{
    free((float *)in->q);
    free((float *)in->k);
    free((float *)in->v);
}

static void every_width_and_shape_matches_the_definition(void **state)
{
    (void)state;
    codec_tables *tables = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    for (size_t c = 0; c < RB_COUNT(cases); c++) {
        const model_facts facts = case_model(c);
        const value_vectors in = make_vectors(c, &facts);
        float *difference = malloc((size_t)in.n_tokens * (size_t)facts.value_dim * sizeof *difference);
        double error[PLAN_MAX_WIDTH], energy;
        assert_ok(value_errors(error, &energy, &facts, cases[c].kv_head, &in, tables, &err));
        const double whole = naive_energy(&facts, &in, in.v);
        assert_close(energy, whole, 1e-5 * whole); /* f32 logits around 10 */
        for (int width = PLAN_MIN_WIDTH; width <= PLAN_MAX_WIDTH; width++) {
            value_differences(difference, &facts, cases[c].kv_head, width, in.v, in.n_tokens, tables);
            const double expected = naive_energy(&facts, &in, difference);
            assert_close(error[width - 1], expected, 1e-5 * expected);
        }
        free(difference);
        free_vectors(&in);
    }
    codec_tables_free(tables);
}

/* What is left of the differences where the first values of every sequence have none. */
static void exact_values_have_no_error(void **state)
{
    (void)state;
    enum { CASE = 3, N_SINK = 5, WIDTH = 2 };
    const model_facts facts = case_model(CASE);
    value_vectors in = make_vectors(CASE, &facts);
    const int64_t dim = facts.value_dim;
    float *difference = malloc((size_t)(in.n_tokens * dim) * sizeof *difference);
    double error[PLAN_MAX_WIDTH], energy;
    codec_tables *tables = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    in.n_sink = N_SINK;
    assert_ok(value_errors(error, &energy, &facts, 0, &in, tables, &err));
    const double whole = naive_energy(&facts, &in, in.v);
    assert_close(energy, whole, 1e-5 * whole);
    value_differences(difference, &facts, 0, WIDTH, in.v, in.n_tokens, tables);
    for (int64_t t = 0; t < in.n_tokens; t++)
        if (t % in.context < N_SINK) memset(difference + t * dim, 0, (size_t)dim * sizeof *difference);
    const double expected = naive_energy(&facts, &in, difference);
    assert_close(error[WIDTH - 1], expected, 1e-5 * expected);
    free(difference);
    free_vectors(&in);
    codec_tables_free(tables);
}

static void threads_do_not_change_a_bit(void **state)
{
    (void)state;
    enum { CASE = 3 };
    const model_facts facts = case_model(CASE);
    const value_vectors in = make_vectors(CASE, &facts);
    codec_tables *tables = NULL;
    double error[2][PLAN_MAX_WIDTH], energy[2];
    assert_ok(codec_tables_create(&tables, &err));
    for (int i = 0; i < 2; i++) {
        rb_threads_init(i == 0 ? 1 : 3);
        assert_ok(value_errors(error[i], &energy[i], &facts, 0, &in, tables, &err));
    }
    rb_threads_init(0);
    assert_memory_equal(error[0], error[1], sizeof error[0]);
    assert_true(energy[0] == energy[1]);
    codec_tables_free(tables);
    free_vectors(&in);
}

static void what_the_codec_cannot_hold_is_named(void **state)
{
    (void)state;
    enum { CASE = 1 };
    const model_facts facts = case_model(CASE);
    const value_vectors in = make_vectors(CASE, &facts);
    codec_tables *tables = NULL;
    double error[PLAN_MAX_WIDTH], energy;
    assert_ok(codec_tables_create(&tables, &err));
    ((float *)in.v)[2 * 64 + 7] = 1e6f;
    assert_fails(value_errors(error, &energy, &facts, 0, &in, tables, &err), RB_ENONFINITE, "vector 2");
    codec_tables_free(tables);
    free_vectors(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_width_and_shape_matches_the_definition),
        cmocka_unit_test(exact_values_have_no_error),
        cmocka_unit_test(threads_do_not_change_a_bit),
        cmocka_unit_test(what_the_codec_cannot_hold_is_named),
    };
    return cmocka_run_group_tests_name("value_error", tests, NULL, NULL);
}
