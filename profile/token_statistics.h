/* What the calibration text says of the keys, queries and values of a model: what allocators know. It is of all tokens,
 * or only of those that a plan quantizes, without the first n_sink of every sequence. */
#ifndef RB_PROFILE_TOKEN_STATISTICS_H
#define RB_PROFILE_TOKEN_STATISTICS_H

#include "core/model_facts.h"

typedef struct token_statistics {
    double *q_energy, *k_energy; /* [n_layers][n_kv_heads][n_blocks], owned */
    double *k_mean;              /* [n_layers][n_kv_heads][head_dim], owned */
    float *logit_moment; /* [n_layers][n_kv_heads][logit_moment_size(n_blocks)], owned: profile/logit_moment.h */
    float *logit_moment_centered; /* the same without k_mean */
    /* What family block-codebook makes of the keys: profile/block_codebook_error.h. */
    float *block_codebook_map;   /* [n_layers][n_kv_heads][n_blocks][BLOCK_CODEBOOK_MAP_SIZE], owned */
    float *block_codebook_error; /* [n_layers][n_kv_heads][n_blocks][BLOCK_CODEBOOK_N_BITS], owned */
    /* What quantized values do to the output of attention: profile/value_error.h. NULL for a capture without values. */
    double *value_error;  /* [n_layers][n_kv_heads][PLAN_MAX_WIDTH], owned */
    double *value_energy; /* [n_layers][n_kv_heads], owned */
} token_statistics;

/* All zero. Freed with token_statistics_free, also after a failure. */
rb_status token_statistics_create(token_statistics *out, const model_facts *model, rb_error *err);
rb_status token_statistics_add_values(token_statistics *statistics, const model_facts *model, rb_error *err);
void token_statistics_free(token_statistics *statistics);

#endif
