/* Which weights a checkpoint holds, without reading them all: a SHA-256 over what every tensor is, and over samples of
 * its bytes. Fine-tuned weights under the same config.json differ here.
 *
 *   "ropebits-weights-sample-1", NUL
 *   of every tensor, in the order of names: name, NUL, name of the dtype, NUL; u64 rank, u64 dims, u64 size in bytes;
 *   its samples, one after the other
 *
 * All numbers are little-endian. There are max(1, min(64, 1024 / tensors)) samples of WEIGHTS_SAMPLE_BYTES each, at
 * equal distances from the first byte of a tensor to its last, a lone one in its middle; a tensor that is not larger
 * than they are together is taken whole. So a model of 70 billion parameters is told by 723 reads, and how the tensors
 * are spread over files does not matter. A change of a few values may lie between the samples: `--hash-weights` reads
 * everything. */
#ifndef RB_MODEL_WEIGHTS_IDENTITY_H
#define RB_MODEL_WEIGHTS_IDENTITY_H

#include "model/checkpoint.h"

enum { WEIGHTS_SAMPLE_BYTES = 1024 };

/* Sets weights_sample_sha256 of the facts of the checkpoint's configuration. Programs whose results depend on the
 * weights call it. Fails with RB_EIO where a file cannot be read any more. */
rb_status checkpoint_identify_weights(checkpoint *ckpt, rb_error *err);

#endif
