/* The weights of one layer after another on the GPU, read from the file by a weight_reader. While a layer computes, the
 * next one is read and uploaded.
 *
 * Two layers' weights are on the device at any time, without experts. Experts pass through a ring of slots: it holds as
 * many as the link needs to stay busy, whatever a layer has.
 *
 *   layers    begin k+1          wait k, release k
 *   experts   begin ... begin    wait, release, begin, wait, release, begin, ...     in the order in which they began
 */
#ifndef RB_MODEL_CUDA_WEIGHT_STREAM_H
#define RB_MODEL_CUDA_WEIGHT_STREAM_H

#include "model/checkpoint.h"
#include "model/cuda/layer_cuda.h"

/* A layer on the device: matrices in the precision, norms and biases in f32. Shapes: model/model_family.h. What the
 * layer lacks, or is not read of it, is NULL, and so are the weights of experts. */
typedef struct device_layer {
    const void *at[N_LAYER_WEIGHTS];
} device_layer;

typedef struct device_expert {
    int expert;
    const void *gate_up, *down;
} device_expert;

typedef struct weight_stream weight_stream;

/* Call rb_cuda_open before. stops_at_heads: the last layer is read only as far as it leads to q, k and v. */
rb_status weight_stream_open(weight_stream **out, const checkpoint *ckpt, const layer_cuda_api *api,
                             layer_cuda_precision precision, bool stops_at_heads, rb_error *err);
/* Layers come in order. begin returns at once. It may be called for layer n before wait(n - 1), but not before
 * release(n - 2). wait returns when the file has been read and the upload is on its way; `stream` then waits for the
 * rest. */
rb_status weight_stream_begin(weight_stream *weights, int layer, rb_error *err);
rb_status weight_stream_wait(weight_stream *weights, int layer, void *stream, device_layer *out, rb_error *err);
/* The layer's place is free as soon as `stream` has done what it holds now. */
rb_status weight_stream_release(weight_stream *weights, int layer, void *stream, rb_error *err);

/* Slots of the ring; 0 where the model has no experts. Each expert that began and was not released has one. */
int weight_stream_n_slots(const weight_stream *weights);
rb_status weight_stream_begin_expert(weight_stream *weights, int layer, int expert, rb_error *err);
/* The expert that began first among those not released. */
rb_status weight_stream_wait_expert(weight_stream *weights, void *stream, device_expert *out, rb_error *err);
rb_status weight_stream_release_expert(weight_stream *weights, void *stream, rb_error *err);

void weight_stream_close(weight_stream *weights);

int64_t weight_stream_bytes_read(const weight_stream *weights);
/* Device memory that a stream takes: two layers, the ring, and staging for conversion. */
int64_t weight_stream_device_bytes(const model_config *config, layer_cuda_precision precision);

#endif
