/* make_checkpoint: a checkpoint of any geometry and model family with random weights, for benchmarks of speed and
 * memory. Its tensors are those that the family's table names (model/model_family.c).
 *
 * Weights are uniform with variance 1 / n_in in bf16, so that activations stay in range at any depth. Tensors with one
 * number of inputs share the same random bytes, each from another place on: then the generator needs memory for its
 * largest tensors only, whatever the depth or the number of experts. From one place on, queries of the first layer
 * would be its keys, and the keys of some tokens would lie far outside what a codec expects. Beside the checkpoint it
 * writes tokens.json. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/json.h"
#include "core/program.h"
#include "model/layer_tensors.h"
#include "model/safetensors.h"

typedef struct geometry {
    int64_t n_layers, hidden, n_q_heads, n_kv_heads, head_dim, intermediate, vocab, max_position, n_tokens;
    int64_t n_experts, n_per_token, expert_size, n_shared, n_dense; /* n_dense: first layers without experts */
    int64_t kv_rank, q_rank, plain_dim, value_dim;                  /* of a latent cache */
    const char *model_type, *output;
    char *config_text;
    model_config config; /* config_text as every program reads it */
} geometry;

/* xorshift64*: speed matters here, statistics hardly. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

/* A buffer of random weights for matrices with n_in inputs. */
static rb_status random_weights(uint16_t **out, int64_t n, int64_t n_in, uint64_t seed, rb_error *err)
{
    const float scale = (float)sqrt(12.0 / (double)n_in);
    uint64_t state = seed;
    rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "random weights", err);
    for (int64_t i = 0; st == RB_OK && i < n; i++)
        (*out)[i] = rb_f32_to_bf16(((float)(next_random(&state) >> 40) * 0x1p-24f - 0.5f) * scale);
    return st;
}

/* ---- tensors --------------------------------------------------------------------------------- */

/* Tensors that share their bytes: norms, biases, and matrices with as many inputs. */
enum { CLASS_NORM, CLASS_BIAS, CLASS_MATRIX, MAX_CLASSES = 16 };

/* Where the bytes of tensor i begin: its rows are nobody else's. */
enum { N_STARTS = 1 << 16, START_STEP = 40503 };
static int64_t start_of(int64_t i) { return i * START_STEP % N_STARTS; }

typedef struct weight_class {
    int64_t n_in, n_max; /* n_max: elements of its largest tensor */
    uint16_t *data;
} weight_class;

typedef struct tensor_list {
    safetensor *at;
    int64_t n;
    weight_class classes[MAX_CLASSES];
    int n_classes;
} tensor_list;

static int class_of(tensor_list *list, const char *name, int rank, int64_t n_in)
{
    if (rank == 1) return strstr(name, ".bias") ? CLASS_BIAS : CLASS_NORM;
    for (int c = CLASS_MATRIX; c < list->n_classes; c++)
        if (list->classes[c].n_in == n_in) return c;
    assert(list->n_classes < MAX_CLASSES); /* a family has no more different widths */
    list->classes[list->n_classes].n_in = n_in;
    return list->n_classes++;
}

/* Data comes later: the class first learns of its largest tensor. */
static rb_status add_tensor(tensor_list *list, const char *name, int rank, const int64_t *shape, rb_error *err)
{
    const int64_t n = shape[0] * (rank == 2 ? shape[1] : 1);
    char *copy = NULL;
    const rb_status st = rb_format(&copy, err, "%s", name);
    if (st != RB_OK) return st;
    weight_class *class = &list->classes[class_of(list, name, rank, shape[rank - 1])];
    if (n > class->n_max) class->n_max = n;
    list->at[list->n++] = (safetensor){.name = copy,
                                       .dtype = TENSOR_BF16,
                                       .rank = rank,
                                       .shape = {shape[0], shape[rank - 1]},
                                       .data = class,
                                       .size_bytes = (size_t)n * sizeof(uint16_t)};
    return RB_OK;
}

static int n_copies(const model_config *config, const layer_tensor *tensor)
{
    return tensor->step == STEP_EXPERT ? config->experts.n : 1;
}

static rb_status add_layer(tensor_list *list, const model_config *config, int layer, rb_error *err)
{
    const checkpoint_tensors *tensors = config->family->tensors;
    rb_status st = RB_OK;
    for (int i = 0; i < tensors->n_layer; i++) {
        const layer_tensor *tensor = &tensors->layer[i];
        char name[LAYER_TENSOR_NAME];
        int64_t shape[2];
        if (!layer_tensor_is_used(config, tensor, layer)) continue;
        const int rank = layer_tensor_shape(config, tensor, shape);
        for (int expert = 0; expert < n_copies(config, tensor); expert++) {
            layer_tensor_name(name, config, tensor, layer, expert);
            RB_TRY(st, add_tensor(list, name, rank, shape, err), done);
        }
    }
done:
    return st;
}

/* Tensors of a layer, at most. */
static size_t count_layer_tensors(const model_config *config)
{
    size_t n = 0;
    for (int i = 0; i < config->family->tensors->n_layer; i++)
        n += (size_t)n_copies(config, &config->family->tensors->layer[i]);
    return n;
}

static rb_status list_tensors(tensor_list *list, const model_config *config, rb_error *err)
{
    enum { OTHER_TENSORS = 3 };
    const checkpoint_tensors *tensors = config->family->tensors;
    const int64_t shape[2] = {config->vocab_size, config->hidden_size};
    rb_status st;
    list->n_classes = CLASS_MATRIX;
    RB_TRY(st,
           rb_alloc(&list->at, (size_t)config->facts.n_layers * count_layer_tensors(config) + OTHER_TENSORS,
                    sizeof *list->at, "tensors", err),
           done);
    RB_TRY(st, add_tensor(list, tensors->embedding, 2, shape, err), done);
    for (int layer = 0; layer < config->facts.n_layers; layer++) RB_TRY(st, add_layer(list, config, layer, err), done);
    RB_TRY(st, add_tensor(list, tensors->final_norm, 1, &shape[1], err), done);
    if (tensors->final_norm_bias) st = add_tensor(list, tensors->final_norm_bias, 1, &shape[1], err);
done:
    return st;
}

/* Norms are 1, with what the family adds to them. */
static rb_status fill_classes(tensor_list *list, const model_config *config, rb_error *err)
{
    const float norm = config->family->norm == MODEL_NORM_RMS_ONE ? 0.0f : 1.0f;
    rb_status st = RB_OK;
    list->classes[CLASS_BIAS].n_in = config->hidden_size;
    list->classes[CLASS_NORM].n_in = 1;
    for (int c = 0; c < list->n_classes && st == RB_OK; c++)
        st = random_weights(&list->classes[c].data, list->classes[c].n_max + N_STARTS, list->classes[c].n_in,
                            1 + (uint64_t)c, err);
    for (int64_t i = 0; st == RB_OK && i < list->classes[CLASS_NORM].n_max + N_STARTS; i++)
        list->classes[CLASS_NORM].data[i] = rb_f32_to_bf16(norm);
    for (int64_t i = 0; st == RB_OK && i < list->n; i++)
        list->at[i].data = ((const weight_class *)list->at[i].data)->data + start_of(i);
    return st;
}

static rb_status write_weights(const geometry *g, const char *path, rb_error *err)
{
    tensor_list list = {0};
    rb_status st;
    RB_TRY(st, list_tensors(&list, &g->config, err), done);
    RB_TRY(st, fill_classes(&list, &g->config, err), done);
    RB_TRY(st, safetensors_write(path, list.at, list.n, NULL, NULL, 0, err), done);
done:
    for (int64_t i = 0; i < list.n; i++) free((char *)list.at[i].name);
    for (int c = 0; c < list.n_classes; c++) free(list.classes[c].data);
    free(list.at);
    return st;
}

/* ---- the other files ------------------------------------------------------------------------- */

/* Fields of config.json that only some families have, each with a comma after it. */
typedef struct family_fields {
    char latent[256], experts[256], other[256];
} family_fields;

/* A number, or null for 0. */
static const char *count_or_null(char text[32], int64_t n)
{
    snprintf(text, 32, n > 0 ? "%lld" : "null", (long long)n);
    return text;
}

static void write_latent_fields(family_fields *fields, const geometry *g)
{
    char rank[32];
    snprintf(fields->latent, sizeof fields->latent,
             "\n \"kv_lora_rank\": %lld, \"q_lora_rank\": %s, \"qk_nope_head_dim\": %lld, \"v_head_dim\": %lld,",
             (long long)g->kv_rank, count_or_null(rank, g->q_rank), (long long)g->plain_dim, (long long)g->value_dim);
}

static void write_expert_fields(family_fields *fields, const geometry *g, bool is_deepseek)
{
    char shared[32];
    const int used = snprintf(fields->experts, sizeof fields->experts,
                              "\n \"%s\": %lld, \"num_experts_per_tok\": %lld, \"moe_intermediate_size\": %lld,",
                              is_deepseek ? "n_routed_experts" : "num_experts", (long long)g->n_experts,
                              (long long)g->n_per_token, (long long)g->expert_size);
    if (is_deepseek)
        snprintf(fields->experts + used, sizeof fields->experts - (size_t)used,
                 " \"n_shared_experts\": %s, \"first_k_dense_replace\": %lld,", count_or_null(shared, g->n_shared),
                 (long long)g->n_dense);
}

static void write_family_fields(family_fields *fields, const geometry *g, const model_family *family)
{
    *fields = (family_fields){0};
    if (family->has_latent_cache) write_latent_fields(fields, g);
    if (family->has_experts && g->n_experts > 0) write_expert_fields(fields, g, family->has_latent_cache);
    snprintf(fields->other, sizeof fields->other, "%s%s%s\n %s",
             family->window == WINDOW_EVERY_LAYER ? " \"sliding_window\": null," : "",
             family->window == WINDOW_PATTERN ? " \"sliding_window\": 4096," : "",
             family->has_query_scalar ? " \"query_pre_attn_scalar\": 256," : "",
             family->has_local_rope ? "\"rope_theta\": 500000.0, \"rope_local_base_freq\": 10000.0"
                                    : "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500000.0}");
}

static rb_status make_config(geometry *g, rb_error *err)
{
    const model_family *family = model_family_find(g->model_type);
    family_fields fields;
    char supported[256];
    rb_status st;
    model_family_list(supported, sizeof supported);
    if (!family)
        return rb_fail(err, RB_EUSAGE, "--model-type %s is not supported, expected %s", g->model_type, supported);
    write_family_fields(&fields, g, family);
    RB_TRY(st,
           rb_format(&g->config_text, err,
                     "{\"model_type\": \"%s\", \"hidden_act\": \"%.*s\", \"num_hidden_layers\": %lld, "
                     "\"hidden_size\": %lld, \"num_attention_heads\": %lld,\n"
                     " \"num_key_value_heads\": %lld, \"head_dim\": %lld, \"intermediate_size\": %lld, "
                     "\"vocab_size\": %lld,\n"
                     " \"max_position_embeddings\": %lld, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": "
                     "true,%s%s%s}\n",
                     g->model_type, (int)strcspn(family->activations, " "), family->activations, (long long)g->n_layers,
                     (long long)g->hidden, (long long)g->n_q_heads, (long long)g->n_kv_heads, (long long)g->head_dim,
                     (long long)g->intermediate, (long long)g->vocab, (long long)g->max_position, fields.latent,
                     fields.experts, fields.other),
           done);
    st = model_config_parse(&g->config, g->config_text, strlen(g->config_text), "the made-up config.json", err);
done:
    return st;
}

static rb_status write_config(const geometry *g, const char *path, rb_error *err)
{
    return rb_atomic_write(path, g->config_text, strlen(g->config_text), err);
}

static rb_status write_tokens(const geometry *g, const char *path, rb_error *err)
{
    cJSON *list = cJSON_CreateArray();
    uint64_t state = 7;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for tokens");
    for (int64_t i = 0; i < g->n_tokens && st == RB_OK; i++) {
        cJSON *id = cJSON_CreateNumber((double)(next_random(&state) % (uint64_t)g->vocab));
        st = id ? rb_json_append(list, &id, err) : rb_fail(err, RB_ENOMEM, "out of memory for tokens");
    }
    if (st == RB_OK) st = rb_json_write(list, path, err);
    cJSON_Delete(list);
    return st;
}

static rb_status make_run(const rb_run_args *args, rb_error *err)
{
    static const char *const names[] = {"model.safetensors", "config.json", "tokens.json"};
    rb_status (*const writers[])(const geometry *, const char *, rb_error *) = {write_weights, write_config,
                                                                                write_tokens};
    geometry *g = args->context;
    rb_status st = make_config(g, err);
    if (st == RB_OK) st = rb_make_folder(g->output, err);
    for (size_t i = 0; i < RB_COUNT(names) && st == RB_OK; i++) {
        char *path = NULL;
        st = rb_join_path(&path, g->output, names[i], err);
        if (st == RB_OK) st = writers[i](g, path, err);
        free(path);
    }
    free(g->config_text);
    return st;
}

int main(int argc, char **argv)
{
    static geometry g = {.model_type = "llama",
                         .n_layers = 4,
                         .hidden = 384,
                         .n_q_heads = 6,
                         .n_kv_heads = 2,
                         .head_dim = 64,
                         .intermediate = 1024,
                         .vocab = 4096,
                         .max_position = 131072,
                         .n_tokens = 4096,
                         .n_per_token = 2,
                         .expert_size = 256,
                         .kv_rank = 128,
                         .plain_dim = 64,
                         .value_dim = 64};
    const rb_option table[] = {
        {.long_name = "model-type",
         .kind = RB_OPT_STRING,
         .value = &g.model_type,
         .metavar = "TYPE",
         .help = "model family, as in config.json"},
        {.long_name = "layers",
         .kind = RB_OPT_INT,
         .value = &g.n_layers,
         .metavar = "N",
         .min = 1,
         .max = 1024,
         .help = "decoder layers"},
        {.long_name = "hidden",
         .kind = RB_OPT_INT,
         .value = &g.hidden,
         .metavar = "N",
         .min = 2,
         .max = 1 << 20,
         .help = "hidden size"},
        {.long_name = "q-heads",
         .kind = RB_OPT_INT,
         .value = &g.n_q_heads,
         .metavar = "N",
         .min = 1,
         .max = 1024,
         .help = "query heads"},
        {.long_name = "kv-heads",
         .kind = RB_OPT_INT,
         .value = &g.n_kv_heads,
         .metavar = "N",
         .min = 1,
         .max = 1024,
         .help = "KV heads"},
        {.long_name = "head-dim",
         .kind = RB_OPT_INT,
         .value = &g.head_dim,
         .metavar = "N",
         .min = 2,
         .max = 1024,
         .help = "dims of a head"},
        {.long_name = "mlp",
         .kind = RB_OPT_INT,
         .value = &g.intermediate,
         .metavar = "N",
         .min = 1,
         .max = 1 << 20,
         .help = "intermediate size"},
        {.long_name = "vocab",
         .kind = RB_OPT_INT,
         .value = &g.vocab,
         .metavar = "N",
         .min = 1,
         .max = 1 << 24,
         .help = "vocabulary"},
        {.long_name = "n-tokens",
         .kind = RB_OPT_INT,
         .value = &g.n_tokens,
         .metavar = "N",
         .min = 1,
         .max = 1 << 24,
         .help = "ids in tokens.json"},
        {.long_name = "experts",
         .kind = RB_OPT_INT,
         .value = &g.n_experts,
         .metavar = "N",
         .min = 0,
         .max = 1 << 14,
         .help = "experts of a layer, in families that have some"},
        {.long_name = "experts-per-token",
         .kind = RB_OPT_INT,
         .value = &g.n_per_token,
         .metavar = "N",
         .min = 1,
         .max = 1 << 14,
         .help = "experts that a token visits"},
        {.long_name = "expert-size",
         .kind = RB_OPT_INT,
         .value = &g.expert_size,
         .metavar = "N",
         .min = 1,
         .max = 1 << 20,
         .help = "intermediate size of an expert"},
        {.long_name = "shared-experts",
         .kind = RB_OPT_INT,
         .value = &g.n_shared,
         .metavar = "N",
         .min = 0,
         .max = 1 << 14,
         .help = "experts that every token visits"},
        {.long_name = "dense-layers",
         .kind = RB_OPT_INT,
         .value = &g.n_dense,
         .metavar = "N",
         .min = 0,
         .max = 1024,
         .help = "first layers without experts"},
        {.long_name = "kv-rank",
         .kind = RB_OPT_INT,
         .value = &g.kv_rank,
         .metavar = "N",
         .min = 2,
         .max = 1024,
         .help = "rank of a latent cache, in families that have one"},
        {.long_name = "q-rank",
         .kind = RB_OPT_INT,
         .value = &g.q_rank,
         .metavar = "N",
         .min = 0,
         .max = 1 << 20,
         .help = "rank of queries' latents; 0: none"},
        {.long_name = "plain-dim",
         .kind = RB_OPT_INT,
         .value = &g.plain_dim,
         .metavar = "N",
         .min = 1,
         .max = 1 << 16,
         .help = "dims of a key without RoPE, with a latent cache"},
        {.long_name = "value-dim",
         .kind = RB_OPT_INT,
         .value = &g.value_dim,
         .metavar = "N",
         .min = 1,
         .max = 1 << 16,
         .help = "dims of a value, with a latent cache"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &g.output,
         .metavar = "DIR",
         .required = true,
         .help = "the checkpoint folder"},
    };
    const rb_program program = {
        .name = "make_checkpoint",
        .synopsis = "make_checkpoint [options] -o DIR",
        .summary =
            "Writes a checkpoint of the given geometry with random bf16 weights, and a file of random token ids.",
        .options = table,
        .n_options = RB_COUNT(table),
        .run = make_run,
        .context = &g,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
