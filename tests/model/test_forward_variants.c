/* Features that no golden file covers (biases on o_proj and the MLP, sliding windows, mixed layer types, linear RoPE,
 * F32 and F16 weights): tiny random checkpoints, and the decoder written out plainly in double. */
#include "tests/test_support.h"

#include "core/half.h"
#include "core/threads.h"
#include "model/forward.h"
#include "tests/model/float_test.h"

enum { HIDDEN = 40, INNER = 56, VOCAB = 70, N_LAYERS = 2, N_Q = 4, N_KV = 2, D = 12, N_TOKENS = 34, MAX_TENSORS = 64 };
static const int64_t starts[] = {0, 21, 22, N_TOKENS};
enum { N_SEQUENCES = 3 };

typedef struct variant {
    const char *json; /* what differs from one configuration to the next */
    tensor_dtype dtype;
    bool qkv_bias, o_bias, mlp_bias, qk_norm, tied;
    int window[N_LAYERS];
    double freq_divisor; /* linear RoPE */
} variant;

/* ---- a random checkpoint --------------------------------------------------------------------- */

typedef struct tiny_tensor {
    char name[64];
    int64_t rows, columns; /* columns 0: a vector */
    float *values;         /* as they come back from the file */
    uint16_t *halves;      /* F16 bits, NULL for F32 */
} tiny_tensor;

typedef struct tiny_model {
    tiny_tensor at[MAX_TENSORS];
    int n;
} tiny_model;

static void add_tensor(tiny_model *model, const variant *v, int64_t rows, int64_t columns, const char *name)
{
    const size_t count = (size_t)(rows * (columns ? columns : 1));
    tiny_tensor *tensor = &model->at[model->n++];
    assert_true(model->n <= MAX_TENSORS);
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->rows = rows;
    tensor->columns = columns;
    tensor->values = random_floats(count, (uint64_t)model->n * 977);
    tensor->halves = NULL;
    /* norms around one, matrices that keep the scale of their input */
    for (size_t i = 0; i < count; i++)
        tensor->values[i] = columns ? tensor->values[i] * 2.0f / sqrtf((float)columns)
                                    : tensor->values[i] * 0.5f + (strstr(name, "norm") ? 1.0f : 0.0f);
    if (v->dtype == TENSOR_F32) return;
    tensor->halves = malloc(count * sizeof *tensor->halves);
    assert_non_null(tensor->halves);
    for (size_t i = 0; i < count; i++) {
        tensor->halves[i] = rb_f32_to_f16(tensor->values[i]);
        tensor->values[i] = rb_f16_to_f32(tensor->halves[i]);
    }
}

static void add_module(tiny_model *model, const variant *v, int layer, const char *module, int64_t n_out, int64_t n_in,
                       bool has_bias)
{
    char name[64];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, module);
    add_tensor(model, v, n_out, n_in, name);
    if (!has_bias) return;
    snprintf(name, sizeof name, "model.layers.%d.%s.bias", layer, module);
    add_tensor(model, v, n_out, 0, name);
}

static void make_tensors(tiny_model *model, const variant *v)
{
    model->n = 0;
    add_tensor(model, v, VOCAB, HIDDEN, "model.embed_tokens.weight");
    for (int layer = 0; layer < N_LAYERS; layer++) {
        add_module(model, v, layer, "input_layernorm", HIDDEN, 0, false);
        add_module(model, v, layer, "self_attn.q_proj", N_Q * D, HIDDEN, v->qkv_bias);
        add_module(model, v, layer, "self_attn.k_proj", N_KV * D, HIDDEN, v->qkv_bias);
        add_module(model, v, layer, "self_attn.v_proj", N_KV * D, HIDDEN, v->qkv_bias);
        add_module(model, v, layer, "self_attn.o_proj", HIDDEN, N_Q * D, v->o_bias);
        if (v->qk_norm) {
            add_module(model, v, layer, "self_attn.q_norm", D, 0, false);
            add_module(model, v, layer, "self_attn.k_norm", D, 0, false);
        }
        add_module(model, v, layer, "post_attention_layernorm", HIDDEN, 0, false);
        add_module(model, v, layer, "mlp.gate_proj", INNER, HIDDEN, v->mlp_bias);
        add_module(model, v, layer, "mlp.up_proj", INNER, HIDDEN, v->mlp_bias);
        add_module(model, v, layer, "mlp.down_proj", HIDDEN, INNER, v->mlp_bias);
    }
    add_tensor(model, v, HIDDEN, 0, "model.norm.weight");
    if (!v->tied) add_tensor(model, v, VOCAB, HIDDEN, "lm_head.weight");
}

static void free_tensors(tiny_model *model)
{
    for (int i = 0; i < model->n; i++) {
        free(model->at[i].values);
        free(model->at[i].halves);
    }
}

static void write_model(const char *folder, const tiny_model *model, const variant *v)
{
    rb_error err = {0};
    safetensor tensors[MAX_TENSORS];
    char path[512];

    if (mkdir(folder, 0755) != 0) fail_msg("cannot make %s", folder);
    for (int i = 0; i < model->n; i++) {
        const tiny_tensor *t = &model->at[i];
        const size_t count = (size_t)(t->rows * (t->columns ? t->columns : 1));
        tensors[i] = (safetensor){.name = t->name,
                                  .dtype = v->dtype,
                                  .rank = t->columns ? 2 : 1,
                                  .shape = {t->rows, t->columns},
                                  .data = t->halves ? (const void *)t->halves : t->values,
                                  .size_bytes = count * (t->halves ? 2 : 4)};
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_ok(safetensors_write(path, tensors, model->n, NULL, NULL, 0, &err));

    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *config = fopen(path, "w");
    assert_non_null(config);
    fprintf(config,
            "{\"hidden_act\": \"silu\", \"hidden_size\": %d, \"intermediate_size\": %d, \"vocab_size\": %d, "
            "\"num_hidden_layers\": %d, "
            "\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d, \"max_position_embeddings\": "
            "64, \"rms_norm_eps\": 1e-5, "
            "\"tie_word_embeddings\": %s, %s}",
            HIDDEN, INNER, VOCAB, N_LAYERS, N_Q, N_KV, D, v->tied ? "true" : "false", v->json);
    assert_int_equal(fclose(config), 0);
}

/* ---- the decoder by its definition ----------------------------------------------------------- */

static const tiny_tensor *find_or_null(const tiny_model *model, int layer, const char *module, const char *kind)
{
    char name[64];
    if (layer < 0) snprintf(name, sizeof name, "%s.%s", module, kind);
    else snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, module, kind);
    for (int i = 0; i < model->n; i++)
        if (strcmp(model->at[i].name, name) == 0) return &model->at[i];
    return NULL;
}

static void plain_linear(const tiny_model *model, int layer, const char *module, const double *x, double *y)
{
    const tiny_tensor *weight = find_or_null(model, layer, module, "weight"),
                      *bias = find_or_null(model, layer, module, "bias");
    for (int64_t o = 0; o < weight->rows; o++) {
        y[o] = bias ? (double)bias->values[o] : 0.0;
        for (int64_t i = 0; i < weight->columns; i++) y[o] += (double)weight->values[o * weight->columns + i] * x[i];
    }
}

/* y may be x; a module that is not there changes nothing. */
static void plain_norm(const tiny_model *model, int layer, const char *module, const double *x, double *y)
{
    const tiny_tensor *weight = find_or_null(model, layer, module, "weight");
    double mean_square = 0.0;
    if (!weight) return;
    for (int64_t i = 0; i < weight->rows; i++) mean_square += x[i] * x[i] / (double)weight->rows;
    for (int64_t i = 0; i < weight->rows; i++) y[i] = (double)weight->values[i] * x[i] / sqrt(mean_square + 1e-5);
}

static void plain_rope(double *x, int64_t position, double freq_divisor)
{
    for (int i = 0; i < D / 2; i++) {
        const double angle = (double)position * pow(10000.0, -2.0 * i / D) / freq_divisor, a = x[i], b = x[i + D / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + D / 2] = b * cos(angle) + a * sin(angle);
    }
}

typedef struct plain_heads {
    double q[N_TOKENS][N_Q * D], k[N_TOKENS][N_KV * D], v[N_TOKENS][N_KV * D];
} plain_heads;

/* Attention output of one query head at token t, whose sequence starts at `begin`. */
static void plain_attention(const plain_heads *heads, int q_head, int64_t begin, int64_t t, int window, double *out)
{
    const int kv = q_head / (N_Q / N_KV) * D;
    double weight[N_TOKENS], sum = 0.0;
    if (window && t - window + 1 > begin) begin = t - window + 1;
    for (int64_t key = begin; key <= t; key++) {
        double score = 0.0;
        for (int i = 0; i < D; i++) score += heads->q[t][q_head * D + i] * heads->k[key][kv + i];
        weight[key] = exp(score / sqrt(D));
        sum += weight[key];
    }
    for (int i = 0; i < D; i++) {
        out[i] = 0.0;
        for (int64_t key = begin; key <= t; key++) out[i] += weight[key] / sum * heads->v[key][kv + i];
    }
}

static void plain_layer(const tiny_model *model, const variant *v, int layer, int64_t begin, int64_t end,
                        double (*hidden)[HIDDEN])
{
    static plain_heads heads;
    for (int64_t t = begin; t < end; t++) {
        double x[HIDDEN];
        plain_norm(model, layer, "input_layernorm", hidden[t], x);
        plain_linear(model, layer, "self_attn.q_proj", x, heads.q[t]);
        plain_linear(model, layer, "self_attn.k_proj", x, heads.k[t]);
        plain_linear(model, layer, "self_attn.v_proj", x, heads.v[t]);
        for (int h = 0; h < N_Q + N_KV; h++) {
            double *head = h < N_Q ? heads.q[t] + h * D : heads.k[t] + (h - N_Q) * D;
            plain_norm(model, layer, h < N_Q ? "self_attn.q_norm" : "self_attn.k_norm", head, head);
            plain_rope(head, t - begin, v->freq_divisor);
        }
    }
    for (int64_t t = begin; t < end; t++) {
        double attended[N_Q * D], x[HIDDEN], y[HIDDEN], gate[INNER], up[INNER];
        for (int h = 0; h < N_Q; h++) plain_attention(&heads, h, begin, t, v->window[layer], attended + h * D);
        plain_linear(model, layer, "self_attn.o_proj", attended, y);
        for (int i = 0; i < HIDDEN; i++) hidden[t][i] += y[i];
        plain_norm(model, layer, "post_attention_layernorm", hidden[t], x);
        plain_linear(model, layer, "mlp.gate_proj", x, gate);
        plain_linear(model, layer, "mlp.up_proj", x, up);
        for (int i = 0; i < INNER; i++) up[i] *= gate[i] / (1.0 + exp(-gate[i]));
        plain_linear(model, layer, "mlp.down_proj", up, y);
        for (int i = 0; i < HIDDEN; i++) hidden[t][i] += y[i];
    }
}

static void plain_forward(const tiny_model *model, const variant *v, const int32_t *tokens, double (*logits)[VOCAB])
{
    const float *embedding = find_or_null(model, -1, "model.embed_tokens", "weight")->values;
    static double hidden[N_TOKENS][HIDDEN];
    for (int t = 0; t < N_TOKENS; t++)
        for (int i = 0; i < HIDDEN; i++) hidden[t][i] = (double)embedding[tokens[t] * HIDDEN + i];
    for (int layer = 0; layer < N_LAYERS; layer++)
        for (int s = 0; s < N_SEQUENCES; s++) plain_layer(model, v, layer, starts[s], starts[s + 1], hidden);
    for (int t = 0; t < N_TOKENS; t++) {
        double x[HIDDEN];
        plain_norm(model, -1, "model.norm", hidden[t], x);
        plain_linear(model, -1, v->tied ? "model.embed_tokens" : "lm_head", x, logits[t]);
    }
}

/* ---- tests ----------------------------------------------------------------------------------- */

typedef struct logit_check {
    double expected[N_TOKENS][VOCAB];
    int64_t seen;
} logit_check;

static rb_status check_logits(void *user, int64_t first_token, int64_t n, const float *logits, rb_error *err)
{
    (void)err;
    logit_check *check = user;
    check->seen += n;
    /* logits of size 1 to 5 through two layers of f32 */
    for (int64_t t = 0; t < n; t++)
        for (int i = 0; i < VOCAB; i++) assert_close(logits[t * VOCAB + i], check->expected[first_token + t][i], 2e-5);
    return RB_OK;
}

static void check_variant(const char *name, const variant *v)
{
    rb_error err = {0};
    static tiny_model tensors;
    static logit_check check;
    const char *folder = scratch_path(name);
    checkpoint *model = NULL;
    int32_t tokens[N_TOKENS];

    for (int t = 0; t < N_TOKENS; t++) tokens[t] = (t * 29 + 3) % VOCAB;
    make_tensors(&tensors, v);
    write_model(folder, &tensors, v);
    plain_forward(&tensors, v, tokens, check.expected);
    check.seen = 0;

    const token_batch batch = {tokens, N_TOKENS, starts, N_SEQUENCES};
    const forward_hooks hooks = {.user = &check, .on_logits = check_logits};
    assert_ok(checkpoint_open(&model, folder, &err));
    assert_ok(forward_run(model, &batch, &hooks, &err));
    assert_int_equal(check.seen, N_TOKENS);
    checkpoint_close(model);
    free_tensors(&tensors);
}

#define DEFAULT_ROPE "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}"

static void llama_with_every_bias_and_linear_rope(void **state)
{
    (void)state;
    check_variant(
        "llama-biases",
        &(variant){.json = "\"model_type\": \"llama\", \"attention_bias\": true, \"mlp_bias\": true, "
                           "\"rope_parameters\": {\"rope_type\": \"linear\", \"rope_theta\": 10000.0, \"factor\": 4.0}",
                   .dtype = TENSOR_F32,
                   .qkv_bias = true,
                   .o_bias = true,
                   .mlp_bias = true,
                   .freq_divisor = 4.0});
}

static void mistral_with_a_sliding_window(void **state)
{
    (void)state;
    check_variant("mistral-window",
                  &(variant){.json = "\"model_type\": \"mistral\", \"sliding_window\": 5, " DEFAULT_ROPE,
                             .dtype = TENSOR_F16,
                             .tied = true,
                             .window = {5, 5},
                             .freq_divisor = 1.0});
}

static void qwen2_where_only_the_second_layer_slides(void **state)
{
    (void)state;
    check_variant("qwen2-mixed",
                  &(variant){.json = "\"model_type\": \"qwen2\", \"use_sliding_window\": true, \"sliding_window\": 7, "
                                     "\"max_window_layers\": 1, "
                                     "\"layer_types\": [\"full_attention\", \"sliding_attention\"], " DEFAULT_ROPE,
                             .dtype = TENSOR_F16,
                             .qkv_bias = true,
                             .window = {0, 7},
                             .freq_divisor = 1.0});
}

static void qwen3_with_attention_bias(void **state)
{
    (void)state;
    check_variant("qwen3-bias", &(variant){.json = "\"model_type\": \"qwen3\", \"attention_bias\": true, " DEFAULT_ROPE,
                                           .dtype = TENSOR_F32,
                                           .qkv_bias = true,
                                           .o_bias = true,
                                           .qk_norm = true,
                                           .tied = true,
                                           .freq_divisor = 1.0});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_with_every_bias_and_linear_rope),
        cmocka_unit_test(mistral_with_a_sliding_window),
        cmocka_unit_test(qwen2_where_only_the_second_layer_slides),
        cmocka_unit_test(qwen3_with_attention_bias),
    };
    rb_threads_init(0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
