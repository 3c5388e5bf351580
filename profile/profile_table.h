/* What profile measures, in memory. Scores are per (layer, kv head); summaries average heads into layers and layers
 * into one number. */
#ifndef RB_PROFILE_PROFILE_TABLE_H
#define RB_PROFILE_PROFILE_TABLE_H

#include "core/model_facts.h"
#include "plan/plan_seeds.h"
#include "profile/output_sensitivity.h"
#include "profile/sink_evidence.h"
#include "profile/tail_error.h"
#include "profile/token_statistics.h"
#include "profile/worst_tokens.h"

enum { PROFILE_MAX_METHODS = 256, PROFILE_MAX_WIDTH = 8 };

/* Test-text error of one head under one plan, or the mean of several. */
typedef struct head_score {
    double logit_mae;      /* mean over query heads, tokens, 50 offsets of |q . R_D (k - k^)|, no 1/sqrt(d) */
    double causal_mae;     /* the same over real causal pairs (query at s, key at t <= s, same sequence) */
    double attended_mae;   /* mean over queries of sum p_st |q_s . (k_t - k^_t)|, p the exact attention weights */
    double attention_kl;   /* mean over queries of KL(softmax(scale q k) || softmax(scale q k^)), nats, causal */
    double relative_error; /* sqrt(sum |k - k^|^2 / sum |k|^2) */
    double true_bits;      /* stored by the head's codec, a dim */
    tail_error tail;       /* over tokens */
} head_score;

/* How far the test text of one head lies outside what calibration saw: profile/coverage.h. */
typedef struct head_coverage {
    double key_distance, key_outside, query_shift, plan_transfer;
} head_coverage;

/* Mean and standard deviation of a method's scores over n draws of its rotations (profile/seed_spread.h): of the means
 * over layers, tail.ratio being the largest of all heads; and of the logit MAE of every layer. */
typedef struct seed_spread {
    int n; /* 0: not measured */
    head_score mean, deviation;
    double *layer_mean, *layer_deviation; /* [n_layers], owned */
} seed_spread;

typedef struct method_score {
    char method[32];  /* "uniform", "block-gtq", or a plan's method */
    const char *plan; /* path of the finished plan that was scored, borrowed; NULL: made of the capture */
    double avg_bits;
    plan_seeds seeds;   /* of the plan that was scored; none in a profile that was read */
    seed_spread spread; /* nothing in a profile that was read */
    int64_t n_sink;     /* first tokens of a sequence that stay exact: they have no error */
    head_score *heads;  /* [n_layers][n_kv_heads], owned */
    worst_tokens worst; /* over all heads; empty in a profile that was read */
} method_score;

typedef struct profile_table {
    model_facts model;
    text_facts calibration, test;
    char capture_sha256[RB_SHA256_HEX]; /* the capture file that was measured */
    rb_sha256_task *hashing;            /* NULL, or where capture_sha256 will come from, owned */
    int n_blocks;
    token_statistics all;           /* of all tokens of the calibration text */
    int64_t n_sink;                 /* first tokens of a sequence that our own methods keep exact */
    token_statistics counted;       /* the same without them; nothing where n_sink is 0 */
    sink_evidence sinks;            /* why n_sink; no heads in an older profile */
    output_sensitivity sensitivity; /* without the first n_sink tokens; of a capture with values, where asked for */
    head_coverage *coverage;        /* [n_layers][n_kv_heads], owned */
    int n_worst_tokens;             /* to keep of every method; set before methods are added */
    /* Error curves: every dim at one width (uniform codec), test text. */
    double *curve_logit_mae; /* [n_layers][n_kv_heads][8], owned; NULL when not measured */
    double *curve_block_mse; /* [n_layers][n_kv_heads][8][n_blocks]: mean |k_i - k^_i|^2, owned; NULL likewise */
    int n_methods;
    method_score *methods; /* owned */
} profile_table;

/* Energies of zero, no methods, no curves. */
rb_status profile_table_create(profile_table **out, const model_facts *model, rb_error *err);
void profile_table_free(profile_table *table);
void method_score_free(method_score *method); /* what it owns */
/* Room for the scores of n methods, and for the error curves; each once at most. */
rb_status profile_table_add_methods(profile_table *table, int n, rb_error *err);
rb_status profile_table_add_curves(profile_table *table, rb_error *err);
/* Room for what quantized values do; for the statistics without the first n_sink > 0 tokens of a sequence, of values
 * too where those of all tokens have them; and for the evidence of sinks. Each once. */
rb_status profile_table_add_values(profile_table *table, rb_error *err);
rb_status profile_table_add_counted(profile_table *table, int64_t n_sink, rb_error *err);
rb_status profile_table_add_sinks(profile_table *table, rb_error *err);
/* The statistics for a plan of so many sinks: of all tokens for 0, else those without n_sink, where there are any. */
const token_statistics *profile_table_statistics(const profile_table *table, int64_t n_sink);

static inline head_score *method_head(const method_score *method, const model_facts *model, int layer, int kv_head)
{
    return &method->heads[(int64_t)layer * model->n_kv_heads + kv_head];
}

/* Means over the heads of a layer, and over layers (layer = -1). */
head_score method_mean(const method_score *method, const model_facts *model, int layer);
head_coverage profile_table_coverage(const profile_table *table); /* mean over all heads */

/* The tail of one head from its tokens' errors and sizes [n_tokens]: its score, and its share of the worst tokens. A
 * method's heads come in order, one at a time. Fails as tail_measure. */
rb_status method_keep_tail(method_score *method, const model_facts *model, int layer, int kv_head, const float *errors,
                           const float *sizes, int64_t n_tokens, rb_error *err);
/* Heads whose tail is out of proportion, and the largest tail ratio of all heads. */
int method_heads_flagged(const method_score *method, const model_facts *model);
double method_largest_ratio(const method_score *method, const model_facts *model);

/* The uniform score at the same nominal budget, or NULL. */
const method_score *profile_table_uniform(const profile_table *table, double avg_bits);
/* 1 - mean MAE / mean MAE of uniform; layers whose mean MAE is below uniform's. */
double method_reduction(const method_score *method, const method_score *uniform, const model_facts *model);
int method_layers_won(const method_score *method, const method_score *uniform, const model_facts *model);

#endif
