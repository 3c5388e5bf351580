/* kv_restore.h on the GPU: keys and values of a layer's part, restored in place on the device by the codec's kernels
 * (kernels/cuda/codec_cuda.h). */
#ifndef RB_EVALUATE_KV_RESTORE_CUDA_H
#define RB_EVALUATE_KV_RESTORE_CUDA_H

#include "evaluate/evaluate_batch.h"
#include "model/cuda/forward_parts_cuda.h"

typedef struct kv_restore_cuda kv_restore_cuda;

/* Call rb_cuda_open before. */
rb_status kv_restore_cuda_create(kv_restore_cuda **out, const evaluate_request *request, const evaluate_batch *batch,
                                 rb_error *err);
void kv_restore_cuda_free(kv_restore_cuda *restore);

/* heads: a part of the batch, as in on_qkv. Layers come in order. When this returns, the work is on the stream. Before
 * the first part of a layer, the stream's work for the layer before must be done. */
rb_status kv_restore_cuda_part(kv_restore_cuda *restore, const device_heads *heads, void *stream, rb_error *err);

/* Called after the layer's work is done. Fails with RB_ENONFINITE on a key or value that no codec holds, and names
 * layer, head and vector as kv_restore_part does. */
rb_status kv_restore_cuda_check(const kv_restore_cuda *restore, int layer, rb_error *err);

/* Upper bound of its GPU memory: codes and norms of the longest sequence, and the codecs' tables. */
int64_t kv_restore_cuda_bytes(const evaluate_request *request, const evaluate_batch *batch);

#endif
