/* The "added_tokens" of tokenizer.json: strings that become one token wherever they stand in the text, before BPE sees
 * it.
 *
 * Tokens with normalized = false are looked for in the text as it is. The others are looked for in what is left, after
 * normalisation. The leftmost match wins, and at one place the longest. single_word drops a match next to a word
 * character; lstrip and rstrip include the white space next to it. "special" changes nothing here: special tokens in a
 * text are recognised like the others, as the library does unless told otherwise. Ids must be those that the
 * `tokenizers` library gives: the model's where the string is in its vocabulary, otherwise numbers from the
 * vocabulary's size on. Source: https://github.com/huggingface/tokenizers (tokenizer/added_vocabulary). */
#ifndef RB_MODEL_TOKENIZER_ADDED_TOKENS_H
#define RB_MODEL_TOKENIZER_ADDED_TOKENS_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/status.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/vocabulary.h"

typedef struct added_token {
    char *content;
    size_t length;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized;
} added_token;

typedef struct added_tokens added_tokens;

typedef enum added_stage { ADDED_RAW, ADDED_NORMALIZED, ADDED_N_STAGES } added_stage;

/* array NULL: none. Fails on an id that differs from the one above, on a content that is empty or becomes so by
 * normalisation, on two contents that are the same or become so by normalisation. */
rb_status added_tokens_open(added_tokens **out, const cJSON *array, const vocabulary *vocabulary,
                            const normalizer *normalizer, split_scratch *scratch, rb_error *err);
void added_tokens_close(added_tokens *added);

int32_t added_tokens_count(const added_tokens *added);
const added_token *added_tokens_at(const added_tokens *added, int32_t index); /* in file order */

/* A walk over the tokens of one stage in one text. At the start only text and length are set; the rest is zero. */
typedef struct added_scan {
    const char *text; /* valid UTF-8 */
    size_t length;
    size_t next; /* where the next match is looked for */
    size_t done; /* end of the last token, swallowed white space included */
} added_scan;

typedef struct added_match {
    size_t start, end; /* white space that the token swallows included */
    int32_t id;
} added_match;

/* False when there is no further token. Text between the last `end` and this `start` is not part of any. */
bool added_tokens_next(const added_tokens *added, added_stage stage, added_scan *scan, added_match *out);

#endif
