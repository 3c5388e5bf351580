/* A plan as safetensors, for Python runtimes (docs/export.md). */
#ifndef RB_EXPORT_PLAN_SAFETENSORS_H
#define RB_EXPORT_PLAN_SAFETENSORS_H

#include "plan/bit_plan.h"

/* Tensors: layers.N.NAME for every column of plan/plan_columns.h that has a tensor_name,
 * centroids.KIND.wWIDTH.dDIMS F32 [1 << width], points.bBITS F32 [2][1 << bits], trellis.wWIDTH F32 [256], inv_freq F64
 * [rotary_dim / 2]. Metadata: "format" "ropebits-plan", "plan" the whole plan.json. Atomic. */
rb_status plan_safetensors_write(const bit_plan *plan, const char *path, rb_error *err);

#endif
