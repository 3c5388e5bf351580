/* The end of the forward pass: final RMSNorm and the vocabulary matrix, over tiles of tokens. The matrix stays in the
 * mapped file; rows are converted to f32 a tile at a time, so neither it nor the logits of the whole batch are ever
 * held (a vocabulary can be 150k rows). */
#ifndef RB_MODEL_LM_HEAD_H
#define RB_MODEL_LM_HEAD_H

#include "model/forward.h"

/* hidden [n_tokens][hidden_size] after the last layer; calls hooks->on_logits for tiles of the tokens it wants, in
 * order. */
rb_status lm_head_run(const checkpoint *model, const float *hidden, int64_t n_tokens, const forward_hooks *hooks,
                      rb_error *err);

/* Bytes lm_head_run allocates. */
int64_t lm_head_bytes(const model_config *config, int64_t n_tokens, const forward_hooks *hooks, int n_threads);

#endif
