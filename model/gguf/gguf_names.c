/* See model/gguf/gguf_names.h. */
#include "model/gguf/gguf_names.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const char GGUF_ROPE_FACTORS[] = "rope_freqs.weight";

/* ---- tables ---------------------------------------------------------------------------------- */

#define COMMON                                                                                     \
    {"ffn_gate", "mlp.gate_proj", WEIGHT_AS_IS}, {"ffn_up", "mlp.up_proj", WEIGHT_AS_IS},          \
        {"ffn_down", "mlp.down_proj", WEIGHT_AS_IS}, {"attn_v", "self_attn.v_proj", WEIGHT_AS_IS}, \
    {                                                                                              \
        "attn_output", "self_attn.o_proj", WEIGHT_AS_IS                                            \
    }

static const gguf_part LLAMA[] = {
    COMMON,
    {"attn_q", "self_attn.q_proj", WEIGHT_QUERY_ROWS_INTERLEAVED},
    {"attn_k", "self_attn.k_proj", WEIGHT_KEY_ROWS_INTERLEAVED},
    {"attn_norm", "input_layernorm", WEIGHT_AS_IS},
    {"ffn_norm", "post_attention_layernorm", WEIGHT_AS_IS},
    {NULL, NULL, WEIGHT_AS_IS},
};

static const gguf_part QWEN[] = {
    COMMON,
    {"attn_q", "self_attn.q_proj", WEIGHT_AS_IS},
    {"attn_k", "self_attn.k_proj", WEIGHT_AS_IS},
    {"attn_q_norm", "self_attn.q_norm", WEIGHT_AS_IS},
    {"attn_k_norm", "self_attn.k_norm", WEIGHT_AS_IS},
    {"attn_norm", "input_layernorm", WEIGHT_AS_IS},
    {"ffn_norm", "post_attention_layernorm", WEIGHT_AS_IS},
    {NULL, NULL, WEIGHT_AS_IS},
};

static const gguf_part GEMMA3[] = {
    COMMON,
    {"attn_q", "self_attn.q_proj", WEIGHT_AS_IS},
    {"attn_k", "self_attn.k_proj", WEIGHT_AS_IS},
    {"attn_q_norm", "self_attn.q_norm", WEIGHT_ONE_ADDED},
    {"attn_k_norm", "self_attn.k_norm", WEIGHT_ONE_ADDED},
    {"attn_norm", "input_layernorm", WEIGHT_ONE_ADDED},
    {"post_attention_norm", "post_attention_layernorm", WEIGHT_ONE_ADDED},
    {"ffn_norm", "pre_feedforward_layernorm", WEIGHT_ONE_ADDED},
    {"post_ffw_norm", "post_feedforward_layernorm", WEIGHT_ONE_ADDED},
    {NULL, NULL, WEIGHT_AS_IS},
};

static const gguf_architecture ARCHITECTURES[] = {
    {"llama", "llama", "LlamaForCausalLM", LLAMA, WEIGHT_AS_IS},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", QWEN, WEIGHT_AS_IS},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", QWEN, WEIGHT_AS_IS},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM", GEMMA3, WEIGHT_ONE_ADDED},
};

/* "llama, qwen2, qwen3 or gemma3" */
static void list_architectures(char *text, size_t size)
{
    const size_t n = RB_COUNT(ARCHITECTURES);
    size_t used = 0;
    for (size_t i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", ARCHITECTURES[i].name,
                                 i + 2 < n    ? ", "
                                 : i + 2 == n ? " or "
                                              : "");
}

rb_status gguf_architecture_of(const gguf_architecture **out, const gguf_metadata *metadata, rb_error *err)
{
    enum { LONGEST = 64, LIST_BYTES = 256 };
    gguf_string name, type = {"model", 5};
    char list[LIST_BYTES];
    rb_status st;

    if (gguf_find(metadata, "general.type")) RB_TRY(st, gguf_get_string(metadata, "general.type", &type, err), done);
    if (!gguf_string_is(type, "model"))
        return rb_fail(err, RB_EUNSUPPORTED, "general.type is \"%.*s\", expected \"model\"",
                       (int)(type.length < LONGEST ? type.length : LONGEST), type.at);
    RB_TRY(st, gguf_get_string(metadata, "general.architecture", &name, err), done);
    for (size_t i = 0; i < RB_COUNT(ARCHITECTURES); i++) {
        *out = &ARCHITECTURES[i];
        if (gguf_string_is(name, ARCHITECTURES[i].name)) return RB_OK;
    }
    list_architectures(list, sizeof list);
    st = rb_fail(err, RB_EUNSUPPORTED, "general.architecture is \"%.*s\", expected %s",
                 (int)(name.length < LONGEST ? name.length : LONGEST), name.at, list);
done:
    return st;
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool outer_name(char name[GGUF_HF_NAME_BYTES], weight_storage *storage, const gguf_architecture *architecture,
                       const char *gguf_name)
{
    static const struct {
        const char *gguf, *hf;
    } names[] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"},
        {"output.weight", "lm_head.weight"},
    };
    for (size_t i = 0; i < RB_COUNT(names); i++) {
        if (strcmp(gguf_name, names[i].gguf) != 0) continue;
        snprintf(name, GGUF_HF_NAME_BYTES, "%s", names[i].hf);
        *storage = i == 1 ? architecture->final_norm : WEIGHT_AS_IS;
        return true;
    }
    return false;
}

/* The digits of a layer's number: no sign, no leading zero, so that one layer has one name. */
static size_t layer_digits(const char *text)
{
    size_t n = 0;
    while (isdigit((unsigned char)text[n])) n++;
    return n > 9 || (n > 1 && text[0] == '0') ? 0 : n;
}

bool gguf_hf_name(char name[GGUF_HF_NAME_BYTES], weight_storage *storage, const gguf_architecture *architecture,
                  const char *gguf_name)
{
    if (outer_name(name, storage, architecture, gguf_name)) return true;
    if (strncmp(gguf_name, "blk.", 4) != 0) return false;
    const char *layer = gguf_name + 4;
    const size_t n_digits = layer_digits(layer);
    if (n_digits == 0 || layer[n_digits] != '.') return false;
    const char *rest = layer + n_digits + 1, *kind = strchr(rest, '.');
    if (!kind || (strcmp(kind, ".weight") != 0 && strcmp(kind, ".bias") != 0)) return false;
    for (const gguf_part *part = architecture->parts; part->gguf; part++) {
        if (strlen(part->gguf) != (size_t)(kind - rest) || strncmp(part->gguf, rest, (size_t)(kind - rest)) != 0)
            continue;
        snprintf(name, GGUF_HF_NAME_BYTES, "model.layers.%.*s.%s%s", (int)n_digits, layer, part->hf, kind);
        *storage = part->storage;
        return true;
    }
    return false;
}
