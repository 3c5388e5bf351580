/* See model/model_eos.h. */
#include "model/model_eos.h"

#include "core/json.h"
#include "model/folder_document.h"
#include "model/gguf/gguf_file.h"

bool eos_tokens_have(const eos_tokens *tokens, int32_t id)
{
    for (int i = 0; i < tokens->n; i++)
        if (tokens->ids[i] == id) return true;
    return false;
}

static void add(eos_tokens *tokens, int32_t id)
{
    if (!eos_tokens_have(tokens, id)) tokens->ids[tokens->n++] = id;
}

static bool is_id(const cJSON *item)
{
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble <= INT32_MAX
           && item->valuedouble == (double)(int32_t)item->valuedouble;
}

/* A number, or a list of numbers. */
static rb_status add_ids(eos_tokens *out, const cJSON *ids, const char *where, rb_error *err)
{
    const cJSON *item;
    if (cJSON_IsArray(ids) && cJSON_GetArraySize(ids) > EOS_MAX_TOKENS)
        return rb_fail(err, RB_EUNSUPPORTED, "%s: eos_token_id has %d tokens, expected at most %d", where,
                       cJSON_GetArraySize(ids), EOS_MAX_TOKENS);
    if (is_id(ids)) {
        add(out, (int32_t)ids->valuedouble);
        return RB_OK;
    }
    if (!cJSON_IsArray(ids))
        return rb_fail(err, RB_EFORMAT, "%s: eos_token_id is neither a token id nor a list of them", where);
    cJSON_ArrayForEach (item, ids) {
        if (!is_id(item)) return rb_fail(err, RB_EFORMAT, "%s: eos_token_id has an item that is no token id", where);
        add(out, (int32_t)item->valuedouble);
    }
    return RB_OK;
}

static rb_status read_document(eos_tokens *out, const char *folder, const char *name, rb_error *err)
{
    cJSON *document = NULL;
    rb_status st = folder_document_read(&document, folder, name, err);
    const cJSON *ids = document ? rb_json_find(document, "eos_token_id") : NULL;
    if (st == RB_OK && ids && !cJSON_IsNull(ids)) st = add_ids(out, ids, name, err);
    cJSON_Delete(document);
    return st;
}

static rb_status read_gguf(eos_tokens *out, const char *path, rb_error *err)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    gguf_file *file = NULL;
    rb_status st;
    RB_TRY(st, gguf_open(&file, path, err), done);
    for (size_t i = 0; i < RB_COUNT(keys); i++) {
        int64_t id;
        if (!gguf_find(gguf_metadata_of(file), keys[i])) continue;
        RB_TRY(st, gguf_get_int(gguf_metadata_of(file), keys[i], 0, INT32_MAX, &id, err), done);
        add(out, (int32_t)id);
    }
done:
    gguf_close(file);
    return st;
}

rb_status model_eos_find(eos_tokens *out, const char *model_path, rb_error *err)
{
    rb_status st;
    *out = (eos_tokens){0};
    if (gguf_is_file(model_path)) return read_gguf(out, model_path, err);
    RB_TRY(st, read_document(out, model_path, "generation_config.json", err), done);
    if (out->n == 0) st = read_document(out, model_path, "config.json", err);
done:
    return st;
}
