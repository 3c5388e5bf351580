/* RoPE on one vector: the numbers that turn a position, and the turning. Angles are rounded to f32 before cos and sin,
 * as transformers does: at position 100 000 an f32 angle is off by up to 0.004 radians, and the model was trained and
 * is served with exactly that. */
#ifndef RB_MODEL_ROPE_TURN_H
#define RB_MODEL_ROPE_TURN_H

#include "core/model_facts.h"

/* cos and sin of one position times attention_factor, [n_freqs] each; n_freqs is rotary_dim / 2. */
void rope_row_fill(float *cos_row, float *sin_row, const rope_facts *rope, int n_freqs, int64_t position);

/* Turns the pairs of x [head_dim] in place. Dims past rotary_dim stay as they are. */
void rope_turn(float *x, const float *cos_row, const float *sin_row, int n_freqs, rope_pairing pairing);
/* The transpose of that: turns back, and multiplies by attention_factor once more. */
void rope_turn_transposed(float *x, const float *cos_row, const float *sin_row, int n_freqs, rope_pairing pairing);

#endif
