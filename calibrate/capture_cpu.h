/* Capturing on the CPU: the forward pass (model/forward.h) into a capture file. */
#ifndef RB_CALIBRATE_CAPTURE_CPU_H
#define RB_CALIBRATE_CAPTURE_CPU_H

#include "calibrate/capture_parts.h"
#include "model/token_batch.h"

/* batch: the sets of the header, one after the other. Every layer of every set is written that `parts` (NULL: none) has
 * not taken already, and saved there; the caller publishes the file. */
rb_status capture_on_cpu(const checkpoint *ckpt, const capture_header *header, const token_batch *batch,
                         capture_writer *writer, capture_watch *watch, capture_parts *parts, rb_error *err);

#endif
