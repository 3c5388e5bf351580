/* config.json to model_config (docs/models.md says how each field is read).
 *
 * Fields mean what they mean to Hugging Face transformers, with one exception. transformers takes an absent field from
 * a default of the Python class. Where a wrong guess would change the numbers (RoPE base, sliding window, Qwen3's
 * head_dim), an absent field is an error here. */
#include "model/model_config.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/atomic_file.h"
#include "core/json.h"
#include "core/sha256.h"
#include "model/config_fields.h"
#include "model/rope_config.h"

enum {
    MAX_CONFIG_BYTES = 16 << 20,
    MAX_HIDDEN = 1 << 20,
    MAX_INTERMEDIATE = 1 << 22,
    MAX_HEADS = 1 << 14,
    MAX_VOCAB = 1 << 24,
};

/* ---- small readers --------------------------------------------------------------------------- */

static rb_status get_count(const cJSON *json, const char *key, const char *where, int max, int *out, rb_error *err)
{
    int64_t value = 0;
    const rb_status st = rb_json_get_int(json, key, where, 1, max, &value, err);
    if (st == RB_OK) *out = (int)value;
    return st;
}

/* An absent flag is false, as in transformers for every flag that is read here. */
static rb_status get_flag(const cJSON *json, const char *key, const char *where, bool *out, rb_error *err)
{
    *out = false;
    return rb_json_find(json, key) ? rb_json_get_bool(json, key, where, out, err) : RB_OK;
}

/* Whether the file has the field, even as null. */
static bool is_given(const cJSON *json, const char *key) { return cJSON_GetObjectItemCaseSensitive(json, key) != NULL; }

/* ---- architecture ---------------------------------------------------------------------------- */

static rb_status fail_unsupported(const char *model_type, const char *name, rb_error *err)
{
    char supported[256];
    model_family_list(supported, sizeof supported);
    return rb_fail(err, RB_EUNSUPPORTED, "%s: model_type \"%s\" is not supported, expected %s", name, model_type,
                   supported);
}

static rb_status parse_family(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const char *model_type;
    if (rb_json_find(json, "text_config"))
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: text_config is there: a multimodal model, only plain text decoders are supported", name);
    const rb_status st = rb_json_get_string(json, "model_type", name, &model_type, err);
    if (st != RB_OK) return st;
    config->family = model_family_find(model_type);
    if (!config->family) return fail_unsupported(model_type, name, err);
    snprintf(config->facts.model_type, sizeof config->facts.model_type, "%s", model_type);
    return RB_OK;
}

/* A classifier or an encoder may share the model_type of a decoder. */
static rb_status check_architecture(const model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const char *expected = config->family->architecture;
    const cJSON *list, *item;
    if (!rb_json_find(json, "architectures")) return RB_OK;
    const rb_status st = rb_json_get_array(json, "architectures", name, &list, err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (cJSON_IsString(item) && strcmp(item->valuestring, expected) == 0) return RB_OK;
    }
    return rb_fail(err, RB_EUNSUPPORTED, "%s: architectures[0] is \"%s\", expected \"%s\"", name,
                   cJSON_IsString(list->child) ? list->child->valuestring : "", expected);
}

static rb_status check_not_quantized(const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *quantization = rb_json_find(json, "quantization_config");
    if (!quantization) return RB_OK;
    const cJSON *method = rb_json_find(quantization, "quant_method");
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s: weights quantized by %s (quantization_config), expected a checkpoint in BF16, F16 or F32", name,
                   cJSON_IsString(method) ? method->valuestring : "an unnamed method");
}

static rb_status check_activation(const cJSON *json, const char *name, rb_error *err)
{
    const char *activation;
    const rb_status st = rb_json_get_string(json, "hidden_act", name, &activation, err);
    if (st != RB_OK) return st;
    if (strcmp(activation, "silu") != 0)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: hidden_act is \"%s\", expected \"silu\"", name, activation);
    return RB_OK;
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* null means one KV head per query head. So does an absent field, unless the family's Python class has another
 * default. */
static rb_status parse_kv_heads(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const char *key = "num_key_value_heads";
    model_facts *facts = &config->facts;
    if (rb_json_find(json, key)) return get_count(json, key, name, MAX_HEADS, &facts->n_kv_heads, err);
    if (!is_given(json, key) && config->family->needs_kv_heads)
        return rb_fail(err, RB_EFORMAT, "%s: %s is missing, expected a number or null", name, key);
    facts->n_kv_heads = facts->n_q_heads;
    return RB_OK;
}

static rb_status parse_head_dim(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    model_facts *facts = &config->facts;
    if (rb_json_find(json, "head_dim")) {
        const rb_status st = get_count(json, "head_dim", name, RB_MAX_HEAD_DIM, &facts->head_dim, err);
        if (st != RB_OK) return st;
    } else if (config->family->needs_head_dim) {
        return rb_fail(err, RB_EFORMAT, "%s: head_dim is missing; %s does not derive it from hidden_size", name,
                       config->facts.model_type);
    } else if (config->hidden_size % facts->n_q_heads != 0) {
        return rb_fail(err, RB_EINVAL, "%s: hidden_size %d is not a multiple of num_attention_heads %d", name,
                       config->hidden_size, facts->n_q_heads);
    } else {
        facts->head_dim = config->hidden_size / facts->n_q_heads;
    }
    if (facts->head_dim % 2 != 0 || facts->head_dim > RB_MAX_HEAD_DIM)
        return rb_fail(err, RB_EINVAL, "%s: head_dim %d, expected an even number up to %d", name, facts->head_dim,
                       RB_MAX_HEAD_DIM);
    return RB_OK;
}

static rb_status parse_geometry(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    model_facts *facts = &config->facts;
    rb_status st;

    RB_TRY(st, get_count(json, "num_hidden_layers", name, MODEL_MAX_LAYERS, &facts->n_layers, err), done);
    RB_TRY(st, get_count(json, "num_attention_heads", name, MAX_HEADS, &facts->n_q_heads, err), done);
    RB_TRY(st, get_count(json, "hidden_size", name, MAX_HIDDEN, &config->hidden_size, err), done);
    RB_TRY(st, get_count(json, "intermediate_size", name, MAX_INTERMEDIATE, &config->intermediate_size, err), done);
    RB_TRY(st, get_count(json, "vocab_size", name, MAX_VOCAB, &config->vocab_size, err), done);
    RB_TRY(st, parse_kv_heads(config, json, name, err), done);
    RB_TRY(st, parse_head_dim(config, json, name, err), done);
    if (facts->n_q_heads % facts->n_kv_heads != 0)
        RB_TRY(st,
               rb_fail(err, RB_EINVAL, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", name,
                       facts->n_q_heads, facts->n_kv_heads),
               done);
    facts->rotary_dim = facts->head_dim;
    facts->attention_scale = 1.0 / sqrt(facts->head_dim);
    RB_TRY(st, rb_json_get_int(json, "max_position_embeddings", name, 1, INT64_C(1) << 40, &config->max_position, err),
           done);
    RB_TRY(st, rb_json_get_number(json, "rms_norm_eps", name, DBL_MIN, 1, &config->rms_norm_eps, err), done);
    RB_TRY(st, get_flag(json, "tie_word_embeddings", name, &config->tied_embeddings, err), done);
done:
    return st;
}

/* ---- biases and norms ------------------------------------------------------------------------ */

/* Adds the extras of a flag to those that the family always has. */
static rb_status parse_extra(model_config *config, const cJSON *json, const char *key, flag_rule rule, unsigned extras,
                             const char *name, rb_error *err)
{
    bool is_set;
    const rb_status st = get_flag(json, key, name, &is_set, err);
    if (st != RB_OK || !is_set) return st;
    if (rule == FLAG_REFUSED)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: %s is true, which %s does not have", name, key,
                       config->facts.model_type);
    if (rule == FLAG_READ) config->extras |= extras;
    return RB_OK;
}

static rb_status parse_extras(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const model_family *family = config->family;
    config->extras = family->extras;
    const rb_status st =
        parse_extra(config, json, "attention_bias", family->attention_bias, EXTRA_QKV_BIAS | EXTRA_O_BIAS, name, err);
    return st == RB_OK ? parse_extra(config, json, "mlp_bias", family->mlp_bias, EXTRA_MLP_BIAS, name, err) : st;
}

/* ---- sliding windows ------------------------------------------------------------------------- */

/* One entry a layer; NULL where the file has none. */
static rb_status get_layer_types(const cJSON **types, const model_config *config, const cJSON *json, const char *name,
                                 rb_error *err)
{
    *types = NULL;
    if (!rb_json_find(json, "layer_types")) return RB_OK;
    const rb_status st = rb_json_get_array(json, "layer_types", name, types, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(*types) != config->facts.n_layers)
        return rb_fail(err, RB_EINVAL, "%s: layer_types has %d entries, num_hidden_layers is %d", name,
                       cJSON_GetArraySize(*types), config->facts.n_layers);
    return RB_OK;
}

/* The layers that slide are those that layer_types says, or every layer from max_window_layers on where there are no
 * layer_types. */
static rb_status parse_layer_windows(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *types, *item;
    int64_t first_layer = 0;
    bool is_used;
    rb_status st;

    RB_TRY(st, get_flag(json, "use_sliding_window", name, &is_used, err), done);
    if (!is_used) return RB_OK;
    RB_TRY(st, get_count(json, "sliding_window", name, INT32_MAX, &config->sliding_window, err), done);
    RB_TRY(st, get_layer_types(&types, config, json, name, err), done);
    if (types) {
        int layer = 0;
        cJSON_ArrayForEach (item, types)
            config->layer_slides[layer++] = cJSON_IsString(item) && strcmp(item->valuestring, "sliding_attention") == 0;
        return RB_OK;
    }
    RB_TRY(st, rb_json_get_int(json, "max_window_layers", name, 0, INT32_MAX, &first_layer, err), done);
    for (int64_t layer = first_layer; layer < config->facts.n_layers; layer++) config->layer_slides[layer] = true;
done:
    return st;
}

static rb_status parse_common_window(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    if (!is_given(json, "sliding_window"))
        return rb_fail(err, RB_EFORMAT, "%s: sliding_window is missing, expected a number or null", name);
    if (!rb_json_find(json, "sliding_window")) return RB_OK;
    for (int layer = 0; layer < config->facts.n_layers; layer++) config->layer_slides[layer] = true;
    return get_count(json, "sliding_window", name, INT32_MAX, &config->sliding_window, err);
}

/* layer_types, where given, must agree with the other settings for every layer. */
static rb_status check_layer_types(const model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const cJSON *types, *item;
    int layer = 0;
    const rb_status st = get_layer_types(&types, config, json, name, err);
    if (st != RB_OK || !types) return st;
    cJSON_ArrayForEach (item, types) {
        const char *expected = config->layer_slides[layer] ? "sliding_attention" : "full_attention";
        const char *found = cJSON_IsString(item) ? item->valuestring : "not a string";
        if (strcmp(found, expected) != 0)
            return rb_fail(err, RB_EUNSUPPORTED, "%s: layer_types[%d] is \"%s\", expected \"%s\" by the other settings",
                           name, layer, found, expected);
        layer++;
    }
    return RB_OK;
}

static rb_status parse_windows(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    rb_status st = RB_OK;
    switch (config->family->window) {
    case WINDOW_EVERY_LAYER: st = parse_common_window(config, json, name, err); break;
    case WINDOW_SOME_LAYERS: st = parse_layer_windows(config, json, name, err); break;
    case WINDOW_REFUSED:
        if (rb_json_find(json, "sliding_window"))
            st = rb_fail(err, RB_EUNSUPPORTED, "%s: sliding_window is set, which %s does not have", name,
                         config->facts.model_type);
        break;
    }
    return st == RB_OK ? check_layer_types(config, json, name, err) : st;
}

/* ---- public ---------------------------------------------------------------------------------- */

rb_status model_config_parse(model_config *out, const char *text, size_t length, const char *name, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;

    memset(out, 0, sizeof *out);
    RB_TRY(st, rb_sha256_bytes(out->facts.config_sha256, text, length, err), done);
    RB_TRY(st, rb_json_parse(&json, text, length, name, err), done);
    if (!cJSON_IsObject(json)) RB_TRY(st, rb_fail(err, RB_EFORMAT, "%s: not a JSON object", name), done);
    RB_TRY(st, parse_family(out, json, name, err), done);
    RB_TRY(st, check_architecture(out, json, name, err), done);
    RB_TRY(st, check_not_quantized(json, name, err), done);
    RB_TRY(st, check_activation(json, name, err), done);
    RB_TRY(st, config_fields_check(json, out->facts.model_type, name, err), done);
    RB_TRY(st, parse_geometry(out, json, name, err), done);
    RB_TRY(st, parse_extras(out, json, name, err), done);
    RB_TRY(st, parse_windows(out, json, name, err), done);
    RB_TRY(st, rope_config_parse(&out->facts.rope, json, name, err), done);
    out->facts.rope.pairing = out->family->pairing;
    RB_TRY(st, rope_resolve(&out->facts.rope, out->facts.rotary_dim, name, err), done);
    RB_TRY(st, model_facts_check(&out->facts, name, err), done);
done:
    cJSON_Delete(json);
    return st;
}

rb_status model_config_read(model_config *out, const char *folder, rb_error *err)
{
    char *path = NULL, *text = NULL;
    size_t size_bytes;
    rb_status st;

    RB_TRY(st, rb_join_path(&path, folder, "config.json", err), done);
    RB_TRY(st, rb_read_file(&text, &size_bytes, path, MAX_CONFIG_BYTES, err), done);
    RB_TRY(st, model_config_parse(out, text, size_bytes, path, err), done);
done:
    free(text);
    free(path);
    return st;
}

const char *model_config_lm_head(const model_config *config)
{
    return config->tied_embeddings ? config->family->tensors->embedding : config->family->tensors->lm_head;
}
