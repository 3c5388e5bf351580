/* See texts/text_pieces.h. */
#include "texts/text_pieces.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
static bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
static bool is_letter(char c) { return is_lower(c) || is_upper(c); }

void text_pieces_free(text_pieces *pieces)
{
    for (int64_t i = 0; i < pieces->n_sentences; i++) token_list_free(&pieces->sentences[i].tokens);
    for (int64_t i = 0; i < pieces->n_words; i++) free(pieces->words[i]);
    free(pieces->sentences);
    free(pieces->words);
    free(pieces->text);
    *pieces = (text_pieces){0};
}

int text_pieces_count(const text_pieces *pieces, const char *bytes, int length)
{
    const size_t n = strlen(pieces->text);
    const char *first = memmem(pieces->text, n, bytes, (size_t)length);
    if (!first) return 0;
    return memmem(first + 1, n - (size_t)(first + 1 - pieces->text), bytes, (size_t)length) ? 2 : 1;
}

/* ---- sentences ------------------------------------------------------------------------------- */

/* A full stop ends a sentence where white space and a capital follow, and no initial ("J. Smith") is before it. */
static bool ends_sentence(const char *line, int length, int i)
{
    if (line[i] != '.' && line[i] != '!' && line[i] != '?') return false;
    if (i >= 2 && is_upper(line[i - 1]) && !is_letter(line[i - 2])) return false;
    int next = i + 1;
    while (next < length && is_space(line[next])) next++;
    return next == length || (next > i + 1 && is_upper(line[next]));
}

/* A name or a number: what follows more than 4 words, begins with a capital or is all digits, and is a word's end. */
static void find_fact(text_sentence *sentence)
{
    int n_words = 0;
    for (int from = 0, to; from < sentence->length; from = to + 1) {
        bool is_plain = true;
        for (to = from; to < sentence->length && sentence->at[to] != ' '; to++)
            is_plain &= is_letter(sentence->at[to]) || is_digit(sentence->at[to]);
        const bool is_name = is_upper(sentence->at[from]) && to - from >= 3, is_number = is_digit(sentence->at[from]);
        if (n_words++ > 4 && is_plain && (is_name || is_number)) {
            sentence->fact = from;
            sentence->fact_length = to - from;
            return;
        }
    }
}

static void find_last_word(text_sentence *sentence)
{
    int end = sentence->length, from;
    while (end > 0 && !is_letter(sentence->at[end - 1]) && !is_digit(sentence->at[end - 1])) end--;
    for (from = end; from > 0 && is_lower(sentence->at[from - 1]);) from--;
    if (from == 0 || sentence->at[from - 1] != ' ' || end - from < 3) return;
    sentence->last = from;
    sentence->last_length = end - from;
}

static rb_status add_sentence(text_pieces *out, const char *at, int length, const tokenizer *tokens_of, rb_error *err)
{
    while (length > 0 && is_space(at[length - 1])) length--;
    if (length < SENTENCE_MIN_BYTES || length > SENTENCE_MAX_BYTES) return RB_OK;
    text_sentence *sentence = &out->sentences[out->n_sentences];
    char spaced[SENTENCE_MAX_BYTES + 2];
    *sentence = (text_sentence){.at = at, .length = length};
    find_fact(sentence);
    find_last_word(sentence);
    const int n = snprintf(spaced, sizeof spaced, " %.*s", length, at);
    out->n_sentences++;
    return tokenizer_encode(tokens_of, spaced, (size_t)n, &sentence->tokens.ids, &sentence->tokens.n, err);
}

static rb_status add_line(text_pieces *out, const char *line, int length, const tokenizer *tokens_of, rb_error *err)
{
    rb_status st = RB_OK;
    int from = 0;
    while (from < length && is_space(line[from])) from++;
    if (from == length || line[from] == '=' || line[from] == '#') return RB_OK;
    for (int i = from; i < length && st == RB_OK; i++) {
        if (!ends_sentence(line, length, i)) continue;
        st = add_sentence(out, line + from, i + 1 - from, tokens_of, err);
        for (from = i + 1; from < length && is_space(line[from]);) from++;
        i = from - 1;
    }
    return st;
}

static rb_status find_sentences(text_pieces *out, const tokenizer *tokens_of, rb_error *err)
{
    const size_t most = strlen(out->text) / SENTENCE_MIN_BYTES + 1;
    rb_status st = rb_alloc(&out->sentences, most, sizeof *out->sentences, "sentences", err);
    for (const char *line = out->text; *line && st == RB_OK;) {
        const size_t length = strcspn(line, "\n");
        st = add_line(out, line, (int)length, tokens_of, err);
        line += length + (line[length] != '\0');
    }
    return st;
}

/* ---- words ----------------------------------------------------------------------------------- */

/* Open addressing: word -> 1 + its index. */
typedef struct word_table {
    size_t n_slots; /* a power of two */
    int64_t *slots;
} word_table;

static uint64_t hash_of(const char *word, size_t length)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)word[i]) * 1099511628211u;
    return hash;
}

static rb_status add_word(text_pieces *out, word_table *table, const char *word, size_t length, rb_error *err)
{
    size_t slot = hash_of(word, length) & (table->n_slots - 1);
    for (; table->slots[slot]; slot = (slot + 1) & (table->n_slots - 1)) {
        const char *other = out->words[table->slots[slot] - 1];
        if (strlen(other) == length && memcmp(other, word, length) == 0) return RB_OK;
    }
    const rb_status st = rb_format(&out->words[out->n_words], err, "%.*s", (int)length, word);
    if (st == RB_OK) table->slots[slot] = ++out->n_words;
    return st;
}

static rb_status find_words(text_pieces *out, rb_error *err)
{
    const size_t most = strlen(out->text) / (WORD_MIN_BYTES + 1) + 1;
    word_table table = {.n_slots = 1};
    rb_status st;
    while (table.n_slots < 2 * most) table.n_slots *= 2;
    RB_TRY(st, rb_alloc(&out->words, most, sizeof *out->words, "words", err), done);
    RB_TRY(st, rb_alloc(&table.slots, table.n_slots, sizeof *table.slots, "words", err), done);
    for (const char *at = out->text; *at;) {
        const size_t gap = strspn(at, " \t\r\n"), length = strcspn(at + gap, " \t\r\n");
        const char *word = at + gap;
        at = word + length;
        bool is_word = length >= WORD_MIN_BYTES && length <= WORD_MAX_BYTES;
        for (size_t i = 0; i < length && is_word; i++) is_word = is_lower(word[i]);
        if (is_word) RB_TRY(st, add_word(out, &table, word, length, err), done);
    }
done:
    free(table.slots);
    return st;
}

rb_status text_pieces_make(text_pieces *out, const char *text, size_t length, const tokenizer *tokens_of, rb_error *err)
{
    rb_status st;
    *out = (text_pieces){0};
    RB_TRY(st, rb_alloc(&out->text, length + 1, 1, "a text", err), done);
    memcpy(out->text, text, length);
    for (size_t i = 0; i < length; i++)
        if (out->text[i] == '\0') out->text[i] = ' ';
    RB_TRY(st, find_sentences(out, tokens_of, err), done);
    st = find_words(out, err);
done:
    return st;
}
