/* The scales of a plan folded into the model: q_proj and k_proj of every layer as a runtime may load them in place of the checkpoint's, and the plan
 * that is left. docs/export.md. */
#ifndef RB_EXPORT_PLAN_FOLDED_H
#define RB_EXPORT_PLAN_FOLDED_H

#include "kernels/bit_plan.h"

/* A safetensors file (atomic) of self_attn.q_proj and k_proj, weights and biases, of all layers, f32, named as in the checkpoint: rows of k_proj times the scale
 * of their block, rows of q_proj over that of their KV head. All of them are in memory at once. Fails with RB_EUNSUPPORTED when the plan has no scales, or when
 * the model has norms of q and k (the scales would have to go into weights that all heads share), with RB_EMISMATCH when it is not the plan's model. */
rb_status plan_folded_write_weights(const bit_plan *plan, const char *model_folder, const char *path, rb_error *err);

/* plan.json (atomic) of the plan for a model with these weights: no scales, center times scale (rounded to fp16), no hash of the weights. */
rb_status plan_folded_write_plan(const bit_plan *plan, const char *path, rb_error *err);

#endif
