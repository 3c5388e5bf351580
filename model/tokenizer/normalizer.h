/* The "normalizer" of tokenizer.json: null, or steps that rewrite the text before it is cut.
 *
 *   NFC NFD NFKC NFKD    Unicode normalisation (UAX 15), by utf8proc
 *   Lowercase            each character by itself, as Rust's char::to_lowercase
 *   Prepend              a string ahead of a text that is not empty
 *   Replace              every match of a string or regular expression by a string
 *   Strip                white space at the ends
 *   Sequence             of these
 *
 * Source: https://github.com/huggingface/tokenizers (normalizers). */
#ifndef RB_MODEL_TOKENIZER_NORMALIZER_H
#define RB_MODEL_TOKENIZER_NORMALIZER_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "core/status.h"
#include "model/tokenizer/split_pattern.h"
#include "model/tokenizer/text_buffer.h"

typedef struct normalizer normalizer; /* shared by threads */

/* component may be NULL (absent): the text stays as it is. Fails with RB_EUNSUPPORTED, naming another component. */
rb_status normalizer_open(normalizer **out, const cJSON *component, rb_error *err);
void normalizer_close(normalizer *normalizer);

/* What a Replace writes for each space (the sign of a Metaspace tokenizer), or NULL. */
const char *normalizer_space_sign(const normalizer *normalizer);

/* A text that is being encoded. n_first: so many of its bytes come from the first character of the whole text; the
 * pre-tokenizer Metaspace asks for that. */
typedef struct text_stretch {
    const char *at;
    size_t length, n_first;
} text_stretch;

/* The part [from, to). */
static inline text_stretch text_stretch_part(text_stretch text, size_t from, size_t to)
{
    const size_t n_first = text.n_first < to ? text.n_first : to;
    return (text_stretch){text.at + from, to - from, n_first > from ? n_first - from : 0};
}

typedef struct normalized_text {
    text_stretch text;
    text_buffer own; /* what text points into where the text has changed */
} normalized_text;

/* Normalises valid UTF-8. Freed by normalized_text_free, also after a failure. */
rb_status normalizer_apply(const normalizer *normalizer, split_scratch *scratch, text_stretch text,
                           normalized_text *out, rb_error *err);
void normalized_text_free(normalized_text *text);

#endif
