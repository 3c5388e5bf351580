/* See texts/question_tokens.h. */
#include "texts/question_tokens.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static rb_status encode(token_list *out, const tokenizer *tokens_of, const char *text, rb_error *err)
{
    return tokenizer_encode(tokens_of, text, strlen(text), &out->ids, &out->n, err);
}

static bool starts_with(const token_list *list, const token_list *beginning)
{
    return list->n >= beginning->n && memcmp(list->ids, beginning->ids, (size_t)beginning->n * sizeof *list->ids) == 0;
}

/* *list followed by *more. */
static rb_status append(token_list *list, const token_list *more, rb_error *err)
{
    int32_t *ids;
    const rb_status st = rb_alloc(&ids, (size_t)(list->n + more->n), sizeof *ids, "a question's tokens", err);
    if (st != RB_OK) return st;
    memcpy(ids, list->ids, (size_t)list->n * sizeof *ids);
    memcpy(ids + list->n, more->ids, (size_t)more->n * sizeof *ids);
    free(list->ids);
    *list = (token_list){.ids = ids, .n = list->n + more->n};
    return RB_OK;
}

rb_status question_tokens_encode(token_list *out, int64_t *n_question, const tokenizer *tokens_of, const char *question,
                                 const char *answer, rb_error *err)
{
    token_list asked = {0}, answered = {0};
    char *both = NULL;
    rb_status st;
    *out = (token_list){0};
    RB_TRY(st, encode(&asked, tokens_of, question, err), done);
    RB_TRY(st, rb_format(&both, err, "%s%s", question, answer), done);
    RB_TRY(st, encode(out, tokens_of, both, err), done);
    *n_question = asked.n;
    if (starts_with(out, &asked)) goto done;
    token_list_free(out);
    RB_TRY(st, encode(&answered, tokens_of, answer, err), done);
    *out = asked;
    asked = (token_list){0};
    st = append(out, &answered, err);
done:
    free(both);
    token_list_free(&asked);
    token_list_free(&answered);
    return st;
}
