/* The tokens of a question and its answer, as a model meets them that is asked. */
#ifndef RB_TEXTS_QUESTION_TOKENS_H
#define RB_TEXTS_QUESTION_TOKENS_H

#include "texts/token_source.h"

/* Encodes question and answer as one text where the question keeps the tokens that it has by itself, and as two texts
 * where a token would reach across: a model that is asked has only the question's tokens before it. The answer's tokens
 * begin at *n_question. */
rb_status question_tokens_encode(token_list *out, int64_t *n_question, const tokenizer *tokens_of, const char *question,
                                 const char *answer, rb_error *err);

#endif
