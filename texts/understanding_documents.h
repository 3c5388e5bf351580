/* Understanding documents: questions that a text answers, made from any text, and scored by teacher forcing. They are
 * to `ropebits evaluate` what LongBench's kinds of tasks are to models that generate, small enough for a model of 0.1
 * to 1 thousand million parameters (docs/understanding.md).
 *
 *   cloze        (single-document QA)    sentences of the text; one of them again, up to a name or number
 *   passage      (multi-document QA)     numbered passages; which of them has these words
 *   common-word  (aggregation)           lists of words, each with its most common word; that of the last list
 *   few-shot     (in-context learning)   sentences, each with its last word; that of the last sentence
 *   key-value    (synthetic retrieval)   a table whose keys share words; the value of one key
 *   copy         (completion)            a list, then sentences of the text; the list again
 *
 * Every word comes from the text; what is asked and where it stands is drawn from the seed and the document's own task,
 * context and number, so asking for more documents changes none of them. */
#ifndef RB_TEXTS_UNDERSTANDING_DOCUMENTS_H
#define RB_TEXTS_UNDERSTANDING_DOCUMENTS_H

#include "texts/needle_documents.h"
#include "texts/text_pieces.h"

typedef enum understanding_task {
    UNDERSTANDING_CLOZE,
    UNDERSTANDING_PASSAGE,
    UNDERSTANDING_COMMON_WORD,
    UNDERSTANDING_FEW_SHOT,
    UNDERSTANDING_KEY_VALUE,
    UNDERSTANDING_COPY,
    UNDERSTANDING_N_TASKS
} understanding_task;
extern const char *const understanding_task_names[UNDERSTANDING_N_TASKS + 1]; /* NULL at the end */

/* Borrowed. */
typedef struct understanding_source {
    const text_pieces *pieces;
    const tokenizer *tokens_of;
} understanding_source;

/* A document of at most `context` tokens, which as many pieces of the text fill as fit. It has one answer: the tokens
 * of all of it. Freed by needle_document_free. Fails with RB_EINVAL on a context that leaves no room for the least
 * document of the task, and on a text that has too few sentences or words for it, naming both numbers. */
rb_status understanding_document_make(needle_document *out, const understanding_source *source, understanding_task task,
                                      int64_t context, uint64_t seed, rb_error *err);

/* n_repeats documents for each task x context: [task][context][repeat]. */
typedef struct understanding_series {
    const understanding_task *tasks;
    const int64_t *contexts;
    int n_tasks, n_contexts, n_repeats;
    uint64_t seed;
} understanding_series;

/* Freed by needle_documents_free. Fails as understanding_document_make does. */
rb_status understanding_documents_make(needle_documents *out, const understanding_source *source,
                                       const understanding_series *series, rb_error *err);

#endif
