/* What a projection costs, measured on the test text of a capture: keys and values go through the plan's codecs and
 * through the emulated quantizers of the runtimes, and are compared with what they were.
 *
 * Runtimes code keys after RoPE, so a key is turned by its position, restored, and turned back. The measure of keys is
 * logit MAE (profile/logit_error.h), as everywhere. That of values is the relative error, sqrt(sum |v - v^|^2 / sum
 * |v|^2), where the capture has values. Both are means over the heads of a layer. The plan's sinks are exact; no
 * runtime keeps any. Its recent tokens are not counted. */
#ifndef RB_EXPORT_RUNTIMES_PROJECTION_LOSS_H
#define RB_EXPORT_RUNTIMES_PROJECTION_LOSS_H

#include "calibrate/capture_file.h"
#include "export/runtimes/projection.h"

typedef struct plan_loss {
    double *logit_mae, *value_error; /* [n_layers], owned; NULL: not measured */
} plan_loss;

void plan_loss_clear(plan_loss *loss);
double plan_loss_mean(const double *by_layer, int n_layers);

/* losses [1 + n]: the plan's, then each projection's; zeroed by the caller, cleared by it also after a failure. Keys
 * and values of all are restored in parallel; the result does not depend on the number of threads. Fails with
 * RB_EMISMATCH where the capture is of another model. */
rb_status projection_measure(plan_loss *losses, const bit_plan *plan, const projection *const *projections, int n,
                             const capture_file *capture, codec_tables *tables, rb_error *err);

#endif
