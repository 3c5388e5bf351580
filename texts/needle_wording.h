/* The tokens of a needle document's facts and questions, by a template and a tokenizer. Every piece is tokenized by
 * itself, as the haystack is. */
#ifndef RB_TEXTS_NEEDLE_WORDING_H
#define RB_TEXTS_NEEDLE_WORDING_H

#include "texts/needle_documents.h"
#include "texts/needle_facts.h"
#include "texts/token_source.h"

/* A question with its answer. */
typedef struct worded_question {
    token_list tokens;
    int n_answers;
    answer_span answers[NEEDLE_MAX_NEEDLES]; /* one for each value, counted from the question's first token */
} worded_question;

typedef struct needle_wording {
    token_list opening;
    int n_needles, n_questions;
    token_list needles[NEEDLE_MAX_NEEDLES]; /* one for each fact, in order */
    worded_question questions[NEEDLE_MAX_NEEDLES];
} needle_wording;

/* Fails with RB_EINVAL when the tokens of an answer do not give its bytes back, since then nobody could say which
 * tokens hold a value. Free on failure too. */
rb_status needle_wording_make(needle_wording *out, const needle_source *source, const needle_facts *facts,
                              needle_task task, rb_error *err);
int64_t needle_wording_tokens(const needle_wording *wording); /* all of them */
void needle_wording_free(needle_wording *wording);

#endif
