/* See model/gguf/gguf_config.h. */
#include "model/gguf/gguf_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/json.h"
#include "core/model_facts.h"
#include "model/gguf/gguf_names.h"

enum { KEY_BYTES = 128, MAX_SIZE = 1 << 30 };

typedef struct config_writer {
    const gguf_file *file;
    const gguf_metadata *metadata;
    const gguf_architecture *architecture;
    cJSON *json;
    int64_t n_layers, hidden_size, n_heads, head_dim, context_length;
    bool is_gemma3;
} config_writer;

/* ---- keys ------------------------------------------------------------------------------------ */

/* "llama.block_count" */
static const char *key_of(char key[KEY_BYTES], const config_writer *w, const char *name)
{
    snprintf(key, KEY_BYTES, "%s.%s", w->architecture->name, name);
    return key;
}

static bool has(const config_writer *w, const char *name)
{
    char key[KEY_BYTES];
    return gguf_find(w->metadata, key_of(key, w, name)) != NULL;
}

static rb_status get_size(const config_writer *w, const char *name, int64_t *out, rb_error *err)
{
    char key[KEY_BYTES];
    return gguf_get_int(w->metadata, key_of(key, w, name), 1, MAX_SIZE, out, err);
}

/* The shortest decimal that is the same f32: what the number was before the file kept it in f32. */
static double meant_by(double x)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtof(text, NULL) == (float)x) return strtod(text, NULL);
    }
    snprintf(text, sizeof text, "%.9g", x);
    return strtod(text, NULL);
}

static rb_status get_number(const config_writer *w, const char *name, double *out, rb_error *err)
{
    char key[KEY_BYTES];
    const rb_status st = gguf_get_number(w->metadata, key_of(key, w, name), out, err);
    if (st == RB_OK) *out = meant_by(*out);
    return st;
}

/* ---- nothing is passed over ------------------------------------------------------------------ */

/* Keys of an architecture that are read here, or that say nothing about its numbers. */
static const char *const KNOWN[] = {
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "tensor_data_layout",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
};

static const char *const KNOWN_OF_GEMMA3[] = {
    "rope.freq_base_swa",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
};

/* Keys that change nothing at one value. */
static const struct {
    const char *name;
    double value;
} NEUTRAL[] = {
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"attention.causal", 1},
    {"attention.sliding_window", 0},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"use_parallel_residual", 0},
    {"rope.scaling.attn_factor", 1},
    {"leading_dense_block_count", 0},
    {"pooling_type", 0},
};

static bool is_listed(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], name) == 0) return true;
    return false;
}

static bool is_neutral(const gguf_entry *entry, const char *name)
{
    char value[96];
    gguf_value_text(entry, value, sizeof value);
    const double number = strcmp(value, "true") == 0 ? 1 : strcmp(value, "false") == 0 ? 0 : strtod(value, NULL);
    for (size_t i = 0; i < RB_COUNT(NEUTRAL); i++)
        if (strcmp(NEUTRAL[i].name, name) == 0)
            return entry->type != GGUF_STRING && entry->type != GGUF_ARRAY && number == NEUTRAL[i].value;
    return false;
}

static rb_status check_keys(const config_writer *w, rb_error *err)
{
    const size_t prefix = strlen(w->architecture->name);
    for (int64_t i = 0; i < w->metadata->n_entries; i++) {
        const gguf_entry *entry = w->metadata->by_key[i];
        char value[96];
        if (strncmp(entry->key, w->architecture->name, prefix) != 0 || entry->key[prefix] != '.') continue;
        const char *name = entry->key + prefix + 1;
        if (is_listed(name, KNOWN, RB_COUNT(KNOWN)) || is_neutral(entry, name)
            || (w->is_gemma3 && is_listed(name, KNOWN_OF_GEMMA3, RB_COUNT(KNOWN_OF_GEMMA3))))
            continue;
        gguf_value_text(entry, value, sizeof value);
        return rb_fail(err, RB_EUNSUPPORTED, "metadata \"%.128s\" is %s, which is not understood here", entry->key,
                       value);
    }
    return RB_OK;
}

/* ---- parts of the document ------------------------------------------------------------------- */

static rb_status write_names(const config_writer *w, rb_error *err)
{
    const gguf_architecture *architecture = w->architecture;
    cJSON *classes = cJSON_CreateStringArray(&(const char *){architecture->class_name}, 1);
    rb_status st;
    if (!classes) return rb_fail(err, RB_ENOMEM, "config.json: no memory");
    RB_TRY(st, rb_json_add_item(w->json, "architectures", &classes, err), done);
    RB_TRY(st, rb_json_add_string(w->json, "model_type", architecture->model_type, err), done);
    if (w->is_gemma3) st = rb_json_add_string(w->json, "hidden_activation", "gelu_pytorch_tanh", err);
    else st = rb_json_add_string(w->json, "hidden_act", "silu", err);
done:
    return st;
}

/* Keys and values of one length, which turns whole. */
static rb_status get_head_dim(config_writer *w, rb_error *err)
{
    static const char *const same[] = {"attention.value_length", "rope.dimension_count"};
    rb_status st;
    if (has(w, "attention.key_length")) {
        RB_TRY(st, get_size(w, "attention.key_length", &w->head_dim, err), done);
    } else if (w->hidden_size % w->n_heads != 0) {
        return rb_fail(err, RB_EINVAL,
                       "embedding_length %" PRId64 " is not a multiple of attention.head_count %" PRId64,
                       w->hidden_size, w->n_heads);
    } else {
        w->head_dim = w->hidden_size / w->n_heads;
    }
    st = RB_OK;
    for (size_t i = 0; i < RB_COUNT(same); i++) {
        int64_t found = w->head_dim;
        if (has(w, same[i])) RB_TRY(st, get_size(w, same[i], &found, err), done);
        if (found != w->head_dim)
            return rb_fail(err, RB_EUNSUPPORTED,
                           "metadata \"%s.%s\" is %" PRId64 ", expected %" PRId64 ", the head dim",
                           w->architecture->name, same[i], found, w->head_dim);
    }
done:
    return st;
}

static rb_status get_sizes(config_writer *w, rb_error *err)
{
    rb_status st;
    RB_TRY(st, get_size(w, "block_count", &w->n_layers, err), done);
    RB_TRY(st, get_size(w, "embedding_length", &w->hidden_size, err), done);
    RB_TRY(st, get_size(w, "attention.head_count", &w->n_heads, err), done);
    RB_TRY(st, get_size(w, "context_length", &w->context_length, err), done);
    st = get_head_dim(w, err);
done:
    return st;
}

/* The rows of the embedding, which the tokenizer's list must agree with. */
static rb_status get_vocab_size(const config_writer *w, int64_t *out, rb_error *err)
{
    const gguf_tensor *embedding = gguf_find_tensor(w->file, "token_embd.weight");
    const gguf_entry *tokens = gguf_find(w->metadata, "tokenizer.ggml.tokens");
    if (!embedding || embedding->rank != 2)
        return rb_fail(err, RB_EFORMAT, "no tensor \"token_embd.weight\" of two dims");
    *out = embedding->shape[0];
    if (tokens && tokens->type == GGUF_ARRAY && tokens->n_items != *out)
        return rb_fail(err, RB_EFORMAT,
                       "tokenizer.ggml.tokens has %" PRId64 " tokens, but token_embd.weight %" PRId64 " rows",
                       tokens->n_items, *out);
    return RB_OK;
}

static rb_status write_sizes(const config_writer *w, rb_error *err)
{
    int64_t vocab_size = 0, intermediate_size = 0, n_kv_heads = w->n_heads;
    double epsilon = 0;
    rb_status st;
    RB_TRY(st, get_vocab_size(w, &vocab_size, err), done);
    RB_TRY(st, get_size(w, "feed_forward_length", &intermediate_size, err), done);
    if (has(w, "attention.head_count_kv")) RB_TRY(st, get_size(w, "attention.head_count_kv", &n_kv_heads, err), done);
    RB_TRY(st, get_number(w, "attention.layer_norm_rms_epsilon", &epsilon, err), done);
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"hidden_size", (double)w->hidden_size},
        {"intermediate_size", (double)intermediate_size},
        {"num_hidden_layers", (double)w->n_layers},
        {"num_attention_heads", (double)w->n_heads},
        {"num_key_value_heads", (double)n_kv_heads},
        {"head_dim", (double)w->head_dim},
        {"vocab_size", (double)vocab_size},
        {"max_position_embeddings", (double)w->context_length},
        {"rms_norm_eps", epsilon},
    };
    for (size_t i = 0; i < RB_COUNT(numbers); i++)
        RB_TRY(st, rb_json_add_number(w->json, numbers[i].key, numbers[i].value, err), done);
done:
    return st;
}

/* What llama.cpp tells from the tensors that are there. */
static rb_status write_flags(const config_writer *w, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_add_bool(w->json, "tie_word_embeddings", !gguf_find_tensor(w->file, "output.weight"), err),
           done);
    RB_TRY(st,
           rb_json_add_bool(
               w->json, "attention_bias",
               strcmp(w->architecture->name, "qwen2") != 0 && gguf_find_tensor(w->file, "blk.0.attn_q.bias"), err),
           done);
    if (strcmp(w->architecture->name, "llama") == 0)
        st = rb_json_add_bool(w->json, "mlp_bias", gguf_find_tensor(w->file, "blk.0.ffn_up.bias") != NULL, err);
    else if (!w->is_gemma3) st = rb_json_add_bool(w->json, "use_sliding_window", false, err);
done:
    return st;
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

static rb_status add_factors(cJSON *scaling, const config_writer *w, const gguf_tensor *tensor, rb_error *err)
{
    double factors[RB_MAX_BLOCKS];
    const int64_t n = w->head_dim / 2;
    rb_status st;
    if (tensor->dtype != TENSOR_F32 || tensor->rank != 1 || tensor->shape[0] != n || n > RB_MAX_BLOCKS)
        return rb_fail(err, RB_EFORMAT, "tensor \"%s\": %" PRId64 " factors in %s, expected %" PRId64 " in F32",
                       tensor->name, tensor->shape[tensor->rank - 1], tensor_dtype_name(tensor->dtype), n);
    for (int64_t i = 0; i < n; i++) {
        float factor;
        memcpy(&factor, (const char *)tensor->data + i * (int64_t)sizeof factor, sizeof factor);
        if (!isfinite(factor) || factor <= 0)
            return rb_fail(err, RB_ENONFINITE, "tensor \"%s\": factor %" PRId64 " is %g, expected a number above 0",
                           tensor->name, i, (double)factor);
        factors[i] = (double)factor;
    }
    RB_TRY(st, rb_json_add_string(scaling, "rope_type", "longrope", err), done);
    RB_TRY(st, rb_json_add_number(scaling, "factor", 1, err), done);
    RB_TRY(st, rb_json_add_number(scaling, "attention_factor", 1, err), done);
    RB_TRY(st, rb_json_add_numbers(scaling, "short_factor", factors, (int)n, err), done);
    RB_TRY(st, rb_json_add_numbers(scaling, "long_factor", factors, (int)n, err), done);
    st = rb_json_add_number(scaling, "original_max_position_embeddings", (double)w->context_length, err);
done:
    return st;
}

static rb_status add_scaling(cJSON *scaling, const config_writer *w, gguf_string type, rb_error *err)
{
    const bool is_yarn = gguf_string_is(type, "yarn");
    int64_t original = w->context_length;
    double factor = 1;
    rb_status st;
    if (!is_yarn && !gguf_string_is(type, "linear"))
        return rb_fail(err, RB_EUNSUPPORTED,
                       "metadata \"%s.rope.scaling.type\" is \"%.*s\", expected none, linear or yarn",
                       w->architecture->name, (int)(type.length < 64 ? type.length : 64), type.at);
    RB_TRY(st, get_number(w, has(w, "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear", &factor, err),
           done);
    RB_TRY(st, rb_json_add_string(scaling, "rope_type", is_yarn ? "yarn" : "linear", err), done);
    RB_TRY(st, rb_json_add_number(scaling, "factor", factor, err), done);
    if (!is_yarn) goto done;
    if (has(w, "rope.scaling.original_context_length"))
        RB_TRY(st, get_size(w, "rope.scaling.original_context_length", &original, err), done);
    st = rb_json_add_number(scaling, "original_max_position_embeddings", (double)original, err);
done:
    return st;
}

/* What scales RoPE: "none" where the file names nothing. An old file has only a factor, for linear scaling. */
static rb_status get_scaling_type(const config_writer *w, gguf_string *type, rb_error *err)
{
    char key[KEY_BYTES];
    double factor = 1;
    rb_status st = RB_OK;
    *type = (gguf_string){"none", 4};
    if (has(w, "rope.scaling.type"))
        return gguf_get_string(w->metadata, key_of(key, w, "rope.scaling.type"), type, err);
    if (has(w, "rope.scaling.factor")) st = get_number(w, "rope.scaling.factor", &factor, err);
    else if (has(w, "rope.scale_linear")) st = get_number(w, "rope.scale_linear", &factor, err);
    if (factor != 1) *type = (gguf_string){"linear", 6};
    return st;
}

static rb_status write_rope(const config_writer *w, rb_error *err)
{
    const gguf_tensor *factors = gguf_find_tensor(w->file, GGUF_ROPE_FACTORS);
    cJSON *scaling = NULL;
    gguf_string type;
    double theta = 10000; /* as llama.cpp reads an absent one */
    rb_status st;
    if (has(w, "rope.freq_base")) RB_TRY(st, get_number(w, "rope.freq_base", &theta, err), done);
    RB_TRY(st, rb_json_add_number(w->json, "rope_theta", theta, err), done);
    RB_TRY(st, get_scaling_type(w, &type, err), done);
    const bool is_scaled = !gguf_string_is(type, "none");
    if (is_scaled && factors) {
        st = rb_fail(err, RB_EUNSUPPORTED,
                     "both %s.rope.scaling.type and tensor \"%s\" scale RoPE, expected one of them",
                     w->architecture->name, factors->name);
        goto done;
    }
    if (!is_scaled && !factors) return rb_json_add_null(w->json, "rope_scaling", err);
    RB_TRY(st, rb_json_new_object(&scaling, err), done);
    if (factors) RB_TRY(st, add_factors(scaling, w, factors, err), done);
    else RB_TRY(st, add_scaling(scaling, w, type, err), done);
    st = rb_json_add_item(w->json, "rope_scaling", &scaling, err);
done:
    cJSON_Delete(scaling);
    return st;
}

/* ---- gemma3 ---------------------------------------------------------------------------------- */

/* Which layers slide: said layer by layer, or every period-th sees all. */
static rb_status write_layer_types(const config_writer *w, rb_error *err)
{
    char key[KEY_BYTES];
    const gguf_entry *pattern = gguf_find(w->metadata, key_of(key, w, "attention.sliding_window_pattern"));
    int64_t period = 6;
    cJSON *types = NULL;
    rb_status st = RB_OK;
    const bool is_list = pattern && pattern->type == GGUF_ARRAY;
    if (is_list && pattern->n_items != w->n_layers)
        return rb_fail(err, RB_EFORMAT, "%s has %" PRId64 " items, expected %" PRId64 ", one a layer", key,
                       pattern->n_items, w->n_layers);
    if (is_list) RB_TRY(st, gguf_get_array(w->metadata, key, GGUF_BOOL, &pattern, err), done);
    else if (pattern) RB_TRY(st, gguf_get_int(w->metadata, key, 1, MAX_SIZE, &period, err), done);
    types = cJSON_CreateArray();
    for (int64_t layer = 0; layer < w->n_layers; layer++) {
        const bool slides = is_list ? gguf_item_number(pattern, layer) != 0 : layer % period != period - 1;
        cJSON *type = cJSON_CreateString(slides ? "sliding_attention" : "full_attention");
        if (!types || !type) {
            cJSON_Delete(type);
            st = rb_fail(err, RB_ENOMEM, "layer types: no memory");
            goto done;
        }
        RB_TRY(st, rb_json_append(types, &type, err), done);
    }
    st = rb_json_add_item(w->json, "layer_types", &types, err);
done:
    cJSON_Delete(types);
    return st;
}

static rb_status write_gemma3(const config_writer *w, rb_error *err)
{
    /* Only the model of 62 layers, 27B, scales queries by hidden_size / heads. */
    enum { LAYERS_OF_27B = 62 };
    const int64_t scalar = w->n_layers == LAYERS_OF_27B ? w->hidden_size / w->n_heads : w->head_dim;
    int64_t window = 0;
    double local_theta = 10000;
    rb_status st;
    RB_TRY(st, get_size(w, "attention.sliding_window", &window, err), done);
    if (has(w, "rope.freq_base_swa")) RB_TRY(st, get_number(w, "rope.freq_base_swa", &local_theta, err), done);
    RB_TRY(st, rb_json_add_number(w->json, "query_pre_attn_scalar", (double)scalar, err), done);
    RB_TRY(st, rb_json_add_null(w->json, "attn_logit_softcapping", err), done);
    RB_TRY(st, rb_json_add_null(w->json, "final_logit_softcapping", err), done);
    RB_TRY(st, rb_json_add_number(w->json, "rope_local_base_freq", local_theta, err), done);
    RB_TRY(st, rb_json_add_number(w->json, "sliding_window", (double)window, err), done);
    st = write_layer_types(w, err);
done:
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status gguf_config_text(char **text, const gguf_file *file, rb_error *err)
{
    config_writer w = {.file = file, .metadata = gguf_metadata_of(file)};
    rb_status st;

    *text = NULL;
    RB_TRY(st, gguf_architecture_of(&w.architecture, w.metadata, err), done);
    w.is_gemma3 = strcmp(w.architecture->name, "gemma3") == 0;
    RB_TRY(st, check_keys(&w, err), done);
    RB_TRY(st, get_sizes(&w, err), done);
    RB_TRY(st, rb_json_new_object(&w.json, err), done);
    RB_TRY(st, write_names(&w, err), done);
    RB_TRY(st, write_sizes(&w, err), done);
    RB_TRY(st, write_flags(&w, err), done);
    RB_TRY(st, write_rope(&w, err), done);
    if (w.is_gemma3) RB_TRY(st, write_gemma3(&w, err), done);
    st = rb_json_print(text, w.json, err);
done:
    cJSON_Delete(w.json);
    return st == RB_OK ? st : rb_fail_in(err, st, "%s", gguf_path(file));
}
