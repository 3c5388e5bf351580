/* See texts/understanding_draft.h. */
#include "texts/understanding_draft.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "texts/needle_facts.h"
#include "texts/question_tokens.h"

/* Mixes a word into a hash, by splitmix64's output function (Steele, Lea and Flood 2014). */
static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) + 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
    return hash ^ (hash >> 31);
}

rb_status understanding_draft_begin(understanding_draft *out, const understanding_source *source,
                                    understanding_task task, int64_t context, uint64_t seed, rb_error *err)
{
    *out = (understanding_draft){
        .source = source, .task = understanding_task_names[task], .context = context, .n_places = context};
    numpy_rng_seed(&out->rng, mix(mix(seed, (uint64_t)task), (uint64_t)context));
    return rb_alloc(&out->pieces, (size_t)context, sizeof *out->pieces, "a document's pieces", err);
}

void understanding_draft_free(understanding_draft *draft)
{
    for (int64_t i = 0; i < draft->n_pieces; i++) token_list_free(&draft->pieces[i]);
    free(draft->pieces);
    token_list_free(&draft->question);
}

int64_t understanding_draft_below(understanding_draft *draft, int64_t n) { return needle_draw_below(&draft->rng, n); }

int64_t understanding_draft_room(const understanding_draft *draft)
{
    return draft->context - draft->question.n - draft->n_body;
}

rb_status understanding_draft_ask(understanding_draft *draft, const char *question, const char *answer, rb_error *err)
{
    token_list_free(&draft->question);
    return question_tokens_encode(&draft->question, &draft->n_question, draft->source->tokens_of, question, answer,
                                  err);
}

/* Takes the ids over, or frees them where they do not fit. */
static rb_status take_piece(understanding_draft *draft, bool *fits, token_list *piece, rb_error *err)
{
    const bool has_room = piece->n <= understanding_draft_room(draft) && draft->n_pieces < draft->n_places;
    const int64_t wanted = draft->context - understanding_draft_room(draft) + piece->n;
    if (has_room) {
        draft->n_body += piece->n;
        draft->pieces[draft->n_pieces++] = *piece;
        *piece = (token_list){0};
    }
    token_list_free(piece);
    if (fits) *fits = has_room;
    if (fits || has_room) return RB_OK;
    return rb_fail(err, RB_EINVAL,
                   "a context of %lld tokens is too small for understanding task %s, expected at least %lld",
                   (long long)draft->context, draft->task, (long long)wanted);
}

rb_status understanding_draft_add(understanding_draft *draft, bool *fits, const char *text, rb_error *err)
{
    token_list piece = {0};
    const rb_status st = tokenizer_encode(draft->source->tokens_of, text, strlen(text), &piece.ids, &piece.n, err);
    return st == RB_OK ? take_piece(draft, fits, &piece, err) : st;
}

rb_status understanding_draft_add_tokens(understanding_draft *draft, bool *fits, const token_list *tokens,
                                         rb_error *err)
{
    token_list piece = {.n = tokens->n};
    const rb_status st = rb_alloc(&piece.ids, (size_t)tokens->n, sizeof *piece.ids, "a document's piece", err);
    if (st != RB_OK) return st;
    memcpy(piece.ids, tokens->ids, (size_t)tokens->n * sizeof *piece.ids);
    return take_piece(draft, fits, &piece, err);
}

void understanding_draft_shuffle(understanding_draft *draft, int64_t first)
{
    for (int64_t i = draft->n_pieces - 1; i > first; i--) {
        const int64_t j = first + understanding_draft_below(draft, i - first + 1);
        const token_list piece = draft->pieces[i];
        draft->pieces[i] = draft->pieces[j];
        draft->pieces[j] = piece;
    }
}

rb_status understanding_draft_finish(needle_document *out, const understanding_draft *draft, rb_error *err)
{
    int64_t at = 0;
    rb_status st;
    *out = (needle_document){.kind = DOCUMENT_UNDERSTANDING,
                             .depth = (double)NAN,
                             .context = draft->context,
                             .n_tokens = draft->n_body + draft->question.n};
    snprintf(out->task, sizeof out->task, "%s", draft->task);
    RB_TRY(st, rb_alloc(&out->tokens, (size_t)out->n_tokens, sizeof *out->tokens, "a document", err), done);
    RB_TRY(st, rb_alloc(&out->answers, 1, sizeof *out->answers, "a document's answer", err), done);
    for (int64_t i = 0; i < draft->n_pieces; i++) {
        memcpy(out->tokens + at, draft->pieces[i].ids, (size_t)draft->pieces[i].n * sizeof *out->tokens);
        at += draft->pieces[i].n;
    }
    memcpy(out->tokens + at, draft->question.ids, (size_t)draft->question.n * sizeof *out->tokens);
    out->n_answers = 1;
    out->answers[0] = (answer_span){.first = at + draft->n_question, .n = draft->question.n - draft->n_question};
done:
    if (st != RB_OK) needle_document_free(out);
    return st;
}
