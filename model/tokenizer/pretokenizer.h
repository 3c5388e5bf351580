/* The "pre_tokenizer" of tokenizer.json: ByteLevel, by itself or after Splits by regular expression. It cuts a text
 * into the pieces inside which BPE merges. The byte-level alphabet belongs to the model (bpe.h). */
#ifndef RB_MODEL_TOKENIZER_PRETOKENIZER_H
#define RB_MODEL_TOKENIZER_PRETOKENIZER_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "core/status.h"
#include "model/tokenizer/split_pattern.h"

typedef struct pretokenizer pretokenizer;

/* Supported: ByteLevel, or a Sequence of Split(Regex, Isolated, not inverted) ... and one ByteLevel at its end.
 * component may be NULL (absent), which is refused. Fails with RB_EUNSUPPORTED, naming the component or the setting. */
rb_status pretokenizer_open(pretokenizer **out, const cJSON *component, rb_error *err);
void pretokenizer_close(pretokenizer *pretokenizer);

typedef rb_status (*pretokenizer_piece_fn)(void *user, const char *piece, size_t length, rb_error *err);

/* Calls on_piece for every piece of a text, in order; pieces are not empty, and together they are the text, after the
 * prefix space where the file asks for one. Stops at the first failure. */
rb_status pretokenizer_split(const pretokenizer *pretokenizer, split_scratch *scratch, const char *text, size_t length,
                             pretokenizer_piece_fn on_piece, void *user, rb_error *err);

#endif
