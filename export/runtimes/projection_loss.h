/* What types of other runtimes, and projections of a plan onto them, cost on the vectors of a capture: keys and values
 * go through the plan's codecs and through the emulated quantizers, and are compared with what they were.
 *
 * Runtimes code keys after RoPE, so a key is turned by its position, restored, and turned back. The error of keys is
 * logit MAE (profile/logit_error.h), as everywhere. That of values is the relative error, sqrt(sum |v - v^|^2 / sum
 * |v|^2), where the capture has values. The plan's sinks are exact; no runtime keeps any. Its recent tokens are not
 * counted. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_LOSS_H
#define RB_EXPORT_RUNTIMES_PROJECTION_LOSS_H

#include "calibrate/capture_file.h"
#include "export/runtimes/projection.h"

/* What is measured: a projection, or one type of a runtime in all heads; neither: the plan itself. */
typedef struct loss_candidate {
    const projection *projection;
    const runtime *runtime;
    int type;
} loss_candidate;

/* Of one candidate. */
typedef struct head_losses {
    double *logit_mae, *value_error; /* [n_layers][n_kv_heads], owned; value_error NULL: the capture has no values */
} head_losses;

void head_losses_clear(head_losses *losses);

/* losses [n], zeroed by the caller, cleared by it also after a failure. On the set's first max_tokens tokens (0: all).
 * Candidates are restored in parallel; the result does not depend on the number of threads. `label` names the progress.
 * Fails with RB_EMISMATCH where the capture is of another model. */
rb_status measure_losses(head_losses *losses, const bit_plan *plan, const loss_candidate *candidates, int n,
                         const capture_file *capture, capture_set set, int64_t max_tokens, codec_tables *tables,
                         const char *label, rb_error *err);

#endif
