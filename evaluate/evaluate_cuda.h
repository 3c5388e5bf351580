/* The pass of an evaluation on the GPU. It does what forward_run with the hooks of evaluate_run.c does on the CPU. Keys
 * and values are restored and tokens are scored on the device; attention is scored on the host, by the same code. */
#ifndef RB_EVALUATE_EVALUATE_CUDA_H
#define RB_EVALUATE_EVALUATE_CUDA_H

#include "evaluate/evaluate_batch.h"
#include "evaluate/token_score.h"
#include "model/forward.h"

/* scores: out, [n_positions][n_runs]. Of the hooks, parts, n_recent, logit_tokens and on_layer_done are used, and
 * on_rotated and on_attended, which get the parts with text; on_qkv and on_logits are not. Call rb_cuda_open before.
 * Fails like forward_parts_cuda_run and kv_restore_cuda_check. */
rb_status evaluate_cuda_run(token_score *scores, const evaluate_request *request, const evaluate_batch *batch,
                            const forward_hooks *hooks, rb_error *err);

#endif
