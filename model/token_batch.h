/* Sequences of token ids laid end to end: what a forward pass, on the CPU or the GPU, is run on. */
#ifndef RB_MODEL_TOKEN_BATCH_H
#define RB_MODEL_TOKEN_BATCH_H

#include "model/checkpoint.h"

/* Positions start at 0 in each sequence. */
typedef struct token_batch {
    const int32_t *tokens; /* [n_tokens] */
    int64_t n_tokens;
    const int64_t *sequence_start; /* [n_sequences + 1], ascending, first 0, last n_tokens */
    int64_t n_sequences;
} token_batch;

/* Fails with RB_EINVAL on an empty batch, sequence bounds that are not ascending from 0 to n_tokens, or a token id
 * outside the vocabulary. */
rb_status token_batch_check(const token_batch *batch, int vocab_size, rb_error *err);
int64_t token_batch_longest(const token_batch *batch); /* tokens of the longest sequence */
/* hidden [n_tokens][hidden_size]: rows of the embedding table, straight from the mapped file. */
rb_status token_batch_embed(const token_batch *batch, const checkpoint *model, float *hidden, rb_error *err);

#endif
