/* Vectors, and what the definition of ropebits makes of them: for the two check programs. */
#ifndef TEST_VECTORS_H
#define TEST_VECTORS_H

#include "plan_tables.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const char test_source[]; /* where the vectors are from */
/* fp16 words: keys and queries as they enter RoPE, and values. */
extern const uint16_t test_keys[PLAN_N_LAYERS][TEST_N_TOKENS][PLAN_N_KV_HEADS][PLAN_HEAD_DIM];
extern const uint16_t test_values[PLAN_N_LAYERS][TEST_N_TOKENS][PLAN_N_KV_HEADS][PLAN_VALUE_DIM];
extern const uint16_t test_queries[PLAN_N_LAYERS][PLAN_N_Q_HEADS][PLAN_HEAD_DIM];
/* The records of the tokens, one after the other from the start of each layer's row. */
extern const uint8_t test_records[PLAN_N_LAYERS][TEST_N_TOKENS * PLAN_MAX_RECORD_BYTES];
/* What the records restore to. */
extern const float test_restored_keys[PLAN_N_LAYERS][TEST_N_TOKENS][PLAN_N_KV_HEADS][PLAN_HEAD_DIM];
extern const float test_restored_values[PLAN_N_LAYERS][TEST_N_TOKENS][PLAN_N_KV_HEADS][PLAN_VALUE_DIM];

#ifdef __cplusplus
}
#endif

#endif
