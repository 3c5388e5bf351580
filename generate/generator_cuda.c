/* A generator on the GPU: see generate/generator_device.h. */
#include <stdlib.h>
#include <string.h>

#include "core/cuda_device.h"
#include "generate/chunk_attention_cuda.h"
#include "generate/device_attention.h"
#include "generate/generator_device.h"
#include "model/cuda/decode_cuda.h"
#include "model/token_batch.h"

typedef struct cuda_state {
    const checkpoint *model;
    const model_config *config;
    const sequence_cache *cache;
    resident_weights weights;
    decode_cuda *decode;
    chunk_attention_cuda *chunks; /* NULL when the first token went by itself */
    float *hidden;                /* [chunk][hidden_size] */
    int32_t *positions;           /* [chunk] */
    int64_t first_position;       /* of the run */
    int64_t max_tokens;
} cuda_state;

static void close_cuda(void *state)
{
    cuda_state *s = state;
    if (!s) return;
    decode_cuda_close(s->decode); /* waits for the stream */
    chunk_attention_cuda_free(s->chunks);
    resident_weights_free(&s->weights);
    free(s->hidden);
    free(s->positions);
    free(s);
}

static rb_status open_cuda(void **out, const generator_request *request, const sequence_cache *cache, rb_error *err)
{
    const model_config *config = checkpoint_config(request->model);
    const size_t chunk = (size_t)request->chunk, row_bytes = (size_t)config->hidden_size * sizeof(float);
    cuda_state *s = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&s, 1, sizeof *s, "generator", err), done);
    *s = (cuda_state){.model = request->model, .config = config, .cache = cache, .max_tokens = request->max_tokens};
    RB_TRY(st, resident_weights_alloc(&s->weights, config, request->precision, err), done);
    RB_TRY(st, resident_weights_read(&s->weights, request->model, err), done);
    RB_TRY(st, decode_cuda_open(&s->decode, &s->weights, request->chunk, 1, request->max_tokens, err), done);
    RB_TRY(st,
           chunk_attention_cuda_create(&s->chunks, config, request->precision, cache, request->max_tokens,
                                       request->chunk, err),
           done);
    RB_TRY(st, rb_alloc(&s->hidden, chunk, row_bytes, "embeddings", err), done);
    RB_TRY(st, rb_alloc(&s->positions, chunk, sizeof *s->positions, "positions", err), done);
    *out = s;
    s = NULL;
done:
    close_cuda(s);
    return st;
}

/* Steps put the same work on the stream for as many tokens: attention is launched for the longest sequence of them. */
enum { SAME_WORK_TOKENS = 1024 };

static int64_t longest_of_same_work(const cuda_state *s)
{
    const int64_t longest = (s->first_position / SAME_WORK_TOKENS + 1) * SAME_WORK_TOKENS;
    return longest < s->max_tokens ? longest : s->max_tokens;
}

static rb_status attend(void *user, const device_decode_heads *heads, rb_error *err)
{
    cuda_state *s = user;
    if (heads->n > 1) return chunk_attention_cuda_run(s->chunks, heads, s->first_position, err);
    return device_attention_run(s->cache, s->config, heads, (int32_t)longest_of_same_work(s), err);
}

/* The working memory of prompts is given back when the first token goes by itself: no chunk comes after it. */
static rb_status finish_prompt(cuda_state *s, rb_error *err)
{
    if (!s->chunks) return RB_OK;
    const rb_status st = rb_cuda()->stream_wait(decode_cuda_stream(s->decode), err);
    chunk_attention_cuda_free(s->chunks);
    s->chunks = NULL;
    return st;
}

static rb_status run_cuda(void *state, const int32_t *tokens, int64_t n, int64_t first_position, float *logits,
                          rb_error *err)
{
    cuda_state *s = state;
    const int64_t sequence_start[2] = {0, n};
    const token_batch batch = {.tokens = tokens, .n_tokens = n, .sequence_start = sequence_start, .n_sequences = 1};
    decode_cuda_hooks hooks = {.user = s, .attend = attend};
    const float *found = NULL;
    rb_status st;
    s->first_position = first_position;
    if (n == 1) hooks.same_work = longest_of_same_work(s);
    RB_TRY(st, token_batch_check(&batch, s->config->vocab_size, err), done);
    if (n == 1) RB_TRY(st, finish_prompt(s, err), done);
    RB_TRY(st, token_batch_embed(&batch, s->model, s->hidden, err), done);
    for (int64_t i = 0; i < n; i++) s->positions[i] = (int32_t)(first_position + i);
    RB_TRY(st, decode_cuda_run(s->decode, s->hidden, s->positions, n, &hooks, logits != NULL, &found, err), done);
    if (logits) memcpy(logits, found, (size_t)s->config->vocab_size * sizeof *logits);
done:
    return st;
}

const generator_device generator_cuda = {.open = open_cuda, .run = run_cuda, .close = close_cuda};
