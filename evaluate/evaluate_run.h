/* What a plan does to the model: the checkpoint runs on texts and needle documents with every key and value quantized and restored as the plan says, and its
 * next-token distributions are held to those of the unquantized run.
 *
 * All plans go through the model in one pass over the weights: every sequence is there once a run, unquantized first, and a layer's hook restores the keys
 * and values of each copy by its own plan. Keys are quantized as they enter RoPE, values as projected. */
#ifndef RB_EVALUATE_EVALUATE_RUN_H
#define RB_EVALUATE_EVALUATE_RUN_H

#include <stdbool.h>

#include "calibrate/needle_documents.h"
#include "kernels/bit_plan.h"
#include "model/checkpoint.h"
#include "model/layer_cuda.h"

typedef struct evaluate_request {
    const checkpoint *model;
    const bit_plan *const *plans;       /* [n_plans], for this model */
    int n_plans;
    const int32_t *text;                /* [n_text] ids, cut into sequences of `context`; n_text 0: none */
    int64_t n_text, context;
    const needle_documents *documents;  /* NULL: none; ids inside the vocabulary */
    int64_t n_sink, n_recent;           /* first tokens of a sequence, and last tokens before a query (its own included), that stay as they are */
    bool with_keys, with_values;        /* what is quantized */
    int64_t attention_stride;           /* every so many-th query of the text is taken for attention_kl */
    bool is_on_cuda;                    /* the pass runs on the GPU that is open (core/cuda_device.h) */
    layer_cuda_precision cuda_precision;
    int64_t max_gpu_bytes;              /* of GPU memory; 0: what is free */
} evaluate_request;

/* Of one run. Text: over all tokens that have one before them in their sequence; KL in nats, from the unquantized run's distribution. NaN without text. */
typedef struct evaluate_score {
    double nll, perplexity;
    double kl_mean, kl_p99, kl_p999, kl_max;
    double top1_agreement;              /* share of tokens whose most likely successor is the unquantized run's */
    double attention_kl;                /* mean over layers, query heads and sampled queries of KL(p || p^), nats */
    double *attention_kl_by_layer;      /* [n_layers], owned */
    int64_t n_right;                    /* documents of which every answer token was the most likely one */
    bool *is_right;                     /* [n documents], owned */
} evaluate_score;

typedef struct evaluate_result {
    int n_runs, n_layers;               /* 1 + n_plans; the unquantized run first */
    evaluate_score *runs;               /* owned */
} evaluate_result;

/* Same doubles for any number of threads; on the GPU close to the CPU's, and the same in each run. Fails like forward_run or forward_parts_cuda_run, and with RB_ENONFINITE on keys or values that a codec cannot hold, naming layer and head.
 * Freed with evaluate_result_free, also after a failure. */
rb_status evaluate_plans(evaluate_result *out, const evaluate_request *request, rb_error *err);
void evaluate_result_free(evaluate_result *result);

#endif
