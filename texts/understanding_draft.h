/* An understanding document while it is made: pieces of its body, which the task adds until no more fit, and the
 * question and answer at its end. Only for texts/understanding_*.c. */
#ifndef RB_TEXTS_UNDERSTANDING_DRAFT_H
#define RB_TEXTS_UNDERSTANDING_DRAFT_H

#include "kernels/reference/numpy_random.h"
#include "texts/understanding_documents.h"

typedef struct understanding_draft {
    const understanding_source *source;
    numpy_rng rng;
    const char *task;
    int64_t context;
    int64_t n_body;             /* tokens of the pieces */
    int64_t n_pieces, n_places; /* places: allocated */
    token_list *pieces;         /* [n_places] */
    token_list question;        /* with the answer */
    int64_t n_question;         /* tokens before the answer */
} understanding_draft;

rb_status understanding_draft_begin(understanding_draft *out, const understanding_source *source,
                                    understanding_task task, int64_t context, uint64_t seed, rb_error *err);
void understanding_draft_free(understanding_draft *draft);

int64_t understanding_draft_below(understanding_draft *draft, int64_t n); /* a random whole number in [0, n) */
int64_t understanding_draft_room(const understanding_draft *draft);       /* tokens that the body may still have */

/* The question; asked again, the new one takes the old one's place. */
rb_status understanding_draft_ask(understanding_draft *draft, const char *question, const char *answer, rb_error *err);

/* Add a piece if it fits. fits NULL: it must, and RB_EINVAL says that the context is too small. */
rb_status understanding_draft_add(understanding_draft *draft, bool *fits, const char *text, rb_error *err);
rb_status understanding_draft_add_tokens(understanding_draft *draft, bool *fits, const token_list *tokens,
                                         rb_error *err);

/* Puts pieces [first, n_pieces) in random order. */
void understanding_draft_shuffle(understanding_draft *draft, int64_t first);

/* Moves everything into a document. */
rb_status understanding_draft_finish(needle_document *out, const understanding_draft *draft, rb_error *err);

#endif
