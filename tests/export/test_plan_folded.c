/* A plan's scales folded into the weights: the folded model's keys are the scaled keys, its logits are the model's, its
 * plan codes the same codes. Scales that are powers of two only move exponents, so with them everything must be equal
 * to the bit; others show what rounding the weights costs. */
#include "tests/test_support.h"

#include "core/half.h"
#include "core/json.h"
#include "core/threads.h"
#include "export/plan_folded.h"
#include "kernels/reference/head_codec.h"
#include "plan/plan_json.h"
#include "tests/export/folded_models.h"

static rb_error err;

/* ---- plans ----------------------------------------------------------------------------------- */

typedef enum scale_kind { POWERS_OF_TWO, ANY_SCALES, EQUAL_OVER_HEADS } scale_kind;

/* By head and block, from 1/4 to 4 or just above. */
static double some_scale(scale_kind kind, int h, int block)
{
    const int exponent = ((kind == EQUAL_OVER_HEADS ? 0 : h * 7) + block * 3) % 5 - 2;
    return ldexp(kind == ANY_SCALES ? 1.0 + (h * 13 + block * 29) % 64 / 64.0 : 1.0, exponent);
}

/* Two groups and two blocks that are dropped in each head. Head 1 has no scales, head 2 no centre, head 3 fp16 norms;
 * with EQUAL_OVER_HEADS all have scales. */
static bit_plan *plan_for(const char *folder, scale_kind kind)
{
    model_config config;
    assert_ok(model_config_read(&config, folder, &err));
    const model_facts *model = &config.facts;
    const int n_blocks = model_n_blocks(model);
    double scales[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    int blocks[RB_MAX_BLOCKS];
    bit_plan *plan = NULL;
    assert_ok(bit_plan_create(&plan, model, &err));
    strcpy(plan->method, "by-hand");
    plan->avg_bits = 3.0;
    bit_plan_set_value_width(plan, 4);
    plan->value_widths[1] = 5;
    plan->value_codebook = CODEBOOK_SPHERE;
    plan->calibration = (text_facts){.n_tokens = 64, .context = 32, .bos.mode = BOS_NONE};
    memset(plan->calibration.tokens_sha256, 'd', RB_SHA256_HEX - 1);
    for (int i = 0; i < n_blocks; i++) blocks[i] = i;
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        plan_head *head = &plan->heads[h];
        head->groups.norm = h == 3 ? NORM_FP16 : NORM_LOG8;
        head->groups.encoder = ENCODER_SEARCH;
        assert_ok(plan_head_add_group(head, 4, blocks, n_blocks / 2, CODEBOOK_SPHERE,
                                      head->groups.norm == NORM_LOG8 ? 6 : 0, &err));
        assert_ok(plan_head_add_group(head, 2, blocks + n_blocks / 2, n_blocks / 2 - 2, CODEBOOK_BLOCK_GTQ,
                                      head->groups.norm == NORM_LOG8 ? 5 : 0, &err));
        head->groups.at[1].coherence = 1.5f;
        for (int i = 0; i < n_blocks; i++) scales[i] = some_scale(kind, h, i);
        for (int i = 0; i < model->head_dim; i++) center[i] = (i * 5 + h) % 11 / 8.0 - 0.5;
        assert_ok(plan_head_set_transform(head, h == 1 && kind != EQUAL_OVER_HEADS ? NULL : scales, n_blocks,
                                          h == 2 ? NULL : center, model->head_dim, &err));
    }
    assert_ok(bit_plan_check(plan, "plan", &err));
    return plan;
}

static double scale_of(const bit_plan *plan, int layer, int kv_head, int dim)
{
    const plan_head *head = bit_plan_head(plan, layer, kv_head);
    const int half = plan->model.rotary_dim / 2;
    const bool is_split = plan->model.rope.pairing == ROPE_SPLIT_HALF && dim < plan->model.rotary_dim;
    return head->groups.scales ? (double)head->groups.scales[is_split ? dim % half : dim / 2] : 1.0;
}

/* ---- models ---------------------------------------------------------------------------------- */

/* Queries or keys of a layer of the folded model against scaled ones: relative RMS difference. */
static double heads_differ(const pass *plain, const pass *folded, const bit_plan *plan, int layer, bool is_query)
{
    const model_facts *facts = &plain->config.facts;
    const int n_heads = is_query ? facts->n_q_heads : facts->n_kv_heads,
              per_kv = is_query ? facts->n_q_heads / facts->n_kv_heads : 1;
    const int64_t first = layer * n_heads * head_floats(plain);
    const float *a = (is_query ? plain->q : plain->k) + first, *b = (is_query ? folded->q : folded->k) + first;
    double error = 0.0, size = 0.0;
    for (int head = 0; head < n_heads; head++)
        for (int64_t i = 0; i < head_floats(plain); i++) {
            const double scale = scale_of(plan, layer, head / per_kv, (int)(i % facts->head_dim));
            const double expected = (double)a[head * head_floats(plain) + i] * (is_query ? 1.0 / scale : scale);
            const double difference = (double)b[head * head_floats(plain) + i] - expected;
            error += difference * difference;
            size += expected * expected;
        }
    return sqrt(error / size);
}

/* Folds a plan into the model and runs both. */
static bit_plan *fold_and_run(pass *plain, pass *folded, const char *model, const char *name, scale_kind kind)
{
    char weights[PATH_MAX], folder[PATH_MAX];
    bit_plan *plan = plan_for(model, kind);
    snprintf(folder, sizeof folder, "%s", scratch_path(name));
    in_folder(weights, folder, "written.safetensors");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_ok(plan_folded_write_weights(plan, model, weights, &err));
    link_config(folder, model);
    assemble(folder, model, weights);
    run_pass(plain, model);
    run_pass(folded, folder);
    return plan;
}

/* Scales of powers of two: no weight is rounded and no sum changes. */
static void assert_exact(const char *model, const char *name, scale_kind kind)
{
    pass plain = {0}, folded = {0};
    bit_plan *plan = fold_and_run(&plain, &folded, model, name, kind);
    for (int layer = 0; layer < plan->model.n_layers; layer++) {
        assert_true(heads_differ(&plain, &folded, plan, layer, true) == 0.0);
        assert_true(heads_differ(&plain, &folded, plan, layer, false) == 0.0);
    }
    assert_true(logits_differ(&plain, &folded) == 0.0);
    pass_free(&plain);
    pass_free(&folded);
    bit_plan_free(plan);
}

static void powers_of_two_change_no_bit_of_the_logits(void **state)
{
    (void)state;
    assert_exact(DEMO, "exact", POWERS_OF_TWO);
}

static void biases_take_the_scales_too(void **state)
{
    (void)state;
    SHARED_OR_SKIP(model, "oracle/qwen2");
    assert_exact(model, "qwen2", POWERS_OF_TWO);
}

static void norms_take_scales_that_all_heads_share(void **state)
{
    (void)state;
    SHARED_OR_SKIP(model, "oracle/qwen3");
    assert_exact(model, "qwen3", EQUAL_OVER_HEADS);
}

/* Interleaved pairs, of which half turn; and norms over all heads together, whose weights each head has for itself. */
static void other_families_are_folded_by_their_own_tensors(void **state)
{
    (void)state;
    assert_exact(MODELS "glm", "glm", POWERS_OF_TWO);
    assert_exact(MODELS "olmo2", "olmo2", POWERS_OF_TWO);
}

/* Bounds are about twice what was measured (RB_TEST_REPORT=1 prints it): q and k of the first layer, whose input is the
 * same, then the logits after all layers. */
static void assert_nearly_equal(const char *model, const char *name, double heads_bound, double logits_bound)
{
    pass plain = {0}, folded = {0};
    bit_plan *plan = fold_and_run(&plain, &folded, model, name, ANY_SCALES);
    const double q = heads_differ(&plain, &folded, plan, 0, true), k = heads_differ(&plain, &folded, plan, 0, false),
                 logits = logits_differ(&plain, &folded);
    if (getenv("RB_TEST_REPORT"))
        fprintf(stderr, "%s: relative RMS difference of q %.3g, k %.3g, logits %.3g\n", name, q, k, logits);
    assert_true(q > 0.0 && q < heads_bound);
    assert_true(k > 0.0 && k < heads_bound);
    assert_true(logits > 0.0 && logits < logits_bound);
    pass_free(&plain);
    pass_free(&folded);
    bit_plan_free(plan);
}

static void other_scales_cost_the_rounding_of_a_weight(void **state)
{
    (void)state;
    char f32[PATH_MAX], f16[PATH_MAX];
    snprintf(f32, sizeof f32, "%s", copy_model(DEMO, TENSOR_F32, "f32-model"));
    snprintf(f16, sizeof f16, "%s", copy_model(DEMO, TENSOR_F16, "f16-model"));
    assert_nearly_equal(f32, "f32", 6e-7, 1e-6);
    assert_nearly_equal(f16, "f16", 2.7e-4, 1.3e-4);
    assert_nearly_equal(DEMO, "bf16", 2e-3, 1e-3);
}

/* Gemma's norms multiply by one more than their weights say. F32 holds what bf16 weights become. */
static void norms_that_add_one_take_scales_too(void **state)
{
    (void)state;
    char f32[PATH_MAX];
    snprintf(f32, sizeof f32, "%s", copy_model(MODELS "gemma3", TENSOR_F32, "gemma3-f32"));
    assert_exact(f32, "gemma3", EQUAL_OVER_HEADS);
}

/* ---- what is written ------------------------------------------------------------------------- */

static void only_what_changes_is_written_in_the_dtype_it_had(void **state)
{
    (void)state;
    checkpoint *model = NULL;
    safetensors_file *file = NULL;
    const char *path = scratch_path("demo-folded.safetensors");
    assert_ok(checkpoint_open(&model, DEMO, &err));
    bit_plan *plan = plan_for(DEMO, ANY_SCALES);
    assert_ok(plan_folded_write_weights(plan, DEMO, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_int_equal(safetensors_count(file), 8);
    assert_string_equal(safetensors_metadata(file, "format"), "pt");
    for (int layer = 0; layer < 4; layer++)
        for (int is_query = 0; is_query < 2; is_query++) {
            char name[64];
            const safetensor *was;
            snprintf(name, sizeof name, "model.layers.%d.self_attn.%s_proj.weight", layer, is_query ? "q" : "k");
            const safetensor *is = safetensors_find(file, name);
            assert_non_null(is);
            assert_ok(checkpoint_tensor(model, name, 2, is->shape, &was, &err));
            assert_int_equal(is->dtype, was->dtype);
            /* Row 5 of the last head, one weight by hand. */
            const int row = (is_query ? 5 : 1) * 64 + 5;
            float before, after;
            assert_ok(safetensor_to_f32(was, row * 192 + 100, 1, &before, &err));
            assert_ok(safetensor_to_f32(is, row * 192 + 100, 1, &after, &err));
            const float scale = (float)scale_of(plan, layer, 1, 5);
            assert_true(after == rb_bf16_to_f32(rb_f32_to_bf16(is_query ? before / scale : before * scale)));
        }
    safetensors_close(file);
    checkpoint_close(model);
    bit_plan_free(plan);
}

/* Keys of the folded model, coded by its plan: the same codes and norms as the keys under the plan with scales,
 * restored scaled. */
static void the_folded_plan_gives_the_same_codes(void **state)
{
    (void)state;
    enum { N = 40 };
    const char *path = scratch_path("plan-folded.json");
    codec_tables *tables = NULL;
    bit_plan *folded = NULL;
    float keys[N * 64], scaled[N * 64], back[N * 64], scaled_back[N * 64];
    uint8_t codes[2][N * 64];
    uint16_t norms[2][N * 2];
    assert_ok(codec_tables_create(&tables, &err));
    bit_plan *plan = plan_for(DEMO, POWERS_OF_TWO);
    memset(plan->model.weights_sha256, 'e', RB_SHA256_HEX - 1);
    assert_ok(plan_folded_write_plan(plan, path, &err));
    assert_ok(plan_json_read(&folded, path, &err));
    assert_string_equal(folded->model.weights_sha256, "");
    assert_string_equal(folded->method, plan->method);
    assert_memory_equal(folded->value_widths, plan->value_widths,
                        (size_t)plan->model.n_layers * (size_t)plan->model.n_kv_heads);
    assert_memory_equal(&folded->calibration, &plan->calibration, sizeof plan->calibration);
    for (int h = 0; h < 8; h++) {
        head_codec *a = NULL, *b = NULL;
        assert_null(folded->heads[h].groups.scales);
        assert_ok(head_codec_create(&a, &plan->heads[h], &plan->model, tables, &err));
        assert_ok(head_codec_create(&b, &folded->heads[h], &folded->model, tables, &err));
        for (int i = 0; i < N * 64; i++) {
            keys[i] = (float)((i * 7919 + h * 104729) % 2003) / 500.0f - 2.0f;
            scaled[i] = keys[i] * (float)scale_of(plan, h / 2, h % 2, i % 64);
        }
        memset(codes, 0, sizeof codes);
        assert_ok(head_codec_encode(a, keys, N, codes[0], norms[0], &err));
        assert_ok(head_codec_encode(b, scaled, N, codes[1], norms[1], &err));
        assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
        assert_memory_equal(norms[0], norms[1], sizeof norms[0]);
        assert_ok(head_codec_decode(a, codes[0], norms[0], N, back, &err));
        assert_ok(head_codec_decode(b, codes[1], norms[1], N, scaled_back, &err));
        for (int i = 0; i < N * 64; i++)
            assert_true(scaled_back[i] == back[i] * (float)scale_of(plan, h / 2, h % 2, i % 64));
        head_codec_free(a);
        head_codec_free(b);
    }
    codec_tables_free(tables);
    bit_plan_free(plan);
    bit_plan_free(folded);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void a_plan_without_scales_has_nothing_to_fold(void **state)
{
    (void)state;
    const char *plan_path = scratch_path("once.json"), *path = scratch_path("none.safetensors");
    bit_plan *plan = plan_for(DEMO, ANY_SCALES), *folded = NULL;
    assert_ok(plan_folded_write_plan(plan, plan_path, &err));
    assert_ok(plan_json_read(&folded, plan_path, &err));
    assert_fails(plan_folded_write_weights(folded, DEMO, path, &err), RB_EUNSUPPORTED,
                 "the plan of method by-hand has no scales to fold");
    assert_fails(plan_folded_write_plan(folded, path, &err), RB_EUNSUPPORTED, "has no scales to fold");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
    bit_plan_free(folded);
}

/* A model that was folded has its old config.json: only the hash of the weights, where the plan knows it, tells it from
 * the one before. */
static void the_plan_must_be_of_the_model_and_its_weights(void **state)
{
    (void)state;
    const char *path = scratch_path("other.safetensors");
    checkpoint *model = NULL;
    bit_plan *plan = plan_for(DEMO, POWERS_OF_TWO);
    assert_ok(checkpoint_open(&model, DEMO, &err));
    assert_ok(checkpoint_weights_sha256(model, plan->model.weights_sha256, &err));
    checkpoint_close(model);
    assert_ok(plan_folded_write_weights(plan, DEMO, path, &err));
    assert_int_equal(unlink(path), 0);
    plan->model.weights_sha256[0] = plan->model.weights_sha256[0] == 'a' ? 'b' : 'a';
    assert_fails(plan_folded_write_weights(plan, DEMO, path, &err), RB_EMISMATCH,
                 "the plan and " DEMO ": weights_sha256");
    plan->model.weights_sha256[0] = '\0';
    plan->model.config_sha256[0] = plan->model.config_sha256[0] == 'a' ? 'b' : 'a';
    assert_fails(plan_folded_write_weights(plan, DEMO, path, &err), RB_EMISMATCH,
                 "the plan and " DEMO ": config_sha256");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
}

static void norms_cannot_take_scales_that_differ_by_head(void **state)
{
    (void)state;
    SHARED_OR_SKIP(folder, "oracle/qwen3");
    bit_plan *plan = plan_for(folder, POWERS_OF_TWO);
    assert_fails(plan_folded_write_weights(plan, folder, scratch_path("qk.safetensors"), &err), RB_EUNSUPPORTED,
                 "layer 0: dim 0 has scale 0.25 in kv_head 0 and 1 in kv_head 1, expected equal ones: qwen3 norms q "
                 "and k after their projections");
    bit_plan_free(plan);
}

static void families_without_matrices_for_queries_and_keys_are_refused(void **state)
{
    (void)state;
    static const char *const models[][2] = {
        {"phi3", "phi3"}, {"chatglm", "chatglm"}, {"gpt-neox", "gpt_neox"}, {"deepseek-lite", "deepseek_v2"}};
    for (size_t i = 0; i < RB_COUNT(models); i++) {
        char folder[64], message[200];
        const char *path = scratch_path("refused.safetensors");
        snprintf(folder, sizeof folder, MODELS "%s", models[i][0]);
        snprintf(message, sizeof message, "%s: scales cannot be folded into the weights of %s", folder, models[i][1]);
        bit_plan *plan = plan_for(DEMO, POWERS_OF_TWO);
        assert_fails(plan_folded_write_weights(plan, folder, path, &err), RB_EUNSUPPORTED, message);
        assert_int_equal(access(path, F_OK), -1);
        bit_plan_free(plan);
    }
}

static void a_weight_that_outgrows_its_dtype_is_named(void **state)
{
    (void)state;
    double scales[32];
    const char *path = scratch_path("large.safetensors");
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", copy_model(DEMO, TENSOR_F16, "f16-large"));
    bit_plan *plan = plan_for(DEMO, POWERS_OF_TWO);
    for (int i = 0; i < 32; i++) scales[i] = 0x1p-24;
    assert_ok(plan_head_set_transform(bit_plan_head(plan, 2, 1), scales, 32, NULL, 64, &err));
    assert_fails(plan_folded_write_weights(plan, folder, path, &err), RB_ENONFINITE,
                 "f16-large: tensor \"model.layers.2.self_attn.q_proj.weight\", folded: ");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
}

static void a_centre_that_outgrows_fp16_is_named(void **state)
{
    (void)state;
    const char *path = scratch_path("far.json");
    bit_plan *plan = plan_for(DEMO, POWERS_OF_TWO);
    plan_head *head = bit_plan_head(plan, 1, 1);
    head->center[7] = 60000.0f;
    head->groups.scales[7] = 2.0f;
    assert_fails(plan_folded_write_plan(plan, path, &err), RB_EFORMAT,
                 "far.json: layer 1 kv_head 1: center 7 is inf, expected a number that fp16 holds");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(powers_of_two_change_no_bit_of_the_logits),
        cmocka_unit_test(biases_take_the_scales_too),
        cmocka_unit_test(norms_take_scales_that_all_heads_share),
        cmocka_unit_test(other_scales_cost_the_rounding_of_a_weight),
        cmocka_unit_test(only_what_changes_is_written_in_the_dtype_it_had),
        cmocka_unit_test(the_folded_plan_gives_the_same_codes),
        cmocka_unit_test(a_plan_without_scales_has_nothing_to_fold),
        cmocka_unit_test(the_plan_must_be_of_the_model_and_its_weights),
        cmocka_unit_test(norms_cannot_take_scales_that_differ_by_head),
        cmocka_unit_test(other_families_are_folded_by_their_own_tensors),
        cmocka_unit_test(norms_that_add_one_take_scales_too),
        cmocka_unit_test(families_without_matrices_for_queries_and_keys_are_refused),
        cmocka_unit_test(a_weight_that_outgrows_its_dtype_is_named),
        cmocka_unit_test(a_centre_that_outgrows_fp16_is_named),
    };
    rb_threads_init(2);
    return cmocka_run_group_tests_name("plan_folded", tests, NULL, NULL);
}
