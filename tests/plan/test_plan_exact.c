/* Tokens that stay fp16, `sink` and `recent` of a plan: plan.json, plan.rbp, the library, and what such plans cost. */
#include "tests/test_support.h"

#include <zstd.h>

#include "core/json.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_family.h"
#include "plan/plan_json.h"
#include "plan/plan_rbp.h"
#include "tests/plan/plan_json_damage.h"
#include "tests/plan/some_plan.h"

static rb_error err;

/* Every family, and a model that is new to version 4. */
static bit_plan *plan_of_kind(int kind)
{
    const model_facts old = some_model(2, 2, 16, 16, ROPE_SPLIT_HALF), latest = some_new_model();
    return kind == 0   ? some_plan(&old, CODEBOOK_BLOCK_GTQ)
           : kind == 1 ? some_general_plan(&old)
           : kind == 2 ? some_plan_of_block_codebook(&old)
                       : some_plan(&latest, CODEBOOK_BLOCK_GTQ);
}
enum { N_KINDS = 4 };

static void exact_tokens_come_back(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++)
        for (int which = 1; which < 4; which++) {
            const char *json = scratch_path("plan.json"), *rbp = scratch_path("plan.rbp");
            bit_plan *plan = plan_of_kind(kind), *back = NULL;
            plan->n_sink = which & 1 ? 4 : 0;
            plan->n_recent = which & 2 ? PLAN_MAX_EXACT : 0;
            assert_ok(plan_json_write(plan, json, &err));
            assert_ok(plan_json_read(&back, json, &err));
            assert_true(back->n_sink == plan->n_sink && back->n_recent == plan->n_recent);
            bit_plan_free(back);
            assert_ok(plan_rbp_write(plan, rbp, &err));
            assert_ok(plan_rbp_read(&back, rbp, &err));
            assert_true(back->n_sink == plan->n_sink && back->n_recent == plan->n_recent);
            for (int h = 0; h < bit_plan_n_heads(plan); h++)
                assert_true(plan_head_equal(&plan->heads[h], &back->heads[h], &plan->model));
            bit_plan_free(back);
            bit_plan_free(plan);
        }
}

/* So that older readers take them, and nothing changes for whoever keeps a hash. */
static void a_plan_without_them_says_nothing(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        bit_plan *plan = plan_of_kind(kind);
        uint8_t *bytes = NULL;
        size_t size = 0;
        cJSON *json = NULL;
        assert_ok(plan_to_json(&json, plan, &err));
        assert_true(number_at(json, "version") == kind + 1);
        assert_null(find(json, "sink"));
        assert_null(find(json, "recent"));
        assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
        assert_int_equal(bytes[8], kind + 1);
        cJSON_Delete(json);
        free(bytes);
        bit_plan_free(plan);
    }
}

static void damage_is_named(void **state)
{
    (void)state;
    static const refusal refusals[] = {
        {"sink", "-1", RB_EINVAL, "p.json: sink: is -1, expected 0 to 16777216"},
        {"sink", "0.5", RB_EINVAL, "p.json: sink: is 0.5"},
        {"sink", "1099511627776", RB_EINVAL, "p.json: sink: is 1099511627776, expected 0 to 16777216"},
        {"sink", "1e300", RB_EINVAL, "p.json: sink: is 1.0000000000000001e+300"},
        {"sink", "\"4\"", RB_EFORMAT, "sink"},
        {"recent", "-3", RB_EINVAL, "p.json: recent: is -3, expected 0 to 16777216"},
        {"recent", "16777217", RB_EINVAL, "p.json: recent: is 16777217, expected 0 to 16777216"},
        {"recent", "[1]", RB_EFORMAT, "recent"},
        {"version", "4", RB_EFORMAT, "p.json: sink is 2 and recent 8, expected 0 in version 4"},
        {"version", "1", RB_EFORMAT, "p.json: sink is 2 and recent 8, expected 0 in version 1"},
    };
    bit_plan *plan = plan_of_kind(0);
    cJSON *good = NULL;
    plan->n_sink = 2;
    plan->n_recent = 8;
    assert_ok(plan_to_json(&good, plan, &err));
    for (size_t i = 0; i < RB_COUNT(refusals); i++) assert_refused(good, &refusals[i]);
    cJSON_Delete(good);
    bit_plan_free(plan);
}

static void a_plan_that_holds_bad_counts_is_not_written(void **state)
{
    (void)state;
    bit_plan *plan = plan_of_kind(0);
    plan->n_recent = PLAN_MAX_EXACT + 1;
    assert_fails(plan_rbp_write(plan, scratch_path("bad.rbp"), &err), RB_EFORMAT,
                 "plan: recent is 16777217, expected 0 to 16777216 tokens");
    plan->n_recent = 0;
    plan->n_sink = -1;
    assert_fails(bit_plan_check(plan, "p", &err), RB_EFORMAT, "p: sink is -1, expected 0 to 16777216 tokens");
    bit_plan_free(plan);
}

/* ---- the library ----------------------------------------------------------------------------- */

static const char *library_error(const uint8_t *payload, size_t payload_size, char error[256])
{
    static uint8_t file[1 << 16];
    ropebits_plan *plan = NULL;
    memset(file, 0, PLAN_RBP_HEADER_SIZE);
    memcpy(file, PLAN_RBP_MAGIC, PLAN_RBP_MAGIC_SIZE);
    const size_t frame = ZSTD_compress(file + PLAN_RBP_HEADER_SIZE, sizeof file - 64, payload, payload_size, 1);
    assert_false(ZSTD_isError(frame));
    file[8] = PLAN_RBP_EXACT_VERSION;
    for (int i = 0; i < 4; i++) {
        file[16 + i] = (uint8_t)(payload_size >> (8 * i));
        file[20 + i] = (uint8_t)(frame >> (8 * i));
    }
    const size_t size = PLAN_RBP_HEADER_SIZE + frame;
    const uint32_t crc = plan_rbp_crc32(file, size);
    for (int i = 0; i < PLAN_RBP_CRC_SIZE; i++) file[size + (size_t)i] = (uint8_t)(crc >> (8 * i));
    if (ropebits_plan_parse(&plan, file, size + PLAN_RBP_CRC_SIZE, error, 256) == 0) {
        ropebits_plan_close(plan);
        return "";
    }
    return error;
}

/* The eight bytes of docs/plan-rbp.md, counted from the two names, the budget and the model type that come first. */
static void the_two_counts_have_their_place_and_lies_are_refused(void **state)
{
    (void)state;
    bit_plan *plan = plan_of_kind(2);
    uint8_t *bytes = NULL, payload[1 << 15];
    size_t size = 0, at = 0;
    char error[256];
    plan->n_sink = 4;
    plan->n_recent = 0x010203;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(bytes[8], 5);
    const size_t n = ZSTD_decompress(payload, sizeof payload, bytes + PLAN_RBP_HEADER_SIZE,
                                     size - PLAN_RBP_HEADER_SIZE - PLAN_RBP_CRC_SIZE);
    assert_false(ZSTD_isError(n));
    at += 1 + (size_t)payload[at];          /* tool version */
    at += 1 + (size_t)payload[at];          /* method */
    at += 8;                                /* avg_bits */
    at += 1 + (size_t)payload[at];          /* model type */
    at += 33 + 1 + 33 + 16 + 5 * 4 + 8 + 2; /* hashes, calibration, geometry, scale, kinds */
    at += 5 * 8 + 8 * 8 + 4 + 8 + 1;        /* RoPE, 8 frequencies, what version 4 adds */
    assert_memory_equal(payload + at, ((uint8_t[]){4, 0, 0, 0, 3, 2, 1, 0}), 8);
    assert_string_equal(library_error(payload, n, error), "");
    payload[at + 3] = 1;
    assert_non_null(strstr(library_error(payload, n, error), "sink is 16777220, expected 0 to 16777216"));
    payload[at + 3] = 0;
    payload[at + 7] = 0x80;
    assert_non_null(strstr(library_error(payload, n, error), "recent is 2147549699, expected 0 to 16777216"));
    for (size_t cut = 0; cut < n; cut++) assert_string_not_equal(library_error(payload, cut, error), "");
    free(bytes);
    bit_plan_free(plan);
}

/* ---- what they cost -------------------------------------------------------------------------- */

/* bytes(T) = quantized * (T - exact) + fp16 * exact, exact = min(T, sink + recent); the library says the same. */
static void a_sequence_costs_its_exact_tokens_in_fp16(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        bit_plan *plan = plan_of_kind(kind);
        const double packed = bit_plan_cost(plan).bytes_per_token, fp16 = bit_plan_cost(plan).fp16_bytes_per_token;
        ropebits_plan *library = NULL;
        uint8_t *bytes = NULL;
        size_t size = 0;
        char error[256];
        plan->n_sink = 4;
        plan->n_recent = 6;
        const plan_cost cost = bit_plan_cost(plan);
        assert_true(cost.bytes_per_token == packed && cost.n_exact == 10);
        assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
        assert_int_equal(ropebits_plan_parse(&library, bytes, size, error, sizeof error), 0);
        for (int64_t t = 0; t < 40; t += 5) {
            const double expected = t <= 10 ? fp16 * (double)t : fp16 * 10 + packed * (double)(t - 10);
            assert_true(plan_cost_bytes(&cost, t) == expected);
            assert_true(ropebits_plan_bytes(library, (uint64_t)t) == expected);
        }
        assert_int_equal(ropebits_plan_get_info(library)->n_sink, 4);
        assert_int_equal(ropebits_plan_get_info(library)->n_recent, 6);
        ropebits_plan_close(library);
        free(bytes);
        bit_plan_free(plan);
    }
}

static void they_are_told_in_words(void **state)
{
    (void)state;
    static const struct {
        int64_t n_sink, n_recent;
        const char *words;
    } cases[] = {{0, 0, "no token"},
                 {1, 0, "the first token"},
                 {4, 0, "the first 4 tokens"},
                 {0, 1, "the last token"},
                 {0, 128, "the last 128 tokens"},
                 {4, 128, "the first 4 and the last 128 tokens"},
                 {1, 1, "the first and the last token"}};
    bit_plan *plan = plan_of_kind(0);
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        char words[80];
        plan->n_sink = cases[i].n_sink;
        plan->n_recent = cases[i].n_recent;
        bit_plan_describe_exact(words, sizeof words, plan);
        assert_string_equal(words, cases[i].words);
    }
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_tokens_come_back),
        cmocka_unit_test(a_plan_without_them_says_nothing),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(a_plan_that_holds_bad_counts_is_not_written),
        cmocka_unit_test(the_two_counts_have_their_place_and_lies_are_refused),
        cmocka_unit_test(a_sequence_costs_its_exact_tokens_in_fp16),
        cmocka_unit_test(they_are_told_in_words),
    };
    return cmocka_run_group_tests_name("plan_exact", tests, NULL, NULL);
}
