/* Next-token distributions of several runs at the same positions, compared with those of the first run. */
#ifndef RB_EVALUATE_TOKEN_SCORE_H
#define RB_EVALUATE_TOKEN_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/status.h"

typedef struct token_score {
    double nll;           /* of the target, nats */
    double kl;            /* KL(first run || this run), nats */
    bool is_target_first; /* the target is the most likely token (the lowest id among equals) */
    bool is_top1_same;    /* the most likely token is that of the first run */
} token_score;

/* logits [n_runs][n_vocab] of one position, scratch [2 * n_vocab]; out [n_runs]. */
void token_scores(token_score *out, const float *logits, int n_runs, int64_t n_vocab, int32_t target, float *scratch);

#endif
