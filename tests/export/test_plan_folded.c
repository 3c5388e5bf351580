/* Folded projections: a checkpoint with them gives scaled keys, queries over the scales, and the logits of before. */
#include "tests/test_support.h"

#include "allocate/plan_json.h"
#include "core/atomic_file.h"
#include "core/threads.h"
#include "export/plan_folded.h"
#include "model/forward.h"

enum { N_TOKENS = 48 };
/* Sums in f32 from weights rounded once to f32. Measured: at most 1.3e-6 of the largest value (logits). */
#define MAX_RELATIVE 1e-5

/* A plan for the model in which every head but the last has its own scales and a center. */
static bit_plan *plan_for(const model_facts *model)
{
    rb_error err = {0};
    bit_plan *plan = NULL;
    double scales[RB_MAX_BLOCKS], center[RB_MAX_HEAD_DIM];
    assert_ok(bit_plan_create(&plan, model, &err));
    strcpy(plan->method, "optimal-center");
    plan->value_width = PLAN_FP16_WIDTH;
    strcpy(plan->model.weights_sha256, model->config_sha256);
    for (int h = 0; h < model->n_layers * model->n_kv_heads; h++) {
        assert_ok(plan_head_set_uniform(&plan->heads[h], 2, model_n_blocks(model), 42, CODEBOOK_SPHERE, &err));
        if (h == model->n_layers * model->n_kv_heads - 1) break;
        for (int b = 0; b < model_n_blocks(model); b++) scales[b] = 0.3 + 0.07 * ((5 * b + h) % 31);
        for (int i = 0; i < model->head_dim; i++) center[i] = 0.2 * (i % 9) - 0.5;
        assert_ok(plan_head_set_transform(&plan->heads[h], scales, model_n_blocks(model), center, model->head_dim, &err));
    }
    return plan;
}

/* What a pass over the tokens gave, all layers and tokens. */
typedef struct seen {
    float *q, *k, *logits;
    int64_t q_size, k_size, logits_size;    /* of a layer; of all logits */
    int64_t vocab;
} seen;

static rb_status keep_heads(void *user, layer_heads *heads, rb_error *err)
{
    seen *out = user;
    (void)err;
    memcpy(out->q + heads->layer * out->q_size, heads->q, (size_t)out->q_size * sizeof *out->q);
    memcpy(out->k + heads->layer * out->k_size, heads->k, (size_t)out->k_size * sizeof *out->k);
    return RB_OK;
}

static rb_status keep_logits(void *user, int64_t first, int64_t n, const float *logits, rb_error *err)
{
    seen *out = user;
    (void)err;
    memcpy(out->logits + first * out->vocab, logits, (size_t)(n * out->vocab) * sizeof *logits);
    return RB_OK;
}

static void run_model(seen *out, const char *folder)
{
    rb_error err = {0};
    checkpoint *model = NULL;
    int32_t tokens[N_TOKENS];
    const int64_t starts[] = {0, N_TOKENS};
    assert_ok(checkpoint_open(&model, folder, &err));
    const model_config *config = checkpoint_config(model);
    for (int t = 0; t < N_TOKENS; t++) tokens[t] = (17 * t + 3) % config->vocab_size;
    out->q_size = (int64_t)N_TOKENS * config->facts.n_q_heads * config->facts.head_dim;
    out->k_size = (int64_t)N_TOKENS * config->facts.n_kv_heads * config->facts.head_dim;
    out->vocab = config->vocab_size;
    out->logits_size = N_TOKENS * out->vocab;
    assert_ok(rb_alloc(&out->q, (size_t)(config->facts.n_layers * out->q_size), sizeof *out->q, "queries", &err));
    assert_ok(rb_alloc(&out->k, (size_t)(config->facts.n_layers * out->k_size), sizeof *out->k, "keys", &err));
    assert_ok(rb_alloc(&out->logits, (size_t)out->logits_size, sizeof *out->logits, "logits", &err));
    const token_batch batch = {tokens, N_TOKENS, starts, 1};
    const forward_hooks hooks = {.user = out, .on_qkv = keep_heads, .on_logits = keep_logits};
    assert_ok(forward_run(model, &batch, &hooks, &err));
    checkpoint_close(model);
}

static void free_seen(seen *all)
{
    free(all->q);
    free(all->k);
    free(all->logits);
}

/* max |found - expected * factor| <= MAX_RELATIVE max |expected * factor|; factors [n_heads][head_dim] of heads [n_heads][N_TOKENS][head_dim]; NULL: 1. */
static void assert_near(const char *what, const float *found, const float *expected, int64_t n, const double *factors, int head_dim)
{
    double worst = 0.0, largest = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double factor = factors ? factors[i / head_dim / N_TOKENS * head_dim + i % head_dim] : 1.0;
        worst = fmax(worst, fabs((double)found[i] - (double)expected[i] * factor));
        largest = fmax(largest, fabs((double)expected[i] * factor));
    }
    if (!(worst <= MAX_RELATIVE * largest)) fail_msg("%s: error %.3g of %.3g", what, worst, largest);
}

/* Folder: the checkpoint with the tensors of `folded` in place of its own. */
static void make_checkpoint(const char *folder, const char *original, const char *folded)
{
    static const char *const keys[] = {"format"}, *const values[] = {"pt"};
    rb_error err = {0};
    safetensors_file *from = NULL, *replaced = NULL;
    safetensor *tensors = NULL;
    char *path = NULL, command[2600];
    int64_t n_replaced = 0;
    assert_ok(rb_make_folder(folder, &err));
    snprintf(command, sizeof command, "cp '%s/config.json' '%s'", original, folder);
    assert_int_equal(system(command), 0);
    assert_ok(rb_format(&path, &err, "%s/model.safetensors", original));
    assert_ok(safetensors_open(&from, path, &err));
    assert_ok(safetensors_open(&replaced, folded, &err));
    free(path);
    assert_ok(rb_alloc(&tensors, (size_t)safetensors_count(from), sizeof *tensors, "tensors", &err));
    for (int64_t i = 0; i < safetensors_count(from); i++) {
        const safetensor *tensor = safetensors_at(from, i), *other = safetensors_find(replaced, tensor->name);
        n_replaced += other != NULL;
        tensors[i] = other ? *other : *tensor;
    }
    assert_int_equal(n_replaced, safetensors_count(replaced));
    assert_ok(rb_format(&path, &err, "%s/model.safetensors", folder));
    assert_ok(safetensors_write(path, tensors, safetensors_count(from), keys, values, 1, &err));
    free(path);
    free(tensors);
    safetensors_close(from);
    safetensors_close(replaced);
}

static void assert_folded_like(const char *original)
{
    rb_error err = {0};
    model_config config;
    seen before = {0}, after = {0};
    double scale[RB_MAX_HEAD_DIM * 64], inverse[RB_MAX_HEAD_DIM * 64];
    char what[64];
    assert_ok(model_config_read(&config, original, &err));
    const model_facts *model = &config.facts;
    bit_plan *plan = plan_for(model);
    const char *folded = scratch_path("plan-folded.safetensors"), *folder = scratch_path("folded");
    plan->model.weights_sha256[0] = '\0';
    assert_ok(plan_folded_write_weights(plan, original, folded, &err));
    make_checkpoint(folder, original, folded);
    run_model(&before, original);
    run_model(&after, folder);
    for (int layer = 0; layer < model->n_layers; layer++) {
        for (int h = 0; h < model->n_q_heads; h++)
            for (int b = 0; b < model_n_blocks(model); b++) {
                const int kv_head = h / model_q_per_kv(model);
                const plan_head *head = bit_plan_head(plan, layer, kv_head);
                int dims[2];
                model_block_dims(model, b, dims);
                for (int i = 0; i < 2; i++) {
                    scale[kv_head * model->head_dim + dims[i]] = head->scales ? (double)head->scales[b] : 1.0;
                    inverse[h * model->head_dim + dims[i]] = head->scales ? 1.0 / (double)head->scales[b] : 1.0;
                }
            }
        snprintf(what, sizeof what, "keys of layer %d", layer);
        assert_near(what, after.k + layer * after.k_size, before.k + layer * before.k_size, before.k_size, scale, model->head_dim);
        snprintf(what, sizeof what, "queries of layer %d", layer);
        assert_near(what, after.q + layer * after.q_size, before.q + layer * before.q_size, before.q_size, inverse, model->head_dim);
    }
    assert_near("logits", after.logits, before.logits, before.logits_size, NULL, 1);
    free_seen(&before);
    free_seen(&after);
    bit_plan_free(plan);
}

static void the_demo_model_keeps_its_logits(void **state)
{
    (void)state;
    assert_folded_like("configs/demo-llama");
}

static void a_model_with_biases_keeps_its_logits(void **state)
{
    (void)state;
    SHARED_OR_SKIP(folder, "oracle/qwen2");
    assert_folded_like(folder);
}

static void the_plan_that_is_left_has_no_scales_and_a_scaled_center(void **state)
{
    (void)state;
    rb_error err = {0};
    model_config config;
    bit_plan *folded = NULL;
    const char *path = scratch_path("plan-folded.json");
    assert_ok(model_config_read(&config, "configs/demo-llama", &err));
    bit_plan *plan = plan_for(&config.facts);
    const plan_head *head = &plan->heads[1];
    assert_ok(plan_folded_write_plan(plan, path, &err));
    assert_ok(plan_json_read(&folded, path, &err));
    assert_string_equal(folded->model.weights_sha256, "");
    for (int h = 0; h < config.facts.n_layers * config.facts.n_kv_heads; h++) assert_null(folded->heads[h].scales);
    /* Block 3 of split-half pairing: dims 3 and 35. fp16 rounds by 2^-11 at most. */
    for (int dim = 3; dim < 64; dim += 32) {
        const double expected = (double)head->center[dim] * (double)head->scales[3];
        assert_true(fabs((double)folded->heads[1].center[dim] - expected) <= fabs(expected) * 0x1p-11);
    }
    assert_null(folded->heads[7].center);
    assert_int_equal(folded->heads[1].groups[0].width, 2);
    bit_plan_free(folded);
    bit_plan_free(plan);
}

static void what_cannot_be_folded_is_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    model_config config;
    const char *path = scratch_path("refused.safetensors");
    assert_ok(model_config_read(&config, "configs/demo-llama", &err));
    bit_plan *plan = plan_for(&config.facts);
    plan->model.n_q_heads = 2 * config.facts.n_q_heads;
    assert_fails(plan_folded_write_weights(plan, "configs/demo-llama", path, &err), RB_EMISMATCH, "n_q_heads 12 and 6");
    plan->model.n_q_heads = config.facts.n_q_heads;
    for (int h = 0; h < config.facts.n_layers * config.facts.n_kv_heads; h++)
        assert_ok(plan_head_set_transform(&plan->heads[h], NULL, 32, NULL, 64, &err));
    assert_fails(plan_folded_write_weights(plan, "configs/demo-llama", path, &err), RB_EUNSUPPORTED, "has no scales to fold");
    assert_int_equal(access(path, F_OK), -1);
    bit_plan_free(plan);
}

static void a_model_with_norms_of_q_and_k_is_refused(void **state)
{
    (void)state;
    rb_error err = {0};
    model_config config;
    SHARED_OR_SKIP(folder, "oracle/qwen3");
    assert_ok(model_config_read(&config, folder, &err));
    bit_plan *plan = plan_for(&config.facts);
    assert_fails(plan_folded_write_weights(plan, folder, scratch_path("refused.safetensors"), &err), RB_EUNSUPPORTED, "norms q and k after their projections");
    bit_plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_model_keeps_its_logits),
        cmocka_unit_test(a_model_with_biases_keeps_its_logits),
        cmocka_unit_test(the_plan_that_is_left_has_no_scales_and_a_scaled_center),
        cmocka_unit_test(what_cannot_be_folded_is_refused),
        cmocka_unit_test(a_model_with_norms_of_q_and_k_is_refused),
    };
    rb_threads_init(2);
    return cmocka_run_group_tests_name("plan_folded", tests, NULL, NULL);
}
