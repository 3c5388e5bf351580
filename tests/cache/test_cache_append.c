/* New tokens: which rows of the exact area they take, and what is coded when they leave it. */
#include "tests/test_support.h"

#include "cache/kv_layout.h"
#include "tests/cache/some_cache.h"

enum { DIM = 64, HEADS = 2 };

static some_cache exact_cache(int64_t n_sink, int64_t n_recent, int n_sequences)
{
    const model_facts model = some_model(1, HEADS, DIM, DIM, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    plan->n_sink = n_sink;
    plan->n_recent = n_recent;
    return some_cache_create(&model, plan, 0, n_sequences);
}

/* Key of a token as the exact area has it. */
static void exact_key(const some_cache *c, float *x, int sequence, int64_t t, int h)
{
    memcpy(x, c->keys + (((int64_t)sequence * SOME_TOKENS + t) * HEADS + h) * DIM, DIM * sizeof *x);
    some_turn(c, x, t);
    for (int d = 0; d < DIM; d++) x[d] = through_fp16(x[d]);
}

static void assert_row_holds(const some_cache *c, int sequence, int64_t row, int64_t t)
{
    const uint16_t *at =
        (const uint16_t *)(c->exact + sequence * c->pages.exact_stride_bytes) + row * HEADS * (DIM + DIM);
    for (int h = 0; h < HEADS; h++) {
        float x[DIM];
        exact_key(c, x, sequence, t, h);
        for (int d = 0; d < DIM; d++) {
            assert_true(rb_f16_to_f32(at[h * DIM + d]) == x[d]);
            const float v = c->values[(((int64_t)sequence * SOME_TOKENS + t) * HEADS + h) * DIM + d];
            assert_true(rb_f16_to_f32(at[(HEADS + h) * DIM + d]) == through_fp16(v));
        }
    }
}

static void assert_area_holds(const some_cache *c, int sequence, int64_t length)
{
    const int64_t n_sink = c->plan->n_sink, n_recent = c->plan->n_recent;
    for (int64_t t = 0; t < length; t++)
        if (t < n_sink) assert_row_holds(c, sequence, t, t);
        else if (t >= length - n_recent) assert_row_holds(c, sequence, n_sink + (t - n_sink) % n_recent, t);
}

/* Codes token t as append should have: from the exact area where it was there after its call, else as it was given. */
static void encode_expected(some_cache *want, int sequence, int64_t t, bool was_exact)
{
    rb_error err = {0};
    float keys[HEADS * DIM], values[HEADS * DIM];
    const int64_t slot = some_slot(want, sequence, t);
    const int32_t position = (int32_t)t;
    const ropebits_kv_vectors k = {keys, ROPEBITS_KV_F32, 0, DIM}, v = {values, ROPEBITS_KV_F32, 0, DIM};
    const int64_t at = ((int64_t)sequence * SOME_TOKENS + t) * HEADS * DIM;
    memcpy(keys, want->keys + at, sizeof keys);
    memcpy(values, want->values + at, sizeof values);
    for (int i = 0; was_exact && i < HEADS * DIM; i++) values[i] = through_fp16(values[i]);
    for (int h = 0; was_exact && h < HEADS; h++) exact_key(want, keys + h * DIM, sequence, t, h);
    assert_ok(
        kv_cache_encode(want->cache, 0, 1, &k, &v, was_exact ? &position : NULL, &slot, want->pool, NULL, NULL, &err));
}

/* Sequence 0 in calls that end at these lengths. */
static void assert_appends(int64_t n_sink, int64_t n_recent, const int64_t *ends, int n_calls)
{
    rb_error err = {0};
    some_cache c = exact_cache(n_sink, n_recent, 1), want = exact_cache(n_sink, n_recent, 1);
    const int64_t length = ends[n_calls - 1];
    int64_t begin = 0;
    for (int i = 0; i < n_calls; begin = ends[i++]) {
        assert_ok(some_append(&c, 0, begin, ends[i], &err));
        assert_area_holds(&c, 0, ends[i]);
        for (int64_t t = begin; t < ends[i]; t++)
            if (t >= n_sink && t < length - n_recent) encode_expected(&want, 0, t, t >= ends[i] - n_recent);
    }
    assert_memory_equal(c.pool, want.pool, c.pool_bytes);
    some_cache_free(&c);
    some_cache_free(&want);
}

static void append_codes_what_is_not_exact(void **state)
{
    (void)state;
    static const int64_t one[] = {1}, some[] = {63, 64, 65, 200};
    assert_appends(0, 0, one, 1);
    assert_appends(0, 0, some, 4);
    assert_appends(5, 0, some, 4);
}

static void append_codes_what_leaves_the_ring(void **state)
{
    (void)state;
    static const int64_t some[] = {3, 4, 70, 71, 75, 140, 250}, all_at_once[] = {200};
    int64_t singly[100];
    for (int i = 0; i < 100; i++) singly[i] = i + 1;
    assert_appends(0, 16, some, 7);
    assert_appends(2, 16, some, 7);
    assert_appends(4, 16, singly, 100);
    assert_appends(4, 16, all_at_once, 1);
    assert_appends(0, 1, singly, 100);
    assert_appends(4, 128, some, 7);
}

static void tokens_of_sequences_may_be_mixed(void **state)
{
    (void)state;
    rb_error err = {0};
    enum { N = 90, SEQUENCES = 3 };
    some_cache c = exact_cache(2, 8, SEQUENCES), want = exact_cache(2, 8, SEQUENCES);
    static float keys[SEQUENCES * N * HEADS * DIM], values[SEQUENCES * N * HEADS * DIM];
    int32_t sequence[SEQUENCES * N], token[SEQUENCES * N];
    for (int i = 0; i < SEQUENCES * N; i++) {
        sequence[i] = (i + 1) % SEQUENCES;
        token[i] = i / SEQUENCES;
        const int64_t at = ((int64_t)sequence[i] * SOME_TOKENS + token[i]) * HEADS * DIM;
        memcpy(keys + i * HEADS * DIM, c.keys + at, HEADS * DIM * sizeof *keys);
        memcpy(values + i * HEADS * DIM, c.values + at, HEADS * DIM * sizeof *keys);
    }
    const ropebits_kv_tokens tokens = {.n = SEQUENCES * N,
                                       .sequence = sequence,
                                       .token = token,
                                       .keys = {keys, ROPEBITS_KV_F32, HEADS * DIM, DIM},
                                       .values = {values, ROPEBITS_KV_F32, HEADS * DIM, DIM}};
    assert_ok(kv_cache_append(c.cache, 0, &tokens, &c.pages, NULL, NULL, &err));
    for (int s = 0; s < SEQUENCES; s++) {
        assert_ok(some_append(&want, s, 0, N, &err));
        assert_area_holds(&c, s, N);
    }
    assert_memory_equal(c.pool, want.pool, c.pool_bytes);
    assert_memory_equal(c.exact, want.exact, (size_t)(SEQUENCES * c.pages.exact_stride_bytes));
    some_cache_free(&c);
    some_cache_free(&want);
}

/* Keys that were turned already give what keys that append turns do. */
static void turned_keys_take_the_same_rows(void **state)
{
    (void)state;
    rb_error err = {0};
    enum { N = 20 };
    some_cache c = exact_cache(2, 30, 1), want = exact_cache(2, 30, 1);
    int32_t token[N];
    assert_ok(some_append(&want, 0, 0, N, &err));
    for (int t = 0; t < N; t++) {
        token[t] = t;
        for (int h = 0; h < HEADS; h++) some_turn(&c, c.keys + (t * HEADS + h) * DIM, t);
    }
    const ropebits_kv_tokens tokens = {.n = N,
                                       .token = token,
                                       .keys = some_vectors(&c, c.keys, 0, 0),
                                       .values = some_vectors(&c, c.values, 0, 0),
                                       .keys_are_turned = 1};
    assert_ok(kv_cache_append(c.cache, 0, &tokens, &c.pages, NULL, NULL, &err));
    assert_memory_equal(c.exact, want.exact, (size_t)c.pages.exact_stride_bytes);
    some_cache_free(&c);
    some_cache_free(&want);
}

static void a_cache_without_a_plan_turns_keys_that_enter_rope(void **state)
{
    (void)state;
    rb_error err = {0};
    const model_facts model = some_model(1, HEADS, DIM, DIM, ROPE_INTERLEAVED);
    some_cache c = some_cache_create(&model, NULL, 0, 1);
    assert_ok(some_append(&c, 0, 0, 10, &err));
    for (int t = 0; t < 10; t++) {
        float x[DIM];
        const uint8_t *at = c.pool + c.block_table[0] * kv_cache_layout(c.cache, 0)->page_bytes
                            + kv_cache_layout(c.cache, 0)->heads[1].keys.codes_at + t * 2 * DIM;
        exact_key(&c, x, 0, t, 1);
        for (int d = 0; d < DIM; d++) assert_true(rb_f16_to_f32((uint16_t)(at[2 * d] | at[2 * d + 1] << 8)) == x[d]);
    }
    some_cache_free(&c);
}

static void gaps_and_missing_areas_are_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    some_cache c = exact_cache(2, 8, 1);
    const int32_t gap[] = {3, 5}, below[] = {-1, 0};
    ropebits_kv_tokens tokens = {
        .n = 2, .token = gap, .keys = some_vectors(&c, c.keys, 0, 0), .values = some_vectors(&c, c.values, 0, 0)};
    assert_fails(kv_cache_append(c.cache, 0, &tokens, &c.pages, NULL, NULL, &err), RB_EINVAL,
                 "sequence 0: token 5 comes after token 3, expected 4");
    tokens.token = below;
    assert_fails(kv_cache_append(c.cache, 0, &tokens, &c.pages, NULL, NULL, &err), RB_EINVAL,
                 "vector 0 is token -1 of sequence 0, expected numbers from 0 on");
    ropebits_kv_pages pages = c.pages;
    pages.exact_stride_bytes--;
    assert_fails(kv_cache_append(c.cache, 0, &tokens, &pages, NULL, NULL, &err), RB_EINVAL,
                 "exact_stride_bytes is 5119, expected 5120 at least");
    pages.exact = NULL;
    assert_fails(kv_cache_append(c.cache, 0, &tokens, &pages, NULL, NULL, &err), RB_EINVAL,
                 "exact is NULL, expected areas of 5120 bytes: the plan keeps exact tokens");
    some_cache_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(append_codes_what_is_not_exact),
        cmocka_unit_test(append_codes_what_leaves_the_ring),
        cmocka_unit_test(tokens_of_sequences_may_be_mixed),
        cmocka_unit_test(turned_keys_take_the_same_rows),
        cmocka_unit_test(a_cache_without_a_plan_turns_keys_that_enter_rope),
        cmocka_unit_test(gaps_and_missing_areas_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
