/* Bases of values folded into the weights: the folded model's values are the coordinates of the model's, its logits are
 * the model's but for rounding, and its plan codes the same codes. */
#include "tests/test_support.h"

#include "core/json.h"
#include "core/threads.h"
#include "export/fold_values.h"
#include "export/plan_folded.h"
#include "kernels/reference/head_codec.h"
#include "kernels/reference/trellis_codec.h"
#include "plan/plan_json.h"
#include "tests/export/folded_models.h"
#include "tests/plan/some_plan.h"

static rb_error err;

/* Keys by a method without scales; a center in the last head of the values. */
static bit_plan *plan_for(const char *folder)
{
    model_config config;
    bit_plan *plan = NULL;
    double center[RB_MAX_HEAD_DIM];
    assert_ok(model_config_read(&config, folder, &err));
    const model_facts *model = &config.facts;
    assert_ok(bit_plan_create(&plan, model, &err));
    strcpy(plan->method, "by-hand");
    plan->calibration = (text_facts){.n_tokens = 64, .context = 32, .bos.mode = BOS_NONE};
    memset(plan->calibration.tokens_sha256, 'd', RB_SHA256_HEX - 1);
    assert_ok(bit_plan_create_value_heads(plan, &err));
    for (int h = 0; h < bit_plan_n_heads(plan); h++) {
        assert_ok(plan_head_set_uniform(&plan->heads[h], 4, model_n_blocks(model), 42, CODEBOOK_BLOCK_GTQ, &err));
        make_trellis(&plan->value_heads[h], model->value_dim, h);
    }
    for (int i = 0; i < model->value_dim; i++) center[i] = (i * 5) % 11 / 8.0 - 0.5;
    assert_ok(plan_head_set_center(&plan->value_heads[bit_plan_n_heads(plan) - 1], center, model->value_dim, &err));
    assert_ok(bit_plan_check(plan, "plan", &err));
    return plan;
}

/* Values of the folded model times the basis against the model's, of a layer: relative RMS difference. */
static double values_differ(const pass *plain, const pass *folded, const bit_plan *plan, int layer)
{
    const int n = plan->model.n_kv_heads, d = plan->model.value_dim;
    double error = 0.0, size = 0.0;
    for (int h = layer * n; h < (layer + 1) * n; h++)
        for (int t = 0; t < N_TOKENS; t++) {
            const float *v = plain->v + h * head_floats(plain) + (int64_t)t * d,
                        *z = folded->v + h * head_floats(plain) + (int64_t)t * d;
            for (int j = 0; j < d; j++) {
                double sum = 0.0;
                for (int i = 0; i < d; i++) sum += (double)z[i] * (double)plan->value_heads[h].trellis.basis[i * d + j];
                error += (sum - (double)v[j]) * (sum - (double)v[j]);
                size += (double)v[j] * (double)v[j];
            }
        }
    return sqrt(error / size);
}

/* Bounds are about twice what was measured (RB_TEST_REPORT=1 prints it). */
static void assert_folded(const char *model, const char *name, int n_written, double values_bound, double logits_bound)
{
    char weights[PATH_MAX], folder[PATH_MAX];
    pass plain = {0}, folded = {0};
    safetensors_file *file = NULL;
    bit_plan *plan = plan_for(model);
    snprintf(folder, sizeof folder, "%s", scratch_path(name));
    in_folder(weights, folder, "written.safetensors");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_ok(plan_folded_write_weights(plan, model, weights, &err));
    assert_ok(safetensors_open(&file, weights, &err));
    assert_int_equal(safetensors_count(file), n_written * plan->model.n_layers);
    for (int64_t i = 0; i < safetensors_count(file); i++) {
        const char *tensor = safetensors_at(file, i)->name;
        assert_true(strstr(tensor, "v_proj") || strstr(tensor, "o_proj"));
    }
    safetensors_close(file);
    link_config(folder, model);
    assemble(folder, model, weights);
    run_pass(&plain, model);
    run_pass(&folded, folder);
    const double values = values_differ(&plain, &folded, plan, 0), logits = logits_differ(&plain, &folded);
    if (getenv("RB_TEST_REPORT"))
        fprintf(stderr, "%s: relative RMS difference of values %.3g, logits %.3g\n", name, values, logits);
    assert_true(values > 0.0 && values < values_bound);
    assert_true(logits > 0.0 && logits < logits_bound);
    pass_free(&plain);
    pass_free(&folded);
    bit_plan_free(plan);
}

static void the_folded_model_is_the_model_but_for_rounding(void **state)
{
    (void)state;
    char f32[PATH_MAX], glm[PATH_MAX], gemma[PATH_MAX];
    snprintf(f32, sizeof f32, "%s", copy_model(DEMO, TENSOR_F32, "f32-model"));
    snprintf(glm, sizeof glm, "%s", copy_model(MODELS "glm", TENSOR_F32, "f32-glm"));
    snprintf(gemma, sizeof gemma, "%s", copy_model(MODELS "gemma3", TENSOR_F32, "f32-gemma3"));
    assert_folded(f32, "f32", 2, 1e-6, 1e-6);
    assert_folded(DEMO, "bf16", 2, 5e-3, 5e-3);
    assert_folded(glm, "glm", 3, 1e-6, 1e-6);      /* with a bias */
    assert_folded(gemma, "gemma3", 2, 1e-6, 1e-6); /* with norms of queries and keys */
}

static void scales_and_bases_are_folded_together(void **state)
{
    (void)state;
    double scales[32];
    safetensors_file *file = NULL;
    const char *path = scratch_path("both.safetensors");
    bit_plan *plan = plan_for(DEMO);
    for (int i = 0; i < 32; i++) scales[i] = 1 << i % 3;
    assert_ok(plan_head_set_transform(&plan->heads[3], scales, 32, NULL, 64, &err));
    assert_ok(plan_folded_write_weights(plan, DEMO, path, &err));
    assert_ok(safetensors_open(&file, path, &err));
    assert_int_equal(safetensors_count(file), 4 * plan->model.n_layers);
    safetensors_close(file);
    bit_plan_free(plan);
}

/* Coordinates of a value, coded by the folded plan: the codes of the value, restored as coordinates. */
static void the_folded_plan_gives_the_same_codes(void **state)
{
    (void)state;
    enum { N = 40, D = 64 };
    const char *path = scratch_path("plan-folded.json");
    codec_tables *tables = NULL;
    bit_plan *folded = NULL, *plan = plan_for(DEMO);
    const model_facts values = model_value_facts(&plan->model);
    static float v[N * D], z[N * D], v_back[N * D], z_back[N * D];
    static uint8_t codes[2][N * D];
    static double inverse[D * D];
    assert_ok(codec_tables_create(&tables, &err));
    assert_ok(plan_folded_write_plan(plan, path, &err));
    assert_ok(plan_json_read(&folded, path, &err));
    assert_false(fold_values_is_needed(folded));
    for (int h = 0; h < 7; h++) { /* the last has a center, which is rounded */
        head_codec *a = NULL, *b = NULL;
        const plan_trellis *own = &plan->value_heads[h].trellis, *left = &folded->value_heads[h].trellis;
        assert_memory_equal(own->widths, left->widths, D);
        assert_int_equal(own->gain_bits, left->gain_bits);
        assert_int_equal(own->gain_zero, left->gain_zero);
        assert_memory_equal(own->weights, left->weights, D * sizeof(float));
        assert_ok(trellis_invert_basis(inverse, own, &err));
        for (int i = 0; i < N * D; i++) v[i] = (float)((i * 7919 + h * 104729) % 2003) / 500.0f - 2.0f;
        for (int t = 0; t < N; t++)
            for (int i = 0; i < D; i++) {
                double sum = 0.0;
                for (int j = 0; j < D; j++) sum += (double)v[t * D + j] * inverse[j * D + i];
                z[t * D + i] = (float)sum;
            }
        assert_ok(head_codec_create(&a, &plan->value_heads[h], &values, tables, &err));
        assert_ok(head_codec_create(&b, &folded->value_heads[h], &values, tables, &err));
        assert_ok(head_codec_encode(a, v, N, codes[0], NULL, &err));
        assert_ok(head_codec_encode(b, z, N, codes[1], NULL, &err));
        assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
        assert_ok(head_codec_decode(a, codes[0], NULL, N, v_back, &err));
        assert_ok(head_codec_decode(b, codes[1], NULL, N, z_back, &err));
        for (int t = 0; t < N; t++)
            for (int j = 0; j < D; j++) {
                double sum = 0.0;
                for (int i = 0; i < D; i++) sum += (double)z_back[t * D + i] * (double)own->basis[i * D + j];
                assert_true(fabs(sum - (double)v_back[t * D + j]) <= 1e-4);
            }
        head_codec_free(a);
        head_codec_free(b);
    }
    /* center' B = center, but for fp16. */
    for (int j = 0; j < D; j++) {
        double sum = 0.0;
        for (int i = 0; i < D; i++)
            sum += (double)folded->value_heads[7].center[i] * (double)plan->value_heads[7].trellis.basis[i * D + j];
        assert_true(fabs(sum - (double)plan->value_heads[7].center[j]) < 1e-3);
    }
    codec_tables_free(tables);
    bit_plan_free(plan);
    bit_plan_free(folded);
}

static void bases_are_folded_once(void **state)
{
    (void)state;
    const char *once = scratch_path("once.json"), *path = scratch_path("twice.safetensors");
    bit_plan *plan = plan_for(DEMO), *folded = NULL;
    assert_ok(plan_folded_write_plan(plan, once, &err));
    assert_ok(plan_json_read(&folded, once, &err));
    assert_fails(plan_folded_write_weights(folded, DEMO, path, &err), RB_EUNSUPPORTED,
                 "the plan of method by-hand has no scales to fold and no bases of values");
    assert_fails(plan_folded_write_plan(folded, path, &err), RB_EUNSUPPORTED, "no bases of values");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
    bit_plan_free(folded);
}

static void a_basis_without_an_inverse_is_named(void **state)
{
    (void)state;
    const char *path = scratch_path("singular.safetensors");
    bit_plan *plan = plan_for(DEMO);
    memset(plan->value_heads[3].trellis.basis, 0, 64 * sizeof(float));
    assert_fails(plan_folded_write_weights(plan, DEMO, path, &err), RB_EFORMAT,
                 "layer 1 kv_head 1, values: basis of 64 vectors cannot be inverted");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_folded_model_is_the_model_but_for_rounding),
        cmocka_unit_test(scales_and_bases_are_folded_together),
        cmocka_unit_test(the_folded_plan_gives_the_same_codes),
        cmocka_unit_test(bases_are_folded_once),
        cmocka_unit_test(a_basis_without_an_inverse_is_named),
    };
    rb_threads_init(2);
    return cmocka_run_group_tests_name("fold_values", tests, NULL, NULL);
}
