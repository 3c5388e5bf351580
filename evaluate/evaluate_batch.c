/* See evaluate_batch.h. */
#include "evaluate/evaluate_batch.h"

#include <stdlib.h>
#include <string.h>

#include "texts/sequences.h"

/* Least tokens of a part, where there are that many: enough rows for a product to run at full speed. */
enum { PART_TOKENS = 4096 };

void evaluate_batch_free(evaluate_batch *b)
{
    free(b->tokens);
    free(b->sequence_start);
    free(b->part_start);
    free(b->positions);
    free(b->logit_tokens);
    *b = (evaluate_batch){0};
}

int64_t evaluate_batch_text_end(const evaluate_batch *b, int part)
{
    const int64_t end = b->part_start[part + 1], text_end = b->n_text_sequences * b->n_runs;
    return end < text_end ? end : text_end;
}

static int64_t n_documents(const evaluate_request *r) { return r->documents ? r->documents->n : 0; }

/* Tokens of sequence s of one run. */
static int64_t sequence_tokens(const evaluate_request *r, int64_t n_text_sequences, int64_t s, const int32_t **tokens)
{
    if (s >= n_text_sequences) {
        const needle_document *document = &r->documents->at[s - n_text_sequences];
        *tokens = document->tokens;
        return document->n_tokens;
    }
    const int64_t first = s * r->context, left = r->n_text - first;
    *tokens = r->text + first;
    return left < r->context ? left : r->context;
}

/* The first token of a text's sequence that is scored: the token of the beginning is seen and not predicted. */
static int64_t first_target(const evaluate_request *r, int64_t s, int64_t n_tokens)
{
    const int64_t n_bos = sequences_n_bos(&r->bos, s == 0, n_tokens);
    return n_bos > 1 ? n_bos : 1;
}

/* Positions of sequence s that are scored. The spans of a user's document may overlap. */
static int64_t count_positions(const evaluate_request *r, int64_t n_text_sequences, int64_t s, int64_t n_tokens)
{
    int64_t n = 0;
    if (s < n_text_sequences) return n_tokens - first_target(r, s, n_tokens);
    const needle_document *document = &r->documents->at[s - n_text_sequences];
    for (int i = 0; i < document->n_answers; i++) n += document->answers[i].n;
    return n;
}

/* t: index of the target among the sequence's tokens. */
static void add_position(evaluate_batch *b, const evaluate_request *r, int64_t s, int64_t t, const int32_t *tokens)
{
    const bool is_text = s < b->n_text_sequences;
    for (int run = 0; run < b->n_runs; run++)
        b->logit_tokens[b->n_positions * b->n_runs + run] = b->sequence_start[s * b->n_runs + run] + t - 1;
    b->positions[b->n_positions++] = (scored_position){.target = tokens[t],
                                                       .target_place = is_text ? s * r->context + t : t,
                                                       .document = is_text ? -1 : s - b->n_text_sequences};
}

static void add_positions(evaluate_batch *b, const evaluate_request *r, int64_t s)
{
    const int32_t *tokens;
    const int64_t n = sequence_tokens(r, b->n_text_sequences, s, &tokens), document = s - b->n_text_sequences;
    if (document < 0) {
        for (int64_t t = first_target(r, s, n); t < n; t++) add_position(b, r, s, t, tokens);
        return;
    }
    for (int i = 0; i < r->documents->at[document].n_answers; i++) {
        const answer_span *span = &r->documents->at[document].answers[i];
        for (int64_t t = span->first; t < span->first + span->n; t++) add_position(b, r, s, t, tokens);
    }
}

rb_status evaluate_batch_make(evaluate_batch *b, const evaluate_request *r, rb_error *err)
{
    const int n_runs = 1 + r->n_plans;
    const int64_t n_text = (r->n_text + r->context - 1) / r->context, n = n_text + n_documents(r);
    int64_t n_tokens = 0, n_positions = 0;
    rb_status st;

    *b = (evaluate_batch){.n_runs = n_runs, .n_text_sequences = n_text};
    for (int64_t s = 0; s < n; s++) {
        const int32_t *tokens;
        const int64_t length = sequence_tokens(r, n_text, s, &tokens);
        n_tokens += length;
        n_positions += count_positions(r, n_text, s, length);
    }
    RB_TRY(st, rb_alloc(&b->tokens, (size_t)(n_tokens * n_runs), sizeof *b->tokens, "tokens", err), done);
    RB_TRY(st, rb_alloc(&b->sequence_start, (size_t)(n * n_runs) + 1, sizeof *b->sequence_start, "sequences", err),
           done);
    RB_TRY(st, rb_alloc(&b->part_start, (size_t)n + 1, sizeof *b->part_start, "parts", err), done);
    RB_TRY(st, rb_alloc(&b->positions, (size_t)n_positions, sizeof *b->positions, "scored positions", err), done);
    RB_TRY(st,
           rb_alloc(&b->logit_tokens, (size_t)(n_positions * n_runs), sizeof *b->logit_tokens, "scored positions", err),
           done);

    int64_t at = 0, part_first = 0;
    for (int64_t s = 0; s < n; s++) {
        const int32_t *tokens;
        const int64_t length = sequence_tokens(r, n_text, s, &tokens);
        for (int run = 0; run < n_runs; run++, at += length) {
            b->sequence_start[s * n_runs + run] = at;
            memcpy(b->tokens + at, tokens, (size_t)length * sizeof *tokens);
        }
        if (at - part_first >= PART_TOKENS || s + 1 == n) {
            b->part_start[++b->n_parts] = (s + 1) * n_runs;
            part_first = at;
        }
    }
    b->sequence_start[n * n_runs] = at;
    for (int64_t s = 0; s < n; s++) {
        add_positions(b, r, s);
        if (s < n_text) b->n_text_positions = b->n_positions;
    }
    b->batch = (token_batch){
        .tokens = b->tokens, .n_tokens = at, .sequence_start = b->sequence_start, .n_sequences = n * n_runs};
done:
    return st;
}
