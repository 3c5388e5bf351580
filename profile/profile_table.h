/* What profile measures, in memory. Scores are per (layer, kv head); summaries average heads into layers and layers into one number. */
#ifndef RB_PROFILE_PROFILE_TABLE_H
#define RB_PROFILE_PROFILE_TABLE_H

#include "core/model_facts.h"

enum { PROFILE_MAX_METHODS = 256, PROFILE_MAX_WIDTH = 8 };

/* Test-text error of one head under one plan, or the mean of several. */
typedef struct head_score {
    double logit_mae;           /* mean over query heads, tokens, 50 offsets of |q . R_D (k - k^)|, no 1/sqrt(d) */
    double causal_mae;          /* the same over real causal pairs (query at s, key at t <= s, same sequence) */
    double attention_kl;        /* mean over queries of KL(softmax(scale q k) || softmax(scale q k^)), nats, causal */
    double relative_error;      /* sqrt(sum |k - k^|^2 / sum |k|^2) */
    double true_bits;           /* of the head's codec, bits per dim */
} head_score;

typedef struct method_score {
    char method[32];            /* "uniform", "block-gtq", or a plan's method */
    double avg_bits;
    head_score *heads;          /* [n_layers][n_kv_heads], owned */
} method_score;

typedef struct profile_table {
    model_facts model;
    text_facts calibration, test;
    char capture_sha256[RB_SHA256_HEX];     /* the capture file that was measured */
    rb_sha256_task *hashing;                /* NULL, or where capture_sha256 will come from, owned */
    int n_blocks;
    double *q_energy, *k_energy;            /* [n_layers][n_kv_heads][n_blocks], calibration text, owned */
    /* Error curves: every dim at one width (uniform codec), test text. */
    double *curve_logit_mae;                /* [n_layers][n_kv_heads][8], owned; NULL when not measured */
    double *curve_block_mse;                /* [n_layers][n_kv_heads][8][n_blocks]: mean |k_i - k^_i|^2, owned; NULL when not measured */
    int n_methods;
    method_score *methods;                  /* owned */
} profile_table;

/* Energies of zero, no methods, no curves. */
rb_status profile_table_create(profile_table **out, const model_facts *model, rb_error *err);
void profile_table_free(profile_table *table);
/* Room for the scores of n methods, and for the error curves; each once at most. */
rb_status profile_table_add_methods(profile_table *table, int n, rb_error *err);
rb_status profile_table_add_curves(profile_table *table, rb_error *err);

static inline head_score *method_head(const method_score *method, const model_facts *model, int layer, int kv_head)
{
    return &method->heads[(int64_t)layer * model->n_kv_heads + kv_head];
}

/* Means over the heads of a layer, and over layers (layer = -1). */
head_score method_mean(const method_score *method, const model_facts *model, int layer);

/* The uniform score at the same nominal budget, or NULL. */
const method_score *profile_table_uniform(const profile_table *table, double avg_bits);
/* 1 - mean MAE / mean MAE of uniform; layers whose mean MAE is below uniform's. */
double method_reduction(const method_score *method, const method_score *uniform, const model_facts *model);
int method_layers_won(const method_score *method, const method_score *uniform, const model_facts *model);

#endif
