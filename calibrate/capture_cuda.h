/* Capturing on the GPU: the streaming forward pass (model/cuda/forward_cuda.h) into a capture file. */
#ifndef RB_CALIBRATE_CAPTURE_CUDA_H
#define RB_CALIBRATE_CAPTURE_CUDA_H

#include "calibrate/capture_parts.h"
#include "model/cuda/forward_cuda.h"

typedef struct capture_cuda_options {
    layer_cuda_precision precision;
    int64_t max_bytes; /* of GPU memory; 0: what is free */
    capture_watch *watch;
    capture_parts *parts; /* NULL: none */
} capture_cuda_options;

/* batch: the sets of the header, one after the other. Call rb_resolve_device before. Every layer of every set is
 * written that the parts have not taken already; the caller publishes the file. report: what the run took. */
rb_status capture_on_cuda(const checkpoint *ckpt, const capture_header *header, const token_batch *batch,
                          const capture_cuda_options *options, capture_writer *writer, forward_cuda_report *report,
                          rb_error *err);

/* GPU memory that such a run takes with chunks of chunk_tokens. Needs no GPU. */
int64_t capture_cuda_bytes(const model_config *config, const capture_header *header, const token_batch *batch,
                           layer_cuda_precision precision, int64_t chunk_tokens);

#endif
