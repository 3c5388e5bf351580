/* The C interface for runtimes: what it opens, what it refuses and how, and that it is the cache inside. */
#include "tests/test_support.h"

#include "cache/library/ropebits_kv.h"
#include "plan/plan_rbp.h"
#include "tests/cache/some_cache.h"

static const char *written(const bit_plan *plan, const char *name)
{
    rb_error err = {0};
    const char *path = scratch_path(name);
    assert_ok(plan_rbp_write(plan, path, &err));
    return path;
}

static ropebits_kv *opened(const bit_plan *plan)
{
    char error[256] = "";
    ropebits_kv *kv = NULL;
    if (ropebits_kv_open(&kv, written(plan, "plan.rbp"), "cpu", error, sizeof error) != ROPEBITS_KV_OK)
        fail_msg("%s", error);
    return kv;
}

static bit_plan *exact_plan(const model_facts *model, int kind)
{
    bit_plan *plan = some_plan_of_kind(kind, model);
    plan->n_sink = 2;
    plan->n_recent = 8;
    return plan;
}

static void sizes_are_those_of_the_plan(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = exact_plan(&model, SOME_BLOCK_CODEBOOK);
    ropebits_kv *kv = opened(plan);
    const ropebits_plan_info *info = ropebits_plan_get_info(ropebits_kv_plan(kv));
    size_t bytes = 0;
    for (uint32_t layer = 0; layer < 2; layer++) {
        size_t of_heads = 0;
        for (uint32_t h = 0; h < 2; h++) of_heads += ropebits_kv_token_bytes(kv, layer, h);
        assert_int_equal(ropebits_kv_page_bytes(kv, layer), ROPEBITS_KV_PAGE_TOKENS * of_heads);
        bytes += of_heads;
    }
    assert_true((double)bytes == info->bytes_per_token);
    assert_int_equal(ropebits_kv_exact_bytes(kv), 10 * 2 * (64 + 64) * 2);
    assert_int_equal(ropebits_kv_token_bytes(kv, 2, 0), 0);
    assert_int_equal(ropebits_kv_token_bytes(kv, 0, 2), 0);
    assert_int_equal(ropebits_kv_page_bytes(kv, UINT32_MAX), 0);
    assert_int_equal(ropebits_kv_workspace_bytes(kv, 0, 1, 100), 0); /* the CPU needs none */
    assert_int_equal(ropebits_kv_coding_bytes(kv, 0, 100), 0);
    ropebits_kv_close(kv);
    bit_plan_free(plan);
}

/* Appended, attended and decoded by the library as by the cache inside. */
static void it_does_what_the_cache_does(void **state)
{
    (void)state;
    for (int kind = SOME_GROUPS; kind < SOME_N_KINDS; kind++) {
        rb_error err = {0};
        char error[256];
        enum { N = 100, DIM = 64 };
        const model_facts model = some_model(2, 2, DIM, DIM, ROPE_INTERLEAVED);
        some_cache c = some_cache_create(&model, exact_plan(&model, kind), 1, 1);
        ropebits_kv *kv = opened(c.plan);
        uint8_t *pool = NULL, *exact = NULL;
        float *queries = some_numbers(8 * DIM, 3), out[2][8 * DIM], decoded[2][N * 2 * DIM];
        int32_t token[N];
        int64_t slots[N];
        const int32_t length = N;
        for (int t = 0; t < N; t++) {
            token[t] = t;
            slots[t] = t < 2 || t >= N - 8 ? -1 : some_slot(&c, 0, t);
        }
        assert_ok(rb_alloc(&pool, c.pool_bytes, 1, "pool", &err));
        assert_ok(rb_alloc(&exact, ropebits_kv_exact_bytes(kv), 1, "exact area", &err));
        memset(pool, SOME_GUARD, c.pool_bytes);
        ropebits_kv_pages pages = c.pages;
        pages.pages = pool;
        pages.exact = exact;
        const ropebits_kv_tokens tokens = {
            .n = N, .token = token, .keys = some_vectors(&c, c.keys, 0, 0), .values = some_vectors(&c, c.values, 0, 0)};
        ropebits_kv_queries call = {.n_sequences = 1,
                                    .length = &length,
                                    .max_length = N,
                                    .queries = {queries, ROPEBITS_KV_F32, 8 * DIM, DIM},
                                    .out = {out[0], ROPEBITS_KV_F32, 8 * DIM, DIM}};
        const ropebits_kv_vectors restored[] = {{decoded[0], ROPEBITS_KV_F32, 2 * DIM, DIM},
                                                {decoded[1], ROPEBITS_KV_F32, 2 * DIM, DIM}};
        assert_ok(some_append(&c, 0, 0, N, &err));
        assert_int_equal(ropebits_kv_append(kv, 1, &tokens, &pages, NULL, NULL, error, sizeof error), 0);
        assert_memory_equal(pool, c.pool, c.pool_bytes);
        assert_int_equal(ropebits_kv_attend(kv, 1, &call, &pages, NULL, error, sizeof error), 0);
        call.out.data = out[1];
        assert_ok(kv_cache_attend(c.cache, 1, &call, &c.pages, NULL, &err));
        assert_memory_equal(out[0], out[1], sizeof out[0]);
        memset(decoded, 0, sizeof decoded);
        assert_int_equal(ropebits_kv_decode(kv, 1, N, slots, pool, token, &restored[0], NULL, NULL, NULL, NULL, 0), 0);
        assert_ok(kv_cache_decode(c.cache, 1, N, slots, c.pool, token, &restored[1], NULL, NULL, NULL, &err));
        assert_memory_equal(decoded[0], decoded[1], sizeof decoded[0]);
        memset(pool, SOME_GUARD, c.pool_bytes);
        assert_int_equal(ropebits_kv_encode(kv, 1, N, &tokens.keys, &tokens.values, NULL, slots, pool, NULL, NULL,
                                            error, sizeof error),
                         0);
        assert_memory_equal(pool, c.pool, c.pool_bytes);
        free(pool);
        free(exact);
        free(queries);
        ropebits_kv_close(kv);
        some_cache_free(&c);
    }
}

static void assert_open_fails(const char *path, const char *device, int status, const char *text)
{
    char error[256] = "";
    ropebits_kv *kv = (ropebits_kv *)error;
    assert_int_equal(ropebits_kv_open(&kv, path, device, error, sizeof error), status);
    assert_null(kv);
    if (!strstr(error, text)) fail_msg("message \"%s\" does not contain \"%s\"", error, text);
}

static void what_cannot_be_opened_is_told_in_one_sentence(void **state)
{
    (void)state;
    model_facts model = some_model(1, 1, 64, 64, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_SPHERE);
    const char *path = written(plan, "good.rbp");
    assert_open_fails("no/such.rbp", "cpu", ROPEBITS_KV_EIO, "no/such.rbp: No such file or directory");
    assert_open_fails("README.md", "cpu", ROPEBITS_KV_EINVAL, "README.md: not a plan.rbp: wrong magic");
    assert_open_fails(NULL, "cpu", ROPEBITS_KV_EINVAL, "plan_path is NULL");
    static const char *const devices[] = {"gpu", "cuda:", "cuda:x", "cuda1", "cuda:1x", "cuda:-1", "cuda:4294967296"};
    for (size_t i = 0; i < RB_COUNT(devices); i++)
        assert_open_fails(path, devices[i], ROPEBITS_KV_EINVAL, "expected cpu, cuda or cuda:N");
    assert_open_fails(path, NULL, ROPEBITS_KV_EINVAL, "device is NULL, expected cpu, cuda or cuda:N");
    setenv("ROPEBITS_CUDA_LIBRARY", "no/such.so", 1);
    assert_open_fails(path, "cuda:0", ROPEBITS_KV_EDEVICE, "no CUDA side: no/such.so is not there");
    bit_plan_free(plan);
    model = some_new_model();
    plan = some_plan(&model, CODEBOOK_SPHERE);
    assert_open_fails(written(plan, "latent.rbp"), "cpu", ROPEBITS_KV_EUNSUPPORTED,
                      "latent.rbp: values have 32 dims and keys 16: a packed cache holds no latent vectors");
    bit_plan_free(plan);
    ropebits_kv_close(NULL);
}

static void errors_have_their_status_and_fit_their_room(void **state)
{
    (void)state;
    char error[200], cut[6] = "xxxxx";
    const model_facts model = some_model(1, 1, 64, 64, ROPE_SPLIT_HALF);
    some_cache c = some_cache_create(&model, exact_plan(&model, SOME_GENERAL), 0, 1);
    ropebits_kv *kv = opened(c.plan);
    const ropebits_kv_vectors keys = some_vectors(&c, c.keys, 0, 0), values = some_vectors(&c, c.values, 0, 0);
    const int64_t slot = 0;
    const ropebits_kv_tokens tokens = {0};
    assert_int_equal(ropebits_kv_encode(kv, 1, 1, &keys, &values, NULL, &slot, c.pool, NULL, NULL, error, sizeof error),
                     ROPEBITS_KV_EINVAL);
    assert_string_equal(error, "layer is 1, expected 0 to 0");
    assert_int_equal(ropebits_kv_encode(kv, 1, 1, &keys, &values, NULL, &slot, c.pool, NULL, NULL, cut, sizeof cut),
                     ROPEBITS_KV_EINVAL);
    assert_string_equal(cut, "layer");
    assert_int_equal(ropebits_kv_encode(kv, UINT32_MAX, 1, &keys, &values, NULL, &slot, c.pool, NULL, NULL, NULL, 0),
                     ROPEBITS_KV_EINVAL);
    c.keys[0] = NAN;
    assert_int_equal(ropebits_kv_encode(kv, 0, 1, &keys, &values, NULL, &slot, c.pool, NULL, NULL, error, sizeof error),
                     ROPEBITS_KV_ENONFINITE);
    assert_int_equal(ropebits_kv_append(kv, 0, NULL, &c.pages, NULL, NULL, error, sizeof error), ROPEBITS_KV_EINVAL);
    assert_string_equal(error, "tokens is NULL");
    assert_int_equal(ropebits_kv_append(kv, 0, &tokens, NULL, NULL, NULL, error, sizeof error), ROPEBITS_KV_EINVAL);
    assert_string_equal(error, "cache is NULL");
    assert_int_equal(ropebits_kv_attend(kv, 0, NULL, &c.pages, NULL, error, sizeof error), ROPEBITS_KV_EINVAL);
    assert_string_equal(error, "queries is NULL");
    assert_int_equal(ropebits_kv_append(kv, 0, &tokens, &c.pages, NULL, NULL, error, sizeof error), ROPEBITS_KV_OK);
    assert_string_equal(error, "");
    ropebits_kv_close(kv);
    some_cache_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_the_plan),
        cmocka_unit_test(it_does_what_the_cache_does),
        cmocka_unit_test(what_cannot_be_opened_is_told_in_one_sentence),
        cmocka_unit_test(errors_have_their_status_and_fit_their_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
