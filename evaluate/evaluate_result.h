/* What an evaluation found, run by run. */
#ifndef RB_EVALUATE_EVALUATE_RESULT_H
#define RB_EVALUATE_EVALUATE_RESULT_H

#include <stdbool.h>

#include "evaluate/position_curve.h"
#include "evaluate/text_summary.h"
#include "evaluate/worst_predictions.h"

/* The answer tokens of one document. */
typedef struct answer_score {
    int64_t n, n_right, n_same; /* n_right: the right token is the most likely one; n_same: that token is the
                                   unquantized run's */
    double nll;                 /* sum, nats */
} answer_score;

/* Understanding documents: shares of answer tokens, 0 to 1, means over the tasks. NaN without documents. */
typedef struct understanding_score {
    int64_t n, n_right; /* documents; all of the answer right */
    double agreement;   /* of tokens whose most likely token is the unquantized run's */
    double accuracy;    /* of tokens that are the most likely one */
} understanding_score;

/* One run compared with the unquantized one. Numbers are NaN where there was nothing to measure: no text, no sampled
 * query, or none that sees enough keys. */
typedef struct evaluate_score {
    text_summary text;
    position_curve by_position;
    worst_predictions worst; /* empty where nothing differs */
    double attention_kl;     /* mean over layers of: */
    /* [n_layers], owned; mean over query heads and sampled queries of KL(p || p^), nats. */
    double *attention_kl_by_layer;
    double attention_overlap;           /* mean over layers of: */
    double *attention_overlap_by_layer; /* [n_layers], owned; share of the unquantized run's ATTENTION_TOP_K keys of a
                                           query, mean over query heads and queries */
    double output_error;                /* mean over layers of: */
    double *output_error_by_layer; /* [n_layers], owned; |o^ - o| / |o| of the attention's output over the text, all
                                      heads as one */
    double *output_error_by_head;  /* [n_layers][n_q_heads], owned; the same of one query head; NaN where its output is
                                      zero throughout */
    int64_t n_right;               /* needle documents in which every answer token was the most likely one */
    bool *is_right;                /* [n documents], owned; the same, of documents of every kind */
    answer_score *answers;         /* [n documents], owned */
    understanding_score understanding;
} evaluate_score;

typedef struct evaluate_result {
    int n_runs, n_layers, n_q_heads; /* n_runs = 1 + n_plans; the unquantized run first */
    evaluate_score *runs;            /* owned */
} evaluate_result;

void evaluate_result_free(evaluate_result *result);

#endif
