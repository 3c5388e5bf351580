/* calibrate/output_metric.h on tiny checkpoints: the metric of o_proj, of the norm and the multiplier after it, and the
 * energy of the residual stream, each by its definition in double. */
#include "tests/model/tiny_checkpoint.h"

#include "calibrate/output_metric.h"
#include "core/threads.h"
#include "model/forward.h"
#include "tests/model/float_test.h"

enum { HIDDEN = 8, N = 12, N_TOKENS = 5 }; /* N: 2 query heads of 6 dims of one KV head */

#define SIZES                                                                                                   \
    "\"hidden_size\":8,\"intermediate_size\":10,\"max_position_embeddings\":64,\"num_attention_heads\":2,"      \
    "\"num_hidden_layers\":1,\"num_key_value_heads\":1,\"head_dim\":6,\"rms_norm_eps\":1e-6,\"vocab_size\":16," \
    "\"rope_theta\":10000.0"
static const char *const llama = CONFIG("llama", "");
static const char *const granite =
    CONFIG("granite", ",\"embedding_multiplier\":2.0,\"residual_multiplier\":0.5,\"attention_multiplier\":0.25,"
                      "\"logits_scaling\":4.0");
static const char *const gemma =
    "{\"model_type\":\"gemma2\",\"hidden_activation\":\"gelu_pytorch_tanh\",\"query_pre_attn_scalar\":6,"
    "\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0,\"sliding_window\":4," SIZES "}";

static const safetensor GEMMA_NORMS[] = {
    VECTOR(LAYER "pre_feedforward_layernorm.weight", 8),
    VECTOR(LAYER "post_feedforward_layernorm.weight", 8),
};

static rb_error err;

static checkpoint *open_tiny(const char *config, bool is_gemma)
{
    checkpoint *model = NULL;
    tensor_set set = plain_set();
    uint64_t state = 5;
    for (int i = 0; i < MAX_ELEMENTS; i++) values[i] = random_float(&state); /* every tensor starts with the same */
    if (is_gemma) {
        add_tensors(&set, GEMMA_NORMS, RB_COUNT(GEMMA_NORMS));
        remove_tensor(&set, "lm_head.weight");
    }
    assert_ok(checkpoint_open(&model, make_checkpoint(config, &set), &err));
    assert_ok(checkpoint_check(model, &err));
    return model;
}

static void the_metric_is_that_of_what_the_output_goes_through(void **state)
{
    (void)state;
    static const struct {
        const char *const *config;
        double scale;
        bool is_gemma;
    } models[] = {{&llama, 1.0, false}, {&granite, 0.5, false}, {&gemma, 1.0, true}};
    for (size_t m = 0; m < RB_COUNT(models); m++) {
        float found[N * N];
        checkpoint *model = open_tiny(*models[m].config, models[m].is_gemma);
        assert_ok(output_metric_compute(found, model, 0, &err));
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0.0;
                for (int row = 0; row < HIDDEN; row++) {
                    const double weight = models[m].scale * (models[m].is_gemma ? 1.0 + (double)values[row] : 1.0);
                    sum += weight * weight * (double)values[row * N + i] * (double)values[row * N + j];
                }
                assert_close((double)found[i * N + j], sum, 1e-5);
            }
        checkpoint_close(model);
    }
}

static void the_facts_are_those_of_the_configuration(void **state)
{
    (void)state;
    checkpoint *model = open_tiny(gemma, true);
    const capture_output facts = output_facts(checkpoint_config(model));
    assert_true(facts.is_known && facts.has_metric && facts.softcap == 50.0 && facts.window[0] == 4);
    checkpoint_close(model);
    model = open_tiny(llama, false);
    const capture_output plain = output_facts(checkpoint_config(model));
    assert_true(plain.is_known && plain.has_metric && plain.softcap == 0.0 && plain.window[0] == 0);
    checkpoint_close(model);
}

/* ---- the residual stream --------------------------------------------------------------------- */

typedef struct seen_layer {
    float attended[N_TOKENS * N];
    double energy[N_TOKENS];
    int n_calls;
} seen_layer;

static rb_status keep_attended(void *user, const layer_heads *heads, const float *attended, rb_error *e)
{
    seen_layer *seen = user;
    (void)heads, (void)e;
    memcpy(seen->attended, attended, sizeof seen->attended);
    return RB_OK;
}

static rb_status keep_energy(void *user, const layer_heads *heads, const double *energy, rb_error *e)
{
    seen_layer *seen = user;
    (void)e;
    assert_int_equal(heads->n_tokens, N_TOKENS);
    memcpy(seen->energy, energy, sizeof seen->energy);
    seen->n_calls++;
    return RB_OK;
}

/* |x + scale * norm(W o)|^2, times the mean square of W o where there is a norm. */
static double expected_energy(const model_config *config, const float *attended, int32_t id, bool is_gemma)
{
    double out[HIDDEN], square = 0.0, sum = 0.0;
    for (int row = 0; row < HIDDEN; row++) {
        out[row] = 0.0;
        for (int i = 0; i < N; i++) out[row] += (double)values[row * N + i] * (double)attended[i];
        square += out[row] * out[row] / HIDDEN;
    }
    for (int row = 0; row < HIDDEN; row++) {
        const double normed =
                         is_gemma ? out[row] / sqrt(square + config->norm_eps) * (1.0 + (double)values[row]) : out[row],
                     x = config->embedding_scale * (double)values[id * HIDDEN + row] + config->residual_scale * normed;
        sum += x * x;
    }
    return is_gemma ? sum * square : sum;
}

/* The only layer is the last one: it is computed for this. */
static void the_energy_is_that_of_the_stream_with_the_attention(void **state)
{
    (void)state;
    static const char *const *const configs[] = {&llama, &granite, &gemma};
    const int32_t ids[N_TOKENS] = {3, 1, 4, 1, 5};
    const int64_t starts[] = {0, 2, N_TOKENS};
    const token_batch batch = {.tokens = ids, .n_tokens = N_TOKENS, .sequence_start = starts, .n_sequences = 2};
    for (size_t m = 0; m < RB_COUNT(configs); m++) {
        const bool is_gemma = *configs[m] == gemma;
        checkpoint *model = open_tiny(*configs[m], is_gemma);
        seen_layer seen = {.n_calls = 0};
        const forward_hooks hooks = {.user = &seen, .on_attended = keep_attended, .on_residual = keep_energy};
        assert_ok(forward_run(model, &batch, &hooks, &err));
        assert_int_equal(seen.n_calls, 1);
        for (int t = 0; t < N_TOKENS; t++) {
            const double expected = expected_energy(checkpoint_config(model), seen.attended + t * N, ids[t], is_gemma);
            assert_close(seen.energy[t], expected, 1e-5 * expected);
        }
        checkpoint_close(model);
    }
}

static void tokens_of_a_large_energy_hardly_count(void **state)
{
    (void)state;
    const double energies[] = {1e9, 2.0, 4.0, 0.0}, none[] = {0.0};
    assert_close(output_residual_energy(energies, 4), 3.0 / 0.75, 1e-8);
    assert_true(output_residual_energy(none, 1) == 0.0);
}

int main(void)
{
    rb_threads_init(0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_metric_is_that_of_what_the_output_goes_through),
        cmocka_unit_test(the_facts_are_those_of_the_configuration),
        cmocka_unit_test(the_energy_is_that_of_the_stream_with_the_attention),
        cmocka_unit_test(tokens_of_a_large_energy_hardly_count),
    };
    return cmocka_run_group_tests_name("output_metric", tests, NULL, NULL);
}
