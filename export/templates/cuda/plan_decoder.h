/* The plain reader: restores vectors from records and attends over them, in double, one after the other. C99, needs
 * libm. It is what the kernels of plan_kernels.cuh are held to, and where to look first for what a code means. */
#ifndef PLAN_DECODER_H
#define PLAN_DECODER_H

#include "plan_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

const plan_head *plan_key_head(int layer, int kv_head);
const plan_head *plan_value_head(int layer, int kv_head);

/* x [head->dims] of a token's record: a key as it enters RoPE, or a value. */
void plan_restore(const plan_head *head, const uint8_t *record, float *x);

/* Turns x [PLAN_HEAD_DIM] as RoPE does at this position, in place. */
void plan_turn(int layer, int64_t position, double *x);

/* Tokens whose keys and values stay fp16: rows [PLAN_N_SINK + PLAN_N_RECENT][PLAN_N_KV_HEADS][dims] of fp16 words, keys
 * as they leave RoPE. Row t is token t < PLAN_N_SINK, row PLAN_N_SINK + (t - PLAN_N_SINK) % PLAN_N_RECENT one of the
 * last PLAN_N_RECENT. NULL: all tokens are read from their records. */
typedef struct plan_exact_rows {
    const uint16_t *keys, *values;
} plan_exact_rows;

/* The row of token t of n_tokens, or PLAN_NONE where it is coded. */
static inline int64_t plan_exact_row(int64_t t, int64_t n_tokens)
{
    if (t < PLAN_N_SINK) return t;
    if (t < n_tokens - PLAN_N_RECENT) return PLAN_NONE;
    return PLAN_N_SINK + (t - PLAN_N_SINK) % (PLAN_N_RECENT ? PLAN_N_RECENT : 1);
}

/* Attention of one query head over tokens 0 to n_tokens - 1, which have the positions of their numbers.
 *   query [PLAN_HEAD_DIM]   as it leaves RoPE
 *   cache [n_tokens]        records of the layer
 *   out [PLAN_VALUE_DIM]    softmax(PLAN_ATTENTION_SCALE * q . k) v; 0 without tokens
 * Returns the natural logarithm of the sum of exponentials; -INFINITY without tokens. */
double plan_attend(int layer, int q_head, const float *query, int64_t n_tokens, const uint8_t *cache,
                   plan_exact_rows exact, double *out);

/* An fp16 word as a number. */
float plan_half(uint16_t word);

#ifdef __cplusplus
}
#endif

#endif
