/* From a text's tokens to the sequences that a model gets: cut to `context` tokens each, with beginning-of-text tokens
 * in front of every one, of the first one, or of none. They count: a sequence of `context` tokens has that many tokens
 * of text less. Calibration and evaluation both cut here.
 *
 *   BOS_SEQUENCE   B a b c | B d e f | B g h        n = 11, context 4
 *   BOS_TEXT       B a b c | d e f g | h i j
 *   BOS_NONE       a b c d | e f g h | i j k */
#ifndef RB_TEXTS_SEQUENCES_H
#define RB_TEXTS_SEQUENCES_H

#include "core/text_bos.h"
#include "model/tokenizer/tokenizer.h"

/* --bos. */
typedef enum bos_choice { BOS_CHOICE_AUTO, BOS_CHOICE_SEQUENCE, BOS_CHOICE_TEXT, BOS_CHOICE_NONE } bos_choice;
extern const char *const bos_choice_names[]; /* NULL at the end: choices of an option */

/* Where beginning-of-text tokens go, and which. BOS_CHOICE_AUTO: in front of every sequence what the model's tokenizer
 * puts in front of a text; nothing where is_ids says that the tokens come from a file of ids. tok: the model's
 * tokenizer, or NULL where there is none. Fails with RB_EINVAL when tokens are asked for that the model does not have,
 * that are outside its vocabulary, or that leave no room for text in a sequence. */
rb_status sequences_choose_bos(text_bos *out, bos_choice choice, bool is_ids, const char *model_path,
                               const tokenizer *tok, int64_t context, int64_t vocab_size, rb_error *err);

/* Beginning-of-text tokens in front of a sequence of n_tokens; is_first: of its text. */
int64_t sequences_n_bos(const text_bos *bos, bool is_first, int64_t n_tokens);

/* How many of the n_tokens ids of a text's sequences are the text's own. */
int64_t sequences_text_tokens(const text_bos *bos, int64_t n_tokens, int64_t context);

/* The other way: how many ids a text of n_text tokens becomes. */
int64_t sequences_tokens_of(const text_bos *bos, int64_t n_text, int64_t context);

/* ids [n_tokens] from text [sequences_text_tokens]. */
void sequences_fill(int32_t *ids, int64_t n_tokens, int64_t context, const text_bos *bos, const int32_t *text);

#endif
