/* RoPE on whole heads: turns the pairs of every head vector by position * inv_freq, for both pairings, as
 * model/rope_turn.h turns one. */
#ifndef RB_MODEL_ROPE_APPLY_H
#define RB_MODEL_ROPE_APPLY_H

#include "core/model_facts.h"

/* cos and sin of every position of the longest sequence, times attention_factor. Zero-initialise; owned, freed by
 * rope_table_free. */
typedef struct rope_table {
    rope_pairing pairing;
    int n_freqs; /* rotary_dim / 2 */
    int64_t n_positions;
    float *cos, *sin; /* [n_positions][n_freqs] */
} rope_table;

/* rope: facts->rope or facts->local_rope. */
rb_status rope_table_init(rope_table *table, const model_facts *facts, const rope_facts *rope, int64_t n_positions,
                          rb_error *err);
void rope_table_free(rope_table *table);

/* Bytes of a table. */
int64_t rope_table_bytes(const model_facts *facts, int64_t n_positions);

/* Turns heads [n_heads][n_tokens][head_dim] in place; n_tokens = sequence_start[n_sequences]. Positions start at 0 in
 * each sequence and stay below table->n_positions. Dims past rotary_dim stay as they are. */
void rope_apply(const rope_table *table, float *heads, int n_heads, int head_dim, const int64_t *sequence_start,
                int64_t n_sequences);

/* Turns heads [n_heads][n_tokens][head_dim] of tokens at positions first_position, first_position + 1, ... */
void rope_apply_from(const rope_table *table, float *heads, int n_heads, int head_dim, int64_t first_position,
                     int64_t n_tokens);

/* The transpose of what RoPE does to a vector x [head_dim] at a position, in place: turns back and multiplies by
 * attention_factor. What a gradient by a turned key is by the key before. */
void rope_turn_back(const rope_table *table, float *x, int64_t position);

#endif
