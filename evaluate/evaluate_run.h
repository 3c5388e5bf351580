/* What a plan does to the model. The checkpoint runs on texts and needle documents, with every key and value quantized
 * and restored as the plan says. Its next-token distributions, attention and answers are compared with those of the
 * unquantized run.
 *
 * Plans that keep equally many recent tokens go through the model in one pass over the weights. Every sequence is there
 * once for each run, the unquantized run first, and a layer's hook restores the keys and values of each copy by the
 * plan of its run. Keys are quantized as they enter RoPE, values as projected. */
#ifndef RB_EVALUATE_EVALUATE_RUN_H
#define RB_EVALUATE_EVALUATE_RUN_H

#include "evaluate/evaluate_request.h"
#include "evaluate/evaluate_result.h"

/* Every number of threads gives the same doubles. Results of the GPU are close to those of the CPU, and the same each
 * time. Fails like forward_run or forward_parts_cuda_run, and with RB_ENONFINITE on keys or values that a codec cannot
 * hold, naming layer and head. Free with evaluate_result_free, also after a failure. */
rb_status evaluate_plans(evaluate_result *out, const evaluate_request *request, rb_error *err);

#endif
