/* See model/model_bos.h. */
#include "model/model_bos.h"

#include "core/json.h"
#include "model/folder_document.h"
#include "model/gguf/gguf_file.h"

static const bos_tokens none = {0};

static bos_tokens one_token(int64_t id) { return (bos_tokens){.n = 1, .ids = {(int32_t)id}}; }

/* bos_token is a string, or an object with the string as "content". */
static rb_status bos_token_name(const char **out, const cJSON *document, const char *where, rb_error *err)
{
    const cJSON *token = rb_json_find(document, "bos_token");
    *out = NULL;
    if (!token) return RB_OK;
    if (cJSON_IsObject(token)) return rb_json_get_string(token, "content", where, out, err);
    return rb_json_get_string(document, "bos_token", where, out, err);
}

static rb_status read_tokenizer_config(model_bos *out, const char *folder, const tokenizer *tok, rb_error *err)
{
    static const char NAME[] = "tokenizer_config.json";
    cJSON *document = NULL;
    const char *name;
    bool is_added = false;
    rb_status st;
    RB_TRY(st, folder_document_read(&document, folder, NAME, err), done);
    if (!document) goto done;
    RB_TRY(st, bos_token_name(&name, document, NAME, err), done);
    if (rb_json_find(document, "add_bos_token"))
        RB_TRY(st, rb_json_get_bool(document, "add_bos_token", NAME, &is_added, err), done);
    const int32_t id = name ? tokenizer_find(tok, name) : -1;
    if (id < 0) goto done;
    if (out->known.n == 0) out->known = one_token(id);
    if (is_added && out->by_default.n == 0) out->by_default = one_token(id);
done:
    cJSON_Delete(document);
    return st;
}

static rb_status read_config(model_bos *out, const char *folder, rb_error *err)
{
    cJSON *document = NULL;
    int64_t id;
    rb_status st;
    RB_TRY(st, folder_document_read(&document, folder, "config.json", err), done);
    if (!document || !rb_json_find(document, "bos_token_id")) goto done;
    RB_TRY(st, rb_json_get_int(document, "bos_token_id", "config.json", 0, INT32_MAX, &id, err), done);
    out->known = one_token(id);
done:
    cJSON_Delete(document);
    return st;
}

static rb_status read_gguf(model_bos *out, const char *path, rb_error *err)
{
    static const char KEY[] = "tokenizer.ggml.bos_token_id";
    gguf_file *file = NULL;
    int64_t id;
    rb_status st;
    RB_TRY(st, gguf_open(&file, path, err), done);
    if (!gguf_find(gguf_metadata_of(file), KEY)) goto done;
    RB_TRY(st, gguf_get_int(gguf_metadata_of(file), KEY, 0, INT32_MAX, &id, err), done);
    out->known = one_token(id);
done:
    gguf_close(file);
    return st;
}

rb_status model_bos_find(model_bos *out, const char *model_path, const tokenizer *tok, rb_error *err)
{
    const bool is_gguf = gguf_is_file(model_path);
    rb_status st = RB_OK;
    out->by_default = out->known = tok ? *tokenizer_bos(tok) : none;
    if (tok && !is_gguf) st = read_tokenizer_config(out, model_path, tok, err);
    if (st == RB_OK && out->known.n == 0)
        st = is_gguf ? read_gguf(out, model_path, err) : read_config(out, model_path, err);
    return st;
}
