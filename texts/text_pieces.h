/* A text as sentences and words, from which understanding documents are made. Lines of a heading (= Title =, # Title)
 * and sentences that are very short or long are left out. */
#ifndef RB_TEXTS_TEXT_PIECES_H
#define RB_TEXTS_TEXT_PIECES_H

#include <stdbool.h>

#include "texts/token_source.h"

enum { SENTENCE_MIN_BYTES = 24, SENTENCE_MAX_BYTES = 400, WORD_MIN_BYTES = 4, WORD_MAX_BYTES = 10 };

typedef struct text_sentence {
    const char *at; /* in text_pieces.text, [length] bytes, from its first word to its full stop */
    int length;
    int fact;              /* where a name or number stands that more than 4 words lead up to; 0: none */
    int fact_length;       /* bytes of that word */
    int last, last_length; /* its last word, before the full stop; last_length 0: not of lower-case letters only */
    token_list tokens;     /* of a space and the sentence, owned */
} text_sentence;

typedef struct text_pieces {
    char *text;
    int64_t n_sentences, n_words;
    text_sentence *sentences; /* in the text's order */
    char **words;             /* distinct, of lower-case ASCII letters, in the order in which they first stand */
} text_pieces;

/* text [length] bytes, UTF-8 without NUL bytes that matter. Everything is copied and owned; free on failure too. Fails
 * as tokenizer_encode does. */
rb_status text_pieces_make(text_pieces *out, const char *text, size_t length, const tokenizer *tokens_of,
                           rb_error *err);
void text_pieces_free(text_pieces *pieces);

/* How often the bytes stand in the text, counted up to 2. */
int text_pieces_count(const text_pieces *pieces, const char *bytes, int length);

#endif
