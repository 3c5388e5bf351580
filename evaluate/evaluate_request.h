/* What is to be evaluated: a model, plans, text and documents. */
#ifndef RB_EVALUATE_EVALUATE_REQUEST_H
#define RB_EVALUATE_EVALUATE_REQUEST_H

#include <stdbool.h>

#include "model/checkpoint.h"
#include "model/cuda/layer_cuda.h"
#include "plan/bit_plan.h"
#include "texts/needle_documents.h"

typedef struct evaluate_request {
    const checkpoint *model;
    const bit_plan *const *plans; /* [n_plans], for this model; their n_sink and n_recent hold */
    int n_plans;
    const int32_t *text; /* [n_text] ids, cut into sequences of `context`; n_text 0: none */
    int64_t n_text, context;
    text_bos bos;                      /* what begins the text's sequences: seen, and not predicted */
    const needle_documents *documents; /* NULL: none; ids inside the vocabulary */
    bool with_keys, with_values;       /* what is quantized */
    int64_t attention_stride; /* one query of so many of the text is taken for the scores of attention weights */
    int n_worst_tokens;       /* how many are listed for every run */
    bool is_on_cuda;          /* the pass runs on the GPU that is open (core/cuda_device.h) */
    layer_cuda_precision cuda_precision;
    int64_t max_gpu_bytes; /* limit of GPU memory; 0: what is free */
} evaluate_request;

/* The recent tokens of all plans, in a request where they are the same. */
static inline int64_t evaluate_request_n_recent(const evaluate_request *request)
{
    return request->n_plans > 0 ? request->plans[0]->n_recent : 0;
}

#endif
