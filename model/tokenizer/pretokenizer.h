/* The "pre_tokenizer" of tokenizer.json: steps that cut a text into the pieces inside which BPE merges. Each step sees
 * only one piece of the step before it at a time.
 *
 *   Split              by a string or regular expression; a behaviour says what becomes of the matches; invert takes
 *                      what stands between them for the matches
 *   Digits             numeric characters, each by itself or in runs
 *   Punctuation        punctuation, with a behaviour
 *   Whitespace         words and runs of other characters; white space is dropped
 *   WhitespaceSplit    what stands between white space
 *   Metaspace          spaces become a sign, which may also be put in front; cut ahead of each sign
 *   ByteLevel          a space in front where asked for, GPT-2's words where asked for, then bytes to symbols
 *                      (byte_level.h)
 *   Sequence           of these
 *
 * Source: https://github.com/huggingface/tokenizers (pre_tokenizers, tokenizer/normalizer.rs for the behaviours). */
#ifndef RB_MODEL_TOKENIZER_PRETOKENIZER_H
#define RB_MODEL_TOKENIZER_PRETOKENIZER_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/status.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/split_pattern.h"

typedef struct pretokenizer pretokenizer;                 /* shared by threads */
typedef struct pretokenizer_scratch pretokenizer_scratch; /* one per thread */

/* component may be NULL (absent): a text is one piece. Fails with RB_EUNSUPPORTED, naming the component or the
 * setting. */
rb_status pretokenizer_open(pretokenizer **out, const cJSON *component, rb_error *err);
void pretokenizer_close(pretokenizer *pretokenizer);

bool pretokenizer_is_byte_level(const pretokenizer *pretokenizer);     /* pieces are in byte-level symbols */
const char *pretokenizer_space_sign(const pretokenizer *pretokenizer); /* what Metaspace writes for a space; or NULL */

rb_status pretokenizer_scratch_new(pretokenizer_scratch **out, rb_error *err);
void pretokenizer_scratch_free(pretokenizer_scratch *scratch);
split_scratch *pretokenizer_split_scratch(pretokenizer_scratch *scratch);

typedef rb_status (*pretokenizer_piece_fn)(void *user, const char *piece, size_t length, rb_error *err);

/* Calls on_piece for every piece of a text, in order; pieces are not empty. Stops at the first failure. */
rb_status pretokenizer_split(const pretokenizer *pretokenizer, pretokenizer_scratch *scratch, text_stretch text,
                             pretokenizer_piece_fn on_piece, void *user, rb_error *err);

#endif
