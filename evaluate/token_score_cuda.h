/* token_score.h on the GPU, for many positions at once. */
#ifndef RB_EVALUATE_TOKEN_SCORE_CUDA_H
#define RB_EVALUATE_TOKEN_SCORE_CUDA_H

#include "evaluate/token_score.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct token_score_cuda_api {
    /* logits [n_positions][n_runs][n_vocab], targets [n_positions], out [n_positions][n_runs], all on the device;
     * asynchronous on the stream. */
    rb_status (*scores)(token_score *out, const float *logits, int n_runs, int64_t n_vocab, int64_t n_positions,
                        const int32_t *targets, void *stream, rb_error *err);
} token_score_cuda_api; /* symbol rb_token_score_cuda */

#ifdef __cplusplus
}
#endif

#endif
