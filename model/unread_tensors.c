/* See model/unread_tensors.h. */
#include "model/unread_tensors.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/layer_tensors.h"

/* ---- names ----------------------------------------------------------------------------------- */

/* "a.b" ends "x.a.b" and is all of "a.b", but does not end "xa.b". */
static bool name_ends(const char *name, const char *end)
{
    const size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0
           && (n == n_end || end[0] == '.' || name[n - n_end - 1] == '.');
}

/* Whether one of the dotted parts of a name is `part`. */
static bool name_has_part(const char *name, const char *part)
{
    const size_t n = strlen(part);
    for (const char *at = strstr(name, part); at; at = strstr(at + 1, part))
        if ((at == name || at[-1] == '.') && (at[n] == '\0' || at[n] == '.')) return true;
    return false;
}

static bool starts_with(const char *name, const char *start) { return strncmp(name, start, strlen(start)) == 0; }

/* The family's name of a tensor: without the prefix of the model around the decoder; NULL for another part of it. */
static const char *family_name(const model_config *config, const char *name)
{
    return starts_with(name, config->tensor_prefix) ? name + strlen(config->tensor_prefix) : NULL;
}

static bool is_ignored(const checkpoint_tensors *tensors, const char *name)
{
    if (name_ends(name, "rotary_emb.inv_freq")) return true;
    for (const char *const *ignored = tensors->ignored; ignored && *ignored; ignored++) {
        const bool is_prefix = (*ignored)[strlen(*ignored) - 1] == '.';
        if (is_prefix ? starts_with(name, *ignored) : name_ends(name, *ignored)) return true;
    }
    return false;
}

/* The number of the layer that a tensor belongs to, -1 for none. */
static long layer_of(const checkpoint_tensors *tensors, const char *name)
{
    char *end;
    const size_t n = strlen(tensors->layer_prefix);
    if (!starts_with(name, tensors->layer_prefix) || !isdigit((unsigned char)name[n])) return -1;
    const long layer = strtol(name + n, &end, 10);
    return *end == '.' ? layer : -1;
}

/* ---- the sentence ---------------------------------------------------------------------------- */

enum { N_NAMES = 3, NAMES_BYTES = 512 };

/* Tensors that an error is about: how many, and the first ones by name. */
typedef struct name_list {
    int64_t n;
    size_t used;
    char text[NAMES_BYTES]; /* "\"a\", \"b\", ..." */
} name_list;

static void add_name(name_list *list, const char *name)
{
    const size_t room = sizeof list->text - list->used;
    if (list->n++ > N_NAMES) return;
    const int n = list->n > N_NAMES
                      ? snprintf(list->text + list->used, room, ", ...")
                      : snprintf(list->text + list->used, room, "%s\"%.120s\"", list->n > 1 ? ", " : "", name);
    if (n > 0 && (size_t)n < room) list->used += (size_t)n;
}

static const char *tensors_are(const name_list *list) { return list->n == 1 ? "tensor is" : "tensors are"; }

/* ---- adapters and quantized weights ---------------------------------------------------------- */

static const char *const adapter_parts[] = {
    "lora_A", "lora_B",          "lora_embedding_A", "lora_embedding_B", "base_layer", "lora_magnitude_vector",
    "ia3_l",  "modules_to_save", "original_module"};
static const char *const quantized_ends[] = {".qweight",
                                             ".qzeros",
                                             ".g_idx",
                                             ".scales",
                                             ".biases",
                                             ".weight_scale",
                                             ".weight_scale_inv",
                                             ".input_scale",
                                             ".SCB",
                                             ".weight_format",
                                             ".absmax",
                                             ".nested_absmax",
                                             ".quant_map",
                                             ".nested_quant_map",
                                             ".weight_packed",
                                             ".weight_shape",
                                             ".weight_zero_point",
                                             ".weight_g_idx",
                                             ".k_scale",
                                             ".v_scale",
                                             ".activation_scale"};
static const char *const quantized_parts[] = {"quant_state", "bitsandbytes__nf4", "bitsandbytes__fp4"};

static bool is_of_adapter(const char *name)
{
    for (size_t i = 0; i < RB_COUNT(adapter_parts); i++)
        if (name_has_part(name, adapter_parts[i])) return true;
    return false;
}

static bool is_of_quantized(const char *name)
{
    for (size_t i = 0; i < RB_COUNT(quantized_ends); i++)
        if (name_ends(name, quantized_ends[i])) return true;
    for (size_t i = 0; i < RB_COUNT(quantized_parts); i++)
        if (strstr(name, quantized_parts[i])) return true;
    return false;
}

rb_status foreign_tensors_check(const checkpoint *ckpt, rb_error *err)
{
    name_list adapter = {0}, quantized = {0};
    for (int64_t i = 0; i < checkpoint_n_tensors(ckpt); i++) {
        const char *name = checkpoint_tensor_at(ckpt, i)->name;
        if (is_of_adapter(name)) add_name(&adapter, name);
        else if (is_of_quantized(name)) add_name(&quantized, name);
    }
    if (adapter.n > 0)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: %lld %s of an adapter that is not merged: %s; expected none, merge it into the weights "
                       "first",
                       checkpoint_folder(ckpt), (long long)adapter.n, tensors_are(&adapter), adapter.text);
    if (quantized.n > 0)
        return rb_fail(err, RB_EUNSUPPORTED,
                       "%s: %lld %s of quantized weights: %s; expected a checkpoint in BF16, F16 or F32",
                       checkpoint_folder(ckpt), (long long)quantized.n, tensors_are(&quantized), quantized.text);
    return RB_OK;
}

/* ---- tensors that nobody reads --------------------------------------------------------------- */

/* The LM head of a tied model, which is the embedding again. */
static rb_status check_tied_head(const checkpoint *ckpt, const safetensor *head, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    char name[LAYER_TENSOR_NAME];
    model_tensor_name(name, config, config->family->tensors->embedding);
    const safetensor *embedding = checkpoint_tensor_at(ckpt, checkpoint_tensor_index(ckpt, name));
    if (head->dtype == embedding->dtype && head->size_bytes == embedding->size_bytes
        && memcmp(head->data, embedding->data, head->size_bytes) == 0)
        return RB_OK;
    return rb_fail(err, RB_EMISMATCH,
                   "%s: tensor \"%s\" differs from \"%s\", but tie_word_embeddings is true: expected equal ones, or no "
                   "such tensor",
                   checkpoint_folder(ckpt), head->name, embedding->name);
}

/* Layers past the last one, with their tensors. */
typedef struct layer_range {
    name_list names;
    long first, last;
} layer_range;

static void add_layer(layer_range *range, long layer, const char *name)
{
    if (range->names.n == 0 || layer < range->first) range->first = layer;
    if (range->names.n == 0 || layer > range->last) range->last = layer;
    add_name(&range->names, name);
}

static rb_status fail_past_last(const checkpoint *ckpt, const layer_range *past, rb_error *err)
{
    const long n = past->last - past->first + 1;
    return rb_fail(
        err, RB_EMISMATCH,
        "%s: %ld %s past the last one (%ld to %ld, %lld tensors: %s), expected none: num_hidden_layers is %d",
        checkpoint_folder(ckpt), n, n == 1 ? "layer" : "layers", past->first, past->last, (long long)past->names.n,
        past->names.text, checkpoint_config(ckpt)->facts.n_layers);
}

rb_status unread_tensors_check(const checkpoint *ckpt, const tensor_use *uses, rb_error *err)
{
    const model_config *config = checkpoint_config(ckpt);
    const checkpoint_tensors *tensors = config->family->tensors;
    layer_range past = {0};
    name_list unread = {0};
    rb_status st = RB_OK;
    for (int64_t i = 0; i < checkpoint_n_tensors(ckpt) && st == RB_OK; i++) {
        const safetensor *tensor = checkpoint_tensor_at(ckpt, i);
        const char *name = family_name(config, tensor->name);
        if (uses[i] != TENSOR_UNREAD || !name || is_ignored(tensors, name)) continue;
        const long layer = layer_of(tensors, name);
        if (strcmp(name, tensors->lm_head) == 0) st = check_tied_head(ckpt, tensor, err);
        else if (layer >= config->facts.n_layers) add_layer(&past, layer, tensor->name);
        else add_name(&unread, tensor->name);
    }
    if (st != RB_OK) return st;
    if (past.names.n > 0) return fail_past_last(ckpt, &past, err);
    if (unread.n > 0)
        return rb_fail(err, RB_EMISMATCH, "%s: %lld %s not read (model_type %s): %s; expected none",
                       checkpoint_folder(ckpt), (long long)unread.n, tensors_are(&unread), config->facts.model_type,
                       unread.text);
    return RB_OK;
}
