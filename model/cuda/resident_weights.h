/* The weights of a whole model in the memory of the GPU, for decoding: matrices of all layers and the LM head in the
 * precision, norms and biases in f32. The embeddings stay in the checkpoint: a token needs one row of them. */
#ifndef RB_MODEL_CUDA_RESIDENT_WEIGHTS_H
#define RB_MODEL_CUDA_RESIDENT_WEIGHTS_H

#include "core/cuda_device.h"
#include "model/checkpoint.h"
#include "model/cuda/layer_cuda.h"
#include "model/cuda/weight_stream.h"

typedef struct resident_weights {
    const model_config *config;
    layer_cuda_precision precision;
    rb_cuda_array matrices, parameters;  /* all of them, one after the other */
    device_layer *layers;                /* [n_layers], owned; what a layer lacks is NULL */
    void *lm_head;                       /* [vocab_size][hidden_size] */
    float *final_norm, *final_norm_bias; /* [hidden_size] */
} resident_weights;

/* Places for the weights; their content is the caller's, or read. Call rb_cuda_open before. Fails with RB_EUNSUPPORTED
 * for experts and latent caches, and with RB_ENOMEM, saying what is needed and what is free. */
rb_status resident_weights_alloc(resident_weights *out, const model_config *config, layer_cuda_precision precision,
                                 rb_error *err);
/* Reads them from the checkpoint whose configuration they were made for. */
rb_status resident_weights_read(resident_weights *weights, const checkpoint *ckpt, rb_error *err);
void resident_weights_free(resident_weights *weights);

#endif
