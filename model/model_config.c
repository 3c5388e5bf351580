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
#include "core/sha256.h"
#include "model/config_fields.h"
#include "model/model_config_parts.h"

enum {
    MAX_CONFIG_BYTES = 16 << 20,
    MAX_VOCAB = 1 << 24,
};

/* ---- small readers --------------------------------------------------------------------------- */

rb_status config_get_count(const cJSON *json, const char *key, const char *where, int max, int *out, rb_error *err)
{
    int64_t value = 0;
    const rb_status st = rb_json_get_int(json, key, where, 1, max, &value, err);
    if (st == RB_OK) *out = (int)value;
    return st;
}

rb_status config_get_count_or(const cJSON *json, const char *key, const char *where, int max, int absent, int *out,
                              rb_error *err)
{
    *out = absent;
    return rb_json_find(json, key) ? config_get_count(json, key, where, max, out, err) : RB_OK;
}

rb_status config_get_flag(const cJSON *json, const char *key, const char *where, bool *out, rb_error *err)
{
    *out = false;
    return rb_json_find(json, key) ? rb_json_get_bool(json, key, where, out, err) : RB_OK;
}

rb_status config_get_scale(const cJSON *json, const char *key, const char *where, double absent, double *out,
                           rb_error *err)
{
    *out = absent;
    return rb_json_find(json, key) ? rb_json_get_number(json, key, where, DBL_MIN, DBL_MAX, out, err) : RB_OK;
}

/* Whether the file has the field, even as null. */
static bool is_given(const cJSON *json, const char *key) { return cJSON_GetObjectItemCaseSensitive(json, key) != NULL; }

/* ---- architecture ---------------------------------------------------------------------------- */

/* Models that hold a decoder beside other parts: its fields are in text_config, its tensors under a name of its own. */
static const struct {
    const char *model_type, *text_model_type, *tensor_prefix;
} WRAPPERS[] = {{"gemma3", "gemma3_text", "language_model."}};

static rb_status fail_unsupported(const char *model_type, const char *name, rb_error *err)
{
    char supported[256];
    model_family_list(supported, sizeof supported);
    return rb_fail(err, RB_EUNSUPPORTED, "%s: model_type \"%s\" is not supported, expected %s", name, model_type,
                   supported);
}

/* *text: the object with the decoder's fields. Weights are tied as the whole model says. */
static rb_status find_text_config(model_config *config, cJSON *json, const char *model_type, cJSON **text,
                                  const char *name, rb_error *err)
{
    *text = json;
    if (!rb_json_find(json, "text_config")) return RB_OK;
    for (size_t i = 0; i < RB_COUNT(WRAPPERS); i++) {
        if (strcmp(WRAPPERS[i].model_type, model_type) != 0) continue;
        const cJSON *found, *tied = rb_json_find(json, "tie_word_embeddings");
        const rb_status st = rb_json_get_object(json, "text_config", name, &found, err);
        if (st != RB_OK) return st;
        *text = cJSON_GetObjectItemCaseSensitive(json, "text_config");
        cJSON_DeleteItemFromObjectCaseSensitive(*text, "tie_word_embeddings");
        if (!cJSON_AddItemToObject(*text, "tie_word_embeddings", cJSON_CreateBool(!cJSON_IsFalse(tied))))
            return rb_fail(err, RB_ENOMEM, "out of memory for JSON");
        config->family = model_family_find(WRAPPERS[i].text_model_type);
        config->tensor_prefix = WRAPPERS[i].tensor_prefix;
        return RB_OK;
    }
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s: text_config is there: a multimodal model (model_type \"%s\"), only plain "
                   "text decoders and gemma3 are supported",
                   name, model_type);
}

static rb_status parse_family(model_config *config, cJSON *json, cJSON **text, const char *name, rb_error *err)
{
    const char *model_type;
    rb_status st;
    config->tensor_prefix = "";
    RB_TRY(st, rb_json_get_string(json, "model_type", name, &model_type, err), done);
    RB_TRY(st, find_text_config(config, json, model_type, text, name, err), done);
    if (!config->family) config->family = model_family_find(model_type);
    if (!config->family) return fail_unsupported(model_type, name, err);
    snprintf(config->facts.model_type, sizeof config->facts.model_type, "%s", config->family->model_type);
done:
    return st;
}

/* A classifier or an encoder may share the model_type of a decoder. */
static rb_status check_architecture(const model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const model_family *family = config->family;
    const cJSON *list, *item;
    if (!rb_json_find(json, "architectures")) return RB_OK;
    const rb_status st = rb_json_get_array(json, "architectures", name, &list, err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsString(item)) continue;
        if (strcmp(item->valuestring, family->architecture) == 0) return RB_OK;
        if (family->other_architecture && strcmp(item->valuestring, family->other_architecture) == 0) return RB_OK;
    }
    return rb_fail(err, RB_EUNSUPPORTED, "%s: architectures[0] is \"%s\", expected \"%s\"", name,
                   cJSON_IsString(list->child) ? list->child->valuestring : "", family->architecture);
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

/* Whether `word` is one of the words of `list`, which has spaces between them. */
static bool has_word(const char *list, const char *word)
{
    const size_t length = strlen(word);
    for (const char *at = list; length > 0 && (at = strstr(at, word)); at += length)
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) return true;
    return false;
}

static rb_status parse_activation(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    static const struct {
        const char *name;
        activation_kind kind;
    } activations[] = {{"silu", ACTIVATION_SILU},
                       {"gelu", ACTIVATION_GELU},
                       {"gelu_new", ACTIVATION_GELU_TANH},
                       {"gelu_fast", ACTIVATION_GELU_TANH},
                       {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH}};
    const char *activation;
    const rb_status st = rb_json_get_string(json, "hidden_act", name, &activation, err);
    if (st != RB_OK) return st;
    for (size_t i = 0; i < RB_COUNT(activations); i++)
        if (has_word(config->family->activations, activation) && strcmp(activations[i].name, activation) == 0) {
            config->activation = activations[i].kind;
            return RB_OK;
        }
    return rb_fail(err, RB_EUNSUPPORTED, "%s: hidden_act is \"%s\", expected \"%s\"", name, activation,
                   config->family->activations);
}

/* ---- geometry -------------------------------------------------------------------------------- */

/* null means one KV head per query head. So does an absent field, unless the family's Python class has another
 * default. */
static rb_status parse_kv_heads(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const char *key = "num_key_value_heads";
    model_facts *facts = &config->facts;
    if (rb_json_find(json, key)) return config_get_count(json, key, name, MODEL_MAX_HEADS, &facts->n_kv_heads, err);
    if (!is_given(json, key) && config->family->needs_kv_heads)
        return rb_fail(err, RB_EFORMAT, "%s: %s is missing, expected a number or null", name, key);
    facts->n_kv_heads = facts->n_q_heads;
    return RB_OK;
}

static rb_status parse_head_dim(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    model_facts *facts = &config->facts;
    if (rb_json_find(json, "head_dim")) {
        const rb_status st = config_get_count(json, "head_dim", name, RB_MAX_HEAD_DIM, &facts->head_dim, err);
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

    RB_TRY(st, config_get_count(json, "num_hidden_layers", name, MODEL_MAX_LAYERS, &facts->n_layers, err), done);
    RB_TRY(st, config_get_count(json, "num_attention_heads", name, MODEL_MAX_HEADS, &facts->n_q_heads, err), done);
    RB_TRY(st, config_get_count(json, "hidden_size", name, MODEL_MAX_HIDDEN, &config->hidden_size, err), done);
    RB_TRY(st,
           config_get_count(json, "intermediate_size", name, MODEL_MAX_INTERMEDIATE, &config->intermediate_size, err),
           done);
    RB_TRY(st, config_get_count(json, "vocab_size", name, MAX_VOCAB, &config->vocab_size, err), done);
    RB_TRY(st, parse_kv_heads(config, json, name, err), done);
    RB_TRY(st, parse_head_dim(config, json, name, err), done);
    if (facts->n_q_heads % facts->n_kv_heads != 0)
        RB_TRY(st,
               rb_fail(err, RB_EINVAL, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", name,
                       facts->n_q_heads, facts->n_kv_heads),
               done);
    RB_TRY(st, rb_json_get_int(json, "max_position_embeddings", name, 1, INT64_C(1) << 40, &config->max_position, err),
           done);
    RB_TRY(st, rb_json_get_number(json, "rms_norm_eps", name, DBL_MIN, 1, &config->norm_eps, err), done);
    RB_TRY(st, config_get_flag(json, "tie_word_embeddings", name, &config->tied_embeddings, err), done);
done:
    return st;
}

/* ---- numbers that multiply ------------------------------------------------------------------ */

static rb_status parse_attention_scale(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const model_family *family = config->family;
    double scalar = config->query_dim;
    rb_status st = RB_OK;
    if (family->has_query_scalar)
        RB_TRY(st, rb_json_get_number(json, "query_pre_attn_scalar", name, DBL_MIN, DBL_MAX, &scalar, err), done);
    config->facts.attention_scale = 1.0 / sqrt(scalar);
    if (family->has_latent_cache) config->facts.attention_scale *= rope_attention_scale(&config->rope);
    if (family->has_multipliers)
        RB_TRY(st, config_get_scale(json, "attention_multiplier", name, 1, &config->facts.attention_scale, err), done);
done:
    return st;
}

static rb_status parse_scales(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    const model_family *family = config->family;
    double logits_scaling = 1;
    rb_status st;
    config->embedding_scale = family->scales_embedding ? sqrt(config->hidden_size) : 1;
    config->residual_scale = config->logit_scale = 1;
    RB_TRY(st, parse_attention_scale(config, json, name, err), done);
    if (family->has_multipliers) {
        RB_TRY(st, config_get_scale(json, "embedding_multiplier", name, 1, &config->embedding_scale, err), done);
        RB_TRY(st, config_get_scale(json, "residual_multiplier", name, 1, &config->residual_scale, err), done);
        RB_TRY(st, config_get_scale(json, "logits_scaling", name, 1, &logits_scaling, err), done);
        config->logit_scale = 1.0 / logits_scaling;
    }
    if (family->has_softcaps) {
        RB_TRY(st, config_get_scale(json, "attn_logit_softcapping", name, 0, &config->attention_softcap, err), done);
        RB_TRY(st, config_get_scale(json, "final_logit_softcapping", name, 0, &config->logit_softcap, err), done);
    }
done:
    return st;
}

/* ---- biases and norms ------------------------------------------------------------------------ */

/* Adds the extras of a flag to those that the family always has. */
static rb_status parse_extra(model_config *config, const cJSON *json, const char *key, flag_rule rule, unsigned extras,
                             const char *name, rb_error *err)
{
    bool is_set;
    const rb_status st = config_get_flag(json, key, name, &is_set, err);
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
    rb_status st = RB_OK;
    config->extras = family->extras;
    if (family->has_parallel_flag)
        RB_TRY(st, config_get_flag(json, "use_parallel_residual", name, &config->has_parallel_residual, err), done);
    RB_TRY(
        st,
        parse_extra(config, json, "attention_bias", family->attention_bias, family->attention_bias_extras, name, err),
        done);
    st = parse_extra(config, json, "mlp_bias", family->mlp_bias, EXTRA_MLP_BIAS, name, err);
done:
    return st;
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

static rb_status parse_rope(model_config *config, const cJSON *json, const char *name, rb_error *err)
{
    model_facts *facts = &config->facts;
    int local_dim = 0;
    rb_status st;
    RB_TRY(st, rope_settings_parse(&config->rope, &config->local_rope, config->family, json, name, err), done);
    RB_TRY(st, rope_rotary_dim(&facts->rotary_dim, &config->rope, facts->head_dim, name, err), done);
    if (config->family->has_local_rope) {
        RB_TRY(st, rope_rotary_dim(&local_dim, &config->local_rope, facts->head_dim, name, err), done);
        if (local_dim != facts->rotary_dim)
            RB_TRY(st,
                   rb_fail(err, RB_EUNSUPPORTED,
                           "%s: %d dims turn in layers with a window and %d in the others, "
                           "expected the same number",
                           name, local_dim, facts->rotary_dim),
                   done);
        facts->has_local_rope = true;
    }
    facts->rope.pairing = facts->local_rope.pairing = config->family->pairing;
done:
    return st;
}

rb_status model_config_resolve_rope(model_config *config, int64_t n_positions, const char *name, rb_error *err)
{
    model_facts *facts = &config->facts;
    const int dim = facts->rotary_dim;
    rb_status st;
    RB_TRY(st, rope_resolve(&facts->rope, &config->rope, dim, n_positions, config->max_position, name, err), done);
    if (facts->has_local_rope)
        RB_TRY(st,
               rope_resolve(&facts->local_rope, &config->local_rope, dim, n_positions, config->max_position, name, err),
               done);
done:
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

static rb_status parse_decoder(model_config *out, const cJSON *json, const char *name, rb_error *err)
{
    rb_status st;
    RB_TRY(st, parse_activation(out, json, name, err), done);
    RB_TRY(st, parse_geometry(out, json, name, err), done);
    RB_TRY(st, parse_extras(out, json, name, err), done);
    RB_TRY(st, config_parse_latents(out, json, name, err), done);
    RB_TRY(st, config_parse_experts(out, json, name, err), done);
    RB_TRY(st, config_parse_windows(out, json, name, err), done);
    RB_TRY(st, parse_rope(out, json, name, err), done);
    RB_TRY(st, parse_scales(out, json, name, err), done);
    if (out->facts.has_local_rope)
        memcpy(out->facts.layer_is_local, out->layer_slides, sizeof out->facts.layer_is_local);
    RB_TRY(st, model_config_resolve_rope(out, out->max_position, name, err), done);
    RB_TRY(st, model_facts_check(&out->facts, name, err), done);
done:
    return st;
}

rb_status model_config_parse(model_config *out, const char *text, size_t length, const char *name, rb_error *err)
{
    cJSON *json = NULL, *decoder = NULL;
    rb_status st;

    memset(out, 0, sizeof *out);
    RB_TRY(st, rb_sha256_bytes(out->facts.config_sha256, text, length, err), done);
    RB_TRY(st, rb_json_parse(&json, text, length, name, err), done);
    if (!cJSON_IsObject(json)) RB_TRY(st, rb_fail(err, RB_EFORMAT, "%s: not a JSON object", name), done);
    RB_TRY(st, parse_family(out, json, &decoder, name, err), done);
    if (decoder == json) RB_TRY(st, check_architecture(out, json, name, err), done);
    RB_TRY(st, check_not_quantized(json, name, err), done);
    RB_TRY(st, config_fields_check(decoder, out->facts.model_type, name, err), done);
    RB_TRY(st, config_normalize(out, decoder, name, err), done);
    RB_TRY(st, parse_decoder(out, decoder, name, err), done);
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

int64_t model_config_max_context(const model_config *config)
{
    const rope_facts *rope = &config->facts.rope;
    const double most = (double)((int64_t)1 << 53), stretched = (double)config->max_position * rope->factor;
    return rope->kind == ROPE_DYNAMIC ? (int64_t)fmin(stretched, most) : config->max_position;
}
