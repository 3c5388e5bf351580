/* The tokens of the text that suffer most from a plan: those with the largest KL of their prediction from the
 * unquantized run's. */
#ifndef RB_EVALUATE_WORST_PREDICTIONS_H
#define RB_EVALUATE_WORST_PREDICTIONS_H

#include "evaluate/evaluate_batch.h"
#include "evaluate/token_score.h"
#include "model/tokenizer/token_text.h"

enum { WORST_BEFORE_TOKENS = 6, WORST_BEFORE_SIZE = WORST_BEFORE_TOKENS * (TOKEN_TEXT_SIZE - 1) + 1 };

typedef struct worst_prediction {
    int64_t position; /* of the predicted token in the text */
    int32_t id;
    char text[TOKEN_TEXT_SIZE]; /* texts of the token and of the last WORST_BEFORE_TOKENS before it in its sequence; ""
                                   until they are named */
    char before[WORST_BEFORE_SIZE];
    double kl;                   /* nats */
    double nll, unquantized_nll; /* of the token, in this run and in the unquantized one */
} worst_prediction;

/* The worst come first; among equals the earlier one. */
typedef struct worst_predictions {
    int n;
    worst_prediction *at; /* [n], owned */
} worst_predictions;

/* Keeps at most `capacity` tokens, all with a KL above 0. scores [n_positions][n_runs]. */
rb_status worst_predictions_make(worst_predictions *out, int capacity, const evaluate_batch *batch,
                                 const token_score *scores, int run, rb_error *err);
/* Fills in the texts. text [n] ids in sequences of `context`, as they were scored. */
void worst_predictions_name(worst_predictions *worst, const tokenizer *words, const int32_t *text, int64_t context);
void worst_predictions_free(worst_predictions *worst);

#endif
