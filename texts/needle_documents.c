/* Needle documents: see texts/needle_documents.h. texts/needle_facts.c draws what they say, texts/needle_wording.c
 * words and tokenizes it, and this file lays it into the haystack. */
#include "texts/needle_documents.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "texts/needle_facts.h"
#include "texts/needle_wording.h"

const char *const needle_task_names[NEEDLE_N_TASKS + 1] = {"single",     "distractor", "multi", "multikey",
                                                           "multivalue", "multiquery", NULL};

needle_counts needle_counts_default(void)
{
    return (needle_counts){.n_keys = 4, .n_distractors = 3, .n_values = 2, .n_queries = 2};
}

/* ---- documents ------------------------------------------------------------------------------- */

void needle_document_free(needle_document *document)
{
    free(document->tokens);
    free(document->answers);
    *document = (needle_document){0};
}

void needle_documents_free(needle_documents *documents)
{
    for (int64_t i = 0; i < documents->n; i++) needle_document_free(&documents->at[i]);
    free(documents->at);
    *documents = (needle_documents){0};
}

static rb_status begin_document(needle_document *document, const bos_tokens *bos, rb_error *err)
{
    int32_t *tokens;
    const rb_status st =
        rb_alloc(&tokens, (size_t)(bos->n + document->n_tokens), sizeof *tokens, "a needle document", err);
    if (st != RB_OK) return st;
    memcpy(tokens, bos->ids, (size_t)bos->n * sizeof *tokens);
    memcpy(tokens + bos->n, document->tokens, (size_t)document->n_tokens * sizeof *tokens);
    free(document->tokens);
    document->tokens = tokens;
    document->n_tokens += bos->n;
    document->context += bos->n;
    for (int i = 0; i < document->n_answers; i++) document->answers[i].first += bos->n;
    return RB_OK;
}

rb_status needle_documents_begin(needle_documents *documents, const bos_tokens *bos, rb_error *err)
{
    rb_status st = RB_OK;
    for (int64_t d = 0; d < documents->n && st == RB_OK; d++) st = begin_document(&documents->at[d], bos, err);
    return st;
}

int64_t needle_documents_count(const needle_documents *documents, document_kind kind)
{
    int64_t n = 0;
    for (int64_t i = 0; documents && i < documents->n; i++) n += documents->at[i].kind == kind;
    return n;
}

rb_status needle_documents_append(needle_documents *documents, needle_documents *more, rb_error *err)
{
    needle_document *at;
    const rb_status st = rb_alloc(&at, (size_t)(documents->n + more->n), sizeof *at, "documents", err);
    if (st != RB_OK) return st;
    if (documents->n > 0) memcpy(at, documents->at, (size_t)documents->n * sizeof *at);
    if (more->n > 0) memcpy(at + documents->n, more->at, (size_t)more->n * sizeof *at);
    free(documents->at);
    free(more->at);
    *documents = (needle_documents){.n = documents->n + more->n, .at = at};
    *more = (needle_documents){0};
    return RB_OK;
}

rb_status needle_documents_check_vocabulary(const needle_documents *documents, int64_t vocab_size, const char *name,
                                            rb_error *err)
{
    for (int64_t i = 0; i < documents->n; i++) {
        const needle_document *document = &documents->at[i];
        for (int64_t t = 0; t < document->n_tokens; t++)
            if (document->tokens[t] < 0 || document->tokens[t] >= vocab_size)
                return rb_fail(
                    err, RB_EINVAL,
                    "%s: document %lld: token %lld is %d, expected an id below the model's vocabulary of %lld", name,
                    (long long)i, (long long)t, document->tokens[t], (long long)vocab_size);
    }
    return RB_OK;
}

/* ---- places ---------------------------------------------------------------------------------- */

/* Where the needles stand, as parts of the haystack and not as tokens: the haystack's length depends on the wording of
 * the answers, and the wording on the order of the needles. */
typedef struct needle_places {
    double depth[NEEDLE_MAX_NEEDLES]; /* 0..1 */
    int order[NEEDLE_MAX_NEEDLES];    /* the needles from first to last */
} needle_places;

/* depth: that of needle 0; NAN: anywhere, as for the others. */
static void draw_places(needle_places *out, numpy_rng *rng, int n, double depth)
{
    for (int i = 0; i < n; i++) {
        out->depth[i] = i == 0 && !isnan(depth) ? depth : numpy_rng_double(rng);
        int slot = i;
        for (; slot > 0 && out->depth[out->order[slot - 1]] > out->depth[i]; slot--)
            out->order[slot] = out->order[slot - 1];
        out->order[slot] = i;
    }
}

/* Several values of one key are answered in the order in which they stand, so the first value gets the first place, and
 * so on. */
static void sort_places(needle_places *places, int n)
{
    const needle_places drawn = *places;
    for (int i = 0; i < n; i++) {
        places->depth[i] = drawn.depth[drawn.order[i]];
        places->order[i] = i;
    }
}

/* ---- one document ---------------------------------------------------------------------------- */

/* Mixes one more word into the hash, by splitmix64's output function (Steele, Lea and Flood 2014). */
static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) + 0x9e3779b97f4a7c15u;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebu;
    return hash ^ (hash >> 31);
}

static void seed_document(numpy_rng *rng, uint64_t seed, needle_task task, int64_t context, double depth)
{
    uint64_t depth_bits = UINT64_MAX; /* not the bits of the NaN, since there are many NaNs */
    if (!isnan(depth)) memcpy(&depth_bits, &depth, sizeof depth_bits);
    numpy_rng_seed(rng, mix(mix(mix(seed, (uint64_t)task), (uint64_t)context), depth_bits));
}

static int64_t write_tokens(int32_t *out, int64_t at, const int32_t *tokens, int64_t n)
{
    memcpy(out + at, tokens, (size_t)n * sizeof *out);
    return at + n;
}

static rb_status check_room(int64_t room, const needle_facts *facts, int64_t n_haystack, needle_task task,
                            int64_t context, rb_error *err)
{
    if (room < facts->n)
        return rb_fail(err, RB_EINVAL,
                       "a context of %lld tokens is too small for task %s, expected at least %lld: %lld of needles and "
                       "questions, %d of haystack",
                       (long long)context, needle_task_names[task], (long long)(context - room + facts->n),
                       (long long)(context - room), facts->n);
    if (room > n_haystack)
        return rb_fail(err, RB_EINVAL,
                       "the haystack has %lld tokens, expected at least %lld for task %s in a context of %lld",
                       (long long)n_haystack, (long long)room, needle_task_names[task], (long long)context);
    return RB_OK;
}

/* room: haystack tokens of the document. */
static rb_status lay_out(needle_document *out, const needle_source *source, const needle_wording *wording,
                         const needle_facts *facts, const needle_places *places, int64_t start, int64_t room,
                         rb_error *err)
{
    const int32_t *haystack = source->haystack + start;
    int64_t at = 0, from = 0;
    rb_status st;
    RB_TRY(st, rb_alloc(&out->tokens, (size_t)out->n_tokens, sizeof *out->tokens, "a needle document", err), done);
    RB_TRY(st,
           rb_alloc(&out->answers, (size_t)facts->n_asked, sizeof *out->answers, "a needle document's answers", err),
           done);
    at = write_tokens(out->tokens, at, wording->opening.ids, wording->opening.n);
    for (int i = 0; i < facts->n; i++) {
        const token_list *needle = &wording->needles[places->order[i]];
        const int64_t place = (int64_t)(places->depth[places->order[i]] * (double)room);
        at = write_tokens(out->tokens, at, haystack + from, place - from);
        at = write_tokens(out->tokens, at, needle->ids, needle->n);
        from = place;
    }
    at = write_tokens(out->tokens, at, haystack + from, room - from);
    for (int i = 0; i < wording->n_questions; i++) {
        const worded_question *question = &wording->questions[i];
        for (int answer = 0; answer < question->n_answers; answer++) {
            out->answers[out->n_answers] = question->answers[answer];
            out->answers[out->n_answers++].first += at;
        }
        at = write_tokens(out->tokens, at, question->tokens.ids, question->tokens.n);
    }
done:
    return st;
}

rb_status needle_document_make(needle_document *out, const needle_source *source, const needle_counts *counts,
                               needle_task task, int64_t context, double depth, uint64_t seed, rb_error *err)
{
    numpy_rng rng;
    needle_facts facts = {0};
    needle_places places = {0};
    needle_wording wording = {0};
    rb_status st;

    *out = (needle_document){.depth = depth, .context = context, .n_tokens = context};
    snprintf(out->task, sizeof out->task, "%s", needle_task_names[task]);
    if (!isnan(depth) && !(depth >= 0.0 && depth <= 1.0))
        return rb_fail(err, RB_EINVAL, "the depth of a needle is %g, expected 0 to 1", depth);
    seed_document(&rng, seed, task, context, depth);
    RB_TRY(st, needle_facts_draw(&facts, &rng, source->needles, counts, task, err), done);
    draw_places(&places, &rng, facts.n, depth);
    if (task == NEEDLE_MULTIVALUE) sort_places(&places, facts.n);
    RB_TRY(st, needle_wording_make(&wording, source, &facts, task, err), done);
    const int64_t room = context - needle_wording_tokens(&wording);
    RB_TRY(st, check_room(room, &facts, source->n_haystack, task, context, err), done);
    const int64_t start = needle_draw_below(&rng, source->n_haystack - room + 1);
    st = lay_out(out, source, &wording, &facts, &places, start, room, err);
done:
    needle_wording_free(&wording);
    if (st != RB_OK) needle_document_free(out);
    return st;
}

/* ---- series ---------------------------------------------------------------------------------- */

rb_status needle_documents_make(needle_documents *out, const needle_source *source, const needle_series *series,
                                rb_error *err)
{
    const int64_t n = (int64_t)series->n_tasks * series->n_contexts * series->n_depths * series->n_repeats;
    *out = (needle_documents){0};
    rb_status st = rb_alloc(&out->at, (size_t)n, sizeof *out->at, "needle documents", err);
    for (int64_t i = 0; i < n && st == RB_OK; i++) {
        const int64_t repeat = i % series->n_repeats, depth = i / series->n_repeats % series->n_depths;
        const int64_t context = i / series->n_repeats / series->n_depths % series->n_contexts;
        const int64_t task = i / series->n_repeats / series->n_depths / series->n_contexts;
        st = needle_document_make(&out->at[i], source, &series->counts, series->tasks[task], series->contexts[context],
                                  series->depths[depth], mix(series->seed, (uint64_t)repeat), err);
        if (st == RB_OK) out->n++;
    }
    if (st != RB_OK) needle_documents_free(out);
    return st;
}
