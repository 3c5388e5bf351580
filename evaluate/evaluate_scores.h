/* Everything that is measured during a pass, part by part, from arrays in host memory. The caller runs the model on the
 * CPU or a GPU, hands over what the layers and the head give, and gets the result at the end. */
#ifndef RB_EVALUATE_EVALUATE_SCORES_H
#define RB_EVALUATE_EVALUATE_SCORES_H

#include "evaluate/attention_score.h"
#include "evaluate/evaluate_batch.h"
#include "evaluate/evaluate_result.h"
#include "evaluate/output_score.h"
#include "evaluate/token_score.h"

typedef struct evaluate_scores {
    const evaluate_request *request;
    const evaluate_batch *batch;
    token_score *tokens; /* [n_positions][n_runs], owned; a pass that scores logits itself writes here */
    float *scratch;      /* [n_threads][2 * vocab_size], owned */
    attention_scores attention;
    output_scores outputs;
} evaluate_scores;

/* request and batch are borrowed. Freed with evaluate_scores_free, also after a failure. */
rb_status evaluate_scores_create(evaluate_scores *out, const evaluate_request *request, const evaluate_batch *batch,
                                 rb_error *err);
void evaluate_scores_free(evaluate_scores *scores);

/* Call these once for each layer and part, parts in order. A part without text (evaluate_batch_text_end) may be left
 * out. Only the tokens of the part's text are used, which come first, so n_tokens may end after them. */
/* q, k and exact_k, leaving RoPE. */
rb_status evaluate_scores_add_heads(evaluate_scores *scores, const layer_heads *heads, rb_error *err);
/* [n_tokens][n_q_heads * attended_dim]. */
void evaluate_scores_add_attended(evaluate_scores *scores, const layer_heads *heads, const float *attended);
/* logits [n][vocab_size] of batch->logit_tokens[first] on; both are multiples of n_runs. */
void evaluate_scores_add_logits(evaluate_scores *scores, int64_t first, int64_t n, const float *logits);

/* Makes the numbers of each run from the sums. Free with evaluate_result_free, also after a failure. */
rb_status evaluate_scores_finish(evaluate_result *out, const evaluate_scores *scores, rb_error *err);

#endif
