/* What a plan does to the model: the checkpoint runs on texts and needle documents with every key and value quantized
 * and restored as the plan says, and its next-token distributions, attention and answers are held to those of the
 * unquantized run.
 *
 * All plans go through the model in one pass over the weights: every sequence is there once a run, unquantized first,
 * and a layer's hook restores the keys and values of each copy by its own plan. Keys are quantized as they enter RoPE,
 * values as projected. */
#ifndef RB_EVALUATE_EVALUATE_RUN_H
#define RB_EVALUATE_EVALUATE_RUN_H

#include "evaluate/evaluate_request.h"
#include "evaluate/evaluate_result.h"

/* Same doubles for any number of threads; on the GPU close to the CPU's, and the same in each run. Fails like
 * forward_run or forward_parts_cuda_run, and with RB_ENONFINITE on keys or values that a codec cannot hold, naming
 * layer and head. Freed with evaluate_result_free, also after a failure. */
rb_status evaluate_plans(evaluate_result *out, const evaluate_request *request, rb_error *err);

#endif
