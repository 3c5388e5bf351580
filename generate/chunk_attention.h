/* Attention of a chunk of a prompt on the CPU, as a packed cache has its tokens: a query meets the first n_sink keys
 * and values and the last n_recent before it, its own included, as they are, and all others as the plan's codes give
 * them back, its own among them where n_recent is 0. So does `evaluate`.
 *
 * The chunk is appended first. Then its last n_recent tokens are exact in the cache and the others are coded, though
 * queries early in the chunk meet some of these as they are. So exact keys and values of the tokens before the chunk
 * are kept here, in f32, layer by layer. */
#ifndef RB_GENERATE_CHUNK_ATTENTION_H
#define RB_GENERATE_CHUNK_ATTENTION_H

#include "generate/sequence_cache.h"
#include "model/decode_pass.h"

typedef struct chunk_attention chunk_attention;

/* A prompt of at most max_tokens, in chunks of at most max_chunk, which must be what the cache was made for. config and
 * cache outlive it. */
rb_status chunk_attention_create(chunk_attention **out, const model_config *config, const sequence_cache *cache,
                                 int64_t max_tokens, int64_t max_chunk, rb_error *err);
void chunk_attention_free(chunk_attention *attention);

/* For decode_hooks.attend. Chunks come in order from token 0 on, without others between them. */
rb_status chunk_attention_run(chunk_attention *attention, const decode_heads *heads, rb_error *err);

#endif
