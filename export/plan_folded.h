/* The scales of a plan, and the bases of its values, folded into the model: q_proj and k_proj, v_proj and o_proj of
 * every layer as a runtime may load them in place of the checkpoint's, and the plan that is left. docs/export.md.
 *
 * Rows of k_proj, and its bias, are multiplied by the scale of their block, those of q_proj divided by that of their KV
 * head. A model with q_norm and k_norm normalises what the projections give, so there the norms' weights take the
 * scales. They are one for all heads of a layer, so they can only where all KV heads of the layer have the same scales.
 *
 * Values of family trellis become their coordinates: rows of v_proj of a KV head, and its bias, are multiplied by the
 * inverse of its basis, columns of o_proj of its query heads by the basis (export/fold_values.h). */
#ifndef RB_EXPORT_PLAN_FOLDED_H
#define RB_EXPORT_PLAN_FOLDED_H

#include "plan/bit_plan.h"

/* A safetensors file (atomic) of the tensors that change, of all layers, named as in the checkpoint, in its dtypes and
 * shapes. One tensor is in memory at a time. Fails with RB_EUNSUPPORTED when the plan has no scales and no such bases,
 * or scales of a layer differ by head and the model has norms of q and k; with RB_EMISMATCH when it is not the plan's
 * model, or not its weights where the plan knows their hash; with RB_ENONFINITE when a weight outgrows its dtype. */
rb_status plan_folded_write_weights(const bit_plan *plan, const char *model_folder, const char *path, rb_error *err);

/* plan.json (atomic) of the plan for a model with these weights: no scales, center times scale (rounded to fp16), bases
 * of values that are the identity, no hash of the weights. Fails with RB_EUNSUPPORTED when it has nothing to fold, with
 * RB_EFORMAT when a center outgrows fp16. */
rb_status plan_folded_write_plan(const bit_plan *plan, const char *path, rb_error *err);

#endif
