/* The six kinds of understanding documents: see texts/understanding_documents.h. */
#include "texts/understanding_documents.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "texts/understanding_draft.h"

typedef understanding_draft draft;

const char *const understanding_task_names[UNDERSTANDING_N_TASKS + 1] = {
    "cloze", "passage", "common-word", "few-shot", "key-value", "copy", NULL};

/* ---- drawing --------------------------------------------------------------------------------- */

/* Draws that may fail before the text counts as unfit. */
enum { MAX_DRAWS = 1000 };

static const text_pieces *pieces_of(const draft *d) { return d->source->pieces; }

static rb_status check_text(const draft *d, int64_t n, int64_t wanted, const char *what, rb_error *err)
{
    if (n >= wanted) return RB_OK;
    return rb_fail(err, RB_EINVAL, "the text has %lld %s, expected at least %lld for understanding task %s",
                   (long long)n, what, (long long)wanted, d->task);
}

static rb_status fail_used_up(const draft *d, const char *what, rb_error *err)
{
    return rb_fail(err, RB_EINVAL, "the text has too few %s for understanding task %s in a context of %lld", what,
                   d->task, (long long)d->context);
}

static rb_status check_words(const draft *d, int64_t wanted, rb_error *err)
{
    return check_text(d, pieces_of(d)->n_words, wanted, "different words of 4 to 10 lower-case letters", err);
}

static const char *draw_word(draft *d)
{
    return pieces_of(d)->words[understanding_draft_below(d, pieces_of(d)->n_words)];
}

/* Words that are drawn once each. */
typedef struct word_deck {
    int64_t n, *order; /* the first n of the order are left */
} word_deck;

static rb_status open_deck(word_deck *out, int64_t n, rb_error *err)
{
    *out = (word_deck){.n = n};
    const rb_status st = rb_alloc(&out->order, (size_t)n, sizeof *out->order, "an order of words", err);
    for (int64_t i = 0; i < n && st == RB_OK; i++) out->order[i] = i;
    return st;
}

/* An index that was not drawn before; -1: none is left. */
static int64_t draw_card(word_deck *deck, draft *d)
{
    if (deck->n == 0) return -1;
    const int64_t place = understanding_draft_below(d, deck->n), card = deck->order[place];
    deck->order[place] = deck->order[--deck->n];
    return card;
}

/* ---- units of sentences around one of them --------------------------------------------------- */

/* Units are groups of n_each sentences in the text's order. */
typedef struct unit_window {
    int64_t n_each, first, end; /* units */
} unit_window;

static int64_t unit_tokens(const draft *d, int64_t n_each, int64_t unit, int64_t n_label)
{
    int64_t n = n_label;
    for (int64_t s = unit * n_each; s < (unit + 1) * n_each; s++) n += pieces_of(d)->sentences[s].tokens.n;
    return n;
}

/* Chooses units around `target` that fill the room, a random part of it before the target. n_label: tokens that each
 * unit has besides its sentences. */
static rb_status choose_window(unit_window *out, draft *d, int64_t n_each, int64_t target, int64_t n_label,
                               rb_error *err)
{
    const int64_t n_units = pieces_of(d)->n_sentences / n_each, room = understanding_draft_room(d);
    int64_t left = room - unit_tokens(d, n_each, target, n_label);
    int64_t before = left > 0 ? understanding_draft_below(d, left + 1) : 0;
    *out = (unit_window){.n_each = n_each, .first = target, .end = target + 1};
    if (left < 0)
        return rb_fail(err, RB_EINVAL,
                       "a context of %lld tokens is too small for understanding task %s, expected at least %lld",
                       (long long)d->context, d->task, (long long)(d->context - left));
    for (int pass = 0; pass < 2; pass++, before = left) {
        for (int64_t n; out->first > 0; out->first--, left -= n, before -= n)
            if ((n = unit_tokens(d, n_each, out->first - 1, n_label)) > before) break;
        for (int64_t n; out->end < n_units; out->end++, left -= n)
            if ((n = unit_tokens(d, n_each, out->end, n_label)) > left) break;
    }
    if (out->first == 0 && out->end == n_units && left > SENTENCE_MAX_BYTES)
        return rb_fail(err, RB_EINVAL,
                       "the text has %lld tokens of sentences, expected at least %lld for understanding task %s in a "
                       "context of %lld",
                       (long long)(room - left), (long long)(room - SENTENCE_MAX_BYTES), d->task,
                       (long long)d->context);
    return RB_OK;
}

static rb_status add_sentences(draft *d, int64_t first, int64_t n, rb_error *err)
{
    rb_status st = RB_OK;
    for (int64_t s = first; s < first + n && st == RB_OK; s++)
        st = understanding_draft_add_tokens(d, NULL, &pieces_of(d)->sentences[s].tokens, err);
    return st;
}

/* ---- cloze ----------------------------------------------------------------------------------- */

/* A sentence with a fact, whose words before it stand nowhere else. */
static rb_status draw_fact(int64_t *out, draft *d, rb_error *err)
{
    const text_pieces *p = pieces_of(d);
    rb_status st = check_text(d, p->n_sentences, 1, "sentences", err);
    for (int i = 0; i < MAX_DRAWS && st == RB_OK; i++) {
        *out = understanding_draft_below(d, p->n_sentences);
        const text_sentence *sentence = &p->sentences[*out];
        if (sentence->fact > 0 && text_pieces_count(p, sentence->at, sentence->fact) == 1) return RB_OK;
    }
    return st != RB_OK ? st : fail_used_up(d, "sentences with a name or a number in them", err);
}

static rb_status make_cloze(draft *d, rb_error *err)
{
    int64_t target;
    unit_window window;
    char *question = NULL, *answer = NULL;
    rb_status st;
    RB_TRY(st, draw_fact(&target, d, err), done);
    const text_sentence *sentence = &pieces_of(d)->sentences[target];
    RB_TRY(st, rb_format(&question, err, "\n\nThe text above says: %.*s", sentence->fact - 1, sentence->at), done);
    RB_TRY(st, rb_format(&answer, err, " %.*s", sentence->fact_length, sentence->at + sentence->fact), done);
    RB_TRY(st, understanding_draft_ask(d, question, answer, err), done);
    RB_TRY(st, choose_window(&window, d, 1, target, 0, err), done);
    st = add_sentences(d, window.first, window.end - window.first, err);
done:
    free(question);
    free(answer);
    return st;
}

/* ---- passage --------------------------------------------------------------------------------- */

enum { PASSAGE_SENTENCES = 2, PASSAGE_WORDS = 6, PASSAGE_MAX = 9999 };

/* Bytes of a sentence's first words; 0: it has no more than these. */
static int first_words(const text_sentence *sentence, int n_words)
{
    for (int i = 0; i < sentence->length; i++)
        if (sentence->at[i] == ' ' && --n_words == 0) return i;
    return 0;
}

static rb_status draw_quotation(int64_t *out, draft *d, rb_error *err)
{
    const text_pieces *p = pieces_of(d);
    const int64_t n = p->n_sentences / PASSAGE_SENTENCES * PASSAGE_SENTENCES;
    rb_status st = check_text(d, p->n_sentences, 2 * PASSAGE_SENTENCES, "sentences", err);
    for (int i = 0; i < MAX_DRAWS && st == RB_OK; i++) {
        *out = understanding_draft_below(d, n);
        const int length = first_words(&p->sentences[*out], PASSAGE_WORDS);
        if (length > 0 && text_pieces_count(p, p->sentences[*out].at, length) == 1) return RB_OK;
    }
    return st != RB_OK ? st : fail_used_up(d, "sentences that begin like no other", err);
}

static rb_status ask_passage(draft *d, const text_sentence *sentence, int64_t number, rb_error *err)
{
    char *question = NULL, *answer = NULL;
    rb_status st;
    RB_TRY(st,
           rb_format(&question, err, "\n\nThe words \"%.*s\" stand in passage", first_words(sentence, PASSAGE_WORDS),
                     sentence->at),
           done);
    RB_TRY(st, rb_format(&answer, err, " %lld", (long long)number), done);
    st = understanding_draft_ask(d, question, answer, err);
done:
    free(question);
    free(answer);
    return st;
}

static rb_status add_label(draft *d, int64_t number, rb_error *err)
{
    char label[64];
    snprintf(label, sizeof label, "\n\nPassage %lld:", (long long)number);
    return understanding_draft_add(d, NULL, label, err);
}

/* Room is kept for labels of the largest number. */
static rb_status make_passage(draft *d, rb_error *err)
{
    int64_t target;
    unit_window window;
    token_list label = {0};
    char text[64];
    rb_status st;
    RB_TRY(st, draw_quotation(&target, d, err), done);
    const text_sentence *sentence = &pieces_of(d)->sentences[target];
    const int n = snprintf(text, sizeof text, "\n\nPassage %d:", PASSAGE_MAX);
    RB_TRY(st, tokenizer_encode(d->source->tokens_of, text, (size_t)n, &label.ids, &label.n, err), done);
    RB_TRY(st, ask_passage(d, sentence, PASSAGE_MAX, err), done);
    RB_TRY(st, choose_window(&window, d, PASSAGE_SENTENCES, target / PASSAGE_SENTENCES, label.n, err), done);
    RB_TRY(st, ask_passage(d, sentence, target / PASSAGE_SENTENCES - window.first + 1, err), done);
    for (int64_t unit = window.first; unit < window.end; unit++) {
        RB_TRY(st, add_label(d, unit - window.first + 1, err), done);
        RB_TRY(st, add_sentences(d, unit * PASSAGE_SENTENCES, PASSAGE_SENTENCES, err), done);
    }
done:
    token_list_free(&label);
    return st;
}

/* ---- common-word ----------------------------------------------------------------------------- */

/* A list has COMMON_OTHERS + 1 different words, one of them COMMON_TIMES; the least document has COMMON_LEAST lists
 * before the one that is asked for. */
enum { COMMON_TIMES = 5, COMMON_OTHERS = 3, COMMON_LEAST = 2, COMMON_WORDS = COMMON_TIMES + COMMON_OTHERS };

typedef struct common_list {
    const char *common;
    char *text; /* "List: a, b, a, ..\nMost common word:", owned */
} common_list;

/* In random order. */
static void lay_list(const char *at[COMMON_WORDS], draft *d, const int64_t *cards)
{
    for (int i = 0; i < COMMON_WORDS; i++) {
        const int64_t j = understanding_draft_below(d, i + 1);
        at[i] = at[j];
        at[j] = pieces_of(d)->words[cards[i < COMMON_TIMES ? 0 : i - COMMON_TIMES + 1]];
    }
}

static rb_status draw_common_list(common_list *out, draft *d, word_deck *deck, rb_error *err)
{
    int64_t cards[COMMON_OTHERS + 1];
    const char *at[COMMON_WORDS] = {0};
    for (int i = 0; i <= COMMON_OTHERS; i++)
        if ((cards[i] = draw_card(deck, d)) < 0) return fail_used_up(d, "different words", err);
    lay_list(at, d, cards);
    out->common = pieces_of(d)->words[cards[0]];
    return rb_format(&out->text, err, "List: %s, %s, %s, %s, %s, %s, %s, %s.\nMost common word:", at[0], at[1], at[2],
                     at[3], at[4], at[5], at[6], at[7]);
}

static rb_status add_common_list(draft *d, word_deck *deck, bool *fits, rb_error *err)
{
    common_list list = {0};
    char *text = NULL;
    rb_status st;
    RB_TRY(st, draw_common_list(&list, d, deck, err), done);
    RB_TRY(st, rb_format(&text, err, "%s %s\n\n", list.text, list.common), done);
    st = understanding_draft_add(d, fits, text, err);
done:
    free(list.text);
    free(text);
    return st;
}

static rb_status make_common_word(draft *d, rb_error *err)
{
    word_deck deck = {0};
    common_list asked = {0};
    char answer[WORD_MAX_BYTES + 2];
    bool fits = true;
    rb_status st;
    RB_TRY(st, check_words(d, (COMMON_OTHERS + 1) * (COMMON_LEAST + 1), err), done);
    RB_TRY(st, open_deck(&deck, pieces_of(d)->n_words, err), done);
    RB_TRY(st, draw_common_list(&asked, d, &deck, err), done);
    snprintf(answer, sizeof answer, " %s", asked.common);
    RB_TRY(st, understanding_draft_ask(d, asked.text, answer, err), done);
    for (int i = 0; fits; i++) RB_TRY(st, add_common_list(d, &deck, i < COMMON_LEAST ? NULL : &fits, err), done);
done:
    free(asked.text);
    free(deck.order);
    return st;
}

/* ---- few-shot -------------------------------------------------------------------------------- */

/* Examples are short, so that there are several in a small context. */
enum { FEW_SHOT_MAX_BYTES = 160, FEW_SHOT_LEAST = 2 };

static rb_status open_few_shot(word_deck *out, const draft *d, rb_error *err)
{
    const text_pieces *p = pieces_of(d);
    const rb_status st = open_deck(out, p->n_sentences, err);
    if (st != RB_OK) return st;
    out->n = 0;
    for (int64_t s = 0; s < p->n_sentences; s++)
        if (p->sentences[s].length <= FEW_SHOT_MAX_BYTES && p->sentences[s].last_length > 0) out->order[out->n++] = s;
    return check_text(d, out->n, FEW_SHOT_LEAST + 1, "short sentences that end with a word of lower-case letters", err);
}

static rb_status ask_few_shot(draft *d, word_deck *deck, rb_error *err)
{
    const text_sentence *sentence = &pieces_of(d)->sentences[draw_card(deck, d)];
    char *question = NULL, *answer = NULL;
    rb_status st;
    RB_TRY(st, rb_format(&question, err, "Sentence: %.*s\nLast word:", sentence->length, sentence->at), done);
    RB_TRY(st, rb_format(&answer, err, " %.*s", sentence->last_length, sentence->at + sentence->last), done);
    st = understanding_draft_ask(d, question, answer, err);
done:
    free(question);
    free(answer);
    return st;
}

static rb_status add_example(draft *d, word_deck *deck, bool *fits, rb_error *err)
{
    const int64_t s = draw_card(deck, d);
    char *text = NULL;
    if (s < 0) return fail_used_up(d, "short sentences", err);
    const text_sentence *sentence = &pieces_of(d)->sentences[s];
    rb_status st = rb_format(&text, err, "Sentence: %.*s\nLast word: %.*s\n\n", sentence->length, sentence->at,
                             sentence->last_length, sentence->at + sentence->last);
    if (st == RB_OK) st = understanding_draft_add(d, fits, text, err);
    free(text);
    return st;
}

static rb_status make_few_shot(draft *d, rb_error *err)
{
    word_deck deck = {0};
    bool fits = true;
    rb_status st;
    RB_TRY(st, open_few_shot(&deck, d, err), done);
    RB_TRY(st, ask_few_shot(d, &deck, err), done);
    for (int i = 0; fits; i++) RB_TRY(st, add_example(d, &deck, i < FEW_SHOT_LEAST ? NULL : &fits, err), done);
done:
    free(deck.order);
    return st;
}

/* ---- key-value ------------------------------------------------------------------------------- */

/* A key is two words: the first one of KEY_FIRST, which other keys have too, the second one its own. */
enum { KEY_FIRST = 4, KEY_LEAST = 4 };

static rb_status make_key_value(draft *d, rb_error *err)
{
    word_deck deck = {0};
    const char *first[KEY_FIRST];
    char text[3 * WORD_MAX_BYTES + 32], answer[WORD_MAX_BYTES + 2];
    bool fits = true;
    rb_status st;
    RB_TRY(st, check_words(d, KEY_FIRST + KEY_LEAST + 1, err), done);
    RB_TRY(st, open_deck(&deck, pieces_of(d)->n_words, err), done);
    for (int i = 0; i < KEY_FIRST; i++) first[i] = pieces_of(d)->words[draw_card(&deck, d)];
    RB_TRY(st, understanding_draft_add(d, NULL, "A table:", err), done);
    for (int64_t i = 0; fits; i++) {
        const int64_t card = draw_card(&deck, d);
        if (card < 0) {
            st = fail_used_up(d, "different words", err);
            goto done;
        }
        const char *key = first[understanding_draft_below(d, KEY_FIRST)], *value = draw_word(d);
        if (i == 0) { /* the entry that is asked for */
            snprintf(text, sizeof text, "\n\nFrom the table above:\n%s %s:", key, pieces_of(d)->words[card]);
            snprintf(answer, sizeof answer, " %s", value);
            RB_TRY(st, understanding_draft_ask(d, text, answer, err), done);
        }
        snprintf(text, sizeof text, "\n%s %s: %s", key, pieces_of(d)->words[card], value);
        RB_TRY(st, understanding_draft_add(d, i < KEY_LEAST ? NULL : &fits, text, err), done);
    }
    understanding_draft_shuffle(d, 1);
done:
    free(deck.order);
    return st;
}

/* ---- copy ------------------------------------------------------------------------------------ */

enum { COPY_WORDS = 8, COPY_BYTES = COPY_WORDS * (WORD_MAX_BYTES + 2) + 32 };

static rb_status draw_list(char *out, draft *d, rb_error *err)
{
    word_deck deck = {0};
    rb_status st;
    RB_TRY(st, check_words(d, COPY_WORDS, err), done);
    RB_TRY(st, open_deck(&deck, pieces_of(d)->n_words, err), done);
    for (int i = 0, at = 0; i < COPY_WORDS; i++)
        at += snprintf(out + at, (size_t)(COPY_BYTES - at), "%s %s", i ? "," : "",
                       pieces_of(d)->words[draw_card(&deck, d)]);
done:
    free(deck.order);
    return st;
}

static rb_status make_copy(draft *d, rb_error *err)
{
    char list[COPY_BYTES], text[COPY_BYTES + 32];
    unit_window window;
    rb_status st;
    RB_TRY(st, draw_list(list, d, err), done);
    RB_TRY(st, check_text(d, pieces_of(d)->n_sentences, 1, "sentences", err), done);
    RB_TRY(st, understanding_draft_ask(d, "\n\nThe list again:", list, err), done);
    snprintf(text, sizeof text, "A list:%s.\n\n", list);
    RB_TRY(st, understanding_draft_add(d, NULL, text, err), done);
    RB_TRY(st, choose_window(&window, d, 1, understanding_draft_below(d, pieces_of(d)->n_sentences), 0, err), done);
    st = add_sentences(d, window.first, window.end - window.first, err);
done:
    return st;
}

/* ---- documents ------------------------------------------------------------------------------- */

rb_status understanding_document_make(needle_document *out, const understanding_source *source, understanding_task task,
                                      int64_t context, uint64_t seed, rb_error *err)
{
    static rb_status (*const makers[UNDERSTANDING_N_TASKS])(draft * d, rb_error * err) = {
        [UNDERSTANDING_CLOZE] = make_cloze,
        [UNDERSTANDING_PASSAGE] = make_passage,
        [UNDERSTANDING_COMMON_WORD] = make_common_word,
        [UNDERSTANDING_FEW_SHOT] = make_few_shot,
        [UNDERSTANDING_KEY_VALUE] = make_key_value,
        [UNDERSTANDING_COPY] = make_copy};
    draft d = {0};
    rb_status st;
    *out = (needle_document){0};
    RB_TRY(st, understanding_draft_begin(&d, source, task, context, seed, err), done);
    RB_TRY(st, makers[task](&d, err), done);
    st = understanding_draft_finish(out, &d, err);
done:
    understanding_draft_free(&d);
    return st;
}

rb_status understanding_documents_make(needle_documents *out, const understanding_source *source,
                                       const understanding_series *series, rb_error *err)
{
    const int64_t n = (int64_t)series->n_tasks * series->n_contexts * series->n_repeats;
    *out = (needle_documents){0};
    rb_status st = rb_alloc(&out->at, (size_t)n, sizeof *out->at, "understanding documents", err);
    for (int64_t i = 0; i < n && st == RB_OK; i++) {
        const int64_t repeat = i % series->n_repeats, context = i / series->n_repeats % series->n_contexts;
        const int64_t task = i / series->n_repeats / series->n_contexts;
        st = understanding_document_make(&out->at[i], source, series->tasks[task], series->contexts[context],
                                         series->seed * 65536u + (uint64_t)repeat, err);
        if (st == RB_OK) out->n++;
    }
    if (st != RB_OK) needle_documents_free(out);
    return st;
}
