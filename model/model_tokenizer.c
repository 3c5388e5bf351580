/* See model/model_tokenizer.h. */
#include "model/model_tokenizer.h"

#include <stdlib.h>
#include <unistd.h>

#include "core/atomic_file.h"
#include "model/gguf/gguf_tokenizer.h"

static rb_status open_gguf(tokenizer **out, const char *path, rb_error *err)
{
    gguf_file *file = NULL;
    char *text = NULL;
    size_t length = 0;
    rb_status st;
    *out = NULL;
    RB_TRY(st, gguf_open(&file, path, err), done);
    RB_TRY(st, gguf_tokenizer_text(&text, &length, file, err), done);
    st = tokenizer_open_text(out, text, length, path, err);
done:
    free(text);
    gguf_close(file);
    return st;
}

rb_status tokenizer_open_model(tokenizer **out, const char *model_path, rb_error *err)
{
    char *path = NULL;
    rb_status st;
    *out = NULL;
    if (gguf_is_file(model_path)) return open_gguf(out, model_path, err);
    RB_TRY(st, rb_join_path(&path, model_path, "tokenizer.json", err), done);
    st = tokenizer_open(out, path, err);
done:
    free(path);
    return st;
}

bool tokenizer_is_there(const char *model_path)
{
    char *path = NULL;
    if (gguf_is_file(model_path)) return true;
    const bool is_there = rb_join_path(&path, model_path, "tokenizer.json", NULL) == RB_OK && access(path, F_OK) == 0;
    free(path);
    return is_there;
}
