/* Final norm and LM head of chosen tokens on the GPU, a tile of them at a time. */
#ifndef RB_MODEL_CUDA_LM_HEAD_CUDA_H
#define RB_MODEL_CUDA_LM_HEAD_CUDA_H

#include "model/cuda/cuda_pass.h"

typedef struct lm_head_cuda_request {
    const int64_t *tokens; /* [n] of the batch */
    int64_t n, group;      /* a tile has whole groups */
    void *user;
    /* As forward_parts_cuda.h's. */
    rb_status (*on_logits)(void *user, int64_t first, int64_t n, const float *logits, void *stream, rb_error *err);
} lm_head_cuda_request;

/* Reads the pass's residual stream. Returns when all is done on the device. Fails with RB_ENOMEM, or as on_logits
 * does. */
rb_status lm_head_cuda_run(const cuda_pass *pass, const lm_head_cuda_request *request, rb_error *err);

/* Reads the matrix [vocab_size][hidden_size] in the pass's precision, and the final norm and its bias [hidden_size], to
 * places on the device. Of the pass it uses model, config, precision, api and compute. */
rb_status lm_head_cuda_load(const cuda_pass *pass, void *weight, float *norm, float *norm_bias, rb_error *err);

/* GPU memory that a run takes: the whole matrix in the precision, and a tile of logits. */
int64_t lm_head_cuda_bytes(const model_config *config, layer_cuda_precision precision, int64_t n, int64_t group);

#endif
