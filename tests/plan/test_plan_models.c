/* Plans of models that version 4 of the forms is for: values of a size of their own, kinds of RoPE with an attention
 * factor, layers with a local RoPE. plan.json, plan.rbp, the library, and what such plans cost. */
#include "tests/test_support.h"

#include <zstd.h>

#include "core/json.h"
#include "kernels/reference/head_codec.h"
#include "plan/library/plan_rbp_format.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_json.h"
#include "plan/plan_rbp.h"
#include "tests/plan/some_plan.h"

enum { HEADS = 6, ROPE_BLOCKS = 4, KEY_DIMS = 16, VALUE_DIMS = 32 };

static rb_error err;

static void assert_same_plan(const bit_plan *a, const bit_plan *b)
{
    assert_memory_equal(&a->model, &b->model, sizeof a->model);
    assert_memory_equal(a->value_widths, b->value_widths, HEADS);
    for (int h = 0; h < HEADS; h++) assert_true(plan_head_equal(&a->heads[h], &b->heads[h], &a->model));
}

static bit_plan *plan_of_family(int which)
{
    const model_facts model = some_new_model();
    return which == 0   ? some_plan(&model, CODEBOOK_BLOCK_GTQ)
           : which == 1 ? some_general_plan(&model)
                        : some_plan_of_block_codebook(&model);
}

static void plans_of_every_family_come_back(void **state)
{
    (void)state;
    for (int which = 0; which < 3; which++) {
        const char *json = scratch_path("plan.json"), *rbp = scratch_path("plan.rbp");
        bit_plan *plan = plan_of_family(which), *back = NULL;
        for (int h = 0; h < HEADS; h++) plan->value_widths[h] = (uint8_t)(1 + h);
        assert_ok(plan_json_write(plan, json, &err));
        assert_ok(plan_json_read(&back, json, &err));
        assert_same_plan(plan, back);
        bit_plan_free(back);
        assert_ok(plan_rbp_write(plan, rbp, &err));
        assert_ok(plan_rbp_read(&back, rbp, &err));
        assert_same_plan(plan, back);
        bit_plan_free(back);
        bit_plan_free(plan);
    }
}

static void the_library_says_what_a_layer_turns_by(void **state)
{
    (void)state;
    bit_plan *plan = plan_of_family(0);
    ropebits_plan *library = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    char error[256];
    bit_plan_set_value_width(plan, 3);
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(bytes[8], PLAN_RBP_MODEL_VERSION);
    assert_int_equal(ropebits_plan_parse(&library, bytes, size, error, sizeof error), 0);
    const ropebits_plan_info *info = ropebits_plan_get_info(library);
    assert_int_equal(info->value_dim, VALUE_DIMS);
    assert_int_equal(info->rope_kind, ROPEBITS_ROPE_YARN);
    assert_true(info->rope_attention_factor == 1.2 && info->local_rope_attention_factor == 1.0);
    assert_true(info->rope_original_max_position == 8192 && info->local_rope_theta == 10000.0);
    assert_int_equal(info->local_rope_kind, ROPEBITS_ROPE_DEFAULT);
    assert_memory_equal(info->layer_is_local, ((uint8_t[]){0, 0, 1}), 3);
    assert_memory_equal(ropebits_plan_inv_freq(library, 0), plan->model.rope.inv_freq, ROPE_BLOCKS * sizeof(double));
    assert_memory_equal(ropebits_plan_inv_freq(library, 2), plan->model.local_rope.inv_freq,
                        ROPE_BLOCKS * sizeof(double));
    assert_true(ropebits_plan_attention_factor(library, 1) == 1.2);
    assert_true(ropebits_plan_attention_factor(library, 2) == 1.0);
    assert_null(ropebits_plan_inv_freq(library, 3));
    /* 32 codes of 3 bits and an fp16 norm, and a codebook for 32 dims. */
    const ropebits_head *head = ropebits_plan_head(library, 0, 0);
    codebook book;
    assert_int_equal(head->value_bits, 3 * VALUE_DIMS + 16);
    assert_ok(codebook_build(&book, CODEBOOK_BLOCK_GTQ, 3, VALUE_DIMS, &err));
    assert_memory_equal(head->value_centroids, book.centroid_f32, 8 * sizeof(float));
    assert_true(info->bytes_per_token == bit_plan_cost(plan).bytes_per_token);
    ropebits_plan_close(library);
    free(bytes);
    bit_plan_free(plan);
}

/* Plans of other models are as they were: no member more. */
static void the_library_fills_in_what_older_plans_do_not_say(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 16, 8, ROPE_INTERLEAVED);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    ropebits_plan *library = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    char error[256];
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    assert_int_equal(bytes[8], PLAN_RBP_PUBLISHED_VERSION);
    assert_int_equal(ropebits_plan_parse(&library, bytes, size, error, sizeof error), 0);
    const ropebits_plan_info *info = ropebits_plan_get_info(library);
    assert_int_equal(info->value_dim, 16);
    assert_true(info->rope_attention_factor == 1.0);
    assert_null(info->layer_is_local);
    assert_memory_equal(ropebits_plan_inv_freq(library, 1), model.rope.inv_freq, ROPE_BLOCKS * sizeof(double));
    assert_true(ropebits_plan_attention_factor(library, 1) == 1.0);
    ropebits_plan_close(library);
    free(bytes);
    bit_plan_free(plan);
}

static void values_cost_by_their_own_size(void **state)
{
    (void)state;
    bit_plan *plan = plan_of_family(0);
    bit_plan_set_value_width(plan, 3);
    const plan_cost three = bit_plan_cost(plan);
    assert_true(three.value_true_bits == 3.0 + 16.0 / VALUE_DIMS);
    assert_true(three.fp16_bytes_per_token == 2.0 * HEADS * (KEY_DIMS + VALUE_DIMS));
    bit_plan_set_value_width(plan, PLAN_FP16_WIDTH);
    assert_true(bit_plan_cost(plan).value_true_bits == 16.0);
    assert_true(bit_plan_cost(plan).bytes_per_token - three.bytes_per_token
                == HEADS * (2.0 * VALUE_DIMS - (3.0 * VALUE_DIMS / 8.0 + 2.0)));
    bit_plan_free(plan);
}

/* The codec of the values takes vectors of value_dim. */
static void values_are_restored_at_their_own_size(void **state)
{
    (void)state;
    bit_plan *plan = plan_of_family(0);
    const model_facts facts = model_value_facts(&plan->model);
    float x[VALUE_DIMS], restored[VALUE_DIMS];
    double error = 0.0, whole = 0.0;
    codec_tables *tables = NULL;
    head_codec *codec = NULL;
    plan_head head;
    bit_plan_set_value_width(plan, 8);
    assert_ok(bit_plan_value_head(plan, 2, 1, &head, &err));
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(head_codec_create(&codec, &head, &facts, tables, &err));
    assert_int_equal(head_codec_dims(codec), VALUE_DIMS);
    for (int i = 0; i < VALUE_DIMS; i++) x[i] = (float)sin(1.7 * i + 0.3);
    assert_ok(head_codec_round_trip(codec, x, 1, restored, &err));
    for (int i = 0; i < VALUE_DIMS; i++) {
        error += pow((double)(x[i] - restored[i]), 2.0);
        whole += pow((double)x[i], 2.0);
    }
    assert_true(error < 1e-3 * whole);
    head_codec_free(codec);
    codec_tables_free(tables);
    plan_head_clear(&head);
    bit_plan_free(plan);
}

/* ---- damage ---------------------------------------------------------------------------------- */

static void json_of_an_older_version_is_refused(void **state)
{
    (void)state;
    bit_plan *plan = plan_of_family(0), *back = NULL;
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_int_equal((int)cJSON_GetObjectItem(json, "version")->valuedouble, 4);
    cJSON_ReplaceItemInObject(json, "version", cJSON_CreateNumber(3));
    assert_fails(
        plan_from_json(&back, json, "p.json", &err), RB_EFORMAT,
        "p.json: model: value_dim, local_rope, attention_factor or rope kind yarn, expected none in version 3");
    cJSON_Delete(json);
    bit_plan_free(plan);
}

static const char *library_error(const uint8_t *payload, size_t payload_size, int version, char error[256])
{
    static uint8_t file[1 << 16];
    ropebits_plan *plan = NULL;
    memset(file, 0, PLAN_RBP_HEADER_SIZE);
    memcpy(file, PLAN_RBP_MAGIC, PLAN_RBP_MAGIC_SIZE);
    const size_t frame = ZSTD_compress(file + PLAN_RBP_HEADER_SIZE, sizeof file - 64, payload, payload_size, 1);
    assert_false(ZSTD_isError(frame));
    file[8] = (uint8_t)version;
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

static double f64_at(const uint8_t *bytes)
{
    double value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* The bytes of docs/plan-rbp.md, counted from the two names, the budget and the model type that come first. */
static void the_section_has_its_place_and_lies_in_it_are_refused(void **state)
{
    (void)state;
    enum { ROPE_NUMBERS = 5 * 8, FREQUENCIES = 8 * ROPE_BLOCKS };
    bit_plan *plan = plan_of_family(1);
    uint8_t *bytes = NULL, payload[1 << 14];
    size_t size = 0, at = 0;
    char error[256];
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    const size_t n = ZSTD_decompress(payload, sizeof payload, bytes + PLAN_RBP_HEADER_SIZE,
                                     size - PLAN_RBP_HEADER_SIZE - PLAN_RBP_CRC_SIZE);
    assert_false(ZSTD_isError(n));
    at += 1 + (size_t)payload[at]; /* tool version */
    at += 1 + (size_t)payload[at]; /* method */
    at += 8;
    at += 1 + (size_t)payload[at]; /* model type */
    at += 33 + 1 + 33 + 16;        /* hashes, the second one absent; calibration */
    at += 5 * 4 + 8;               /* geometry, attention_scale */
    uint8_t *kind = payload + at, *section = kind + 2 + ROPE_NUMBERS + FREQUENCIES, *factor = section + 4,
            *has_local = factor + 8, *local_kind = has_local + 1, *local_factor = local_kind + 1 + ROPE_NUMBERS,
            *local_freq = local_factor + 8, *layers = local_freq + FREQUENCIES;
    assert_int_equal(*kind, ROPEBITS_ROPE_YARN);
    assert_memory_equal(section, ((uint8_t[]){VALUE_DIMS, 0, 0, 0}), 4);
    assert_true(f64_at(factor) == 1.2 && *has_local == 1 && *local_kind == 0);
    assert_true(f64_at(local_kind + 1) == 10000.0 && f64_at(local_factor) == 1.0 && f64_at(local_freq + 8) == 0.1);
    assert_memory_equal(layers, ((uint8_t[]){0, 0, 1}), 3);
    assert_string_equal(library_error(payload, n, 4, error), "");
    /* Every library before, and this one where the file says that it is one of theirs, sees no such model. */
    assert_non_null(strstr(library_error(payload, n, 3, error), "rope kind is 4, expected 0 to 2"));
    const struct {
        uint8_t *at, value;
        const char *message;
    } lies[] = {{kind, 7, "rope kind is 7, expected 0 to 6"},
                {section, 31, "value_dim is 31, expected an even number"},
                {section + 1, 255, "value_dim is 65312, expected 2 to 1024"},
                {factor + 7, 0xbf, "rope attention_factor is -1.2, expected a number above 0"},
                {has_local, 2, "flag of a local rope is 2, expected 0 to 1"},
                {local_kind, 7, "rope kind is 7, expected 0 to 6"},
                {local_factor + 7, 0xbf, "local rope attention_factor is -1, expected a number above 0"},
                {layers, 2, "flag of a layer with the local rope is 2, expected 0 to 1"},
                {layers + 2, 0, "no layer has the local rope"}};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        const uint8_t before = *lies[i].at;
        *lies[i].at = lies[i].value;
        const char *said = library_error(payload, n, 4, error);
        if (!strstr(said, lies[i].message)) fail_msg("\"%s\" does not contain \"%s\"", said, lies[i].message);
        *lies[i].at = before;
    }
    for (size_t cut = 0; cut < n; cut++) assert_string_not_equal(library_error(payload, cut, 4, error), "");
    free(bytes);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_of_every_family_come_back),
        cmocka_unit_test(the_library_says_what_a_layer_turns_by),
        cmocka_unit_test(the_library_fills_in_what_older_plans_do_not_say),
        cmocka_unit_test(values_cost_by_their_own_size),
        cmocka_unit_test(values_are_restored_at_their_own_size),
        cmocka_unit_test(json_of_an_older_version_is_refused),
        cmocka_unit_test(the_section_has_its_place_and_lies_in_it_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
