/* Text by a model, one token after another, with a packed cache: on the CPU or on the GPU that is open. One sequence.
 *
 * A prompt goes through the model in chunks, whose queries meet the cache's tokens restored to working memory
 * (chunk_attention.h). Single tokens attend over the packed pages. */
#ifndef RB_GENERATE_GENERATOR_H
#define RB_GENERATE_GENERATOR_H

#include "generate/sequence_cache.h"
#include "model/checkpoint.h"
#include "model/cuda/layer_cuda.h"

typedef struct generator_request {
    const checkpoint *model; /* checkpoint_set_longest was called for max_tokens */
    const bit_plan *plan;    /* for this model; NULL: keys and values stay fp16 */
    bool is_on_gpu;
    layer_cuda_precision precision; /* on a GPU; the CPU computes in f32 */
    int64_t max_tokens;             /* of the sequence */
    int64_t chunk;                  /* tokens of the prompt that go through the model at a time */
} generator_request;

typedef struct generator generator;

/* What the request points at outlives the generator. Fails with RB_EUNSUPPORTED for models that it does not serve:
 * those with latents in the cache, and on a GPU those with experts or heads of other than a multiple of 8 dims. */
rb_status generator_open(generator **out, const generator_request *request, rb_error *err);
void generator_close(generator *generator);

/* The tokens that follow those so far; one token is a step of decoding, and after the first step tokens go one by one.
 * logits [vocab_size]: of the token after the
 * last of them; NULL: not wanted. Fails with RB_EINVAL on a token outside the vocabulary, or more than max_tokens. */
rb_status generator_add(generator *generator, const int32_t *tokens, int64_t n, float *logits, rb_error *err);

int64_t generator_n_tokens(const generator *generator); /* so far */
const sequence_cache *generator_cache(const generator *generator);

#endif
