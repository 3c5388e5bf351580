/* plan.json: what it says, the way there and back, and every contradiction a reader must find. */
#include "tests/test_support.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "methods/allocator.h"
#include "plan/plan_json.h"
#include "tests/plan/plan_json_damage.h"

enum { N_LAYERS = 3, N_KV_HEADS = 2, HEAD_DIM = 16, N_BLOCKS = HEAD_DIM / 2 };

static rb_error err;

static model_facts some_model(rope_kind kind, rope_pairing pairing, int rotary_dim)
{
    model_facts model = {.model_type = "llama",
                         .n_layers = N_LAYERS,
                         .n_q_heads = 4 * N_KV_HEADS,
                         .n_kv_heads = N_KV_HEADS,
                         .head_dim = HEAD_DIM,
                         .rotary_dim = rotary_dim,
                         .value_dim = HEAD_DIM,
                         .attention_scale = 0.25,
                         .rope = {.attention_factor = 1,
                                  .kind = kind,
                                  .pairing = pairing,
                                  .theta = 500000.0,
                                  .factor = kind == ROPE_DEFAULT ? 1.0 : 8.0 / 3.0}};
    if (kind == ROPE_LLAMA3) {
        model.rope.low_freq_factor = 1.0;
        model.rope.high_freq_factor = 4.0;
        model.rope.original_max_position = 8192;
    }
    memset(model.config_sha256, 'c', RB_SHA256_HEX - 1);
    for (int i = 0; i < rotary_dim / 2; i++) model.rope.inv_freq[i] = pow(500000.0, -2.0 * i / rotary_dim) / 3.0;
    return model;
}

/* Energies that fall by block and differ by head, so that heads get different groups. */
static bit_plan *some_plan(const model_facts *model, allocation_method method, double avg_bits, int value_width)
{
    text_facts calibration = {.n_tokens = 2048, .context = 1024, .bos.mode = BOS_NONE};
    double q[N_LAYERS * N_KV_HEADS * N_BLOCKS], k[N_LAYERS * N_KV_HEADS * N_BLOCKS];
    bit_plan *plan = NULL;
    memset(calibration.tokens_sha256, 'd', RB_SHA256_HEX - 1);
    for (int i = 0; i < N_LAYERS * N_KV_HEADS * N_BLOCKS; i++) {
        q[i] = exp2((i * 5) % N_BLOCKS * (1 + i / N_BLOCKS) / 4.0);
        k[i] = 1.0 + (i * 3) % N_BLOCKS;
    }
    assert_ok(allocate_plan(&plan, model, &calibration, method, avg_bits, value_width,
                            &(head_statistics){.q_energy = q, .k_energy = k}, &err));
    return plan;
}

static bit_plan *plain_plan(void)
{
    const model_facts model = some_model(ROPE_DEFAULT, ROPE_SPLIT_HALF, HEAD_DIM);
    return some_plan(&model, METHOD_BLOCK_GTQ, 3, 3);
}

/* ---- there and back -------------------------------------------------------------------------- */

static char *file_text(const char *path)
{
    char *text = NULL;
    size_t size;
    assert_ok(rb_read_file(&text, &size, path, 1 << 20, &err));
    return text;
}

static void assert_same_plan(const bit_plan *a, const bit_plan *b)
{
    assert_memory_equal(&a->model, &b->model, sizeof a->model);
    assert_memory_equal(&a->calibration, &b->calibration, sizeof a->calibration);
    assert_string_equal(a->method, b->method);
    assert_true(a->avg_bits == b->avg_bits);
    assert_memory_equal(a->value_widths, b->value_widths, (size_t)a->model.n_layers * (size_t)a->model.n_kv_heads);
    assert_int_equal(a->value_codebook, b->value_codebook);
    for (int h = 0; h < a->model.n_layers * a->model.n_kv_heads; h++) {
        assert_int_equal(a->heads[h].groups.n, b->heads[h].groups.n);
        for (int g = 0; g < a->heads[h].groups.n; g++) {
            const plan_group *x = &a->heads[h].groups.at[g], *y = &b->heads[h].groups.at[g];
            assert_int_equal(x->width, y->width);
            assert_int_equal(x->order, y->order);
            assert_int_equal(x->codebook, y->codebook);
            assert_int_equal(x->rotation.kind, y->rotation.kind);
            assert_true(x->rotation.seed == y->rotation.seed);
            assert_int_equal(x->rotation.dims, y->rotation.dims);
            assert_int_equal(x->n_blocks, y->n_blocks);
            assert_memory_equal(x->blocks, y->blocks, (size_t)x->n_blocks * sizeof *x->blocks);
        }
    }
}

/* Write, read, write: the same plan and the same bytes. Frees the plan. */
static void assert_round_trip(bit_plan *plan)
{
    const char *path = scratch_path("plan.json"), *again = scratch_path("again.json");
    bit_plan *back = NULL;
    assert_ok(plan_json_write(plan, path, &err));
    assert_ok(plan_json_read(&back, path, &err));
    assert_same_plan(plan, back);
    assert_ok(plan_json_write(back, again, &err));
    char *first = file_text(path), *second = file_text(again);
    assert_string_equal(first, second);
    free(first);
    free(second);
    bit_plan_free(plan);
    bit_plan_free(back);
}

static void a_plan_comes_back_for_every_rope_method_and_value_width(void **state)
{
    (void)state;
    const model_facts plain = some_model(ROPE_DEFAULT, ROPE_SPLIT_HALF, HEAD_DIM),
                      partial = some_model(ROPE_LINEAR, ROPE_INTERLEAVED, 6);
    const model_facts llama3 = some_model(ROPE_LLAMA3, ROPE_SPLIT_HALF, HEAD_DIM);
    assert_round_trip(some_plan(&plain, METHOD_BLOCK_GTQ, 2.3, 1));
    assert_round_trip(some_plan(&plain, METHOD_UNIFORM, 8, 8));
    assert_round_trip(some_plan(&partial, METHOD_BLOCK_GTQ, 3, PLAN_FP16_WIDTH));
    assert_round_trip(some_plan(&llama3, METHOD_BLOCK_GTQ, 5.9, 4));
}

static void what_allocators_do_not_make_comes_back_too(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan();
    memset(plan->model.weights_sha256, 'e', RB_SHA256_HEX - 1);
    plan->calibration = (text_facts){.n_tokens = 0};
    plan->value_codebook = CODEBOOK_SPHERE;
    plan_group *group = &plan->heads[1].groups.at[0];
    group->codebook = CODEBOOK_SPHERE;
    group->order = GROUP_ORDER_NATURAL;
    group->rotation.seed = ((uint64_t)1 << 53) - 1;
    assert_round_trip(plan);
}

static void a_hadamard_plan_says_so_and_comes_back(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan();
    allocate_set_rotation(plan, ROTATION_HADAMARD);
    plan->heads[1].groups.at[0].rotation.kind = ROTATION_HAAR; /* a kind is a group's own */
    const char *path = scratch_path("hadamard.json");
    assert_ok(plan_json_write(plan, path, &err));
    char *text = file_text(path);
    assert_non_null(strstr(text, "\"hadamard\""));
    free(text);
    assert_round_trip(plan);
}

static void a_seed_that_a_json_number_cannot_hold_is_not_written(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan();
    const char *path = scratch_path("seed.json");
    plan->heads[3].groups.at[0].rotation.seed = (uint64_t)1 << 53;
    assert_fails(plan_json_write(plan, path, &err), RB_EUNSUPPORTED, "9007199254740992, expected below 2^53");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
}

static void a_folder_that_is_not_there_is_named(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan(), *back = NULL;
    assert_fails(plan_json_write(plan, scratch_path("absent/plan.json"), &err), RB_EIO, "absent/plan.json");
    assert_fails(plan_json_read(&back, scratch_path("absent.json"), &err), RB_EIO, "absent.json");
    assert_null(back);
    bit_plan_free(plan);
}

/* ---- what it says ---------------------------------------------------------------------------- */

static void assert_near(double a, double b) { assert_true(fabs(a - b) <= 1e-12 * fabs(b)); }

/* One head of 16 dims in two groups: widths 2 x 12 dims and 5 x 4 dims are 44 bits, 6 bytes = 48, two norms = 32: 80
 * bits. */
static void costs_are_those_of_a_hand_count(void **state)
{
    (void)state;
    static const uint8_t bits[N_BLOCKS] = {2, 5, 2, 2, 5, 2, 2, 2};
    bit_plan *plan = plain_plan();
    cJSON *json = NULL;
    for (int h = 0; h < N_LAYERS * N_KV_HEADS; h++)
        assert_ok(plan_head_set_block_widths(&plan->heads[h], bits, N_BLOCKS, CODEBOOK_BLOCK_GTQ, &err));
    assert_ok(plan_to_json(&json, plan, &err));
    assert_near(number_at(json, "true_bits"), 80.0 / 16);
    assert_near(number_at(json, "layers.2.kv_heads.1.true_bits"), 80.0 / 16);
    assert_near(number_at(json, "cost.key_nominal_bits"), 44.0 / 16);
    assert_near(number_at(json, "cost.key_true_bits"), 80.0 / 16);
    assert_near(number_at(json, "cost.value_true_bits"), (3 * 16 + 16) / 16.0);
    assert_near(number_at(json, "cost.bytes_per_token"), 6 * (80 + 64) / 8.0);
    assert_near(number_at(json, "cost.fp16_bytes_per_token"), 6 * 2 * 16 * 2);
    assert_near(number_at(json, "cost.compression"), 384.0 / 108.0);
    assert_string_equal(find(json, "schema")->valuestring, "ropebits-plan");
    assert_near(number_at(json, "version"), 1);
    assert_string_equal(find(json, "method")->valuestring, "block-gtq");
    assert_near(number_at(json, "layers.1.kv_heads.1.groups.1.width"), 5);
    assert_near(number_at(json, "layers.1.kv_heads.1.groups.1.blocks.1"), 4);
    assert_near(number_at(json, "layers.1.kv_heads.1.groups.1.rotation.seed"), 47);
    assert_near(number_at(json, "layers.1.kv_heads.1.groups.1.rotation.dims"), 4);
    assert_near(number_at(json, "layers.1.kv_heads.1.bits.4"), 5);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

/* ---- what is refused ------------------------------------------------------------------------- */

/* Head (1, 0) of the plan has groups; group 0 is its narrowest. */
static const refusal refusals[] = {
    {"schema", "\"ropebits-capture\"", RB_EFORMAT, "schema is \"ropebits-capture\", expected \"ropebits-plan\""},
    {"version", "6", RB_EUNSUPPORTED, "version is 6, expected 5"},
    {"model", NULL, RB_EFORMAT, "p.json: model: is missing"},
    {"model.head_dim", "32", RB_EFORMAT, "p.json: layer 0 kv_head 0: bits has 8 entries, expected 16 blocks"},
    {"model.n_layers", "4", RB_EFORMAT, "3 layers, expected the model's 4"},
    {"model.n_kv_heads", "4", RB_EFORMAT, "layer 0: 2 kv_heads, expected the model's 4"},
    {"model.rope.inv_freq.2", "-1", RB_EFORMAT, "p.json: model"},
    {"calibration.tokens_sha256", "\"abc\"", RB_EFORMAT, "p.json: calibration.tokens_sha256"},
    {"method", "\"a-method-with-a-name-of-33-letters\"", RB_EFORMAT, "longer than 31 characters"},
    {"method", "\"\"", RB_EFORMAT, "method is \"\", expected a name of letters"},
    {"avg_bits", "\"3\"", RB_EFORMAT, "avg_bits: found a string"},
    {"avg_bits", "17", RB_EINVAL, "avg_bits: is 17"},
    {"true_bits", "3", RB_EFORMAT, "\"true_bits\" is 3, but"},
    {"cost", NULL, RB_EFORMAT, "cost: is missing"},
    {"cost.key_nominal_bits", "2.999", RB_EFORMAT,
     "p.json: cost: \"key_nominal_bits\" is 2.999, but the plan itself gives 3"},
    {"cost.key_true_bits", "3.5", RB_EFORMAT, "\"key_true_bits\" is 3.5"},
    {"cost.value_true_bits", "3", RB_EFORMAT, "\"value_true_bits\" is 3, but the plan itself gives 4"},
    {"cost.bytes_per_token", "1", RB_EFORMAT, "\"bytes_per_token\" is 1"},
    {"cost.fp16_bytes_per_token", "385", RB_EFORMAT, "is 385, but the plan itself gives 384"},
    {"cost.compression", "100", RB_EFORMAT, "\"compression\" is 100"},
    {"values", NULL, RB_EFORMAT, "values: is missing"},
    {"values.width", "0", RB_EINVAL, "p.json: values.width: is 0"},
    {"values.width", "12", RB_EFORMAT, "value width is 12"},
    {"values.width", "4", RB_EFORMAT, "value_true_bits\" is 4, but the plan itself gives 5"},
    {"values.codebook", "\"k-means\"", RB_EUNSUPPORTED, "p.json: values: unknown codebook \"k-means\""},
    {"layers", "{}", RB_EFORMAT, "layers: found an object"},
    {"layers.2", NULL, RB_EFORMAT, "2 layers, expected the model's 3"},
    {"layers.1.layer", "2", RB_EINVAL, "layer 1.layer: is 2, expected 1"},
    {"layers.1.kv_heads.1", NULL, RB_EFORMAT, "layer 1: 1 kv_heads, expected the model's 2"},
    {"layers.1.kv_heads.0", "7", RB_EFORMAT, "layer 1 kv_head 0: found a number, expected an object"},
    {"layers.1.kv_heads.0.kv_head", "1", RB_EINVAL, "layer 1 kv_head 0.kv_head: is 1, expected 0"},
    {"layers.1.kv_heads.0.true_bits", "2", RB_EFORMAT, "layer 1 kv_head 0: \"true_bits\" is 2"},
    {"layers.1.kv_heads.0.bits.3", NULL, RB_EFORMAT, "layer 1 kv_head 0: bits has 7 entries, expected 8 blocks"},
    {"layers.1.kv_heads.0.bits.3", "8.5", RB_EFORMAT, "layer 1 kv_head 0: bits[3] is 8.5, but its group has width"},
    {"layers.1.kv_heads.0.bits.3", "null", RB_EFORMAT, "layer 1 kv_head 0: bits[3] is no number"},
    {"layers.1.kv_heads.0.groups", "[]", RB_EFORMAT, "layer 1 kv_head 0: bits[0] is 2, but its group has width 0"},
    {"layers.1.kv_heads.0.groups", "[1,2,3,4,5,6,7,8,9]", RB_EFORMAT,
     "layer 1 kv_head 0: 9 groups, expected at most one a block, 8"},
    {"layers.1.kv_heads.0.groups.0", "[]", RB_EFORMAT, "layer 1 kv_head 0 group 0: found an array, expected an object"},
    {"layers.1.kv_heads.0.groups.0.width", "9", RB_EINVAL, "layer 1 kv_head 0 group 0.width: is 9, expected 1 to 8"},
    {"layers.1.kv_heads.0.groups.0.blocks.0", "8", RB_EFORMAT,
     "layer 1 kv_head 0 group 0: blocks[0] is no block, expected a whole number from 0 to 7"},
    {"layers.1.kv_heads.0.groups.0.blocks.0", "-1", RB_EFORMAT, "blocks[0] is no block"},
    {"layers.1.kv_heads.0.groups.0.blocks.0", "0.5", RB_EFORMAT, "blocks[0] is no block"},
    {"layers.1.kv_heads.0.groups.0.blocks", "[0,1,2,3,4,5,6,7,7]", RB_EFORMAT,
     "group 0: 9 blocks, expected at most the head's 8"},
    {"layers.1.kv_heads.0.groups.0.order", "\"sorted\"", RB_EFORMAT,
     "group 0: order is \"sorted\", expected \"block\" or \"natural\""},
    {"layers.1.kv_heads.0.groups.0.rotation.kind", "\"givens\"", RB_EUNSUPPORTED,
     "group 0: unknown rotation \"givens\""},
    {"layers.1.kv_heads.0.groups.0.rotation.seed", "-1", RB_EINVAL, "seed: is -1"},
    {"layers.1.kv_heads.0.groups.0.rotation.seed", "9007199254740993", RB_EINVAL,
     "seed: is 9007199254740992, expected 0 to 9007199254740991"},
    {"layers.1.kv_heads.0.groups.0.rotation.dims", "16", RB_EFORMAT, "rotation has 16 dims, expected"},
    {"layers.1.kv_heads.0.groups.0.codebook", "\"k-means\"", RB_EUNSUPPORTED, "unknown codebook \"k-means\""},
};

static void every_contradiction_is_found_and_named_with_its_place(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan(), *back = NULL;
    cJSON *good = NULL;
    assert_ok(plan_to_json(&good, plan, &err));
    assert_ok(plan_from_json(&back, good, "p.json", &err));
    for (size_t i = 0; i < RB_COUNT(refusals); i++) assert_refused(good, &refusals[i]);
    cJSON_Delete(good);
    bit_plan_free(plan);
    bit_plan_free(back);
}

/* ---- version 2 ------------------------------------------------------------------------------- */

/* Head 0: a dropped block, 8-bit norms, scales and a centre. The others are of the published form. */
static bit_plan *rich_plan(void)
{
    static const int low[] = {0, 2}, high[] = {1, 4, 5, 6, 7};
    bit_plan *plan = plain_plan();
    plan_head *head = &plan->heads[0];
    double scales[N_BLOCKS], center[HEAD_DIM];
    for (int i = 0; i < N_BLOCKS; i++) scales[i] = exp(0.3 * i - 1.0);
    for (int i = 0; i < HEAD_DIM; i++) center[i] = sin(i);
    plan_head_clear(head);
    head->groups.norm = NORM_LOG8;
    head->groups.encoder = ENCODER_SEARCH;
    assert_ok(plan_head_add_group(head, 2, low, 2, CODEBOOK_SPHERE, -3, &err));
    assert_ok(plan_head_add_group(head, 3, high, 5, CODEBOOK_SPHERE, 4, &err));
    head->groups.at[1].coherence = 2.75f;
    assert_ok(plan_head_set_transform(head, scales, N_BLOCKS, center, HEAD_DIM, &err));
    return plan;
}

static void what_the_published_form_does_not_have_comes_back(void **state)
{
    (void)state;
    bit_plan *plan = rich_plan(), *back = NULL;
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_int_equal((int)cJSON_GetObjectItem(json, "version")->valuedouble, 2);
    assert_ok(plan_from_json(&back, json, "p.json", &err));
    for (int h = 0; h < N_LAYERS * N_KV_HEADS; h++)
        assert_true(plan_head_equal(&plan->heads[h], &back->heads[h], &plan->model));
    cJSON_Delete(json);
    bit_plan_free(back);
    assert_round_trip(plan);
}

static bit_plan *plan_with_mixed_values(void)
{
    bit_plan *plan = plain_plan();
    for (int h = 0; h < N_LAYERS * N_KV_HEADS; h++) plan->value_widths[h] = (uint8_t)(2 + h % 4);
    return plan;
}

static void a_width_a_head_comes_back_and_makes_a_plan_version_2(void **state)
{
    (void)state;
    bit_plan *plan = plan_with_mixed_values();
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_true(number_at(json, "version") == 2);
    assert_true(number_at(json, "values.widths.1.0") == 4);
    assert_null(find(json, "values.width"));
    cJSON_Delete(json);
    assert_round_trip(plan);
}

static void damage_to_a_width_a_head_is_named(void **state)
{
    (void)state;
    static const refusal widths[] = {
        {"version", "1", RB_EFORMAT, "p.json: values: widths from 2 to 5, expected one in version 1"},
        {"values.width", "3", RB_EFORMAT, "p.json: values: has width and widths, expected one of them"},
        {"values.widths", "3", RB_EFORMAT, "values.widths: found a number"},
        {"values.widths.2", NULL, RB_EFORMAT, "p.json: values: widths of 2 layers, expected the model's 3"},
        {"values.widths.1", "[3]", RB_EFORMAT, "p.json: values: widths[1] is no list of 2 numbers, one a KV head"},
        {"values.widths.1", "3", RB_EFORMAT, "p.json: values: widths[1] is no list of 2 numbers, one a KV head"},
        {"values.widths.1.1", "0", RB_EFORMAT,
         "p.json: values: widths[1][1] is no width, expected a whole number from 1 to 8"},
        {"values.widths.1.1", "2.5", RB_EFORMAT, "widths[1][1] is no width"},
        {"values.widths.1.1", "16", RB_EFORMAT, "widths[1][1] is no width"},
        {"values.widths.1.1", "null", RB_EFORMAT, "widths[1][1] is no width"},
        {"values.widths.1.1", "1", RB_EFORMAT, "\"value_true_bits\" is"},
    };
    bit_plan *plan = plan_with_mixed_values();
    cJSON *good = NULL;
    assert_ok(plan_to_json(&good, plan, &err));
    for (size_t i = 0; i < RB_COUNT(widths); i++) assert_refused(good, &widths[i]);
    cJSON_Delete(good);
    bit_plan_free(plan);
}

static void a_plan_of_the_published_form_stays_version_1(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan();
    cJSON *json = NULL;
    assert_ok(plan_to_json(&json, plan, &err));
    assert_int_equal((int)cJSON_GetObjectItem(json, "version")->valuedouble, 1);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

static void damage_to_what_version_2_adds_is_named(void **state)
{
    (void)state;
    static const refusal rich[] = {
        {"version", "1", RB_EFORMAT,
         "p.json: layer 0 kv_head 0: a block without bits, scales, a center, norm log8 or encoder search, expected "
         "none in version 1"},
        {"layers.0.kv_heads.0.norm", "\"log4\"", RB_EUNSUPPORTED, "layer 0 kv_head 0: unknown norm \"log4\""},
        {"layers.0.kv_heads.0.encoder", "\"best\"", RB_EUNSUPPORTED, "layer 0 kv_head 0: unknown encoder \"best\""},
        {"layers.0.kv_heads.0.scales", "[1,2]", RB_EFORMAT, "layer 0 kv_head 0: scales has 2 entries, expected 8"},
        {"layers.0.kv_heads.0.scales.3", "0", RB_EFORMAT,
         "layer 0 kv_head 0: scale 3 is 0, expected a number above 0 that fp16 holds"},
        {"layers.0.kv_heads.0.scales.3", "0.1", RB_EFORMAT,
         "layer 0 kv_head 0: scales[3] is 0.10000000000000001, expected a number that fp16 holds"},
        {"layers.0.kv_heads.0.scales.3", "0.25000000001", RB_EFORMAT, "layer 0 kv_head 0: scales[3] is 0.25000000001"},
        {"layers.0.kv_heads.0.scales.3", "0.7500152587890625", RB_EFORMAT,
         "layer 0 kv_head 0: scale 3 is 0.750015259, expected a number above 0 that fp16 holds"},
        {"layers.0.kv_heads.0.scales.3", "1e300", RB_EFORMAT,
         "layer 0 kv_head 0: scales[3] is 1.0000000000000001e+300"},
        {"layers.0.kv_heads.0.center.2", "\"a\"", RB_EFORMAT, "layer 0 kv_head 0: center[2] is no number"},
        {"layers.0.kv_heads.0.center.2", "1e9", RB_EFORMAT,
         "layer 0 kv_head 0: center 2 is 1e+09, expected a number that fp16 holds"},
        {"layers.0.kv_heads.0.groups.0.norm_exponent", NULL, RB_EFORMAT,
         "layer 0 kv_head 0 group 0.norm_exponent: is missing"},
        {"layers.0.kv_heads.0.groups.0.norm_exponent", "200", RB_EINVAL, "norm_exponent: is 200"},
        {"layers.0.kv_heads.0.groups.1.coherence", "-1", RB_EINVAL, "coherence: is -1"},
        {"layers.0.kv_heads.0.groups.1.coherence", "0", RB_EFORMAT,
         "layer 0 kv_head 0 group 1: coherence 0 is 0, expected a number above 0 that fp16 holds"},
        {"layers.0.kv_heads.0.groups.1.coherence", "2.7500000001", RB_EFORMAT,
         "layer 0 kv_head 0 group 1: coherence is 2.7500000001"},
        {"layers.0.kv_heads.1.groups.0.norm_exponent", "3", RB_EFORMAT,
         "layer 0 kv_head 1 group 0: has a norm_exponent, expected none with norm fp16"},
        {"layers.0.kv_heads.1.groups.0.coherence", "1", RB_EFORMAT,
         "layer 0 kv_head 1 group 0: has a coherence, expected none with encoder nearest"},
        {"layers.0.kv_heads.0.bits.3", "1", RB_EFORMAT, "layer 0 kv_head 0: bits[3] is 1, but its group has width 0"},
    };
    bit_plan *plan = rich_plan();
    cJSON *good = NULL;
    assert_ok(plan_to_json(&good, plan, &err));
    for (size_t i = 0; i < RB_COUNT(rich); i++) assert_refused(good, &rich[i]);
    cJSON_Delete(good);
    bit_plan_free(plan);
}

/* Groups 0 1 2 3 4 (width 2) and 4 5 6 7 (width 3), everything else made to agree: bits by the second group, 10 * 2 + 8
 * * 3 = 44 bits in 6 bytes, two norms: 80. */
static void a_block_in_two_groups_is_found_though_all_stated_numbers_agree(void **state)
{
    (void)state;
    static const uint8_t bits[N_BLOCKS] = {2, 2, 2, 2, 3, 3, 3, 3};
    bit_plan *plan = plain_plan(), *back = NULL;
    cJSON *json = NULL;
    assert_ok(plan_head_set_block_widths(&plan->heads[0], bits, N_BLOCKS, CODEBOOK_BLOCK_GTQ, &err));
    assert_ok(plan_to_json(&json, plan, &err));
    change(json, "layers.0.kv_heads.0.groups.0.blocks.+", "4");
    change(json, "layers.0.kv_heads.0.groups.0.rotation.dims", "10");
    change(json, "layers.0.kv_heads.0.true_bits", "5");
    assert_fails(plan_from_json(&back, json, "p.json", &err), RB_EFORMAT,
                 "layer 0 kv_head 0 group 1: block 4 is in another group too");
    assert_null(back);
    cJSON_Delete(json);
    bit_plan_free(plan);
}

static void text_that_is_no_plan_is_refused(void **state)
{
    (void)state;
    bit_plan *plan = plain_plan(), *back = NULL;
    const char *path = scratch_path("cut.json");
    assert_ok(plan_json_write(plan, path, &err));
    assert_int_equal(truncate(path, 700), 0);
    assert_fails(plan_json_read(&back, path, &err), RB_EFORMAT, "cut.json: line ");
    assert_null(back);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_comes_back_for_every_rope_method_and_value_width),
        cmocka_unit_test(what_allocators_do_not_make_comes_back_too),
        cmocka_unit_test(a_hadamard_plan_says_so_and_comes_back),
        cmocka_unit_test(a_seed_that_a_json_number_cannot_hold_is_not_written),
        cmocka_unit_test(a_folder_that_is_not_there_is_named),
        cmocka_unit_test(costs_are_those_of_a_hand_count),
        cmocka_unit_test(every_contradiction_is_found_and_named_with_its_place),
        cmocka_unit_test(a_block_in_two_groups_is_found_though_all_stated_numbers_agree),
        cmocka_unit_test(text_that_is_no_plan_is_refused),
        cmocka_unit_test(a_width_a_head_comes_back_and_makes_a_plan_version_2),
        cmocka_unit_test(damage_to_a_width_a_head_is_named),
        cmocka_unit_test(what_the_published_form_does_not_have_comes_back),
        cmocka_unit_test(a_plan_of_the_published_form_stays_version_1),
        cmocka_unit_test(damage_to_what_version_2_adds_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
