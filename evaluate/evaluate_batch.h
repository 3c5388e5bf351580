/* The sequences of an evaluation, laid end to end. Every text sequence and document is there once for each run, and the
 * copies of all runs are neighbours. So what is compared is in the same part of a pass and in the same tile of
 * logits. */
#ifndef RB_EVALUATE_EVALUATE_BATCH_H
#define RB_EVALUATE_EVALUATE_BATCH_H

#include "evaluate/evaluate_request.h"
#include "model/token_batch.h"

/* A position whose next token is scored. */
typedef struct scored_position {
    int32_t target;       /* the token that follows */
    int64_t target_place; /* where it stands, in the text or in its document */
    int64_t document;     /* -1: text */
} scored_position;

typedef struct evaluate_batch {
    int n_runs;
    int64_t n_text_sequences; /* the first ones; a run's copy of sequence s is number s * n_runs + run of the batch */
    int32_t *tokens;
    int64_t *sequence_start, *part_start;
    int n_parts;
    token_batch batch;
    int64_t n_positions, n_text_positions; /* those of the text come first */
    scored_position *positions;            /* [n_positions] */
    int64_t *logit_tokens;                 /* [n_positions][n_runs] */
} evaluate_batch;

rb_status evaluate_batch_make(evaluate_batch *out, const evaluate_request *request, rb_error *err);
/* The first sequence after those of the part that are text. Its texts are part_start[part] and then every n_runs-th
 * sequence below this end. Where the part has no text, the end is part_start[part] or less. */
int64_t evaluate_batch_text_end(const evaluate_batch *batch, int part);
void evaluate_batch_free(evaluate_batch *batch);

#endif
