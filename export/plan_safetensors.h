/* A plan as safetensors, for Python runtimes (docs/export.md). */
#ifndef RB_EXPORT_PLAN_SAFETENSORS_H
#define RB_EXPORT_PLAN_SAFETENSORS_H

#include "plan/bit_plan.h"

/* Tensors, per layer N:
 *   layers.N.k_bits         U8  [n_kv_heads][n_blocks]     width of every RoPE block
 *   layers.N.k_permutation  I32 [n_kv_heads][head_dim]     dims in coding order
 *   layers.N.k_widths       U8  [n_kv_heads][head_dim]     width at each coding position
 *   layers.N.k_groups       U8  [n_kv_heads][head_dim]     group at each coding position
 * and centroids.KIND.wWIDTH.dDIMS F32 [1 << width], inv_freq F64 [rotary_dim / 2]. Metadata: "format" "ropebits-plan",
 * "plan" the whole plan.json. Atomic. */
rb_status plan_safetensors_write(const bit_plan *plan, const char *path, rb_error *err);

#endif
