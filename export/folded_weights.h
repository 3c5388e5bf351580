/* Scales of a plan folded into the model: then nothing is left of them at run time.
 *
 * A plan may scale keys before they are coded, k_i -> s_i k_i for block i, and queries q_i -> q_i / s_i, which leaves every logit as it is and commutes with
 * RoPE (one number a block; docs/method.md). So the rows of k_proj, and its bias, are multiplied by the scale of their block, and those of q_proj, and its
 * bias, divided by the scale of the KV head that their query head reads.
 *
 * A model with q_norm and k_norm normalises what the projections give, so there the norms' weights take the scales. They are one for all heads of a layer,
 * so they can only if all KV heads of the layer have the same scales. */
#ifndef RB_EXPORT_FOLDED_WEIGHTS_H
#define RB_EXPORT_FOLDED_WEIGHTS_H

#include "kernels/bit_plan.h"
#include "model/checkpoint.h"

/* Writes the tensors that change, of every layer, under the checkpoint's names, in their dtypes and shapes; metadata: "format" "pt", "schema"
 * "ropebits-folded-weights", "config_sha256". Atomic; memory is that of the largest tensor. `name` is the plan's, for messages.
 * Fails with RB_EINVAL on a plan without scales, RB_EMISMATCH on a plan of another model (of other weights, where the plan knows their hash: a second folding is
 * one), RB_EUNSUPPORTED on scales that a model's norms cannot take, RB_ENONFINITE on a weight that no longer fits its dtype. */
rb_status folded_weights_write(const bit_plan *plan, const char *name, const checkpoint *model, const char *path, rb_error *err);

/* The plan of the folded model: no scales, centres times the scales that were (rounded to fp16), the rest as it was. It does not know the hash of the new
 * weights. Fails with RB_EINVAL on a plan without scales, RB_EFORMAT on a centre that grows beyond fp16. */
rb_status folded_plan_create(bit_plan **out, const bit_plan *plan, const char *name, rb_error *err);

#endif
