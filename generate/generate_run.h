/* A prompt and the text that a model puts after it. */
#ifndef RB_GENERATE_GENERATE_RUN_H
#define RB_GENERATE_GENERATE_RUN_H

#include "generate/generate_inputs.h"
#include "generate/generator.h"
#include "generate/text_stream.h"

typedef struct generate_result {
    int32_t *ids; /* [n]: new tokens, without the one that ended the text; owned */
    int64_t n;
    int32_t end; /* the token that ended the text; -1: there were max_tokens */
    text_stream text;
    double prefill_s, decode_s;            /* until the first new token; from there to the last */
    int64_t cache_bytes, cache_fp16_bytes; /* of all tokens that the cache has at the end */
    int64_t peak_bytes;                    /* on a GPU of its memory, else of the process */
} generate_result;

/* streams: writes the text to stdout as it comes. *out is freed with generate_result_free, also after a failure. */
rb_status generate_text(generate_result *out, const generate_inputs *inputs, const generate_options *options,
                        bool is_on_gpu, bool streams, rb_error *err);
void generate_result_free(generate_result *result);

/* Tokens a second after the first one; 0 where there are fewer than two. */
double generate_tokens_per_s(const generate_result *result);

#endif
