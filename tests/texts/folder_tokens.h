/* Token ids of a text by the tokenizer of a model's folder. */
#ifndef RB_TESTS_FOLDER_TOKENS_H
#define RB_TESTS_FOLDER_TOKENS_H

#include "model/model_tokenizer.h"
#include "texts/token_source.h"

static inline rb_status folder_tokens(token_list *out, const char *path, const char *folder, int64_t n_wanted,
                                      rb_error *err)
{
    tokenizer *tok = NULL;
    rb_status st;
    *out = (token_list){0};
    RB_TRY(st, tokenizer_open_model(&tok, folder, err), done);
    st = tokens_from_text(out, path, tok, n_wanted, err);
done:
    tokenizer_close(tok);
    return st;
}

#endif
