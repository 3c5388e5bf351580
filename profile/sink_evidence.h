/* Which tokens of a sequence act as attention sinks, and how many first tokens it pays to keep exact.
 *
 * A token t of a sequence does harm when its key is quantized: its logits are off by an error of variance D d_t^2, d_t
 * the distance of its key from the head's mean key in the metric of the queries (d_t^2 = sum over blocks of q_energy_i
 * |k_ti - mean_i|^2), D = 4^-bits the same for all tokens: codes of every family scale with what they code. To second
 * order the attention weights p of a query then diverge by D/2 sum_t p_t (1 - p_t) d_t^2. So
 *
 *   harm(N) = sum over tokens at position N and later of (mean over queries of p_t (1 - p_t)) d_t^2
 *
 * is what stays of the harm when the first N tokens of a sequence are exact. A factor of 4 in squared error is one bit
 * a dim, and each head gets its own share of bits, so keeping N tokens is worth
 *
 *   gain(N) = mean over heads of log2(harm(0) / harm(N)) / 2     bits a dim
 *   cost(N) = 16 N / context                                     bits a dim
 *
 * and the cost is what N fp16 tokens take when it is spread over the tokens of the context, all 16 bits counted. It is
 * too high by the bits that these tokens take anyway, so N is never too large for a longer context. `sink_choose` takes
 * the N of the largest gain - cost, the least of equals; 0 where none is above 0.
 *
 * Queries are sampled: the last of every stretch. Weights are a plain causal softmax: a sliding window or a cap of the
 * logits is not in a capture. */
#ifndef RB_PROFILE_SINK_EVIDENCE_H
#define RB_PROFILE_SINK_EVIDENCE_H

#include "core/model_facts.h"
#include "model/tokenizer/token_text.h"

enum {
    SINK_POSITIONS = 16,            /* looked at one by one; the rest together */
    SINK_BINS = SINK_POSITIONS + 1, /* positions, then the rest; for harm: N = 0 .. SINK_POSITIONS */
    SINK_AUTO = -1,                 /* of --sink: as the evidence says */
    SINK_MAX_NAMED = 5              /* token ids that are named */
};
/* A token other than the first ones acts as a sink in a head when it gets this many times the attention that equal
 * weights would give, over at least SINK_OTHER_QUERIES sampled queries, and its key is this many times the median's
 * distance from the mean. */
#define SINK_OTHER_ATTENTION 8.0
#define SINK_OTHER_DISTANCE  1.5
enum { SINK_OTHER_QUERIES = 16 };

/* A token id that acts as a sink after the first tokens. */
typedef struct sink_token {
    int32_t id;
    int64_t n;                  /* tokens of this id that do so in some head */
    double attention;           /* their share of all attention there, mean over heads */
    char text[TOKEN_TEXT_SIZE]; /* "": no tokenizer was at hand */
} sink_token;

typedef struct other_sinks {
    int64_t n_tokens; /* tokens after the first n_sink of their sequence that act so in some head */
    double heads;     /* mean over those of the share of heads in which they do */
    double attention; /* share of all attention that they get in those heads, mean over all heads */
    int n_named;
    sink_token named[SINK_MAX_NAMED]; /* the ids with the most attention */
} other_sinks;

/* Tables [n_heads][SINK_BINS], owned: position by position, and the rest together. */
typedef struct sink_evidence {
    int n_heads;
    int64_t context;
    double *attention;  /* share of all attention of the sampled queries */
    double *key_norm;   /* |k|, over the head's median: mean over sequences */
    double *distance;   /* d, likewise */
    double *value_norm; /* |v|, likewise; NULL for a capture without values */
    double *harm;       /* harm(N) */
    other_sinks others; /* empty in a profile that was read */
} sink_evidence;

/* One layer's vectors. k is entering RoPE, q_turned and k_turned leave it; [n_q_heads or n_kv_heads][n_tokens][dim].
 * v [n_kv_heads][n_tokens][value_dim], or NULL. */
typedef struct sink_layer {
    const float *k, *q_turned, *k_turned, *v;
    const double *q_energy, *k_mean; /* [n_kv_heads][n_blocks], [n_kv_heads][head_dim] */
    int64_t n_tokens, context;
} sink_layer;

/* What is known of single tokens while layers are looked at, [n_tokens] each. */
typedef struct sink_tokens {
    double *attention; /* in the heads where the token acts as a sink */
    int64_t *n_heads;  /* and how many these are */
} sink_tokens;

rb_status sink_evidence_create(sink_evidence *out, const model_facts *model, bool with_values, rb_error *err);
void sink_evidence_free(sink_evidence *evidence);
rb_status sink_tokens_create(sink_tokens *out, int64_t n_tokens, rb_error *err);
void sink_tokens_free(sink_tokens *tokens);

/* Heads run in parallel; the result does not depend on the number of threads. */
rb_status sink_evidence_add_layer(sink_evidence *evidence, sink_tokens *tokens, const model_facts *model, int layer,
                                  const sink_layer *in, rb_error *err);
/* Fills others from all layers' tokens: those past the first n_sink of their sequence. ids [n_tokens]. */
rb_status sink_evidence_find_others(sink_evidence *evidence, const sink_tokens *tokens, const int32_t *ids,
                                    int64_t n_tokens, int64_t n_sink, rb_error *err);

double sink_gain(const sink_evidence *evidence, int n); /* bits a dim, n of 0 .. SINK_POSITIONS */
double sink_cost(const sink_evidence *evidence, int n); /* likewise */
int sink_choose(const sink_evidence *evidence);
/* Mean over heads of a table's bin. */
double sink_mean(const sink_evidence *evidence, const double *table, int bin);

#endif
