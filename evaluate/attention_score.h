/* What a run does to the attention weights of a layer, over sampled queries of the text and all query heads: KL(p ||
 * p^), and how many of the largest weights of p are among the largest of p^. p are the weights of the unquantized run.
 * p^ are those of the run itself, with its own queries, so they contain the errors of the layers before. With a latent
 * cache (MLA) a logit has a part without RoPE, which the heads of a pass do not show: both are of the other part then.
 *
 * Sampled queries of a text sequence are stride - 1, 2 stride - 1, .., or the last one where the sequence has fewer
 * than `stride` tokens. A sequence of one token has none, since a single key has all the weight in every run. */
#ifndef RB_EVALUATE_ATTENTION_SCORE_H
#define RB_EVALUATE_ATTENTION_SCORE_H

#include "evaluate/evaluate_batch.h"
#include "model/forward.h"

enum { ATTENTION_TOP_K = 16 };

/* Sums over queries, added up part by part. */
typedef struct attention_scores {
    const evaluate_request *request;
    const evaluate_batch *batch;
    double *kl;      /* [n_layers][n_runs], nats */
    double *overlap; /* [n_layers][n_runs]: share of a query's ATTENTION_TOP_K keys; only of queries that see more keys
                        than that */
    int64_t *n_queries;         /* [n_layers] */
    int64_t *n_overlap_queries; /* [n_layers] */
} attention_scores;

rb_status attention_scores_create(attention_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                                  rb_error *err);
/* Takes q, k and exact_k of one layer's part, leaving RoPE, in host memory; only sequences of text are used. Every
 * number of threads gives the same doubles. */
rb_status attention_scores_add(attention_scores *scores, const layer_heads *heads, rb_error *err);
void attention_scores_free(attention_scores *scores);

#endif
