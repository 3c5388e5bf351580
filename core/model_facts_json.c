/* Model facts and text facts in JSON. See core/model_facts.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "core/model_facts_forms.h"

static const int64_t MAX_TOKENS = (int64_t)1 << 40;

/* ---- model ------------------------------------------------------------------------------------ */

static rb_status rope_to_json(cJSON **out, const rope_facts *rope, int n_freqs, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_string(*out, "kind", rope_kind_name(rope->kind), err), done);
    RB_TRY(st, rb_json_add_string(*out, "pairing", rope_pairing_name(rope->pairing), err), done);
    RB_TRY(st, rb_json_add_number(*out, "theta", rope->theta, err), done);
    if (rope->kind != ROPE_DEFAULT) RB_TRY(st, rb_json_add_number(*out, "factor", rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_json_add_number(*out, "low_freq_factor", rope->low_freq_factor, err), done);
        RB_TRY(st, rb_json_add_number(*out, "high_freq_factor", rope->high_freq_factor, err), done);
    }
    if (rope_kind_has_original(rope->kind))
        RB_TRY(st, rb_json_add_number(*out, "original_max_position", (double)rope->original_max_position, err), done);
    if (rope->attention_factor != 1)
        RB_TRY(st, rb_json_add_number(*out, "attention_factor", rope->attention_factor, err), done);
    RB_TRY(st, rb_json_add_numbers(*out, "inv_freq", rope->inv_freq, n_freqs, err), done);
done:
    return st;
}

static rb_status local_rope_to_json(cJSON **out, const model_facts *facts, rb_error *err)
{
    double layers[MODEL_FACTS_MAX_LAYERS];
    int n = 0;
    const rb_status st = rope_to_json(out, &facts->local_rope, facts->rotary_dim / 2, err);
    for (int layer = 0; layer < facts->n_layers; layer++)
        if (facts->layer_is_local[layer]) layers[n++] = layer;
    return st == RB_OK ? rb_json_add_numbers(*out, "layers", layers, n, err) : st;
}

rb_status model_facts_to_json(cJSON **out, const model_facts *facts, rb_error *err)
{
    cJSON *object = NULL, *rope = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, rb_json_add_string(object, "model_type", facts->model_type, err), done);
    RB_TRY(st, rb_json_add_string(object, "config_sha256", facts->config_sha256, err), done);
    if (facts->weights_sha256[0])
        RB_TRY(st, rb_json_add_string(object, "weights_sha256", facts->weights_sha256, err), done);
    if (facts->weights_sample_sha256[0])
        RB_TRY(st, rb_json_add_string(object, "weights_sample_sha256", facts->weights_sample_sha256, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_layers", facts->n_layers, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_q_heads", facts->n_q_heads, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_kv_heads", facts->n_kv_heads, err), done);
    RB_TRY(st, rb_json_add_number(object, "head_dim", facts->head_dim, err), done);
    RB_TRY(st, rb_json_add_number(object, "rotary_dim", facts->rotary_dim, err), done);
    if (facts->value_dim != facts->head_dim)
        RB_TRY(st, rb_json_add_number(object, "value_dim", facts->value_dim, err), done);
    RB_TRY(st, rb_json_add_number(object, "attention_scale", facts->attention_scale, err), done);
    RB_TRY(st, rope_to_json(&rope, &facts->rope, facts->rotary_dim / 2, err), done);
    RB_TRY(st, rb_json_add_item(object, "rope", &rope, err), done);
    if (facts->has_local_rope) {
        RB_TRY(st, local_rope_to_json(&rope, facts, err), done);
        RB_TRY(st, rb_json_add_item(object, "local_rope", &rope, err), done);
    }
    *out = object;
    object = NULL;
done:
    cJSON_Delete(rope);
    cJSON_Delete(object);
    return st;
}

/* A string member that must fit its field. */
static rb_status get_text(const cJSON *object, const char *key, const char *where, char *value, size_t size,
                          rb_error *err)
{
    const char *text;
    const rb_status st = rb_json_get_string(object, key, where, &text, err);
    if (st != RB_OK) return st;
    if (strlen(text) >= size)
        return rb_fail(err, RB_EFORMAT, "%s.%s: %zu characters, at most %zu expected", where, key, strlen(text),
                       size - 1);
    memcpy(value, text, strlen(text) + 1);
    return RB_OK;
}

static rb_status get_count(const cJSON *object, const char *key, const char *where, int64_t max, int *value,
                           rb_error *err)
{
    int64_t found = 0;
    const rb_status st = rb_json_get_int(object, key, where, 1, max, &found, err);
    *value = (int)found;
    return st;
}

static rb_status inv_freq_from_json(rope_facts *rope, const cJSON *object, int n_freqs, const char *where,
                                    rb_error *err)
{
    const cJSON *list = NULL, *item = NULL;
    int i = 0;
    const rb_status st = rb_json_get_array(object, "inv_freq", where, &list, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(list) != n_freqs)
        return rb_fail(err, RB_EFORMAT, "%s.inv_freq: %d frequencies, expected %d", where, cJSON_GetArraySize(list),
                       n_freqs);
    cJSON_ArrayForEach (item, list) {
        if (!cJSON_IsNumber(item)) return rb_fail(err, RB_EFORMAT, "%s.inv_freq[%d]: expected a number", where, i);
        rope->inv_freq[i++] = item->valuedouble;
    }
    return RB_OK;
}

static rb_status rope_from_json(rope_facts *rope, const cJSON *object, int n_freqs, const char *where, rb_error *err)
{
    const char *kind, *pairing;
    rb_status st;
    RB_TRY(st, rb_json_get_string(object, "kind", where, &kind, err), done);
    RB_TRY(st, rb_json_get_string(object, "pairing", where, &pairing, err), done);
    RB_TRY(st, rope_facts_parse_names(rope, kind, pairing, where, err), done);
    RB_TRY(st, rb_json_get_number(object, "theta", where, 0, HUGE_VAL, &rope->theta, err), done);
    rope->factor = 1;
    if (rope->kind != ROPE_DEFAULT)
        RB_TRY(st, rb_json_get_number(object, "factor", where, 0, HUGE_VAL, &rope->factor, err), done);
    if (rope->kind == ROPE_LLAMA3) {
        RB_TRY(st, rb_json_get_number(object, "low_freq_factor", where, 0, HUGE_VAL, &rope->low_freq_factor, err),
               done);
        RB_TRY(st, rb_json_get_number(object, "high_freq_factor", where, 0, HUGE_VAL, &rope->high_freq_factor, err),
               done);
    }
    if (rope_kind_has_original(rope->kind))
        RB_TRY(st,
               rb_json_get_int(object, "original_max_position", where, 1, MODEL_FACTS_MAX_POSITION,
                               &rope->original_max_position, err),
               done);
    rope->attention_factor = 1;
    if (rb_json_find(object, "attention_factor"))
        RB_TRY(st, rb_json_get_number(object, "attention_factor", where, 0, HUGE_VAL, &rope->attention_factor, err),
               done);
    RB_TRY(st, inv_freq_from_json(rope, object, n_freqs, where, err), done);
done:
    return st;
}

/* The layers of the local rope, ascending. */
static rb_status local_layers_from_json(model_facts *facts, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *list = NULL, *item = NULL;
    double least = 0;
    const rb_status st = rb_json_get_array(object, "layers", where, &list, err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (item, list) {
        const double layer = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(layer >= least && layer < facts->n_layers && layer == floor(layer)))
            return rb_fail(err, RB_EFORMAT, "%s.layers: expected ascending layers from 0 to %d", where,
                           facts->n_layers - 1);
        facts->layer_is_local[(int)layer] = true;
        least = layer + 1;
    }
    return RB_OK;
}

static rb_status local_rope_from_json(model_facts *facts, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *rope;
    char rope_where[256];
    rb_status st;
    if (!rb_json_find(object, "local_rope")) return RB_OK;
    facts->has_local_rope = true;
    snprintf(rope_where, sizeof rope_where, "%.200s.local_rope", where);
    RB_TRY(st, rb_json_get_object(object, "local_rope", where, &rope, err), done);
    RB_TRY(st, rope_from_json(&facts->local_rope, rope, facts->rotary_dim / 2, rope_where, err), done);
    RB_TRY(st, local_layers_from_json(facts, rope, rope_where, err), done);
done:
    return st;
}

rb_status model_facts_from_json(model_facts *facts, const cJSON *object, const char *where, rb_error *err)
{
    const cJSON *rope;
    char rope_where[256];
    rb_status st;

    memset(facts, 0, sizeof *facts);
    RB_TRY(st, get_text(object, "model_type", where, facts->model_type, sizeof facts->model_type, err), done);
    RB_TRY(st, get_text(object, "config_sha256", where, facts->config_sha256, sizeof facts->config_sha256, err), done);
    if (rb_json_find(object, "weights_sha256"))
        RB_TRY(st, get_text(object, "weights_sha256", where, facts->weights_sha256, sizeof facts->weights_sha256, err),
               done);
    if (rb_json_find(object, "weights_sample_sha256"))
        RB_TRY(st,
               get_text(object, "weights_sample_sha256", where, facts->weights_sample_sha256,
                        sizeof facts->weights_sample_sha256, err),
               done);
    RB_TRY(st, get_count(object, "n_layers", where, MODEL_FACTS_MAX_LAYERS, &facts->n_layers, err), done);
    RB_TRY(st, get_count(object, "n_q_heads", where, MODEL_FACTS_MAX_HEADS, &facts->n_q_heads, err), done);
    RB_TRY(st, get_count(object, "n_kv_heads", where, MODEL_FACTS_MAX_HEADS, &facts->n_kv_heads, err), done);
    RB_TRY(st, get_count(object, "head_dim", where, RB_MAX_HEAD_DIM, &facts->head_dim, err), done);
    RB_TRY(st, get_count(object, "rotary_dim", where, RB_MAX_HEAD_DIM, &facts->rotary_dim, err), done);
    facts->value_dim = facts->head_dim;
    if (rb_json_find(object, "value_dim"))
        RB_TRY(st, get_count(object, "value_dim", where, RB_MAX_HEAD_DIM, &facts->value_dim, err), done);
    RB_TRY(st, rb_json_get_number(object, "attention_scale", where, 0, HUGE_VAL, &facts->attention_scale, err), done);
    RB_TRY(st, rb_json_get_object(object, "rope", where, &rope, err), done);
    snprintf(rope_where, sizeof rope_where, "%.200s.rope", where);
    RB_TRY(st, rope_from_json(&facts->rope, rope, facts->rotary_dim / 2, rope_where, err), done);
    RB_TRY(st, local_rope_from_json(facts, object, where, err), done);
    RB_TRY(st, model_facts_check_as_read(facts, where, err), done);
done:
    return st;
}

/* ---- text ------------------------------------------------------------------------------------ */

rb_status text_facts_to_json(cJSON **out, const text_facts *text, rb_error *err)
{
    cJSON *object = NULL;
    rb_status st;
    *out = NULL;
    if (text->tokens_sha256[0] == '\0') {
        *out = cJSON_CreateNull();
        return *out ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    }
    RB_TRY(st, rb_json_new_object(&object, err), done);
    RB_TRY(st, rb_json_add_string(object, "tokens_sha256", text->tokens_sha256, err), done);
    RB_TRY(st, rb_json_add_number(object, "n_tokens", (double)text->n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(object, "context", (double)text->context, err), done);
    RB_TRY(st, text_bos_to_json(object, &text->bos, err), done);
    *out = object;
    object = NULL;
done:
    cJSON_Delete(object);
    return st;
}

rb_status text_facts_from_json(text_facts *text, const cJSON *object, const char *where, rb_error *err)
{
    rb_status st;
    memset(text, 0, sizeof *text);
    if (!object || cJSON_IsNull(object)) return RB_OK;
    RB_TRY(st, get_text(object, "tokens_sha256", where, text->tokens_sha256, sizeof text->tokens_sha256, err), done);
    if (!model_facts_is_sha256(text->tokens_sha256)) {
        st = rb_fail(err, RB_EFORMAT, "%s.tokens_sha256: \"%s\", expected 64 hex digits", where, text->tokens_sha256);
        goto done;
    }
    RB_TRY(st, rb_json_get_int(object, "n_tokens", where, 1, MAX_TOKENS, &text->n_tokens, err), done);
    RB_TRY(st, rb_json_get_int(object, "context", where, 1, MAX_TOKENS, &text->context, err), done);
    RB_TRY(st, text_bos_from_json(&text->bos, object, where, err), done);
done:
    return st;
}
