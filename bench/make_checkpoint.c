/* make_checkpoint: a llama checkpoint of any geometry with random weights, for benchmarks of speed and memory.
 *
 * Weights are uniform with variance 1 / n_in in bf16, so that activations stay in range at any depth. All tensors of
 * one shape class share the same random bytes: the generator then needs memory for its largest tensor only, whatever
 * the depth. Beside the checkpoint it writes tokens.json. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/half.h"
#include "core/json.h"
#include "core/program.h"
#include "model/safetensors.h"

typedef struct geometry {
    int64_t n_layers, hidden, n_q_heads, n_kv_heads, head_dim, intermediate, vocab, max_position, n_tokens;
    const char *output;
} geometry;

/* xorshift64*: speed matters here, statistics hardly. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}

static uint16_t bf16(float x) { return (uint16_t)((rb_f32_bits(x) + 0x8000u) >> 16); }

/* A buffer of random weights for matrices with n_in inputs. */
static rb_status random_weights(uint16_t **out, int64_t n, int64_t n_in, uint64_t seed, rb_error *err)
{
    const float scale = (float)sqrt(12.0 / (double)n_in);
    uint64_t state = seed;
    rb_status st = rb_alloc(out, (size_t)n, sizeof **out, "random weights", err);
    for (int64_t i = 0; st == RB_OK && i < n; i++)
        (*out)[i] = bf16(((float)(next_random(&state) >> 40) * 0x1p-24f - 0.5f) * scale);
    return st;
}

typedef struct weight_class {
    int64_t n_in, n_max; /* largest tensor of the class */
    uint16_t *data;
} weight_class;

enum { CLASS_HIDDEN, CLASS_HEADS, CLASS_MLP, CLASS_NORM, N_CLASSES };

typedef struct tensor_list {
    safetensor *at;
    int64_t n;
} tensor_list;

static rb_status add_tensor(tensor_list *list, const weight_class *class, int64_t rows, int64_t columns, rb_error *err,
                            int64_t layer, const char *name)
{
    char *full = NULL;
    const bool is_vector = columns == 0;
    rb_status st = layer < 0 ? rb_format(&full, err, "model.%s.weight", name)
                             : rb_format(&full, err, "model.layers.%lld.%s.weight", (long long)layer, name);
    if (st != RB_OK) return st;
    list->at[list->n++] = (safetensor){.name = full,
                                       .dtype = TENSOR_BF16,
                                       .rank = is_vector ? 1 : 2,
                                       .shape = {rows, columns},
                                       .data = class->data,
                                       .size_bytes = (size_t)(rows * (is_vector ? 1 : columns)) * sizeof(uint16_t)};
    return RB_OK;
}

static rb_status add_layer(tensor_list *list, const geometry *g, const weight_class classes[N_CLASSES], int64_t layer,
                           rb_error *err)
{
    const int64_t q = g->n_q_heads * g->head_dim, kv = g->n_kv_heads * g->head_dim;
    const struct {
        const char *name;
        int class;
        int64_t rows, columns;
    } tensors[] = {
        {"input_layernorm", CLASS_NORM, g->hidden, 0},
        {"post_attention_layernorm", CLASS_NORM, g->hidden, 0},
        {"self_attn.q_proj", CLASS_HIDDEN, q, g->hidden},
        {"self_attn.k_proj", CLASS_HIDDEN, kv, g->hidden},
        {"self_attn.v_proj", CLASS_HIDDEN, kv, g->hidden},
        {"self_attn.o_proj", CLASS_HEADS, g->hidden, q},
        {"mlp.gate_proj", CLASS_HIDDEN, g->intermediate, g->hidden},
        {"mlp.up_proj", CLASS_HIDDEN, g->intermediate, g->hidden},
        {"mlp.down_proj", CLASS_MLP, g->hidden, g->intermediate},
    };
    rb_status st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(tensors) && st == RB_OK; i++)
        st = add_tensor(list, &classes[tensors[i].class], tensors[i].rows, tensors[i].columns, err, layer,
                        tensors[i].name);
    return st;
}

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

static rb_status make_classes(weight_class classes[N_CLASSES], const geometry *g, rb_error *err)
{
    const int64_t q = g->n_q_heads * g->head_dim;
    classes[CLASS_HIDDEN] = (weight_class){g->hidden, g->hidden * max64(max64(q, g->intermediate), g->vocab), NULL};
    classes[CLASS_HEADS] = (weight_class){q, q * g->hidden, NULL};
    classes[CLASS_MLP] = (weight_class){g->intermediate, g->intermediate * g->hidden, NULL};
    classes[CLASS_NORM] = (weight_class){1, g->hidden, NULL};
    rb_status st = RB_OK;
    for (int c = 0; c < N_CLASSES && st == RB_OK; c++)
        st = random_weights(&classes[c].data, classes[c].n_max, classes[c].n_in, 1 + (uint64_t)c, err);
    for (int64_t i = 0; st == RB_OK && i < g->hidden; i++) classes[CLASS_NORM].data[i] = bf16(1.0f);
    return st;
}

static rb_status write_weights(const geometry *g, const char *path, rb_error *err)
{
    enum { TENSORS_PER_LAYER = 9, OTHER_TENSORS = 2 };
    weight_class classes[N_CLASSES] = {{0}};
    tensor_list list = {0};
    rb_status st;
    RB_TRY(st, make_classes(classes, g, err), done);
    RB_TRY(
        st,
        rb_alloc(&list.at, (size_t)(g->n_layers * TENSORS_PER_LAYER + OTHER_TENSORS), sizeof *list.at, "tensors", err),
        done);
    RB_TRY(st, add_tensor(&list, &classes[CLASS_HIDDEN], g->vocab, g->hidden, err, -1, "embed_tokens"), done);
    for (int64_t layer = 0; layer < g->n_layers; layer++) RB_TRY(st, add_layer(&list, g, classes, layer, err), done);
    RB_TRY(st, add_tensor(&list, &classes[CLASS_NORM], g->hidden, 0, err, -1, "norm"), done);
    RB_TRY(st, safetensors_write(path, list.at, list.n, NULL, NULL, 0, err), done);
done:
    for (int64_t i = 0; i < list.n; i++) free((char *)list.at[i].name);
    for (int c = 0; c < N_CLASSES; c++) free(classes[c].data);
    free(list.at);
    return st;
}

static rb_status write_config(const geometry *g, const char *path, rb_error *err)
{
    char *text = NULL;
    rb_status st = rb_format(
        &text, err,
        "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"num_hidden_layers\": %lld, \"hidden_size\": %lld, "
        "\"num_attention_heads\": %lld,\n"
        " \"num_key_value_heads\": %lld, \"head_dim\": %lld, \"intermediate_size\": %lld, \"vocab_size\": %lld,\n"
        " \"max_position_embeddings\": %lld, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true,\n"
        " \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500000.0}}\n",
        (long long)g->n_layers, (long long)g->hidden, (long long)g->n_q_heads, (long long)g->n_kv_heads,
        (long long)g->head_dim, (long long)g->intermediate, (long long)g->vocab, (long long)g->max_position);
    if (st == RB_OK) st = rb_atomic_write(path, text, strlen(text), err);
    free(text);
    return st;
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
    const geometry *g = args->context;
    rb_status st = rb_make_folder(g->output, err);
    for (size_t i = 0; i < RB_COUNT(names) && st == RB_OK; i++) {
        char *path = NULL;
        st = rb_join_path(&path, g->output, names[i], err);
        if (st == RB_OK) st = writers[i](g, path, err);
        free(path);
    }
    return st;
}

int main(int argc, char **argv)
{
    geometry g = {.n_layers = 4,
                  .hidden = 384,
                  .n_q_heads = 6,
                  .n_kv_heads = 2,
                  .head_dim = 64,
                  .intermediate = 1024,
                  .vocab = 4096,
                  .max_position = 131072,
                  .n_tokens = 4096};
    const rb_option table[] = {
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
            "Writes a llama checkpoint of the given geometry with random bf16 weights, and a file of random token ids.",
        .options = table,
        .n_options = RB_COUNT(table),
        .run = make_run,
        .context = &g,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}
