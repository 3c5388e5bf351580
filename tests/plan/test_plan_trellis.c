/* Heads of trellis, of keys and of values: what such plans cost and say, plan.json and plan.rbp there and back, every
 * damage of plan.json, and a runtime that does what plan/library/ropebits_plan.h says. Damage of plan.rbp:
 * test_plan_rbp_damage.c. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/json.h"
#include "kernels/reference/bit_packing.h"
#include "kernels/reference/head_codec.h"
#include "plan/library/ropebits_plan.h"
#include "plan/plan_family.h"
#include "plan/plan_rbp.h"
#include "tests/plan/plan_json_damage.h"
#include "tests/plan/some_plan.h"

static rb_error err;

static bit_plan *mixed_plan(void)
{
    const model_facts model = some_model(2, 2, 8, 8, ROPE_SPLIT_HALF);
    return some_plan_of_trellis(&model);
}

static char *file_text(const char *path)
{
    char *text = NULL;
    size_t size;
    assert_ok(rb_read_file(&text, &size, path, 1 << 24, &err));
    return text;
}

static void assert_same_plan(const bit_plan *a, const bit_plan *b)
{
    const model_facts values = model_value_facts(&a->model);
    assert_memory_equal(a->value_widths, b->value_widths, (size_t)bit_plan_n_heads(a));
    assert_non_null(b->value_heads);
    for (int h = 0; h < bit_plan_n_heads(a); h++) {
        assert_true(plan_head_equal(&a->heads[h], &b->heads[h], &a->model));
        assert_true(plan_head_equal(&a->value_heads[h], &b->value_heads[h], &values));
    }
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Value head h: 8 dims of 8, 1 + (7 i + h + 3) % 8 for i 1 to 5, 0, 0 bits, (h + 3) % 5 of gain. Head 0: 8 3 2 1 8 7 =
 * 29 and 3: 4 bytes. Head 1: 8 4 3 2 1 8 = 26 and 4: 4. Head 2: 8 5 4 3 2 1 = 23 and 0: 3. Head 3: 8 6 5 4 3 2 = 28 and
 * 1: 4. */
static void value_heads_cost_what_they_store(void **state)
{
    (void)state;
    static const int stored[] = {32, 32, 24, 32}, codes[] = {29, 26, 23, 28};
    bit_plan *plan = mixed_plan();
    char text[80];
    double keys = 0.0;
    for (int h = 0; h < 4; h++) {
        assert_int_equal(bit_plan_value_stored_bits(plan, h), stored[h]);
        assert_true(bit_plan_value_code_bits(plan, h) == codes[h] / 8.0);
        keys += plan_head_stored_bits(&plan->heads[h], 4);
    }
    const plan_cost cost = bit_plan_cost(plan);
    assert_true(cost.value_true_bits == 120.0 / 32);
    assert_true(cost.bytes_per_token == (keys + 120) / 8);
    const value_range range = bit_plan_value_range(plan);
    assert_true(range.least == 23 / 8.0 && range.most == 29 / 8.0 && range.mean == 106 / 32.0);
    bit_plan_describe_values(text, sizeof text, plan);
    assert_string_equal(text, "3.750 true bits a dim, trellis, 2.88 to 3.62 a head");
    assert_true(bit_plan_quantizes_values(plan));
    assert_false(bit_plan_is_published_form(plan));
    bit_plan_free(plan);
}

static void a_value_head_is_a_copy_of_its_own(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan();
    const model_facts values = model_value_facts(&plan->model);
    plan_head head;
    assert_ok(bit_plan_value_head(plan, 1, 1, &head, &err));
    assert_true(plan_head_equal(&head, &plan->value_heads[3], &values));
    assert_true(head.trellis.basis != plan->value_heads[3].trellis.basis);
    assert_non_null(head.center);
    assert_ptr_equal(bit_plan_value_head_at(plan, 1, 1), &plan->value_heads[3]);
    plan_head_clear(&head);
    /* A width takes their place. */
    bit_plan_set_value_width(plan, 4);
    assert_null(plan->value_heads);
    assert_null(bit_plan_value_head_at(plan, 1, 1));
    assert_ok(bit_plan_value_head(plan, 1, 1, &head, &err));
    assert_int_equal(head.family, FAMILY_GROUPS);
    plan_head_clear(&head);
    bit_plan_free(plan);
}

static void values_are_compared_head_by_head(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan(), *like = NULL;
    assert_ok(bit_plan_create_like(&like, plan, &err));
    for (int h = 0; h < 4; h++) assert_true(bit_plan_same_values(plan, h, like, h));
    assert_false(bit_plan_same_values(plan, 0, plan, 2));
    assert_false(bit_plan_same_layer_values(plan, 0, 1));
    plan_head_clear(&like->value_heads[2]);
    plan_head_clear(&like->value_heads[3]);
    make_trellis(&like->value_heads[2], 8, 3);
    make_trellis(&like->value_heads[3], 8, 4);
    assert_true(bit_plan_same_layer_values(like, 0, 1));
    assert_false(bit_plan_same_values(plan, 2, like, 2));
    bit_plan_set_value_width(like, 3);
    assert_false(bit_plan_same_values(plan, 0, like, 0));
    assert_true(bit_plan_same_layer_values(like, 0, 1));
    like->value_widths[3] = 4;
    assert_false(bit_plan_same_layer_values(like, 0, 1));
    bit_plan_free(plan);
    bit_plan_free(like);
}

static void the_check_names_the_head(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan();
    assert_ok(bit_plan_check(plan, "p.json", &err));
    plan->value_widths[1] = 4;
    assert_fails(bit_plan_check(plan, "p.json", &err), RB_EFORMAT,
                 "p.json: layer 0 kv_head 1, values: value width is 4, expected 0 with heads of their own");
    plan->value_widths[1] = PLAN_WIDTH_OF_HEADS;
    plan->value_heads[3].trellis.widths[1] = 9;
    assert_fails(bit_plan_check(plan, "p.json", &err), RB_EFORMAT,
                 "p.json: layer 1 kv_head 1, values: coordinate 1 has 9 bits, expected 0 to 8");
    plan_head_clear(&plan->value_heads[3]);
    make_trellis(&plan->value_heads[3], 6, 3);
    assert_fails(bit_plan_check(plan, "p.json", &err), RB_EFORMAT,
                 "layer 1 kv_head 1, values: trellis of 6 dims, expected 8");
    assert_ok(plan_head_set_uniform(&plan->value_heads[3], 3, 4, 1, CODEBOOK_BLOCK_GTQ, &err));
    assert_fails(bit_plan_check(plan, "p.json", &err), RB_EFORMAT,
                 "layer 1 kv_head 1, values: codec family is groups, expected trellis");
    bit_plan_free(plan);
}

static void the_version_is_that_of_the_family_or_of_value_heads(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan();
    assert_int_equal(plan_version(plan), 5);
    replace_head(plan, 0, 2);
    replace_head(plan, 1, 3);
    assert_int_equal(plan_version(plan), 5); /* by the values */
    bit_plan_set_value_width(plan, 3);
    assert_int_equal(plan_version(plan), 2);
    bit_plan_free(plan);
    const model_facts latest = some_new_model();
    plan = some_plan(&latest, CODEBOOK_BLOCK_GTQ);
    for (int h = 0; h < 2; h++) make_trellis(&plan->heads[h], latest.head_dim, h);
    assert_int_equal(plan_version(plan), 5); /* by the keys */
    bit_plan_free(plan);
}

/* ---- there and back -------------------------------------------------------------------------- */

static void assert_survives(bit_plan *plan)
{
    const char *path = scratch_path("plan.json"), *again = scratch_path("again.json"), *rbp = scratch_path("plan.rbp");
    uint8_t *second = NULL;
    size_t size, size_again;
    bit_plan *back = NULL;
    assert_ok(plan_json_write(plan, path, &err));
    assert_ok(plan_json_read(&back, path, &err));
    assert_same_plan(plan, back);
    assert_ok(plan_json_write(back, again, &err));
    char *a = file_text(path), *b = file_text(again);
    assert_string_equal(a, b);
    free(a);
    free(b);
    bit_plan_free(back);
    assert_ok(plan_rbp_write(plan, rbp, &err));
    assert_ok(plan_rbp_read(&back, rbp, &err));
    assert_same_plan(plan, back);
    assert_ok(plan_rbp_encode(&second, &size_again, back, &err));
    assert_ok(rb_read_file(&a, &size, rbp, 1 << 24, &err));
    assert_int_equal(a[8], 5);
    assert_true(size == size_again);
    assert_memory_equal(a, second, size);
    free(a);
    free(second);
    bit_plan_free(back);
    bit_plan_free(plan);
}

static void plans_survive_both_files(void **state)
{
    (void)state;
    const model_facts split = some_model(3, 2, 64, 64, ROPE_SPLIT_HALF),
                      partial = some_model(3, 1, 10, 4, ROPE_INTERLEAVED),
                      tiny = some_model(1, 1, 2, 2, ROPE_SPLIT_HALF), latest = some_new_model();
    const model_facts *models[] = {&split, &partial, &tiny, &latest};
    for (size_t i = 0; i < RB_COUNT(models); i++) assert_survives(some_plan_of_trellis(models[i]));
    /* Values without such keys, and beside block-codebook. */
    bit_plan *plan = some_plan_of_block_codebook(&partial);
    assert_ok(bit_plan_create_value_heads(plan, &err));
    for (int h = 0; h < 3; h++) make_trellis(&plan->value_heads[h], 10, h);
    plan->n_sink = 4;
    assert_survives(plan);
}

/* More than 4 MiB of bases are compressed faster. */
static void a_large_plan_survives(void **state)
{
    (void)state;
    const model_facts model = some_model(16, 6, 128, 128, ROPE_SPLIT_HALF);
    const char *rbp = scratch_path("large.rbp");
    bit_plan *plan = some_plan_of_trellis(&model), *back = NULL;
    assert_ok(plan_rbp_write(plan, rbp, &err));
    assert_ok(plan_rbp_read(&back, rbp, &err));
    assert_same_plan(plan, back);
    bit_plan_free(plan);
    bit_plan_free(back);
}

/* ---- plan.json ------------------------------------------------------------------------------- */

static void heads_say_what_they_store(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan();
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_true(number_at(json, "version") == 5);
    assert_null(find(json, "values"));
    assert_string_equal(find(json, "layers.0.kv_heads.1.family")->valuestring, "trellis");
    assert_null(find(json, "layers.0.kv_heads.1.bits"));
    assert_true(number_at(json, "layers.0.kv_heads.1.widths.1") == plan->heads[1].trellis.widths[1]);
    assert_true(number_at(json, "layers.0.kv_heads.1.gain_bits") == 1);
    assert_true(number_at(json, "layers.0.kv_heads.1.gain_zero") == 1);
    assert_true(number_at(json, "value_heads.1.1.weights.2") == (double)plan->value_heads[3].trellis.weights[2]);
    assert_int_equal(cJSON_GetArraySize(find(json, "value_heads.1.1.center")), 8);
    assert_null(find(json, "value_heads.1.0.center"));
    assert_true(number_at(json, "value_heads.1.0.true_bits") == 3);
    /* 64 fp16 numbers, 128 bytes: 172 letters of which the last fills. The first is 2 + 0.3 sin(4) / 8 + 0.03. */
    const char *basis = find(json, "value_heads.0.0.basis")->valuestring;
    const uint16_t first = rb_f32_to_f16(plan->value_heads[0].trellis.basis[0]);
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert_int_equal(strlen(basis), 172);
    assert_int_equal(basis[0], letters[(first & 0xff) >> 2]);
    assert_int_equal(basis[1], letters[(first & 3) << 4 | first >> 12]);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

/* The text with some of it replaced, as JSON. */
static char *quoted(char *text, size_t at, const char *with)
{
    char *value = NULL;
    memcpy(text + at, with, strlen(with));
    assert_ok(rb_format(&value, &err, "\"%s\"", text));
    return value;
}

static void a_damaged_basis_is_named(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        const char *with, *message;
    } cases[] = {
        {7, "!", "value_heads: layer 1 kv_head 0: basis has byte 0x21 at letter 7, expected base64"},
        {0, "=", "basis has byte 0x3d at letter 0, expected base64"},
        {171, "A", "basis has byte 0x41 at letter 171, expected base64"},
        {170, " ", "basis has byte 0x20 at letter 170, expected base64"},
        /* The third word from letter 5 1/3 on; 8 letters are 6 bytes. */
        {8, "AHwAAAAA", "basis[0][3] is inf, expected a finite number"},
        {8, "AP4AAAAA", "basis[0][3] is"},
    };
    bit_plan *plan = mixed_plan();
    cJSON *good = NULL;
    assert_ok(plan_to_json(&good, plan, &err));
    for (size_t i = 0; i < RB_COUNT(cases); i++) {
        char *text = strdup(find(good, "value_heads.1.0.basis")->valuestring);
        char *value = quoted(text, cases[i].at, cases[i].with);
        assert_refused(good, &(refusal){"value_heads.1.0.basis", value, RB_EFORMAT, cases[i].message});
        free(value);
        free(text);
    }
    cJSON_Delete(good);
    bit_plan_free(plan);
}

static void every_damage_is_named(void **state)
{
    (void)state;
    static const refusal damages[] = {
        {"version", "4", RB_EFORMAT, "p.json: has value_heads, expected none in version 4"},
        {"value_heads", NULL, RB_EFORMAT, "p.json: values: is missing"},
        {"values", "{\"width\":3,\"codebook\":\"block-gtq\"}", RB_EFORMAT,
         "p.json: has values and value_heads, expected one of them"},
        {"value_heads", "3", RB_EFORMAT, "p.json: value_heads: found a number, expected an array"},
        {"value_heads.1", NULL, RB_EFORMAT, "p.json: value_heads of 1 layers, expected the model's 2"},
        {"value_heads.1", "3", RB_EFORMAT, "p.json: value_heads: layer 1: is no list of heads"},
        {"value_heads.1.1", NULL, RB_EFORMAT, "p.json: value_heads: layer 1: 1 heads, expected the model's 2"},
        {"value_heads.1.1", "[]", RB_EFORMAT, "value_heads: layer 1 kv_head 1"},
        {"value_heads.0.1.kv_head", "0", RB_EINVAL, "value_heads: layer 0 kv_head 1.kv_head: is 0, expected 1"},
        {"value_heads.0.1.family", NULL, RB_EFORMAT,
         "value_heads: layer 0 kv_head 1: has gain_bits, expected none of family groups"},
        {"value_heads.0.1.bits", "[1,1,1,1]", RB_EFORMAT,
         "value_heads: layer 0 kv_head 1: has bits, expected none of family trellis"},
        {"layers.0.kv_heads.1.bits", "[1,1,1,1]", RB_EFORMAT,
         "layer 0 kv_head 1: has bits, expected none of family trellis"},
        {"layers.0.kv_heads.1.maps", "[]", RB_EFORMAT, "layer 0 kv_head 1: has maps, expected none of family trellis"},
        {"layers.1.kv_heads.1.widths", "[]", RB_EFORMAT, "has widths, expected none of family groups"},
        {"layers.1.kv_heads.1.basis", "\"\"", RB_EFORMAT, "has basis, expected none of family groups"},
        {"layers.0.kv_heads.1.gain_bits", NULL, RB_EFORMAT, "layer 0 kv_head 1.gain_bits: is missing"},
        {"layers.0.kv_heads.1.gain_bits", "5", RB_EINVAL, "gain_bits: is 5, expected 0 to 4"},
        {"layers.0.kv_heads.1.gain_zero", "2", RB_EINVAL, "gain_zero: is 2, expected 0 to 1"},
        {"layers.0.kv_heads.1.widths", NULL, RB_EFORMAT, "layer 0 kv_head 1.widths: is missing"},
        {"layers.0.kv_heads.1.widths.7", NULL, RB_EFORMAT, "widths has 7 entries, expected 8 coordinates"},
        {"layers.0.kv_heads.1.widths.1", "9", RB_EFORMAT,
         "layer 0 kv_head 1: widths[1] is no width, expected a whole number from 0 to 8"},
        {"layers.0.kv_heads.1.widths.1", "-1", RB_EFORMAT, "widths[1] is no width"},
        {"layers.0.kv_heads.1.widths.1", "1.5", RB_EFORMAT, "widths[1] is no width"},
        {"layers.0.kv_heads.1.widths.1", "null", RB_EFORMAT, "widths[1] is no width"},
        {"layers.0.kv_heads.1.weights", NULL, RB_EFORMAT, "layer 0 kv_head 1.weights: is missing"},
        {"layers.0.kv_heads.1.weights.7", NULL, RB_EFORMAT, "weights has 7 entries, expected 8"},
        {"layers.0.kv_heads.1.weights.2", "0.1", RB_EFORMAT, "weights[2] is 0.1"},
        {"layers.0.kv_heads.1.weights.2", "0", RB_EFORMAT,
         "weights[2] is 0, expected a number from 6.10352e-05 that fp16 holds"},
        {"layers.0.kv_heads.1.weights.2", "-1", RB_EFORMAT, "weights[2] is -1, expected a number from"},
        {"layers.0.kv_heads.1.basis", NULL, RB_EFORMAT, "layer 0 kv_head 1.basis: is missing"},
        {"layers.0.kv_heads.1.basis", "[1]", RB_EFORMAT, "layer 0 kv_head 1.basis: found an array, expected a string"},
        {"layers.0.kv_heads.1.basis", "\"AAAA\"", RB_EFORMAT,
         "layer 0 kv_head 1: basis has 4 letters, expected 172: 8 x 8 fp16 numbers in base64"},
        {"layers.0.kv_heads.1.basis", "\"\"", RB_EFORMAT, "basis has 0 letters, expected 172"},
        {"value_heads.1.1.center", "[1]", RB_EFORMAT, "center has 1 entries, expected 8"},
        {"value_heads.1.1.true_bits", "2", RB_EFORMAT,
         "value_heads: layer 1 kv_head 1: \"true_bits\" is 2, but the plan itself gives 4"},
        {"cost.value_true_bits", "2", RB_EFORMAT, "\"value_true_bits\" is 2, but the plan itself gives 3.75"},
    };
    bit_plan *plan = mixed_plan();
    cJSON *good = NULL;
    assert_ok(plan_to_json(&good, plan, &err));
    for (size_t i = 0; i < RB_COUNT(damages); i++) assert_refused(good, &damages[i]);
    cJSON_Delete(good);
    bit_plan_free(plan);
}

static void the_family_is_refused_in_versions_before(void **state)
{
    (void)state;
    bit_plan *plan = mixed_plan();
    cJSON *good = NULL;
    bit_plan_set_value_width(plan, 3);
    assert_ok(plan_to_json(&good, plan, &err));
    assert_refused(good, &(refusal){"version", "4", RB_EFORMAT,
                                    "p.json: layer 0 kv_head 0: family is trellis, expected groups, block-codebook in "
                                    "version 4"});
    cJSON_Delete(good);
    bit_plan_free(plan);
}

/* ---- the library ----------------------------------------------------------------------------- */

static ropebits_plan *in_library(const bit_plan *plan)
{
    char error[256];
    ropebits_plan *library = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    assert_ok(plan_rbp_encode(&bytes, &size, plan, &err));
    if (ropebits_plan_parse(&library, bytes, size, error, sizeof error) != 0) fail_msg("%s", error);
    free(bytes);
    return library;
}

static void assert_library_head(const ropebits_head *found, const plan_head *head, int n_dims)
{
    const plan_trellis *own = &head->trellis;
    assert_int_equal(found->family, ROPEBITS_FAMILY_TRELLIS);
    assert_int_equal(found->n_groups, 0);
    assert_null(found->bits);
    assert_null(found->maps);
    assert_int_equal(found->norm_bits, 0);
    assert_int_equal(found->gain_bits, own->gain_bits);
    assert_int_equal(found->gain_zero, own->gain_zero);
    assert_int_equal(found->key_bits, plan_head_stored_bits(head, n_dims / 2));
    assert_memory_equal(found->widths, own->widths, (size_t)n_dims);
    assert_memory_equal(found->weights, own->weights, (size_t)n_dims * sizeof(float));
    for (int i = 0; i < n_dims * n_dims; i++) assert_true(rb_f16_to_f32(found->basis[i]) == own->basis[i]);
    assert_int_equal(found->center != NULL, head->center != NULL);
    if (head->center) assert_memory_equal(found->center, head->center, (size_t)n_dims * sizeof(float));
}

static void the_library_says_how_keys_and_values_are_coded(void **state)
{
    (void)state;
    const model_facts model = some_new_model();
    bit_plan *plan = some_plan_of_trellis(&model);
    ropebits_plan *library = in_library(plan);
    double value_bits = 0.0;
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const uint32_t layer = (uint32_t)(h / 2), kv_head = (uint32_t)(h % 2);
        const ropebits_head *head = ropebits_plan_head(library, layer, kv_head);
        if (plan->heads[h].family == FAMILY_TRELLIS) assert_library_head(head, &plan->heads[h], model.head_dim);
        else assert_true(head->n_groups > 0 && !head->basis && !head->widths && head->bits);
        assert_library_head(ropebits_plan_value_head(library, layer, kv_head), &plan->value_heads[h], model.value_dim);
        assert_int_equal(head->value_width, ROPEBITS_VALUES_OF_HEADS);
        assert_int_equal(head->value_bits, bit_plan_value_stored_bits(plan, h));
        assert_null(head->value_centroids);
        value_bits += head->value_bits;
    }
    assert_true(value_bits / 8 < ropebits_plan_get_info(library)->bytes_per_token);
    assert_true(ropebits_plan_get_info(library)->bytes_per_token == bit_plan_cost(plan).bytes_per_token);
    assert_null(ropebits_plan_value_head(library, 3, 0));
    assert_null(ropebits_plan_value_head(library, 0, 2));
    for (uint32_t width = 1; width <= ROPEBITS_MAX_TRELLIS_WIDTH; width++)
        assert_memory_equal(ropebits_plan_trellis(library, width), trellis_tables[width], sizeof trellis_tables[width]);
    assert_null(ropebits_plan_trellis(library, 0));
    assert_null(ropebits_plan_trellis(library, 9));
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

static void a_plan_without_them_has_no_tables_and_no_value_heads(void **state)
{
    (void)state;
    const model_facts model = some_model(2, 2, 8, 8, ROPE_SPLIT_HALF);
    bit_plan *plan = some_general_plan(&model);
    for (int n_sink = 0; n_sink < 2; n_sink++) {
        plan->n_sink = n_sink;
        ropebits_plan *library = in_library(plan);
        assert_null(ropebits_plan_value_head(library, 0, 0));
        for (uint32_t width = 0; width < 9; width++) assert_null(ropebits_plan_trellis(library, width));
        ropebits_plan_close(library);
    }
    bit_plan_free(plan);
}

/* ---- a runtime, from nothing but the header's words ------------------------------------------ */

static unsigned take_bits(const uint8_t *stream, int *at, int n)
{
    unsigned value = 0;
    for (int i = 0; i < n; i++, ++*at) value |= (stream[*at / 8] >> *at % 8 & 1u) << i;
    return value;
}

static void restore(double *x, const uint8_t *stream, const ropebits_plan *library, const ropebits_head *head, int d)
{
    double sums[RB_MAX_HEAD_DIM] = {0};
    int at = 0;
    for (int i = 0; i < d && head->widths[i] > 0; i++) {
        at += head->widths[i];
        int from = at - 8;
        const double y = (double)ropebits_plan_trellis(library, head->widths[i])[take_bits(stream, &(int){from}, 8)];
        for (int j = 0; j < d; j++) sums[j] += y * (double)rb_f16_to_f32(head->basis[i * d + j]);
    }
    const int level = (int)take_bits(stream, &at, head->gain_bits);
    const double gain = (double)(float)exp2((level - head->gain_zero) / 2.0);
    for (int j = 0; j < d; j++) x[j] = (head->center ? (double)head->center[j] : 0.0) + gain * sums[j];
}

static void assert_runtime_restores(const ropebits_plan *library, const ropebits_head *found, const plan_head *head,
                                    const model_facts *model, codec_tables *tables)
{
    enum { N = 12 };
    const int d = model->head_dim;
    float x[N * 32], expected[N * 32];
    uint8_t codes[N * 32], stream[64] = {0};
    head_codec *codec = NULL;
    double restored[RB_MAX_HEAD_DIM];
    assert_true(d <= 32);
    /* Vectors of all sizes, so that every level of the gain is taken. */
    for (int t = 0; t < N; t++)
        for (int i = 0; i < d; i++) x[t * d + i] = (float)(sin(1.7 * t + 0.9 * i * i) * exp2(t - 5.0));
    assert_ok(head_codec_create(&codec, head, model, tables, &err));
    assert_ok(head_codec_encode(codec, x, N, codes, NULL, &err));
    assert_ok(head_codec_decode(codec, codes, NULL, N, expected, &err));
    assert_int_equal(found->key_bits, 8 * head_codec_packed_bytes(codec));
    for (int t = 0; t < N; t++) {
        pack_codes(stream, codes + t * d, head_codec_widths(codec), d);
        restore(restored, stream, library, found, d);
        for (int i = 0; i < d; i++)
            assert_true(fabs(restored[i] - (double)expected[t * d + i]) <= 1e-6 * (1.0 + fabs(restored[i])));
    }
    head_codec_free(codec);
}

static void what_the_header_says_restores_as_the_quantizer_does(void **state)
{
    (void)state;
    const model_facts model = some_new_model(), values = model_value_facts(&model);
    bit_plan *plan = some_plan_of_trellis(&model);
    ropebits_plan *library = in_library(plan);
    codec_tables *tables = NULL;
    assert_ok(codec_tables_create(&tables, &err));
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        const uint32_t layer = (uint32_t)(h / 2), kv_head = (uint32_t)(h % 2);
        if (plan->heads[h].family == FAMILY_TRELLIS)
            assert_runtime_restores(library, ropebits_plan_head(library, layer, kv_head), &plan->heads[h], &model,
                                    tables);
        assert_runtime_restores(library, ropebits_plan_value_head(library, layer, kv_head), &plan->value_heads[h],
                                &values, tables);
    }
    codec_tables_free(tables);
    ropebits_plan_close(library);
    bit_plan_free(plan);
}

/* That of docs/plan-rbp.md: bytes b5 4d. */
static void the_worked_example_is_right(void **state)
{
    (void)state;
    static const uint8_t widths[] = {8, 3, 2, 0}, stream[] = {0xb5, 0x4d}, codes[] = {181, 5, 1, 2};
    static const double basis[] = {2, 0, 0, 0, 0, 1, 1, 0, 0, 0.5, -0.5, 0, 0, 0, 0, 1}, weights[] = {1, 1, 1, 1},
                        expected[] = {3.0135, -0.3135, -1.9625, 0.0};
    const model_facts model = some_model(1, 1, 4, 4, ROPE_SPLIT_HALF);
    bit_plan *plan = some_plan(&model, CODEBOOK_BLOCK_GTQ);
    codec_tables *tables = NULL;
    head_codec *codec = NULL;
    uint8_t packed[2];
    float x[4];
    double restored[4];
    assert_ok(plan_head_set_trellis(&plan->heads[0], widths, basis, weights, 2, 1, 4, &err));
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(head_codec_create(&codec, &plan->heads[0], &model, tables, &err));
    assert_int_equal(head_codec_packed_bytes(codec), 2);
    pack_codes(packed, codes, head_codec_widths(codec), 4);
    assert_memory_equal(packed, stream, 2);
    assert_ok(head_codec_decode(codec, codes, NULL, 1, x, &err));
    ropebits_plan *library = in_library(plan);
    restore(restored, stream, library, ropebits_plan_head(library, 0, 0), 4);
    for (int i = 0; i < 4; i++) {
        assert_true(fabs((double)x[i] - expected[i]) < 5e-5);
        assert_true(fabs(restored[i] - expected[i]) < 5e-5);
    }
    ropebits_plan_close(library);
    head_codec_free(codec);
    codec_tables_free(tables);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_heads_cost_what_they_store),
        cmocka_unit_test(a_value_head_is_a_copy_of_its_own),
        cmocka_unit_test(values_are_compared_head_by_head),
        cmocka_unit_test(the_check_names_the_head),
        cmocka_unit_test(the_version_is_that_of_the_family_or_of_value_heads),
        cmocka_unit_test(plans_survive_both_files),
        cmocka_unit_test(a_large_plan_survives),
        cmocka_unit_test(heads_say_what_they_store),
        cmocka_unit_test(a_damaged_basis_is_named),
        cmocka_unit_test(every_damage_is_named),
        cmocka_unit_test(the_family_is_refused_in_versions_before),
        cmocka_unit_test(the_library_says_how_keys_and_values_are_coded),
        cmocka_unit_test(a_plan_without_them_has_no_tables_and_no_value_heads),
        cmocka_unit_test(what_the_header_says_restores_as_the_quantizer_does),
        cmocka_unit_test(the_worked_example_is_right),
    };
    return cmocka_run_group_tests_name("plan_trellis", tests, NULL, NULL);
}
