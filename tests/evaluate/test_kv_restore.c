/* Which keys and values of a part are restored, and by which codec: every run's copy by its own plan, layer by layer;
 * all else stays as it is. */
#include "tests/test_support.h"

#include "evaluate/kv_restore.h"
#include "kernels/reference/head_codec.h"
#include "tests/model/float_test.h"

enum { N_TOKENS = 5, N_RUNS = 3, ALL = N_TOKENS * N_RUNS, HEADS = 2, DIM = 64, FLOATS = HEADS * ALL * DIM };

static const int32_t text[N_TOKENS] = {1, 2, 3, 4, 5};

typedef struct fixture {
    checkpoint *model;
    bit_plan *plans[2];
    codec_tables *tables;
    evaluate_request request;
    evaluate_batch batch;
    kv_restore *restore;
} fixture;

/* Layer l, head h of plan p: uniform of 1 + (p + l + h) % 4 bits, so that neighbours differ; values of p 0 of 2 bits,
 * of p 1 by layer and head. */
static int key_width(int p, int layer, int head) { return 1 + (p + layer + head) % 4; }
static int value_width(int p, int layer, int head) { return p == 0 ? 2 : 1 + (layer + 2 * head) % 4; }

static void open_fixture(fixture *f, int64_t n_sink, bool with_keys, bool with_values)
{
    rb_error err = {0};
    *f = (fixture){0};
    assert_int_equal(checkpoint_open(&f->model, "configs/demo-llama", &err), RB_OK);
    const model_facts *facts = &checkpoint_config(f->model)->facts;
    assert_int_equal(codec_tables_create(&f->tables, &err), RB_OK);
    for (int p = 0; p < 2; p++) {
        assert_int_equal(bit_plan_create(&f->plans[p], facts, &err), RB_OK);
        f->plans[p]->n_sink = n_sink + p;
        for (int h = 0; h < facts->n_layers * HEADS; h++)
            f->plans[p]->value_widths[h] = (uint8_t)value_width(p, h / HEADS, h % HEADS);
        for (int layer = 0; layer < facts->n_layers; layer++)
            for (int h = 0; h < HEADS; h++)
                assert_int_equal(plan_head_set_uniform(bit_plan_head(f->plans[p], layer, h), key_width(p, layer, h),
                                                       DIM / 2, 42, CODEBOOK_BLOCK_GTQ, &err),
                                 RB_OK);
    }
    f->request = (evaluate_request){.model = f->model,
                                    .plans = (const bit_plan *const *)f->plans,
                                    .n_plans = 2,
                                    .text = text,
                                    .n_text = N_TOKENS,
                                    .context = N_TOKENS,
                                    .with_keys = with_keys,
                                    .with_values = with_values};
    assert_int_equal(evaluate_batch_make(&f->batch, &f->request, &err), RB_OK);
    assert_int_equal(kv_restore_create(&f->restore, &f->request, &f->batch, &err), RB_OK);
}

static void close_fixture(fixture *f)
{
    kv_restore_free(f->restore);
    evaluate_batch_free(&f->batch);
    codec_tables_free(f->tables);
    for (int p = 0; p < 2; p++) bit_plan_free(f->plans[p]);
    checkpoint_close(f->model);
}

/* Plan 1 keeps one token more exact than plan 0. */
static int64_t sinks_of(const fixture *f, int run) { return f->plans[run - 1]->n_sink; }

/* One head's rows of one run, as its codec leaves them. */
static void expect_rows(const fixture *f, float *rows, int run, int layer, int h, bool is_value)
{
    rb_error err = {0};
    plan_head head = {0};
    head_codec *codec = NULL;
    const model_facts *facts = &checkpoint_config(f->model)->facts;
    if (run == 0 || !(is_value ? f->request.with_values : f->request.with_keys) || sinks_of(f, run) >= N_TOKENS) return;
    if (is_value) assert_int_equal(bit_plan_value_head(f->plans[run - 1], layer, h, &head, &err), RB_OK);
    assert_int_equal(head_codec_create(&codec, is_value ? &head : bit_plan_head(f->plans[run - 1], layer, h), facts,
                                       f->tables, &err),
                     RB_OK);
    rows += sinks_of(f, run) * DIM;
    assert_int_equal(head_codec_round_trip(codec, rows, N_TOKENS - sinks_of(f, run), rows, &err), RB_OK);
    head_codec_free(codec);
    plan_head_clear(&head);
}

static void check(int64_t n_sink, bool with_keys, bool with_values)
{
    rb_error err = {0};
    fixture f;
    open_fixture(&f, n_sink, with_keys, with_values);
    for (int layer = 0; layer < 2; layer++) {
        float *k = random_floats(FLOATS, 2 * layer + 1), *v = random_floats(FLOATS, 2 * layer + 2);
        float *expected_k = random_floats(FLOATS, 2 * layer + 1), *expected_v = random_floats(FLOATS, 2 * layer + 2);
        for (int h = 0; h < HEADS; h++)
            for (int run = 0; run < N_RUNS; run++) {
                expect_rows(&f, expected_k + (h * ALL + run * N_TOKENS) * DIM, run, layer, h, false);
                expect_rows(&f, expected_v + (h * ALL + run * N_TOKENS) * DIM, run, layer, h, true);
            }
        layer_heads heads = {.layer = layer, .n_tokens = ALL, .k = k, .v = v, .exact_k = k};
        assert_int_equal(kv_restore_part(f.restore, &heads, &err), RB_OK);
        assert_memory_equal(k, expected_k, FLOATS * sizeof *k);
        assert_memory_equal(v, expected_v, FLOATS * sizeof *v);
        free(k), free(v), free(expected_k), free(expected_v);
    }
    close_fixture(&f);
}

static void every_copy_is_restored_by_its_own_plan(void **state)
{
    (void)state;
    check(0, true, true);
}

static void sinks_stay_as_they_are(void **state)
{
    (void)state;
    check(2, true, true);
    check(N_TOKENS, true, true);
}

static void keys_or_values_can_be_left_out(void **state)
{
    (void)state;
    check(0, true, false);
    check(0, false, true);
}

static void a_key_that_no_codec_holds_is_named(void **state)
{
    (void)state;
    rb_error err = {0};
    fixture f;
    open_fixture(&f, 0, true, true);
    float *k = random_floats(FLOATS, 1), *v = random_floats(FLOATS, 2);
    k[(ALL + N_TOKENS + 3) * DIM] = INFINITY; /* head 1, run 1, token 3 */
    layer_heads heads = {.layer = 3, .n_tokens = ALL, .k = k, .v = v, .exact_k = k};
    assert_int_equal(kv_restore_part(f.restore, &heads, &err), RB_ENONFINITE);
    assert_non_null(strstr(err.msg, "layer 3 kv_head 1, keys: vector 3: "));
    free(k), free(v);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_copy_is_restored_by_its_own_plan),
        cmocka_unit_test(sinks_stay_as_they_are),
        cmocka_unit_test(keys_or_values_can_be_left_out),
        cmocka_unit_test(a_key_that_no_codec_holds_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
