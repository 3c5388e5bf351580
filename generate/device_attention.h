/* Attention over a sequence_cache on the GPU, for decode_cuda_hooks.attend. */
#ifndef RB_GENERATE_DEVICE_ATTENTION_H
#define RB_GENERATE_DEVICE_ATTENTION_H

#include "generate/sequence_cache.h"
#include "model/cuda/decode_cuda.h"

/* Token i of the run is the next one of sequence i: appends all, then each attends over its packed pages. max_length:
 * at least the longest sequence, with the new token. */
rb_status device_attention_run(const sequence_cache *cache, const model_config *config,
                               const device_decode_heads *heads, int32_t max_length, rb_error *err);

/* The tokens of the run go to one sequence: sequence 0 of the cache. */
rb_status device_attention_append(const sequence_cache *cache, const device_decode_heads *heads, rb_error *err);

#endif
