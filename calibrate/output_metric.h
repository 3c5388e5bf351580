/* The metric of a layer's attention output, from the checkpoint: what an error of the heads' outputs o does to the
 * residual stream. It is W^T W of what o goes through: o_proj, the weight of the norm after it where the family has one
 * (Gemma 2 and 3, OLMo 2), residual_multiplier. Only products of query heads that share a KV head are kept. It is read
 * through the model room's tables, from any checkpoint that the forward pass reads. */
#ifndef RB_CALIBRATE_OUTPUT_METRIC_H
#define RB_CALIBRATE_OUTPUT_METRIC_H

#include "calibrate/capture_file.h"
#include "model/checkpoint.h"

/* What a capture of this model says of the way from logits to output; has_metric is false with a latent cache (MLA),
 * whose values are not what o_proj takes. */
capture_output output_facts(const model_config *config);

/* metric [n_kv_heads][n][n], n = model_q_per_kv * value_dim. Products in f32. For a model that has_metric. Holds the
 * layer's o_proj in f32. */
rb_status output_metric_compute(float *metric, const checkpoint *model, int layer, rb_error *err);

/* Writes the metrics of all layers, one after the other; nothing without has_metric. */
rb_status output_metric_write(capture_writer *writer, const checkpoint *model, rb_error *err);

/* The harmonic mean: tokens of a large energy, such as sinks, hardly count. Energies that are not above 0 are left out;
 * 0 where none is. */
double output_residual_energy(const double *energies, int64_t n_tokens);

#endif
