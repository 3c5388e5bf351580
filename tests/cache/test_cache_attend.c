/* Attention over packed pages against a softmax over what decode and the exact area give. */
#include "tests/test_support.h"

#include "tests/cache/some_cache.h"

typedef struct attend_case {
    some_cache c;
    float *queries, *out, *want, *log_sum_exp; /* [n_sequences][n_q_heads][head_dim], the last without dims */
    double *want_log_sum_exp;
    ropebits_kv_queries call;
} attend_case;

static attend_case case_create(const model_facts *model, bit_plan *plan, int layer, const int32_t *length, int n)
{
    rb_error err = {0};
    attend_case a = {.c = some_cache_create(model, plan, layer, n)};
    const int dim = model->head_dim, n_q = model->n_q_heads;
    a.queries = some_numbers((size_t)(n * n_q * dim), 7);
    for (int i = 0; i < n * n_q * dim; i++) a.queries[i] *= 4.0f;
    a.out = some_numbers((size_t)(n * n_q * dim), 8);
    a.want = some_numbers((size_t)(n * n_q * dim), 9);
    a.log_sum_exp = some_numbers((size_t)(n * n_q), 10);
    assert_ok(rb_alloc(&a.want_log_sum_exp, (size_t)(n * n_q), sizeof *a.want_log_sum_exp, "sums", &err));
    for (int s = 0; s < n; s++)
        for (int32_t t = 0; t < length[s]; t += 9)
            assert_ok(some_append(&a.c, s, t, t + 9 < length[s] ? t + 9 : length[s], &err));
    a.call = (ropebits_kv_queries){.n_sequences = n,
                                   .length = length,
                                   .max_length = SOME_TOKENS,
                                   .queries = {a.queries, ROPEBITS_KV_F32, n_q * dim, dim},
                                   .out = {a.out, ROPEBITS_KV_F32, n_q * dim, dim},
                                   .log_sum_exp = a.log_sum_exp};
    return a;
}

static void case_free(attend_case *a)
{
    some_cache_free(&a->c);
    free(a->queries);
    free(a->out);
    free(a->want);
    free(a->log_sum_exp);
    free(a->want_log_sum_exp);
}

/* Keys and values of a KV head as attention should see them. */
static void seen_tokens(const attend_case *a, int sequence, int h, float keys[][256], float values[][256])
{
    rb_error err = {0};
    const some_cache *c = &a->c;
    const int dim = c->model.head_dim, n_heads = c->model.n_kv_heads;
    const int64_t length = a->call.length[sequence];
    float *all[2] = {some_numbers((size_t)(SOME_TOKENS * n_heads * dim), 1),
                     some_numbers((size_t)(SOME_TOKENS * n_heads * dim), 2)};
    const ropebits_kv_vectors k = {all[0], ROPEBITS_KV_F32, n_heads * dim, dim},
                              v = {all[1], ROPEBITS_KV_F32, n_heads * dim, dim};
    int64_t slots[SOME_TOKENS];
    int32_t positions[SOME_TOKENS];
    const int64_t end = length - kv_cache_n_recent(c->cache);
    for (int64_t t = 0; t < length; t++) {
        positions[t] = (int32_t)t;
        slots[t] = t >= kv_cache_n_sink(c->cache) && t < end ? some_slot(c, sequence, t) : -1;
    }
    assert_ok(kv_cache_decode(c->cache, c->layer, length, slots, c->pool, positions, &k, &v, NULL, NULL, &err));
    for (int64_t t = 0; t < length; t++) {
        memcpy(keys[t], all[0] + (t * n_heads + h) * dim, (size_t)dim * sizeof(float));
        memcpy(values[t], all[1] + (t * n_heads + h) * dim, (size_t)dim * sizeof(float));
        if (slots[t] >= 0) continue;
        const int64_t at = (((int64_t)sequence * SOME_TOKENS + t) * n_heads + h) * dim;
        memcpy(keys[t], c->keys + at, (size_t)dim * sizeof(float));
        some_turn(c, keys[t], t);
        for (int d = 0; d < dim; d++) {
            keys[t][d] = through_fp16(keys[t][d]);
            values[t][d] = through_fp16(c->values[at + d]);
        }
    }
    free(all[0]);
    free(all[1]);
}

/* A KV head's query heads, over all tokens at once. */
static void expect_head(attend_case *a, int sequence, int h)
{
    const model_facts *model = &a->c.model;
    const int dim = model->head_dim, group = model->n_q_heads / model->n_kv_heads;
    const int64_t length = a->call.length[sequence];
    const double scale = a->call.scale != 0.0 ? a->call.scale : model->attention_scale;
    static float keys[SOME_TOKENS][256], values[SOME_TOKENS][256];
    seen_tokens(a, sequence, h, keys, values);
    for (int i = 0; i < group; i++) {
        const int at = sequence * model->n_q_heads + h * group + i;
        double scores[SOME_TOKENS], largest = -INFINITY, sum = 0.0, out[256] = {0};
        const int64_t first = a->call.window > 0 && length > a->call.window ? length - a->call.window : 0;
        for (int64_t t = first; t < length; t++) {
            scores[t] = 0.0;
            for (int d = 0; d < dim; d++) scores[t] += (double)a->queries[at * dim + d] * (double)keys[t][d];
            scores[t] *= scale;
            if (a->call.softcap > 0.0) scores[t] = a->call.softcap * tanh(scores[t] / a->call.softcap);
            largest = fmax(largest, scores[t]);
        }
        for (int64_t t = first; t < length; t++) sum += exp(scores[t] - largest);
        for (int64_t t = first; t < length; t++)
            for (int d = 0; d < dim; d++) out[d] += exp(scores[t] - largest) / sum * (double)values[t][d];
        for (int d = 0; d < dim; d++) a->want[at * dim + d] = (float)out[d];
        a->want_log_sum_exp[at] = length > 0 ? largest + log(sum) : -INFINITY;
    }
}

/* f32 output of sums in double: 1e-6 of what is at most 1. */
static void assert_attends(attend_case *a)
{
    rb_error err = {0};
    const model_facts *model = &a->c.model;
    const int64_t n = a->call.n_sequences * model->n_q_heads;
    assert_ok(kv_cache_attend(a->c.cache, a->c.layer, &a->call, &a->c.pages, NULL, &err));
    for (int s = 0; s < a->call.n_sequences; s++)
        for (int h = 0; h < model->n_kv_heads; h++) expect_head(a, s, h);
    for (int64_t i = 0; i < n * model->head_dim; i++) assert_true(fabsf(a->out[i] - a->want[i]) < 1e-6f);
    for (int64_t i = 0; i < n; i++)
        assert_true((double)a->log_sum_exp[i] == a->want_log_sum_exp[i]
                    || fabs((double)a->log_sum_exp[i] - a->want_log_sum_exp[i]) < 1e-5);
}

static void attention_is_that_over_decoded_tokens(void **state)
{
    (void)state;
    static const int dims[] = {64, 80, 128, 256};
    static const int32_t lengths[] = {1, 63, 64, 65};
    for (int kind = SOME_FP16; kind < SOME_N_KINDS; kind++)
        for (int i = 0; i < 4; i++) {
            const model_facts model =
                some_model(2, 2, dims[i], dims[i] / 2, i % 2 ? ROPE_INTERLEAVED : ROPE_SPLIT_HALF);
            attend_case a = case_create(&model, some_plan_of_kind(kind, &model), (kind + i) % 2, &lengths[i], 1);
            assert_attends(&a);
            case_free(&a);
        }
}

static attend_case exact_case(int kind, int64_t n_sink, int64_t n_recent, const int32_t *length, int n)
{
    const model_facts model = some_model(1, 2, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan_of_kind(kind, &model);
    plan->n_sink = n_sink;
    plan->n_recent = n_recent;
    return case_create(&model, plan, 0, length, n);
}

static void exact_tokens_are_seen_as_they_are(void **state)
{
    (void)state;
    static const int32_t lengths[] = {1, 4, 5, 20, 200};
    for (int i = 0; i < 5; i++) {
        attend_case a = exact_case(SOME_GENERAL + i % 2, 4, i == 4 ? 100 : 16, &lengths[i], 1);
        assert_attends(&a);
        case_free(&a);
    }
}

static void sequences_have_lengths_and_pages_of_their_own(void **state)
{
    (void)state;
    static const int32_t lengths[] = {70, 0, 1, 128, 17};
    attend_case a = exact_case(SOME_TRELLIS, 1, 10, lengths, 5);
    assert_attends(&a);
    for (int i = 0; i < 8 * 64; i++) assert_true(a.out[8 * 64 + i] == 0.0f); /* of the empty sequence */
    assert_true(isinf(a.log_sum_exp[8]) && a.log_sum_exp[8] < 0);
    case_free(&a);
}

static void a_window_hides_earlier_tokens(void **state)
{
    (void)state;
    static const int32_t length = 150;
    static const int windows[] = {1, 5, 20, 100, 148, 150, 500};
    attend_case a = exact_case(SOME_GROUPS, 4, 10, &length, 1);
    for (int i = 0; i < 7; i++) {
        a.call.window = windows[i];
        assert_attends(&a);
    }
    case_free(&a);
}

static void scale_and_softcap_are_the_calls(void **state)
{
    (void)state;
    static const int32_t length = 100;
    attend_case a = exact_case(SOME_GROUPS, 0, 0, &length, 1);
    a.call.scale = 0.7;
    assert_attends(&a);
    a.call.softcap = 3.0;
    assert_attends(&a);
    case_free(&a);
}

static void attention_factor_and_local_rope_reach_the_scores(void **state)
{
    (void)state;
    static const int32_t length = 80;
    model_facts model = some_model(2, 2, 64, 64, ROPE_SPLIT_HALF);
    model.rope.kind = ROPE_YARN;
    model.rope.attention_factor = 1.3;
    model.has_local_rope = true;
    model.local_rope = model.rope;
    model.local_rope.attention_factor = 1.0;
    for (int i = 0; i < 32; i++) model.local_rope.inv_freq[i] = pow(10000.0, -i / 32.0);
    model.layer_is_local[1] = true;
    for (int layer = 0; layer < 2; layer++) {
        attend_case a = case_create(&model, some_plan(&model, CODEBOOK_SPHERE), layer, &length, 1);
        assert_attends(&a);
        case_free(&a);
    }
}

/* A runner that goes backwards; results are those of none. */
static void run_backwards(void (*task)(void *context, int64_t i), void *context, int64_t n)
{
    while (n-- > 0) task(context, n);
}

static void a_runner_changes_no_number(void **state)
{
    (void)state;
    rb_error err = {0};
    static const int32_t lengths[] = {200, 33};
    attend_case a = exact_case(SOME_GENERAL, 2, 8, lengths, 2), b = exact_case(SOME_GENERAL, 2, 8, lengths, 2);
    kv_cache_set_runner(b.c.cache, run_backwards);
    for (int32_t t = 200; t < 220; t++) {
        assert_ok(some_append(&a.c, 0, t, t + 1, &err));
        assert_ok(some_append(&b.c, 0, t, t + 1, &err));
    }
    assert_memory_equal(a.c.pool, b.c.pool, a.c.pool_bytes);
    assert_ok(kv_cache_attend(a.c.cache, 0, &a.call, &a.c.pages, NULL, &err));
    assert_ok(kv_cache_attend(b.c.cache, 0, &b.call, &b.c.pages, NULL, &err));
    assert_memory_equal(a.out, b.out, 2 * 8 * 64 * sizeof *a.out);
    case_free(&a);
    case_free(&b);
}

static void damaged_pages_and_wrong_lengths_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    static const int32_t length = 70;
    const model_facts model = some_model(1, 1, 10, 10, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_SPHERE);
    assert_ok(plan_head_set_uniform(&plan->heads[0], 3, 5, 42, CODEBOOK_SPHERE, &err)); /* 30 bits: 2 of padding */
    attend_case a = case_create(&model, plan, 0, &length, 1);
    a.c.pool[some_slot(&a.c, 0, 65) / 64 * kv_cache_layout(a.c.cache, 0)->page_bytes + 4 + 3] |= 0x80;
    assert_fails(kv_cache_attend(a.c.cache, 0, &a.call, &a.c.pages, NULL, &err), RB_EFORMAT,
                 "layer 0 kv_head 0: slot 129: packed vector of 10 codes: padding bits");
    a.call.max_length = 69;
    assert_fails(kv_cache_attend(a.c.cache, 0, &a.call, &a.c.pages, NULL, &err), RB_EINVAL,
                 "sequence 0 has length 70, expected 0 to max_length 69");
    a.call.window = -1;
    assert_fails(kv_cache_attend(a.c.cache, 0, &a.call, &a.c.pages, NULL, &err), RB_EINVAL, "window -1");
    case_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_that_over_decoded_tokens),
        cmocka_unit_test(exact_tokens_are_seen_as_they_are),
        cmocka_unit_test(sequences_have_lengths_and_pages_of_their_own),
        cmocka_unit_test(a_window_hides_earlier_tokens),
        cmocka_unit_test(scale_and_softcap_are_the_calls),
        cmocka_unit_test(attention_factor_and_local_rope_reach_the_scores),
        cmocka_unit_test(a_runner_changes_no_number),
        cmocka_unit_test(damaged_pages_and_wrong_lengths_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
