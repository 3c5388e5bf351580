/* Attention of a chunk of a prompt on the GPU: what chunk_attention.h does on the CPU, with exact keys and values in
 * the precision of the pass. */
#ifndef RB_GENERATE_CHUNK_ATTENTION_CUDA_H
#define RB_GENERATE_CHUNK_ATTENTION_CUDA_H

#include "generate/sequence_cache.h"
#include "model/cuda/decode_cuda.h"

typedef struct chunk_attention_cuda chunk_attention_cuda;

/* As chunk_attention_create, with the precision of the pass. */
rb_status chunk_attention_cuda_create(chunk_attention_cuda **out, const model_config *config,
                                      layer_cuda_precision precision, const sequence_cache *cache, int64_t max_tokens,
                                      int64_t max_chunk, rb_error *err);
void chunk_attention_cuda_free(chunk_attention_cuda *attention); /* after the last run is done */

/* For decode_cuda_hooks.attend. The chunk begins at first_position. Chunks come in order from token 0 on, without
 * others between them. */
rb_status chunk_attention_cuda_run(chunk_attention_cuda *attention, const device_decode_heads *heads,
                                   int64_t first_position, rb_error *err);

#endif
