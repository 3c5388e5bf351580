/* Facts to text to tokens: see texts/needle_wording.h. */
#include "texts/needle_wording.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "texts/question_tokens.h"

/* ---- text ------------------------------------------------------------------------------------ */

/* `form` with its placeholder replaced. The reader of the template has checked that the placeholder is there. */
static rb_status fill(char **out, const char *form, const char *placeholder, const char *text, rb_error *err)
{
    const char *at = strstr(form, placeholder);
    return rb_format(out, err, "%.*s%s%s", (int)(at - form), form, text, at + strlen(placeholder));
}

static rb_status key_text(char **out, const needle_template *needles, const needle_fact *fact, rb_error *err)
{
    return rb_format(out, err, "%s %s", needles->colours.at[fact->colour], needles->things.at[fact->thing]);
}

typedef struct value_digits {
    char text[NEEDLE_MAX_DIGITS + 1];
} value_digits;

static value_digits value_text(const needle_fact *fact)
{
    value_digits digits;
    snprintf(digits.text, sizeof digits.text, "%lld", (long long)fact->value);
    return digits;
}

/* Adds an entry to *list, which is NULL before the first one. */
static rb_status add_entry(char **list, const char *separator, const char *entry, rb_error *err)
{
    char *longer;
    const rb_status st =
        *list ? rb_format(&longer, err, "%s%s%s", *list, separator, entry) : rb_format(&longer, err, "%s", entry);
    if (st != RB_OK) return st;
    free(*list);
    *list = longer;
    return RB_OK;
}

static rb_status join_keys(char **out, const needle_template *needles, const needle_fact *facts, int n, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < n && st == RB_OK; i++) {
        char *key = NULL;
        st = key_text(&key, needles, &facts[i], err);
        if (st == RB_OK) st = add_entry(out, needles->key_separator, key, err);
        free(key);
    }
    return st;
}

static rb_status join_values(char **out, const needle_template *needles, const needle_fact *facts, int n, rb_error *err)
{
    rb_status st = RB_OK;
    for (int i = 0; i < n && st == RB_OK; i++)
        st = add_entry(out, needles->value_separator, value_text(&facts[i]).text, err);
    return st;
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static rb_status encode(token_list *out, const needle_source *source, const char *text, rb_error *err)
{
    return tokenizer_encode(source->tokens_of, text, strlen(text), &out->ids, &out->n, err);
}

/* ---- answers --------------------------------------------------------------------------------- */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }

/* The tokens that hold any of the bytes [from, to) of the answer, whose tokens begin at `first`. */
static rb_status find_span(answer_span *out, const needle_source *source, const token_list *tokens, int64_t first,
                           const char *answer, size_t from, size_t to, rb_error *err)
{
    size_t at = 0;
    *out = (answer_span){0};
    for (int64_t t = first; t < tokens->n; t++) {
        size_t length = 0;
        const char *bytes = tokenizer_token_bytes(source->tokens_of, tokens->ids[t], &length);
        if (!bytes || length > strlen(answer + at) || memcmp(bytes, answer + at, length) != 0)
            return rb_fail(
                err, RB_EINVAL,
                "the tokenizer does not give the needle template's answer \"%s\" back: other bytes from byte %zu on",
                answer, at);
        if (at + length > from && at < to) {
            if (out->n == 0) out->first = t;
            out->n++;
        }
        at += length;
    }
    return RB_OK;
}

/* answer: the form with its values, which begin where the placeholder was. All values have the same number of
 * digits. */
static rb_status find_answers(worded_question *out, const needle_source *source, int64_t first, const char *answer,
                              size_t values_at, int n_values, rb_error *err)
{
    const size_t digits = (size_t)source->needles->value_digits,
                 step = digits + strlen(source->needles->value_separator);
    rb_status st = RB_OK;
    for (int i = 0; i < n_values && st == RB_OK; i++) {
        const size_t value_at = values_at + (size_t)i * step;
        size_t from = value_at;
        while (from > 0 && is_space(answer[from - 1])) from--;
        st = find_span(&out->answers[out->n_answers++], source, &out->tokens, first, answer, from, value_at + digits,
                       err);
    }
    return st;
}

/* A question for the values of facts[0 .. n). */
static rb_status word_question(worded_question *out, const needle_source *source, const needle_question *forms,
                               const char *key_placeholder, const char *value_placeholder, const needle_fact *facts,
                               int n_keys, int n_values, rb_error *err)
{
    const needle_template *needles = source->needles;
    char *keys = NULL, *values = NULL, *question = NULL, *answer = NULL;
    int64_t n_question = 0;
    rb_status st;
    RB_TRY(st, join_keys(&keys, needles, facts, n_keys, err), done);
    RB_TRY(st, join_values(&values, needles, facts, n_values, err), done);
    RB_TRY(st, fill(&question, forms->question, key_placeholder, keys, err), done);
    RB_TRY(st, fill(&answer, forms->answer, value_placeholder, values, err), done);
    RB_TRY(st, question_tokens_encode(&out->tokens, &n_question, source->tokens_of, question, answer, err), done);
    st = find_answers(out, source, n_question, answer,
                      (size_t)(strstr(forms->answer, value_placeholder) - forms->answer), n_values, err);
done:
    free(keys);
    free(values);
    free(question);
    free(answer);
    return st;
}

/* ---- the wording ----------------------------------------------------------------------------- */

static rb_status word_needle(token_list *out, const needle_source *source, const needle_fact *fact, rb_error *err)
{
    char *key = NULL, *with_value = NULL, *text = NULL;
    rb_status st;
    RB_TRY(st, key_text(&key, source->needles, fact, err), done);
    RB_TRY(st, fill(&with_value, source->needles->statement, "{value}", value_text(fact).text, err),
           done); /* first: digits hold no placeholder */
    RB_TRY(st, fill(&text, with_value, "{key}", key, err), done);
    st = encode(out, source, text, err);
done:
    free(key);
    free(with_value);
    free(text);
    return st;
}

static rb_status word_questions(needle_wording *out, const needle_source *source, const needle_facts *facts,
                                needle_task task, rb_error *err)
{
    const needle_template *needles = source->needles;
    worded_question *first = &out->questions[0];
    rb_status st = RB_OK;
    if (task == NEEDLE_MULTIVALUE) {
        out->n_questions = 1;
        return word_question(first, source, &needles->ask_values, "{key}", "{values}", facts->at, 1, facts->n_asked,
                             err);
    }
    if (task == NEEDLE_MULTIQUERY) {
        out->n_questions = 1;
        return word_question(first, source, &needles->ask_keys, "{keys}", "{values}", facts->at, facts->n_asked,
                             facts->n_asked, err);
    }
    for (int i = 0; i < facts->n_asked && st == RB_OK; i++)
        st = word_question(&out->questions[out->n_questions++], source, &needles->ask, "{key}", "{value}",
                           &facts->at[i], 1, 1, err);
    return st;
}

rb_status needle_wording_make(needle_wording *out, const needle_source *source, const needle_facts *facts,
                              needle_task task, rb_error *err)
{
    rb_status st;
    *out = (needle_wording){0};
    RB_TRY(st, encode(&out->opening, source, source->needles->opening, err), done);
    for (int i = 0; i < facts->n; i++)
        RB_TRY(st, word_needle(&out->needles[out->n_needles++], source, &facts->at[i], err), done);
    st = word_questions(out, source, facts, task, err);
done:
    return st;
}

int64_t needle_wording_tokens(const needle_wording *wording)
{
    int64_t n = wording->opening.n;
    for (int i = 0; i < wording->n_needles; i++) n += wording->needles[i].n;
    for (int i = 0; i < wording->n_questions; i++) n += wording->questions[i].tokens.n;
    return n;
}

void needle_wording_free(needle_wording *wording)
{
    token_list_free(&wording->opening);
    for (int i = 0; i < wording->n_needles; i++) token_list_free(&wording->needles[i]);
    for (int i = 0; i < wording->n_questions; i++) token_list_free(&wording->questions[i].tokens);
}
