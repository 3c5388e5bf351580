/* What a run does to the attention weights of a layer: KL(p || p^) over sampled queries of the text, p of the unquantized run, p^ of the run itself, with its
 * own queries: errors of the layers before are in it. */
#ifndef RB_EVALUATE_ATTENTION_SCORE_H
#define RB_EVALUATE_ATTENTION_SCORE_H

#include "evaluate/evaluate_batch.h"
#include "model/forward.h"

/* Adds to sums [n_runs] the KL of the part's sampled queries, and to *n_queries their number (query heads counted). window: keys a query sees, 0: all. */
rb_status attention_scores_add(double *sums, int64_t *n_queries, const evaluate_request *request, const evaluate_batch *batch, const layer_heads *heads,
                               int64_t window, rb_error *err);

#endif
