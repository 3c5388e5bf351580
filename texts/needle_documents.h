/* Needle documents: facts hidden in a haystack of text, and questions about them, scored by teacher forcing: every
 * token of an answer must be the arg-max.
 *
 *   opening | haystack .. needle .. haystack .. needle .. haystack | question answer [| question answer ..]
 *
 * The six tasks (docs/needles.md), with the counts of needle_counts:
 *   single       one needle
 *   distractor   the asked needle and n_distractors whose keys share its colour or its thing
 *   multi        n_keys needles with keys of their own, each asked in a question of its own, in random order
 *   multikey     n_keys needles with keys of their own, one is asked
 *   multivalue   one key with n_values values in as many statements; one question for all of them, answered in the
 *                order in which they stand
 *   multiquery   n_keys needles, one question for n_queries of them, answered in the order of the question
 *
 * A document depends only on the seed and on its own task, context, depth and number among its repeats. So asking for
 * more documents changes none of them. */
#ifndef RB_TEXTS_NEEDLE_DOCUMENTS_H
#define RB_TEXTS_NEEDLE_DOCUMENTS_H

#include <stdint.h>

#include "core/status.h"
#include "core/text_bos.h"
#include "model/tokenizer/tokenizer.h"
#include "texts/needle_template.h"

typedef enum needle_task {
    NEEDLE_SINGLE,
    NEEDLE_DISTRACTOR,
    NEEDLE_MULTI,
    NEEDLE_MULTIKEY,
    NEEDLE_MULTIVALUE,
    NEEDLE_MULTIQUERY,
    NEEDLE_N_TASKS
} needle_task;
extern const char *const needle_task_names[NEEDLE_N_TASKS + 1]; /* NULL at the end: choices of an option */

/* ---- documents ------------------------------------------------------------------------------- */
enum { NEEDLE_MAX_TASK_NAME = 63 };

/* Tokens first .. first + n - 1 must be predicted, each from the position before it; first is at least 1. */
typedef struct answer_span {
    int64_t first, n;
} answer_span;

/* What a document tests; results are told apart by it. */
typedef enum document_kind { DOCUMENT_NEEDLES, DOCUMENT_UNDERSTANDING } document_kind;

typedef struct needle_document {
    document_kind kind;
    char task[NEEDLE_MAX_TASK_NAME + 1]; /* one of a kind's tasks, or a name from a documents file */
    double depth;                        /* 0..1, as in needle_document_make; NAN: drawn at random, or not known */
    /* The length that results are told apart by: n_tokens, or what a documents file says; 0: not known. */
    int64_t context;
    int64_t n_tokens;
    int32_t *tokens; /* [n_tokens], owned */
    int n_answers;
    answer_span *answers; /* [n_answers], owned; one for each value asked, in the order they are answered */
} needle_document;

typedef struct needle_documents {
    int64_t n;
    needle_document *at; /* owned */
} needle_documents;

/* Puts tokens in front of every document: places and lengths grow by as many. */
rb_status needle_documents_begin(needle_documents *documents, const bos_tokens *bos, rb_error *err);

int64_t needle_documents_count(const needle_documents *documents, document_kind kind); /* documents NULL: 0 */

/* Moves the documents of *more to the end of *documents; *more is empty then. */
rb_status needle_documents_append(needle_documents *documents, needle_documents *more, rb_error *err);

void needle_document_free(needle_document *document);
void needle_documents_free(needle_documents *documents);

/* Fails with RB_EINVAL and names the first id outside [0, vocab_size). `name` is for the message. */
rb_status needle_documents_check_vocabulary(const needle_documents *documents, int64_t vocab_size, const char *name,
                                            rb_error *err);

/* ---- making them ----------------------------------------------------------------------------- */
enum { NEEDLE_MAX_NEEDLES = 32 };

/* How many needles the tasks have. Each count is 1 .. NEEDLE_MAX_NEEDLES, n_queries <= n_keys, and n_distractors + 1 <=
 * NEEDLE_MAX_NEEDLES. */
typedef struct needle_counts {
    int n_keys, n_distractors, n_values, n_queries;
} needle_counts;
needle_counts needle_counts_default(void); /* 4, 3, 2, 2 */

/* What the documents are made from. Borrowed. */
typedef struct needle_source {
    const needle_template *needles;
    const tokenizer *tokens_of;
    const int32_t *haystack; /* [n_haystack] ids of any text; a document starts at a random place of it */
    int64_t n_haystack;
} needle_source;

/* One document of exactly `context` tokens: the haystack fills what needles and questions leave. depth: where the
 * needle stands that is asked first (one of them, when a key has several values), as a part of the haystack's tokens;
 * NAN: anywhere. The others stand anywhere. An answer's span is the tokens of the value and of the white space before
 * it. Freed by needle_document_free. Fails with RB_EINVAL when the context leaves no room for a haystack, the haystack
 * is too short for it, a count is out of range, or the template has too few words for the keys. */
rb_status needle_document_make(needle_document *out, const needle_source *source, const needle_counts *counts,
                               needle_task task, int64_t context, double depth, uint64_t seed, rb_error *err);

/* n_repeats documents for each task x context x depth, in that order: [task][context][depth][repeat]. */
typedef struct needle_series {
    const needle_task *tasks;
    const int64_t *contexts;
    const double *depths; /* NAN: random */
    int n_tasks, n_contexts, n_depths, n_repeats;
    uint64_t seed;
    needle_counts counts;
} needle_series;

/* Freed by needle_documents_free. Fails as needle_document_make does. */
rb_status needle_documents_make(needle_documents *out, const needle_source *source, const needle_series *series,
                                rb_error *err);

#endif
