/* The next-token distributions of one run on the text, in a few numbers. */
#ifndef RB_EVALUATE_TEXT_SUMMARY_H
#define RB_EVALUATE_TEXT_SUMMARY_H

#include "evaluate/evaluate_batch.h"
#include "evaluate/token_score.h"

/* Means over all tokens but the first one of each sequence. KL is in nats, from the unquantized run's distribution. NaN
 * without text. */
typedef struct text_summary {
    int64_t n; /* tokens predicted */
    double nll, perplexity;
    double kl_mean, kl_p99, kl_p999, kl_max;
    double top1_agreement; /* share of tokens whose most likely successor is the unquantized run's */
} text_summary;

/* scores [n_positions][n_runs]. */
rb_status text_summary_make(text_summary *out, const evaluate_batch *batch, const token_score *scores, int run,
                            rb_error *err);

#endif
