/* What a run does to the output of attention, head by head: the relative error of the attended rows (what o_proj takes)
 * against the unquantized run's over the tokens of the text, |o^ - o| / |o|. The run's own queries, keys and values:
 * errors of the layers before are in it. */
#ifndef RB_EVALUATE_OUTPUT_SCORE_H
#define RB_EVALUATE_OUTPUT_SCORE_H

#include "evaluate/evaluate_batch.h"
#include "model/forward.h"

/* Sums over the tokens of the text, added up part by part. */
typedef struct output_scores {
    const evaluate_request *request;
    const evaluate_batch *batch;
    double *squares; /* [n_layers][n_q_heads][n_runs]: of run 0 |o|^2, of another |o^ - o|^2 */
} output_scores;

rb_status output_scores_create(output_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                               rb_error *err);
/* attended [heads->n_tokens][n_q_heads * head_dim], in host memory; of heads layer, part, first_token and n_tokens are
 * looked at, of the tokens those of text sequences. Same doubles for any number of threads. */
void output_scores_add(output_scores *scores, const layer_heads *heads, const float *attended);
void output_scores_free(output_scores *scores);

#endif
