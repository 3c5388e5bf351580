/* What a run does to the output of attention, head by head: the relative error |o^ - o| / |o| over the tokens of the
 * text. o are the attended rows (what o_proj takes) of the unquantized run. o^ are those of the run, with its own
 * queries, keys and values, so they contain the errors of the layers before. */
#ifndef RB_EVALUATE_OUTPUT_SCORE_H
#define RB_EVALUATE_OUTPUT_SCORE_H

#include "evaluate/evaluate_batch.h"
#include "model/forward.h"

/* Sums over the tokens of the text, added up part by part. */
typedef struct output_scores {
    const evaluate_request *request;
    const evaluate_batch *batch;
    double *squares; /* [n_layers][n_q_heads][n_runs]: |o|^2 for run 0, |o^ - o|^2 for the others */
} output_scores;

rb_status output_scores_create(output_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                               rb_error *err);
/* attended [heads->n_tokens][n_q_heads * attended_dim], in host memory. Only layer, part, first_token and n_tokens of
 * `heads` are used, and only the tokens of text sequences. Every number of threads gives the same doubles. */
void output_scores_add(output_scores *scores, const layer_heads *heads, const float *attended);
void output_scores_free(output_scores *scores);

#endif
